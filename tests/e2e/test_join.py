"""A second node joins: it follows the catalog, is admitted by its record, and is revoked; by the installed program."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import time
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from counts import rounds
from e2e.harness import PROGRAM, Node, Result, eventually, run
from e2e.publishing import done, everything_below, names, publish, signing_node, write_gguf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A running node that signs, with one model."""
    folder = tmp_path_factory.mktemp("signer")
    node = signing_node(folder)
    publish(node, write_gguf(folder / "one.gguf", "one"), "one:q@1")
    try:
        yield node.start()
    finally:
        node.discard()


def root_of(node: Node) -> Path:
    return node.data / "trust/root.json"


def join(signer: Node, data: Path, *more: str, url: str | None = None, root: Path | None = None) -> Result:
    return run("init", "--join", url or signer.url, "--root", root or root_of(signer), "--data", data, *more)


def fleet_of(signer: Node) -> dict[str, Any]:
    """What is on the wire."""
    return {node["id"]: node for node in signer.get("/fleet.json").json["nodes"]}


def test_a_node_joins_is_admitted_and_revoked(signer: Node, tmp_path: Path) -> None:
    own = json.loads((signer.data / "record.json").read_bytes())["id"]
    data = tmp_path / "data"
    where = ("--region", "us-east", "--public-url", "https://us.example/", "--gossip-url", "https://us.example:8082")
    joined = join(signer, data, *where, "--json")
    assert joined.code == 0, joined
    node_id, key = joined.json["node"]["id"], joined.json["node"]["key"]
    assert hashlib.sha256(bytes.fromhex(key)).hexdigest() == node_id
    assert joined.json["root"] == json.loads(root_of(signer).read_bytes())
    assert (data / "trust/root.json").read_bytes() == root_of(signer).read_bytes()
    assert not (data / "keys").exists()
    settings = (data / "node.toml").read_text()
    assert f'seeds = ["{signer.url}"]' in settings
    assert "signer" not in settings
    assert run("check-config", "--data", data).code == 0

    admit = done(signer, "fleet", "admit", data / "record.json", "--country", "us", "--json").json
    assert (admit["changed"], admit["node"]["id"]) == (True, node_id)
    on_the_wire = fleet_of(signer)[node_id]
    assert on_the_wire == admit["node"]
    assert on_the_wire == {
        "id": node_id,
        "key": key,
        "region": "us-east",
        "url": "https://us.example",
        "gossip_url": "https://us.example:8082",
        "country": "US",
        "latitude": None,
        "longitude": None,
        "state": "admitted",
    }
    listed = done(signer, "fleet", "list", "--json").json
    assert {node["id"] for node in listed["nodes"]} >= {own, node_id}
    again = done(signer, "fleet", "admit", data / "record.json").out
    assert "says so already" in again

    assert done(signer, "fleet", "revoke", node_id[:8], "--json").json["node"]["state"] == "revoked"
    assert fleet_of(signer)[node_id]["state"] == "revoked"
    assert done(signer, "fleet", "admit", node_id, "--json").json["node"] == on_the_wire
    version = done(signer, "fleet", "list", "--json").json["version"]
    assert version == listed["version"] + 2
    done(signer, "fleet", "revoke", node_id)


def test_what_a_stopped_node_that_joined_can_tell(signer: Node, tmp_path: Path) -> None:
    node = Node(tmp_path)
    assert join(signer, node.data).code == 0
    assert "one:q@1" in names(node)
    assert done(node, "show", "one", "--json").json == done(signer, "show", "one", "--json").json
    ours, theirs = done(node, "status", "--json").json, done(signer, "status", "--json").json
    assert ours["catalog"] == theirs["catalog"]
    assert ours["node"]["running"] is False
    assert done(node, "fleet", "list").out == done(signer, "fleet", "list").out
    pulled = node.command("pull", "one", "--from", signer.url, "-o", tmp_path / "one.gguf")
    assert pulled.code == 0, pulled
    digest = hashlib.sha256((tmp_path / "one.gguf").read_bytes()).hexdigest()
    assert digest == done(node, "show", "one", "--json").json[0]["sha256"]


def test_a_node_that_follows_refuses_to_edit(signer: Node, tmp_path: Path) -> None:
    node = Node(tmp_path)
    join(signer, node.data)
    own = json.loads((node.data / "record.json").read_bytes())["id"]
    before = everything_below(node.data / "catalog", node.data / "blobs")
    file = write_gguf(tmp_path / "two.gguf", "two")
    for edit in (
        ("publish", file, "--name", "two", "--variant", "q"),
        ("yank", "one", "--reason", "no"),
        ("edit", "one", "--license", "mit"),
        ("fleet", "admit", node.data / "record.json"),
        ("fleet", "revoke", json.loads((signer.data / "record.json").read_bytes())["id"]),
        ("keys", "rotate", "models"),
        ("keys", "refresh"),
        ("keys", "takeover"),
    ):
        refused = node.command(*edit)
        assert refused.code == 5, (edit, refused)
        assert "signs" in refused.err, "it says what to do"
    assert everything_below(node.data / "catalog", node.data / "blobs") == before
    assert own not in fleet_of(signer)


