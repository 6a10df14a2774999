"""A node that follows: it serves what the signer serves, whoever brings it, and whatever lies or breaks on the way."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tuf.api.metadata import Metadata, Root

from aibrother_node.catalog.desk import Desk, Signing
from aibrother_node.catalog.entries import FleetNode
from aibrother_node.catalog.following import NOTHING, Followed, Follower, trust_state
from aibrother_node.catalog.founding import found_catalog
from aibrother_node.catalog.indexing import follow, state_name
from aibrother_node.catalog.keys import KeyRing
from aibrother_node.catalog.repository import Repository
from aibrother_node.catalog.trust import Fetch, Rule, TrustError, TrustLimits
from aibrother_node.errors import DiskFull, NodeError, NotFound, Refused, Temporary
from aibrother_node.fleet.identity import NodeKey
from aibrother_node.store.disk import Disk
from catalog.signing import DAY, NOW, Client, Edit, first_content, make, served
from catalog.simulator import CATALOG, Simulator, with_catalog
from catalog.simulator import NOW as SIMULATED
from catalog.test_repository_crash import FatalDisk, Killed, _FolderClient, _sees_old_or_new
from counts import rounds
from store.helpers import new_layout, open_store
from store.power_loss import RecordingDisk, lay_out, snapshot, states

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aibrother_node.store.disk import DiskFile
    from aibrother_node.store.layout import Layout

EVERY = rounds(7, 1)
OLD, NEW = first_content("old"), first_content("new")


class Source:
    """A node's catalog folder as a source of files.

    Attributes:
        instead: by path, what is answered instead of the file; an error is raised.
        requests: the paths that were asked for.
    """

    def __init__(self, catalog: Path) -> None:
        self.catalog = catalog
        self.instead: dict[str, bytes | NodeError] = {}
        self.requests: list[str] = []

    def __call__(self, path: str, max_length: int) -> bytes:
        self.requests.append(path)
        answer = self.instead.get(path)
        if isinstance(answer, NodeError):
            raise answer
        if answer is not None:
            return answer[: max_length + 1]
        try:
            with (self.catalog / path).open("rb") as file:
                return file.read(max_length + 1)
        except FileNotFoundError:
            raise NotFound(f"404 {path}") from None

    def without_documents(self) -> Source:
        """One that has all metadata and none of the documents."""
        for path in self.document_paths():
            self.instead[path] = NotFound(f"404 {path}")
        return self

    def with_false_documents(self) -> Source:
        """One whose documents have the right length and other bytes."""
        for path in self.document_paths():
            self.instead[path] = (self.catalog / path).read_bytes()[::-1]
        return self

    def document_paths(self) -> list[str]:
        """The documents as they are asked for."""
        return [str(path.relative_to(self.catalog)) for path in (self.catalog / "targets").rglob("*.json")]


def unreachable(path: str, _: int) -> bytes:
    """A source that doesn't answer."""
    raise Temporary(f"no answer to {path}")


class Signer:
    """A node that signs, at work below one folder."""

    def __init__(self, folder: Path, content: Edit = OLD) -> None:
        self.folder = folder
        self.repository, self.ring = make(folder, content=content)
        self.first_root = self.repository.root_bytes(1)

    @property
    def source(self) -> Source:
        return Source(self.folder / "catalog")

    def frozen(self, where: Path) -> Source:
        """A node that stays at what this one has now."""
        shutil.copytree(self.folder / "catalog", where)
        return Source(where)

    def commit(self, edit: Edit) -> None:
        assert self.repository.commit(edit, self.ring, NOW)

    def rotate(self, *roles: str) -> None:
        for role in roles:
            self.repository.rotate(role, self.ring, NOW)

    @property
    def order(self) -> tuple[int, int]:
        return self.repository.versions["root"], self.repository.versions["timestamp"]


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path / "signer")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return new_layout(tmp_path / "follower")


class ReadOnlyCatalog(Disk):
    """The process dies at the first file that it makes in the catalog's folder."""

    def __init__(self, layout: Layout) -> None:
        self.folder = layout.catalog

    def create(self, path: Path, mode: int = 0o600) -> DiskFile:
        if path.is_relative_to(self.folder):
            raise Killed
        return super().create(path, mode)


