"""The line between the supervisor and one child: JSON objects, one a line, over a socket pair.

Downwards: `{"config": …}` first and at every reload, `{"draining": true}` to control when
workers begin to drain, `{"drain": seconds}` once. Upwards: `{"event": "ready"}`,
`{"event": "alive"}` every few seconds, `{"event": "reloaded", …}`. When it closes, the other side is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator

HEARTBEAT: Final = 2.0
_LINE_CEILING: Final = 4 << 20
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


class Channel:
    """One end of the line, on an event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, end: socket.socket) -> Self:
        """Take over one end of a socket pair."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=_LINE_CEILING))

    def send(self, **message: Any) -> None:
        """Say something; whether it is heard shows in what comes back."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """What the other side says, until it is gone."""
        try:
            while line := await self._reader.readline():
                yield json.loads(line)
        except (ConnectionError, ValueError):
            return

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


async def beat(channel: Channel) -> None:
    """Say for ever that this process's event loop turns."""
    while True:
        channel.send(event="alive")
        await asyncio.sleep(HEARTBEAT)


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process when its parent dies, however it dies (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel was told
        os._exit(1)
