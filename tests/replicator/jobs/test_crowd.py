"""Many people at once, and a runner that begins and ends: whatever they ask for, it stays consistent."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from aibrother_node.errors import Conflict, NodeError, NotFound, Temporary
from aibrother_replicator.jobs import runner as runner_module
from counts import rounds
from replicator.jobs.works import running

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pytest

    from aibrother_replicator.jobs.runner import JobRunner
    from aibrother_replicator.jobs.work import Progress


class Busy:
    """Does ten objects, some badly, now and then not at all; never two at a time of one kind."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.at_work = 0

    async def run(self, request: Mapping[str, Any], progress: Progress) -> None:
        self.at_work += 1
        try:
            assert self.at_work == 1
            names = sorted(progress.only) if progress.only is not None else [f"{n}" for n in range(10)]
            progress.expect(objects=len(names))
            for number in range(progress.cursor or 0, len(names)):
                await progress.breathe()
                if self._rng.random() < 0.1:
                    progress.failed(names[number], "badly")
                else:
                    progress.done(objects=1)
                await progress.checkpoint(number + 1)
                if self._rng.random() < 0.02:
                    raise NodeError("not at all")
                await asyncio.sleep(self._rng.random() * 0.002)
        finally:
            self.at_work -= 1


async def person(runner: JobRunner, rng: random.Random, until: float, refused: Counter[str]) -> None:
    """Asks for this and that, and looks at what comes of it."""
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        await asyncio.sleep(rng.random() * 0.01)
        try:
            jobs = [one["id"] for one in await runner.view.page(most=12)]
            what = rng.randrange(7)
            if what == 0 or not jobs:
                await runner.submit(rng.choice("ab"), {"n": rng.randrange(6)})
            elif what < 5:
                change = (runner.pause, runner.resume, runner.resume, runner.retry, runner.cancel)[rng.randrange(5)]
                await change(rng.choice(jobs))
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05), contextlib.aclosing(runner.view.watch(rng.choice(jobs))) as watch:
                        async for _ in watch:
                            pass
        except (Conflict, NotFound, Temporary) as error:
            refused[type(error).__name__] += 1


async def test_a_crowd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "MAX_OPEN", 8)
    rng = random.Random(11)
    path = tmp_path / "index.sqlite3"
    refused: Counter[str] = Counter()
    for _ in range(rounds(4, 100)):
        works = {kind: Busy(rng) for kind in "ab"}
        async with running(path, works, grace=0.2) as runner:
            until = asyncio.get_running_loop().time() + 0.4
            await asyncio.gather(*(person(runner, rng, until, refused) for _ in range(12)))
    assert refused["Conflict"] > 0
    async with running(path, {kind: Busy(rng) for kind in "ab"}) as runner:
        async with asyncio.timeout(30):
            while jobs := await runner.view.current(2.0**40):
                for one in jobs:
                    if one["state"] == "paused":
                        with contextlib.suppress(Conflict):
                            await runner.resume(one["id"])
                await asyncio.sleep(0.02)
        ended = await runner.view.page(most=1000)
        for one in ended:
            objects = one["objects"]
            assert one["state"] in ("done", "failed", "cancelled")
            assert objects["done"] + objects["failed"] <= (objects["total"] or 0) <= 10
            if one["state"] == "done":
                assert objects == {"total": 10, "done": 10, "failed": 0}
            assert not [error for error in one["errors"] if "fault of this program" in error["reason"]]
            names = [error["name"] for error in one["errors"] if error["name"] is not None]
            assert len(set(names)) == len(names) == objects["failed"]
        assert {one["state"] for one in ended} == {"done", "failed", "cancelled"}
        assert runner.view.watchers == 0
