"""The admin API of a node elsewhere, over HTTP or HTTPS, with a token."""

from __future__ import annotations

import http.client
import socket
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies

from aibrother_node.errors import NodeError, Temporary
from aibrother_node.proxies import proxy_authorization, proxy_for
from aibrother_tools.admin_node import ADMIN, AdminNode
from aibrother_tools.reports import program_version

if TYPE_CHECKING:
    from aibrother_tools.remote import Remote

CONNECT_TIMEOUT: Final = 10.0
"""Seconds."""
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6, "TCP_USER_TIMEOUT": 90_000}  # tcp(7)


class RemoteNode:
    """How a control plane is reached; each connection is one request's.

    Args:
        remote: where it is, and the token.
    """

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._url = urlsplit(remote.url)
        self._proxy = proxy_for(self._url, getproxies())
        self._context: ssl.SSLContext | None = None

    def connect(self, timeout: float | None) -> http.client.HTTPConnection:
        """Connect, by the proxy that the environment names, if any: never one for loopback.

        Raises:
            OSError: it can't be reached.
        """
        host, port = self._url.hostname or "", self._url.port
        via, via_port = (host, port) if self._proxy is None else (self._proxy.hostname or "", self._proxy.port or 80)
        if self._url.scheme == "https":
            if self._context is None:
                self._context = ssl.create_default_context()
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                via, via_port, timeout=CONNECT_TIMEOUT, context=self._context
            )
            if self._proxy is not None:
                connection.set_tunnel(host, port or 443, headers=proxy_authorization(self._proxy))
        else:
            connection = http.client.HTTPConnection(via, via_port, timeout=CONNECT_TIMEOUT)
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        _notice_the_end(connection.sock)
        connection.sock.settimeout(timeout)
        return connection

    def target(self, path: str) -> str:
        """The path, or what a proxy for plain HTTP is asked."""
        target = f"{self._url.path}{ADMIN}{path}"
        return f"http://{self._url.netloc}{target}" if self._plain_proxy is not None else target

    def fields(self) -> dict[str, str]:
        """The token, and who asks."""
        proxy = self._plain_proxy
        return {
            "Authorization": f"Bearer {self._remote.token}",
            "User-Agent": f"aibrother-node/{program_version()}",
            **({} if proxy is None else proxy_authorization(proxy)),
        }

    def unreachable(self, error: Exception) -> NodeError:
        """A certificate that isn't believed won't be the next time either; all else may work later."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return NodeError(f"{self._remote.url}: {error.verify_message}")
        reason = "it did not answer in time" if isinstance(error, TimeoutError) else error
        return Temporary(f"{self._remote.url} can't be reached: {reason}")

    @property
    def _plain_proxy(self) -> SplitResult | None:
        return self._proxy if self._url.scheme == "http" else None


def _notice_the_end(sock: socket.socket) -> None:
    """Have the kernel end a connection whose other side is gone without a word, however long an answer may take."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):  # not every system's
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def remote_admin(remote: Remote) -> AdminNode:
    """The admin API of that node."""
    return AdminNode(RemoteNode(remote))
