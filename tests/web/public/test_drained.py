"""What a drained node answers: come back later, or go elsewhere; and how it is, as ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aibrother_node.store.disk import Disk
from aibrother_node.store.draining import drain, undrain
from web.public.test_mirrors import (
    ABSENT,
    DE,
    EVERYWHERE,
    HERE,
    IN_BERLIN,
    IN_OREGON,
    STRANGE,
    US,
    WITHDRAWN,
    World,
    blob,
    digest_of,
    mirrors_of,
    part,
    running,
)
from web.public.test_mirrors import database as database  # noqa: PLC0414 - a fixture, to be found here

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aibrother_node.fleet.place import PlaceDatabase

CONTENT = [blob(HERE), blob(STRANGE), part("here"), part("nothing"), f"/v1/chunks/sha256:{'a' * 64}"]
CATALOG = ["/v1/catalog.json", "/fleet.json", f"{part('here')}.json", f"/targets/{'a' * 64}.nothing.json"]


@pytest.fixture
async def world(tmp_path: Path, database: PlaceDatabase) -> AsyncIterator[World]:
    async with running(tmp_path, database) as made:
        await made.fleet(EVERYWHERE)
        yield made


def _drain(world: World) -> None:
    drain(world.layout, Disk(), "2026-11-01T00:00:00Z", "a new disk")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("target", CONTENT + CATALOG)
async def test_content_and_catalog_are_503_until_undrained(world: World, target: str, method: str) -> None:
    before = await world.ask(target, method=method)
    _drain(world)
    reply = await world.ask(target, method=method)
    assert (reply.status, reply.headers["Retry-After"], reply.headers["Cache-Control"]) == (503, "10", "no-store")
    assert reply.headers["Content-Type"] == "application/problem+json"
    undrain(world.layout, Disk())
    assert (await world.ask(target, method=method)).status == before.status


async def test_how_it_is_and_where_else_to_go_is_told_as_ever(world: World) -> None:
    _drain(world)
    assert (await world.ask("/healthz")).status == 200
    ready = await world.ask("/readyz")
    assert (ready.status, ready.json["checks"]["draining"]) == (503, {"ok": False, "detail": "drained"})
    assert "a new disk" not in ready.body.decode(), "the reason is for operators"
    assert (await world.ask(blob(HERE), method="OPTIONS")).status == 204
    assert (await world.ask(blob(HERE), method="POST")).status == 405
    assert (await world.ask("/nowhere")).status == 404
    assert (await world.ask("/metadata/timestamp.json")).status == 404, "looked for: it is what the fleet follows"
    listed = (await world.ask(mirrors_of(HERE), IN_BERLIN)).json["mirrors"]
    assert [one["id"] for one in listed] == [DE.id, US.id], "all but this one"
    metalink = await world.ask(f"{part('here')}.meta4")
    assert metalink.status == 200
    assert b"node.test" not in metalink.body


@pytest.mark.parametrize("allowed", [{"on_miss": "redirect"}, {"redirect": "nearest"}])
async def test_clients_are_sent_to_the_nearest_where_redirects_are_allowed(
    world: World, allowed: dict[str, str]
) -> None:
    await world.configure(**allowed)
    await world.ask(part("here"))  # what was answered once is not answered from memory either
    _drain(world)
    for target, data in ((blob(HERE), HERE), (part("here"), HERE), (blob(ABSENT), ABSENT), (part("absent"), ABSENT)):
        for client, nearest in ((IN_BERLIN, DE), (IN_OREGON, US)):
            reply = await world.ask(target, client, Range="bytes=2-3")
            assert (reply.status, reply.headers["Cache-Control"]) == (307, "no-store")
            assert reply.headers["Location"].startswith(f"{nearest.url}{blob(data)}?")
            assert f"via={world.own.id}" in reply.headers["Location"]
    chunks = f"/v1/chunks/{digest_of(HERE)}"
    reply = await world.ask(f"{chunks}?manifest={digest_of(ABSENT)}", IN_BERLIN)
    assert reply.headers["Location"] == f"{DE.url}{chunks}?manifest={digest_of(ABSENT)}&via={world.own.id}"
    assert (await world.ask(chunks, IN_BERLIN)).headers["Location"] == f"{DE.url}{chunks}?via={world.own.id}"
    consistent = f"/targets/models/{digest_of(HERE).hex}.here-1-f32.gguf"
    assert (await world.ask(consistent)).headers["Location"].partition("?")[0] in (
        DE.url + blob(HERE),
        US.url + blob(HERE),
    )
    for target, client_says, status in (
        (f"{blob(HERE)}?via=x", {}, 503),  # no circles
        (blob(HERE), {"Cache-Control": "only-if-cached"}, 503),
        (blob(STRANGE), {}, 503),  # nobody has it
        (part("nothing"), {}, 404),
        (blob(WITHDRAWN), {}, 410),
        ("/v1/catalog.json", {}, 503),
    ):
        assert (await world.ask(target, **client_says)).status == status, target
    await world.fleet({HERE: {DE: "partial", US: "partial"}})
    assert (await world.ask(blob(HERE))).status == 503, "half a blob serves nobody"
