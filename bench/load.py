"""The load generator: one process, one epoll loop, connections that are kept alive, bodies that are thrown away.

A client that copies bodies out of the kernel costs more than a server that uses sendfile, and then it is the client
that is measured. So bodies are discarded where they are, with recv(MSG_TRUNC) (tcp(7)); only heads are read. Each
answer's status, Content-Length, Content-Range and length on the wire are checked; that the bytes are right is checked
by `fetch`, outside the measured time.

The measured interval begins when everything is in motion and ends before the first connection is closed: at both ends
the server's CPU time and the bytes received are noted. Answers that have begun by then are read to their end.

Run as a module it reads a `Job` as JSON from stdin and writes a `Result` to stdout.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import socket
import sys
import time
from dataclasses import asdict, dataclass
from typing import Final

from bench.procs import Failed, cpu_seconds, tree

_HEAD: Final = 4096  # bytes read while a head is expected: it has to fit
_DISCARD: Final = 4 << 20
_REQUESTS: Final = 4096  # made beforehand, used in turn
_PATIENCE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Job:
    """What to do.

    Attributes:
        host, port, path: where to.
        size: the file's, in bytes.
        length: of each range, at a multiple of it; 0 asks for the whole file.
        server: process whose tree is measured.
        core: the core to run on, or None.
        connections: how many.
        warm_up, seconds: before, and of the measured interval.
        seed: which ranges.
        plain: no HTTP: read what comes (`plain.py`).
    """

    host: str
    port: int
    path: str
    size: int
    length: int
    server: int
    core: int | None
    connections: int
    warm_up: float
    seconds: float
    seed: int
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What was found in the measured interval.

    Attributes:
        seconds: how long it was.
        received: bytes, heads included.
        answers: that were complete.
        server_cpu, client_cpu: CPU seconds.
        checked: answers in all, none of which was wrong.
    """

    seconds: float
    received: int
    answers: int
    server_cpu: float
    client_cpu: float
    checked: int


def request(job: Job, first: int) -> bytes:
    """One GET, of the whole file or of the range that begins at `first`."""
    lines = [f"GET {job.path} HTTP/1.1", f"Host: {job.host}:{job.port}", "User-Agent: bench"]
    if job.length:
        lines.append(f"Range: bytes={first}-{first + job.length - 1}")
    return "\r\n".join([*lines, "", ""]).encode()


