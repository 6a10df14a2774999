"""What a signing node takes from publishers over the admin API, and with which words it refuses the rest."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tuf.api.metadata import Metadata, TargetFile, Targets

from aibrother_node.catalog import drafting
from aibrother_node.catalog.accept import Draft
from aibrother_node.catalog.commit import Signing
from aibrother_node.catalog.deciding import decide
from aibrother_node.catalog.entries import Entry, Part, encode
from aibrother_node.catalog.facts import facts
from aibrother_node.catalog.keys import KeyRing
from aibrother_node.catalog.names import part_filename
from aibrother_node.catalog.reading import catalog, releases
from aibrother_node.catalog.repository import Repository
from aibrother_node.catalog.roles import EXPIRIES
from aibrother_node.catalog.targets import document_target
from aibrother_node.content.digest import Digest
from aibrother_node.store.disk import Disk
from aibrother_node.store.incoming import Options, stage
from aibrother_tools.publishing.drafts import read_gguf
from catalog.signing import NOW
from e2e.publishing import write_gguf
from web.control.admin.publishing import Publishing, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Machine:
    """A publisher's side: it reads what is signed, and signs with the keys of some roles."""

    def __init__(self, node: Publishing, folder: Path, *roles: str) -> None:
        self.node = node
        self.folder = folder / "-".join(roles)
        KeyRing.load(node.signing.keys, Disk()).move_offline(self.folder, roles)
        self.ring = KeyRing.load(self.folder, Disk())

    @property
    def repository(self) -> Repository:
        return Repository.open(self.node.layout.catalog, Disk())

    def draft(self, action: dict[str, Any]) -> Draft:
        repository = self.repository
        return repository.draft(decide(action, repository, NOW).edit, self.ring, NOW)

    def signed(self, edit: Any) -> Draft:
        return self.repository.draft(edit, self.ring, NOW)

    def forge(self, draft: Draft, role: str, change: Callable[[Targets], object], key: str = "models") -> Draft:
        """A draft with a role changed, and signed with some role's key."""
        metadata = Metadata[Targets].from_bytes(draft.roles[role])
        change(metadata.signed)
        (signer,) = self.ring.signers([one.keyid for one in self.ring.listed(key)])
        metadata.sign(signer)
        return Draft({**draft.roles, role: metadata.to_bytes()}, draft.base, draft.documents)

    async def send(self, draft: Draft, who: str = "publish") -> tuple[int, Any, Any]:
        body = {
            "roles": {role: data.decode() for role, data in draft.roles.items()},
            "base": draft.base,
            "documents": {path: data.decode() for path, data in draft.documents.items()},
        }
        return await self.node.ask("POST", "/catalog", who, json=body)

    async def refused(self, draft: Draft, status: int, words: str, who: str = "publish") -> Any:
        """Make sure that a draft is refused, and nothing changes."""
        before = {path: path.read_bytes() for path in self.node.layout.catalog.rglob("*.json")}
        found, _, document = await self.send(draft, who)
        assert (found, document["status"]) == (status, status), document
        assert words in document["detail"], document
        assert {path: path.read_bytes() for path in self.node.layout.catalog.rglob("*.json")} == before
        return document


async def stored(node: Publishing, folder: Path, name: str, version: str = "1") -> Entry:
    """A release whose file was stored."""
    path = write_gguf(folder / f"{name}-{version}.gguf", f"{name} {version}", rows=4)

    def add() -> Part:
        staged, request = stage(node.layout, Disk(), path, Options("copy", None, 0, pieces=True))
        with staged:
            done = node.thread.store.take_in(staged, request, verify=False)
        assert done.pieces is not None
        return Part(part_filename(name, version, "f32", 1, 1), done.digest, done.size, done.manifest, done.pieces)

    part = await node.thread.change(lambda _: add())
    return Entry(name, version, "f32", "2026-11-01T00:00:00Z", (part,), gguf=facts(read_gguf(path)), license="mit")


def publishing(*entries: Entry, channel: str = "stable") -> dict[str, Any]:
    return {"do": "publish", "channel": channel, "entries": [entry.to_json() for entry in entries]}


