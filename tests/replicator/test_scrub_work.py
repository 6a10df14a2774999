"""Scrub as a job: what it counts, where it goes on, what it takes for a request."""

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from aibrother_node.errors import InvalidInput
from aibrother_node.store.scrubbing.pace import Pressure
from aibrother_replicator.scrub_work import EVERYTHING, ScrubRequest, ScrubWork, rate_of
from store.helpers import digest_of
from store.scrubbing.test_scrubber import World, world


@dataclass
class Told:
    """What the work of one run told."""

    cursor: Any = None
    only: frozenset[str] | None = None
    stop_after: int = 10**9
    objects: int = 0
    size: int = 0
    expected: tuple[int | None, int | None] = (None, None)
    failures: dict[str, str] = field(default_factory=dict)
    kept: Any = None
    what: dict[str, Any] = field(default_factory=dict)
    breaths: int = 0
    checkpoints: int = 0

    def expect(self, *, objects: int | None = None, size: int | None = None) -> None:
        self.expected = (
            self.expected[0] if objects is None else objects,
            self.expected[1] if size is None else size,
        )

    def done(self, *, objects: int = 0, size: int = 0) -> None:
        self.objects += objects
        self.size += size

    def failed(self, name: str, reason: str) -> None:
        self.failures[name] = reason

    async def checkpoint(self, cursor: Any) -> None:
        self.kept = cursor
        self.checkpoints += 1

    async def breathe(self) -> None:
        await asyncio.sleep(0)
        self.breaths += 1
        if self.objects >= self.stop_after:
            raise asyncio.CancelledError

    def result(self, value: Any) -> None:
        self.what = dict(value)


def _work(it: World) -> ScrubWork:
    return ScrubWork(it.scrubber, lambda: 10**12, Pressure)


async def test_all_of_it_is_counted_and_its_end_is_remembered(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        contents = [os.urandom(1000 * n) for n in range(1, 5)]
        digests = [await it.add(data) for data in contents]
        told = Told()
        await _work(it).run(EVERYTHING, told)
        blobs, size = it.thread.store.totals()
        assert (told.objects, told.size) == told.expected == (blobs, size)
        assert told.what == {"bad_chunks": 0, "repaired": 0, "damaged": 0}
        assert it.counts.ended is not None

        it.decay(digests[1], 7)
        it.decay(digests[2], 7)
        it.peers.give(contents[1])
        told = Told()
        await _work(it).run(EVERYTHING, told)
        assert told.what == {"bad_chunks": 2, "repaired": 1, "damaged": 1}
        assert (told.objects, list(told.failures)) == (blobs - 1, [str(digests[2])])
        assert told.size == size

        it.peers.give(contents[2])
        ended = it.counts.ended
        told = Told(only=frozenset(told.failures))
        await _work(it).run(EVERYTHING, told)
        assert (told.objects, told.expected, told.failures) == (1, (1, 3000), {})
        assert told.what["repaired"] == 1
        assert it.counts.ended == ended, "a retry is no pass"


async def test_many_small_ones_cost_the_store_and_the_book_few_changes(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        contents = {digest_of(data): data for data in (os.urandom(300) for _ in range(40))}
        for data in contents.values():
            await it.add(data)
        first = min(contents, key=lambda digest: digest.hex)
        last = max(contents, key=lambda digest: digest.hex)
        it.decay(first, 7)
        it.decay(last, 7)
        it.peers.give(contents[first])
        changes = it.thread.changes
        told = Told()
        await _work(it).run(EVERYTHING, told)
        assert (told.objects, list(told.failures)) == (79, [str(last)])
        assert (told.size, told.breaths >= 80) == (it.thread.store.totals()[1] + 300, True)
        assert told.what == {"bad_chunks": 2, "repaired": 1, "damaged": 1}
        assert it.thread.changes - changes < 40
        assert told.checkpoints <= 2 + 1, "at what is found, and as time goes"


async def test_it_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aibrother_replicator.scrub_work._CHECKPOINT", 0.0)
    async with world(tmp_path) as it:
        for n in range(1, 5):
            await it.add(os.urandom(1000 * n))
        blobs, size = it.thread.store.totals()
        first = Told(stop_after=3)
        with pytest.raises(asyncio.CancelledError):
            await _work(it).run(EVERYTHING, first)
        assert first.objects == 3
        second = Told(cursor=first.kept)
        await _work(it).run(EVERYTHING, second)
        assert first.objects + second.objects == blobs
        assert first.size + second.size == size
        assert second.expected == (blobs, size)


async def test_what_was_passed_counts_also_where_it_has_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aibrother_replicator.scrub_work._CHECKPOINT", 0.0)
    async with world(tmp_path) as it:
        for n in range(1, 5):
            await it.add(os.urandom(1000 * n))
        blobs, size = it.thread.store.totals()
        first = Told(stop_after=3)
        with pytest.raises(asyncio.CancelledError):
            await _work(it).run(EVERYTHING, first)
        passed = (await it.scrubber.plan())[0].digest
        await it.thread.change(lambda store: store.withdraw(passed, "gone between two runs"))
        second = Told(cursor=first.kept)
        await _work(it).run(EVERYTHING, second)
        assert (first.objects + second.objects, first.size + second.size) == (blobs, size) == second.expected


async def test_some_of_it(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        digest = await it.add(b"content")
        told = Told()
        unknown = str(digest_of(b"unknown"))
        await _work(it).run({"digests": [str(digest), unknown], "rate": "1 GB/s"}, told)
        assert (told.objects, told.size, told.failures) == (1, 7, {unknown: "it is not here"})
        assert told.expected == (2, 7)
        assert it.counts.ended is None


def test_requests() -> None:
    assert ScrubRequest().model_dump(mode="json") == EVERYTHING
    digest = str(digest_of(b""))
    given = {"rate": "100 MB/s", "digests": [digest]}
    assert ScrubRequest.model_validate(given).model_dump(mode="json") == given
    faulty: list[dict[str, Any]] = [{"rate": 0}, {"rate": "fast"}, {"rate": True}, {"other": 1}]
    for bad in (*faulty, {"digests": []}, {"digests": ["x"]}):
        with pytest.raises(ValidationError):
            ScrubRequest.model_validate(bad)
    assert rate_of("100 MB/s") == rate_of(100_000_000)
    for wrong in ("", "0x", -1, None):
        with pytest.raises(InvalidInput):
            rate_of(wrong)
