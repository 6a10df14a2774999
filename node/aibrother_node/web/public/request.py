"""A request as the public plane's handler sees it: what the parser read, and who asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

    from aiohttp.http_parser import RawRequestMessage
    from multidict import CIMultiDictProxy

_HTTP_1_1: Final = (1, 1)


class Request:
    """One request; its body, if it announces one, is never read.

    Args:
        message: the head as aiohttp's parser read it.
        transport: of the connection, while it is there.

    Attributes:
        method: in upper case.
        target: the request target as it came (RFC 9112, 3.2).
        headers: the header fields.
        http_1_0: whether the client speaks HTTP/1.0.
        is_last: nothing behind this request is read on its connection: the client says so, a body follows, or another
            protocol is offered, behind which it isn't known where the next request begins.
        has_body: whether a body follows.
    """

    __slots__ = ("_transport", "has_body", "headers", "http_1_0", "is_last", "method", "target")

    def __init__(self, message: RawRequestMessage, transport: asyncio.Transport | None) -> None:
        self.method: str = message.method
        self.target: str = message.path
        self.headers: CIMultiDictProxy[str] = message.headers
        self.http_1_0 = message.version < _HTTP_1_1
        # the parser has refused every Content-Length that is no number
        self.has_body = message.chunked or self.headers.get("Content-Length", "0").strip("0") != ""
        self.is_last = message.should_close or self.has_body or message.upgrade or "Upgrade" in self.headers
        self._transport = transport

    @property
    def remote(self) -> str:
        """The address at the other end, a proxy's perhaps; empty once the connection is lost."""
        peer = None if self._transport is None else self._transport.get_extra_info("peername")
        return str(peer[0]) if peer else ""

    @property
    def secure(self) -> bool:
        """Whether the connection speaks TLS."""
        return self._transport is not None and self._transport.get_extra_info("sslcontext") is not None