@pytest.fixture
async def node(tmp_path: Path) -> Any:
    async with running(tmp_path) as found:
        yield found


async def test_an_edit_comes_in(node: Publishing, tmp_path: Path) -> None:
    machine = Machine(node, tmp_path, "models")
    draft = machine.draft(publishing(await stored(node, tmp_path, "phi")))
    status, _, document = await machine.send(draft)
    assert status == 200, document
    assert set(document["versions"]) == {*draft.roles, "snapshot", "timestamp"}
    assert {role: machine.repository.versions[role] for role in document["versions"]} == document["versions"]
    _, _, state = await node.ask("GET", "/catalog", "read")
    assert state["versions"] == machine.repository.versions
    assert (state["signer"], state["root"]["version"]) == (True, 1)
    assert set(state["expires"]) == set(state["versions"])
    row = next(row for row in node.audit.page(limit=10) if row["action"] == "post_catalog")
    assert row["notes"]["versions"] == document["versions"]
    assert row["notes"]["roles"] == draft.base


async def test_all_files_can_be_read(node: Publishing) -> None:
    folder = node.layout.catalog
    paths = [path for path in folder.rglob("*.json") if path.parent.name != "aside"]
    assert len(paths) > 20
    for path in paths:
        status, _, data = await node.ask("GET", f"/catalog/files/{path.relative_to(folder)}", "read")
        assert (status, data) == (200, path.read_bytes())


@pytest.mark.parametrize(
    "path",
    [
        "metadata/99.root.json",
        "metadata/root.json",
        "metadata/1.root.json.new",
        "metadata/..%2f..%2fnode.key",
        "targets/fleet.json",
        "targets/aside/x",
        f"targets/models/{'a' * 64}.catalog.json",
        f"targets/{'a' * 64}.x%2fy",
        "targets/models/..",
        "aside/x",
        "metadata/",
        "metadata/%00",
    ],
)
async def test_nothing_else_can_be_read(node: Publishing, path: str) -> None:
    assert (await node.ask("GET", f"/catalog/files/{path}", "read"))[0] in (400, 404)


async def test_of_two_on_one_base_the_second_is_told(node: Publishing, tmp_path: Path) -> None:
    machine = Machine(node, tmp_path, "models")
    first = machine.draft(publishing(await stored(node, tmp_path, "first")))
    second = machine.draft(publishing(await stored(node, tmp_path, "second")))
    assert (await machine.send(first))[0] == 200
    document = await machine.refused(second, 409, "was built on")
    assert document["versions"] == machine.repository.versions
    assert document["free"].keys() == second.roles.keys()
    again = machine.draft(publishing(await stored(node, tmp_path, "second")))
    assert (await machine.send(again))[0] == 200
    assert {entry.name for entry in catalog(machine.repository, "models/catalog.json").models} == {"first", "second"}


async def test_blobs_that_are_not_stored(node: Publishing, tmp_path: Path) -> None:
    machine = Machine(node, tmp_path, "models")
    entry = await stored(node, tmp_path, "phi")
    (part,) = entry.parts
    for name in ("sha256", "chunks", "pieces"):
        other = replace(part, **{name: Digest(bytes(32))})  # type: ignore[arg-type]  # one of three
        await machine.refused(machine.draft(publishing(replace(entry, parts=(other,)))), 403, "")
    swapped = replace(part, chunks=(await stored(node, tmp_path, "other")).parts[0].chunks)
    await machine.refused(machine.draft(publishing(replace(entry, parts=(swapped,)))), 422, "isn't a manifest of it")
    longer = replace(part, size_bytes=part.size_bytes + 1)
    await machine.refused(machine.draft(publishing(replace(entry, parts=(longer,)))), 422, "bytes, not")


async def test_what_is_no_gguf(node: Publishing, tmp_path: Path) -> None:
    machine = Machine(node, tmp_path, "models")
    entry = await stored(node, tmp_path, "phi")
    (part,) = entry.parts
    text = node.layout.blob(part.chunks).stat().st_size  # a manifest is a blob, and no GGUF
    false = replace(part, sha256=part.chunks, size_bytes=text)
    await machine.refused(machine.draft(publishing(replace(entry, parts=(false,)))), 422, "no sound GGUF")


