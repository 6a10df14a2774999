"""Control's hold on what workers know of the fleet: a file that breaks or goes is made anew while the node runs."""

from __future__ import annotations

import asyncio
import errno
import logging
import sqlite3
from typing import TYPE_CHECKING, Final

from aibrother_node.fleet.view import FleetViewWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LOG: Final = logging.getLogger(__name__)
_PAUSE: Final = 5.0
_PASSING: Final = ("SQLITE_FULL", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_NOMEM")


class ViewKeeper:
    """Writes the view, one change at a time.

    Args:
        path: `run/fleet.sqlite3`.
        renewed: called after a new file was begun while the node runs: what peers have is to be written again.
    """

    def __init__(self, path: Path, renewed: Callable[[], None]) -> None:
        self._path = path
        self._renewed = renewed
        self._writer: FleetViewWriter | None = None
        self._lock = asyncio.Lock()
        self._not_before = 0.0

    async def start(self) -> None:
        """Forget what a former run wrote; where that can't be done now, the next change tries again."""
        try:
            async with self._lock:
                self._writer = await asyncio.to_thread(FleetViewWriter, self._path)
        except (sqlite3.Error, OSError) as error:
            _LOG.error("%s can't be written, so no client is told of other nodes: %s", self._path, error)

    async def change(self, work: Callable[[FleetViewWriter], None]) -> None:
        """Write something.

        Raises:
            sqlite3.Error, OSError: it can't be written now.
        """
        async with self._lock:
            if self._writer is None or await asyncio.to_thread(self._writer.is_lost):
                if asyncio.get_running_loop().time() < self._not_before:
                    raise OSError(errno.EAGAIN, "it was begun anew a moment ago, and is lost again")
                await self._begin_anew()
            assert self._writer is not None
            try:
                await asyncio.to_thread(work, self._writer)
            except sqlite3.Error as error:
                if not str(getattr(error, "sqlite_errorname", "")).startswith(_PASSING):
                    await self._drop()
                raise

    async def close(self) -> None:
        """Let go of the file."""
        async with self._lock:
            await self._drop()

    async def _begin_anew(self) -> None:
        await self._drop()
        self._writer = await asyncio.to_thread(FleetViewWriter, self._path)
        self._not_before = asyncio.get_running_loop().time() + _PAUSE  # on a full disk it is lost again at once
        _LOG.warning("%s was lost or broken, and is begun anew", self._path)
        self._renewed()

    async def _drop(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await asyncio.to_thread(writer.close)
