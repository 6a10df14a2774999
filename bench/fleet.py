"""What an idle fleet costs one real node: CPU seconds and bytes a minute, at 200 members.

The node is the installed program. The other members are engines with real keys in this process, each behind a path of
one HTTP server of it; among themselves they gossip in memory, with the node over HTTP, once a second each, as nodes do.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import time
import urllib.request
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp
from aiohttp import web

from aibrother_node.catalog.desk import utc_now
from aibrother_node.catalog.entries import FleetDocument, FleetNode, decode_fleet, encode
from aibrother_node.catalog.keys import KeyRing
from aibrother_node.catalog.reading import content_of
from aibrother_node.catalog.repository import Repository
from aibrother_node.catalog.targets import FLEET_PATH, Edit, document_target
from aibrother_node.errors import NodeError
from aibrother_node.fleet.engine import Engine, EngineSettings
from aibrother_node.fleet.identity import NodeKey
from aibrother_node.fleet.members import members_of
from aibrother_node.fleet.record import Description
from aibrother_node.fleet.signatures import Ed25519Signatures
from aibrother_node.store.disk import Disk
from aibrother_node.store.layout import Layout
from bench.procs import Failed, cpu_seconds, stop, timed, tree
from bench.servers import HOST

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from aibrother_node.fleet.engine import Contact

MEMBERS: Final = 200
_SETTLED: Final = 20.0  # seconds until everybody has heard of everybody, and caches are warm


def measure(command: Sequence[str], scratch: Path, seconds: float) -> dict[str, Any]:
    """Seconds of CPU and bytes of gossip a minute, of one node of an idle fleet."""
    folder = scratch / "fleet"
    folder.mkdir(parents=True)
    return asyncio.run(_measure(command, folder / "node", seconds))


async def _measure(command: Sequence[str], data: Path, seconds: float) -> dict[str, Any]:
    timed([*command, "init", "--data", data, "--region", "here"])
    async with _Others() as others:
        document = _admit(Layout(data), others)
        others.know(document)
        process = await asyncio.to_thread(_start, command, data)
        try:
            ready = json.loads(await asyncio.to_thread(_line, process))
            others.node, others.node_url = NodeKey.load(Layout(data).node_key).id, ready["urls"]["fleet"][0]
            gossip = asyncio.create_task(others.run())
            await asyncio.sleep(_SETTLED)
            metrics = ready["urls"]["control"][0] + "/metrics"
            control = next(pid for pid in tree(process.pid) if b"serve.control" in _command_line(pid))
            before, cpu, began = await _bytes(metrics), cpu_seconds([control]), time.monotonic()
            await asyncio.sleep(seconds)
            after, used, took = await _bytes(metrics), cpu_seconds([control]) - cpu, time.monotonic() - began
            gossip.cancel()
            await asyncio.gather(gossip, return_exceptions=True)
            if after["alive"] < MEMBERS - 1:
                raise Failed(f"only {after['alive']:.0f} of {MEMBERS - 1} members were alive")
        finally:
            await asyncio.to_thread(stop, process)
    minute = 60 / took
    return {
        "members": MEMBERS,
        "cpu_seconds_a_minute": round(used * minute, 2),
        "sent_bytes_a_minute": round((after["sent"] - before["sent"]) * minute),
        "received_bytes_a_minute": round((after["received"] - before["received"]) * minute),
        "messages_a_minute": round((after["messages"] - before["messages"]) * minute),
        "records_accepted_a_minute": round((after["accepted"] - before["accepted"]) * minute),
    }


class _Others:
    """All members but the node that is measured."""

    def __init__(self) -> None:
        self.node = ""
        self.node_url = ""
        self._keys = [NodeKey.generate() for _ in range(MEMBERS - 1)]
        self._engines: dict[str, Engine] = {}
        self._by_url: dict[str, str] = {}
        self._runner: web.AppRunner
        self._session: aiohttp.ClientSession
        self.nodes: list[FleetNode] = []

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/{id}/gossip/v1", self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self._session = aiohttp.ClientSession()
        for key in self._keys:
            url = f"http://{HOST}:{port}/{key.id}"
            self.nodes.append(FleetNode(key.id, key.public.hex(), "there", url, url))
            self._by_url[url] = key.id
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await self._runner.cleanup()

    def know(self, document: FleetDocument) -> None:
        now = time.time()
        for key, node in zip(self._keys, self.nodes, strict=True):
            rng = random.Random(key.id)
            engine = Engine(Ed25519Signatures(key), key.id, EngineSettings(), rng, now - 1)
            engine.set_members(members_of(document))
            engine.describe(
                Description(url=node.url, gossip_url=node.gossip_url, region="there", software="bench"), now
            )
            self._engines[key.id] = engine

    async def run(self) -> None:
        while True:
            began = time.monotonic()
            for engine in self._engines.values():
                for contact in engine.tick(time.time()):
                    await self._carry_out(engine, contact)
                await asyncio.sleep(0)
            await asyncio.sleep(max(0.0, 1.0 - (time.monotonic() - began)))

    async def _carry_out(self, engine: Engine, contact: Contact) -> None:
        following: Contact | None = contact
        while following is not None:
            try:
                if following.node == self.node:
                    url = f"{self.node_url}/gossip/v1"
                    async with self._session.post(url, data=following.frame) as response:
                        frame = await response.read()
                else:
                    frame = self._engines[self._by_url[following.url]].receive(following.frame, time.time())
                following = engine.answered(following, frame, time.time())
            except (NodeError, aiohttp.ClientError):
                return

    async def _answer(self, request: web.Request) -> web.Response:
        engine = self._engines[request.match_info["id"]]
        return web.Response(body=engine.receive(await request.read(), time.time()))


def _admit(layout: Layout, others: _Others) -> FleetDocument:
    """Admit all of them in one edit."""
    disk = Disk()
    repository = Repository.open(layout.catalog, disk)
    data = repository.document(FLEET_PATH)
    assert data is not None
    before = decode_fleet(data)
    own = replace(before.nodes[0], gossip_url=f"http://{HOST}:1")  # unused: who calls it is told its real one
    document = FleetDocument(before.version + 1, (own, *others.nodes))
    encoded = encode(document)
    edit = Edit({FLEET_PATH: encoded}, {FLEET_PATH: document_target(encoded)}, content_of(repository))
    repository.commit(edit, KeyRing.load(layout.keys, disk), utc_now())
    return document


def _start(command: Sequence[str], data: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*command, "serve", "--data", str(data), "--port", "0", "--workers", "1", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "AIBROTHER_PUBLIC__HOST": HOST, "AIBROTHER_FLEET__HOST": HOST},
    )


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise Failed("the node ended before it was ready")
    return line


def _command_line(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


async def _bytes(url: str) -> dict[str, float]:
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read().decode())
    found = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        found[name] = value

    def total(name: str) -> float:
        return float(found.get(name, 0))

    return {
        "sent": total('aibrother_gossip_message_bytes_sum{direction="sent"}'),
        "received": total('aibrother_gossip_message_bytes_sum{direction="received"}'),
        "messages": total('aibrother_gossip_message_bytes_count{direction="sent"}')
        + total('aibrother_gossip_message_bytes_count{direction="received"}'),
        "accepted": total('aibrother_gossip_records_total{result="accepted"}'),
        "alive": total('aibrother_fleet_peers{state="alive"}'),
    }
