"""Asking fleet listeners: URLs that are none, answers that are too long, too slow, or lead elsewhere."""

from __future__ import annotations

import asyncio
import gzip
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from aibrother_node.errors import InvalidInput, NodeError, Temporary
from aibrother_node.fleet.client import PATIENCE, FleetClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def answering(answer: bytes, *, drip: float = 0.0) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that says the same to everybody, and what it was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        try:
            for byte in answer if drip else ():
                writer.write(bytes([byte]))
                await asyncio.sleep(drip)
            if not drip:
                writer.write(answer)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


@pytest.mark.parametrize(
    "url", ["http://[", "http://[zz]", "http://a:99999", "http:///", "http://a..b", "http://%zz", "http://\x00", "x:"]
)
async def test_a_url_that_is_none_is_a_failed_attempt(url: str) -> None:
    async with FleetClient() as client:
        with pytest.raises(NodeError):
            await client.post(url, b"frame", 100)


async def test_no_redirect_is_followed() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno") as (elsewhere, asked):
        head = f"HTTP/1.1 307 Elsewhere\r\nLocation: {elsewhere}/\r\nContent-Length: 0\r\n\r\n".encode()
        async with answering(head) as (url, _), FleetClient() as client:
            with pytest.raises(InvalidInput):
                await client.get(url, {"Signature": "x"}, 100)
            assert not asked


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(1000000),
        b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1000000),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1000\r\n" + bytes(0x1000) + b"\r\n0\r\n\r\n",
    ],
)
async def test_answers_have_a_ceiling(answer: bytes) -> None:
    async with answering(answer) as (url, _), FleetClient() as client:
        with pytest.raises(InvalidInput):
            await client.get(url, {}, 1000)


async def test_no_answer_is_decompressed() -> None:
    body = gzip.compress(bytes(10_000))
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with answering(head + body) as (url, _), FleetClient() as client:
        assert await client.get(url, {}, 1000) == body


@pytest.mark.parametrize("answer", [b"", b"rubbish\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"])
async def test_what_is_no_answer(answer: bytes) -> None:
    async with answering(answer) as (url, _), FleetClient() as client:
        with pytest.raises(Temporary):
            await client.get(url, {}, 1000)


async def test_an_answer_that_drips_is_given_up() -> None:
    began = asyncio.get_running_loop().time()
    async with answering(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1000), drip=0.1) as (url, _), FleetClient() as client:
        with pytest.raises(Temporary):
            await client.get(url, {}, 10_000)
    assert asyncio.get_running_loop().time() - began < PATIENCE + 3
