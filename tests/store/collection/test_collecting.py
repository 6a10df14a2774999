"""Removing blobs of a real store: everything that speaks for one is looked at in the moment in which it would go."""

from __future__ import annotations

import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from aibrother_node.errors import DiskFull, Temporary
from aibrother_node.store.collection import gc
from aibrother_node.store.collection.collecting import Collecting, Gone
from aibrother_node.store.collection.gc import Rules, Verdict
from aibrother_node.store.collection.marks import Marks
from aibrother_node.store.collection.survey import Policy, counts, survey
from aibrother_node.store.disk import Disk
from aibrother_node.store.incoming import Options, stage
from aibrother_node.store.index import TargetRow
from aibrother_node.store.room import check_max_size, used
from store.helpers import add, new_layout, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aibrother_node.content.digest import Digest
    from aibrother_node.store.blobs import BlobStore, Stored

NOW = time.time()
RULES = Rules(NOW, 0.0)


class World:
    """A store, and the catalog that its files are said to hold."""

    def __init__(self, store: BlobStore, folder: Path, marks: Marks) -> None:
        self.store = store
        self.folder = folder
        self.state: str | None = None
        self.follows = False
        self.collecting = Collecting(store, marks, lambda: self.state, lambda: self.follows)

    def stored(self, name: str, pin: str | None = None) -> Stored:
        path = self.folder / name
        path.write_bytes(name.encode() * 100)
        return add(self.store, path, pin=pin)

    def name(self, *rows: TargetRow, state: str = "1") -> None:
        """A catalog that names these, and nothing else."""
        self.state = state
        self.store.put_catalog(state, rows, [], whole=True)

    def plan(self, rules: Rules = RULES) -> gc.Plan:
        seen = survey(self.store.layout, Policy(), 1 << 40, lambda _: NOW, rules.now).seen
        return gc.plan(seen, rules)

    def collect(self, rules: Rules = RULES) -> set[Digest]:
        found = self.plan(rules).of(Verdict.REMOVED, Verdict.MARKED)
        self.collecting.mark([(one.digest, one.since or NOW) for one in found], [])
        return {one.digest for one in self.collecting.remove([one.digest for one in found], rules, short=False)}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    layout = new_layout(tmp_path / "data")
    with open_store(layout) as store, closing(Marks.open(layout.index)) as marks:
        yield World(store, tmp_path, marks)


def target(stored: Stored, path: str = "models/a-1-f32.gguf") -> TargetRow:
    return TargetRow(path, stored.digest, stored.size, "a", "1", "f32", stored.manifest)


def test_what_is_named_pinned_or_leased_between_plan_and_removal_stays(world: World) -> None:
    named, pinned, leased, gone = (world.stored(name) for name in ("named", "pinned", "leased", "gone"))
    due = [one.digest for one in world.plan().of(Verdict.REMOVED)]
    assert len(due) == 8, "four blobs and their manifests"
    world.collecting.mark([(digest, NOW) for digest in due], [])
    world.name(target(named))
    world.store.pin(pinned.digest, "meanwhile")
    world.store.lease([leased.digest], "publish 1")
    removed = {one.digest for one in world.collecting.remove(due, RULES, short=False)}
    assert removed == {gone.digest, gone.manifest}
    assert not world.store.layout.blob(gone.digest).exists()
    assert {*world.store.digests()} == {d for one in (named, pinned, leased) for d in (one.digest, one.manifest)}
    assert counts(world.store.layout, NOW) == (1, 0), "what stays isn't marked any more"


def test_a_mark_has_to_be_as_old_as_the_grace(world: World) -> None:
    loose = world.stored("loose")
    assert world.collect(Rules(NOW, 100.0)) == set()
    assert world.collect(Rules(NOW + 99, 100.0)) == set()
    assert world.collect(Rules(NOW + 100, 100.0)) == {loose.digest, loose.manifest}


def test_without_the_catalog_of_the_files_nothing_goes(world: World) -> None:
    world.stored("loose")
    world.name()
    world.state = "2"  # the files are ahead of the index
    with pytest.raises(Temporary, match="newest catalog"):
        world.collect()
    world.state = None
    world.store.put_catalog("", [], [], whole=True)
    with pytest.raises(Temporary):
        world.collect()


def test_a_node_that_is_to_have_a_catalog_collects_nothing_before(world: World) -> None:
    world.stored("loose")
    world.follows = True
    with pytest.raises(Temporary, match="isn't here yet"):
        world.collect()
    world.follows = False
    assert len(world.collect()) == 2, "a node that has none and will have none does"


