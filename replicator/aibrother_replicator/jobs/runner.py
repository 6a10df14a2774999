"""The runner: owns the tasks of all jobs, and is the only one that changes their state.

One job of a kind is worked at, the others wait in the order in which they were asked for; what is asked for twice is
one job. A change of state shows as soon as it is made and is written down at once; what can't be written, because the
disk is full, is tried again until it can. Only a new job, a retry and a job's end are durable before they show.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.errors import Conflict, NodeError, NotFound, Temporary
from aibrother_replicator.jobs import model
from aibrother_replicator.jobs.document import document
from aibrother_replicator.jobs.live import LiveJob, dump
from aibrother_replicator.jobs.meter import STALL_AFTER
from aibrother_replicator.jobs.model import Job, State
from aibrother_replicator.jobs.progress import BookedProgress
from aibrother_replicator.jobs.slot import Slot, next_wait
from aibrother_replicator.jobs.view import JobsView

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from aibrother_replicator.jobs.live import Checkpoint
    from aibrother_replicator.jobs.thread import BookThread
    from aibrother_replicator.jobs.work import Work

_LOG: Final = logging.getLogger(__name__)
MAX_OPEN: Final = 100
"""Jobs of a kind that haven't ended; more are not taken."""
GRACE: Final = 5.0
"""Seconds that work has to stop by itself, between two of its steps, before it is broken off where it is."""
_TICK: Final = 0.5  # seconds between looks at what moves
_STOPPED: Final = "stopped"
_MOST_REASON: Final = 1000  # characters


