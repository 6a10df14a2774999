"""An aiohttp application with bounds: how many connections, how long they may be silent, and who goes first."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from aibrother_node.web.bounded import BoundedServer
from e2e.certificates import make_certificate
from fleet.live import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aiohttp.typedefs import Handler

MOST = 8
ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Served:
    """A running server and what its log said."""

    def __init__(self, server: BoundedServer, address: tuple[str, int]) -> None:
        self.server = server
        self.address = address
        self._stack = AsyncExitStack()

    async def connect(self, sent: bytes = b"", context: ssl.SSLContext | None = None) -> Streams:
        reader, writer = await asyncio.open_connection(*self.address, ssl=context)
        self._stack.callback(writer.close)
        writer.write(sent)
        return reader, writer

    async def close(self) -> None:
        await self._stack.aclose()
        await self.server.close()


async def _echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


async def _large(_: web.Request) -> web.Response:
    return web.Response(body=bytes(32 << 20))


async def _slow(_: web.Request) -> web.Response:
    await asyncio.sleep(60)
    return web.Response()


@asynccontextmanager
async def serving(
    *, most: int = MOST, idle: float = 60.0, context: ssl.SSLContext | None = None, shutdown: float = 0.2
) -> AsyncIterator[Served]:
    problems: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: problems.append(what))
    app = web.Application(client_max_size=1000)
    app.add_routes([web.route("*", "/", _echo), web.get("/large", _large), web.get("/slow", _slow)])
    server = BoundedServer(app, most=most, idle=idle, shutdown=shutdown)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    address = sock.getsockname()
    await server.start([sock], context, 64)
    served = Served(server, address)
    try:
        yield served
    finally:
        await served.close()
    await asyncio.sleep(0)
    assert len(server) == 0
    assert not problems


async def status_of(reader: asyncio.StreamReader) -> int:
    """The status of an answer, which is read to its end."""
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                await reader.readexactly(int(line.split(b":")[1]))
        return int(head.split()[1])


async def test_who_asks_gets_in_however_many_hold_connections_open() -> None:
    async with serving() as served:
        idle = [await served.connect(b"GET / HT") for _ in range(5 * MOST)]
        for _ in range(3):
            reader, _ = await served.connect(ASK)
            assert await status_of(reader) == 200
            assert len(served.server) <= MOST
        async with asyncio.timeout(10):  # the oldest were cut
            for reader, _ in idle[: 4 * MOST]:
                with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                    await reader.readexactly(1)


async def test_who_was_silent_for_the_longest_goes_first() -> None:
    async with serving() as served:
        first = await served.connect(ASK)
        assert await status_of(first[0]) == 200
        for _ in range(3 * MOST):
            await served.connect()
            first[1].write(ASK)
            assert await status_of(first[0]) == 200, "it asks again and again, and so it stays"


async def test_the_silent_are_cut_also_while_they_dont_read() -> None:
    async with serving(idle=1.0) as served:
        silent = await served.connect()
        begun = await served.connect(b"GET / HTTP/1.1\r\nHo")
        waiting = await served.connect(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        slow = await served.connect(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        deaf = await served.connect(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: len(served.server) == 5, "five connections")
        await until(lambda: len(served.server) == 0, "none of them", 10.0)
        assert all(len(streams) == 2 for streams in (silent, begun, waiting, slow, deaf))


async def test_a_header_that_drips_is_cut() -> None:
    async with serving(idle=1.0) as served:
        _, writer = await served.connect(b"GET / HTTP/1.1\r\n")
        await until(lambda: len(served.server) == 1, "one connection")

        async def drip() -> None:
            while True:
                writer.write(b"X: y\r\n")
                await asyncio.sleep(0.1)

        task = asyncio.create_task(drip())
        try:
            await until(lambda: len(served.server) == 0, "no connection", 10.0)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_no_body_is_decompressed() -> None:
    body = gzip.compress(b"x" * 900)
    async with serving() as served:
        head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
        reader, _ = await served.connect(head.encode() + body)
        async with asyncio.timeout(10):
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(len(body)) == body
        reader, _ = await served.connect(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"200\r\n" + bytes(512) + b"\r\n200\r\n" + bytes(512) + b"\r\n0\r\n\r\n"
        )
        assert await status_of(reader) == 413


async def test_handshakes_count_and_end(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with serving(context=context) as served:
        for number in range(4 * MOST):
            await served.connect(b"" if number % 2 else b"\x16\x03\x01\x02\x00\x01")
            assert len(served.server) <= MOST
        for _ in range(3):
            reader, _ = await served.connect(ASK, trusting)
            assert await status_of(reader) == 200
        for _ in range(4):
            reader, _ = await served.connect(ASK)  # no TLS at all
            async with asyncio.timeout(10):
                assert not (await reader.read()).startswith(b"HTTP/1.1 2")
    async with serving(context=context, idle=1.0) as served:
        for _ in range(MOST):
            await served.connect()
        await until(lambda: len(served.server) == MOST, "handshakes under way")
        await until(lambda: len(served.server) == 0, "none", 10.0)


async def test_its_end_waits_for_nobody_for_long() -> None:
    began = asyncio.get_running_loop().time()
    async with serving() as served:
        await served.connect(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await served.connect(b"GET / HT")
        await until(lambda: len(served.server) == 2, "two connections")
    assert asyncio.get_running_loop().time() - began < 5


async def test_answers_are_counted_by_status() -> None:
    counted: list[int] = []
    gone = asyncio.Event()

    async def fails(_: web.Request) -> web.Response:
        raise ValueError("a bug")

    async def left(_: web.Request) -> web.Response:
        gone.set()
        raise ConnectionResetError("the client is gone")

    @web.middleware
    async def inside(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except ValueError:
            return web.Response(status=503)

    app = web.Application(middlewares=[inside])
    nested = web.Application()
    nested.add_routes([web.get("/", _echo), web.get("/fails", fails), web.get("/left", left)])
    app.add_subapp("/nested", nested)
    server = BoundedServer(app, most=MOST, count=counted.append)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    await server.start([sock], None, 64)
    try:
        for path in ("/nested/", "/nested/fails", "/nested/none", "/none", "/nested/left"):
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            await reader.read()
            writer.close()
        assert gone.is_set()
        assert counted == [200, 503, 404, 404], "as they were sent, each once, and not who had left"
    finally:
        await server.close()
