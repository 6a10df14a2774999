"""A TCP link that counts, and that can be cut or stopped after so many bytes: what a publisher's line does to it."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

_BLOCK = 1 << 16


class Link:
    """Forwards connections from a port of its own to another one.

    Args:
        port: on loopback, where to.
        cuts: after how many bytes sent to that port, in all, every connection is cut; each happens once.

    Attributes:
        port: its own.
        sent: bytes that were sent to the other port so far.
        stops_at: where it stops to forward, and holds the line; None for nowhere.
        stopped: set when it has.
    """

    def __init__(self, port: int, cuts: Iterable[int] = ()) -> None:
        self._to = port
        self._cuts = sorted(cuts)
        self._lock = threading.Condition()
        self._open: set[socket.socket] = set()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._closed = False
        self.port: int = self._server.getsockname()[1]
        self.sent = 0
        self.cut = 0
        self.stops_at: int | None = None
        self.stopped = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes up who accepts
        self._server.close()
        self.cut_all()

    def cut_all(self) -> None:
        """Reset every connection."""
        with self._lock:
            sockets = list(self._open)
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def go_on(self) -> None:
        """Forward again, on new connections: those that were held are cut."""
        with self._lock:
            self.stops_at = None
            self._lock.notify_all()
        self.stopped.clear()
        self.cut_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            try:
                node = socket.create_connection(("127.0.0.1", self._to), 5)
            except OSError:
                client.close()
                continue
            node.settimeout(None)
            with self._lock:
                self._open |= {client, node}
            threading.Thread(target=self._forward, args=(client, node, True), daemon=True).start()
            threading.Thread(target=self._forward, args=(node, client, False), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_BLOCK):
                if counted and not self._count(len(data)):
                    break
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open -= {source, target}
        source.close()

    def _is_held(self, length: int) -> bool:
        return self.stops_at is not None and self.sent + length > self.stops_at

    def _count(self, length: int) -> bool:
        """Count bytes that are about to be sent; returns whether they are."""
        with self._lock:
            if self._is_held(length):
                self.stopped.set()
                self._lock.wait_for(lambda: self._closed or not self._is_held(length))
                return False
            self.sent += length
            if self._cuts and self.sent > self._cuts[0]:
                del self._cuts[0]
                self.cut += 1
                threading.Thread(target=self.cut_all, daemon=True).start()
                return False
        return True