class JobRunner:
    """The jobs of one node.

    Args:
        book: where they are written down; the runner opens and closes it.
        ended: told of each job that ends.
        clock: seconds since 1970.
        stall_after: seconds without progress after which a job is stalled.
        grace: seconds that work has to stop by itself.

    Attributes:
        view: the jobs as people see them.
    """

    def __init__(
        self,
        book: BookThread,
        *,
        ended: Callable[[Job], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
        stall_after: float = STALL_AFTER,
        grace: float = GRACE,
    ) -> None:
        self._book = book
        self._tell_ended = ended
        self._clock = clock
        self._stall_after = stall_after
        self._grace = grace
        self._kinds: dict[str, Work] = {}
        self._slots: dict[str, Slot] = {}
        self._submitting = asyncio.Lock()
        self._opened = asyncio.Event()
        self._closing = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_id = 0
        self.view = JobsView(book, self._slots, self._opened, self._closing)

    def register(self, kind: str, work: Work) -> None:
        """Say how a kind of job is done; before `start`."""
        self._kinds[kind] = work

    @property
    def kinds(self) -> list[str]:
        """The kinds of jobs that there are."""
        return sorted(self._kinds)

    async def start(self) -> None:
        """Open the book, and go on with what an earlier process has left; on a full disk, as soon as it isn't."""
        try:
            await self._open()
        except Temporary as error:
            _LOG.error("jobs have to wait: %s", error)
            self._spawn(self._open_later(), "open jobs")
        self._spawn(self._tick(), "watch jobs")

    async def close(self, patience: float) -> None:
        """Stop all work at its last checkpoint, within about so many seconds; the next start goes on from there."""
        self._closing.set()
        slots = [slot for slot in self._slots.values() if slot.task is not None]
        for slot in slots:
            slot.stop(min(patience, self._grace))
        for slot in self._slots.values():
            slot.touch()
        working = [slot.task for slot in slots if slot.task is not None]
        if working:
            await asyncio.wait(working, timeout=patience + 1)
        tasks = [*self._tasks, *working]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._book.close()

    # -- what people ask for

    async def submit(self, kind: str, request: Mapping[str, Any]) -> str:
        """Have something done.

        Args:
            kind: of which kind it is.
            request: what exactly; small JSON.

        Returns:
            The id of the job; of one that hasn't ended and does the same, where there is one.

        Raises:
            NotFound: there is no such kind.
            InvalidInput: the request isn't small JSON.
            Temporary: too many jobs wait, the node ends, or the disk is full.
        """
        self._check_open()
        if kind not in self._kinds:
            raise NotFound(f"no job is a {kind!r}")
        wanted = dump(request)
        async with self._submitting:
            for slot in self._slots.values():
                job = slot.live.job
                if job.kind == kind and not job.cancelling and dump(job.request) == wanted:
                    return job.id
            self._check_number(kind)
            self._last_id = max(self._last_id + 1, int(self._clock() * 1000))
            job = Job(model.id_of(self._last_id, secrets.randbits(20)), kind, dict(request), self._clock())
            await self._book.run(lambda book: book.insert(job))
            self._take_up(job)
        self._turn(kind)
        return job.id

    async def pause(self, job: str) -> dict[str, Any]:
        """Hold a job, between two of its steps.

        Raises:
            NotFound: there is no such job.
            Conflict: its state doesn't allow it.
        """
        slot = await self._slot(job, "paused")
        slot.become(model.pause(slot.live.job))
        return await self._changed(slot)

    async def resume(self, job: str) -> dict[str, Any]:
        """Let a paused job go on.

        Raises:
            NotFound, Conflict: as `pause`.
        """
        slot = await self._slot(job, "resumed")
        slot.become(model.resume(slot.live.job, at_work=slot.task is not None))
        slot.live.restart_meter(_now())
        return await self._changed(slot)

    async def cancel(self, job: str) -> dict[str, Any]:
        """Cancel a job; where it is being worked at, it is `cancelling` until that has stopped.

        Raises:
            NotFound, Conflict: as `pause`.
        """
        slot = await self._slot(job, "cancelled")
        cancelled = model.cancel(slot.live.job, self._clock(), at_work=slot.task is not None)
        if not cancelled.state.ended:
            slot.become(cancelled)
            slot.stop(self._grace)
            return await self._changed(slot)
        slot.ending = True
        try:
            await self._book.run(lambda book: book.end(cancelled, None))
        except BaseException:
            slot.ending = False
            self._turn(slot.live.job.kind)
            raise
        return await self._leave(slot, cancelled)

    async def retry(self, job: str) -> dict[str, Any]:
        """Let a failed job go on with what failed; the same job, with the same id.

        Raises:
            NotFound, Conflict: as `pause`.
            Temporary: as `submit`.
        """
        self._check_open()
        async with self._submitting:
            if job in self._slots:
                model.retry(self._slots[job].live.job, named=0)  # raises: it hasn't ended
            found = await self._book.run(lambda book: book.get(job))
            if found is None:
                raise NotFound(f"there is no job {job}")
            named = await self._book.run(lambda book: len(book.named(found)))
            again = model.retry(found, named=named)
            self._check_number(again.kind)
            await self._book.run(lambda book: book.retry(again))
            slot = await self._take_up_again(again)
        self._turn(again.kind)
        return self.view.document(slot)

    # -- inside: beginning and ending

    async def _open(self) -> None:
        await self._book.open()
        now = self._clock()
        for job in await self._book.run(lambda book: book.open_jobs()):
            found = model.after_restart(job, now)
            if found.kind not in self._kinds and not found.state.ended:
                found = model.break_off(found, f"this program knows no jobs of the kind {found.kind!r}", now)
            if found.state.ended:
                await self._book.run(lambda book, found=found: book.end(found, None))  # type: ignore[misc]
                self._tell_ended(found)
                continue
            if found != job:
                await self._book.run(lambda book, found=found: book.save_state(found))  # type: ignore[misc]
                _LOG.info("%s %s goes on where it was", found.kind, found.id)
            await self._take_up_again(found)
        self._opened.set()
        for kind in self._kinds:
            self._turn(kind)

    async def _open_later(self) -> None:
        wait = next_wait()
        while True:
            await asyncio.sleep(wait)
            wait = next_wait(wait)
            with contextlib.suppress(Temporary):
                self._slots.clear()
                await self._open()
                return

    def _take_up(self, job: Job) -> Slot:
        slot = Slot(LiveJob(job, (), (), _now(), self._stall_after))
        self._slots[job.id] = slot
        return slot

    async def _take_up_again(self, job: Job) -> Slot:
        named, errors = await self._book.run(lambda book: (book.named(job), book.failures(job)))
        slot = Slot(LiveJob(job, named, reversed(errors), _now(), self._stall_after))
        self._slots[job.id] = slot
        return slot

    def _turn(self, kind: str) -> None:
        """Begin with the next job of a kind, where none is worked at."""
        if self._closing.is_set():
            return
        waiting = []
        for slot in self._slots.values():
            job = slot.live.job
            if job.kind != kind:
                continue
            if slot.task is not None or job.keeps_others_waiting:
                return
            if job.state is State.QUEUED and not slot.ending:
                waiting.append(slot)
        if waiting:
            slot = min(waiting, key=lambda slot: slot.live.job.id)
            slot.become(model.begin(slot.live.job, self._clock()))
            slot.live.restart_meter(_now())
            slot.task = asyncio.create_task(self._work_at(slot), name=f"{kind} {slot.live.job.id}")

    async def _work_at(self, slot: Slot) -> None:
        """All of one run of a job's work, and its end."""
        reason = await self._run(slot)
        slot.worked()
        live, now = slot.live, self._clock()
        if reason == _STOPPED and not live.job.cancelling:
            return  # the node ends: nothing more is written, and the next start goes on
        checkpoint: Checkpoint | None = live.last_checkpoint(_now())
        if reason is None:
            ended = model.finish(live.job, live.told, now)
        elif live.job.cancelling:
            ended = model.stop(live.job, live.told, now)
        else:
            ended, checkpoint = model.break_off(live.job, reason[:_MOST_REASON], now), None
        slot.ending = True
        try:
            await slot.insist(lambda: self._book.run(lambda book: book.end(ended, checkpoint)), unless=self._closing)
        except asyncio.CancelledError:
            return
        await self._leave(slot, ended)

    async def _run(self, slot: Slot) -> str | None:
        """Have the work done.

        Returns:
            None where it has gone through, `_STOPPED`, or why it could not go on.
        """
        live = slot.live
        try:
            await self._save_state(slot)
            only = None
            if live.job.selective:
                only = await slot.insist(lambda: self._book.run(lambda book: book.only(live.job)), unless=slot.stopping)
            await self._kinds[live.job.kind].run(live.job.request, BookedProgress(self._book, slot, only, self._clock))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            # cancelled by nobody here: the event loop ends, as it does when the supervisor is gone
            ending = task is not None and task.cancelling() > 0
            return _STOPPED if ending or slot.stopping.is_set() else "its work was broken off by itself"
        except NodeError as error:
            # what it needs may be ending before it
            return _STOPPED if self._closing.is_set() else str(error) or type(error).__name__
        except Exception as error:
            _LOG.exception("%s %s failed by a fault of this program", live.job.kind, live.job.id)
            return f"a fault of this program, see its log: {type(error).__name__}"
        return None

    async def _leave(self, slot: Slot, ended: Job) -> dict[str, Any]:
        """A job has ended, durably."""
        try:
            slot.final = await self.view.read(ended.id)
        except NodeError:  # it is written down and can't be read now
            slot.final = document(ended, slot.live.errors())
        self._slots.pop(ended.id, None)
        slot.touch()
        self._tell_ended(ended)
        level = logging.WARNING if ended.state is State.FAILED else logging.INFO
        counts = slot.final["objects"]
        _LOG.log(
            level,
            "%s %s: %s, %d objects done, %d failed%s",
            *(ended.kind, ended.id, ended.state.value, counts["done"], counts["failed"]),
            f": {ended.reason}" if ended.reason else "",
        )
        slot.task = None
        self._turn(ended.kind)
        return slot.final

    # -- inside: changes and looks

    async def _slot(self, job: str, what: str) -> Slot:
        self._check_open()
        slot = self._slots.get(job)
        if slot is None:
            found = await self.view.read(job)
            raise Conflict(f"the job {job} is {found['state']} and can't be {what}")
        if slot.ending:
            raise Conflict(f"the job {job} is just ending and can't be {what}")
        return slot

    async def _changed(self, slot: Slot) -> dict[str, Any]:
        """A job's state was changed: write it down, and let whoever waits for its turn have it."""
        await self._save_state(slot)
        self._turn(slot.live.job.kind)
        return self.view.document(slot)

    async def _save_state(self, slot: Slot) -> None:
        job = slot.live.job
        slot.touch()
        if slot.ending:
            return  # what is being written says more, and may be written already
        try:
            await self._book.run(lambda book: book.save_state(job))
        except NodeError as error:
            if slot.unsaved is None:
                _LOG.error("the state of %s %s can't be written down yet: %s", job.kind, job.id, error)
            slot.unsaved = next_wait(slot.unsaved)
            slot.save_at = _now() + slot.unsaved
        else:
            slot.unsaved = None

    async def _tick(self) -> None:
        """Look at what moves, again and again."""
        while True:
            await asyncio.sleep(_TICK)
            for slot in list(self._slots.values()):
                if slot.live.look(_now()):
                    job = slot.live.job
                    if job.state is State.STALLED:
                        _LOG.warning("%s %s is stalled: nothing moved for a while", job.kind, job.id)
                    await self._save_state(slot)
                elif slot.unsaved is not None and _now() >= slot.save_at and not slot.ending:
                    await self._save_state(slot)
                rate, _ = slot.live.speed(_now())
                slot.show((slot.live.job.state, slot.live.told, slot.live.trouble, round(rate)))

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise Temporary("the node ends")
        if not self._opened.is_set():
            raise Temporary("jobs can't be written down yet", retry_after=5)

    def _check_number(self, kind: str) -> None:
        """One kind of which many wait keeps no other from beginning."""
        if sum(slot.live.job.kind == kind for slot in self._slots.values()) >= MAX_OPEN:
            raise Temporary(f"{MAX_OPEN} jobs wait already", retry_after=60)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _now() -> float:
    return asyncio.get_running_loop().time()
