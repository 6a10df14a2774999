"""The collector and its job on real stores, with another node that answers, or doesn't."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from aibrother_node.errors import Temporary
from aibrother_node.fleet.evicting import Evictions
from aibrother_node.fleet.keepers import Mirrors
from aibrother_node.fleet.vouching import Vouch
from aibrother_node.metrics import CollectionMetrics
from aibrother_node.store.collection.collecting import Collecting
from aibrother_node.store.collection.gc import Verdict
from aibrother_node.store.collection.marks import Marks
from aibrother_node.store.collection.survey import Policy
from aibrother_node.store.index import TargetRow
from aibrother_replicator.collector import Collector, Wishes
from aibrother_replicator.gc_work import GcWork
from fleet.parts import id_of, real_key
from store.helpers import add, new_layout, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from aibrother_node.content.digest import Digest
    from aibrother_node.fleet.evicting import Attempt
    from aibrother_node.store.blobs import BlobStore, Stored


class Told:
    """What a job told of itself."""

    def __init__(self) -> None:
        self.cursor: Any = None
        self.only = None
        self.total = self.objects = self.size = 0
        self.came: Mapping[str, Any] = {}
        self.breaths = 0
        self.on_breath: Callable[[], None] = lambda: None

    def expect(self, *, objects: int | None = None, size: int | None = None) -> None:
        del size
        self.total = objects if objects is not None else self.total

    def done(self, *, objects: int = 0, size: int = 0) -> None:
        self.objects += objects
        self.size += size

    def failed(self, name: str, reason: str) -> None:
        raise AssertionError(f"{name}: {reason}")

    async def checkpoint(self, cursor: Any) -> None:
        self.cursor = dict(cursor)

    async def breathe(self) -> None:
        self.on_breath()

    def result(self, value: Mapping[str, Any]) -> None:
        self.came = value


class World:
    """A node, and the mirror that keeps what it may evict."""

    def __init__(self, store: BlobStore, marks: Marks, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.state = "1"
        self.max_size: int | None = None
        self.own, self.mirror = real_key(), real_key()
        self.evictions = Evictions(id_of(self.own), self.own, copies=1)
        self.kept: set[Digest] = set()
        self.away = False
        self.asked: list[Digest] = []
        self.on_asked: Callable[[Digest], None] = lambda _: None
        self.collecting = Collecting(store, marks, lambda: self.state, lambda: True)
        self.registry = CollectorRegistry()
        self.collector = Collector(
            store.layout,
            self.change,
            self.collecting,
            lambda: Wishes(0.0, self.max_size, 0, Policy(), 1 << 40),
            None,
            lambda: self,
            CollectionMetrics(self.registry),
            lambda: None,
        )
        self.rows: list[TargetRow] = []
        self.publish()

    async def change(self, work: Callable[[BlobStore], Any]) -> Any:
        return work(self.store)

    async def mirrors(self) -> Mirrors:
        ids = frozenset([id_of(self.mirror)])  # this node is a cache
        return Mirrors(id_of(self.own), self.state, (1, int(self.state)), ids, {id_of(self.mirror): self.mirror.public})

    async def ask_keeper(self, attempt: Attempt, node: str) -> Vouch | None:
        assert node == id_of(self.mirror)
        self.asked.append(attempt.digest)
        self.on_asked(attempt.digest)
        if self.away:
            raise Temporary("no answer")
        if attempt.digest not in self.kept:
            return None
        return Vouch.give(self.mirror, self.evictions.node, attempt.digest, attempt.nonce, attempt.mirrors.catalog)

    def publish(self, *stored: Stored) -> None:
        self.rows += [
            TargetRow(f"models/{len(self.rows) + n}-1-q.gguf", one.digest, one.size, "m", "1", "q", one.manifest)
            for n, one in enumerate(stored)
        ]
        self.state = str(int(self.state) + 1)
        self.store.put_catalog(self.state, self.rows, [], whole=True)

    def stored(self, name: str) -> Stored:
        path = self.folder / name
        path.write_bytes(name.encode() * 1000)
        return add(self.store, path, pin=None)

    async def collect(self) -> Told:
        told = Told()
        await GcWork(self.collector).run({}, told)
        return told


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    layout = new_layout(tmp_path / "data")
    with ExitStack() as stack:
        store = stack.enter_context(open_store(layout))
        yield World(store, stack.enter_context(closing(Marks.open(layout.index))), tmp_path)


async def test_what_nothing_names_goes_and_is_counted(world: World) -> None:
    world.publish(world.stored("named"))
    loose = world.stored("loose")
    told = await world.collect()
    assert (told.total, told.objects, told.size) == (2, 2, told.came["bytes"])
    assert told.came["removed"] == 2
    assert told.cursor == {"removed": 2, "evicted": 0, "bytes": told.size}
    assert not world.store.layout.blob(loose.digest).exists()
    assert b'removed_blobs_total{why="unnamed"} 2.0' in generate_latest(world.registry)
    assert (await world.collect()).came["removed"] == 0


async def test_only_what_the_mirror_keeps_is_evicted_and_no_more_than_it_takes(world: World) -> None:
    stored = [world.stored(f"blob {number}") for number in range(6)]
    world.publish(*stored)
    world.kept = {one.digest for one in stored[:4]}
    world.max_size = sum(one.size for one in stored) - 2 * stored[0].size + 2000
    told = await world.collect()
    gone = {one.digest for one in stored if not world.store.layout.blob(one.digest).exists()}
    assert len(gone) in (2, 3)
    assert gone <= world.kept
    assert (told.came["evicted"], told.came["short_of"]) == (len(gone), 0)
    assert not any(world.evictions.is_marked(one.digest) for one in stored)


async def test_a_mirror_that_is_away_is_asked_a_few_times_and_nothing_goes(world: World) -> None:
    stored = [world.stored(f"blob {number}") for number in range(40)]
    world.publish(*stored)
    world.away = True
    world.max_size = 0
    told = await world.collect()
    assert (told.came["evicted"], len(world.asked)) == (0, 16), "those that were asked about at once"
    assert told.came["short_of"] > 0
    assert all(world.store.layout.blob(one.digest).exists() for one in stored)


async def test_a_mark_of_a_clock_that_was_ahead_is_set_again(world: World) -> None:
    stored = world.stored("early")
    world.collecting.marks.change([(stored.digest, time.time() + 1e6)], [])
    planned = await world.collector.plan()
    await world.collector.mark(planned)
    since = world.collecting.marks.since(stored.digest)
    assert since is not None
    assert since <= time.time()


async def test_a_dry_run_asks_and_marks_nothing(world: World) -> None:
    stored = [world.stored(f"blob {number}") for number in range(3)]
    world.publish(*stored)
    world.kept = {stored[0].digest}
    world.max_size = 0
    world.on_asked = lambda digest: _refuse(world.evictions.is_marked(digest))
    planned = await world.collector.plan()
    await world.collector.ask_about(planned)
    assert [one.digest for one in planned.plan.of(Verdict.EVICTED)] == [stored[0].digest]
    reasons = {planned.plan.decisions[one.digest].reason for one in stored[1:]}
    assert all(reason.startswith("over max_size, but this is the last copy known: ") for reason in reasons)
    assert all(world.store.layout.blob(one.digest).exists() for one in stored)


async def test_a_blob_is_marked_before_it_is_asked_about_and_looked_at_again_after(world: World) -> None:
    one = world.stored("one")
    world.publish(one)
    world.kept = {one.digest}
    world.max_size = 0

    def meanwhile(digest: Digest) -> None:
        assert world.evictions.is_marked(digest)
        world.store.pin(digest, "meanwhile")

    world.on_asked = meanwhile
    assert (await world.collect()).came["evicted"] == 0
    world.store.unpin(one.digest)
    world.on_asked = lambda _: world.publish()  # the catalog changes between question and removal
    assert (await world.collect()).came["evicted"] == 0
    world.on_asked = lambda _: None
    assert (await world.collect()).came["evicted"] == 1


async def test_a_catalog_that_is_just_coming_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aibrother_replicator.gc_work._PAUSE", 0.0)
    world.stored("loose")
    indexed, world.state = world.state, "newer"
    told = Told()

    def arrive() -> None:
        told.breaths += 1
        if told.breaths == 3:
            world.state = indexed

    told.on_breath = arrive
    await GcWork(world.collector).run({}, told)
    assert told.came["removed"] == 2
    world.state = "newer"
    with pytest.raises(Temporary, match="newest catalog"):
        await GcWork(world.collector).run({}, Told())


def _refuse(found: bool) -> None:
    assert not found
