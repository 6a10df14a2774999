"""Three nodes of the installed program in network namespaces, in regions us, eu and ap: admission, catalog, failures.

The nodes gossip five times a second, so that a record is signed again every 6 s and a silent node counts as dead after
some 11; everything else is as it is by default.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from e2e.harness import Node, eventually
from e2e.network import Host, Network, unavailable
from e2e.publishing import done, publish, sha256_of, write_gguf

if TYPE_CHECKING:
    from collections.abc import Iterator

REASON = unavailable()
FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

FAST = {"fleet.gossip_interval": "200ms", "fleet.forget_after": "15s", "catalog.refresh_interval": "2s"}
DETECTED = 20.0


class Fleet:
    """A signing node in us, and joined ones elsewhere."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.folder = folder
        self.nodes: dict[str, Node] = {}

    def found(self) -> None:
        us = self.network["us"].init(self.folder / "us", "us", **{**FAST, "catalog.signer": True})
        self.nodes["us"] = us
        self.network["us"].start(us)

    def join(self, name: str, *, admit: bool = True) -> None:
        host, us = self.network[name], self.nodes["us"]
        root = us.data / "trust/root.json"
        seeds = {"fleet.seeds": [self.network["us"].url]}
        how = ("--join", self.network["us"].url, "--root", root)
        node = host.init(self.folder / name, name, *how, **{**FAST, **seeds})
        self.nodes[name] = node
        if admit:
            done(us, "fleet", "admit", node.data / "record.json")
        host.start(node)

    def host(self, name: str) -> Host:
        return self.network[name]

    def id_of(self, name: str) -> str:
        found: str = done(self.nodes[name], "status", "--json").json["node"]["id"]
        return found

    def listed(self, name: str) -> set[str]:
        """The releases in a node's catalog, asked over HTTP."""
        reply = self.host(name).request(f"{self.host(name).url}/v1/catalog.json")
        return {f"{one['name']}@{one['version']}" for one in reply.json["models"]}

    def peers(self, name: str) -> dict[str, Any]:
        return {one["region"]: one for one in done(self.nodes[name], "peers", "--json").json["peers"]}

    def mirrors(self, name: str, digest: str) -> list[str]:
        reply = self.host(name).request(f"{self.host(name).url}/v1/mirrors?digest={digest}")
        if reply.status == 404:  # it hasn't heard of the blob yet
            return []
        assert reply.status == 200, reply
        return [one["region"] for one in reply.json["mirrors"]]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The three nodes; what a test does to them is made good before the next one."""
    with Network("us", "eu", "ap") as network:
        made = Fleet(network, tmp_path_factory.mktemp("fleet"))
        try:
            made.found()
            made.join("eu")
            made.join("ap")
            yield made
            for node in made.nodes.values():
                if node.process is not None:
                    node.stop()
        finally:
            for node in made.nodes.values():
                node.discard()


@pytest.fixture
def fleet(hosts: Fleet) -> Fleet:
    """All three run, reach and know each other."""
    for name, node in hosts.nodes.items():
        hosts.network.rejoin(name)
        if node.process is None:
            hosts.host(name).start(node)
    for name in hosts.nodes:
        eventually(
            lambda name=name: [one["state"] for one in hosts.peers(name).values()] == ["alive", "alive"],  # type: ignore[misc]
            f"{name} knows the others: {hosts.peers(name)}",
        )
    return hosts


def test_a_publish_is_listed_everywhere_within_five_seconds(fleet: Fleet, tmp_path: Path) -> None:
    for version in ("1", "2", "3"):
        publish(fleet.nodes["us"], write_gguf(tmp_path / "a.gguf", f"a {version}"), f"a:f32@{version}")
        published = time.monotonic()
        for name in ("eu", "ap"):
            while f"a@{version}" not in fleet.listed(name):
                assert time.monotonic() < published + 5.0, f"{version} isn't listed in {name}: {fleet.nodes[name].log}"
                time.sleep(0.02)
    for name in ("eu", "ap"):  # and each can be asked as the signer can
        assert done(fleet.nodes[name], "list", "--json").json["models"][0]["version"] == "3"


def test_a_dead_node_leaves_the_mirrors_and_comes_back(fleet: Fleet, tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "m.gguf", "dead")
    digest = publish(fleet.nodes["us"], model, "dead:f32@1")["sha256"]
    digest = f"sha256:{digest.removeprefix('sha256:')}"
    fleet.nodes["eu"].add(model)
    for name in ("us", "ap"):
        eventually(lambda name=name: "eu" in fleet.mirrors(name, digest), f"{name} knows that eu has it")  # type: ignore[misc]
    assert fleet.mirrors("eu", digest)[0] == "eu", "a node's own region is nearest"
    fleet.nodes["eu"].discard()
    for name in ("us", "ap"):
        eventually(lambda name=name: "eu" not in fleet.mirrors(name, digest), f"eu gone from {name}", DETECTED)  # type: ignore[misc]
    fleet.host("eu").start(fleet.nodes["eu"])
    for name in ("us", "ap"):
        eventually(lambda name=name: "eu" in fleet.mirrors(name, digest), f"eu back in {name}")  # type: ignore[misc]


def test_a_node_that_ends_leaves_the_mirrors_at_once(fleet: Fleet, tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "m.gguf", "ends")
    publish(fleet.nodes["us"], model, "ends:f32@1")
    (digest,) = fleet.nodes["eu"].add(model)
    eventually(lambda: "eu" in fleet.mirrors("ap", digest), "ap knows that eu has it")
    fleet.nodes["eu"].stop()
    eventually(lambda: "eu" not in fleet.mirrors("ap", digest), "eu gone from ap", 3.0)
    assert fleet.peers("ap")["eu"]["state"] in ("leaving", "draining", "suspect", "dead")


def test_both_sides_of_a_cut_serve_and_agree_once_it_heals(fleet: Fleet, tmp_path: Path) -> None:
    fleet.network.cut("us", "ap")
    publish(fleet.nodes["us"], write_gguf(tmp_path / "a.gguf", "cut a"), "cut-a:f32@1")
    eventually(lambda: "cut-a@1" in fleet.listed("eu"), "listed in eu")
    eventually(lambda: "cut-a@1" in fleet.listed("ap"), "listed in ap, by way of eu", 10.0)
    assert fleet.peers("us")["ap"]["state"] == "alive", "eu tells us of ap"
    fleet.network.cut("eu", "ap")  # now ap is alone
    publish(fleet.nodes["us"], write_gguf(tmp_path / "b.gguf", "cut b"), "cut-b:f32@1")
    eventually(lambda: "cut-b@1" in fleet.listed("eu"), "listed in eu")
    eventually(lambda: fleet.peers("us")["ap"]["state"] in ("suspect", "dead"), "us misses ap", DETECTED)
    assert "cut-b@1" not in fleet.listed("ap")
    assert fleet.host("ap").request(f"{fleet.host('ap').url}/readyz").status == 200
    fleet.network.heal("us", "ap")
    fleet.network.heal("eu", "ap")
    eventually(lambda: "cut-b@1" in fleet.listed("ap"), "ap agrees")
    eventually(lambda: fleet.peers("us")["ap"]["state"] == "alive", "us sees ap again")


def test_a_revoked_node_is_gone_everywhere(fleet: Fleet, tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "m.gguf", "revoked")
    publish(fleet.nodes["us"], model, "revoked:f32@1")
    (digest,) = fleet.nodes["eu"].add(model)
    eventually(lambda: "eu" in fleet.mirrors("ap", digest), "ap knows that eu has it")
    done(fleet.nodes["us"], "fleet", "revoke", fleet.id_of("eu"))
    for name in ("us", "ap"):
        eventually(lambda name=name: "eu" not in fleet.peers(name), f"eu is no peer of {name}")  # type: ignore[misc]
        assert "eu" not in fleet.mirrors(name, digest)
    # its records and requests are refused from now on, and it goes on with the public catalog
    eventually(
        lambda: done(fleet.nodes["eu"], "peers", "--json").json["self"]["state"] == "not admitted",
        "eu has learnt of it",
    )
    publish(fleet.nodes["us"], write_gguf(tmp_path / "n.gguf", "revoked n"), "revoked-n:f32@1")
    eventually(lambda: "revoked-n@1" in fleet.listed("eu"), "eu follows the catalog as anybody may", 15.0)
    assert "eu" not in fleet.peers("us")
    done(fleet.nodes["us"], "fleet", "admit", fleet.nodes["eu"].data / "record.json")
    eventually(lambda: fleet.peers("ap").get("eu", {}).get("state") == "alive", "eu is back", 20.0)


def test_a_stranger_gets_nothing_from_the_fleet_listener(fleet: Fleet) -> None:
    us = fleet.host("us")
    for path in ("/gossip/v1", "/inventory/v1", "/inventory/v1?since=x", "/have/v1/sha256:" + "0" * 64, "/other"):
        assert us.request(us.gossip_url + path).status == 401, path
    assert us.request(f"{us.gossip_url}/gossip/v1", method="POST", body=b"AG\1\0" + bytes(200)).status == 401
    assert us.request(f"{us.gossip_url}/gossip/v1", method="POST", body=b"hello").status == 400
    assert us.request(f"{us.gossip_url}/gossip/v1", method="POST", body=bytes(1 << 20)).status == 400


def test_a_node_that_was_alone_for_longer_than_it_is_remembered_comes_back(fleet: Fleet, tmp_path: Path) -> None:
    fleet.network.isolate("ap")
    eventually(lambda: fleet.peers("us")["ap"]["state"] == "unknown", "us has forgotten ap", 60.0)
    eventually(lambda: fleet.peers("ap")["us"]["state"] == "unknown", "ap has forgotten us", 60.0)
    publish(fleet.nodes["us"], write_gguf(tmp_path / "a.gguf", "alone"), "alone:f32@1")
    fleet.network.rejoin("ap")
    eventually(lambda: fleet.peers("us")["ap"]["state"] == "alive", "ap is back", 60.0)
    eventually(lambda: "alone@1" in fleet.listed("ap"), "and has the catalog")


def test_a_node_that_isnt_admitted_follows_the_catalog_and_nothing_else(tmp_path: Path) -> None:
    with Network("us", "eu") as network:
        fleet = Fleet(network, tmp_path)
        try:
            fleet.found()
            fleet.join("eu", admit=False)
            publish(fleet.nodes["us"], write_gguf(tmp_path / "a.gguf", "a"), "a:f32@1")
            eventually(lambda: "a@1" in fleet.listed("eu"), "listed in eu", 15.0)
            assert fleet.peers("us") == {}
            assert done(fleet.nodes["eu"], "peers", "--json").json["self"]["state"] == "not admitted"
            done(fleet.nodes["us"], "fleet", "admit", fleet.nodes["eu"].data / "record.json")
            eventually(lambda: fleet.peers("us").get("eu", {}).get("state") == "alive", "eu is a peer", 15.0)
            for node in fleet.nodes.values():
                node.stop()
        finally:
            for node in fleet.nodes.values():
                node.discard()


@pytest.mark.skipif(not FAKETIME, reason="faketime is not installed")
def test_a_clock_that_is_off_is_shown_and_signs_nothing(fleet: Fleet, tmp_path: Path) -> None:
    us = fleet.nodes["us"]
    us.stop()
    # 100 s behind: still listened to, and too far off to sign
    wrong = {"LD_PRELOAD": str(FAKETIME[0]), "FAKETIME": "-100s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    us.start(port=8080, prefix=fleet.host("us").prefix, env=wrong)

    def warned() -> bool:
        return "clock" in fleet.host("us").request(f"{fleet.host('us').url}/readyz").json["warnings"]

    eventually(warned, "the clock is off")
    assert 95 < done(us, "peers", "--json").json["self"]["clock_skew"] < 105
    refused = us.command("publish", write_gguf(tmp_path / "a.gguf", "a"), "--name", "a", "--version", "1")
    assert refused.code == 75
    assert "clock" in refused.err
    assert fleet.peers("eu")["us"]["clock_offset"] < -95
    us.stop()  # the next one starts it with a clock that is right


@pytest.mark.skipif(shutil.which("aria2c") is None, reason="aria2c is not installed")
def test_aria2_downloads_from_three_mirrors_of_which_one_dies_and_one_has_flipped_bytes(
    fleet: Fleet, tmp_path: Path
) -> None:
    model = write_gguf(tmp_path / "m.gguf", "metalink", rows=32 << 10)
    digest = "sha256:" + publish(fleet.nodes["us"], model, "m:f32@1")["sha256"].removeprefix("sha256:")
    for name in ("eu", "ap"):
        fleet.nodes[name].add(model)
        eventually(lambda name=name: name in fleet.mirrors("us", digest), f"us knows that {name} has it")  # type: ignore[misc]
    _flip_a_byte_of_each_megabyte(fleet.nodes["ap"].data / "blobs/sha256" / digest.removeprefix("sha256:"))
    us = fleet.host("us")
    metalink = us.request(f"{us.url}/models/m-f32.gguf.meta4")
    assert metalink.status == 200
    assert all(fleet.host(name).url.encode() in metalink.body for name in fleet.nodes)
    (tmp_path / "m.meta4").write_bytes(metalink.body)
    got = tmp_path / "got"
    options = ["--check-integrity=true", "-s4", "-x4", "-k1M", "--max-overall-download-limit=8M", f"--dir={got}"]
    command = [*us.prefix, "aria2c", f"--metalink-file={tmp_path / 'm.meta4'}", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as aria2:
        eventually(lambda: any(got.glob("*.aria2")), "aria2 has begun")
        time.sleep(1.0)
        fleet.nodes["eu"].discard()
        out, _ = aria2.communicate(timeout=240)
    assert aria2.returncode == 0, out
    assert sha256_of(got / "m-f32.gguf") == sha256_of(model)
    assert "checksum" in out.lower(), f"a bad piece was never met: {out}"


def _flip_a_byte_of_each_megabyte(path: Path) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        for offset in range(1000, path.stat().st_size, 1 << 20):
            file.seek(offset)
            (byte,) = file.read(1)
            file.seek(offset)
            file.write(bytes([byte ^ 1]))
