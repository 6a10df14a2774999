"""Strangers and misbehaving members at a running node's fleet listener: each is bounded, and members go on."""

from __future__ import annotations

import asyncio
import gzip
import random
import socket
import time
import urllib.request
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from aibrother_node.content.digest import Digest
from aibrother_node.fleet.inventory import Page, encode_page
from aibrother_node.fleet.messages import MAX_FRAME
from e2e.fleets import make_member, peers
from e2e.harness import Node, descriptors, eventually, memory
from e2e.publishing import done, publish, write_gguf
from e2e.wire import Ended, Wire, request
from fleet.live import LiveNode, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from aibrother_node.fleet.view import Have


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    made = make_member(tmp_path_factory.mktemp("hostile") / "us")
    try:
        yield made.start(port=None)
        made.stop()
    finally:
        made.discard()


def at(node: Node) -> tuple[str, int]:
    place = urlsplit(node.ready["urls"]["fleet"][0])
    return place.hostname or "", place.port or 0


def assert_strangers_are_answered(node: Node) -> None:
    with Wire(at(node), timeout=5) as wire:
        wire.ask("/inventory/v1")
        assert wire.answer().status == 401


def ended_with(wire: Wire) -> set[int]:
    """The statuses of all answers until the end of the connection."""
    found = set()
    with suppress(Ended, ConnectionError):
        while True:
            found.add(wire.answer().status)
    return found


# -- strangers


def test_a_thousand_idle_connections_keep_nobody_out(node: Node) -> None:
    control = node.child("control")
    before = descriptors(control)
    with ExitStack() as stack:
        for number in range(1000):
            sock = stack.enter_context(socket.create_connection(at(node), timeout=5))
            if number % 2:
                sock.sendall(b"POST /gossip/v1 HTTP/1.1\r\nContent-Le")
        assert_strangers_are_answered(node)
        assert descriptors(control) <= before + 520
        plane = urlsplit(node.ready["urls"]["control"][0])
        for _ in range(300):
            stack.enter_context(socket.create_connection((plane.hostname, plane.port), timeout=5))
        with urllib.request.urlopen(f"{plane.geturl()}/metrics", timeout=5) as answer:
            assert answer.status == 200
        assert descriptors(control) <= before + 650
    eventually(lambda: descriptors(control) <= before + 5, "all are closed")


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "//",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//inventory/v1",
        "/inventory/v1/",
        "/inventory%2fv1",
        "/have/v1/%2e%2e",
        "/have/v1/" + "a" * 7000,
        "/inventory/v1?since=" + "a" * 7000,
        "/inventory/v1?since=%00%ff",
        "/inventory/v1?" + "a&" * 3000,
        "http://elsewhere.test/inventory/v1",
        "*",
        "/\xff",
        "/gossip/v1",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
def test_strangers_see_401_whatever_they_ask(node: Node, target: str, method: str) -> None:
    with Wire(at(node), timeout=5) as wire:
        wire.ask(target, method=method)
        assert wire.answer(method).status in (401, 400)


@pytest.mark.parametrize(
    "sent",
    [
        request("/inventory/v1", "X: " + "y" * 100_000),
        request("/inventory/v1", *(f"X{number}: y" for number in range(1000))),
        request("/" + "a" * 100_000),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 100,
        b"\r\n" * 10_000,
        bytes(10_000),
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n" + bytes(1000),
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n" + bytes(100_000),
        b"POST /gossip/v1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /gossip/v1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 100_000,
        b"POST /gossip/v1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /gossip/v1 HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /gossip/v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST /gossip/v1 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n123456789",
        b"POST /gossip/v1 HTTP/1.1\r\nHost: a\r\nExpect: rubbish\r\nContent-Length: 9\r\n\r\n123456789",
        b"GET /inventory/v1 HTTP/1.1\r\nHost: a\r\nSignature-Input: fleet=\xff\r\nSignature: \xff\r\n\r\n",
        request("/") * 50 + b"rubbish\r\n\r\n" * 50,
    ],
)
def test_rubbish_is_refused(node: Node, sent: bytes) -> None:
    with Wire(at(node), timeout=20) as wire:
        with suppress(ConnectionError):
            wire.send(sent)
            wire.sock.shutdown(socket.SHUT_WR)
        assert ended_with(wire) <= {100, 400, 401, 413, 417}
    assert_strangers_are_answered(node)


