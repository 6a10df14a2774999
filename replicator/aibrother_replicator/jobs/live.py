"""A job that hasn't ended, as the process that works at it sees it. Pure: `now` is passed in, others write it down.

What the work tells is shown at once and durable with the next checkpoint. So there are two sets of numbers: `told`, and
those of `job`, which are what would be there after a crash.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.errors import InvalidInput
from aibrother_replicator.jobs.meter import STALL_AFTER, Meter
from aibrother_replicator.jobs.model import MAX_NAMED, Counts, Job, move, stall

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SHOWN: Final = 100
"""Errors that are shown with a job, newest first; the numbers say how many there are."""
MAX_NAME: Final = 1_000
"""Characters of a failed object's name; what has a longer one is only counted."""
MAX_REASON: Final = 500
"""Characters of a reason that are kept."""
MAX_JSON: Final = 256 << 10
"""Characters of a cursor, a request, or a result."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An object that could not be done.

    Attributes:
        name: of the object.
        reason: why.
        at: seconds since 1970.
    """

    name: str
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is to be made durable in one transaction: numbers, where to go on, and what failed since the last one."""

    job: str
    attempt: int
    counts: Counts
    cursor: str
    result: str | None
    failures: tuple[Failure, ...]


class LiveJob:
    """One job that hasn't ended.

    Args:
        job: as the book has it.
        named: the names of what failed in this attempt.
        shown: the newest errors of this attempt, oldest first.
        now: seconds of a clock that never goes back, as everywhere here but for `Failure.at`.
        stall_after: seconds without progress after which it counts as stalled.

    Attributes:
        job: its state now, and its numbers as of the last checkpoint.
        told: its numbers now.
        trouble: what keeps it from going on, for people; it goes on by itself when that is over.
    """

    def __init__(
        self,
        job: Job,
        named: Iterable[str],
        shown: Iterable[Failure],
        now: float,
        stall_after: float = STALL_AFTER,
    ) -> None:
        self.job = job
        self.told = job.counts
        self.trouble: str | None = None
        self._result: Mapping[str, Any] | None = job.result
        self._named = set(named)
        self._shown = deque(shown, maxlen=SHOWN)
        self._failures: dict[str, Failure] = {}
        self._meter = Meter(now, job.counts, stall_after)

    # -- what the work tells

    def expect(self, now: float, *, objects: int | None, size: int | None) -> None:
        """Totals of this attempt; what earlier ones have done comes on top."""
        if objects is not None:
            self.told = replace(self.told, objects_total=self.job.before.objects_done + _count(objects))
        if size is not None:
            self.told = replace(self.told, bytes_total=self.job.before.bytes_done + _count(size))
        self._meter.alive(now)

    def done(self, now: float, *, objects: int, size: int) -> None:
        """Objects and bytes that are done since the last call."""
        if not _count(objects) + _count(size):
            return
        told = self.told
        self.told = replace(told, objects_done=told.objects_done + objects, bytes_done=told.bytes_done + size)
        self._meter.see(now, self.told)

    def failed(self, now: float, name: str, reason: str, at: float) -> None:
        """An object that could not be done; told of twice in one attempt, it counts once."""
        failure = Failure(name[:MAX_NAME], " ".join(reason.split())[:MAX_REASON] or "no reason given", at)
        if name not in self._named:
            self.told = replace(self.told, objects_failed=self.told.objects_failed + 1)
            if len(name) <= MAX_NAME and len(self._named) < MAX_NAMED:
                self._named.add(name)
        elif any(shown.name == failure.name for shown in self._shown):
            self._shown = deque((shown for shown in self._shown if shown.name != failure.name), maxlen=SHOWN)
        if name in self._named:
            self._failures[name] = failure
        self._shown.append(failure)
        self._meter.see(now, self.told)

    def result(self, value: Mapping[str, Any]) -> None:
        """What came of it.

        Raises:
            InvalidInput: it isn't small JSON.
        """
        dump(value)
        self._result = dict(value)

    # -- durable numbers

    def checkpoint(self, now: float, cursor: Any) -> Checkpoint:
        """What has to be written so that the work goes on from `cursor`; then call `kept`, or `not_kept`.

        Raises:
            InvalidInput: the cursor isn't small JSON.
        """
        return self._checkpoint(now, dump(cursor))

    def last_checkpoint(self, now: float) -> Checkpoint:
        """All that was told, with nowhere to go on from: the work has gone through, or has been stopped for good."""
        return self._checkpoint(now, "null")

    def _checkpoint(self, now: float, cursor: str) -> Checkpoint:
        self._meter.alive(now)
        failures, self._failures = tuple(self._failures.values()), {}
        result = None if self._result is None else dump(self._result)
        return Checkpoint(self.job.id, self.job.attempt, self.told, cursor, result, failures)

    def kept(self, checkpoint: Checkpoint) -> None:
        """A checkpoint is durable."""
        result = None if checkpoint.result is None else json.loads(checkpoint.result)
        self.job = replace(self.job, counts=checkpoint.counts, cursor=json.loads(checkpoint.cursor), result=result)
        self.trouble = None

    def not_kept(self, checkpoint: Checkpoint) -> None:
        """A checkpoint is given up; what failed is told with the next one."""
        self._failures = {failure.name: failure for failure in checkpoint.failures} | self._failures

    # -- what is shown

    def look(self, now: float) -> bool:
        """Raise the alarm where nothing moves, or end it.

        Returns:
            Whether the state has changed.
        """
        before = self.job
        if self._meter.stalled(now):
            self.job = stall(self.job)
        else:
            self.job = move(self.job)
        return self.job is not before

    def restart_meter(self, now: float) -> None:
        """It goes on after a pause: how quick it was before says nothing."""
        self._meter.restart(now, self.told)

    def speed(self, now: float) -> tuple[float, float | None]:
        """Bytes a second, and the seconds that are left at that; 0 and None while it isn't worked at."""
        if not self.job.state.working:
            return 0.0, None
        return self._meter.rate(now), self._meter.eta(now, self.told)

    def as_told(self) -> Job:
        """The job with its numbers of now."""
        return replace(self.job, counts=self.told, result=self._result)

    def errors(self) -> list[Failure]:
        """The newest errors, newest first."""
        return list(reversed(self._shown))


def dump(value: Any) -> str:
    """Small JSON, the same for equal values.

    Raises:
        InvalidInput: it is none, or too large.
    """
    try:
        text = json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"not JSON: {error}") from None
    if len(text) > MAX_JSON:
        raise InvalidInput(f"{len(text)} characters of JSON, at most {MAX_JSON} are kept with a job")
    return text


def _count(number: int) -> int:
    if number < 0:
        raise ValueError(f"a count of {number}")
    return number
