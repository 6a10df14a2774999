"""A job as server-sent events (WHATWG HTML, 9.2): `event: job` with the job's JSON, whenever it has changed.

The first says how it is, so whoever connects again needs nothing from before, whatever its Last-Event-ID says. The
stream ends after the job's final state; without that, where the node ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from aibrother_node.web.bounded import is_taken

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

KEEP_ALIVE: Final = 15.0
"""Seconds of silence after which a comment goes out, as the specification advises."""
_PATIENCE: Final = 30.0  # seconds for the client to take what was written
_RECONNECT: Final = 2000  # milliseconds after which a browser connects again


async def stream(request: web.Request, watch: AsyncGenerator[dict[str, Any], None]) -> web.StreamResponse:
    """Answer with what `watch` yields, until that ends.

    Args:
        request: a GET or HEAD.
        watch: is closed at the end; what it raises at first is raised.
    """
    async with contextlib.aclosing(watch):
        seen: dict[str, Any] | None = await anext(watch)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        number = 0
        coming: asyncio.Task[dict[str, Any] | None] | None = None
        try:
            await _send(request, response, f"retry: {_RECONNECT}\n")
            while seen is not None:
                number += 1
                await _send(request, response, f"id: {number}\nevent: job\ndata: {json.dumps(seen)}\n\n")
                coming = asyncio.create_task(_next(watch))
                while not (await asyncio.wait([coming], timeout=KEEP_ALIVE))[0]:
                    await _send(request, response, ": still there\n\n")
                seen = coming.result()
            async with asyncio.timeout(_PATIENCE):
                await response.write_eof()
        except (ConnectionError, TimeoutError):
            if request.transport is not None:  # who doesn't read is not waited for
                request.transport.abort()
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
        return response


async def _next(watch: AsyncGenerator[dict[str, Any], None]) -> dict[str, Any] | None:
    return await anext(watch, None)


async def _send(request: web.Request, response: web.StreamResponse, text: str) -> None:
    async with asyncio.timeout(_PATIENCE):
        await response.write(text.encode())
    is_taken(request)
