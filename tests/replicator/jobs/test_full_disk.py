"""A disk that is full while jobs run: nothing crashes, what can't be written is said, and it goes on by itself."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from typing import TYPE_CHECKING

import pytest

from aibrother_node.errors import DiskFull, Temporary
from replicator.jobs.works import Gate, Steps, running, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aibrother_replicator.jobs.work import Progress


@contextlib.contextmanager
def full(path: Path, room: int = 0) -> Iterator[None]:
    """No file of this process gets longer than the database's log is: what SQLite sees of a full disk, or a quota."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = path.with_name(path.name + "-wal")
    resource.setrlimit(resource.RLIMIT_FSIZE, ((log.stat().st_size if log.exists() else 0) + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.sqlite3"


async def test_a_checkpoint_waits_for_room(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gate, written = Gate(), asyncio.Event()

    async def script(run: int, progress: Progress) -> None:
        progress.expect(objects=3000)
        for number in range(1000):
            progress.failed(f"object {number}", "x" * 300)
        progress.done(objects=1000)
        await progress.checkpoint("a")
        written.set()
        await gate.wait(progress)
        progress.done(objects=1000)
        await progress.checkpoint("b")
        await gate.wait(progress)

    work = Steps(script)
    async with running(path, {"steps": work, "other": work}, stall_after=1.0) as runner:
        job = await runner.submit("steps", {})
        await asyncio.wait_for(written.wait(), 10)
        with full(path):
            gate.let_through()
            async with asyncio.timeout(10):
                async for seen in runner.view.watch(job):
                    if seen["errors"][0]["name"] is None:
                        break
            assert "no space left" in seen["errors"][0]["reason"]
            assert seen["objects"]["done"] == 2000
            assert (await state_of(runner, job, "stalled"))["state"] == "stalled", "the alarm is raised"
            with pytest.raises(DiskFull):
                await runner.submit("other", {})
            assert (await runner.pause(job))["state"] == "paused", "what is asked for has its effect"
            assert (await runner.resume(job))["state"] == "running"
            assert len(await runner.view.page()) == 1
        gate.open()
        seen = await state_of(runner, job, "failed")
        assert seen["objects"] == {"total": 3000, "done": 2000, "failed": 1000}
        assert len(seen["errors"]) == 100
        assert seen["errors"][0]["name"] is not None, "the trouble is over"
    assert caplog.text.count("has to wait") == 1
    assert "Traceback" not in caplog.text


async def test_an_end_waits_for_room(path: Path) -> None:
    gate = Gate()

    async def script(run: int, progress: Progress) -> None:
        await gate.wait(progress)
        progress.done(objects=1)
        progress.result({"x": "y" * 200_000})

    work = Steps(script)
    async with running(path, {"steps": work}) as runner:
        job = await runner.submit("steps", {})
        await state_of(runner, job, "running")
        with full(path, 8192):  # the state is written, the result is not
            gate.open()
            async with asyncio.timeout(10):
                async for seen in runner.view.watch(job):
                    if seen["errors"]:
                        break
            assert (seen["state"], seen["objects"]["done"]) == ("running", 1)
        assert (await state_of(runner, job, "done"))["errors"] == []
    async with running(path, {"steps": work}) as runner:
        assert (await runner.view.get(job))["state"] == "done"


async def test_the_node_ends_while_the_disk_is_full(path: Path) -> None:
    gate = Gate()

    async def script(run: int, progress: Progress) -> None:
        await gate.wait(progress)
        progress.done(objects=1)
        progress.result({"x": "y" * 200_000})
        await progress.checkpoint("a")

    work = Steps(script)
    async with running(path, {"steps": work}, grace=0.2) as runner:
        job = await runner.submit("steps", {})
        await state_of(runner, job, "running")
        gate.open()
        with full(path):
            async with asyncio.timeout(10):
                async for seen in runner.view.watch(job):
                    if seen["errors"]:
                        break
            await runner.close(0.5)
    async with running(path, {"steps": work}) as runner:
        seen = await state_of(runner, job, "done")
        assert seen["objects"]["done"] == 1
        assert work.begun == [(None, None), (None, None)]


async def test_the_node_begins_while_the_disk_is_full(path: Path) -> None:
    gate = Gate()

    async def script(run: int, progress: Progress) -> None:
        await gate.wait(progress)

    work = Steps(script)
    async with running(path, {"steps": work}) as runner:
        job = await runner.submit("steps", {})
        await state_of(runner, job, "running")
    gate.open()
    with full(path):
        runner_context = running(path, {"steps": work})
        runner = await runner_context.__aenter__()
        with pytest.raises(Temporary):
            await runner.submit("steps", {})
        with pytest.raises(Temporary):
            await runner.view.page()
    try:
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(Temporary):
                    await state_of(runner, job, "done")
                    break
                await asyncio.sleep(0.05)
    finally:
        await runner_context.__aexit__(None, None, None)
