"""The line between the supervisor and one child: JSON objects, one a line, over a socket pair.

Downwards: `{"config": …}` first and, with the number of the reload, at every reload, `{"draining": true}` to control
when workers begin to drain, `{"drain": seconds}` once. Upwards: `{"event": "ready"}`, `{"event": "alive"}` every few
seconds, `{"event": "reloaded", "reload": number, "error": reason or null}`. Control may ask:
`{"event": "reload", "question": number}` upwards is answered by `{"answer": number, …}` once all processes have the
new configuration, `{"event": "origins", …}` by who set which key. When the line closes, the other side is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import json
import os
import signal
from typing import TYPE_CHECKING, Any, Final, Self

from aibrother_node.errors import Temporary

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


class Questions:
    """What a child asks of the supervisor: each waits for its own answer.

    Args:
        channel: the child's end of the line.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._numbers = itertools.count(1)
        self._open: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def ask(self, event: str, patience: float) -> dict[str, Any]:
        """Ask, and wait at most `patience` seconds for the answer.

        Raises:
            Temporary: none came.
        """
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._open[number] = answer
        try:
            self._channel.send(event=event, question=number)
            async with asyncio.timeout(patience):
                return await answer
        except TimeoutError:
            raise Temporary(f"the supervisor has not answered within {patience:g} s") from None
        finally:
            del self._open[number]

    def answered(self, message: dict[str, Any]) -> None:
        """Hand over an answer; one that nobody waits for any more is dropped."""
        waiting = self._open.get(message["answer"])
        if waiting is not None and not waiting.done():
            waiting.set_result(message)


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