def test_manifests_stay_with_what_they_describe(world: World) -> None:
    named = world.stored("named")
    world.name(target(named))
    assert world.collect() == set()
    # the blob itself is gone, as after an eviction: what the catalog names of it stays, to begin a fill with
    assert world.collecting.evict(named.digest, "1", NOW) == Gone(named.digest, named.size)
    assert world.collect() == set()
    world.name(state="2")
    assert world.collect() == {named.manifest}
    # of a blob that is being fetched, or repaired
    other = world.stored("other")
    fill = world.store.layout.fill(other.digest)
    fill.mkdir()
    world.store.layout.blob(other.digest).rename(fill / "data")
    world.store.reconcile()
    assert world.collect() == set()


def test_an_eviction_looks_again(world: World) -> None:
    one = world.stored("one")
    world.name(target(one))
    with pytest.raises(Temporary, match="changed"):
        world.collecting.evict(one.digest, "0", NOW)
    world.store.pin(one.digest, "meanwhile")
    assert world.collecting.evict(one.digest, "1", NOW) is None
    world.store.unpin(one.digest)
    world.store.lease([one.digest], "publish 1")
    assert world.collecting.evict(one.digest, "1", NOW) is None
    world.store.leases.release("publish 1")
    assert world.collecting.keeps(one.digest, "1") == (True, False)
    assert world.collecting.keeps(one.digest, "0") is None
    world.name(state="2")
    assert world.collecting.evict(one.digest, "2", NOW) is None, "what nothing names is marked first"
    assert world.collecting.keeps(one.digest, "2") == (False, False)
    assert world.store.layout.blob(one.digest).exists()


class Broken(Exception):
    pass


class StopsBeforeSync(Disk):
    """The process ends after the unlink."""

    def sync_folder(self, path: Path) -> None:
        if path.name == "sha256":
            raise Broken
        super().sync_folder(path)


@contextmanager
def opened(folder: Path, disk: Disk) -> Iterator[World]:
    layout = new_layout(folder / "data")
    with open_store(layout) as store, closing(Marks.open(layout.index)) as marks:
        store._disk = disk
        yield World(store, folder, marks)


def test_a_crash_after_the_unlink_leaves_a_row_that_the_next_start_takes_away(tmp_path: Path) -> None:
    with opened(tmp_path, Disk()) as world:
        loose = world.stored("loose")
    with opened(tmp_path, StopsBeforeSync()) as world, pytest.raises(Broken):
        world.collect()
    assert not world.store.layout.blob(loose.digest).exists()
    with opened(tmp_path, Disk()) as world:
        assert world.store.rows.totals()[0] == 0
        assert world.collect() == set()
        assert counts(world.store.layout, NOW) == (0, 2), "marks of what is gone are taken away with the next plan"


def test_max_size_is_held_when_something_is_added(world: World, tmp_path: Path) -> None:
    stored = world.stored("one")
    taken = used(world.store.layout)
    assert taken > stored.size
    check_max_size(world.store.layout, "two", 10, None)
    check_max_size(world.store.layout, "two", 10, taken + 10)
    with pytest.raises(DiskFull, match=r"store\.max_size is"):
        check_max_size(world.store.layout, "two", 11, taken + 10)
    (tmp_path / "two").write_bytes(b"2" * 100)
    with pytest.raises(DiskFull, match=r"store\.max_size is"):
        stage(world.store.layout, Disk(), tmp_path / "two", Options("move", None, 0, max_size=taken + 99))
    assert (tmp_path / "two").exists()


def test_a_policy_says_what_is_wanted() -> None:
    path = "models/phi-1-q4.gguf"
    assert Policy().wanted(path, "phi", "q4")
    assert not Policy().wanted("staging/phi-1-q4.gguf", "phi", "q4")
    assert Policy(channels=("staging",)).wanted("staging/phi-1-q4.gguf", "phi", "q4")
    assert not Policy("pinned").wanted(path, "phi", "q4")
    tags = {("phi", "q4"): {"small"}}
    for wants, wanted in (("phi", True), ("phi:q4", True), ("phi:q8", False), ("small", True), ("large", False)):
        assert Policy((wants,), tags=tags).wanted(path, "phi", "q4") is wanted, wants


def test_names_shown_are_those_that_stay(world: World) -> None:
    one, two = world.stored("one"), world.stored("two")
    world.name(
        target(one, "models/a-1-f32.gguf"),
        TargetRow("models/a-2-f32.gguf", two.digest, two.size, "a", "2", "f32", two.manifest),
        TargetRow("models/a-f32.gguf", two.digest, two.size, "a", "2", "f32", two.manifest),
        TargetRow("staging/a-2-f32.gguf", two.digest, two.size, "a", "2", "f32", two.manifest),
    )
    names = survey(world.store.layout, Policy(), 0, lambda _: 0.0, NOW).seen.names
    assert (names[one.digest].path, names[one.digest].newest) == ("models/a-1-f32.gguf", False)
    assert (names[two.digest].path, names[two.digest].newest) == ("models/a-2-f32.gguf", True)
