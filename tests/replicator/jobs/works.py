"""Kinds of work for tests of jobs, done for real: files that are hashed, and work that does what a test tells it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aibrother_replicator.jobs.runner import JobRunner
from aibrother_replicator.jobs.thread import BookThread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from aibrother_replicator.jobs.work import Progress


class HashTree:
    """Hashes the files of a folder, in order of their names; those whose names begin in a certain way fail.

    Args:
        log: a file that gets a line for each file that is begun with; None for none.
        every: files from one checkpoint to the next.
        bad: how the names of those begin that fail.
    """

    def __init__(self, log: Path | None = None, every: int = 3, bad: str = "bad-") -> None:
        self._log = log
        self._every = every
        self._bad = bad

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
            size = await asyncio.to_thread(_hash, folder / name, request.get("times", 1))
            if name.startswith(self._bad):
                progress.failed(name, "this one is bad")
            else:
                progress.done(objects=1, size=size)
            if number % self._every == 0:
                await progress.checkpoint(name)
        progress.result({"files": len(names)})


def make_tree(folder: Path, files: int, bad: tuple[int, ...] = (), size: int = 100) -> Path:
    """A folder of files for `HashTree`: the n-th, from 0, has n + 1 times `size` bytes."""
    folder.mkdir()
    for n in range(files):
        (folder / f"{'bad-' if n in bad else ''}{n:0{len(str(files - 1))}}").write_bytes(bytes(size * (n + 1)))
    return folder


class Gate:
    """Where work waits until the test lets it through."""

    def __init__(self) -> None:
        self._tickets = asyncio.Semaphore(0)
        self._open = False

    def let_through(self) -> None:
        """Once."""
        self._tickets.release()

    def open(self) -> None:
        """From now on."""
        self._open = True

    def close(self) -> None:
        """From now on not."""
        self._open = False

    async def wait(self, progress: Progress) -> None:
        """Wait as work does that can be paused and stopped."""
        while True:
            await progress.breathe()
            if self._open:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._tickets.acquire(), 0.02)
                return


def _hash(path: Path, times: int) -> int:
    with path.open("rb") as file:
        for _ in range(times):
            file.seek(0)
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


def listener() -> socket.socket:
    """A socket on a free port of loopback."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


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
