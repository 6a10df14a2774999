"""A publisher's machine: its role's key, a token, the control plane's URL, and nothing else."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from aibrother_node.catalog.keys import KeyRing
from aibrother_node.store.disk import Disk
from aibrother_node.store.layout import Layout
from aibrother_node.web.control.admin.operation import Scope
from aibrother_node.web.control.admin.tokens import TokenFiles, make_token
from counts import rounds
from e2e.fleets import free_port
from e2e.harness import PROGRAM, Node, Result, complaints, environment, eventually, forget_peak, memory, run
from e2e.links import Link
from e2e.publishing import client_of, done, everything_below, names, sha256_of, signing_node, write_gguf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
ROLES = ("root", "targets", "models", "staging", "fleet")


@dataclass
class Signer:
    """A running node that has the keys of snapshot and timestamp, and those of no other role.

    Attributes:
        node: it.
        folder: one folder of keys a role, and one file with a token a scope.
        url: of its control plane.
    """

    node: Node
    folder: Path
    url: str
    made: int = field(default=0)

    def publisher(self, role: str = "models", scope: str = "publish", url: str | None = None) -> Publisher:
        """A machine of its own, with that role's keys and that token."""
        self.made += 1
        home = self.folder / f"machine-{self.made}"
        home.mkdir()
        return Publisher(home, url or self.url, self.folder / scope, self.folder / f"keys-{role}")

    @property
    def catalog(self) -> dict[str, bytes]:
        """What is signed."""
        return everything_below(self.node.data / "catalog/metadata")

    def upload_of(self, path: Path) -> Path:
        return self.node.data / "incoming" / f"upload-{sha256_of(path)}"


