"""Listening sockets: bound once, by the supervisor, and kept open whatever happens to its children.

Which there are, planes.py says. Of the public plane each worker has a socket of its own on every address
(SO_REUSEPORT), so that the kernel spreads connections over them. A connection that waits in the queue of a worker
that has just died is taken by the worker's successor.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Final

from aibrother_node.errors import NodeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

BACKLOG: Final = 1024
_TRIES: Final = 20  # to find a port that is free on all addresses, when any will do
_FIRST_PASSED: Final = 3  # sd_listen_fds(3)
_NOTSENT: Final = 256 << 10  # measured: an eighth of the kernel memory of a stalled client, at no loss of speed


class BindError(NodeError):
    """An address can't be listened on."""


def bind_all(hosts: Sequence[str], port: int, workers: int, congestion_control: str = "") -> list[list[socket.socket]]:
    """Bind a socket for each worker on each host.

    Args:
        hosts: literal IPv4 or IPv6 addresses. Of several, an IPv6 one is left out where the machine has no IPv6.
        port: 0 picks one that is free on all of them.
        workers: how many sockets an address gets.
        congestion_control: name of the kernel's algorithm; empty for its default.

    Returns:
        For each worker its sockets, one for each host that could be bound.

    Raises:
        BindError: an address is taken, or not this machine's.
    """
    for attempt in range(_TRIES):
        bound: list[list[socket.socket]] = [[] for _ in range(workers)]
        chosen = port
        try:
            for host in hosts:
                for mine in bound:
                    try:
                        sock = _bind(host, chosen, congestion_control, first=mine is bound[0])
                    except OSError as error:
                        if error.errno in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL} and ":" in host and len(hosts) > 1:
                            break
                        raise
                    mine.append(sock)
                    chosen = sock.getsockname()[1]
        except OSError as error:
            for sock in (sock for mine in bound for sock in mine):
                sock.close()
            if port == 0 and error.errno == errno.EADDRINUSE and attempt + 1 < _TRIES:
                continue
            raise BindError(f"can't listen on {bracketed(host)}:{chosen}: {error.strerror}") from error
        if not bound[0]:
            raise BindError(f"none of {', '.join(hosts)} can be listened on")
        return bound
    raise AssertionError("the last attempt returns or raises")


def _bind(host: str, port: int, congestion_control: str, *, first: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        # what is set here, accepted connections inherit
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not first:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _tune(sock, congestion_control)
        sock.bind((host, port))
        # the first one says so only now: else another node's sockets, which have it too, would let us in beside them
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _tune(sock: socket.socket, congestion_control: str) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _NOTSENT)
    if congestion_control:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion_control.encode())
        except OSError as error:
            raise BindError(f"public.congestion_control: the kernel has no {congestion_control!r}") from error


def passed_by_parent(environ: Mapping[str, str], congestion_control: str = "") -> list[socket.socket]:
    """Take over listening sockets from a service manager or an older supervisor (sd_listen_fds(3)).

    Args:
        environ: the environment: `LISTEN_PID` must be this process, `LISTEN_FDS` says how many.
        congestion_control: as in `bind_all`.

    Returns:
        The sockets in the order of their descriptors; empty when nothing was passed.

    Raises:
        BindError: what was passed is not a listening TCP socket.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    try:
        count = int(environ.get("LISTEN_FDS", "0"))
    except ValueError:
        return []
    passed = []
    for fd in range(_FIRST_PASSED, _FIRST_PASSED + count):
        try:
            sock = socket.socket(fileno=fd)
            listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise BindError(f"descriptor {fd} was passed to listen on and is no socket: {error.strerror}") from error
        if not listening or sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
            raise BindError(f"descriptor {fd} was passed to listen on and is no listening TCP socket")
        sock.set_inheritable(False)
        sock.setblocking(False)
        _tune(sock, congestion_control)
        passed.append(sock)
    return passed


def share_out(sockets: Iterable[socket.socket], workers: int) -> list[list[socket.socket]]:
    """Give each worker its sockets: one of its own of each address while there are enough, else they share.

    Args:
        sockets: at least one.
        workers: how many there are; none of the sockets is left over.

    Returns:
        As `bind_all`.
    """
    by_address: dict[tuple[str, int], list[socket.socket]] = {}
    for sock in sockets:
        address = sock.getsockname()
        by_address.setdefault((address[0], address[1]), []).append(sock)
    shares: list[list[socket.socket]] = [[] for _ in range(workers)]
    for group in by_address.values():
        # every socket has a worker, and every worker a socket: in one without, clients would wait for ever
        for i in range(max(workers, len(group))):
            shares[i % workers].append(group[i % len(group)])
    return shares


def bracketed(host: str) -> str:
    """An address as URLs have it (RFC 3986, 3.2.2)."""
    return f"[{host}]" if ":" in host else host


def reachable_url(sock: socket.socket, scheme: str) -> str:
    """A URL that works on this machine: a socket on all addresses is named by the loopback one."""
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"{scheme}://{bracketed(host)}:{port}"
