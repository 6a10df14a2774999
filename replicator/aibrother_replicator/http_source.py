"""One HTTP(S) source: blobs by range and chunk manifests, over blocking connections, one a thread.

It believes nothing. A range is only taken from a 206 whose Content-Range is exactly what was asked for (or a 200 when
the whole was asked for), of a blob of the expected size and under no content coding; everything else is a
`SourceError` that names the URL, what was expected and what was found. What the bytes hash to is the caller's matter.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import struct
import time
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import SplitResult, urljoin, urlsplit
from urllib.request import getproxies

from aibrother_node.content.chunks import MAX_MANIFEST_BYTES
from aibrother_node.errors import InvalidInput
from aibrother_node.proxies import proxy_authorization, proxy_for
from aibrother_replicator.http_body import Body, SourceError, Timeouts, unreachable
from aibrother_replicator.schedule import Fault

if TYPE_CHECKING:
    from aibrother_node.content.digest import Digest

__all__ = ["HttpConnection", "HttpSource", "SourceError", "Timeouts", "user_agent"]

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS: Final = 5
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})", re.ASCII)
_UNSATISFIED: Final = re.compile(r"bytes \*/([0-9]{1,19})", re.ASCII)
_STALE: Final = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)


def user_agent() -> str:
    """The User-Agent field: `aibrother-node/<version>`."""
    try:
        return f"aibrother-node/{version('aibrother-node')}"
    except PackageNotFoundError:
        return "aibrother-node"


class HttpSource:
    """A node, or anything that serves `/v1/blobs` and `/v1/chunks` under a base URL.

    Args:
        base: `http(s)://host[:port][/prefix]`.
        timeouts: how long it may take.
        context: for https; by default the system's certificates, or those that SSL_CERT_FILE names.

    Attributes:
        base: without a slash at its end.

    Raises:
        InvalidInput: for a base that is not such a URL.
    """

    def __init__(self, base: str, *, timeouts: Timeouts | None = None, context: ssl.SSLContext | None = None) -> None:
        parts = _split(base)
        if parts.query or parts.fragment:
            raise InvalidInput(f"a source's URL has neither query nor fragment: {base}")
        self.base = base.rstrip("/")
        self.timeouts = timeouts or Timeouts()
        self._context = context
        self._proxies = getproxies()
        self._agent = user_agent()

    def blob_url(self, digest: Digest) -> str:
        """Where the blob is."""
        return f"{self.base}/v1/blobs/{digest}"

    def manifest_url(self, digest: Digest, manifest: Digest | None = None) -> str:
        """Where the blob's chunk manifest is: the one named, or whichever the source thinks best."""
        return f"{self.base}/v1/chunks/{digest}" + ("" if manifest is None else f"?manifest={manifest}")

    def connect(self) -> HttpConnection:
        """A connection for one thread; nothing is sent before it is used."""
        return HttpConnection(self)

    def context(self) -> ssl.SSLContext:
        """The TLS settings."""
        if self._context is None:
            self._context = ssl.create_default_context()
        return self._context

    def proxy_for(self, url: SplitResult) -> SplitResult | None:
        """The proxy that the environment names for a URL; never one for loopback."""
        return proxy_for(url, self._proxies)

    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"User-Agent": self._agent, "Accept-Encoding": "identity"}


