"""An aiohttp application on listening sockets, with bounds that aiohttp doesn't have: for the planes of control.

- At most `most` connections, those in the middle of a TLS handshake among them. Where another one comes, the one that
  has been silent for the longest is cut: whoever holds many open keeps nobody out who asks when connected.
- Whoever sends nothing for `idle` seconds is cut, also in the middle of an answer that they don't read. An answer that
  goes on for long keeps its connection by saying that it `is_taken`.
- Request bodies are never decompressed: no ceiling is meant for what comes out of that.
- What isn't HTTP, and who goes away before the answer, is not worth a line in the log, or strangers fill it.

(A header that drips is ended by aiohttp itself, `idle` seconds after the connection or the last answer began.)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Sequence

    from aiohttp.typedefs import Handler, Middleware

_HANDSHAKE: Final = 10.0
_LINGERING: Final = 1.0  # seconds in which the rest of a body that was refused may come
_NO_DESCRIPTOR: Final = 0.2  # seconds to wait where none is left


class BoundedServer:
    """Serves an application until it is closed.

    Args:
        application: answers.
        most: connections at a time.
        idle: seconds in which something has to come.
        shutdown: seconds for answers that are under way at the end.
        count: called with the status of each answer; what is no HTTP is not among them.
    """

    def __init__(
        self,
        application: web.Application,
        *,
        most: int,
        idle: float = 75.0,
        shutdown: float = 2.0,
        count: Callable[[int], None] | None = None,
    ) -> None:
        if count is not None:
            application.middlewares.insert(0, _counting(count))
        self._runner = web.AppRunner(
            application,
            access_log=None,
            logger=_log_of_aiohttp(),
            keepalive_timeout=idle,
            lingering_time=_LINGERING,
            shutdown_timeout=shutdown,
            auto_decompress=False,
        )
        self._most = most
        self._idle = idle
        self._last: dict[_Connection, float] = {}  # when something came, the longest silent first
        self._sockets: list[socket.socket] = []
        self._tasks: list[asyncio.Task[None]] = []

    def __len__(self) -> int:
        return len(self._last)

    async def start(self, sockets: Sequence[socket.socket], context: ssl.SSLContext | None, backlog: int) -> None:
        """Listen.

        Args:
            sockets: bound; closed at the end.
            context: TLS settings; None for plain HTTP.
            backlog: connections that may wait to be accepted.
        """
        await self._runner.setup()
        self._tasks.append(asyncio.create_task(self._sweep(), name="sweep"))
        for sock in sockets:
            sock.setblocking(False)
            sock.listen(backlog)
            self._sockets.append(sock)
            self._tasks.append(asyncio.create_task(self._accept(sock, context), name="accept"))

    async def close(self) -> None:
        """Take no more connections, let answers finish for a moment, close the rest."""
        handshakes = [connection.task for connection in self._last if connection.transport is None]
        ending = [task for task in (*self._tasks, *handshakes) if task is not None]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        for sock in self._sockets:
            sock.close()
        await self._runner.cleanup()

    # -- what connections tell

    def heard(self, connection: _Connection) -> None:
        """Something came."""
        if self._last.pop(connection, None) is not None:
            self._last[connection] = asyncio.get_running_loop().time()

    def lost(self, connection: _Connection) -> None:
        """It is over."""
        self._last.pop(connection, None)

    # -- inside

    async def _accept(self, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        server = self._runner.server
        assert server is not None
        while True:
            try:
                accepted, _ = await loop.sock_accept(sock)
            except OSError:  # no descriptor is left, or who called has gone
                self._cut_silent(1)
                await asyncio.sleep(_NO_DESCRIPTOR)
                continue
            self._cut_silent(len(self._last) + 1 - self._most)
            connection = _Connection(self, server())
            self._last[connection] = loop.time()
            task = asyncio.create_task(self._begin(connection, accepted, context))
            connection.task = task
            task.add_done_callback(partial(_close_unless_begun, connection, accepted))
            await asyncio.sleep(0)  # while many wait, accepting doesn't

    async def _begin(self, connection: _Connection, accepted: socket.socket, context: ssl.SSLContext | None) -> None:
        connection.begun = True
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=context,
                ssl_handshake_timeout=None if context is None else min(_HANDSHAKE, self._idle),
            )
        except OSError:  # a handshake that failed or took too long
            self.lost(connection)
        except asyncio.CancelledError:
            self.lost(connection)
            raise

    def _cut_silent(self, number: int) -> None:
        for connection in list(self._last)[: max(0, number)]:
            self._cut(connection)

    def _cut(self, connection: _Connection) -> None:
        self.lost(connection)
        if connection.transport is not None:
            connection.transport.abort()
        elif connection.task is not None:
            connection.task.cancel()

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(1.0, self._idle / 4))
            # aiohttp itself ends, more politely, who is between two requests
            overdue = loop.time() - self._idle - 1.0
            while self._last and self._last[oldest := next(iter(self._last))] < overdue:
                self._cut(oldest)


def is_taken(request: web.Request) -> None:
    """Count it as a sign of life that a client has taken what was written of an answer so far, where it has."""
    transport = request.transport
    if transport is not None and transport.get_write_buffer_size() == 0:
        connection = transport.get_protocol()
        if isinstance(connection, _Connection):
            connection.is_alive()


class _Connection(asyncio.Protocol):
    """One connection: passes on to aiohttp's protocol what comes, and tells the server of it."""

    def __init__(self, server: BoundedServer, handler: web.RequestHandler) -> None:
        self._server = server
        self._handler = handler
        self.transport: asyncio.Transport | None = None
        self.task: asyncio.Task[None] | None = None
        self.begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._handler.connection_made(transport)

    def is_alive(self) -> None:
        self._server.heard(self)

    def data_received(self, data: bytes) -> None:
        self._server.heard(self)
        self._handler.data_received(data)

    def eof_received(self) -> None:
        self._handler.eof_received()

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._server.lost(self)
        self._handler.connection_lost(error)


def _close_unless_begun(connection: _Connection, accepted: socket.socket, task: asyncio.Task[None]) -> None:
    if not connection.begun:
        accepted.close()
    if not task.cancelled():
        with contextlib.suppress(Exception):
            task.result()


def _counting(count: Callable[[int], None]) -> Middleware:
    @web.middleware
    async def counting(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await handler(request)
        except web.HTTPException as error:
            count(error.status)
            raise
        except ConnectionError:  # the client has left; nobody was answered
            raise
        except Exception:
            count(500)
            raise
        count(response.status)
        return response

    return counting


def _log_of_aiohttp() -> logging.Logger:
    log = logging.getLogger(f"{__name__}.aiohttp")
    log.addFilter(_is_ours)  # the same one again changes nothing
    return log


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether what is logged is a failure of this program."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError | ConnectionError)