def says(layout: Layout, edit: Edit) -> bool:
    """Whether the folder is a whole catalog that says what an edit says, read as every command reads it."""
    repository = Repository.open(layout.catalog, Disk())
    found = {path: target.hashes["sha256"] for path, target in repository.targets()}
    if found != {path: target.sha256.hex for path, target in edit.targets.items() if target}:
        return False
    assert all(repository.document(path) == data for path, data in edit.documents.items())
    return True


def is_copy(layout: Layout, signer: Signer) -> bool:
    """Whether the folder has what the signer serves now, byte for byte."""
    theirs, ours = signer.folder / "catalog", layout.catalog
    names = [path.relative_to(ours) for part in ("metadata", "targets") for path in (ours / part).rglob("*.json")]
    return (
        all((theirs / name).read_bytes() == (ours / name).read_bytes() for name in names)
        and Repository.open(ours, Disk()).versions == signer.repository.versions
    )


def follower(layout: Layout, signer: Signer, disk: Disk | None = None) -> Follower:
    return Follower(layout, disk or Disk(), signer.first_root)


def rule_of(error: NodeError | None) -> Rule:
    assert isinstance(error, TrustError), error
    return error.rule


def test_a_follower_has_what_the_signer_has(signer: Signer, layout: Layout) -> None:
    following = follower(layout, signer)
    followed = following.refresh([("signer", signer.source)], NOW)
    assert (followed.status, followed.changed, followed.refused) == ((1, 1), True, {})
    assert set(followed.published) == set(OLD.documents)
    assert is_copy(layout, signer)
    assert says(layout, OLD)
    signer.commit(NEW)
    followed = following.refresh([("signer", signer.source)], NOW)
    assert (followed.status, followed.changed) == (signer.order, True)
    assert is_copy(layout, signer)
    assert says(layout, NEW)


def test_nothing_new_costs_two_small_requests(signer: Signer, layout: Layout) -> None:
    follower(layout, signer).refresh([("signer", signer.source)], NOW)
    source = signer.source
    for following in (follower(layout, signer), follower(layout, signer)):  # also after a restart
        for _ in range(2):
            source.requests.clear()
            assert following.refresh([("signer", source)], NOW) == Followed((1, 1), changed=False)
            assert source.requests == ["metadata/timestamp.json", "metadata/2.root.json"]


def test_only_what_changed_is_fetched(signer: Signer, layout: Layout) -> None:
    following = follower(layout, signer)
    following.refresh([("signer", signer.source)], NOW)
    signer.commit(Edit().document("fleet.json", b"another fleet"))
    source = signer.source
    assert following.refresh([("signer", source)], NOW).published == ("fleet.json",)
    assert len(source.requests) < 10
    assert sum(path.startswith("targets/") for path in source.requests) == 1


def test_new_keys_of_root_alone_are_followed_though_the_timestamp_stays(signer: Signer, layout: Layout) -> None:
    following = follower(layout, signer)
    following.refresh([("signer", signer.source)], NOW)
    signer.rotate("root")
    assert signer.order == (2, 1)
    assert following.refresh([("signer", signer.source)], NOW).status == (2, 1)
    assert is_copy(layout, signer)


def test_all_that_happened_while_it_was_away(signer: Signer, layout: Layout) -> None:
    follower(layout, signer).refresh([("signer", signer.source)], NOW)
    signer.rotate("timestamp", "root", "snapshot", "targets", "models", "fleet", "timestamp")
    signer.commit(NEW)
    assert signer.order[0] == 6
    followed = follower(layout, signer).refresh([("signer", signer.source)], NOW)
    assert (followed.status, followed.refused) == (signer.order, {})
    assert is_copy(layout, signer)
    assert says(layout, NEW)


def test_who_has_nothing_and_reaches_nobody_has_nothing(signer: Signer, layout: Layout) -> None:
    followed = follower(layout, signer).refresh([("a", unreachable)], NOW)
    assert (followed.status, followed.changed, list(followed.refused)) == (NOTHING, False, ["a"])
    assert isinstance(followed.refused["a"], Temporary)
    assert not (layout.catalog / "metadata/timestamp.json").exists()
    assert follower(layout, signer).refresh([], NOW).status == NOTHING


