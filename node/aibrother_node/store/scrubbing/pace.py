"""How fast a scrub reads: a token bucket, and less of it while the machine is busy. Pure, but for `pressure_now`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LOWEST: Final = 1 / 8
"""Of the rate, however busy the machine is: a scrub that never ends finds nothing."""
_BURST: Final = 1.0  # seconds' worth of bytes that may be read at once
_BUSY_IO: Final = 40.0  # percent of time in which somebody waits for the disk (PSI, some avg10) that count as full
_CALM_IO: Final = 5.0
_BUSY_CPU: Final = 2.0  # runnable processes a core that count as full
_CALM_CPU: Final = 1.0
_AVERAGE: Final = re.compile(rb"^some avg10=([0-9.]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Pressure:
    """How busy the machine is.

    Attributes:
        io: percent of the last ten seconds in which some process waited for the disk; 0 where the kernel doesn't say.
        load: runnable processes a core, over a minute.
    """

    io: float = 0.0
    load: float = 0.0


def share(pressure: Pressure) -> float:
    """What share of its rate a scrub takes: 1 on a calm machine, down to `LOWEST`, falling evenly in between."""
    busy = max(
        (pressure.io - _CALM_IO) / (_BUSY_IO - _CALM_IO),
        (pressure.load - _CALM_CPU) / (_BUSY_CPU - _CALM_CPU),
    )
    return 1.0 - (1.0 - LOWEST) * min(max(busy, 0.0), 1.0)


class Bucket:
    """A token bucket of bytes.

    Args:
        rate: bytes a second; 0 sets no bound.
        now: seconds of any clock that doesn't go back.
    """

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._tokens = rate * _BURST
        self._at = now

    def take(self, size: int, share: float, now: float) -> float:
        """Take so many bytes, which may be more than there are.

        Args:
            size: in bytes.
            share: of the rate that counts until the next call.
            now: the clock's time.

        Returns:
            Seconds to wait before the next call.
        """
        if self._rate <= 0:
            return 0.0
        rate = self._rate * share
        self._tokens = min(self._tokens + (now - self._at) * rate, self._rate * _BURST) - size
        self._at = now
        return max(0.0, -self._tokens / rate)


def pressure_now() -> Pressure:
    """How busy this machine is. Reads two small files of /proc."""
    io = 0.0
    try:
        found = _AVERAGE.search(Path("/proc/pressure/io").read_bytes())
        io = 0.0 if found is None else float(found[1])
    except (OSError, ValueError):
        pass
    return Pressure(io, os.getloadavg()[0] / (os.cpu_count() or 1))
