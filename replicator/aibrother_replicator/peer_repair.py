"""Chunks from other nodes' public planes, for what is damaged here.

A peer is asked for what it has, and nothing else (`Cache-Control: only-if-cached`): a request starts no fill and isn't
sent on; redirects aren't followed. What it answers is bounded in bytes and in time, and counts only if it hashes to
what it should. A peer that brings something else isn't asked again for a while, twice as long each time.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from urllib.request import getproxies

import aiohttp

from aibrother_node.errors import NodeError, NotFound, Temporary, VerificationFailed
from aibrother_node.proxies import proxy_for
from aibrother_replicator.http_source import user_agent

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Sequence

    from aibrother_node.content.chunks import Chunk
    from aibrother_node.content.digest import Digest

_LOG: Final = logging.getLogger(__name__)
_CONNECT: Final = 5.0
_PATIENCE: Final = 20.0
_SLOWEST: Final = 128 << 10  # bytes a second below which another peer is the better choice
_ASKED: Final = 5  # peers, for one chunk
_FIRST_PAUSE: Final = 60.0
_LONGEST_PAUSE: Final = 24 * 3600.0


@dataclass(slots=True)
class _Distrust:
    pause: float = _FIRST_PAUSE
    until: float = 0.0


class PeerRepair:
    """A `RepairSource`: the peers that have a blob. Belongs to one event loop.

    Args:
        holders: the base URLs of the public planes of those that have all of a blob, best first; it may block no loop.
        lied: told of each answer that was something else.
        context: TLS settings; the system's certificates by default.
        clock: seconds of a clock that doesn't go back.
    """

    def __init__(
        self,
        holders: Callable[[Digest], Awaitable[Sequence[str]]],
        *,
        lied: Callable[[], None] = lambda: None,
        context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._holders = holders
        self._lied = lied
        self._context = context
        self._clock = clock
        self._proxies = getproxies()
        self._distrust: dict[str, _Distrust] = {}

    async def chunk(self, blob: Digest, chunk: Chunk, size: int) -> bytes:
        """As `RepairSource.chunk`."""
        last = chunk.offset + chunk.length - 1
        fields = {"Range": f"bytes={chunk.offset}-{last}"}
        wanted = f"bytes {chunk.offset}-{last}/{size}"

        async def ask(session: aiohttp.ClientSession, url: str) -> bytes:
            data = await self._get(session, url, blob, fields, chunk.length, wanted)
            if hashlib.sha256(data).digest() != chunk.sha256.raw:
                raise VerificationFailed(f"{url} has other bytes in chunk {chunk.index} of {blob}")
            return data

        return await self._ask_around(blob, ask)

    async def whole(self, blob: Digest, most: int) -> bytes:
        """As `RepairSource.whole`."""

        async def ask(session: aiohttp.ClientSession, url: str) -> bytes:
            data = await self._get(session, url, blob, {}, most, None)
            if hashlib.sha256(data).digest() != blob.raw:
                raise VerificationFailed(f"{url} has other bytes than {blob}")
            return data

        return await self._ask_around(blob, ask)

    async def _ask_around(self, blob: Digest, ask: Callable[[aiohttp.ClientSession, str], Awaitable[bytes]]) -> bytes:
        """Ask one after the other until somebody has it.

        Raises:
            NotFound: nobody is known to have it.
            Temporary: nobody gave it.
        """
        now = self._clock()
        holders = list(dict.fromkeys(await self._holders(blob)))
        trusted = [url for url in holders if url not in self._distrust or self._distrust[url].until <= now]
        if not trusted:
            reason = "no other node is known to have it"
            raise NotFound(f"{reason}, but for {len(holders)} that gave wrong bytes" if holders else reason)
        failures = []
        async with aiohttp.ClientSession(
            headers={"User-Agent": user_agent(), "Accept-Encoding": "identity", "Cache-Control": "only-if-cached"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session:
            for url in trusted[:_ASKED]:
                try:
                    data = await ask(session, url)
                except VerificationFailed as error:
                    self._wrong(url)
                    failures.append(str(error))
                    _LOG.warning("%s", error)
                except NodeError as error:
                    failures.append(str(error))
                else:
                    self._distrust.pop(url, None)
                    return data
        raise Temporary("; ".join(failures)[:500])

    def _wrong(self, url: str) -> None:
        self._lied()
        one = self._distrust.setdefault(url, _Distrust())
        one.until = self._clock() + one.pause
        one.pause = min(2 * one.pause, _LONGEST_PAUSE)

    async def _get(
        self,
        session: aiohttp.ClientSession,
        base: str,
        blob: Digest,
        fields: dict[str, str],
        most: int,
        content_range: str | None,
    ) -> bytes:
        """One answer's body: exactly `most` bytes of a range, or so many at most of the whole."""
        url = f"{base}/v1/blobs/{blob}"
        status = 200 if content_range is None else 206
        try:
            proxy = proxy_for(urlsplit(url), self._proxies)
            async with (
                asyncio.timeout(_PATIENCE + most / _SLOWEST),
                session.get(
                    url,
                    headers=fields,
                    allow_redirects=False,
                    proxy=None if proxy is None else proxy.geturl(),
                    ssl=self._context or True,
                    timeout=aiohttp.ClientTimeout(total=None, connect=_CONNECT, sock_read=_PATIENCE),
                ) as response,
            ):
                if response.status != status:
                    raise _by_status(response.status, url)
                if content_range is not None and response.headers.get("Content-Range") != content_range:
                    raise Temporary(f"{url}: another range than {content_range}")
                if (response.content_length or 0) > most:
                    raise Temporary(f"{url}: {response.content_length} bytes, and {most} at most are wanted")
                body = bytearray()
                while piece := await response.content.read(min(1 << 20, most + 1 - len(body))):
                    body += piece
                    if len(body) > most:
                        raise Temporary(f"{url}: more than {most} bytes")
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise Temporary(f"{url}: {str(error) or type(error).__name__}") from error
        if content_range is not None and len(body) != most:
            raise Temporary(f"{url}: {len(body)} bytes instead of {most}")
        return bytes(body)


def _by_status(status: int, url: str) -> NodeError:
    if status in (404, 410, 504):
        return NotFound(f"{url}: {status}")
    return Temporary(f"{url}: status {status}")