def test_the_newest_wins_whoever_else_is_asked(signer: Signer, layout: Layout, tmp_path: Path) -> None:
    lagging = signer.frozen(tmp_path / "lagging")
    signer.commit(NEW)
    forged, _ = make(tmp_path / "forger", content=first_content("forged"))
    forger = Source(tmp_path / "forger" / "catalog")
    sources: dict[str, Fetch] = {"down": unreachable, "lagging": lagging, "forger": forger, "good": signer.source}
    for order in itertools.permutations(sources):
        shutil.rmtree(layout.root)
        new_layout(layout.root)
        followed = follower(layout, signer).refresh([(name, sources[name]) for name in order], NOW)
        assert followed.status == signer.order
        assert says(layout, NEW)
        assert isinstance(followed.refused["down"], Temporary)
        assert rule_of(followed.refused["forger"]) is Rule.SIGNATURES
        if order.index("lagging") > order.index("good"):
            assert rule_of(followed.refused["lagging"]) is Rule.ROLLBACK
    assert forged.versions["root"] == 1


def test_liars_change_nothing(signer: Signer, layout: Layout, tmp_path: Path) -> None:
    lagging = signer.frozen(tmp_path / "lagging")
    signer.commit(NEW)
    following = follower(layout, signer)
    following.refresh([("good", signer.source)], NOW)
    before = snapshot(layout.catalog)
    frozen = signer.frozen(tmp_path / "frozen")
    make(tmp_path / "forger", content=first_content("forged"))
    forger = Source(tmp_path / "forger" / "catalog")
    cut, long = signer.source, signer.source
    signer.commit(first_content("newer"))
    cut.instead["metadata/timestamp.json"] = b'{"signed":'
    long.instead["metadata/timestamp.json"] = bytes(1 << 20)
    mixed = signer.source
    name = f"metadata/{signer.repository.versions['snapshot']}.snapshot.json"
    mixed.instead[name] = (frozen.catalog / "metadata" / "2.snapshot.json").read_bytes()
    sources = [("lagging", lagging), ("forger", forger), ("cut", cut), ("long", long), ("mixed", mixed)]
    followed = following.refresh(sources, NOW)
    assert (followed.status, followed.changed) == ((1, 2), False)
    assert {name: rule_of(error) for name, error in followed.refused.items()} == {
        "lagging": Rule.ROLLBACK,
        "forger": Rule.SIGNATURES,
        "cut": Rule.MALFORMED,
        "long": Rule.TOO_LARGE,
        "mixed": Rule.MIX_AND_MATCH,
    }
    assert snapshot(layout.catalog) == before
    expired = following.refresh([("frozen", frozen)], NOW + 8 * DAY)
    assert rule_of(expired.refused["frozen"]) in {Rule.EXPIRED, Rule.ROLLBACK}
    assert snapshot(layout.catalog) == before


@pytest.mark.parametrize("bad", ["without", "false"])
@pytest.mark.parametrize("first", [True, False])
def test_who_has_no_documents_or_false_ones_stops_nobody(
    signer: Signer, layout: Layout, tmp_path: Path, bad: str, *, first: bool
) -> None:
    following = follower(layout, signer)
    following.refresh([("good", signer.source)], NOW)
    old = signer.frozen(tmp_path / "old")
    signer.commit(NEW)
    liar = signer.source.without_documents() if bad == "without" else signer.source.with_false_documents()
    alone = following.refresh([("liar", liar), ("old", old)], NOW)
    assert (alone.status, alone.changed) == ((1, 1), False), "the old catalog stays, whole"
    assert says(layout, OLD)
    assert alone.incomplete is not None
    if bad == "false":
        assert rule_of(alone.refused["liar"]) is Rule.CONTENT
    sources = [("liar", liar), ("good", signer.source)]
    followed = following.refresh(sources if first else sources[::-1], NOW)
    assert (followed.status, followed.changed, followed.incomplete) == (signer.order, True, None)
    assert says(layout, NEW)