class HttpConnection:
    """Connections of one thread to one source, kept alive between requests; `abort` may be called from any thread."""

    def __init__(self, source: HttpSource) -> None:
        self._source = source
        self._open: dict[tuple[str, str], http.client.HTTPConnection] = {}
        self._socket: socket.socket | None = None
        self._aborted = False
        self._waiting_since: float | None = None
        self._overdue = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what is open; the next request connects again."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()
        self._socket = None

    def abort(self) -> None:
        """Make whatever waits on this connection fail at once, now and later."""
        self._aborted = True
        self._hang_up()

    def cut_overdue(self, now: float) -> None:
        """Cut an answer whose head doesn't come to an end; for a watchdog thread. `now` is of time.monotonic."""
        since = self._waiting_since
        if since is not None and now - since > 2 * self._source.timeouts.stall:
            self._overdue = True
            self._hang_up()

    def _hang_up(self) -> None:
        sock = self._socket
        if sock is not None:
            with contextlib.suppress(OSError):  # not connected any more: nothing waits
                sock.shutdown(socket.SHUT_RDWR)

    def manifest(self, digest: Digest, manifest: Digest | None = None) -> bytes:
        """Fetch the bytes of the blob's chunk manifest, of the one named if one is.

        Raises:
            SourceError: whatever went wrong.
        """
        url = self._source.manifest_url(digest, manifest)
        with self._get(url, {"Accept": "application/vnd.aibrother.chunks+msgpack"}) as body:
            if body.status != 200:
                raise body.unexpected("200 with a chunk manifest")
            return body.read_all(MAX_MANIFEST_BYTES)

    def file(self, path: str, max_length: int) -> bytes:
        """Fetch a small file below the base URL; of a longer one, one byte more than `max_length`.

        Raises:
            SourceError: whatever went wrong.
        """
        with self._get(f"{self._source.base}/{path}", {}) as body:
            if body.status != 200:
                raise body.unexpected("200")
            return body.read_all(max_length + 1)

    def size(self, digest: Digest) -> int:
        """Ask for the blob's length in bytes.

        Raises:
            SourceError: whatever went wrong.
        """
        url = self._source.blob_url(digest)
        with self._get(url, {"Range": "bytes=0-0"}) as body:
            if body.status == 206 and (found := _CONTENT_RANGE.fullmatch(body.header("Content-Range"))):
                return int(found[3])
            if body.status == 416 and (found := _UNSATISFIED.fullmatch(body.header("Content-Range"))):
                return int(found[1])
            if body.status == 200 and body.length is not None and body.length <= 1 and body.is_plain():
                return body.length
            raise body.unexpected("206 with the range 0-0")

    def open_range(self, digest: Digest, offset: int, length: int, total: int) -> Body:
        """Ask for `length` bytes of the blob at `offset`; the body is theirs and no longer.

        Args:
            digest: of the blob.
            offset, length: in bytes; at least one byte.
            total: the blob's size that the source must agree with.

        Raises:
            SourceError: whatever went wrong.
        """
        last = offset + length - 1
        body = self._get(self._source.blob_url(digest), {"Range": f"bytes={offset}-{last}"})
        try:
            self._check_range(body, offset, last, total)
        except BaseException:
            body.abandon()
            raise
        return body

    @staticmethod
    def _check_range(body: Body, offset: int, last: int, total: int) -> None:
        length = last - offset + 1
        wanted = f"206 with bytes {offset}-{last}/{total}"
        if body.status == 200 and length == total and body.length == total and body.is_plain():
            return
        if body.status != 206:
            raise body.unexpected(wanted)
        if not body.is_plain():
            raise body.wrong(f"expected no content coding, got {body.header('Content-Encoding')!r:.40}")
        if body.header("Content-Range") != f"bytes {offset}-{last}/{total}":
            raise body.wrong(f"expected {wanted}, got Content-Range {body.header('Content-Range')!r:.80}")
        if body.length is None:
            body.limit(length)
        elif body.length != length:
            raise body.wrong(f"expected {length} bytes, got Content-Length {body.length}")

    def _get(self, url: str, headers: dict[str, str]) -> Body:
        """Send a GET and read the answer's head, redirects followed."""
        asked = url
        for _ in range(_MAX_REDIRECTS + 1):
            body = self._request(asked, headers)
            location = body.header("Location")
            if body.status not in _REDIRECTS or not location:
                return body
            body.discard()
            target = urljoin(asked, location)
            try:
                _split(target)
            except InvalidInput:
                raise SourceError(
                    url, Fault.WRONG, f"redirected to {target[:200]!r}, which is no http(s) URL"
                ) from None
            asked = target
        raise SourceError(url, Fault.WRONG, f"redirected more than {_MAX_REDIRECTS} times, last to {asked[:200]}")

    def _request(self, url: str, headers: dict[str, str]) -> Body:
        parts = urlsplit(url)
        key = parts.scheme, parts.netloc
        reused = key in self._open
        try:
            return self._send(url, parts, headers)
        except _STALE as error:
            # a kept connection may have been closed since; a fresh one that breaks is the source's failure
            self._drop(key)
            if not reused or self._aborted:
                raise unreachable(url, error) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._drop(key)
            raise unreachable(url, error) from error
        try:
            return self._send(url, parts, headers)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._drop(key)
            raise unreachable(url, error) from error

    def _send(self, url: str, parts: SplitResult, headers: dict[str, str]) -> Body:
        proxy = self._source.proxy_for(parts)
        connection = self._connection(parts, proxy)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        fields = self._source.headers() | headers
        if proxy is not None and parts.scheme == "http":
            path = f"http://{parts.netloc.rpartition('@')[2]}{path}"
            fields |= proxy_authorization(proxy)
        self._waiting_since = time.monotonic()
        try:
            connection.request("GET", path, headers=fields)
            response = connection.getresponse()
        finally:
            self._waiting_since = None
        if self._overdue:
            # http.client takes the end of a connection for the end of a head
            self._overdue = False
            response.close()
            raise TimeoutError
        assert self._socket is not None
        return Body(url, response, self._socket, self._source.timeouts.stall, self.close)

    def _connection(self, parts: SplitResult, proxy: SplitResult | None) -> http.client.HTTPConnection:
        key = parts.scheme, parts.netloc
        connection = self._open.get(key)
        if connection is not None and connection.sock is not None:
            self._socket = connection.sock
            return connection
        timeouts = self._source.timeouts
        host, port = parts.hostname or "", parts.port
        via_host, via_port = (host, port) if proxy is None else (proxy.hostname or "", proxy.port or 80)
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(
                via_host, via_port, timeout=timeouts.connect, context=self._source.context()
            )
            if proxy is not None:
                connection.set_tunnel(host, port or 443, headers=proxy_authorization(proxy))
        else:
            connection = http.client.HTTPConnection(via_host, via_port, timeout=timeouts.connect)
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        assert isinstance(connection.sock, socket.socket)
        _set_timeout(connection.sock, timeouts.stall)
        self._socket = connection.sock
        self._open[key] = connection
        if self._aborted:
            connection.close()
            raise ConnectionAbortedError("given up")
        return connection

    def _drop(self, key: tuple[str, str]) -> None:
        connection = self._open.pop(key, None)
        if connection is not None:
            connection.close()


def _split(url: str) -> SplitResult:
    """Take a URL apart.

    Raises:
        InvalidInput: it isn't http(s), has no host, or has parts that can't be sent.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise InvalidInput(f"not a URL: {url[:200]!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInput(f"not an http(s) URL: {url[:200]!r}")
    if not re.fullmatch(r"[\x21-\x7e]+", url):
        raise InvalidInput(f"a URL has printable ASCII only: {url[:200]!r}")
    return parts


def _set_timeout(sock: socket.socket, seconds: float) -> None:
    if isinstance(sock, ssl.SSLSocket):
        sock.settimeout(seconds)
        return
    # a blocking socket with the kernel's own limit needs one system call a read instead of poll and read, and lets
    # MSG_WAITALL fill the whole buffer at once
    limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
