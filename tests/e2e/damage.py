"""Blobs that decay under a running node, and clients that look at every byte that they get."""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from aibrother_node.content.chunks import ChunkManifest
from e2e.harness import Node, eventually

if TYPE_CHECKING:
    from pathlib import Path


def blob_path(node: Node, digest: str) -> Path:
    return node.data / "blobs/sha256" / digest.removeprefix("sha256:")


def fill_path(node: Node, digest: str) -> Path:
    return node.data / "fills/sha256" / digest.removeprefix("sha256:")


def flip(path: Path, offset: int) -> None:
    """Flip a bit on disk, as decay does: nothing tells the node."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    fd = os.open(path, os.O_RDWR)
    try:
        (byte,) = os.pread(fd, 1, offset)
        os.pwrite(fd, bytes([byte ^ 1]), offset)
        os.fsync(fd)
    finally:
        os.close(fd)
    path.chmod(mode)


def manifest_of(node: Node, digest: str) -> ChunkManifest:
    """A blob's manifest, from the node."""
    return ChunkManifest.decode(node.get(f"/v1/chunks/{digest}").body)


def job(node: Node, *arguments: str) -> dict[str, Any]:
    """Run a scrub to its end; returns the job."""
    started = node.command("scrub", "--json", *arguments)
    assert started.code == 0, started
    identity = started.json["job"]

    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = node.command("jobs", identity, "--json").json
        return found if found["ended"] is not None else None

    return eventually(ended, "the end of the scrub")


def fills(node: Node) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = node.command("status", "--json").json["fills"]
    return found


@dataclass
class Crowd:
    """Clients that fetch ranges and the whole, over and over, and compare each byte.

    Attributes:
        good: answers whose bytes were all right.
        wrong: descriptions of bytes that were not the blob's, with when they came.
        refused: 503 answers, cut bodies.
        statuses: of all answers.
    """

    port: int
    target: str
    data: bytes
    ranges: list[tuple[int, int]]
    clients: int = 4
    good: int = 0
    wrong: list[tuple[float, str]] = field(default_factory=list)
    refused: int = 0
    faults: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        for number in range(self.clients):
            thread = threading.Thread(target=self._run, args=(random.Random(number),))
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, made: random.Random) -> None:
        while not self._over.is_set():
            whole = made.random() < 0.1
            start, stop = (0, len(self.data)) if whole else self._some(made)
            try:
                self._ask(start, stop, whole=whole)
            except (OSError, http.client.HTTPException) as error:
                self.faults.append(f"{start}-{stop}: {error!r}")

    def _some(self, made: random.Random) -> tuple[int, int]:
        first, end = made.choice(self.ranges)
        start = made.randrange(first, end)
        return start, min(end, start + made.choice((1, 1000, 100_000, 1 << 20)))

    def _ask(self, start: int, stop: int, *, whole: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            fields = {} if whole else {"Range": f"bytes={start}-{stop - 1}"}
            connection.request("GET", self.target, headers=fields)
            response = connection.getresponse()
            if response.status == 503:
                response.read()
                if not whole:
                    self.faults.append(f"503 for {start}-{stop}")
                self.refused += 1
                return
            assert response.status == (200 if whole else 206), response.status
            at = start
            while piece := response.read1(1 << 16):
                if piece != self.data[at : at + len(piece)]:
                    self.wrong.append((time.monotonic(), f"{at}-{at + len(piece)}"))
                at += len(piece)
            if at == stop:
                self.good += 1
            else:
                self.refused += 1
        except http.client.IncompleteRead:
            self.refused += 1
        finally:
            connection.close()


class SlowClient:
    """Asks for the whole, and reads no faster than it is told to.

    Args:
        port: of the node.
        target: what to ask for.
    """

    def __init__(self, port: int, target: str) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self._socket.settimeout(30)
        self._socket.connect(("127.0.0.1", port))
        self._socket.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        self.body = bytearray()
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._socket.recv(1)
        assert head.startswith(b"HTTP/1.1 200 "), head

    def read(self, count: int) -> None:
        """Read so many bytes more."""
        end = len(self.body) + count
        while len(self.body) < end:
            piece = self._socket.recv(min(1 << 16, end - len(self.body)))
            assert piece, f"cut after {len(self.body)}"
            self.body += piece

    def read_to_end(self, most: int) -> None:
        """Read until all has come, or the node ends it."""
        try:
            while len(self.body) < most and (piece := self._socket.recv(1 << 16)):
                self.body += piece
        except ConnectionResetError:
            pass
        self._socket.close()


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
