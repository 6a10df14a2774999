"""How long small requests take: one connection, one request after the other, each timed to its last byte.

Run as a module it reads a `Probe` as JSON from stdin and writes, for each length, the sorted times in seconds.
"""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import time
from dataclasses import dataclass, replace

from bench.load import Job, request
from bench.procs import Failed


@dataclass(frozen=True, slots=True)
class Probe:
    """What to do.

    Attributes:
        job: where to; `warm_up` and `seconds` as there.
        lengths: of the ranges, asked for in turn.
        pause: seconds between requests, on average.
    """

    job: Job
    lengths: tuple[int, ...]
    pause: float


def run(probe: Probe) -> dict[int, list[float]]:
    """Ask until the time is over."""
    job = probe.job
    times: dict[int, list[float]] = {length: [] for length in probe.lengths}
    rng = random.Random(job.seed)
    begin = time.perf_counter() + job.warm_up
    end = begin + job.seconds
    sock = _connect(job)
    while (now := time.perf_counter()) < end:
        for length in probe.lengths:
            message = request(replace(job, length=length), rng.randrange(job.size // length) * length)
            time.sleep(rng.uniform(0, 2 * probe.pause))
            started = time.perf_counter()
            sock.sendall(message)
            closing = _read_answer(sock, length)
            took = time.perf_counter() - started
            if now >= begin:
                times[length].append(took)
            if closing:
                sock.close()
                sock = _connect(job)
    sock.close()
    return {length: sorted(found) for length, found in times.items()}


def _connect(job: Job) -> socket.socket:
    sock = socket.create_connection((job.host, job.port), 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _read_answer(sock: socket.socket, length: int) -> bool:
    """Read one answer to its end; whether the server wants the connection closed."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        piece = sock.recv(65536)
        if not piece:
            raise Failed("the server closed the connection")
        data += piece
    if not data.startswith(b"HTTP/1.1 206 "):
        raise Failed(f"not the answer that was expected: {data[:200]!r}")
    left = length - (len(data) - end - 4)
    while left > 0:
        got = len(sock.recv(min(left, 65536)))
        if not got:
            raise Failed(f"the server closed the connection, {left} bytes before the end")
        left -= got
    return b"\r\nConnection: close\r\n" in data[: end + 2]


def main() -> None:
    """Entry point."""
    given = json.load(sys.stdin)
    job = Job(**given["job"])
    if job.core is not None:
        os.sched_setaffinity(0, {job.core})
    json.dump(run(Probe(job, tuple(given["lengths"]), given["pause"])), sys.stdout)


if __name__ == "__main__":
    main()