def test_documents_may_come_from_several_who_have_some_each(signer: Signer, layout: Layout) -> None:
    halves = [signer.source, signer.source]
    for number, path in enumerate(sorted(signer.source.document_paths())):
        halves[number % 2].instead[path] = NotFound(f"404 {path}")
    followed = follower(layout, signer).refresh([("a", halves[0]), ("b", halves[1])], NOW)
    assert followed.incomplete is None
    assert says(layout, OLD)


def test_what_was_verified_is_served_later_though_nobody_answers(signer: Signer, layout: Layout) -> None:
    """After a crash between the trust folder's last write and the catalog's first; all documents are there already."""
    follower(layout, signer).refresh([("good", signer.source)], NOW)
    signer.rotate("timestamp")
    with pytest.raises(Killed):
        follower(layout, signer, ReadOnlyCatalog(layout)).refresh([("good", signer.source)], NOW)
    assert Repository.open(layout.catalog, Disk()).versions["timestamp"] == 1
    followed = follower(layout, signer).refresh([("down", unreachable)], NOW)
    assert (followed.status, followed.changed) == (signer.order, True)
    assert is_copy(layout, signer)


def test_a_lost_trust_folder_is_no_way_back(signer: Signer, layout: Layout, tmp_path: Path) -> None:
    old = signer.frozen(tmp_path / "old")
    signer.commit(NEW)
    follower(layout, signer).refresh([("good", signer.source)], NOW)
    shutil.rmtree(trust_state(layout))
    followed = follower(layout, signer).refresh([("old", old)], NOW)
    assert (followed.status, followed.changed) == ((1, 2), False)
    assert rule_of(followed.refused["old"]) is Rule.ROLLBACK
    assert says(layout, NEW)
    shutil.rmtree(trust_state(layout))
    late = NOW + timedelta(days=6, hours=23)
    assert signer.repository.refresh(signer.ring, late).versions
    followed = follower(layout, signer).refresh([("old", old), ("good", signer.source)], late)
    assert followed.status == signer.order
    assert is_copy(layout, signer)


def test_an_older_trust_folder_is_no_way_back_either(signer: Signer, layout: Layout, tmp_path: Path) -> None:
    """Though the catalog that is served has expired, and can't be learnt from any more."""
    follower(layout, signer).refresh([("good", signer.source)], NOW)
    shutil.copytree(trust_state(layout), tmp_path / "old")
    signer.commit(NEW)
    follower(layout, signer).refresh([("good", signer.source)], NOW)
    shutil.rmtree(trust_state(layout))
    shutil.copytree(tmp_path / "old", trust_state(layout))
    followed = follower(layout, signer).refresh([], NOW + 8 * DAY)
    assert (followed.status, followed.changed) == ((1, 2), False)
    assert says(layout, NEW)


def test_a_broken_catalog_folder_is_mended(signer: Signer, layout: Layout) -> None:
    following = follower(layout, signer)
    following.refresh([("good", signer.source)], NOW)
    (layout.catalog / "metadata/1.targets.json").write_bytes(b"{}")
    (document,) = layout.catalog.glob("targets/*.fleet.json")
    document.write_bytes(b"x" * document.stat().st_size)
    with pytest.raises(NodeError):
        says(layout, OLD)
    followed = follower(layout, signer).refresh([("good", signer.source)], NOW)
    assert (followed.changed, followed.published) == (True, ("fleet.json",))
    assert is_copy(layout, signer)
    assert says(layout, OLD)


@pytest.mark.parametrize("damage", ["empty", "flipped", "forged", "larger", "around"])
def test_a_damaged_first_root_is_no_other_catalog(signer: Signer, layout: Layout, tmp_path: Path, damage: str) -> None:
    """Nor a way back, though the trust folder is lost at the same time."""
    old = signer.frozen(tmp_path / "old")
    signer.commit(NEW)
    follower(layout, signer).refresh([("good", signer.source)], NOW)
    shutil.rmtree(trust_state(layout))
    whole = signer.first_root
    damaged = {
        "empty": b"",
        "flipped": whole.replace(b'"', b"\x02", 1),
        "forged": whole.replace(b'"expires":"2', b'"expires":"3'),
        "larger": whole + b" " * (1 << 20),
        "around": whole + b"\n",
    }[damage]
    assert damaged != whole
    (layout.catalog / "metadata/1.root.json").write_bytes(damaged)
    followed = follower(layout, signer).refresh([("old", old)], NOW)
    assert rule_of(followed.refused["old"]) is Rule.ROLLBACK
    assert is_copy(layout, signer)
    assert says(layout, NEW)


