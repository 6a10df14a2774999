"""What a job is, and which changes of its state there are. Pure: the time is passed in, nothing is written.

    queued ──► running ◄──► stalled          stalled: no progress for a while, an alarm; it is still being worked at
      ▲ │        │ ▲  └────────┘
      │ ▼        ▼ │                          paused keeps its place: other jobs of its kind wait for it
      └─paused◄────┘                          (one that was paused while it waited in the queue keeps nobody waiting)
    running, stalled ──► done | failed        failed: as a whole, or some of its objects could not be done
    all of these ──► cancelled                what is being worked at is `cancelling` until the work has stopped
    failed ──► queued                         a retry: the same job goes on

A run of the work goes over all objects, or, where the last one went through and some failed, over those alone
(`selective`). What is durable of a job is what its last checkpoint said, cursor and numbers in one: whatever ends a
process, the next one goes on from there, and nothing is counted twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_NAMED: Final = 10_000
"""Failed objects of which name and reason are kept; more are only counted, and a retry then does everything again."""


class State(StrEnum):
    """What a job can be."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    STALLED = "stalled"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens by itself."""
        return self in _ENDED

    @property
    def working(self) -> bool:
        """Whether it is being worked at."""
        return self in _WORKING


_ENDED: Final = frozenset({State.DONE, State.FAILED, State.CANCELLED})
_WORKING: Final = frozenset({State.RUNNING, State.STALLED})


@dataclass(frozen=True, slots=True)
class Counts:
    """How far a job is; a total is None as long as nobody knows it."""

    objects_total: int | None = None
    objects_done: int = 0
    objects_failed: int = 0
    bytes_total: int | None = None
    bytes_done: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """One job.

    Attributes:
        id: 16 hex digits; ids sort as the jobs were made.
        kind, request: what is to be done; the request is small JSON.
        created, started, ended: seconds since 1970; a retry starts anew.
        counts: as of the last checkpoint.
        cursor: where the work goes on.
        result: what came of it: small JSON.
        reason: why it failed as a whole.
        cancelling: it is to be cancelled, and the work has not stopped yet.
        attempt: 1, and one more with each run over what failed in the run before.
        selective: this attempt is for what failed in the last one, and nothing else.
        whole: the work has gone through.
        before: what earlier attempts have done of it.
    """

    id: str
    kind: str
    request: Mapping[str, Any]
    created: float
    state: State = State.QUEUED
    started: float | None = None
    ended: float | None = None
    counts: Counts = field(default_factory=Counts)
    cursor: Any = None
    result: Mapping[str, Any] | None = None
    reason: str | None = None
    cancelling: bool = False
    attempt: int = 1
    selective: bool = False
    whole: bool = False
    before: Counts = field(default_factory=Counts)

    @property
    def keeps_others_waiting(self) -> bool:
        """Whether other jobs of its kind wait for this one to end."""
        return self.state.working or (self.state is State.PAUSED and self.started is not None)


def id_of(milliseconds: int, salt: int) -> str:
    """The id of a job that is made so many milliseconds after 1970, with 20 random bits: ids sort by time."""
    return f"{milliseconds:011x}{salt:05x}"


# -- what people ask for


def pause(job: Job) -> Job:
    """Hold a job.

    Raises:
        Conflict: there is nothing to hold.
    """
    if job.cancelling or not (job.state.working or job.state is State.QUEUED):
        raise _wrong(job, "paused")
    return replace(job, state=State.PAUSED)


def resume(job: Job, *, at_work: bool) -> Job:
    """Let a paused job go on.

    Args:
        job: as it is.
        at_work: its work has begun in this process, and waits; else it gets its turn.

    Raises:
        Conflict: it isn't paused.
    """
    if job.cancelling or job.state is not State.PAUSED:
        raise _wrong(job, "resumed")
    return replace(job, state=State.RUNNING if at_work else State.QUEUED)


def cancel(job: Job, now: float, *, at_work: bool) -> Job:
    """Cancel a job: at once, or where its work has begun in this process, as soon as that has stopped.

    Raises:
        Conflict: it has ended.
    """
    if job.state.ended:
        raise _wrong(job, "cancelled")
    if at_work:
        return replace(job, cancelling=True)
    return replace(job, state=State.CANCELLED, ended=now, cancelling=False)


def retry(job: Job, *, named: int) -> Job:
    """Let a failed job go on: with what failed, or where the work broke off, from there.

    Args:
        job: as it is.
        named: of how many failed objects the names are known.

    Raises:
        Conflict: it has not failed.
    """
    if job.state is not State.FAILED:
        raise _wrong(job, "retried")
    again = replace(job, state=State.QUEUED, started=None, ended=None, reason=None, result=None)
    if not job.whole:
        return again
    again = replace(again, attempt=job.attempt + 1, whole=False, cursor=None)
    if job.counts.objects_failed > named:
        return replace(again, selective=False, counts=Counts(), before=Counts())
    before = Counts(objects_done=job.counts.objects_done, bytes_done=job.counts.bytes_done)
    return replace(again, selective=True, counts=replace(job.counts, objects_failed=0), before=before)


# -- what the runner sees


def begin(job: Job, now: float) -> Job:
    """Its work begins, or goes on after a restart."""
    assert job.state is State.QUEUED, job
    return replace(job, state=State.RUNNING, started=now if job.started is None else job.started)


def stall(job: Job) -> Job:
    """Nothing has moved for too long."""
    return replace(job, state=State.STALLED) if job.state is State.RUNNING else job


def move(job: Job) -> Job:
    """It moves again."""
    return replace(job, state=State.RUNNING) if job.state is State.STALLED else job


def finish(job: Job, counts: Counts, now: float) -> Job:
    """The work has gone through: done, or failed where an object did."""
    state = State.FAILED if counts.objects_failed else State.DONE
    return replace(job, state=state, counts=counts, ended=now, whole=True, cursor=None, cancelling=False)


def break_off(job: Job, reason: str, now: float) -> Job:
    """The work could not go on; what was told since the last checkpoint is told again by a retry, and so forgotten."""
    return replace(job, state=State.FAILED, reason=reason, ended=now, cancelling=False)


def stop(job: Job, counts: Counts, now: float) -> Job:
    """The work of a job that is to be cancelled has stopped."""
    return replace(job, state=State.CANCELLED, counts=counts, ended=now, cancelling=False)


def after_restart(job: Job, now: float) -> Job:
    """What a new process makes of a job that the one before it has left."""
    if job.state.ended:
        return job
    if job.cancelling:
        return replace(job, state=State.CANCELLED, ended=now, cancelling=False)
    return replace(job, state=State.QUEUED) if job.state.working else job


def _wrong(job: Job, what: str) -> Conflict:
    state = "being cancelled" if job.cancelling else job.state.value
    return Conflict(f"the job {job.id} is {state} and can't be {what}")
