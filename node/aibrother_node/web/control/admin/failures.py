"""How often an address may fail: at most so many wrong tokens a minute, then 429.

With 256 random bits the limit protects no token; it keeps a stranger from filling the log and the audit. Whoever has a
good token always passes.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from typing import Final

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

WRONG_TOKENS: Final = 30
"""A minute, for each address."""
ROWS: Final = 120
"""Refusals a minute with a row of their own in the audit, for each status and caller; others are counted in one."""
_MAX_KEYS: Final = 1024  # each remembers as many times as its limit allows
_EVERYBODY_ELSE: Final = "*"


class FailureLimit:
    """Counts failures in moving windows, for a bounded number of keys.

    Args:
        amount: failures a minute.
    """

    def __init__(self, amount: int) -> None:
        self._limit: RateLimitItem = RateLimitItemPerMinute(amount)
        self._storage = MemoryStorage()
        self._windows = MovingWindowRateLimiter(self._storage)
        self._keys: OrderedDict[str, float] = OrderedDict()  # when each one failed last

    def failed(self, key: str) -> float | None:
        """Count a failure.

        Args:
            key: whose it is.

        Returns:
            None within the limit, else the seconds after which one fits again.
        """
        known = self._bounded(key)
        if self._windows.hit(self._limit, known):
            return None
        reset = self._windows.get_window_stats(self._limit, known).reset_time
        return max(1.0, math.ceil(reset - time.time()))

    def _bounded(self, key: str) -> str:
        """The key to count under: with very many at a time, new ones share one."""
        now = time.monotonic()
        while self._keys and next(iter(self._keys.values())) < now - 60:
            old, _ = self._keys.popitem(last=False)
            self._storage.clear(self._limit.key_for(old))  # it forgets the events of a key by itself, but not the key
        if key not in self._keys and len(self._keys) >= _MAX_KEYS:
            return _EVERYBODY_ELSE
        self._keys[key] = now
        self._keys.move_to_end(key)
        return key


def network_of(address: str) -> str:
    """Who an address belongs to: for IPv6 its /64, since one client has as many as it likes there (RFC 6177)."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