def test_another_catalog_in_the_folder_is_left_alone(signer: Signer, layout: Layout, tmp_path: Path) -> None:
    other = Signer(tmp_path / "other")
    follower(layout, other).refresh([("other", other.source)], NOW)
    with pytest.raises(Refused, match="another catalog"):
        follower(layout, signer)
    assert says(layout, OLD)
    with pytest.raises(TrustError):
        Follower(layout, Disk(), b"{}")


@pytest.fixture
def restored(signer: Signer, layout: Layout, tmp_path: Path) -> Signer:
    """A signer that took over from a backup, after this node had followed what the old one signed since."""
    shutil.copytree(signer.folder, tmp_path / "restored")
    signer.commit(NEW)
    follower(layout, signer).refresh([("signer", signer.source)], NOW)
    new = Signer.__new__(Signer)
    new.folder, new.first_root = tmp_path / "restored", signer.first_root
    new.repository = Repository.open(new.folder / "catalog", Disk())
    new.ring = KeyRing.load(new.folder / "keys", Disk())
    new.rotate("timestamp", "snapshot")
    return new


def test_a_signer_that_took_over_from_a_backup_may_give_a_number_anew(
    signer: Signer, layout: Layout, restored: Signer
) -> None:
    """Its root is newer, so it is right, though the versions of roles go back with it (TUF specification, 5.3.11)."""
    following = follower(layout, signer)
    for role, edit in (("snapshot", OLD), ("fleet", first_content("newer"))):
        if edit is not OLD:
            restored.commit(edit)
        file = f"metadata/2.{role}.json"
        before = (layout.catalog / file).read_bytes()
        assert before != (restored.folder / "catalog" / file).read_bytes()
        followed = following.refresh([("old", signer.source), ("new", restored.source)], NOW)
        assert (followed.status, followed.changed) == (restored.order, True)
        assert (layout.catalog / file).read_bytes() != before
        assert says(layout, edit)


def test_a_takeover_that_is_interrupted_is_mended_by_the_next_refresh(
    signer: Signer, layout: Layout, restored: Signer, tmp_path: Path
) -> None:
    """A number has another content now, so what is left may be neither catalog; it is never taken for one."""
    for calls in itertools.count(step=EVERY):
        copy = type(layout)(tmp_path / str(calls))
        shutil.copytree(layout.root, copy.root)
        try:
            follower(copy, signer, FatalDisk(calls)).refresh([("new", restored.source)], NOW)
            ended = True
        except Killed:
            ended = False
        with contextlib.suppress(NodeError):
            assert says(copy, OLD) or says(copy, NEW)
        assert follower(copy, signer).refresh([("new", restored.source)], NOW).status == restored.order
        assert says(copy, OLD), "which is the newer one"
        shutil.rmtree(copy.root)
        if ended:
            break


def test_two_contents_of_one_version_are_settled_by_the_next(signer: Signer, layout: Layout, restored: Signer) -> None:
    """The keys of `fleet` stayed the same, and both signers gave its version 2 a content."""
    restored.commit(first_content("newer"))
    following = follower(layout, signer)
    followed = following.refresh([("new", restored.source)], NOW)
    assert rule_of(followed.refused["new"]) is Rule.TWO_CONTENTS
    assert (followed.status, followed.changed) == ((1, 2), False)
    assert says(layout, NEW)
    restored.commit(first_content("newest"))
    assert following.refresh([("new", restored.source)], NOW).status == restored.order
    assert says(layout, first_content("newest"))


def test_older_roots_than_ours_are_brought_too(signer: Signer, layout: Layout) -> None:
    signer.rotate("root", "timestamp", "root")
    following = Follower(layout, Disk(), signer.repository.root_bytes(4))
    assert following.refresh([("down", unreachable), ("good", signer.source)], NOW).status == signer.order
    assert [signer.repository.root_bytes(n) for n in (1, 2, 3)] == [
        (layout.catalog / f"metadata/{n}.root.json").read_bytes() for n in (1, 2, 3)
    ]
    with served(layout.catalog) as url:
        Client(layout.root / "client", url, signer.first_root).sees(OLD)