async def test_signatures_and_paths(node: Publishing, tmp_path: Path) -> None:
    machine = Machine(node, tmp_path, "models", "staging")
    draft = machine.draft(publishing(await stored(node, tmp_path, "phi")))
    role = next(role for role in draft.roles if role.startswith("models-"))
    broken = Draft({**draft.roles, role: draft.roles[role].replace(b'"sig":"', b'"sig":"00', 1)}, draft.base)
    await machine.refused(broken, 422, "signatures")
    staged = machine.draft(publishing(await stored(node, tmp_path, "phi"), channel="staging"))
    await machine.refused(machine.forge(staged, "staging", lambda _: None, "models"), 422, "signatures")

    def stray(signed: Targets) -> None:
        signed.targets["models/stray.gguf"] = TargetFile(1, {"sha256": "0" * 64}, "models/stray.gguf")

    await machine.refused(machine.forge(staged, "staging", stray, "staging"), 422, "to sign")

    def old(signed: Targets) -> None:
        signed.expires = NOW - timedelta(days=1)

    await machine.refused(machine.forge(draft, role, old), 422, "expired")
    await machine.refused(Draft({"snapshot": b"{}"}, {"snapshot": 1}), 400, "signed elsewhere")
    await machine.refused(Draft({"models": b"x"}, {"models": 1}), 422, "malformed")
    await machine.refused(draft, 403, "scope publish", who="read")
    await machine.refused(draft, 403, "scope publish", who="operate")
    assert (await machine.send(draft))[0] == 200


async def test_a_node_that_follows(node: Publishing, tmp_path: Path) -> None:
    machine = Machine(node, tmp_path, "models")
    draft = machine.draft(publishing(await stored(node, tmp_path, "phi")))
    node.follows = True
    await machine.refused(draft, 403, "doesn't sign the catalog")
    assert (await node.ask("GET", "/catalog", "read"))[2]["signer"] is False


# -- what the key of models alone could do by TUF's rules


async def published(node: Publishing, machine: Machine, folder: Path, *versions: str) -> list[Entry]:
    entries = [await stored(node, folder, "phi", version) for version in versions]
    status, _, document = await machine.send(machine.draft(publishing(*entries)))
    assert status == 200, document
    return entries


def with_documents(edit: Any, **documents: bytes | None) -> Any:
    """An edit with other documents than its own, and the targets that go with them."""
    made = {**edit.documents, **{path.replace("__", "/").replace("_", "."): data for path, data in documents.items()}}
    targets = {**edit.targets, **{path: data and document_target(data) for path, data in made.items()}}
    return replace(edit, documents=made, targets=targets)


async def test_documents_that_nobody_can_read(node: Publishing, tmp_path: Path) -> None:
    machine = Machine(node, tmp_path, "models", "fleet")
    repository = machine.repository
    edit = decide(publishing(await stored(node, tmp_path, "phi")), repository, NOW).edit
    for data in (
        b"{}",
        b"[",
        edit.documents["models/phi.releases.json"],
        encode(catalog(repository, "staging/catalog.json")),
    ):
        await machine.refused(
            machine.signed(with_documents(edit, models__catalog_json=data)), 422, "models/catalog.json"
        )
    await machine.refused(machine.signed(with_documents(edit, models__catalog_json=None)), 422, "taken away")
    await machine.refused(machine.signed(with_documents(edit, models__other_json=b"{}")), 422, "no such document")
    await machine.refused(
        machine.signed(with_documents(edit, models__mini_releases_json=edit.documents["models/phi.releases.json"])),
        422,
        "another model",
    )
    lost = replace(
        edit, documents={"fleet.json": b'{"schema":"aibrother.fleet/1","version":2,"nodes":[]}\n'}, targets={}
    )
    await machine.refused(machine.signed(with_documents(lost)), 422, "fleet")