def test_bodies_are_bounded_and_never_decompressed(node: Node) -> None:
    control = node.child("control")
    bomb = gzip.compress(bytes(200 << 20), 9)
    before = memory(control)
    for coding in ("gzip", "deflate", "br", "zstd", "gzip, gzip", "rubbish"):
        with Wire(at(node), timeout=20) as wire, suppress(ConnectionError):
            wire.ask("/gossip/v1", f"Content-Encoding: {coding}", f"Content-Length: {len(bomb)}", method="POST")
            wire.send(bomb)
            assert wire.answer().status == 400
    for _ in range(5):
        with Wire(at(node), timeout=20) as wire:
            wire.ask("/gossip/v1", "Transfer-Encoding: chunked", method="POST")
            with suppress(ConnectionError):
                for _ in range(100):
                    wire.send(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            assert ended_with(wire) <= {400}
    assert memory(control) < before + (40 << 20)
    assert_strangers_are_answered(node)


@pytest.mark.soak
def test_a_body_that_drips_is_given_up(node: Node) -> None:
    began = time.monotonic()
    with Wire(at(node), timeout=30) as wire:
        wire.ask("/gossip/v1", f"Content-Length: {MAX_FRAME}", method="POST")
        wire.sock.settimeout(0.2)
        with suppress(ConnectionError):
            while time.monotonic() < began + 30:
                wire.send(b"A")
                with suppress(TimeoutError):
                    if not wire.sock.recv(4096):
                        break
    assert time.monotonic() - began < 25


def test_who_doesnt_read_answers_costs_little(node: Node) -> None:
    control = node.child("control")
    before = memory(control)
    with ExitStack() as stack:
        for _ in range(20):
            wire = stack.enter_context(Wire(at(node), receive_buffer=1024, timeout=1))
            with suppress(TimeoutError, ConnectionError):
                for _ in range(50):
                    wire.send(request("/") * 100)
        assert memory(control) < before + (40 << 20)
        assert_strangers_are_answered(node)


# -- members


class Hostile(LiveNode):
    """A member whose inventory is whatever `pages` makes."""

    kind = "endless"
    asked = 0

    async def inventory(self, since: str | None) -> bytes:
        self.asked += 1
        rng = random.Random(self.asked)
        changes: dict[Digest, Have | None] = {Digest(rng.randbytes(32)): "complete" for _ in range(10_000)}
        if self.kind == "drip":
            await asyncio.sleep(8)  # longer than anybody waits
        if self.kind == "rubbish":
            return rng.randbytes(1000)
        reset = since is None or self.kind == "resets"
        return encode_page(Page(f"{self.asked}", changes, bytes(32), reset=reset, more=True))


@asynccontextmanager
async def member_of(node: Node, kind: str, **says: Any) -> AsyncIterator[Hostile]:
    async with AsyncExitStack() as stack:
        hostile = Hostile(kind, interval=0.2)
        hostile.kind = kind
        await stack.enter_async_context(hostile)
        how = (
            "--key",
            hostile.key.public.hex(),
            "--region",
            kind,
            "--url",
            "http://127.0.0.1:1",
            "--gossip-url",
            hostile.url,
        )
        await asyncio.to_thread(done, node, "fleet", "admit", hostile.id, *how)
        reply = await asyncio.to_thread(node.get, "/fleet.json")
        await hostile.join([one for one in reply.json["nodes"] if one["state"] == "admitted"])
        await hostile.say(**says)
        hostile.begin()
        try:
            yield hostile
        finally:
            await asyncio.to_thread(done, node, "fleet", "revoke", hostile.id)


@pytest.mark.parametrize(
    "kind", ["endless", *(pytest.param(kind, marks=pytest.mark.soak) for kind in ("resets", "drip", "rubbish"))]
)
async def test_inventories_that_are_none(node: Node, kind: str) -> None:
    control = node.child("control")
    async with member_of(node, kind) as hostile:
        hostile.inventory_of.update([Digest(bytes(32))], set())
        await hostile.say()
        await until(lambda: hostile.asked > 0, "it is asked", 20.0)
        before = memory(control)
        began = time.monotonic()
        while time.monotonic() < began + 6:
            await asyncio.to_thread(assert_strangers_are_answered, node)
            await asyncio.sleep(0.2)
        assert memory(control) < before + (120 << 20), "200,000 entries at most"
        if kind != "endless":
            assert hostile.asked < 20
        size = (node.data / "run/fleet.sqlite3").stat().st_size
        assert size < 200 << 20
    eventually(lambda: kind not in peers(node), "it is gone")


@pytest.mark.soak
async def test_a_record_whose_inventory_changes_all_the_time(node: Node) -> None:
    async with member_of(node, "rubbish") as hostile:
        rng = random.Random(1)
        for _ in range(25):
            hostile.inventory_of.update([Digest(rng.randbytes(32))], set())
            await hostile.say()
            await asyncio.sleep(0.2)
        assert hostile.asked < 12


@pytest.mark.parametrize(
    "url",
    [
        "http://[",
        "http://127.0.0.1:99999",
        "http://a>;rel=duplicate,<http://b",
        "http://user:secret@127.0.0.1:1",
        "http://127.0.0.1:1/?x=",
        'http://127.0.0.1:1/"><url>x</url>',
    ],
)
async def test_urls_that_are_none_end_up_nowhere(node: Node, url: str, tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "a.gguf", "a")
    await asyncio.to_thread(publish, node, model, f"a{random.randrange(1 << 30)}:f32@1")
    async with member_of(node, "rubbish", url=url, catalog=(1, 1 << 40)) as hostile:
        await asyncio.sleep(1.5)
        for target in ("/v1/catalog.json", "/readyz"):
            assert (await asyncio.to_thread(node.get, target)).status == 200
        listed = await asyncio.to_thread(node.get, "/v1/catalog.json")
        name = listed.json["models"][0]["name"]
        reply = await asyncio.to_thread(node.get, f"/models/{name}-f32.gguf.meta4")
        assert reply.status == 200
        assert url.encode() not in reply.body
        assert hostile.id
