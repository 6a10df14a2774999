"""Nodes that gossip over real sockets of this machine, in one process: engine, loop, client and listener."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import TYPE_CHECKING

from aiohttp import web

from aibrother_node.catalog.entries import FleetDocument
from aibrother_node.errors import NotFound
from aibrother_node.fleet.client import FleetClient
from aibrother_node.fleet.engine import Engine, EngineSettings
from aibrother_node.fleet.have import Have
from aibrother_node.fleet.identity import NodeKey
from aibrother_node.fleet.inventory import Inventory, encode_page
from aibrother_node.fleet.loop import GossipLoop
from aibrother_node.fleet.members import Member, members_of
from aibrother_node.fleet.record import Description
from aibrother_node.fleet.requests import sign_request, verify_request
from aibrother_node.fleet.signatures import Ed25519Signatures
from aibrother_node.web.fleet.listener import FleetListener

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Self

    from aibrother_node.content.digest import Digest
    from aibrother_node.fleet.peering import PeerState

INTERVAL = 0.05


class LiveNode:
    """One node; an async context manager."""

    def __init__(self, name: str, *, interval: float = INTERVAL) -> None:
        self.key = NodeKey.generate()
        self.id = self.key.id
        self.name = name
        self.inventory_of = Inventory(random.Random(name).randbytes(8))
        self.complete: set[Digest] = set()
        self.url = ""
        self._signatures = Ed25519Signatures(self.key)
        settings = EngineSettings(interval=interval, refresh=interval * 30)
        self.engine = Engine(self._signatures, self.id, settings, random.Random(name), time.time())
        self._interval = interval
        self._exit = contextlib.AsyncExitStack()
        self._task: asyncio.Task[None] | None = None
        self.loop: GossipLoop
        self.client: FleetClient

    async def __aenter__(self) -> Self:
        self.client = await self._exit.enter_async_context(FleetClient())
        self.loop = GossipLoop(self.engine, self.client, self._interval, random.Random(self.name))
        runner = web.AppRunner(FleetListener(self).application(), access_log=None)
        await runner.setup()
        self._exit.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._exit.aclose()
        await self.loop.close()

    def member(self) -> Member:
        return Member(self.id, self.key.public, gossip_url=self.url)

    async def know(self, *nodes: LiveNode) -> None:
        members = {node.id: node.member() for node in nodes}
        await self.loop.call(lambda engine, _: engine.set_members(members))

    async def join(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        """Know the members of a `fleet.json`, as its nodes are written there."""
        members = members_of(FleetDocument.from_json({"schema": "aibrother.fleet/1", "version": 1, "nodes": [*nodes]}))
        await self.loop.call(lambda engine, _: engine.set_members(members))

    async def say(self, **says: object) -> None:
        what = Description(gossip_url=self.url, region=self.name, inventory=self.inventory_of.digest, **says)  # type: ignore[arg-type]
        await self.loop.call(lambda engine, now: engine.describe(what, now))

    def begin(self) -> None:
        self._task = asyncio.create_task(self.loop.run())

    async def peers(self) -> dict[str, PeerState]:
        states = await self.loop.call(lambda engine, now: engine.peers(now))
        return {state.id: state for state in states}

    def sign(self, to: LiveNode, target: str) -> Mapping[str, str]:
        return sign_request(self._signatures, self.id, to.id, "GET", target, time.time())

    # -- what its listener asks

    async def receive(self, frame: bytes) -> bytes:
        return await self.loop.receive(frame)

    async def caller(self, method: str, target: str, header: Callable[[str], str | None]) -> Member:
        return verify_request(
            method,
            target,
            header,
            own=self.id,
            members=self.engine.members,
            signatures=self._signatures,
            now=time.time(),
        )

    async def inventory(self, since: str | None) -> bytes:
        return encode_page(self.inventory_of.page(since, 10))

    async def have(self, digest: Digest, asker: Member, nonce: bytes | None) -> bytes:
        del asker, nonce
        if digest not in self.complete:
            raise NotFound("nothing of it")
        return Have(complete=True).encode()


async def until(probe: Callable[[], object], what: str, patience: float = 20.0) -> None:
    """Poll until `probe` returns something true; it may be a coroutine function."""
    deadline = time.monotonic() + patience
    while True:
        found = probe()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)