async def test_targets_that_no_document_speaks_of(node: Publishing, tmp_path: Path) -> None:
    machine = Machine(node, tmp_path, "models")
    entry, other = await stored(node, tmp_path, "phi"), await stored(node, tmp_path, "other")
    edit = decide(publishing(entry), machine.repository, NOW).edit
    target = decide(publishing(other), machine.repository, NOW).edit.targets["models/other-1-f32.gguf"]
    silent = replace(edit, targets={**edit.targets, "models/other-1-f32.gguf": target})
    await machine.refused(machine.signed(silent), 422, "don't agree")
    missing = replace(edit, targets={path: one for path, one in edit.targets.items() if path != "models/phi-f32.gguf"})
    await machine.refused(machine.signed(missing), 422, "don't agree")
    crossed = replace(edit, targets={**edit.targets, "models/phi-f32.gguf": target})
    await machine.refused(machine.signed(crossed), 422, "don't agree")


async def test_names_keep_their_meaning(node: Publishing, tmp_path: Path) -> None:
    """A release can't be exchanged, nor vanish, nor come back as another one."""
    machine = Machine(node, tmp_path, "models")
    await published(node, machine, tmp_path, "1", "2")
    repository = machine.repository
    document = releases(repository, "phi")
    assert document is not None
    kept = replace(document, releases=document.releases[1:])
    edit = decide({"do": "retire", "references": ["phi@1"], "keep": 1}, repository, NOW).edit
    whole = catalog(repository, "models/catalog.json")
    vanished = replace(whole, version=whole.version + 1)
    without_stone = with_documents(edit, models__phi_releases_json=encode(kept), models__catalog_json=encode(vanished))
    await machine.refused(machine.signed(without_stone), 422, "tombstone")
    yanked = machine.draft({"do": "yank", "references": ["phi@1"], "reason": "bad"})
    assert (await machine.send(yanked))[0] == 200
    repository = machine.repository
    whole = catalog(repository, "models/catalog.json")
    edit = decide({"do": "edit", "references": ["phi@2"], "changes": {"license": "mit-0"}}, repository, NOW).edit
    forgotten = replace(whole, version=whole.version + 1, yanked=())
    await machine.refused(machine.signed(with_documents(edit, models__catalog_json=encode(forgotten))), 422, "phi")
    same_version = copy.copy(edit)
    stale = with_documents(same_version, models__catalog_json=encode(replace(edit.content.stable, version=1)))
    await machine.refused(machine.signed(stale), 422, "has version 1")
    assert (await machine.send(machine.signed(edit)))[0] == 200


# -- keys


async def test_new_keys_come_in(node: Publishing, tmp_path: Path) -> None:
    owner, publisher = Machine(node, tmp_path, "root", "targets"), Machine(node, tmp_path, "models")
    entry = await stored(node, tmp_path, "phi")
    late = publisher.draft(publishing(entry))
    signing = Signing(owner.ring, NOW, dict(EXPIRIES))
    for role in ("models", "targets", "root", "staging", "fleet"):
        made = [owner.ring.create_key(role)]
        draft = drafting.draft_rotation(owner.repository.state, role, made, signing)
        status, _, document = await owner.send(draft)
        assert status == 200, document
        state = owner.repository.state
        assert drafting.keyids(state, role) == [made[0].keyid]
        assert drafting.is_visible(state, draft)
    await publisher.refused(late, 409, "was built on")
    with pytest.raises(Exception, match="can't be signed here"):
        publisher.draft(publishing(entry))
    owner.ring.move_offline(tmp_path / "new", ["models"])
    publisher.ring = KeyRing.load(tmp_path / "new", Disk())
    assert (await publisher.send(publisher.draft(publishing(entry))))[0] == 200


async def test_signed_again_before_it_expires(node: Publishing, tmp_path: Path) -> None:
    owner = Machine(node, tmp_path, "root", "targets", "models", "staging", "fleet")
    expiries = {**EXPIRIES, "models": timedelta(days=900), "root": timedelta(days=900)}
    draft = drafting.draft_refresh(owner.repository.state, Signing(owner.ring, NOW, expiries))
    assert {role.partition("-")[0] for role in draft.roles} == {"models", "root"}
    assert (await owner.send(draft))[0] == 200
    assert drafting.draft_refresh(owner.repository.state, Signing(owner.ring, NOW, expiries)).roles == {}
