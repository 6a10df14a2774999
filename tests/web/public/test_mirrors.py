"""What clients are told of other nodes, over real connections: the list, Link fields, Metalinks and redirects."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from email.parser import BytesParser
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from aibrother_node.catalog.entries import FleetDocument, FleetNode, encode
from aibrother_node.config import LimitsSection
from aibrother_node.content.chunks import FIXED_1, ChunkManifest, build_manifest, chunk_hashes
from aibrother_node.content.digest import Digest
from aibrother_node.fleet.identity import NodeKey
from aibrother_node.fleet.nearest import Place
from aibrother_node.fleet.place import PlaceDatabase
from aibrother_node.fleet.view import FleetViewWriter, PeerView
from aibrother_node.store.blobs import BlobReader
from aibrother_node.store.disk import Disk
from aibrother_node.store.generation import Generation
from aibrother_node.store.index import Index, ManifestRow, TargetRow, YankedRow
from aibrother_node.store.layout import Layout
from aibrother_node.store.withheld import Withheld
from aibrother_node.web.public.fleet_sight import MirrorSettings
from aibrother_node.web.public.handler import PublicPlane, Settings
from aibrother_node.web.public.sender import Sends
from aibrother_node.web.public.server import PublicServer
from fleet.mmdb import city, write_mmdb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from email.message import Message
    from pathlib import Path

    from aibrother_node.fleet.view import Have

HERE, ABSENT, STRANGE = b"this is here", b"this one is elsewhere", b"in no catalog and not here"
WITHDRAWN = b"taken back"
NOW = 1_800_000_000.0
BERLIN, PARIS, OREGON = (52.52, 13.405), (48.857, 2.352), (45.52, -122.68)
IN_BERLIN, IN_PARIS, IN_OREGON, NOWHERE = "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"
COUNTRY_ONLY = "192.0.2.5"
DE = PeerView("d" * 64, "https://de.example", "eu", "DE", *BERLIN)
US = PeerView("e" * 64, "https://us.example", "us", "US", *OREGON)
FR = PeerView("f" * 64, "https://fr.example", "eu", "FR", *PARIS)


def digest_of(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).digest())


def part(name: str) -> str:
    return f"/models/{name}-1-f32.gguf"


def blob(data: bytes) -> str:
    return f"/v1/blobs/{digest_of(data)}"


def mirrors_of(data: bytes) -> str:
    return f"/v1/mirrors?digest={digest_of(data)}"


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def links(self) -> list[str]:
        return self.headers.get_all("Link", [])


@dataclass
class World:
    """A node's data directory, its fleet, and one worker's plane on it."""

    layout: Layout
    own: NodeKey
    writer: FleetViewWriter
    settings: MirrorSettings
    plane: PublicPlane = field(init=False)
    port: int = 0
    now: float = NOW

    async def ask(self, target: str, client: str = NOWHERE, method: str = "GET", **headers: str) -> Reply:
        """One request, by a proxy that is trusted."""
        lines = {"Host": "node.test:8080", "X-Forwarded-For": client, "Connection": "close", "Origin": "https://a"}
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
        writer.write(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode())
        answer = await reader.read()
        writer.close()
        line, _, rest = answer.partition(b"\r\n")
        fields, _, body = rest.partition(b"\r\n\r\n")
        reply = Reply(int(line.split()[1]), BytesParser().parsebytes(fields + b"\r\n\r\n"), body)
        assert reply.headers["Access-Control-Allow-Origin"] == "*"
        assert "Link" in reply.headers["Access-Control-Expose-Headers"]
        return reply

    async def fleet(self, holdings: Mapping[bytes, Mapping[PeerView, Have]]) -> None:
        """Say who has what, and let the worker see it."""
        peers = {peer.id: peer for held in holdings.values() for peer in held}
        self.writer.put_peers(peers.values(), self.now)
        for peer in peers.values():
            held_by = {digest_of(data): held[peer] for data, held in holdings.items() if peer in held}
            self.writer.change_holdings(peer.id, held_by, reset=True)
        await self.plane.sight.refresh()

    async def configure(self, **changes: Any) -> None:
        self.settings = replace(self.settings, **changes)
        self.plane.configure(Settings(mirrors=self.settings))
        await self.plane.sight.refresh()

    def publish(self, fleet: FleetDocument | None = None) -> None:
        rows = [
            TargetRow(part("here")[1:], digest_of(HERE), len(HERE), "here", "1", "f32", digest_of(b"m")),
            TargetRow(part("absent")[1:], digest_of(ABSENT), len(ABSENT), "absent", "1", "f32", digest_of(b"m")),
        ]
        if fleet is not None:
            data = encode(fleet)
            folder = self.layout.catalog / "targets"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{digest_of(data).hex}.fleet.json").write_bytes(data)
            rows.append(TargetRow("fleet.json", digest_of(data), len(data)))
        index = Index.open(self.layout.index)
        gone = YankedRow(part("gone")[1:], digest_of(WITHDRAWN), "it was bad")
        index.put_catalog("1", rows, [gone], whole=True)
        index.close()
        generation = Generation(self.layout.generation, writable=True)
        generation.raise_it()
        generation.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[PlaceDatabase]:
    path = write_mmdb(
        tmp_path / "places.mmdb",
        {
            f"{IN_BERLIN}/32": city("DE", *BERLIN),
            f"{IN_PARIS}/32": city("FR", *PARIS),
            f"{IN_OREGON}/32": city("US", *OREGON),
            f"{COUNTRY_ONLY}/32": city("US"),
        },
    )
    opened = PlaceDatabase(path)
    yield opened
    opened.close()


@asynccontextmanager
async def running(tmp_path: Path, database: PlaceDatabase | None, **settings: Any) -> AsyncIterator[World]:
    """A plane that listens; this node stands in Paris, as its configuration says."""
    layout = Layout(tmp_path / "data")
    layout.create(Disk())
    for data in (HERE, WITHDRAWN):
        layout.blob(digest_of(data)).write_bytes(data)
    own = NodeKey.generate()
    writer = FleetViewWriter(layout.fleet_view)
    mirrors = MirrorSettings(own.id, "", Place(None, *PARIS, "eu"), (ip_network("127.0.0.0/8"),), database, **settings)
    world = World(layout, own, writer, mirrors)
    world.publish()
    reader, plane_settings = BlobReader(layout), Settings(mirrors=mirrors)
    world.plane = PublicPlane(reader, Sends(60, Withheld(layout.withheld)), plane_settings, clock=lambda: world.now)
    server = PublicServer(world.plane, LimitsSection())
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    world.port = listener.sockets[0].getsockname()[1]
    try:
        async with asyncio.timeout(60):
            yield world
    finally:
        listener.close()
        await server.drain(0)
        world.plane.cache.close()
        writer.close()


@pytest.fixture
async def world(tmp_path: Path, database: PlaceDatabase) -> AsyncIterator[World]:
    async with running(tmp_path, database) as made:
        yield made


EVERYWHERE: dict[bytes, dict[PeerView, Have]] = {data: {DE: "complete", US: "complete"} for data in (HERE, ABSENT)}


# /v1/mirrors


async def test_the_list_is_for_the_client(world: World) -> None:
    await world.fleet({HERE: {DE: "complete", US: "complete", FR: "partial"}})
    for client, first in ((IN_BERLIN, DE), (IN_OREGON, US), (COUNTRY_ONLY, US)):
        reply = await world.ask(mirrors_of(HERE), client)
        assert (reply.status, reply.headers["Cache-Control"]) == (200, "no-store")
        listed = reply.json["mirrors"]
        assert listed[0]["id"] == first.id
        assert [one["have"] for one in listed] == ["complete", "complete", "complete", "partial"]
    listed = (await world.ask(mirrors_of(HERE), IN_BERLIN)).json["mirrors"]
    assert listed[0] == {
        "id": DE.id, "region": "eu", "url": DE.url, "country": "DE", "distance_km": 0.0, "have": "complete",
    }  # fmt: skip
    assert listed[1] == {
        "id": world.own.id, "region": "eu", "url": "http://node.test:8080", "country": None,
        "distance_km": pytest.approx(878, abs=5), "have": "complete",
    }  # fmt: skip


async def test_a_client_of_whom_nothing_is_known_counts_as_being_here(world: World) -> None:
    await world.fleet(EVERYWHERE)
    listed = (await world.ask(mirrors_of(HERE), NOWHERE)).json["mirrors"]
    assert [one["id"] for one in listed] == [world.own.id, DE.id, US.id]
    assert listed[0]["distance_km"] == 0


async def test_a_country_that_a_proxy_tells(tmp_path: Path) -> None:
    async with running(tmp_path, None) as world:
        await world.fleet(EVERYWHERE)
        listed = (await world.ask(mirrors_of(HERE), NOWHERE, CF_IPCountry="US")).json["mirrors"]
        assert listed[0]["id"] == US.id
        await world.configure(trusted_proxies=())
        listed = (await world.ask(mirrors_of(HERE), NOWHERE, CF_IPCountry="US")).json["mirrors"]
        assert listed[0]["id"] == world.own.id


async def test_what_the_fleet_document_says_of_this_node(world: World) -> None:
    await world.configure(place=Place())
    key = world.own
    node = FleetNode(key.id, key.public.hex(), "berlin", "https://own.example", None, "DE", *BERLIN)
    world.publish(FleetDocument(1, (node,)))
    await world.fleet({HERE: {FR: "complete"}})
    (own, _) = (await world.ask(mirrors_of(HERE), IN_BERLIN)).json["mirrors"]
    assert (own["id"], own["region"], own["country"], own["distance_km"]) == (key.id, "berlin", "DE", 0)


async def test_who_is_on_the_list(world: World) -> None:
    await world.configure(public_url="https://own.example")
    itself = PeerView(world.own.id, "https://else.example")
    same_url = PeerView("9" * 64, "https://own.example")
    broken = [
        PeerView("8" * 64, "https://x.example/>; rel=x"),
        PeerView("7" * 64, "javascript:alert(1)"),
        PeerView("6" * 64, "https://y.example", country="de\r\nX: y"),
        PeerView("5" * 64, "https://z.example", latitude=1e9, longitude=0.0),
    ]
    await world.fleet({HERE: dict.fromkeys([DE, itself, same_url, *broken], "complete")})
    listed = (await world.ask(mirrors_of(HERE))).json["mirrors"]
    assert {one["url"] for one in listed} == {"https://own.example", DE.url}
    assert len((await world.ask(part("here"))).links) == 1


@pytest.mark.parametrize("host", ["", "a b", "evil/x", "a@b", "x:y", "[::1", "ex\u00e4mple", "a" * 300])
async def test_a_host_that_is_not_sane_is_no_url(world: World, host: str) -> None:
    reply = await world.ask(mirrors_of(HERE), Host=host)
    assert reply.status == 400 or reply.json == {"mirrors": []}


async def test_ipv6_hosts_are_sane(world: World) -> None:
    (own,) = (await world.ask(mirrors_of(HERE), Host="[::1]:8080")).json["mirrors"]
    assert own["url"] == "http://[::1]:8080"


async def test_statuses_of_the_list(world: World) -> None:
    await world.fleet({ABSENT: {DE: "complete"}})
    assert (await world.ask("/v1/mirrors")).status == 400
    assert (await world.ask("/v1/mirrors?digest=sha256:xyz")).status == 400
    assert (await world.ask(mirrors_of(STRANGE))).status == 404
    assert (await world.ask(mirrors_of(WITHDRAWN))).status == 410
    assert [one["id"] for one in (await world.ask(mirrors_of(ABSENT))).json["mirrors"]] == [DE.id]
    await world.fleet({})
    reply = await world.ask(mirrors_of(ABSENT))
    assert (reply.status, reply.json) == (200, {"mirrors": []})
    head = await world.ask(mirrors_of(HERE), method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert (await world.ask(mirrors_of(HERE), method="POST")).status == 405
    # a blob that only a peer has, in no catalog
    await world.fleet({STRANGE: {DE: "partial"}})
    assert [one["have"] for one in (await world.ask(mirrors_of(STRANGE))).json["mirrors"]] == ["partial"]


async def test_a_node_that_drains_doesn_t_offer_itself(world: World) -> None:
    await world.fleet(EVERYWHERE)
    world.plane.settings.draining = True
    assert world.own.id not in [one["id"] for one in (await world.ask(mirrors_of(HERE))).json["mirrors"]]
    assert b"node.test" not in (await world.ask(f"{part('here')}.meta4")).body


async def test_changes_of_the_fleet_are_seen_at_the_next_look(world: World) -> None:
    await world.fleet(EVERYWHERE)
    assert len((await world.ask(part("here"))).links) == 2
    await world.fleet({HERE: {US: "complete"}})
    assert [US.url in link for link in (await world.ask(part("here"))).links] == [True]
    world.now += 400  # control is dead: what it knew has grown old
    await world.plane.sight.refresh()
    assert (await world.ask(part("here"))).links == []
    assert [one["id"] for one in (await world.ask(mirrors_of(HERE))).json["mirrors"]] == [world.own.id]


# Link fields


async def test_link_fields_of_a_part(world: World) -> None:
    many = {replace(DE, id=f"{n:064x}", url=f"https://n{n}.example"): "complete" for n in range(9)}
    held: dict[PeerView, Have] = {**dict.fromkeys(many, "complete"), US: "complete", FR: "partial"}
    await world.fleet({HERE: held})
    for _ in range(3):  # looked up, then from memory
        reply = await world.ask(part("here"), IN_OREGON)
        assert (reply.status, reply.body) == (200, HERE)
        assert len(reply.links) == 5
        url = f"{US.url}/v1/blobs/{digest_of(HERE)}?filename=here-1-f32.gguf"
        assert reply.links[0] == f"<{url}>; rel=duplicate; pri=1; geo=us"
        assert [f"pri={n}" in link for n, link in enumerate(reply.links, 1)] == [True] * 5
        assert FR.url not in "".join(reply.links)
        assert reply.headers["Digest"].startswith("SHA-256=")
    for method, headers in (("GET", {"Range": "bytes=1-2"}), ("HEAD", {})):
        assert len((await world.ask(part("here"), IN_OREGON, method, **headers)).links) == 5
    assert (await world.ask(blob(HERE), IN_OREGON)).links == []
    assert DE.country is not None
    assert "geo=de" in (await world.ask(part("here"), IN_BERLIN)).links[0]


async def test_a_part_that_is_known_is_answered_without_leaving_the_loop(world: World) -> None:
    await world.fleet(EVERYWHERE)
    assert len((await world.ask(part("here"), IN_BERLIN)).links) == 2
    world.layout.index.unlink()
    world.layout.fleet_view.unlink()
    reply = await world.ask(part("here"), IN_BERLIN)
    assert (reply.status, len(reply.links)) == (200, 2)


async def test_what_changes_in_the_fleet_counts_from_the_next_request_on(world: World) -> None:
    await world.fleet(EVERYWHERE)
    assert any(DE.url in link for link in (await world.ask(part("here"), IN_BERLIN)).links)
    world.writer.change_holdings(DE.id, {}, reset=True)  # and no look of the worker at its clock comes between
    assert not any(DE.url in link for link in (await world.ask(part("here"), IN_BERLIN)).links)


async def test_without_a_fleet_view_there_are_no_links(world: World) -> None:
    await world.configure(on_miss="redirect", redirect="nearest")
    assert (await world.ask(part("here"), IN_OREGON)).links == []
    assert (await world.ask(blob(ABSENT), IN_OREGON)).status == 404
    assert (await world.ask(blob(ABSENT), IN_OREGON, "HEAD")).status == 200


# Redirects


def is_redirect(reply: Reply, world: World, peer: PeerView, data: bytes, filename: str | None) -> bool:
    name = "" if filename is None else f"filename={filename}&"
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.body == b""
    expected = f"{peer.url}/v1/blobs/{digest_of(data)}?{name}via={world.own.id}"
    return (reply.status, reply.headers["Location"]) == (307, expected)


async def test_a_miss_goes_to_the_nearest_complete_peer(world: World) -> None:
    await world.fleet({**EVERYWHERE, STRANGE: {US: "complete", FR: "partial"}})
    await world.configure(on_miss="redirect")
    for method in ("GET", "HEAD"):
        assert is_redirect(await world.ask(blob(ABSENT), IN_BERLIN, method), world, DE, ABSENT, None)
        assert is_redirect(await world.ask(blob(ABSENT), IN_OREGON, method), world, US, ABSENT, None)
        named = f"{blob(ABSENT)}?filename=a%20b%26c.gguf"
        assert is_redirect(await world.ask(named, IN_OREGON, method), world, US, ABSENT, "a%20b%26c.gguf")
        assert is_redirect(await world.ask(part("absent"), IN_BERLIN, method), world, DE, ABSENT, "absent-1-f32.gguf")
        # nobody in Paris has all of it; nor does it stand in the catalog
        assert is_redirect(await world.ask(blob(STRANGE), IN_PARIS, method), world, US, STRANGE, None)
    assert (await world.ask(blob(HERE), IN_OREGON)).status == 200


async def test_a_miss_that_is_not_sent_on(world: World) -> None:
    await world.fleet({ABSENT: {FR: "partial"}, WITHDRAWN: {DE: "complete"}})
    await world.configure(on_miss="redirect")
    for target in (blob(ABSENT), part("absent")):
        assert (await world.ask(target, IN_BERLIN)).status == 404  # nobody has all of it
        assert (await world.ask(target, IN_BERLIN, "HEAD")).status == 200  # from the catalog
    for target in (blob(WITHDRAWN), part("gone")):
        assert (await world.ask(target, IN_BERLIN)).status == 410
    await world.fleet(EVERYWHERE)
    for on_miss, head in (("fill", 200), ("404", 200)):
        await world.configure(on_miss=on_miss)
        for target in (blob(ABSENT), part("absent")):
            assert (await world.ask(target, IN_BERLIN)).status == 404
            assert (await world.ask(target, IN_BERLIN, "HEAD")).status == head


@pytest.mark.parametrize("query", ["via=", "via", "via=1234", "filename=x.gguf&via=me", "v%69a=x"])
async def test_who_was_sent_here_is_not_sent_on(world: World, query: str) -> None:
    await world.fleet(EVERYWHERE)
    await world.configure(on_miss="redirect", redirect="nearest")
    assert (await world.ask(f"{blob(ABSENT)}?{query}", IN_OREGON)).status == 404
    assert (await world.ask(f"{part('absent')}?{query}", IN_OREGON)).status == 404
    assert (await world.ask(f"{blob(HERE)}?{query}", IN_OREGON)).body == HERE
    assert (await world.ask(f"{part('here')}?{query}", IN_OREGON)).body == HERE


async def test_only_if_cached(world: World) -> None:
    await world.fleet(EVERYWHERE)
    await world.configure(on_miss="redirect", redirect="nearest")
    for value in ("only-if-cached", "max-age=5, Only-If-Cached"):
        for method in ("GET", "HEAD"):
            for target in (blob(ABSENT), part("absent")):
                reply = await world.ask(target, IN_OREGON, method, Cache_Control=value)
                assert (reply.status, reply.headers["Cache-Control"]) == (504, "no-store")
            for target in (blob(HERE), part("here")):
                assert (await world.ask(target, IN_OREGON, method, Cache_Control=value)).status == 200
    assert (await world.ask(blob(ABSENT), IN_OREGON, Cache_Control="no-cache")).status == 307


async def test_a_nearer_mirror(world: World) -> None:
    await world.fleet(EVERYWHERE)
    for target in (blob(HERE), part("here")):  # not unless it is configured
        assert (await world.ask(target, IN_OREGON)).status == 200
    await world.configure(redirect="nearest")
    for _ in range(2):
        for method in ("GET", "HEAD"):
            assert is_redirect(await world.ask(blob(HERE), IN_OREGON, method), world, US, HERE, None)
            assert is_redirect(await world.ask(blob(HERE), IN_BERLIN, method), world, DE, HERE, None)
            assert is_redirect(await world.ask(part("here"), IN_OREGON, method), world, US, HERE, "here-1-f32.gguf")
            for client in (IN_PARIS, NOWHERE):  # nobody is nearer; nobody knows
                for target in (blob(HERE), part("here")):
                    reply = await world.ask(target, client, method)
                    assert (reply.status, reply.body) == (200, HERE if method == "GET" else b"")
    # all that was in use was given back
    assert [entry.users for entry in world.plane.cache._entries.values()] == [0]
    assert (await world.ask(blob(ABSENT), IN_OREGON)).status == 404  # that is the other setting


async def test_never_by_load_and_never_to_a_part_of_it(world: World) -> None:
    busy = replace(FR, id=world.own.id)
    await world.configure(redirect="nearest")
    await world.fleet({HERE: {FR: "complete", US: "partial", busy: "complete"}})
    for client in (IN_BERLIN, IN_PARIS, IN_OREGON):
        assert (await world.ask(blob(HERE), client)).status == 200


async def test_two_nodes_that_send_to_each_other_end_at_the_second(tmp_path: Path, database: PlaceDatabase) -> None:
    how: dict[str, Any] = {"on_miss": "redirect", "redirect": "nearest"}
    async with running(tmp_path / "a", database, **how) as one, running(tmp_path / "b", database, **how) as other:
        for world, to in ((one, other), (other, one)):
            await world.fleet({ABSENT: {PeerView(to.own.id, f"http://127.0.0.1:{to.port}"): "complete"}})
        reply = await one.ask(blob(ABSENT))
        assert reply.status == 307
        base, path, target = reply.headers["Location"].partition("/v1/")
        assert base == f"http://127.0.0.1:{other.port}"
        assert (await other.ask(path + target)).status == 404


# Metalinks


async def test_metalinks_of_parts_and_blobs(world: World) -> None:
    await world.fleet({HERE: {DE: "complete", US: "complete", FR: "partial"}, ABSENT: {DE: "complete"}})
    for target in (part("here"), blob(HERE), f"/v1/blobs/sha256/{digest_of(HERE).hex}"):
        reply = await world.ask(f"{target}.meta4", IN_BERLIN)
        assert (reply.status, reply.headers["Content-Type"]) == (200, "application/metalink4+xml")
        assert reply.headers["Cache-Control"] == "no-store"
        (file,) = ET.fromstring(reply.body)
        assert file.attrib["name"] == "here-1-f32.gguf"
        size, whole, *urls = file
        assert (size.text, whole.text) == (str(len(HERE)), digest_of(HERE).hex)
        assert [url.attrib.get("location") for url in urls] == ["de", None, "us"]
        tail = f"/v1/blobs/{digest_of(HERE)}?filename=here-1-f32.gguf"
        assert [url.text for url in urls] == [base + tail for base in (DE.url, "http://node.test:8080", US.url)]
    head = await world.ask(f"{part('here')}.meta4", IN_BERLIN, "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["Content-Length"]) == len(reply.body)
    named = await world.ask(f"{blob(ABSENT)}.meta4?filename=..%2Fx%3C.gguf")
    (file,) = ET.fromstring(named.body)
    assert [file.attrib["name"], *(child.text for child in file)] == [
        "x<.gguf", str(len(ABSENT)), digest_of(ABSENT).hex,
        f"{DE.url}/v1/blobs/{digest_of(ABSENT)}?filename=x%3C.gguf",
    ]  # fmt: skip


async def test_metalinks_that_there_are_not(world: World) -> None:
    await world.fleet({ABSENT: {FR: "partial"}})
    assert (await world.ask(f"{part('absent')}.meta4")).status == 404
    assert (await world.ask(f"{blob(STRANGE)}.meta4")).status == 404
    assert (await world.ask(f"{part('none')}.meta4")).status == 404
    assert (await world.ask(f"{part('gone')}.meta4")).status == 410
    assert (await world.ask(f"{blob(WITHDRAWN)}.meta4")).status == 410
    assert (await world.ask("/v1/blobs/sha256:12.meta4")).status == 400


async def test_pieces_come_from_the_stored_manifest(world: World) -> None:
    data = random.Random(3).randbytes((8 << 20) + 5)
    manifest = build_manifest(lambda offset, length: data[offset : offset + length], len(data), chunker=FIXED_1)
    world.layout.blob(digest_of(data)).write_bytes(data)
    world.layout.blob(manifest.digest()).write_bytes(manifest.encode())
    index = Index.open(world.layout.index)
    index.put_manifests([ManifestRow(digest_of(data), manifest.digest(), FIXED_1)])
    index.close()
    reply = await world.ask(f"{blob(data)}.meta4")
    (file,) = ET.fromstring(reply.body)
    pieces = file[2]
    assert pieces.attrib == {"length": str(8 << 20), "type": "sha-256"}
    assert [piece.text for piece in pieces] == [digest_of(one).hex for one in (data[: 8 << 20], data[8 << 20 :])]
    assert file.attrib["name"] == digest_of(data).hex


async def test_pieces_that_a_metalink_can_t_say_are_left_out(world: World) -> None:
    """A manifest that calls itself `fixed/1` and is cut elsewhere: what is stored may have come from anywhere."""
    pieces = [chunk_hashes(piece) for piece in (HERE[:3], HERE[3:])]
    sha256, xxh3 = (b"".join(pair[which] for pair in pieces) for which in (0, 1))
    manifest = ChunkManifest(digest_of(HERE), len(HERE), FIXED_1, (3, len(HERE) - 3), sha256, xxh3)
    world.layout.blob(manifest.digest()).write_bytes(manifest.encode())
    index = Index.open(world.layout.index)
    index.put_manifests([ManifestRow(digest_of(HERE), manifest.digest(), FIXED_1)])
    index.close()
    reply = await world.ask(f"{blob(HERE)}.meta4")
    assert reply.status == 200
    (file,) = ET.fromstring(reply.body)
    assert [child.tag.rpartition("}")[2] for child in file] == ["size", "hash", "url"]
