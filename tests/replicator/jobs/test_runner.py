"""Jobs as they run: with a real book, and real work."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from aibrother_node.errors import Conflict, InvalidInput, NodeError, NotFound, Temporary
from aibrother_replicator.jobs import runner as runner_module
from aibrother_replicator.jobs import view as view_module
from aibrother_replicator.jobs.book import RECENT, read_jobs
from aibrother_replicator.jobs.model import Job, State
from replicator.jobs.works import Gate, HashTree, Steps, make_tree, running, state_of

if TYPE_CHECKING:
    from pathlib import Path

    from aibrother_replicator.jobs.runner import JobRunner
    from aibrother_replicator.jobs.work import Progress


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree", 10, bad=(2, 7))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.sqlite3"


async def test_a_job_from_begin_to_end(path: Path, tree: Path) -> None:
    ended: list[Job] = []
    async with running(path, {"hash": HashTree()}, ended=ended.append) as runner:
        job = await runner.submit("hash", {"folder": str(tree)})
        seen = await state_of(runner, job, "done", "failed")
        assert seen["state"] == "failed", "two could not be done"
        assert seen["objects"] == {"total": 10, "done": 8, "failed": 2}
        assert seen["bytes"] == {"total": 5_500, "done": 4_400}
        assert [(error["name"], error["reason"]) for error in seen["errors"]] == [
            ("bad-7", "this one is bad"),
            ("bad-2", "this one is bad"),
        ]
        assert seen["result"] == {"files": 10}
        assert seen["request"] == {"folder": str(tree)}
        assert seen["created"] <= seen["started"] <= seen["ended"]
        assert (seen["rate"], seen["eta"], seen["cancelling"]) == (0, None, False)
        assert [(one.id, one.state) for one in ended] == [(job, State.FAILED)]
    async with running(path, {"hash": HashTree()}) as runner:
        assert await runner.view.get(job) == seen, "the same after a restart"
        assert await runner.view.page() == [seen]
        with pytest.raises(NotFound):
            await runner.view.get("f" * 16)
        with pytest.raises(NotFound):
            await runner.submit("no-such-kind", {})
        with pytest.raises(InvalidInput):
            await runner.submit("hash", {"folder": "x" * 300_000})


async def test_a_retry_does_what_failed_and_nothing_else(path: Path, tree: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with running(path, {"hash": HashTree(log)}) as runner:
        job = await runner.submit("hash", {"folder": str(tree)})
        await state_of(runner, job, "failed")
        (tree / "bad-2").rename(tree / "2")  # gone by this name: there is nothing left to do for it
        log.unlink()
        again = await runner.retry(job)
        assert (again["id"], again["objects"]) == (job, {"total": 10, "done": 8, "failed": 0})
        seen = await state_of(runner, job, "failed")
        assert log.read_text() == "bad-7\n"
        assert seen["objects"] == {"total": 9, "done": 8, "failed": 1}
        assert [error["name"] for error in seen["errors"]] == ["bad-7"]
        (tree / "bad-7").write_bytes(b"mended")
        works: dict[str, Any] = {"hash": HashTree(log, bad="nothing")}
    async with running(path, works) as runner:
        log.unlink()
        await runner.retry(job)
        seen = await state_of(runner, job, "done")
        assert log.read_text() == "bad-7\n"
        assert seen["objects"] == {"total": 9, "done": 9, "failed": 0}
        assert seen["bytes"] == {"total": 4_406, "done": 4_406}
        assert seen["errors"] == []
        for change in (runner.retry, runner.pause, runner.resume, runner.cancel):
            with pytest.raises(Conflict, match="is done and can't be"):
                await change(job)
            with pytest.raises(NotFound):
                await change("0" * 16)


async def test_what_broke_off_goes_on_from_its_last_checkpoint(path: Path) -> None:
    async def script(run: int, progress: Progress) -> None:
        if run == 1:
            progress.expect(objects=4, size=40)
            progress.done(objects=1, size=10)
            progress.failed("second", "it is hard")
            await progress.checkpoint({"at": 2})
            progress.done(objects=1, size=10)
            progress.failed("fourth", "told of again")
            raise NodeError("the upstream is away")
        progress.done(objects=1, size=10)
        progress.failed("second", "still hard")
        live = await runner.view.get(job)
        assert [error["reason"] for error in live["errors"]] == ["still hard"]
        progress.failed("fourth", "hard as well")

    work = Steps(script)
    async with running(path, {"steps": work}) as runner:
        job = await runner.submit("steps", {})
        seen = await state_of(runner, job, "failed")
        assert seen["objects"] == {"total": 4, "done": 1, "failed": 1}
        assert [(error["name"], error["reason"]) for error in seen["errors"]] == [
            (None, "the upstream is away"),
            ("second", "it is hard"),
        ]
        await runner.retry(job)
        seen = await state_of(runner, job, "failed")
        assert work.begun == [(None, None), ({"at": 2}, None)]
        assert seen["objects"] == {"total": 4, "done": 2, "failed": 2}, "what failed twice is counted once"
        assert {(error["name"], error["reason"]) for error in seen["errors"]} == {
            ("second", "still hard"),
            ("fourth", "hard as well"),
        }
        await runner.retry(job)
        await state_of(runner, job, "done", "failed")
        assert work.begun[2] == (None, frozenset({"second", "fourth"}))


async def test_a_fault_in_the_work_fails_the_job_alone(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def script(run: int, progress: Progress) -> None:
        raise KeyError("secret")

    async with running(path, {"steps": Steps(script)}) as runner:
        job = await runner.submit("steps", {})
        seen = await state_of(runner, job, "failed")
        assert [error["reason"] for error in seen["errors"]] == ["a fault of this program, see its log: KeyError"]
        assert "secret" in caplog.text
        await runner.retry(job)
        await state_of(runner, job, "failed")


async def test_one_of_a_kind_the_others_in_order(path: Path) -> None:
    gate, order = Gate(), []

    async def script(run: int, progress: Progress) -> None:
        order.append(run)
        await gate.wait(progress)

    async with running(path, {"a": Steps(script), "b": Steps(script)}) as runner:
        first, second, third = [await runner.submit("a", {"n": n}) for n in range(3)]
        other = await runner.submit("b", {"n": 0})
        assert await runner.submit("a", {"n": 0}) == first, "running: joined"
        assert await runner.submit("a", {"n": 2}) == third, "queued: joined"
        await state_of(runner, first, "running")
        await state_of(runner, other, "running")
        assert (await runner.view.get(second))["state"] == "queued"
        await runner.pause(first)
        assert (await runner.view.get(second))["state"] == "queued", "a paused job keeps its place"
        await runner.pause(second)
        await runner.resume(first)
        gate.open()
        assert (await state_of(runner, first, "done"))["state"] == "done"
        await state_of(runner, third, "done")
        assert (await runner.view.get(second))["state"] == "paused", "it doesn't hold up who comes after it"
        await runner.resume(second)
        await state_of(runner, second, "done")
        assert await runner.submit("a", {"n": 0}) != first, "that one has ended"
        listed = [job["id"] for job in await runner.view.page(kind="a", most=10)]
        assert listed == sorted(listed, reverse=True)
        assert listed[1:] == [third, second, first]


async def test_pause_and_resume(path: Path) -> None:
    gate = Gate()

    async def script(run: int, progress: Progress) -> None:
        for _ in range(3):
            await gate.wait(progress)
            progress.done(objects=1)
            await progress.checkpoint(None)

    work = Steps(script)
    async with running(path, {"steps": work}) as runner:
        job = await runner.submit("steps", {})
        gate.let_through()
        await _until(lambda: runner.view.get(job), lambda seen: seen["objects"]["done"] == 1)
        assert (await runner.pause(job))["state"] == "paused"
        with pytest.raises(Conflict, match="is paused and can't be paused"):
            await runner.pause(job)
        gate.open()
        for _ in range(20):
            await asyncio.sleep(0)
        assert (await runner.view.get(job))["objects"]["done"] <= 2, "it comes to the end of its step, and no further"
        before = await runner.view.get(job)
    async with running(path, {"steps": work}) as runner:
        seen = await runner.view.get(job)
        assert (seen["state"], seen["objects"]) == ("paused", before["objects"])
        with pytest.raises(Conflict, match="is paused and can't be retried"):
            await runner.retry(job)
        assert work.begun == [(None, None)], "a paused job isn't begun with"
        assert (await runner.resume(job))["state"] in ("queued", "running")
        await state_of(runner, job, "done")
        assert len(work.begun) == 2


@pytest.mark.parametrize("stubborn", [False, True])
async def test_cancel(path: Path, stubborn: bool) -> None:
    gate, stopped = Gate(), asyncio.Event()

    async def script(run: int, progress: Progress) -> None:
        try:
            progress.done(objects=3, size=30)
            progress.failed("x", "bad")
            if stubborn:
                await asyncio.Event().wait()  # never looks whether it should stop
            await gate.wait(progress)
        finally:
            stopped.set()

    async with running(path, {"steps": Steps(script)}, grace=0.2) as runner:
        job = await runner.submit("steps", {})
        queued = await runner.submit("steps", {"n": 2})
        await state_of(runner, job, "running")
        assert (await runner.cancel(queued))["state"] == "cancelled"
        cancelling = await runner.cancel(job)
        assert (cancelling["state"], cancelling["cancelling"]) == ("running", True)
        assert (await runner.cancel(job))["cancelling"], "asked for twice"
        with pytest.raises(Conflict, match="is being cancelled"):
            await runner.pause(job)
        assert await runner.submit("steps", {}) != job, "nobody wants to join what is being cancelled"
        seen = await state_of(runner, job, "cancelled")
        assert stopped.is_set()
        assert (seen["objects"]["done"], seen["objects"]["failed"], seen["bytes"]["done"]) == (3, 1, 30)
        assert [error["name"] for error in seen["errors"]] == ["x"]
        for change in (runner.retry, runner.cancel):
            with pytest.raises(Conflict, match="is cancelled and can't be"):
                await change(job)


async def test_cancel_of_a_paused_job(path: Path) -> None:
    gate = Gate()

    async def script(run: int, progress: Progress) -> None:
        await gate.wait(progress)

    async with running(path, {"steps": Steps(script)}) as runner:
        job = await runner.submit("steps", {})
        await state_of(runner, job, "running")
        await runner.pause(job)
        await runner.cancel(job)
        await state_of(runner, job, "cancelled")


async def test_the_node_ends_and_begins(path: Path) -> None:
    gate = Gate()

    async def script(run: int, progress: Progress) -> None:
        progress.expect(objects=4)
        progress.done(objects=1)
        await progress.checkpoint(run)
        progress.done(objects=1)  # not durable: told again by the next run
        await gate.wait(progress)

    work = Steps(script)
    async with running(path, {"steps": work}) as runner:
        job = await runner.submit("steps", {})
        waiting = await runner.submit("steps", {"n": 2})
        await _until(lambda: runner.view.get(job), lambda seen: seen["objects"]["done"] == 2)
    listed = read_jobs(path, 0.0, 0.0)
    assert listed is not None
    assert [(one["id"], one["state"]) for one in listed] == [(waiting, "queued"), (job, "queued")]
    with pytest.raises(Temporary):
        await runner.submit("steps", {})
    async with running(path, {"steps": work}) as runner:
        gate.open()
        seen = await state_of(runner, job, "done")
        assert seen["objects"] == {"total": 4, "done": 3, "failed": 0}
        await state_of(runner, waiting, "done")
        assert [cursor for cursor, _ in work.begun] == [None, 1, None]


async def test_what_fails_because_the_node_ends_goes_on(path: Path) -> None:
    async def script(run: int, progress: Progress) -> None:
        try:
            while run == 1:
                await progress.breathe()
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            raise Temporary("what it needs has ended before it") from None

    work = Steps(script)
    async with running(path, {"steps": work}) as runner:
        job = await runner.submit("steps", {})
        await state_of(runner, job, "running")
    async with running(path, {"steps": work}) as runner:
        assert (await state_of(runner, job, "done"))["errors"] == []


async def test_a_kind_that_is_gone(path: Path) -> None:
    async with running(path, {"old": Steps(_wait)}) as runner:
        job = await runner.submit("old", {})
    async with running(path, {}) as runner:
        seen = await runner.view.get(job)
        assert (seen["state"], seen["errors"][0]["name"]) == ("failed", None)
        assert "'old'" in seen["errors"][0]["reason"]


async def test_the_alarm(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()

    async def script(run: int, progress: Progress) -> None:
        for _ in range(2):
            await gate.wait(progress)
            progress.done(objects=1)

    async with running(path, {"steps": Steps(script)}, stall_after=0.7) as runner:
        job = await runner.submit("steps", {})
        await state_of(runner, job, "stalled")
        assert "is stalled" in caplog.text
        assert runner.view.tally(["steps"])[("steps", "stalled")] == 1
        assert [one["id"] for one in await runner.view.page(state=State.STALLED)] == [job]
        assert await runner.view.page(state=State.RUNNING) == []
        assert await runner.submit("steps", {}) == job
        gate.let_through()
        await state_of(runner, job, "running")
        await runner.pause(job)
        await asyncio.sleep(1.3)
        assert (await runner.view.get(job))["state"] == "paused", "who is held can't stall"
        await runner.resume(job)
        gate.open()
        await state_of(runner, job, "done")


async def test_watchers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()

    async def script(run: int, progress: Progress) -> None:
        progress.expect(objects=1000)
        for number in range(1000):
            if number % 100 == 0:
                await gate.wait(progress)
            progress.done(objects=1)
            await progress.breathe()

    async with running(path, {"steps": Steps(script)}) as runner:
        job = await runner.submit("steps", {})
        quick = asyncio.create_task(_all(runner, job))
        slow = runner.view.watch(job)
        first = await anext(slow)
        assert first["state"] in ("queued", "running")
        gate.open()
        seen = await quick
        assert [one["state"] for one in (seen[0], seen[-1])] == ["running", "done"]
        done = [one["objects"]["done"] for one in seen]
        assert done == sorted(done)
        assert done[-1] == 1000
        assert [one async for one in slow] == [seen[-1]], "who is slow misses what was between, never the last"
        assert await _all(runner, job) == [seen[-1]], "who comes late sees how it ended"
        monkeypatch.setattr(view_module, "MAX_WATCHERS", 1)
        other = await runner.submit("steps", {"n": 1})
        gate.close()
        async with contextlib.aclosing(runner.view.watch(other)) as watch:
            await anext(watch)
            with pytest.raises(Temporary):
                await anext(runner.view.watch(other))
        async with contextlib.aclosing(runner.view.watch(other)) as watch:
            await anext(watch)
        waiting = asyncio.create_task(_all(runner, other))
        await asyncio.sleep(0)
    assert (await waiting)[-1]["state"] == "running", "the node ends: so do its watchers, without a final state"


async def test_a_loop_that_ends_fails_no_job(path: Path) -> None:
    async with running(path, {"steps": Steps(_wait)}) as runner:
        job = await runner.submit("steps", {})
        await state_of(runner, job, "running")
        (task,) = [task for task in asyncio.all_tasks() if task.get_name() == f"steps {job}"]
        task.cancel()
        await asyncio.wait([task])
    async with running(path, {"steps": Steps(_wait)}) as runner:
        assert (await state_of(runner, job, "running"))["errors"] == []


async def test_too_many(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "MAX_OPEN", 2)

    async def script(run: int, progress: Progress) -> None:
        await (_fail if run == 1 else _wait)(run, progress)

    async with running(path, {"steps": Steps(script), "other": Steps(_fail)}) as runner:
        failed = await runner.submit("steps", {})
        await state_of(runner, failed, "failed")
        jobs = [await runner.submit("steps", {"n": n}) for n in range(2)]
        with pytest.raises(Temporary, match="2 jobs wait"):
            await runner.submit("steps", {"n": 2})
        with pytest.raises(Temporary, match="2 jobs wait"):
            await runner.retry(failed)
        assert await runner.submit("steps", {"n": 1}) == jobs[1]
        await state_of(runner, await runner.submit("other", {}), "failed")


async def test_a_page(path: Path) -> None:
    async with running(path, {"fail": Steps(_fail), "steps": Steps(_wait)}) as runner:
        for n in range(5):
            await state_of(runner, await runner.submit("fail", {"n": n}), "failed")
        last = await runner.submit("steps", {})
        pages, before = [], None
        while page := await runner.view.page(before=before, most=2):
            pages.append([one["id"] for one in page])
            before = page[-1]["id"]
        assert [len(page) for page in pages] == [2, 2, 2]
        assert pages[0][0] == last
        assert len({job for page in pages for job in page}) == 6
        current = await runner.view.current(0.0)
        assert [one["id"] for one in current] == [job for page in pages for job in page]
        assert [one["id"] for one in await runner.view.current(2.0**40)] == [last], "long ago is not recently"
        assert read_jobs(path, 0.0, 0.0) is not None
        assert RECENT > 86_400


async def test_what_it_tells_is_bounded(path: Path) -> None:
    async def script(run: int, progress: Progress) -> None:
        if run == 1:
            for number in range(10_050):
                progress.failed(f"object {number}", f"because\x00\nof  {number} " + "x" * 1000)
            progress.failed("n" * 2000, "a long name")
            with pytest.raises(InvalidInput):
                await progress.checkpoint("x" * 300_000)
            with pytest.raises(InvalidInput):
                progress.result({"x": object()})
            with pytest.raises(ValueError, match="-1"):
                progress.done(size=-1)
            await progress.checkpoint(1)

    work = Steps(script)
    async with running(path, {"steps": work}) as runner:
        job = await runner.submit("steps", {})
        seen = await state_of(runner, job, "failed")
        assert seen["objects"]["failed"] == 10_051
        assert len(seen["errors"]) == 100
        assert max(len(error["reason"]) for error in seen["errors"]) <= 500
        await runner.retry(job)
        seen = await state_of(runner, job, "done")
        assert work.begun[1] == (None, None), "not all names are known, so all of it is done again"
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM jobs_failures").fetchone() == (0,)


async def _wait(run: int, progress: Progress) -> None:
    while True:
        await progress.breathe()
        await asyncio.sleep(0.01)


async def _fail(run: int, progress: Progress) -> None:
    raise NodeError("it can't be done")


async def _all(runner: JobRunner, job: str) -> list[dict[str, Any]]:
    async with asyncio.timeout(10):
        return [seen async for seen in runner.view.watch(job)]


async def _until(look: Any, is_it: Any) -> Any:
    async with asyncio.timeout(10):
        while not is_it(seen := await look()):
            await asyncio.sleep(0.01)
        return seen