def test_what_is_not_admitted(signer: Node, tmp_path: Path) -> None:
    assert join(signer, tmp_path / "data").code == 0
    good = json.loads((tmp_path / "data/record.json").read_bytes())
    before = fleet_of(signer)
    stranger = hashlib.sha256(bytes(32)).hexdigest()
    other = tmp_path / "other.json"

    def admit(*arguments: str | Path) -> int:
        return signer.command("fleet", "admit", *arguments).code

    for wrong in ({"region": "elsewhere"}, {"id": stranger}, {"key": "0" * 64}, {"signature": "0" * 128}):
        other.write_text(json.dumps(good | wrong))
        assert admit(other) == 3, wrong
    other.write_text("{}")
    assert admit(other) == 1
    assert admit(tmp_path / "missing.json") == 4
    assert admit(good["id"], "--region", "eu", "--url", "https://x.example") == 2, "its key isn't known"
    assert admit(good["id"], "--key", good["key"]) == 2, "where it is isn't known"
    assert admit(good["id"], "--key", "abc", "--region", "eu", "--url", "https://x.example") == 2
    assert admit(stranger, "--key", good["key"], "--region", "eu", "--url", "https://x.example") == 3
    assert admit(good["id"][:40], "--key", good["key"]) == 2
    assert admit(tmp_path / "data/record.json", "--key", "0" * 64) == 3
    assert admit(tmp_path / "data/record.json", "--latitude", "1") == 2
    assert admit(tmp_path / "data/record.json", "--url", "ftp://x.example") == 2
    assert signer.command("fleet", "revoke", "0" * 64).code == 4
    assert signer.command("fleet", "revoke", "abc").code == 2
    assert fleet_of(signer) == before
    assert admit(good["id"], "--key", good["key"], "--region", "eu", "--url", "https://x.example") == 0
    assert fleet_of(signer)[good["id"]]["url"] == "https://x.example"
    assert signer.command("fleet", "revoke", good["id"]).code == 0


def test_the_last_node_is_not_revoked(tmp_path: Path) -> None:
    data = tmp_path / "data"
    made = json.loads(run("init", "--data", data, "--json").out)
    assert run("fleet", "revoke", made["node"]["id"], "--data", data).code == 5


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name is the base class's
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_init_that_could_not_join_can_be_run_again(signer: Node, tmp_path: Path) -> None:
    data, empty = tmp_path / "data", tmp_path / "empty"
    empty.mkdir()
    assert run("init", "--data", tmp_path / "other").code == 0
    assert join(signer, data, url="http://127.0.0.1:1").code == 75
    assert join(signer, data, root=tmp_path / "other/trust/root.json").code == 3
    with _served(empty) as url:
        assert join(signer, data, url=url).code == 4
    (empty / "metadata").mkdir()
    for path in (signer.data / "catalog/metadata").iterdir():
        (empty / "metadata" / path.name).write_bytes(path.read_bytes())
    with _served(empty) as url:
        assert join(signer, data, url=url).code == 4, "it has no documents"
    assert not (data / "node.key").exists()
    assert not (data / "node.toml").exists()
    assert not (data / "trust/root.json").exists()
    assert not (data / "catalog/metadata/timestamp.json").exists()
    assert join(signer, data).code == 0
    assert (data / "catalog/metadata/timestamp.json").exists()
    again = join(signer, data)
    assert again.code == 1
    assert "nothing was changed" in again.err


@pytest.mark.parametrize("joining", [True, False])
def test_an_init_that_was_killed_can_be_run_again(signer: Node, tmp_path: Path, *, joining: bool) -> None:
    """And it goes on with its key, which a new catalog may have admitted already."""
    options = ["--join", signer.url, "--root", str(root_of(signer))] if joining else []
    began = time.monotonic()
    assert run("init", "--data", tmp_path / "first", *options).code == 0
    lasts = time.monotonic() - began
    killed = 0
    for number in range(rounds(6, 60)):
        data = tmp_path / str(number)
        with subprocess.Popen(
            [PROGRAM, "init", "--data", data, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            eventually(lambda data=data: data.exists(), "the folder")  # type: ignore[misc]
            time.sleep(random.uniform(0, lasts / 2))
            process.kill()
        if not (data / "node.key").exists():
            killed += 1
            assert run("init", "--data", data, *options).code == 0
        record = json.loads((data / "record.json").read_bytes())
        assert record["id"] == done(Node(data.parent), "status", "--data", data, "--json").json["node"]["id"]
        if not joining:
            (first,) = json.loads(run("fleet", "list", "--data", data, "--json").out)["nodes"]
            assert first["id"] == record["id"]
    assert killed, "none was interrupted"


@pytest.mark.parametrize("lacks", ["--join", "--root"])
def test_join_and_root_come_together(signer: Node, tmp_path: Path, lacks: str) -> None:
    options = {"--join": signer.url, "--root": str(root_of(signer))}
    del options[lacks]
    assert run("init", "--data", tmp_path / "data", *(word for pair in options.items() for word in pair)).code == 2
    assert join(signer, tmp_path / "data", "--no-catalog").code == 2
    assert join(signer, tmp_path / "data", url="not a URL").code == 2
    assert not (tmp_path / "data").exists()
