"""A member that lies about its catalog, beside two real nodes: it is marked, and the good catalog spreads all the same.

The liar gossips as any member does (`LiveNode`, in this process). What it serves as its catalog is, in turn, forged,
old, and slow without end.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from e2e.fleets import pair
from e2e.harness import Node, eventually
from e2e.publishing import done, publish, write_gguf
from fleet.live import LiveNode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

FAR_AHEAD = (1, 1 << 40)


def _get(node: Node, target: str) -> Any:
    return node.get(target)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    """A signing node and one that joined it, which look for a newer catalog by gossip alone."""
    with pair(tmp_path, **{"catalog.refresh_interval": "1h"}) as found:
        yield found


def _peers(node: Node) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = done(node, "peers", "--json").json["peers"]
    return found


async def _forged(request: web.Request) -> web.StreamResponse:
    """Answer with a timestamp far ahead that nobody signed, and nothing else."""
    if request.path != "/metadata/timestamp.json":
        raise web.HTTPNotFound
    signed = {
        "_type": "timestamp",
        "spec_version": "1.0.31",
        "version": FAR_AHEAD[1],
        "expires": "2099-01-01T00:00:00Z",
        "meta": {"snapshot.json": {"version": FAR_AHEAD[1]}},
    }
    return web.json_response({"signatures": [], "signed": signed})


async def _endless(request: web.Request) -> web.StreamResponse:
    """Answer a byte now and then."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.5)


@asynccontextmanager
async def _liar(us: Node, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[LiveNode]:
    """Admit a member whose public plane answers with `handler`, and whose record tells of a catalog far ahead."""
    async with AsyncExitStack() as stack:
        liar = await stack.enter_async_context(LiveNode("liar", interval=0.2))
        app = web.Application()
        app.router.add_get("/{path:.*}", handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        how = ("--key", liar.key.public.hex(), "--region", "nowhere", "--url", url, "--gossip-url", liar.url)
        await asyncio.to_thread(done, us, "fleet", "admit", liar.id, *how)
        document = json.loads((await asyncio.to_thread(_get, us, "/fleet.json")).body)
        nodes = [node for node in document["nodes"] if node["state"] == "admitted"]
        await liar.join(nodes)
        await liar.say(url=url, catalog=FAR_AHEAD, published=FAR_AHEAD[1])
        liar.begin()
        yield liar


@pytest.mark.parametrize("handler", [_forged, pytest.param(_endless, marks=pytest.mark.soak)])
async def test_a_liar_is_marked_and_keeps_nothing_from_spreading(
    nodes: tuple[Node, Node], tmp_path: Path, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> None:
    us, eu = nodes
    async with _liar(us, handler) as liar:

        def marked() -> bool:
            found = {one["id"]: one for one in _peers(eu)}
            return liar.id in found and found[liar.id]["catalog_refused"] is not None

        if handler is _forged:
            await asyncio.to_thread(eventually, marked, "eu has marked the liar")
            counted = '\naibrother_catalog_refused_total{reason="signature threshold"} '
            told = "\naibrother_peers_with_refused_catalog 1.0\n"  # from the next round on
            await asyncio.to_thread(eventually, lambda: told in _scrape(eu), "metrics tell of it")
            assert counted in _scrape(eu)
        else:
            await asyncio.to_thread(eventually, lambda: liar.id in {one["id"] for one in _peers(eu)}, "eu knows it")
        model = write_gguf(tmp_path / "a.gguf", "a")
        await asyncio.to_thread(publish, us, model, "a:f32@1")
        published = time.monotonic()
        patience = 5.0 if handler is _forged else 45.0  # an endless source is given up after 30 s, once
        while "a" not in {
            one["name"] for one in (await asyncio.to_thread(_get, eu, "/v1/catalog.json")).json["models"]
        }:
            assert time.monotonic() < published + patience, eu.log
            await asyncio.sleep(0.05)
        if handler is _endless:
            await asyncio.to_thread(eventually, marked, "eu has marked it in the end")


def _scrape(node: Node) -> str:
    with urllib.request.urlopen(f"{node.ready['urls']['control'][0]}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text
