"""Kinds of work for tests of jobs, done for real: files that are hashed, and work that does what a test tells it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aibrother_replicator.jobs.runner import JobRunner
from aibrother_replicator.jobs.thread import BookThread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from aibrother_replicator.jobs.work import Progress


class HashTree:
    """Hashes the files of a folder, in order of their names; a file named `bad-…` fails as long as it is there.

    Args:
        log: a file that gets a line for each file that is begun with; None for none.
        every: files from one checkpoint to the next.
    """

    def __init__(self, log: Path | None = None, every: int = 3) -> None:
        self._log = log
        self._every = every

    async def run(self, request: Mapping[str, Any], progress: Progress) -> None:
        folder = Path(request["folder"])
        names = sorted(path.name for path in folder.iterdir())
        if progress.only is not None:
            names = [name for name in names if name in progress.only]
        progress.expect(objects=len(names), size=sum((folder / name).stat().st_size for name in names))
        todo = [name for name in names if progress.cursor is None or name > progress.cursor]
        for number, name in enumerate(todo, 1):
            await progress.breathe()
            if self._log is not None:
                with self._log.open("a") as log:
                    log.write(f"{name}\n")
            size = await asyncio.to_thread(_hash, folder / name)
            if name.startswith("bad-"):
                progress.failed(name, "this one is bad")
            else:
                progress.done(objects=1, size=size)
            if number % self._every == 0:
                await progress.checkpoint(name)
        progress.result({"files": len(names)})


def _hash(path: Path) -> int:
    with path.open("rb") as file:
        hashlib.file_digest(file, "sha256")
        return file.tell()


class Steps:
    """Does nothing but what a test lets it do.

    Attributes:
        begun: how often it was begun, with which cursor and names.
        script: what it does, called with the number of the run and its progress.
    """

    def __init__(self, script: Callable[[int, Progress], Any]) -> None:
        self.begun: list[tuple[Any, frozenset[str] | None]] = []
        self.script = script

    async def run(self, request: Mapping[str, Any], progress: Progress) -> None:
        self.begun.append((progress.cursor, progress.only))
        await self.script(len(self.begun), progress)


@contextlib.asynccontextmanager
async def running(path: Path, kinds: Mapping[str, Any], **settings: Any) -> AsyncIterator[JobRunner]:
    """A runner on a book, closed at the end."""
    runner = JobRunner(BookThread(path), **settings)
    for kind, work in kinds.items():
        runner.register(kind, work)
    await runner.start()
    try:
        yield runner
    finally:
        await runner.close(2.0)


async def state_of(runner: JobRunner, job: str, *states: str) -> dict[str, Any]:
    """Wait until a job is in one of these states."""
    async with asyncio.timeout(10):
        async with contextlib.aclosing(runner.view.watch(job)) as watch:
            async for seen in watch:
                if seen["state"] in states:
                    return seen
    raise AssertionError(f"{job} is {(await runner.view.get(job))['state']}, not {states}")
