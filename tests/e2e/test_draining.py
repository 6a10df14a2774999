"""Drain and undrain: at once, in all workers, over restarts, and known to the fleet."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from e2e.fleets import know_each_other, make_member, pair, peers
from e2e.harness import Node, eventually, run
from e2e.publishing import done, publish, write_gguf
from e2e.wire import Wire, fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Content


def statuses(node: Node, target: str) -> set[int]:
    """What new connections are answered: enough of them to reach every worker."""
    return {node.get(target).status for _ in range(24)}


def test_downloads_are_finished_and_nothing_is_begun_until_undrain(
    make_node: Callable[..., Node], model: Content, large: Content, tmp_path: Path
) -> None:
    node = make_node().start(workers=2)
    at = ("127.0.0.1", node.port)
    with Wire(at, receive_buffer=1 << 16) as slow, Wire(at) as kept:
        slow.ask(large.target)
        slow.head()
        body = slow.body(100_000)
        kept.ask(model.target)
        assert kept.answer().body == model.data
        assert done(node, "drain", "--reason", "a new disk", "--json").json == {"state": "draining"}
        assert statuses(node, model.target) == {503}, "all workers, at once"
        kept.ask(model.target)
        answer = kept.answer()
        assert (answer.status, answer["Retry-After"]) == (503, "10"), "also on connections that were there"
        assert (fetch(at, "/healthz").status, fetch(at, model.target, method="OPTIONS").status) == (200, 204)
        assert node.get("/readyz").json["checks"]["draining"] == {"ok": False, "detail": "drained"}
        shown = done(node, "status", "--json").json["node"]["drained"]
        assert shown["reason"] == "a new disk"
        assert "drained  since 20" in done(node, "status").out
        assert done(node, "drain").out.startswith("draining"), "again is fine"
        assert node.command("drain", "--reason", "\x1b[2J").code == 1, "nothing that a terminal would act upon"
        control, worker = node.child("control"), node.child("worker-0")
        os.kill(control, signal.SIGKILL)
        assert statuses(node, model.target) == {503}
        assert body + slow.body(large.size - 100_000) == large.data
        os.kill(worker, signal.SIGKILL)
        node.successor("worker-0", worker)
        node.successor("control", control)
        assert statuses(node, model.target) == {503}
    node.stop()
    stopped = node.command("undrain")
    assert (stopped.code, "no node answers" in stopped.err) == (75, True)
    assert done(node, "status", "--json").json["node"]["drained"] == shown, "told from disk as well"
    node.start(workers=2)
    assert statuses(node, model.target) == {503}, "from the first answer on"

    # from afar, with the right to
    url = node.ready["urls"]["control"][0]
    tokens = {}
    for scope in ("read", "operate"):
        made = done(node, "token", "create", "--scope", scope, "--json").json
        tokens[scope] = tmp_path / scope
        tokens[scope].write_text(made["token"] + "\n")
        tokens[scope].chmod(0o600)
    assert run("undrain", "--to", url, "--token-file", tokens["read"]).code == 5
    assert statuses(node, model.target) == {503}
    assert run("undrain", "--to", url, "--token-file", tokens["operate"], "--json").json == {"state": "up"}
    assert statuses(node, model.target) == {200}
    assert done(node, "undrain").out.startswith("up"), "again is fine"
    assert run("drain", "--to", url, "--token-file", tokens["operate"], "--json").json == {"state": "draining"}
    assert statuses(node, model.target) == {503}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    with pair(tmp_path_factory.mktemp("pair"), **{"public.workers": 2}) as found:
        yield found


def mirrors(node: Node, digest: str) -> set[str]:
    reply = node.get(f"/v1/mirrors?digest={digest}")
    return {one["region"] for one in reply.json["mirrors"]} if reply.status == 200 else set()


def test_the_fleet_sends_nobody_to_a_drained_node_and_it_sends_its_own_elsewhere(
    nodes: tuple[Node, Node], tmp_path: Path
) -> None:
    us, eu = nodes
    model = write_gguf(tmp_path / "a.gguf", "a")
    digest = f"sha256:{publish(us, model, 'a:f32@1')['sha256'].removeprefix('sha256:')}"
    eu.add(model)
    for node in nodes:
        eventually(lambda node=node: mirrors(node, digest) == {"us", "eu"}, "both have it")  # type: ignore[misc]
    eventually(lambda: eu.get("/models/a-f32.gguf").status == 200, "eu follows the catalog")

    done(eu, "drain")
    # it was told before the command returned; what it acts upon is at most a round behind
    eventually(lambda: peers(us)["eu"]["state"] == "draining" and mirrors(us, digest) == {"us"}, "us knows", 3)
    assert mirrors(eu, digest) == {"us"}
    assert not any(eu.url in one for one in us.get("/models/a-f32.gguf").headers.get_all("Link", []))
    assert eu.get("/models/a-f32.gguf").status == 503, "nobody allowed redirects"

    eu.configure(public__on_miss="redirect")
    eu.stop()
    eu.start(port=None, workers=2)
    eventually(lambda: peers(us).get("eu", {}).get("state") == "draining", "it says so again")
    eventually(lambda: statuses(eu, "/models/a-f32.gguf") == {307}, f"redirects to us: {eu.log}")
    for target in ("/models/a-f32.gguf", f"/v1/blobs/{digest}"):
        reply = eu.get(target)
        assert reply.headers["Location"].startswith(f"{us.url}/v1/blobs/{digest}")
        assert "via=" in reply.headers["Location"]
        assert eu.get(f"{target}?via=somebody").status == 503
        if shutil.which("curl"):
            command = ["curl", "-sfL", "-C", "100", "-o", str(tmp_path / "got"), eu.url + target]
            (tmp_path / "got").write_bytes(model.read_bytes()[:100])
            assert subprocess.run(command, check=False, timeout=60).returncode == 0
            assert (tmp_path / "got").read_bytes() == model.read_bytes()
    pulled = run("pull", digest, "--from", eu.url, "-o", tmp_path / "pulled")
    assert pulled.code == 0, pulled
    assert (tmp_path / "pulled").read_bytes() == model.read_bytes()
    assert eu.get("/v1/catalog.json").status == 503

    done(eu, "undrain")
    assert statuses(eu, "/models/a-f32.gguf") == {200}
    eventually(lambda: peers(us)["eu"]["state"] == "alive" and mirrors(us, digest) == {"us", "eu"}, "us knows", 5)
    know_each_other(us, eu)


def test_the_fleet_follows_a_drained_signer(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    us, eu = nodes
    done(us, "drain")
    try:
        publish(us, write_gguf(tmp_path / "d.gguf", "d"), "d:f32@1")
        eventually(lambda: eu.get("/models/d-f32.gguf.json").status == 200, "eu has the catalog", 10)
        assert peers(eu)["us"]["catalog_refused"] is None
        assert us.get("/v1/catalog.json").status == 503
    finally:
        done(us, "undrain")


def test_a_node_that_joins_while_drained_is_sent_nobody(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    us, _ = nodes
    ap = make_member(tmp_path / "ap", us, region="ap")
    try:
        ap.start(port=None)
        done(ap, "drain")
        os.kill(ap.child("control"), signal.SIGKILL)  # what it says after that comes from the disk
        eventually(lambda: peers(us).get("ap", {}).get("state") == "draining", "its successor says the same")
        assert ap.get("/v1/catalog.json").status == 503
        ap.stop()
    finally:
        ap.discard()
        done(us, "fleet", "revoke", done(ap, "status", "--json").json["node"]["id"])
