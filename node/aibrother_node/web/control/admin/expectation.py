"""`Expect: 100-continue`: who sends a large body may wait to be asked for it (RFC 9110, 10.1.1).

aiohttp asks for it before a handler is called; here the token comes first, and an upload that needn't come never does.
"""

from __future__ import annotations

from aiohttp import HttpVersion11, web

__all__ = ["proceed", "refrain"]


async def refrain(request: web.Request) -> None:
    """Ask for no body yet; for aiohttp as a route's `expect_handler`.

    Raises:
        HTTPExpectationFailed: something else is expected.
    """
    if request.headers.get("Expect", "").lower() not in ("", "100-continue"):
        raise web.HTTPExpectationFailed


async def proceed(request: web.Request) -> None:
    """Ask for the body, of who waits for that."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # as aiohttp does it: the answer itself has not begun