@pytest.mark.parametrize("damaged", [1, 2, 3])
@pytest.mark.parametrize("damage", [b"{}", None])
def test_a_damaged_older_root_is_brought_again(
    signer: Signer, layout: Layout, damaged: int, damage: bytes | None
) -> None:
    signer.rotate("root", "timestamp", "root")
    following = Follower(layout, Disk(), signer.repository.root_bytes(4))
    following.refresh([("good", signer.source)], NOW)
    path = layout.catalog / f"metadata/{damaged}.root.json"
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    following.refresh([("good", signer.source)], NOW)
    assert following.refresh([("good", signer.source)], NOW).changed is False
    assert says(layout, OLD)
    if (damage, damaged) != (None, 1):  # one root less is a whole chain too
        assert path.read_bytes() == signer.repository.root_bytes(damaged)


def test_a_made_up_older_root_is_not_kept(signer: Signer, layout: Layout, tmp_path: Path) -> None:
    """It names the true root's key beside the liar's own, so that the true root counts as signed by it."""
    signer.rotate("targets")
    liar, _ = make(tmp_path / "liar")
    true: Metadata[Root] = Metadata.from_bytes(signer.repository.root_bytes(2))
    false: Metadata[Root] = Metadata.from_bytes(liar.root_bytes(1))
    (keyid,) = true.signed.roles["root"].keyids
    false.signed.add_key(true.signed.keys[keyid], "root")
    ring = KeyRing.load(tmp_path / "liar/keys", Disk())
    (own,) = ring.listed("root")
    (key,) = ring.signers([own.keyid])
    false.sign(key)
    false.verify_delegate("root", false)
    false.verify_delegate("root", true)
    source = signer.source
    source.instead["metadata/1.root.json"] = false.to_bytes()
    following = Follower(layout, Disk(), signer.repository.root_bytes(2))
    assert following.refresh([("liar", source)], NOW).status == signer.order
    assert not (layout.catalog / "metadata/1.root.json").exists()
    assert says(layout, OLD)


@pytest.mark.parametrize("seed", range(rounds(3, 60)))
def test_what_is_served_is_whole_and_never_older_whatever_happens(tmp_path: Path, seed: int) -> None:
    """Random edits and rotations, asked of random sources, honest and not, some by a program that was started anew."""
    rng = random.Random(seed)
    signer, layout = Signer(tmp_path / "signer", first_content("0")), new_layout(tmp_path / "follower")
    make(tmp_path / "forger", content=first_content("forged"))
    history = {signer.order: first_content("0")}
    sources: list[Fetch] = [signer.source, Source(tmp_path / "forger/catalog"), unreachable]
    following = follower(layout, signer)
    for number in range(1, 25):
        match rng.randrange(6):
            case 0:
                content = first_content(str(number))
                signer.commit(content)
                history[signer.order] = content
            case 1:
                content = history[signer.order]
                signer.rotate(rng.choice(["root", "timestamp", "snapshot", "targets", "models", "staging", "fleet"]))
                history[signer.order] = content
            case 2:
                sources.append(signer.frozen(tmp_path / str(number)))
            case 3:
                frozen = signer.frozen(tmp_path / str(number))
                sources.append(rng.choice([frozen.without_documents, frozen.with_false_documents])())
            case 4:
                following = follower(layout, signer)
            case _:
                pass
        asked = rng.sample(sources, rng.randint(1, min(4, len(sources))))
        before = following.refresh([], NOW).status
        followed = following.refresh([(str(place), one) for place, one in enumerate(asked)], NOW)
        assert followed.status >= before
        assert followed.changed == (followed.status != before)
        if sources[0] in asked:
            assert (followed.status, followed.incomplete) == (signer.order, None)
        if followed.status != NOTHING:
            assert says(layout, history[followed.status])


def test_ceilings_hold_for_documents(signer: Signer, layout: Layout) -> None:
    following = Follower(layout, Disk(), signer.first_root, TrustLimits(document_bytes=10))
    followed = following.refresh([("good", signer.source)], NOW)
    assert rule_of(followed.incomplete) is Rule.TOO_LARGE
    assert followed.status == NOTHING


