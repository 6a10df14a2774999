"""Gossip over real sockets: nodes find each other, notice who goes, and put up with listeners that misbehave."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from aibrother_node.errors import InvalidInput, NotFound, Refused, Temporary
from aibrother_node.fleet import client as client_module
from aibrother_node.fleet.client import FleetClient
from fleet.live import LiveNode, until


async def _alive(node: LiveNode) -> int:
    return sum(state.state == "alive" for state in (await node.peers()).values())


async def test_nodes_find_each_other_and_hear_the_news() -> None:
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(LiveNode(f"n{number}")) for number in range(5)]
        for node in nodes:
            await node.know(*nodes)
            await node.say()
            node.begin()
        for node in nodes:
            await until(lambda node=node: _alive_is(node, 4), f"{node.name} knows all")  # type: ignore[misc]
        await nodes[0].say(catalog=(1, 7))
        nodes[0].loop.hurry()
        for node in nodes[1:]:
            await until(lambda node=node: _catalog_is(node, nodes[0].id, (1, 7)), f"{node.name} heard of it")  # type: ignore[misc]


async def _alive_is(node: LiveNode, number: int) -> bool:
    return await _alive(node) == number


async def _catalog_is(node: LiveNode, of: str, version: tuple[int, int]) -> bool:
    record = (await node.peers())[of].record
    return record is not None and record.record.says.catalog == version


async def test_a_node_that_ends_is_missed_and_one_that_comes_is_heard() -> None:
    async with LiveNode("a") as a, AsyncExitStack() as stack:
        b = await stack.enter_async_context(LiveNode("b"))
        for node in (a, b):
            await node.know(a, b)
            await node.say()
            node.begin()
        await until(lambda: _alive_is(a, 1), "a knows b")
        await stack.aclose()
        await until(lambda: _state_is(a, b.id, ("suspect", "dead")), "a misses b")


async def _state_is(node: LiveNode, of: str, states: tuple[str, ...]) -> bool:
    return (await node.peers())[of].state in states


async def test_a_revoked_node_is_told_nothing() -> None:
    async with LiveNode("a") as a, LiveNode("b") as b:
        await a.know(a)
        await b.know(a, b)
        for node in (a, b):
            await node.say()
        await b.loop.round(wait=True)
        assert b.engine.counts.refused_messages == {}
        assert a.engine.counts.refused_messages["not a member"] >= 1
        assert (await b.peers())[a.id].record is None


async def _serve(stack: AsyncExitStack, handler: object) -> str:
    app = web.Application(client_max_size=1 << 20)
    app.router.add_route("*", "/{path:.*}", handler)  # type: ignore[arg-type]
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}"


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, b"x" * 1000, InvalidInput),
        (204, b"", InvalidInput),
        (301, b"", InvalidInput),
        (401, b"", Refused),
        (404, b"", NotFound),
        (503, b"", Temporary),
    ],
)
async def test_answers_that_are_none_are_named(status: int, body: bytes, error: type[Exception]) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers={"Location": "http://127.0.0.1:1/"})

    async with AsyncExitStack() as stack:
        url = await _serve(stack, answer)
        client = await stack.enter_async_context(FleetClient())
        with pytest.raises(error):
            await client.post(url, b"", 100)


async def test_who_is_slow_or_not_there_costs_a_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PATIENCE", 0.3)

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(1000):
            await response.write(b"x")
            await asyncio.sleep(0.05)
        return response

    async with AsyncExitStack() as stack:
        url = await _serve(stack, drip)
        client = await stack.enter_async_context(FleetClient())
        with pytest.raises(Temporary):
            await client.post(url, b"", 100_000)
        with pytest.raises(Temporary):
            await client.post("http://127.0.0.1:1", b"", 100)


async def test_nonsense_from_a_peer_is_a_failure_and_no_more() -> None:
    async def nonsense(_: web.Request) -> web.Response:
        return web.Response(body=b"AG\x01\x00" + bytes(200))

    async with AsyncExitStack() as stack:
        url = await _serve(stack, nonsense)
        a = await stack.enter_async_context(LiveNode("a"))
        b = LiveNode("b")
        b.url = url
        await a.know(a, b)
        await a.say()
        for _ in range(3):
            await a.loop.round(wait=True)
        assert a.engine.counts.refused_messages["not a member"] >= 1
        assert (await a.peers())[b.id].state == "unknown"
