"""The fleet listener: who is answered, and what the others are told."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import pytest

from aibrother_node.content.digest import Digest
from aibrother_node.fleet.have import Have
from aibrother_node.fleet.inventory import PeerInventory, decode_page
from aibrother_node.fleet.messages import MAX_FRAME
from fleet.live import LiveNode

DIGESTS = [Digest(bytes([number]) * 32) for number in range(25)]


@pytest.fixture
async def pair() -> AsyncIterator[tuple[LiveNode, LiveNode, aiohttp.ClientSession]]:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(LiveNode("a"))
        b = await stack.enter_async_context(LiveNode("b"))
        await a.know(a, b)
        a.complete = set(DIGESTS)
        a.inventory_of.update(a.complete, set())
        yield a, b, await stack.enter_async_context(aiohttp.ClientSession())


@pytest.mark.parametrize(
    "path",
    ["/inventory/v1", "/inventory/v1?since=x", f"/have/v1/{DIGESTS[0]}", "/have/v1/x", "/", "/metrics", "/v1/blobs"],
)
async def test_a_stranger_is_told_nothing_anywhere(
    pair: tuple[LiveNode, LiveNode, aiohttp.ClientSession], path: str
) -> None:
    a, _, session = pair
    stranger = LiveNode("c")
    for headers in ({}, dict(stranger.sign(a, path))):
        async with session.get(a.url + path, headers=headers) as response:
            assert response.status == 401
            assert response.content_type == "application/problem+json"
            assert (await response.json(content_type=None))["status"] == 401


async def test_a_member_reads_the_inventory_page_by_page(
    pair: tuple[LiveNode, LiveNode, aiohttp.ClientSession],
) -> None:
    a, b, session = pair
    copy, pages = PeerInventory(), 0
    held: dict[Digest, object] = {}
    while True:
        target = "/inventory/v1" + (f"?since={copy.cursor}" if copy.cursor else "")
        async with session.get(a.url + target, headers=b.sign(a, target)) as response:
            assert response.status == 200
            assert response.headers["Cache-Control"] == "no-store"
            page = decode_page(await response.read())
        changes, _ = copy.apply(page)
        held |= changes
        pages += 1
        if not page.more:
            break
    assert pages == 3
    assert held == dict.fromkeys(DIGESTS, "complete")
    assert copy.in_step_with(a.inventory_of.digest)


async def test_a_member_asks_what_there_is_of_a_blob(pair: tuple[LiveNode, LiveNode, aiohttp.ClientSession]) -> None:
    a, b, session = pair
    absent = Digest(b"\xff" * 32)
    for target, status in (
        (f"/have/v1/{DIGESTS[0]}", 200),
        (f"/have/v1/{absent}", 404),
        ("/have/v1/sha256:nonsense", 400),
        ("/inventory/v1?since=a&since=b", 400),
        (f"/have/v1/{DIGESTS[0]}?vouch={'0' * 32}", 200),
        (f"/have/v1/{DIGESTS[0]}?vouch=nonsense", 400),
        (f"/have/v1/{DIGESTS[0]}?vouch={'0' * 32}&vouch={'1' * 32}", 400),
    ):
        async with session.get(a.url + target, headers=b.sign(a, target)) as response:
            assert response.status == status, target
            if status == 200:
                assert Have.decode(await response.read()) == Have(complete=True)


async def test_a_signature_is_for_one_node_and_one_target(
    pair: tuple[LiveNode, LiveNode, aiohttp.ClientSession],
) -> None:
    a, b, session = pair
    for headers in (b.sign(b, "/inventory/v1"), b.sign(a, "/inventory/v1?since=x")):
        async with session.get(f"{a.url}/inventory/v1", headers=headers) as response:
            assert response.status == 401


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"hello", 400),
        (b"AG\x02\x00" + bytes(200), 400),
        (bytes(MAX_FRAME + 1), 400),
        (b"AG\x01\x00" + bytes(200), 401),
    ],
)
async def test_what_is_no_frame_is_400_and_what_is_no_members_401(
    pair: tuple[LiveNode, LiveNode, aiohttp.ClientSession], body: bytes, status: int
) -> None:
    a, _, session = pair
    async with session.post(f"{a.url}/gossip/v1", data=body) as response:
        assert response.status == status
