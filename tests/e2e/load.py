"""Many clients in a process of their own, each of which compares every byte with the blob's file.

`python -m e2e.load HOST PORT TARGET FILE MODE CLIENTS …`; `Load` starts it and reads its report.

- `random`: each client keeps a connection and asks for so many random ranges on it.
- `steady`: each client downloads ranges of so many bytes, slowly, until stdin ends, and then ends its last one.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import random
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from e2e.harness import PATIENCE

_PIECE = 32 << 10


@dataclass
class Report:
    """What the clients saw.

    Attributes:
        requests, bytes: answers that were right, and their bodies' bytes.
        errors: by client port, what went wrong.
        times: seconds each request took.
    """

    requests: int = 0
    bytes: int = 0
    errors: dict[str, str] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)

    def quantile(self, q: float) -> float:
        return sorted(self.times)[min(len(self.times) - 1, int(len(self.times) * q))]


class Load:
    """The clients of one test.

    Args:
        port: of the node.
        target: what to ask for.
        file: the bytes that are right.
        words: mode and its numbers.
    """

    def __init__(self, port: int, target: str, file: Path, *words: str | int) -> None:
        tests = str(Path(__file__).parent.parent)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "e2e.load", str(port), target, str(file), *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": tests},
        )
        self.report: Report

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"connected\n"
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._process.kill()
        out = self._process.communicate(timeout=PATIENCE * 10)[0]
        if kind is None:
            assert self._process.returncode == 0
            self.report = Report(**json.loads(out))


class _Client:
    def __init__(self, port: int, target: str, data: mmap.mmap, report: Report) -> None:
        self._address = ("127.0.0.1", port)
        self._target = target
        self._data = memoryview(data)
        self._report = report
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self.port = 0

    async def connect(self, receive_buffer: int | None) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(sock, self._address)
        self.port = sock.getsockname()[1]
        self._reader, self._writer = await asyncio.open_connection(sock=sock, limit=_PIECE)

    async def ask(self, first: int, length: int, pause: float = 0) -> None:
        began = time.monotonic()
        last = first + length - 1
        self._writer.write(f"GET {self._target} HTTP/1.1\r\nHost: a\r\nRange: bytes={first}-{last}\r\n\r\n".encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 206 "), head
        assert f"\r\nContent-Range: bytes {first}-{last}/{len(self._data)}\r\n".encode() in head, head
        at = first
        while at <= last:
            piece = await self._reader.read(min(_PIECE, last + 1 - at))
            assert piece, f"cut after {at - first} of {length} bytes"
            assert piece == self._data[at : at + len(piece)], f"wrong bytes at {at}"
            at += len(piece)
            if pause:
                await asyncio.sleep(pause)
        self._report.requests += 1
        self._report.bytes += length
        self._report.times.append(time.monotonic() - began)

    def close(self) -> None:
        self._writer.close()


async def _main(port: int, target: str, file: Path, mode: str, numbers: list[int]) -> None:
    report = Report()
    clients, amount, seed = numbers
    with file.open("rb") as opened:
        data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    all_clients = [_Client(port, target, data, report) for _ in range(clients)]
    for client in all_clients:
        await client.connect(1 << 16 if mode == "steady" else None)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stopped.set)

    async def one(client: _Client, made: random.Random) -> None:
        try:
            if mode == "random":
                for _ in range(amount):
                    length = made.choice((1, 100, 4_000, 16_000))
                    await client.ask(made.randrange(len(data) - length), length)
            else:
                while not stopped.is_set():
                    await client.ask(made.randrange(len(data) - amount), amount, 0.1)
        except (OSError, AssertionError, asyncio.IncompleteReadError) as error:
            report.errors[str(client.port)] = repr(error)

    print("connected", flush=True)
    await asyncio.gather(*(one(client, random.Random(seed + n)) for n, client in enumerate(all_clients)))
    for client in all_clients:
        client.close()
    print(json.dumps(vars(report)))


def main(words: list[str]) -> Any:
    port, target, file, mode, *numbers = words
    asyncio.run(_main(int(port), target, Path(file), mode, [int(number) for number in numbers]))


if __name__ == "__main__":
    main(sys.argv[1:])
