"""One client's connection: bytes in, requests one after the other, each answered before the next is even parsed.

aiohttp's parser reads the heads; nothing else of its server is used. It is fed one head at a time, so that what a
client has asked ahead stays bytes, which are bounded, and never becomes a queue of requests; while one is being
answered, what arrives makes the connection stop reading. The answer that needs no disk is made, and its sending begun,
right where the request's last byte arrived: no task, no further turn of the event loop.

Where a body follows a request, or the request is no HTTP, nothing behind it is read as a request: the answer says that
the connection ends, the sending side is closed, and for a second what still comes is thrown away, so that the client
gets to read the answer before a reset (RFC 9112, 9.6).
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from aibrother_node.web.public.body_cut import BodyCut
from aibrother_node.web.public.outgoing import Outgoing, render_head
from aibrother_node.web.public.request import Request

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from aiohttp.http_parser import RawRequestMessage

    from aibrother_node.web.public.sender import Send
    from aibrother_node.web.public.server import PublicServer

_LOG: Final = logging.getLogger(__name__)
_WRITE_BUFFER: Final = 256 << 10  # of a TLS connection, beyond which its sender waits
_BODY_BUFFER: Final = 1 << 16  # of the parser, for the beginning of a body that arrives with its head
_ROUND: Final = 16  # requests answered in one go, before others have their turn
_LINGER: Final = 1.0
_END_OF_HEAD: Final = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class _Fault:
    """What stands where a request should: the status that it gets."""

    status: int
    title: str


class Connection(asyncio.Protocol):
    """One client's connection.

    Args:
        server: whose it is.

    Attributes:
        transport: None before it is made and after it is lost.
        writable: set while the transport takes more without growing its buffer (only TLS is written to it).
        sending: what is being sent now.
        deadline: in the loop's time; once it has passed, the connection is cut.
    """

    def __init__(self, server: PublicServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.writable = asyncio.Event()
        self.writable.set()
        self.sending: Send | None = None
        self.deadline = math.inf
        self._parser: HttpRequestParser | None = None
        self._parsed: deque[RawRequestMessage | _Fault] = deque()
        self._unread = b""
        self._at = 0  # what of `_unread` went to the parser
        self._in_head = False
        self._paused = False
        self._busy = False
        self._deaf = False  # nothing more is read as a request
        self._client_ended = False
        self._asked = 0.0
        self._request: Request | None = None
        self._outgoing: Outgoing | None = None
        self._out: socket.socket | None = None

    # What the event loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or refuse when there are too many."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if not self._server.admit(self):
            self._deaf = True
            return
        limits = self._server.limits
        transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._parser = HttpRequestParser(
            BaseProtocol(self._loop),
            self._loop,
            _BODY_BUFFER,
            max_line_size=limits.max_request_line,
            max_field_size=limits.max_header_field,
            max_headers=limits.max_headers,
            auto_decompress=False,
        )
        self.deadline = self._loop.time() + limits.header_timeout

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._deaf:
            return
        self._unread = self._unread[self._at :] + data if self._unread else data
        self._at = 0
        if not self._busy:
            self._advance()
        elif not self._paused and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """The client says no more (it may still listen): answer what it asked, then close.

        Returns:
            Whether the transport is to stay open for writing; TLS has no such state (RFC 8446, 6.1).
        """
        self._client_ended = True
        if self.transport is None or self.transport.get_extra_info("sslcontext") is not None:
            return False
        return self._busy

    def connection_lost(self, exc: BaseException | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Let go of everything."""
        self.transport = None
        self._deaf = True
        self._server.forget(self)
        self.writable.set()
        if self.sending is not None:
            self.sending.cut("the connection is lost")
        if self._out is not None:
            self._out.close()
            self._out = None

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """The transport's buffer has room."""
        self.writable.set()

    # What the server and the sender ask

    def out(self) -> socket.socket:
        """A duplicate of the connection's socket, for the sender; open until the connection is lost."""
        if self._out is None:
            if self.transport is None:
                raise ConnectionResetError("the connection is lost")
            self._out = socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno()))
            self._out.setblocking(False)
        return self._out

    @property
    def is_idle(self) -> bool:
        """Whether a request is being waited for."""
        return not self._busy and not self._deaf

    @property
    def is_over(self) -> bool:
        """Whether the last answer is out, and nothing but the client's farewell is waited for."""
        return not self._busy and self._deaf and (self.transport is None or _unsent(self.transport) == 0)

    def close(self) -> None:
        """End it, once what the transport holds is out (TLS holds some)."""
        self._deaf = True
        self.deadline = self._loop.time() + self._server.limits.send_timeout
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """End it now."""
        self._deaf = True
        if self.transport is not None:
            self.transport.abort()

    # Requests and answers

    def _advance(self) -> None:
        """Answer what was asked, until an answer takes time or nothing is left."""
        for _ in range(_ROUND):
            if self._busy or self._deaf:
                return
            if not self._parsed and not self._parse():
                break
            self._answer(self._parsed.popleft())
        else:
            if not self._busy and not self._deaf:
                self._busy = True
                self._loop.call_soon(self._go_on)
            return
        if self._client_ended:
            self.close()
        elif self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()

    def _go_on(self) -> None:
        self._busy = False
        self._advance()

    def _parse(self) -> bool:
        """Read one head; whether there was one, or what is none."""
        assert self._parser is not None
        while self._at < len(self._unread):
            end = self._unread.find(_END_OF_HEAD, self._at) + len(_END_OF_HEAD)
            if end < len(_END_OF_HEAD):
                end = len(self._unread)
            piece = self._unread[self._at : end]
            self._at = end
            try:
                messages, _, _ = self._parser.feed_data(piece)
            except (HttpProcessingError, ValueError) as error:
                self._parsed.append(self._fault(error, piece))
                return True
            if messages:
                self._in_head = False
                # more than one where a head's last bytes came with all of the next
                self._parsed.extend(message for message, _ in messages)
                return True
            if not self._in_head:
                self._in_head = True
                self.deadline = self._loop.time() + self._server.limits.header_timeout
        self._unread = b""
        self._at = 0
        return False

    def _fault(self, error: Exception, piece: bytes) -> _Fault:
        """What status a head gets that can't be parsed; `piece` is where it went wrong."""
        if not isinstance(error, LineTooLong):
            return _Fault(400, "Bad Request")
        if not self._in_head and not 0 <= piece.find(b"\r\n") <= self._server.limits.max_request_line:
            return _Fault(414, "URI Too Long")
        return _Fault(431, "Request Header Fields Too Large")

    def _answer(self, message: RawRequestMessage | _Fault) -> None:
        self._busy = True
        self.deadline = math.inf
        self._asked = self._loop.time()
        if isinstance(message, _Fault):
            self._hear_no_more()
            self._send(None, self._server.plane.malformed(message.status, message.title))
            return
        request = Request(message, self.transport)
        if request.is_last:
            self._hear_no_more()
        result = self._server.plane.begin(request)
        if isinstance(result, Outgoing):
            self._send(request, result)
        else:
            self._server.run(self._answer_later(request, result))

    def _hear_no_more(self) -> None:
        self._deaf = True
        self._unread = b""
        self._at = 0
        self._parsed.clear()

    async def _answer_later(self, request: Request, result: Coroutine[None, None, Outgoing]) -> None:
        self._send(request, await result)
        self._advance()

    def _send(self, request: Request | None, outgoing: Outgoing) -> None:
        """Begin to send; `request` is None for an answer to what was none."""
        self._request, self._outgoing = request, outgoing
        outgoing.close |= self._deaf
        head = render_head(
            outgoing.answer.status,
            (*outgoing.answer.headers, *outgoing.extra),
            self._server.date.now(),
            http_1_0=request is not None and request.http_1_0,
            keep_alive=not outgoing.close,
        )
        self._server.plane.traffic.begun(self._loop.time() - self._asked)
        reason: BodyCut | None = None
        try:
            if not self._server.plane.sends.start(
                self, (head, *outgoing.answer.parts), outgoing.blob, self._sent_later
            ):
                return
        except BodyCut as error:
            reason = error
        self._sent(reason)

    def _sent_later(self, reason: BodyCut | None) -> None:
        self._sent(reason)
        self._advance()

    def _sent(self, reason: BodyCut | None) -> None:
        """An answer is out, or cut."""
        request, outgoing = self._request, self._outgoing
        assert outgoing is not None
        self._request = self._outgoing = None
        self._busy = False
        if outgoing.release is not None:
            outgoing.release()
        plane = self._server.plane
        plane.traffic.ended(outgoing.answer.status, plane.sends.bytes_sent, cut=reason is not None)
        if request is not None and plane.report is not None:
            plane.report(request, outgoing.answer.status, outgoing.answer.body_length, reason is None)
        if reason is not None:
            self.abort()
        elif not outgoing.close:
            self.deadline = self._loop.time() + self._server.limits.keepalive_timeout
        elif (request is None or request.has_body) and not self._client_ended:
            self._linger()
        else:
            self.close()

    def _linger(self) -> None:
        """Close the sending side, and throw away for a while what the client still sends."""
        self._deaf = True
        if self.transport is None:
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.deadline = self._loop.time() + _LINGER
        if self._paused:
            self._paused = False
            self.transport.resume_reading()


def _unsent(transport: asyncio.Transport) -> int:
    """Bytes in memory; a TLS transport of asyncio leaves out those that are encrypted already."""
    below = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    return transport.get_write_buffer_size() + (0 if below is None else below.get_write_buffer_size())
