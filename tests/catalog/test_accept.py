"""What a signing node takes from publishers, and what it doesn't."""

import copy
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, TargetFile, Targets

from aibrother_node.catalog.accept import Draft, Moved
from aibrother_node.catalog.keys import KeyRing
from aibrother_node.catalog.repository import Repository
from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput, NodeError, Refused, VerificationFailed
from aibrother_node.store.disk import Disk
from catalog.signing import DAY, NOW, Client, Edit, Target, make, served


class Separated:
    """A signing node with snapshot and timestamp keys, and a publisher's machine with all the others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.node, self.ring = make(folder)
        self.ring.move_offline(folder / "publisher", ["root", "targets", "models", "staging", "fleet"])
        self.publisher = KeyRing.load(folder / "publisher", Disk())

    def send(self, draft: Draft, now: datetime = NOW, **options: Any) -> dict[str, int]:
        options.setdefault("documents", draft.documents)
        return self.node.accept(draft.roles, draft.base, self.ring, now, **options)

    def forge(self, draft: Draft, role: str, change: Callable[[Targets], object], key: str = "models") -> Draft:
        """A draft with a role changed, and signed with some role's key."""
        metadata = Metadata[Targets].from_bytes(draft.roles[role])
        change(metadata.signed)
        (signer,) = self.publisher.signers([one.keyid for one in self.publisher.listed(key)])
        metadata.sign(signer)
        return Draft({**draft.roles, role: metadata.to_bytes()}, draft.base, draft.documents)

    def refuses(self, draft: Draft, error: type[NodeError], pattern: str, **options: Any) -> None:
        """Make sure that a draft is refused, and nothing changes."""
        before = sorted(self.folder.rglob("*")), self.node.versions
        with pytest.raises(error, match=pattern):
            self.send(draft, **options)
        assert (sorted(self.folder.rglob("*")), self.node.versions) == before


@pytest.fixture
def separated(tmp_path: Path) -> Separated:
    return Separated(tmp_path)


def _fleet(separated: Separated, text: bytes = b"fleet second") -> Draft:
    return separated.node.draft(Edit().document("fleet.json", text), separated.publisher, NOW)


def _part(separated: Separated, path: str, data: bytes) -> Draft:
    return separated.node.draft(Edit().part(path, data), separated.publisher, NOW)


def test_a_draft_becomes_visible(separated: Separated) -> None:
    edit = (
        Edit().document("fleet.json", b"second").document("models/catalog.json", b"second").part("models/n.gguf", b"n")
    )
    before = sorted(separated.folder.rglob("*"))
    draft = separated.node.draft(edit, separated.publisher, NOW)
    assert sorted(separated.folder.rglob("*")) == before
    versions = separated.send(draft)
    assert versions == {**dict.fromkeys(draft.roles, 2), "snapshot": 2, "timestamp": 2}
    reopened = Repository.open(separated.folder / "catalog", Disk())
    assert reopened.versions == separated.node.versions
    with served(separated.folder / "catalog") as url:
        Client(separated.folder / "client", url, reopened.root_bytes(1)).sees(edit)


def test_of_two_drafts_on_one_base_the_second_is_told(separated: Separated) -> None:
    first, second = _fleet(separated, b"first"), _fleet(separated, b"second")
    separated.send(first)
    with pytest.raises(Moved, match="fleet is at version 2 now, and this was built on 1") as conflict:
        separated.send(second)
    assert conflict.value.versions == separated.node.versions
    assert conflict.value.free == {"fleet": 3}
    assert separated.node.document("fleet.json") == b"first"
    separated.send(_fleet(separated, b"second"))
    assert separated.node.document("fleet.json") == b"second"


def test_a_number_that_debris_used_up_is_told(separated: Separated) -> None:
    path = separated.folder / "catalog" / "metadata" / "2.fleet.json"
    path.write_bytes(b"debris")
    with pytest.raises(Moved, match="another fleet version 2") as conflict:
        separated.send(_fleet(separated))
    edit = Edit().document("fleet.json", b"third")
    draft = separated.node.draft(edit, separated.publisher, NOW, numbers=conflict.value.free)
    assert separated.send(draft)["fleet"] == 3
    same = _fleet(separated)
    (separated.folder / "catalog" / "metadata" / "4.fleet.json").write_bytes(same.roles["fleet"])
    assert separated.send(same)["fleet"] == 4, "the same again, after an interruption"


