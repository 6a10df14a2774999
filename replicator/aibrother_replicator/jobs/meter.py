"""How quick a job is, when it will be through, and whether it has stopped moving. Pure: `now` is passed in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aibrother_replicator.jobs.model import Counts

WINDOW: Final = 20.0
"""Seconds over which the rate is taken."""
STALL_AFTER: Final = 60.0
"""Seconds without any progress after which a job counts as stalled: more than one step of any work takes."""
_STEP: Final = WINDOW / 40  # seconds that share one mark, so that there are few


@dataclass(frozen=True, slots=True)
class _Mark:
    at: float
    objects: int
    size: int


class Meter:
    """Watches one job's numbers.

    Args:
        now: seconds of any clock that never goes back; all others are of the same.
        counts: where it begins.
        stall_after: seconds without progress.
    """

    def __init__(self, now: float, counts: Counts, stall_after: float = STALL_AFTER) -> None:
        self._stall_after = stall_after
        self._marks: deque[_Mark] = deque()
        self.restart(now, counts)

    def restart(self, now: float, counts: Counts) -> None:
        """Begin anew, as after a pause: nothing of what was before counts."""
        self._marks.clear()
        self._marks.append(_Mark(now, counts.objects_done, counts.bytes_done))
        self._moved = now

    def alive(self, now: float) -> None:
        """Something has moved that isn't counted."""
        self._moved = now

    def see(self, now: float, counts: Counts) -> None:
        """Take notice of progress."""
        self._moved = now
        if len(self._marks) > 1 and now - self._marks[-2].at < _STEP:
            self._marks.pop()
        self._marks.append(_Mark(now, counts.objects_done, counts.bytes_done))
        self._forget(now)

    def rate(self, now: float) -> float:
        """Bytes a second within the window; it falls while nothing moves, and is 0 when the window has passed."""
        return self._speed(now)[1]

    def eta(self, now: float, counts: Counts) -> float | None:
        """Seconds until all is done at this speed; None where that can't be known."""
        objects, size = self._speed(now)
        left = [
            (total - done, speed)
            for total, done, speed in (
                (counts.bytes_total, counts.bytes_done, size),
                (counts.objects_total, counts.objects_done + counts.objects_failed, objects),
            )
            if total is not None
        ]
        for remaining, speed in left:  # bytes say it better than objects, where there are any left
            if remaining > 0:
                return remaining / speed if speed > 0 else None
        return 0.0 if left else None

    def stalled(self, now: float) -> bool:
        """Whether nothing has moved for so long that somebody should look."""
        return now - self._moved >= self._stall_after

    def _speed(self, now: float) -> tuple[float, float]:
        """Objects and bytes a second."""
        self._forget(now)
        first, last = self._marks[0], self._marks[-1]
        span = max(now - max(first.at, now - WINDOW), 1.0)  # one second at least: a first mark says little
        return (last.objects - first.objects) / span, (last.size - first.size) / span

    def _forget(self, now: float) -> None:
        """Keep one mark from before the window: what came after it came within."""
        while len(self._marks) > 1 and self._marks[1].at <= now - WINDOW:
            self._marks.popleft()
