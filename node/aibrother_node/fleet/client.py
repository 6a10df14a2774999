"""How a node asks others' fleet listeners: bounded in bytes and in time, over one pool of connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from urllib.request import getproxies

import aiohttp

from aibrother_node.errors import InvalidInput, NotFound, Refused, Temporary
from aibrother_node.proxies import proxy_for

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    from aibrother_node.errors import NodeError

CONNECT: Final = 3.0
PATIENCE: Final = 5.0
"""Seconds that an answer to a small question may take in all."""
_TYPE: Final = "application/vnd.aibrother.gossip"


class FleetClient:
    """Asks; to be used as an async context manager.

    Args:
        context: TLS settings for https; the system's certificates by default.
        agent: the User-Agent field.
    """

    def __init__(self, context: ssl.SSLContext | None = None, agent: str = "aibrother-node") -> None:
        self._context = context
        self._agent = agent
        self._proxies = getproxies()
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        # idle connections are given up before the other side's patience ends, so that few are found closed when used
        connector = aiohttp.TCPConnector(limit=64, limit_per_host=4, keepalive_timeout=20)
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": self._agent},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def post(self, url: str, frame: bytes, most: int) -> bytes:
        """Send a frame to a fleet listener.

        Args:
            url: the listener's, without the path.
            frame: what to send.
            most: bytes of an answer.

        Raises:
            Temporary, Refused, NotFound, InvalidInput: as `get`.
        """
        return await self._ask("POST", f"{url}/gossip/v1", most, {"Content-Type": _TYPE}, frame)

    async def get(self, url: str, headers: Mapping[str, str], most: int) -> bytes:
        """Fetch a body of at most `most` bytes.

        Raises:
            Temporary: there was no answer, or not in time.
            Refused: 401 or 403. NotFound: 404.
            InvalidInput: any other status but 200, or a longer body.
        """
        return await self._ask("GET", url, most, headers, None)

    async def _ask(self, method: str, url: str, most: int, headers: Mapping[str, str], data: bytes | None) -> bytes:
        try:
            proxy = proxy_for(urlsplit(url), self._proxies)
            async with self._session.request(
                method,
                url,
                data=data,
                headers={**headers, "Accept-Encoding": "identity"},
                allow_redirects=False,
                proxy=None if proxy is None else proxy.geturl(),
                ssl=self._context or True,
                timeout=aiohttp.ClientTimeout(total=PATIENCE, connect=CONNECT),
            ) as response:
                if response.status != 200:
                    raise _by_status(response.status, url)
                body = await response.content.read(most + 1)
                while len(body) <= most and not response.content.at_eof():
                    more = await response.content.read(most + 1 - len(body))
                    if not more:
                        break
                    body += more
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise Temporary(f"{url}: {str(error) or type(error).__name__}") from error
        if len(body) > most:
            raise InvalidInput(f"{url}: more than {most} bytes")
        return body


def _by_status(status: int, url: str) -> NodeError:
    if status in (401, 403):
        return Refused(f"{url}: {status}")
    if status == 404:
        return NotFound(f"{url}: 404")
    if status in (429, 500, 502, 503, 504):
        return Temporary(f"{url}: {status}")
    return InvalidInput(f"{url}: status {status}")