def test_versions_do_not_run_ahead(separated: Separated) -> None:
    draft = separated.forge(_fleet(separated), "fleet", lambda one: setattr(one, "version", 1000), "fleet")
    separated.refuses(draft, Moved, "fleet can't be version 1000 next")
    draft = separated.forge(_fleet(separated), "fleet", lambda one: setattr(one, "version", 1), "fleet")
    separated.refuses(draft, Moved, "fleet can't be version 1 next")


def test_only_a_role_s_own_keys_count(separated: Separated) -> None:
    draft = separated.forge(_fleet(separated), "fleet", lambda one: None, "staging")
    separated.refuses(draft, VerificationFailed, "fleet was signed by 0/1 keys")


def test_no_role_signs_another_s_paths(separated: Separated) -> None:
    target = TargetFile.from_data("models/x.json", b"x")
    for path in (
        "models/x.json",
        "fleet.json",
        "elsewhere/x",
        "staging/../x",
        "staging/\0",
        "staging//x",
        "/staging/x",
    ):
        edit = Edit().document("staging/x.json", b"x")
        draft = separated.node.draft(edit, separated.publisher, NOW)

        def sneak(one: Targets, path: str = path) -> None:
            one.targets[path] = target

        separated.refuses(separated.forge(draft, "staging", sneak, "staging"), VerificationFailed, "staging names")


def test_what_is_no_metadata_is_refused(separated: Separated) -> None:
    draft = _fleet(separated)
    for data in (b"", b"{}", b"[" * 1_000_000, separated.node.root_bytes()):
        bad = Draft({"fleet": data}, draft.base, draft.documents)
        separated.refuses(bad, VerificationFailed, "fleet is (malformed|no targets metadata)")
    separated.refuses(Draft({"fleet": b" " * 5_000_001}, draft.base), InvalidInput, "clients take at most 5000000")
    for role in ("timestamp", "snapshot", "nobody", "models-10"):
        separated.refuses(Draft({role: b""}, {role: 1}), InvalidInput, "no role that is signed elsewhere")


@pytest.mark.parametrize(
    ("was", "is_now"), [(b'"signed": {', b'"signed": {"version": 99, '), (b'"signed": {', b'"signed": {"x": NaN, ')]
)
def test_what_other_parsers_read_in_another_way_is_refused(separated: Separated, was: bytes, is_now: bytes) -> None:
    draft = _fleet(separated)
    data = draft.roles["fleet"]
    was, is_now = (one if was in data else one.replace(b": {", b":{") for one in (was, is_now))
    assert was in data
    changed = Draft({"fleet": data.replace(was, is_now, 1)}, draft.base, draft.documents)
    separated.refuses(changed, VerificationFailed, "fleet is malformed: fleet is no JSON")


def test_expired_roles_are_refused(separated: Separated) -> None:
    separated.refuses(_fleet(separated), VerificationFailed, "fleet expired", now=NOW + 181 * DAY)


def test_documents_come_along_and_are_what_was_signed(separated: Separated) -> None:
    draft = _fleet(separated)
    separated.refuses(draft, Refused, r"the document fleet\.json .* isn't here", documents={})
    separated.refuses(draft, VerificationFailed, "isn't what was signed", documents={"fleet.json": b"other"})
    separated.send(draft)
    separated.send(_fleet(separated, b"fleet first"), documents={})  # it is here from before


def test_every_blob_that_is_named_is_stored(separated: Separated) -> None:
    data, manifest = b"new", Digest(bytes(32))
    stored = {manifest}
    draft = _part(separated, "models/new.gguf", data)
    separated.refuses(draft, Refused, "which isn't stored here", is_stored=stored.__contains__)
    stored = {Target.of(data).sha256}
    separated.refuses(draft, Refused, f"names {manifest}", is_stored=stored.__contains__)
    stored.add(manifest)
    separated.send(draft, is_stored=stored.__contains__)
    target = separated.node.target("models/new.gguf")
    assert target is not None
    assert target.length == 3


