"""Phi-accrual failure detection (Hayashibara, Défago, Yared, Katayama 2004) over the arrivals of a node's records.

Phi says how surprising a node's silence is: at phi, a node that is alive would be silent for so long once in 10^phi
times. Nodes sign their record again at least once a refresh interval, and at once when something changes; so shorter
intervals than that say nothing of how long silence is normal, and count as the refresh interval. Nor do longer ones
than two of them, such as a partition makes: they count as two, so that a death is noticed within five, whatever was.
"""

from __future__ import annotations

import math
from typing import Final

_SAMPLES: Final = 16
_LEAST_DEVIATION: Final = 0.15
"""Of the refresh interval: what gossip needs to bring a record, with losses, under ordinary circumstances."""
_MOST: Final = 300.0  # where the tail of the distribution leaves the range of floats


class PhiDetector:
    """The arrivals of one node's records.

    Args:
        refresh: seconds after which a live node signs its record again at the latest.
        seen: when its first record is from.
    """

    __slots__ = ("_deviation", "_intervals", "_last", "_mean", "_refresh")

    def __init__(self, refresh: float, seen: float) -> None:
        self._refresh = refresh
        self._last = seen
        self._intervals: tuple[float, ...] = ()
        self._learn()

    @property
    def last(self) -> float:
        """When it was last heard of."""
        return self._last

    def heard(self, now: float, *, after_silence: bool) -> None:
        """A newer record has come.

        Args:
            now: when.
            after_silence: the node counted as dead: how long it was away says nothing of its rhythm.
        """
        if after_silence:
            self._intervals = ()
            self._learn()
        elif now > self._last:
            self._intervals = (
                *self._intervals[1 - _SAMPLES :],
                min(max(now - self._last, self._refresh), 2 * self._refresh),
            )
            self._learn()
        self._last = max(self._last, now)

    def phi(self, now: float) -> float:
        """How surprising the silence is; 0 to 300, growing with it."""
        silent = now - self._last
        if silent <= 0:
            return 0.0
        # -log10 of the normal distribution's tail
        tail = math.erfc((silent - self._mean) / (self._deviation * math.sqrt(2))) / 2
        return _MOST if tail <= 10**-_MOST else max(0.0, -math.log10(tail))

    def dead(self, now: float, threshold: float) -> bool:
        """Whether phi has reached a threshold of 1 or more; this is asked of every member in every round."""
        return now - self._last > self._mean and self.phi(now) >= threshold  # before the mean phi is below 0.31

    def _learn(self) -> None:
        samples = self._intervals or (self._refresh,)
        self._mean = sum(samples) / len(samples)
        variance = sum((one - self._mean) ** 2 for one in samples) / len(samples)
        self._deviation = max(math.sqrt(variance), _LEAST_DEVIATION * self._refresh)