def requests(job: Job) -> list[tuple[bytes, bytes]]:
    """Requests, each with a line that its answer's head must have; the same for the same seed."""
    if not job.length:
        return [(request(job, 0), b"\r\nContent-Length: %d\r\n" % job.size)]
    rng = random.Random(job.seed)
    firsts = [rng.randrange(job.size // job.length) * job.length for _ in range(_REQUESTS)]
    line = "\r\nContent-Range: bytes {}-{}/{}\r\n"
    return [(request(job, at), line.format(at, at + job.length - 1, job.size).encode()) for at in firsts]


class Client:
    """One connection that asks again and again."""

    def __init__(self, load: Load, number: int) -> None:
        self._load = load
        self._turn = number * 257  # somewhere else in the list than the others
        self._left = 0  # bytes of the body still to come
        self._in_head = False
        self._expected = b""
        self._closing = False
        self.sock = load.connect(self)
        if not load.job.plain:
            self._ask()

    def on_readable(self) -> None:
        """Take what has come."""
        load = self._load
        if load.job.plain:
            load.received += self._discard(_DISCARD)
            return
        if self._in_head:
            data = self.sock.recv(_HEAD)
            load.received += len(data)
            self._left = self._check_head(data)
            self._in_head = False
        while self._left:
            wanted = min(self._left, _DISCARD)
            try:
                got = self._discard(wanted)
            except BlockingIOError:
                return
            load.received += got
            self._left -= got
            if got < wanted:
                return
        load.answers += 1
        if self._closing:
            load.forget(self)
            self.sock = load.connect(self)
        if load.ending:
            load.forget(self)
        else:
            self._ask()

    def _discard(self, wanted: int) -> int:
        got = self.sock.recv_into(self._load.nowhere, wanted, socket.MSG_TRUNC)
        if got == 0:
            raise Failed(f"the server closed the connection, {self._left} bytes before the end")
        return got

    def _ask(self) -> None:
        load = self._load
        message, self._expected = load.requests[self._turn % len(load.requests)]
        self._turn += 1
        if self.sock.send(message) != len(message):
            raise Failed("the server does not take a request")
        self._in_head = True

    def _check_head(self, data: bytes) -> int:
        """The bytes of the body that are still to come."""
        end = data.find(b"\r\n\r\n")
        head = data[: end + 2]
        if end < 0 or not head.startswith(self._load.status) or self._expected not in head:
            raise Failed(f"not the answer that was expected ({self._expected!r}): {data[:500]!r}")
        if self._load.length not in head:
            raise Failed(f"Content-Length is wrong: {head!r}")
        self._closing = b"\r\nConnection: close\r\n" in head
        left = self._load.body - (len(data) - end - 4)
        if left < 0:
            raise Failed("the body is longer than its Content-Length")
        return left


class Load:
    """All connections, and what they have received so far."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.body = job.length or job.size
        self.status = b"HTTP/1.1 206 " if job.length else b"HTTP/1.1 200 "
        self.length = b"\r\nContent-Length: %d\r\n" % self.body
        self.requests = requests(job)
        self.received = 0
        self.answers = 0
        self.ending = False
        self.nowhere = bytearray(_DISCARD)  # never touched: MSG_TRUNC writes nothing
        self._epoll = select.epoll()
        self._clients: dict[int, Client] = {}

    def connect(self, client: Client) -> socket.socket:
        """A new connection of a client, watched."""
        sock = socket.create_connection((self.job.host, self.job.port), _PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        self._clients[sock.fileno()] = client
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        return sock

    def forget(self, client: Client) -> None:
        """Close a client's connection."""
        fd = client.sock.fileno()
        self._epoll.unregister(fd)
        del self._clients[fd]
        client.sock.close()

    def run(self) -> Result:
        """Load the server, measure, let answers finish."""
        job = self.job
        pids = tree(job.server)
        for number in range(job.connections):
            Client(self, number)
        self._turn(job.warm_up)
        server, own = cpu_seconds(pids), time.process_time()
        received, answers, started = self.received, self.answers, time.perf_counter()
        self._turn(job.seconds)
        seconds = time.perf_counter() - started
        received, answers = self.received - received, self.answers - answers
        server, own = cpu_seconds(pids) - server, time.process_time() - own
        self.ending = True
        if job.plain:
            for client in list(self._clients.values()):
                self.forget(client)
        self._turn(_PATIENCE)
        if self._clients:
            raise Failed(f"{len(self._clients)} answers were not finished within {_PATIENCE:g} s")
        return Result(seconds, received, answers, server, own, self.answers)

    def _turn(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        while self._clients and (now := time.perf_counter()) < end:
            for fd, _ in self._epoll.poll(end - now):
                self._clients[fd].on_readable()


def fetch(job: Job, first: int = 0) -> str:
    """SHA-256 of one answer's body, as hexadecimal digits, read in full."""
    left = job.length or job.size
    with socket.create_connection((job.host, job.port), _PATIENCE) as sock, sock.makefile("rb") as answer:
        sock.sendall(request(job, first))
        status = answer.readline()
        if status.split()[1:2] != [b"206" if job.length else b"200"]:
            raise Failed(f"{status!r}")
        while answer.readline() not in (b"\r\n", b""):
            pass
        sha256 = hashlib.sha256()
        while left and (data := answer.read(min(left, 1 << 20))):
            sha256.update(data)
            left -= len(data)
    return sha256.hexdigest()


def main() -> None:
    """Entry point."""
    job = Job(**json.load(sys.stdin))
    if job.core is not None:
        os.sched_setaffinity(0, {job.core})
    json.dump(asdict(Load(job).run()), sys.stdout)


if __name__ == "__main__":
    main()