def test_a_fixed_name_never_means_other_bytes(separated: Separated) -> None:
    def part(path: str, data: bytes, version: str = "2026.1") -> Draft:
        custom = {"name": "phi", "version": version, "variant": "q8_0", "chunks": f"sha256:{'0' * 64}"}
        edit = Edit(targets={path: Target.of(data, custom)})
        return separated.node.draft(edit, separated.publisher, NOW)

    shard, projector = "models/phi-2026.1-q8_0-00001-of-00002.gguf", "models/mmproj-phi-2026.1-q8_0.gguf"
    for path in ("models/phi-2026.1-q8_0.gguf", shard, projector):
        separated.send(part(path, b"one"))
        separated.refuses(part(path, b"two"), Refused, "for ever")
        separated.refuses(part(path, b"two", "2026.2"), Refused, "for ever")  # whatever it says of itself now
    separated.send(part("models/phi-q8_0.gguf", b"one"))
    separated.send(part("models/phi-q8_0.gguf", b"two"))


def test_delegations_stay_as_they_are(separated: Separated) -> None:
    publisher = KeyRing.load(separated.folder / "publisher", Disk())
    copied = Repository.open(separated.folder / "catalog", Disk())
    (signer,) = publisher.signers([one.keyid for one in publisher.listed("targets")])
    path = separated.folder / "catalog" / "metadata" / "1.targets.json"

    def changed(change: Callable[[Any], object]) -> Draft:
        metadata = Metadata[Targets].from_bytes(path.read_bytes())
        metadata.signed.version = 2
        assert metadata.signed.delegations is not None
        change(metadata.signed.delegations)
        metadata.sign(signer)
        return Draft({"targets": metadata.to_bytes()}, {"targets": copied.versions["targets"]})

    separated.refuses(changed(lambda one: one.roles.pop("fleet")), VerificationFailed, "other roles or paths")
    wider = changed(lambda one: setattr(one.roles["staging"], "paths", ["staging/*", "models/*"]))
    separated.refuses(wider, VerificationFailed, "other roles or paths")
    swapped = changed(lambda one: one.roles["staging"].keyids.__setitem__(0, one.roles["fleet"].keyids[0]))
    separated.refuses(swapped, Refused, "changes the keys of staging, and staging isn't signed with them here")
    threshold = changed(lambda one: setattr(one.roles["models"], "threshold", 2))
    separated.refuses(threshold, Refused, "changes the keys of models")
    fleet = separated.forge(
        _fleet(separated),
        "fleet",
        lambda one: setattr(
            one, "delegations", copy.deepcopy(Metadata[Targets].from_bytes(path.read_bytes()).signed.delegations)
        ),
        "fleet",
    )
    separated.refuses(fleet, VerificationFailed, "other roles or paths")


def test_a_root_and_a_rotation_that_were_signed_elsewhere(separated: Separated, tmp_path: Path) -> None:
    """The offline machine has a copy of the catalog, all keys but the node's, and rotates there."""
    import shutil

    shutil.copytree(tmp_path / "catalog", tmp_path / "copy")
    offline = Repository.open(tmp_path / "copy", Disk())
    both = KeyRing.load(tmp_path / "keys", Disk(), beside=[tmp_path / "publisher"])
    metadata = tmp_path / "copy" / "metadata"
    offline.rotate("root", both, NOW)
    assert separated.node.accept(
        {"root": (metadata / "2.root.json").read_bytes()}, {"root": 1}, separated.ring, NOW
    ) == {"root": 2}
    versions = offline.rotate("models", both, NOW)
    roles = {
        role: (metadata / f"{version}.{role}.json").read_bytes()
        for role, version in versions.items()
        if role not in {"snapshot", "timestamp"}
    }
    base = {role: version - 1 for role, version in versions.items()}
    without_one = {role: data for role, data in roles.items() if role != "models-7"}
    separated.refuses(Draft(without_one, base), Refused, "models changes the keys of models-7")
    assert len(separated.send(Draft(roles, base))) == 20
    again = (metadata / "2.root.json").read_bytes()
    separated.refuses(Draft({"root": again}, {"root": 2}), Moved, "the next root is version 3, not 2")
    with served(tmp_path / "catalog") as url:
        client = Client(tmp_path / "client", url, separated.node.root_bytes(1))
        assert client.get("models/catalog.json") == b"catalog first"
