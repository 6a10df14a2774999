"""This node's own record: signed again in time, and above whatever else its key has signed.

A later record with our key means that somebody restored a backup of this data directory, or runs a copy of it. We go
above it once; twice within a minute is an alarm, and from then on we go above at most once a refresh interval: two that
outbid each other would keep the whole fleet busy. The alarm ends when nothing of the kind was met for ten minutes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aibrother_node.fleet.record import MAX_NUMBER, Description, SignedRecord

if TYPE_CHECKING:
    import random

    from aibrother_node.fleet.signatures import Signatures

_CLONE_WINDOW: Final = 60.0
_ALARM: Final = 600.0


class OwnRecord:
    """What this node says of itself, and under which number.

    Args:
        signatures: this node's key.
        refresh: seconds after which it is signed again though nothing changed.
        rng: spreads that, so that not all of a fleet that was started at once signs again at once.
        now: the time; also the first incarnation, which is thereby above those of former runs.

    Attributes:
        says: what was signed last.
    """

    def __init__(self, signatures: Signatures, refresh: float, rng: random.Random, now: float) -> None:
        self.says = Description()
        self._signatures = signatures
        self._refresh = refresh
        self._rng = rng
        self._incarnation = max(0, int(now))
        self._version = 0
        self._due_at = 0.0
        self._met_at: float | None = None
        self._alarm_until = 0.0
        self._not_above_before = 0.0

    def due(self, now: float) -> bool:
        """Whether it is to be signed again."""
        return now >= self._due_at

    def sign(self, says: Description, now: float) -> SignedRecord:
        """Sign the next one."""
        self.says = says
        if self._version >= MAX_NUMBER:
            self._incarnation, self._version = self._incarnation + 1, 0
        self._version += 1
        self._due_at = now + self._refresh * self._rng.uniform(0.8, 1.0)
        return SignedRecord.make(self._signatures, self._incarnation, self._version, now, says)

    def go_above(self, met: SignedRecord, now: float) -> SignedRecord | None:
        """A later record with our key was met; returns ours above it, or None where we went above one a moment ago."""
        if self._met_at is not None and now - self._met_at < _CLONE_WINDOW:
            self._alarm_until = now + _ALARM
        if now < self._not_above_before:
            return None
        if self.alarm(now) is not None:
            self._not_above_before = now + self._refresh
        self._met_at = now
        self._incarnation = min(met.record.incarnation + 1, MAX_NUMBER)
        self._version = 0
        return self.sign(self.says, now)

    def alarm(self, now: float) -> str | None:
        """What an operator has to be told, if anything."""
        if now >= self._alarm_until:
            return None
        return "another node runs with this node's key: of two copies of a data directory, end one"
