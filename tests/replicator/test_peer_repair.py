"""Chunks from peers: bounded, verified, and liars aren't asked twice."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from aibrother_node.content.chunks import Chunk
from aibrother_node.content.digest import Digest
from aibrother_node.errors import NotFound, Temporary
from aibrother_replicator import peer_repair
from aibrother_replicator.peer_repair import PeerRepair

DATA = os.urandom(300_000)
BLOB = Digest(hashlib.sha256(DATA).digest())
CHUNK = Chunk(1, 100_000, 50_000, Digest(hashlib.sha256(DATA[100_000:150_000]).digest()), bytes(16))
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _range(data: bytes, first: int, stop: int, **more: str) -> web.Response:
    fields = {"Content-Range": f"bytes {first}-{stop - 1}/{len(DATA)}", **more}
    return web.Response(status=206, body=data, headers=fields)


async def good(request: web.Request) -> web.StreamResponse:
    assert request.headers["Cache-Control"] == "only-if-cached"
    assert request.path == f"/v1/blobs/{BLOB}"
    if "Range" not in request.headers:
        return web.Response(body=DATA)
    first, last = request.headers["Range"].removeprefix("bytes=").split("-")
    return _range(DATA[int(first) : int(last) + 1], int(first), int(last) + 1)


async def lying(request: web.Request) -> web.StreamResponse:
    return _range(bytes(50_000), 100_000, 150_000) if "Range" in request.headers else web.Response(body=bytes(300_000))


async def another_range(_: web.Request) -> web.StreamResponse:
    return _range(DATA[:50_000], 0, 50_000)


async def too_long(_: web.Request) -> web.StreamResponse:
    return _range(DATA, 100_000, 150_000)


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(
        status=206 if "Range" in request.headers else 200, headers={"Content-Range": "bytes 100000-149999/300000"}
    )
    await response.prepare(request)
    while True:
        await response.write(bytes(1 << 16))


async def cut(_: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(status=206, headers={"Content-Range": "bytes 100000-149999/300000"})
    response.content_length = 50_000
    await response.prepare(_)
    await response.write(DATA[100_000:120_000])
    assert _.transport is not None
    _.transport.abort()
    return response


async def sent_on(_: web.Request) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": "http://127.0.0.1:1/"})


async def absent(_: web.Request) -> web.StreamResponse:
    return web.Response(status=504)


async def silent(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


@asynccontextmanager
async def peers(*handlers: Handler) -> AsyncIterator[tuple[PeerRepair, list[str], list[str]]]:
    """Real servers; yields the source, their URLs, and who was asked and who lied."""
    runners, urls, asked = [], [], []

    def counted(handler: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            asked.append(handler.__name__)
            return await handler(request)

        return handle

    for handler in handlers:
        app = web.Application()
        app.router.add_get("/{rest:.*}", counted(handler))
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        runners.append(runner)
        urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}")

    async def holders(blob: Digest) -> Sequence[str]:
        return urls if blob == BLOB else []

    try:
        yield PeerRepair(holders, lied=lambda: asked.append("lied")), urls, asked
    finally:
        for runner in runners:
            await runner.cleanup()


async def test_a_chunk_and_a_whole() -> None:
    async with peers(good) as (source, _, _):
        assert await source.chunk(BLOB, CHUNK, len(DATA)) == DATA[100_000:150_000]
        assert await source.whole(BLOB, len(DATA)) == DATA
        with pytest.raises(Temporary):
            await source.whole(BLOB, len(DATA) - 1)


@pytest.mark.parametrize("bad", [lying, another_range, too_long, endless, cut, sent_on, absent])
async def test_whoever_gives_something_else_is_passed_by(bad: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_repair, "_PATIENCE", 3.0)
    async with peers(bad, good) as (source, _, asked), asyncio.timeout(20):
        assert await source.chunk(BLOB, CHUNK, len(DATA)) == DATA[100_000:150_000]
        assert [name for name in asked if name != "lied"] == [bad.__name__, "good"]
        assert await source.whole(BLOB, len(DATA)) == DATA
    async with peers(bad) as (source, _, _), asyncio.timeout(20):
        with pytest.raises(Temporary):
            await source.chunk(BLOB, CHUNK, len(DATA))


async def test_who_does_not_answer_is_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_repair, "_PATIENCE", 0.3)
    async with peers(silent, good) as (source, urls, _), asyncio.timeout(20):
        urls.insert(0, "http://127.0.0.1:1")
        urls.insert(0, "http://[nonsense")
        assert await source.chunk(BLOB, CHUNK, len(DATA)) == DATA[100_000:150_000]


async def test_a_liar_is_not_asked_again_for_a_while() -> None:
    async with peers(lying) as (source, _, asked):
        with pytest.raises(Temporary, match="other bytes"):
            await source.chunk(BLOB, CHUNK, len(DATA))
        assert asked == ["lying", "lied"]
        with pytest.raises(NotFound, match="wrong bytes"):
            await source.chunk(BLOB, CHUNK, len(DATA))
        assert asked == ["lying", "lied"]
        source._clock = lambda: float("inf")
        with pytest.raises(Temporary):
            await source.chunk(BLOB, CHUNK, len(DATA))
        assert asked == ["lying", "lied"] * 2


async def test_nobody_is_known() -> None:
    async with peers() as (source, _, _):
        with pytest.raises(NotFound):
            await source.chunk(BLOB, CHUNK, len(DATA))
        with pytest.raises(NotFound):
            await source.whole(Digest(bytes(32)), 10)
