"""Connections over real sockets, in one event loop: order, bounds and ends that whole processes show only by chance."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from aibrother_node.config import LimitsSection
from aibrother_node.store.blobs import BlobReader
from aibrother_node.store.disk import Disk
from aibrother_node.store.layout import Layout
from aibrother_node.store.withheld import Withheld
from aibrother_node.web.public.handler import PublicPlane, Settings
from aibrother_node.web.public.sender import Sends
from aibrother_node.web.public.server import PublicServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ALIVE = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"


@asynccontextmanager
async def serving(folder: Path, **limits: float) -> AsyncIterator[tuple[PublicServer, asyncio.Server, int]]:
    """A server of an empty data directory; yields it, its listener and its port."""
    layout = Layout(folder)
    layout.create(Disk())
    plane = PublicPlane(BlobReader(layout), Sends(60, Withheld(layout.withheld)), Settings())
    server = PublicServer(plane, LimitsSection.model_validate(limits))
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    try:
        yield server, listener, listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await server.drain(0)


async def statuses(reader: asyncio.StreamReader) -> list[int]:
    """The status codes of all answers until the end of the connection."""
    found = []
    while line := await reader.readline():
        found.append(int(line.split()[1]))
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(field[15:]) for field in head.split(b"\r\n") if field.lower().startswith(b"content-length:"))
        await reader.readexactly(length)
    return found


@pytest.mark.parametrize("good", [0, 1, 3, 100])
async def test_what_was_good_is_answered_before_the_garbage_behind_it(tmp_path: Path, good: int) -> None:
    async with serving(tmp_path) as (_, _, port), asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ALIVE * good + b"\x00\x01garbage\r\n\r\n" + ALIVE)
        assert await statuses(reader) == [200] * good + [400]
        writer.close()


@pytest.mark.parametrize("cut", range(1, len(ALIVE)))
async def test_a_head_may_come_in_two_pieces(tmp_path: Path, cut: int) -> None:
    async with serving(tmp_path) as (_, _, port), asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        flood = ALIVE * 3
        writer.write(flood[:cut])
        await writer.drain()
        await asyncio.sleep(0.002)
        writer.write(flood[cut:] + b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert await statuses(reader) == [200] * 4
        writer.close()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /" + b"x" * 70_000, 414),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 9000 + b"\r\n\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    ],
)
async def test_what_is_wrong_with_a_head_has_its_own_status(tmp_path: Path, head: bytes, status: int) -> None:
    async with serving(tmp_path) as (_, _, port), asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        assert await statuses(reader) == [status]
        writer.close()


async def test_nothing_behind_a_body_is_a_request(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _, port), asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n" + ALIVE * 5)
        assert await statuses(reader) == [405]
        # it listens on for a moment, lest a reset overtake the answer, and no longer
        writer.write(bytes(100_000))
        await writer.drain()
        assert len(server) == 1
        server.sweep(asyncio.get_running_loop().time() + 2)
        await asyncio.sleep(0.01)
        assert len(server) == 0
        writer.close()


async def test_a_connection_that_was_accepted_just_before_a_drain_does_not_hold_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _, port), asyncio.timeout(10):
        loop = asyncio.get_running_loop()
        streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        # accepted by the kernel, not yet seen by the loop: their protocols are made while the drain runs
        late = [asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        opening = asyncio.gather(*late)
        await asyncio.sleep(0)
        began = loop.time()
        draining = asyncio.create_task(server.drain(10))
        streams += await opening
        assert await draining == 0
        assert loop.time() - began < 2
        for reader, writer in streams:
            assert (await reader.read()).split(b" ")[:2] in ([b""], [b"HTTP/1.1", b"503"])
            writer.close()


async def test_deadlines(tmp_path: Path) -> None:
    async with serving(tmp_path, header_timeout=10, keepalive_timeout=30) as (server, _, port):
        now = asyncio.get_running_loop().time()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(0.01)
        assert server.sweep(now + 9.9) == 0
        writer.write(ALIVE)
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        assert server.sweep(now + 29.9) == 0, "an answer gives new patience"
        writer.write(b"GET /heal")
        await asyncio.sleep(0.01)
        assert server.sweep(now + 9.9) == 0
        assert server.sweep(now + 11) == 1, "a header that has begun has less of it"
        assert await reader.read() == b'{"status": "alive"}'
        writer.close()
