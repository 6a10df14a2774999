"""The public plane's connections: aiohttp parses, keeps alive and pipelines; here are the bounds that it lacks.

- A request's header has `header_timeout` seconds from its first byte (RFC 9110 has 408 for that; a client that drips
  its header is simply cut), an idle connection `keepalive_timeout`.
- Above `max_connections` a new one is told 503 and closed, before anything is read from it.
- What is no HTTP gets a problem document and no line in the log for each.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import web, web_protocol
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from aibrother_node.web.public.outgoing import HttpDate, Outgoing, render_head

if TYPE_CHECKING:
    from aibrother_node.config import LimitsSection
    from aibrother_node.web.public.handler import PublicPlane
    from aibrother_node.web.public.sender import Send

_LOG: Final = logging.getLogger(__name__)
_OVERLOADED: Final = (
    ("Content-Length", "0"),
    ("Cache-Control", "no-store"),
    ("Retry-After", "5"),
    ("Access-Control-Allow-Origin", "*"),
)
_WRITE_BUFFER: Final = 256 << 10  # of a TLS connection, beyond which its sender waits


class Connection(web_protocol.RequestHandler):
    """One client's connection.

    Attributes:
        writable: set while the transport takes more without growing its buffer.
    """

    def __init__(self, server: PublicServer, loop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        super().__init__(server, loop=loop, **kwargs)
        self._server = server
        self._header_timer: asyncio.TimerHandle | None = None
        self._out: socket.socket | None = None
        self.sending: Send | None = None
        self.ended = False
        self.writable = asyncio.Event()
        self.writable.set()

    def out(self) -> socket.socket:
        """A duplicate of the connection's socket, for the sender; open until the connection is lost."""
        if self._out is None:
            if self.transport is None:
                raise ConnectionResetError("the connection is lost")
            self._out = socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno()))
            self._out.setblocking(False)
        return self._out

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or refuse when there are too many."""
        assert isinstance(transport, asyncio.Transport)
        if self._server.is_full():
            self._server.refuse(transport)
            self._force_close = True
            return
        transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        super().connection_made(transport)
        self._start_header_timer()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client; the first of a header start its clock."""
        seen = self._request_count
        super().data_received(data)
        if self._request_count != seen:
            self._stop_header_timer()
        elif self._header_timer is None and self.is_idle() and data:
            self._start_header_timer()

    def eof_received(self) -> bool:  # type: ignore[override] # aiohttp's says None, asyncio's protocols may say more
        """The client says no more (it may still listen): answer what it asked, then close.

        Returns:
            Whether the transport is to stay open for writing; TLS has no such state (RFC 8446, 6.1).
        """
        super().eof_received()
        self.ended = True
        if self.transport is None or self.transport.get_extra_info("sslcontext") is not None:
            return False
        return not self.is_idle()

    def is_done(self) -> bool:
        """Whether no request is left and the last answer is out: TLS keeps some of it in memory once it is written."""
        if self._task_handler is not None and not self._task_handler.done():
            return False
        return self.transport is None or _unsent(self.transport) == 0

    def is_over(self) -> bool:
        """Whether the client has said its last and nothing of that waits for an answer."""
        return self.ended and not self._messages

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of everything."""
        self._stop_header_timer()
        self.writable.set()
        super().connection_lost(exc)
        if self.sending is not None:
            self.sending.cut("the connection is lost")
        if self._out is not None:
            self._out.close()
            self._out = None

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        super().pause_writing()
        self.writable.clear()

    def resume_writing(self) -> None:
        """The transport's buffer has room."""
        super().resume_writing()
        self.writable.set()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's text is for its own pages
    ) -> Outgoing:
        """Answer what could not be parsed or handled."""
        if isinstance(exc, HttpProcessingError):
            too_long = isinstance(exc, LineTooLong)
            return self._server.plane.malformed(
                request, *((431, "Request Header Fields Too Large") if too_long else (400, "Bad Request"))
            )
        _LOG.error("a request failed", exc_info=exc)
        return self._server.plane.malformed(request, status, "Internal Server Error")

    def is_idle(self) -> bool:
        """Whether a request is being waited for: neither one is at hand nor is one being answered or wound up."""
        return self._waiter is not None and not self._waiter.done()

    def _start_header_timer(self) -> None:
        self._header_timer = self._loop.call_later(self._server.limits.header_timeout, self._header_too_slow)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _header_too_slow(self) -> None:
        self._header_timer = None
        if self.is_idle() and self.transport is not None:
            self.transport.abort()


def _unsent(transport: asyncio.Transport) -> int:
    """Bytes in memory; a TLS transport of asyncio leaves out those that are encrypted already."""
    below = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    return transport.get_write_buffer_size() + (0 if below is None else below.get_write_buffer_size())


class PublicServer(web.Server):
    """All connections of one worker; call it for a protocol, as event loops do.

    Args:
        plane: answers the requests.
        limits: the configured bounds; `limits` may be replaced while it runs, for new connections.
    """

    def __init__(self, plane: PublicPlane, limits: LimitsSection) -> None:
        super().__init__(plane.handle)
        self.plane = plane
        self.limits = limits
        self._date = HttpDate()

    def __call__(self) -> Connection:
        """Make the protocol of a new connection."""
        limits = self.limits
        return Connection(
            self,
            self._loop,
            keepalive_timeout=limits.keepalive_timeout,
            max_line_size=limits.max_request_line,
            max_field_size=limits.max_header_field,
            max_headers=limits.max_headers,
            access_log=None,
            lingering_time=1.0,
            tcp_keepalive=True,
            logger=_LOG,
        )

    def is_full(self) -> bool:
        """Whether one more connection is one too many."""
        return len(self._connections) >= self.limits.max_connections

    def refuse(self, transport: asyncio.Transport) -> None:
        """Tell a client to come back later, and close."""
        transport.write(render_head(503, _OVERLOADED, self._date.now(), http_1_0=False, keep_alive=False))
        transport.close()

    def _all(self) -> list[Connection]:
        return cast("list[Connection]", list(self._connections))  # `__call__` makes no other kind

    async def drain(self, patience: float) -> int:
        """Let running answers finish, close the rest, wait at most `patience` seconds, then cut.

        Returns:
            How many answers were cut.
        """
        idle = [connection for connection in self._all() if connection.is_idle()]
        self.pre_shutdown()
        for connection in idle:
            # its task has just ended: a request on it would wait in vain; what TLS still holds goes out first
            if connection.transport is not None:
                connection.transport.close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while (
            cut := [connection for connection in self._all() if not connection.is_done()]
        ) and loop.time() < deadline:
            await asyncio.sleep(0.05)
        for connection in self._all():  # also those that only wait for a client's farewell
            if connection.transport is not None:
                connection.transport.abort()
        await self.shutdown(1.0)
        return len(cut)