@dataclass(frozen=True)
class Publisher:
    """One machine that publishes.

    Attributes:
        home: its files.
        url, token, keys: of its commands.
    """

    home: Path
    url: str
    token: Path
    keys: Path

    @property
    def where(self) -> tuple[str | Path, ...]:
        return "--to", self.url, "--token-file", self.token, "--keys-dir", self.keys

    @property
    def env(self) -> dict[str, str]:
        return {"XDG_STATE_HOME": str(self.home / "state")}

    def __call__(self, *arguments: str | Path) -> Result:
        """Run one command."""
        return run(*arguments, *self.where, cwd=self.home, env=self.env)

    def begin(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Begin one command."""
        return subprocess.Popen(
            [PROGRAM, *map(str, (*arguments, *self.where))],
            cwd=self.home,
            env=environment(self.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def publish(self, path: Path, release: str, *more: str | Path) -> Result:
        return self(*self.publishing(path, release, *more))

    @staticmethod
    def publishing(path: Path, release: str, *more: str | Path) -> tuple[str | Path, ...]:
        name, _, version = release.partition("@")
        return "publish", path, "--name", name, "--version", version, "--json", *more


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signer]:
    folder = tmp_path_factory.mktemp("signer")
    node = signing_node(folder / "node")
    port = free_port()
    node.configure(control__host="127.0.0.1", control__port=port, node__drain_seconds=2)
    ring = KeyRing.load(node.data / "keys", Disk())
    for role in ROLES:
        ring.move_offline(folder / f"keys-{role}", [role])
    for scope in Scope:
        secret, token = make_token([scope], "", time.time(), None)
        TokenFiles(Layout(node.data).tokens, Disk()).write(token)
        (folder / scope).touch(0o600)
        (folder / scope).write_text(f"{secret}\n")
    node.start()
    try:
        yield Signer(node, folder, f"http://127.0.0.1:{port}")
        if node.process is not None:
            node.stop()
    finally:
        node.discard()


def small(folder: Path, content: str, rows: int = 64) -> Path:
    return write_gguf(folder / f"{content}.gguf", content, rows=rows)


def ended(process: subprocess.Popen[str]) -> Result:
    """Wait for a command's end."""
    out, err = process.communicate(timeout=120)
    assert not complaints(err), err
    return Result(process.returncode, out, err)


def test_a_large_model_through_a_link_that_is_cut_three_times(signer: Signer, tmp_path: Path) -> None:
    path = small(tmp_path, "large", rows=256 << 10)
    size = path.stat().st_size
    assert size > 256 * MIB
    control = signer.node.child("control")
    forget_peak(control)
    before = memory(control)
    with Link(int(signer.url.rpartition(":")[2]), cuts=[40 * MIB, 130 * MIB, 210 * MIB]) as link:
        publisher = signer.publisher(url=link.url)
        (key,) = publisher.keys.glob("models-*.pem")
        alone = tmp_path / "models' key and nothing else"
        alone.mkdir()
        shutil.copy(key, alone)
        publisher = replace(publisher, keys=alone)
        result = publisher.publish(path, "large@1")
        assert result.code == 0, result
        assert link.cut == 3
        in_flight = 3 * 4 * MIB  # what may lie in the buffers of sockets and of the node when a line is cut
        assert size < link.sent < size + in_flight, f"{link.sent - size} bytes more than the file has"
        grown = memory(control, "VmHWM") - before
        assert grown < 48 * MIB, f"control grew by {grown} bytes"
        print(f"sent {link.sent - size} bytes more than {size}; control grew by {grown >> 20} MiB")
        again = publisher.publish(path, "large@1")
        assert (again.code, again.json["targets"][0]["state"]) == (0, "same")
        assert "trusting the root" not in again.err
    (entry,) = result.json["entries"]
    assert entry["sha256"] == sha256_of(path)
    assert result.json["targets"] == [{"name": "models/large-1-f32.gguf", "state": "new", "bytes": size}]
    assert "trusting the root" in result.err
    assert client_of(signer.node, tmp_path / "client").has("models/large-1-f32.gguf")
    assert signer.node.get(f"/v1/blobs/sha256:{sha256_of(path)}", method="HEAD").status == 200
    assert not signer.upload_of(path).exists()


def test_both_sides_are_killed_in_the_middle(signer: Signer, tmp_path: Path) -> None:
    path = small(tmp_path, "killed", rows=96 << 10)
    size = path.stat().st_size
    with Link(int(signer.url.rpartition(":")[2])) as link:
        publisher = signer.publisher(url=link.url)
        link.stops_at = 20 * MIB
        first = publisher.begin(*publisher.publishing(path, "killed@1"))
        assert link.stopped.wait(60)
        first.kill()
        first.communicate()
        link.go_on()
        assert names(signer.node).count("killed:f32@1") == 0
        arrived = eventually(lambda: (signer.upload_of(path) / "data").stat().st_size, "something to have come")
        link.stops_at = link.sent + 40 * MIB
        second = publisher.begin(*publisher.publishing(path, "killed@1"))
        assert link.stopped.wait(60)
        there = (signer.upload_of(path) / "data").stat().st_size
        assert there > arrived, "it went on"
        signer.node.may_complain = True
        signer.node.discard()  # kill -9 of the supervisor, and so of all
        signer.node.start()
        signer.node.may_complain = False
        assert (signer.upload_of(path) / "data").stat().st_size >= there, "what had come is still there"
        link.go_on()
        result = ended(second)
        assert result.code == 0, result
        assert link.sent < size + 2 * 4 * MIB, f"{link.sent - size} bytes more than the file has"
    assert names(signer.node).count("killed:f32@1") == 1
    assert list((signer.node.data / "incoming").iterdir()) == []


def test_two_publishers_at_once(signer: Signer, tmp_path: Path) -> None:
    """Both end up in the catalog, round after round, and what is signed fits together."""
    machines = [signer.publisher(), signer.publisher()]
    for number in range(rounds(2, 20)):
        results: list[Result] = []
        start = threading.Barrier(len(machines))

        def publish(machine: Publisher, of: int, number: int = number) -> None:
            path = small(machine.home, f"racer-{of}-{number}")
            start.wait()  # noqa: B023 - all of them end within the round
            results.append(machine.publish(path, f"racer-{of}@{number + 1}"))  # noqa: B023

        threads = [threading.Thread(target=publish, args=(one, of)) for of, one in enumerate(machines)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [result.code for result in results] == [0, 0], results
        listed = names(signer.node, "--all-versions")
        for of in range(len(machines)):
            assert f"racer-{of}:f32@{number + 1}" in listed
    client = client_of(signer.node, tmp_path / "client")
    for of in range(len(machines)):
        assert client.has(f"models/racer-{of}-1-f32.gguf")
    assert list((signer.node.data / "incoming").iterdir()) == []


def test_control_is_killed_at_any_moment(signer: Signer) -> None:
    """What a publisher was told holds, and what it wasn't told of is there once it tries again."""
    publisher = signer.publisher()
    rng = random.Random(5)
    for number in range(rounds(1, 25)):
        path = small(publisher.home, f"survivor-{number}", rows=8 << 10)
        control = signer.node.child("control")
        process = publisher.begin(*publisher.publishing(path, f"survivor-{number}@1"))
        time.sleep(rng.uniform(0.3, 1.2))  # from the first question to the last answer
        os.kill(control, signal.SIGKILL)
        signer.node.successor("control", control)
        result = ended(process)
        if result.code == 75:
            eventually(lambda: publisher("fleet", "list").code == 0, "control to be back")
            result = publisher.publish(path, f"survivor-{number}@1")
        assert result.code == 0, result
        assert f"survivor-{number}:f32@1" in names(signer.node)
    assert not list((signer.node.data / "incoming").glob("upload-*"))


def test_staging_then_stable_by_two_machines(signer: Signer, tmp_path: Path) -> None:
    pipeline, publisher = signer.publisher("staging"), signer.publisher("models")
    path = small(tmp_path, "staged")
    assert pipeline.publish(path, "staged@1", "--channel", "staging").code == 0
    assert "staged:f32@1" in names(signer.node, "--channel", "staging")
    assert pipeline("promote", "staged@1").code == 5, "the pipeline's key doesn't sign what is stable"
    before = signer.catalog
    assert pipeline.publish(small(tmp_path, "bold"), "bold@1").code == 5
    assert signer.catalog == before
    promoted = publisher("promote", "staged@1", "--json")
    assert promoted.code == 0, promoted
    assert "staged:f32@1" in names(signer.node)
    assert signer.node.get("/models/staged-1-f32.gguf", method="HEAD").status == 200
    assert "staged:f32@1" in names(signer.node, "--channel", "staging"), "without staging's key it stays there too"


def test_edits_from_afar(signer: Signer, tmp_path: Path) -> None:
    publisher = signer.publisher()
    for version in ("1", "2", "3"):
        assert publisher.publish(small(tmp_path, f"edited-{version}"), f"edited@{version}").code == 0
    assert publisher("edit", "edited", "--license", "apache-2.0", "--tag", "chat").code == 0
    (shown,) = done(signer.node, "show", "edited", "--json").json
    assert (shown["license"], shown["tags"]) == ("apache-2.0", ["chat"])
    assert publisher("yank", "edited@2", "--reason", "wrong weights").code == 0
    gone = signer.node.get("/models/edited-2-f32.gguf")
    assert gone.status == 410
    assert "wrong weights" in gone.problem()["detail"]
    assert publisher("unyank", "edited@2").code == 0
    assert signer.node.get("/models/edited-2-f32.gguf", method="HEAD").status == 200
    assert publisher("retire", "edited", "--keep", "2").code == 0
    assert signer.node.get("/models/edited-1-f32.gguf").status == 404
    other = small(tmp_path, "edited-3-again")
    used = publisher.publish(other, "edited@3")
    assert (used.code, "can't mean" in used.err) == (5, True), used
    assert signer.node.get(f"/v1/blobs/sha256:{sha256_of(other)}", method="HEAD").status == 404, "not even uploaded"
    nothing = publisher("retire", "edited", "--keep", "2", "--json")
    assert (nothing.code, nothing.json["targets"]) == (0, [])
    assert publisher("yank", "no-such-model", "--reason", "x").code == 4


def test_the_fleet_from_afar(signer: Signer, tmp_path: Path) -> None:
    operator, publisher = signer.publisher("fleet"), signer.publisher("models")
    other = Node(tmp_path / "other").init()
    record = other.data / "record.json"
    admitted = operator("fleet", "admit", record, "--region", "us", "--url", "http://us.test", "--json")
    assert admitted.code == 0, admitted
    node_id = admitted.json["node"]["id"]
    assert node_id in [one["id"] for one in done(signer.node, "fleet", "list", "--json").json["nodes"]]
    assert operator("fleet", "list", "--json").json["version"] == admitted.json["version"]
    before = signer.catalog
    assert publisher("fleet", "revoke", node_id[:12]).code == 5
    assert signer.catalog == before
    revoked = operator("fleet", "revoke", node_id[:12], "--json")
    assert revoked.json["node"]["state"] == "revoked"


def test_new_keys_from_afar(signer: Signer, tmp_path: Path) -> None:
    """Whoever has the key of targets gives fleet new ones; old ones are of no use then; roots are followed."""
    owner, operator = signer.publisher("targets"), signer.publisher("fleet")
    assert owner("keys", "rotate", "snapshot").code == 5
    assert operator("keys", "rotate", "fleet").code == 5, "it takes the key of targets"
    rotated = owner("keys", "rotate", "staging", "--json")
    assert rotated.code == 0, rotated
    assert set(rotated.json["versions"]) == {"targets", "staging", "snapshot", "timestamp"}
    before = signer.catalog
    late = signer.publisher("staging")
    assert late.publish(small(tmp_path, "late"), "late@1", "--channel", "staging").code == 5
    assert signer.catalog == before
    KeyRing.load(owner.keys, Disk()).move_offline(late.keys, ["staging"])
    assert late.publish(small(tmp_path, "new"), "new@1", "--channel", "staging").code == 0, "it has the new key now"
    new_root = signer.publisher("root")("keys", "rotate", "root", "--json")
    assert new_root.code == 0, new_root
    assert new_root.json["versions"]["root"] == 2
    assert owner("keys", "refresh", "--json").json == {"versions": {}}
    assert client_of(signer.node, tmp_path / "client").has("staging/new-1-f32.gguf")


@pytest.mark.parametrize("scope", ["read", "operate"])
def test_without_the_right_to_publish(signer: Signer, tmp_path: Path, scope: str) -> None:
    publisher = signer.publisher(scope=scope)
    path = small(tmp_path, f"by-{scope}")
    before = signer.catalog
    refused = publisher.publish(path, f"by-{scope}@1")
    assert (refused.code, refused.out) == (5, "")
    assert signer.catalog == before
    assert not signer.upload_of(path).exists()


def test_a_wrong_token_and_no_node(signer: Signer, tmp_path: Path) -> None:
    publisher = signer.publisher()
    (tmp_path / "wrong").touch(0o600)
    (tmp_path / "wrong").write_text("aib_" + "x" * 43)
    stranger = Publisher(publisher.home, signer.url, tmp_path / "wrong", publisher.keys)
    assert stranger.publish(small(tmp_path, "strange"), "strange@1").code == 5
    dry = Publisher(publisher.home, f"http://127.0.0.1:{free_port()}", publisher.token, publisher.keys)
    assert dry.publish(small(tmp_path, "dry"), "dry@1", "--dry-run").code == 0
    assert dry("yank", "x", "--reason", "x").code == 75
    assert run("yank", "x", "--reason", "x", "--keys-dir", publisher.keys).code == 2
    assert run("yank", "x", "--reason", "x", "--to", signer.url).code == 2


def test_a_root_that_was_given_is_held_to(signer: Signer, tmp_path: Path) -> None:
    other = signing_node(tmp_path / "other")
    publisher = signer.publisher()
    refused = publisher("yank", "x", "--reason", "x", "--root", other.data / "trust/root.json")
    assert refused.code == 3, refused
    right = publisher("fleet", "list", "--root", signer.node.data / "trust/root.json")
    assert (right.code, right.err) == (0, "")
    configured = {
        **publisher.env,
        "AIBROTHER_CATALOG__KEYS_DIR": str(publisher.keys),
        "AIBROTHER_CATALOG__ROOT": str(signer.node.data / "trust/root.json"),
    }
    where = ("--to", signer.url, "--token-file", publisher.token, "--json")
    path = small(tmp_path, "configured")
    found = run("publish", path, "--name", "configured", *where, cwd=publisher.home, env=configured)
    assert (found.code, found.err) == (0, ""), found
    assert found.json["targets"][0]["state"] == "new"


def test_a_file_that_changes_meanwhile(signer: Signer, tmp_path: Path) -> None:
    path = small(tmp_path, "restless", rows=64 << 10)
    with Link(int(signer.url.rpartition(":")[2])) as link:
        publisher = signer.publisher(url=link.url)
        link.stops_at = 20 * MIB
        process = publisher.begin(*publisher.publishing(path, "restless@1"))
        assert link.stopped.wait(60)
        with path.open("r+b") as file:
            file.seek(60 * MIB)
            file.write(b"x")
        os.utime(path)
        link.go_on()
        result = ended(process)
    assert result.code == 1, result
    assert "changed while it was published" in result.err
    assert "restless:f32@1" not in names(signer.node)
