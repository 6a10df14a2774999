"""The public plane's connections together: how many there are, how long each may take, and how they end.

- A request's header has `header_timeout` seconds from its first byte, an idle connection `keepalive_timeout`; whoever
  takes longer is simply cut by `sweep`. (RFC 9110 has 408 for that; who drips a header doesn't read it.)
- Above `max_connections`, and during a drain, a new one is told 503 and closed, before anything is read from it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.web.public.connection import Connection
from aibrother_node.web.public.outgoing import HttpDate, render_head

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from aibrother_node.config import LimitsSection
    from aibrother_node.web.public.handler import PublicPlane

_OVERLOADED: Final = (
    ("Content-Length", "0"),
    ("Cache-Control", "no-store"),
    ("Retry-After", "5"),
    ("Access-Control-Allow-Origin", "*"),
)


class PublicServer:
    """All connections of one worker; call it for a protocol, as event loops do.

    Args:
        plane: answers the requests.
        limits: the configured bounds; `limits` may be replaced while it runs.

    Attributes:
        date: the Date field's value.
    """

    def __init__(self, plane: PublicPlane, limits: LimitsSection) -> None:
        self.plane = plane
        self.limits = limits
        self.date = HttpDate()
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False

    def __call__(self) -> Connection:
        """Make the protocol of a new connection."""
        return Connection(self)

    def __len__(self) -> int:
        return len(self._connections)

    def admit(self, connection: Connection) -> bool:
        """Take a new connection in, or tell it to come back later, and close."""
        if len(self._connections) < self.limits.max_connections and not self._draining:
            self._connections.add(connection)
            return True
        self.plane.traffic.count(503)
        if connection.transport is not None:
            connection.transport.write(render_head(503, _OVERLOADED, self.date.now(), http_1_0=False, keep_alive=False))
            connection.transport.close()
        return False

    def forget(self, connection: Connection) -> None:
        """A connection is lost."""
        self._connections.discard(connection)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what an answer has to wait for; `drain` cancels what is left."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def sweep(self, now: float) -> int:
        """Cut the connections that take too long; call it once a second.

        Args:
            now: the loop's time.

        Returns:
            How many there were.
        """
        overdue = [connection for connection in self._connections if connection.deadline < now]
        for connection in overdue:
            connection.abort()
        return len(overdue)

    async def drain(self, patience: float) -> int:
        """Let running answers finish, close the rest, wait at most `patience` seconds, then cut.

        Returns:
            How many answers were cut.
        """
        # what was accepted just before this and has no protocol yet is told 503 when it gets one
        self._draining = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while True:
            for connection in [connection for connection in self._connections if connection.is_idle]:
                connection.close()
            cut = sum(not connection.is_over for connection in self._connections)
            if cut == 0 or loop.time() >= deadline:
                break
            await asyncio.sleep(0.05)
        for connection in list(self._connections):
            connection.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.plane.sends.close()
        return cut
