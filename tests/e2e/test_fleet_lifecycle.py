"""Nodes of a fleet whose processes die, whose files break and whose peers are gone: they go on, or mend themselves."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import pytest

from counts import rounds
from e2e.fleets import know_each_other, make_member, pair, peers
from e2e.harness import Node, descriptors, eventually, memory
from e2e.publishing import publish, write_gguf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_VERSIONS: Final = itertools.count(1)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    with pair(tmp_path_factory.mktemp("pair")) as found:
        yield found


@pytest.fixture
def nodes(both: tuple[Node, Node]) -> tuple[Node, Node]:
    """Both run and know each other, whatever the last test did to them."""
    for node in both:
        if node.process is None:
            node.start(port=None)
    know_each_other(*both)
    return both


def mirrors(node: Node, digest: str) -> set[str]:
    reply = node.get(f"/v1/mirrors?digest={digest}")
    return {one["region"] for one in reply.json["mirrors"]} if reply.status == 200 else set()


def listed(node: Node) -> set[str]:
    return {one["name"] for one in node.get("/v1/catalog.json").json["models"]}


def published(us: Node, eu: Node, folder: Path, name: str) -> str:
    """Publish a model on us, add it to eu, and wait until both know that."""
    model = write_gguf(folder / f"{name}.gguf", name)
    digest: str = "sha256:" + publish(us, model, f"{name}:f32@1")["sha256"].removeprefix("sha256:")
    eu.add(model)
    for node in (us, eu):
        eventually(lambda node=node: mirrors(node, digest) == {"us", "eu"}, f"both have it: {node.log}")  # type: ignore[misc]
    return digest


def test_control_is_killed_again_and_again(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    us, eu = nodes
    digest = published(us, eu, tmp_path, "a")
    rng = random.Random(6)
    for number in range(4):
        publish(us, write_gguf(tmp_path / f"k{number}.gguf", f"k{number}"), f"k{number}:f32@1")
        time.sleep(rng.uniform(0, 0.4))
        for node in (us, eu):
            control = node.child("control")
            os.kill(control, signal.SIGKILL)
            assert eu.get(f"/v1/mirrors?digest={digest}").status == 200
            node.successor("control", control)
    for node in (us, eu):
        eventually(lambda node=node: mirrors(node, digest) == {"us", "eu"}, "both have it again")  # type: ignore[misc]
    eventually(lambda: listed(eu) >= {"a", *(f"k{number}" for number in range(4))}, "eu has the catalog")
    know_each_other(us, eu)


@pytest.mark.parametrize(
    "damage", ["removed", *(pytest.param(how, marks=pytest.mark.soak) for how in ("overwritten", "another"))]
)
def test_what_workers_know_of_the_fleet_breaks(nodes: tuple[Node, Node], tmp_path: Path, damage: str) -> None:
    us, eu = nodes
    digest = published(us, eu, tmp_path, "a")
    view = us.data / "run/fleet.sqlite3"
    told = us.log.count("begun anew")
    if damage == "removed":
        for file in view.parent.glob("fleet.sqlite3*"):
            file.unlink()
    elif damage == "overwritten":
        for path in (view, view.with_name(view.name + "-wal")):
            with path.open("r+b") as target:
                target.write(os.urandom(path.stat().st_size))
    else:
        (tmp_path / "other").write_bytes(b"nothing")
        (tmp_path / "other").replace(view)
    eventually(lambda: us.log.count("begun anew") > told, "it is noticed", 10.0)
    published(us, eu, tmp_path, "b")
    eventually(lambda: mirrors(us, digest) == {"us", "eu"}, f"us knows again: {us.log}")


@pytest.mark.soak
def test_an_end_without_peers_takes_no_longer(nodes: tuple[Node, Node]) -> None:
    us, eu = nodes
    os.kill(us.pid, signal.SIGSTOP)  # accepts, and doesn't answer
    stopped = us.children()
    for pid in stopped.values():
        os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(1)
        began = time.monotonic()
        eu.stop()
        assert time.monotonic() - began < 8
    finally:
        for pid in (us.pid, *stopped.values()):
            os.kill(pid, signal.SIGCONT)


def test_gossip_goes_on_after_a_reload(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    us, eu = nodes
    for node in (us, eu):
        node.send(signal.SIGHUP)
    publish(us, write_gguf(tmp_path / "r.gguf", "reloaded"), "r:f32@1")
    eventually(lambda: "r" in listed(eu), "eu lists it", 10.0)
    know_each_other(us, eu)


def _flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage", ["flip", *(pytest.param(how, marks=pytest.mark.soak) for how in ("empty", "remove"))]
)
@pytest.mark.parametrize("folder", ["catalog", pytest.param("trust/state", marks=pytest.mark.soak)])
def test_damaged_at_the_start_a_follower_mends_itself(
    nodes: tuple[Node, Node], tmp_path: Path, folder: str, damage: str, soaking: bool
) -> None:
    us, eu = nodes
    digest = published(us, eu, tmp_path, "a")
    eu.stop()
    whole = tmp_path / "whole"
    shutil.copytree(eu.data / folder, whole)
    rng = random.Random(folder + damage)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert files
    for name in files if soaking else rng.sample(files, min(2, len(files))):
        shutil.rmtree(eu.data / folder)
        shutil.copytree(whole, eu.data / folder)
        target = eu.data / folder / name
        if damage == "flip":
            _flip(target, rng)
        elif damage == "empty":
            target.write_bytes(b"")
        else:
            target.unlink()
        eu.start(port=None)
        try:
            assert eu.get(f"/v1/blobs/{digest}", {"Range": "bytes=0-9"}).status == 206, name
            version = str(next(_VERSIONS))
            publish(us, write_gguf(tmp_path / "x.gguf", version), f"x:f32@{version}")
            eventually(
                lambda version=version: (
                    version  # type: ignore[misc]
                    in {one["version"] for one in eu.get("/v1/catalog.json").json.get("models", [])}
                ),
                f"eu follows after {damage} of {name}: {eu.log}",
                20.0,
            )
        finally:
            eu.stop()
    eu.start(port=None)
    know_each_other(us, eu)


@pytest.mark.soak
def test_a_peer_that_refuses_connections_leaks_nothing(tmp_path: Path) -> None:
    us = make_member(tmp_path / "us")
    us.configure(fleet__gossip_interval="100ms")
    us.start(port=None)
    try:
        eu = make_member(tmp_path / "eu", us, region="eu")
        eu.start(port=None)
        know_each_other(us, eu)
        eu.stop()
        control = us.child("control")
        time.sleep(rounds(3, 5))
        files, used = descriptors(control), memory(control)
        time.sleep(rounds(5, 20))
        assert descriptors(control) <= files + 2
        assert memory(control) < used + (8 << 20)
        assert peers(us)["eu"]["state"] != "alive"
        us.stop()
    finally:
        us.discard()


def _fill(path: Path) -> None:
    with suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_stops_following_and_nothing_else(tmp_path: Path) -> None:
    small = tmp_path / "eu/data"  # the log lies beside it
    small.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(small)], check=False).returncode != 0:
        pytest.skip("a tmpfs can't be mounted here")
    try:
        with pair(tmp_path) as (us, eu):
            digest = published(us, eu, tmp_path, "a")
            filler = small / "filler"
            control = eu.child("control")
            _fill(filler)
            publish(us, write_gguf(tmp_path / "b.gguf", "b"), "b:f32@1")
            until = time.monotonic() + rounds(4, 8)
            while time.monotonic() < until:
                _fill(filler)  # what others give up is taken as well
                time.sleep(0.02)
            assert eu.child("control") == control, "no crash loop"
            assert eu.get(f"/v1/blobs/{digest}", {"Range": "bytes=0-9"}).status == 206
            told = [line for line in eu.log.splitlines() if " ERROR " in line or " WARNING " in line]
            assert any("o space left" in line or "disk is full" in line for line in told), eu.log
            assert len(told) < 30, "a full disk isn't told of again and again"
            filler.unlink()
            eventually(lambda: "b" in listed(eu), "it follows once there is room", 30.0)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=False)