def test_old_files_are_collected_as_on_the_signer(signer: Signer, layout: Layout) -> None:
    following = follower(layout, signer)
    assert following.collect_debris(NOW, DAY) == 0
    following.refresh([("good", signer.source)], NOW)
    signer.commit(NEW)
    following.refresh([("good", signer.source)], NOW)
    assert following.collect_debris(NOW, DAY) == 0, "clients may be about to ask for them"
    removed = following.collect_debris(NOW + 2 * DAY, DAY)
    assert removed > len(OLD.documents)
    assert says(layout, NEW)


def test_the_index_follows(tmp_path: Path) -> None:
    """With a catalog as `init` makes it, and the store as control holds it."""
    theirs, ours = new_layout(tmp_path / "signer"), new_layout(tmp_path / "ours")
    keys = [NodeKey.generate(), NodeKey.generate()]
    nodes = [FleetNode(key.id, key.public.hex(), region="eu") for key in keys]
    signing = Signing(theirs.keys, None, {})
    root = found_catalog(theirs, Disk(), signing, nodes[0], NOW)
    following = Follower(ours, Disk(), root)
    with open_store(theirs) as signer, open_store(ours) as store:
        assert not follow(store, Disk())
        assert following.refresh([("signer", Source(theirs.catalog))], NOW).changed
        assert follow(store, Disk())
        assert store.catalog_state() == state_name(theirs)
        admit = {"do": "admit", "id": nodes[1].id, "key": nodes[1].key, "said": {"region": "us"}}
        done = Desk(signer, signing, Disk()).run(admit, NOW)
        assert done.fleet is not None
        assert done.fleet["version"] == 2
        assert following.refresh([("signer", Source(theirs.catalog))], NOW).published == ("fleet.json",)
        assert follow(store, Disk())
        assert store.catalog_state() == state_name(theirs) == state_name(ours)
        with pytest.raises(Refused, match="doesn't sign"):
            Desk(store, Signing(ours.keys, None, {}), Disk()).run(admit, NOW)
        with pytest.raises(Refused, match="doesn't sign"):
            Desk(signer, Signing(theirs.keys, None, {}, follows=True), Disk()).run(admit, NOW)
        assert store.catalog_state() == state_name(ours)


def test_a_stolen_timestamp_key_that_ran_ahead_is_survived(layout: Layout) -> None:
    """(root version, timestamp version): after the rotation a lower timestamp is the newer one."""
    simulator = with_catalog()
    following = Follower(layout, Disk(), simulator.first_root)
    assert following.refresh([("s", simulator.fetch)], SIMULATED).status == (1, 2)
    simulator.signed["timestamp"].version = 1_000_000
    simulator.publish()
    assert following.refresh([("s", simulator.fetch)], SIMULATED).status == (1, 1_000_001)
    simulator.rotate_in_root("timestamp", "snapshot")
    simulator.signed["timestamp"].version = 2
    role = simulator.put(CATALOG, b'{"catalog":2}\n')
    simulator.publish(role)
    followed = following.refresh([("s", simulator.fetch)], SIMULATED)
    assert (followed.status, followed.changed, followed.refused) == ((2, 3), True, {})
    assert Repository.open(layout.catalog, Disk()).document(CATALOG) == b'{"catalog":2}\n'


def test_a_target_that_no_file_may_have_is_reported(layout: Layout) -> None:
    simulator = Simulator()
    simulator.publish(simulator.put("models/Not A File.json", b"x"))
    followed = Follower(layout, Disk(), simulator.first_root).refresh([("s", simulator.fetch)], SIMULATED)
    assert followed.status == NOTHING
    assert followed.incomplete is not None


def _commit(signer: Signer) -> None:
    signer.commit(NEW)


def _rotate(signer: Signer) -> None:
    signer.rotate("timestamp")
    signer.commit(NEW)


def _rotate_all(signer: Signer) -> None:
    signer.rotate("timestamp", "snapshot", "targets", "root")
    signer.commit(NEW)


STEPS: dict[str, Callable[[Signer], None]] = {
    "commit": _commit,
    "rotate timestamp": _rotate,
    "roots 1 to 5": _rotate_all,
}


