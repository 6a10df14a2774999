"""Frames that were seen already: each nonce counts once, for as long as its time is believed."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

_CEILING: Final = 65_536


class ReplayGuard:
    """The nonces of the last minutes, of all senders together.

    Where there are more than 65,536 the oldest go: a frame that is replayed after that only says again what is known.

    Args:
        tolerance: seconds that a frame's time may be off.
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._seen: OrderedDict[tuple[str, bytes], float] = OrderedDict()

    def first(self, sender: str, nonce: bytes, at: float, now: float) -> bool:
        """Whether this is the first frame of the sender with this nonce."""
        while self._seen:
            oldest, until = next(iter(self._seen.items()))
            if until >= now and len(self._seen) < _CEILING:
                break
            del self._seen[oldest]
        if (sender, nonce) in self._seen:
            return False
        self._seen[sender, nonce] = max(at, now) + self._tolerance
        return True
