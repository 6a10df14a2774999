"""Where a running node takes its clients to be: the database of places, the proxy's word, and their reload."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from e2e.harness import Node, eventually
from fleet.mmdb import city, write_mmdb

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Content

PARIS, BERLIN, LYON = (48.857, 2.352), (52.52, 13.405), (45.76, 4.84)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return write_mmdb(tmp_path / "places.mmdb", {"192.0.2.0/24": city("DE", *BERLIN)})


def distance(node: Node, model: Content, client: str | None) -> float:
    """How far the node says it is from a client."""
    headers = {} if client is None else {"X-Forwarded-For": client}
    (mirror,) = node.get(f"/v1/mirrors?digest={model.digest}", headers).json["mirrors"]
    assert mirror["id"] == node.ready["node"]
    assert mirror["url"] == f"http://127.0.0.1:{node.port}"
    found = mirror["distance_km"]
    assert isinstance(found, float)
    return found


def test_places_and_their_reload(make_node: Callable[..., Node], model: Content, database: Path) -> None:
    node = make_node(
        node__latitude=PARIS[0],
        node__longitude=PARIS[1],
        public__geoip_database=str(database),
        public__trusted_proxies=["127.0.0.0/8"],
    )
    node.start()
    assert distance(node, model, "192.0.2.7") == pytest.approx(878, abs=5)
    assert distance(node, model, "192.0.2.7, 127.0.0.9") == pytest.approx(878, abs=5)
    assert distance(node, model, "198.51.100.1") == 0
    assert distance(node, model, None) == 0

    # another file under the same name
    write_mmdb(database.with_name("new"), {"192.0.2.0/24": city("FR", *LYON)}).replace(database)
    node.send(signal.SIGHUP)
    eventually(lambda: distance(node, model, "192.0.2.7") == pytest.approx(392, abs=5), "the new database")

    # a broken one: everything stays as it was, and the log says why
    database.with_name("broken").write_bytes(b"this is no database")
    database.with_name("broken").replace(database)
    node.send(signal.SIGHUP)
    eventually(lambda: "public.geoip_database" in node.log, "the complaint")
    assert distance(node, model, "192.0.2.7") == pytest.approx(392, abs=5)

    # nobody's word is taken any more
    node.configure(public__geoip_database="", public__trusted_proxies=[])
    node.send(signal.SIGHUP)
    eventually(lambda: distance(node, model, "192.0.2.7") == 0, "the reload")


@pytest.mark.parametrize("kind", ["missing", "broken", "folder"])
def test_a_database_that_can_t_be_used_is_a_fault_of_the_configuration(
    make_node: Callable[..., Node], tmp_path: Path, kind: str
) -> None:
    path = tmp_path / f"{kind}.mmdb"
    if kind == "broken":
        path.write_bytes(b"\xab\xcd\xefMaxMind.com and no more")
    elif kind == "folder":
        path.mkdir()
    node = make_node(empty=True, public__geoip_database=str(path))
    for words in (("check-config",), ("serve", "--port", "0")):
        result = node.command(*words)
        assert result.code == 2
        assert "public.geoip_database: " in result.err
        assert str(path) in result.err
    checked = node.command("check-config", "--json")
    assert (checked.code, len(checked.json["faults"])) == (2, 1)