@pytest.mark.parametrize("name", STEPS)
def test_killed_at_each_call(tmp_path: Path, name: str) -> None:
    signer = Signer(tmp_path / "signer")
    base = new_layout(tmp_path / "base")
    follower(base, signer).refresh([("good", signer.source)], NOW)
    STEPS[name](signer)
    outcomes = set()
    for calls in itertools.count(step=EVERY):
        layout = type(base)(tmp_path / str(calls))
        shutil.copytree(base.root, layout.root)
        try:
            follower(layout, signer, FatalDisk(calls)).refresh([("good", signer.source)], NOW)
            ended = True
        except Killed:
            ended = False
        is_new = says(layout, NEW)
        assert is_new or says(layout, OLD), "neither the old catalog nor the new one"
        outcomes.add(is_new)
        again = follower(layout, signer).refresh([("down", unreachable), ("good", signer.source)], NOW)
        assert again.status == signer.order
        assert is_copy(layout, signer)
        shutil.rmtree(layout.root)
        if ended:
            break
    assert outcomes == {True, False}
    assert calls > 30


def test_a_first_catalog_killed_at_each_call_is_finished_by_the_next_refresh(tmp_path: Path, signer: Signer) -> None:
    signer.rotate("timestamp")
    for calls in itertools.count(step=EVERY):
        layout = new_layout(tmp_path / str(calls))
        try:
            follower(layout, signer, FatalDisk(calls)).refresh([("good", signer.source)], NOW)
            ended = True
        except Killed:
            ended = False
        try:
            assert says(layout, OLD)
        except NotFound:
            assert not ended
        assert follower(layout, signer).refresh([("good", signer.source)], NOW).status == signer.order
        assert is_copy(layout, signer)
        shutil.rmtree(layout.root)
        if ended:
            break


@pytest.mark.parametrize("name", ["commit", "roots 1 to 5"])
def test_a_full_disk_changes_nothing(tmp_path: Path, name: str) -> None:
    signer = Signer(tmp_path / "signer")
    base = new_layout(tmp_path / "base")
    follower(base, signer).refresh([("good", signer.source)], NOW)
    STEPS[name](signer)
    ended = False
    for calls in range(0, 1000, 3 * EVERY):
        layout = type(base)(tmp_path / str(calls))
        shutil.copytree(base.root, layout.root)
        disk = FatalDisk(calls, lambda: DiskFull("no space left"))
        try:
            following = follower(layout, signer, disk)
            try:
                following.refresh([("good", signer.source)], NOW)
                ended = True
            except DiskFull:
                assert says(layout, OLD) or says(layout, NEW)
            disk.left = 1_000_000
            assert following.refresh([("good", signer.source)], NOW).status == signer.order
            assert says(layout, NEW)
        except DiskFull:
            assert calls == 0
        shutil.rmtree(layout.root)
        if ended:
            break
    assert ended


@pytest.mark.parametrize("name", STEPS)
def test_every_power_loss(tmp_path: Path, name: str) -> None:
    signer = Signer(tmp_path / "signer")
    layout = new_layout(tmp_path / "follower")
    follower(layout, signer).refresh([("good", signer.source)], NOW)
    STEPS[name](signer)
    base = snapshot(layout.root)
    disk = RecordingDisk(layout.root)
    follower(layout, signer, disk).refresh([("good", signer.source)], NOW)
    every, count = rounds(40, 1), 0
    for number, (done, state) in enumerate(states(disk.calls, base)):
        count += 1
        if number % every and done < len(disk.calls):
            continue
        after = type(layout)(tmp_path / "after")
        lay_out(state, after.root)
        is_new = says(after, NEW)
        assert is_new or says(after, OLD)
        if name == "commit":  # a stock client follows at any instant, from either side
            client = _FolderClient(tmp_path / "client", str(after.catalog), signer.first_root)
            assert _sees_old_or_new(client, new=NEW) == is_new
            shutil.rmtree(tmp_path / "client")
        assert is_new or done < len(disk.calls), "the refresh had ended, and is gone"
        assert follower(after, signer).refresh([("good", signer.source)], NOW).status == signer.order
        assert is_copy(after, signer)
        shutil.rmtree(after.root)
    print(f"{count} states")
    assert count > 100
