"""kill -9 at random instants of what changes the catalog; backups, and what restoring one means.

A command that dies leaves the old catalog or the new one, whole: python-tuf's client says so over the files as they
lie there, and our own commands go on from them.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from tuf.api.exceptions import BadVersionNumberError

from catalog.signing import served
from counts import SOAK, rounds
from e2e.harness import PROGRAM, Node, environment, eventually
from e2e.publishing import (
    Client,
    client_of,
    done,
    everything_below,
    first_root,
    names,
    publish,
    publish_all,
    sha256_of,
    signing_node,
    write_gguf,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Victim:
    """A stopped node, and a client that follows what its files say.

    Attributes:
        node: with one model.
        client: it keeps its state over all rounds, so it would notice any step back.
    """

    def __init__(self, folder: Path) -> None:
        self.node = signing_node(folder / "node")
        publish(self.node, write_gguf(folder / "first.gguf", "first"), "first:f32@1")
        self._folder = folder
        self._random = random.Random(time.time_ns())

    def file(self, content: str) -> Path:
        return write_gguf(self._folder / f"{content}.gguf", content, rows=16)

    def killed(self, *arguments: str | Path, lasts: float) -> bool:
        """Run a command and kill it somewhere in its later part; False where it had ended before."""
        command = [PROGRAM, "--data", str(self.node.data), *map(str, arguments)]
        with subprocess.Popen(
            command, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            time.sleep(self._random.uniform(0.5, 1.05) * lasts)  # what comes before is imports
            process.send_signal(signal.SIGKILL)
            return process.wait(10) == -signal.SIGKILL

    def seen(self) -> set[str]:
        """What python-tuf's client finds in the files: the names in the catalog's document, and their targets."""
        with served(self.node.data / "catalog") as url:
            client = Client(self._folder / "client", url, first_root(self.node))
            (catalog, staging) = (client.get(path)[0] for path in ("models/catalog.json", "staging/catalog.json"))
            updater = client.refreshed()
            found = set()
            for channel, data in (("models", catalog), ("staging", staging)):
                for entry in _entries(data):
                    info = updater.get_targetinfo(f"{channel}/{entry['filename']}")
                    assert info is not None, entry
                    assert info.hashes["sha256"] == entry["sha256"]
                    assert (self.node.data / "blobs/sha256" / entry["sha256"]).exists()
                    found.add(f"{channel}/{entry['name']}@{entry['version']}")
            return found


def _entries(data: bytes) -> list[dict[str, str]]:
    import json

    entries: list[dict[str, str]] = json.loads(data)["models"]
    return entries


def timed(run: Callable[[], object]) -> float:
    started = time.monotonic()
    run()
    return time.monotonic() - started


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """What one test leaves, the next goes on from."""
    victim = Victim(tmp_path_factory.mktemp("victim"))
    yield victim
    assert victim.node.command("verify").code == 0


def check(victim: Victim, before: set[str], after: set[str], number: int) -> None:
    """The files hold one of two catalogs, and `list` says the same."""
    seen = victim.seen()
    assert seen in (before, after)
    if number % 3 and not SOAK:  # the command that follows reads the same way
        return
    listed = {f"models/{name.replace(':f32', '')}" for name in names(victim.node)}
    assert listed == {name for name in seen if name.startswith("models/")}


def test_publish_is_killed(victim: Victim) -> None:
    rest = victim.seen()
    lasts = timed(lambda: publish(victim.node, victim.file("zero"), "killed:f32@0"))
    before = rest | {"models/killed@0"}
    killed = 0
    for number in range(1, rounds(5, 50) + 1):
        file = victim.file(f"killed-{number}")
        what = ("--name", "killed", "--variant", "f32", "--version", str(number))
        killed += victim.killed("publish", file, *what, lasts=lasts)
        after = rest | {f"models/killed@{number}"}
        check(victim, before, after, number)
        assert publish(victim.node, file, f"killed:f32@{number}")["version"] == str(number)
        assert victim.seen() == after
        before = after
    print(f"killed in {killed} rounds")


def test_promote_is_killed(victim: Victim) -> None:
    node = victim.node
    rest = victim.seen()
    versions = range(rounds(5, 50))
    publish_all(
        node, {f"moved:f32@{number}": victim.file(f"moved-{number}") for number in versions}, "--channel", "staging"
    )
    left = {f"staging/moved@{number}" for number in versions}
    newest: set[str] = set()
    lasts = timed(lambda: done(node, "promote", "first"))
    for number in versions:
        before = rest | newest | left
        left.remove(f"staging/moved@{number}")
        newest = {f"models/moved@{number}"}
        after = rest | newest | left
        victim.killed("promote", f"moved@{number}", lasts=lasts)
        check(victim, before, after, number)
        done(node, "promote", f"moved@{number}")
        assert victim.seen() == after


def test_rotate_is_killed(victim: Victim) -> None:
    node = victim.node
    lasts = timed(lambda: done(node, "keys", "rotate", "models"))
    roles = ("root", "timestamp", "snapshot", "targets", "models", "staging", "fleet")
    before = victim.seen()
    for number in range(rounds(5, 50)):
        role = random.Random(number).choice(roles)
        victim.killed("keys", "rotate", role, lasts=lasts)
        check(victim, before, before, number)
        done(node, "keys", "rotate", role)
        assert victim.seen() == before
    publish(node, victim.file("after"), "after:f32@1")
    assert victim.seen() == before | {"models/after@1"}
    assert {key["role"] for key in done(node, "keys", "list", "--json").json} == set(roles)


def test_control_is_killed_while_it_publishes(tmp_path: Path) -> None:
    """The command asks again once control is back; clients notice nothing."""
    node = signing_node(tmp_path / "node")
    node.may_complain = True
    try:
        node.start(workers=2)
        client = client_of(node, tmp_path / "client")
        for number in range(rounds(2, 30)):
            file = write_gguf(tmp_path / f"{number}.gguf", f"control {number}", rows=8)
            command = ("publish", file, "--name", "m", "--variant", "f32", "--version", str(number))
            with subprocess.Popen(
                [PROGRAM, "--data", str(node.data), *map(str, command)], env=environment(), stdout=subprocess.DEVNULL
            ) as process:
                time.sleep(random.uniform(0.1, 0.5))
                control = node.child("control")
                os.kill(control, signal.SIGKILL)
                client.get(*(["models/catalog.json"] if number else []))
                assert process.wait(60) == 0
            node.successor("control", of=control)
            assert client.get("models/m-f32.gguf") == [file.read_bytes()]
            served_now = eventually(lambda: node.get("/models/m-f32.gguf").status == 200, "the index follows")
            assert served_now
            assert node.get("/models/m-f32.gguf").body == file.read_bytes()
        node.stop()
    finally:
        node.discard()


# -- backups


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Node]:
    node = signing_node(tmp_path / "node")
    try:
        yield node.start()
        if node.process is not None:
            node.stop()
    finally:
        node.discard()


def test_restored_onto_an_empty_folder_the_catalog_goes_on(running: Node, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "m.gguf", "backed up")
    publish(running, file, "backed-up:f32@1")
    done(running, "pin", f"sha256:{sha256_of(file)}", "--reason", "kept")
    client = client_of(running, tmp_path / "client")
    client.get("models/backed-up-f32.gguf")
    archive = tmp_path / "backup.tar"
    done(running, "backup", archive)
    assert archive.stat().st_mode & 0o777 == 0o600
    assert running.command("backup", archive).code == 5
    identity = done(running, "status", "--json").json["node"]["id"]

    running.stop()
    before = everything_below(*(running.data / name for name in ("catalog", "keys", "trust")))
    assert running.command("restore", archive).code == 5
    assert everything_below(*(running.data / name for name in ("catalog", "keys", "trust"))) == before

    restored = Node(tmp_path / "restored", settings=dict(running.settings))
    restored.folder.mkdir()
    assert done(restored, "restore", "--json", archive).json["node"]["id"] == identity
    restored.configure()
    assert names(restored) == ["backed-up:f32@1"]
    assert not (restored.data / "blobs/sha256" / sha256_of(file)).exists()
    assert (restored.data / "pins" / sha256_of(file)).exists()
    for key in (restored.data / "keys").iterdir():
        assert key.stat().st_mode & 0o077 == 0, key
    try:
        restored.start()
        client = Client(tmp_path / "client", f"http://127.0.0.1:{restored.port}", first_root(restored))
        assert client.has("models/backed-up-f32.gguf")
        second = write_gguf(tmp_path / "2.gguf", "after the backup")
        publish(restored, second, "backed-up:f32@2")
        restored.add(file)
        assert client.get("models/backed-up-f32.gguf", "models/backed-up-1-f32.gguf") == [
            second.read_bytes(),
            file.read_bytes(),
        ]
        restored.stop()
    finally:
        restored.discard()


def test_an_old_backup_is_noticed(running: Node, tmp_path: Path) -> None:
    publish(running, write_gguf(tmp_path / "1.gguf", "one"), "m:f32@1")
    archive = tmp_path / "backup.tar"
    done(running, "backup", archive)
    publish_all(running, {f"m:f32@{n}": write_gguf(tmp_path / f"{n}.gguf", f"number {n}") for n in (2, 3)})
    client_of(running, tmp_path / "client").refreshed()
    running.stop()
    restored = Node(tmp_path / "restored", settings=dict(running.settings))
    restored.folder.mkdir()
    done(restored, "restore", archive)
    restored.configure()
    with served(restored.data / "catalog") as url:
        client = Client(tmp_path / "client", url, first_root(restored))
        with pytest.raises(BadVersionNumberError):
            client.refreshed()
        # numbers that clients have seen can't be used again; new keys let them forget those (TUF specification, 5.3.11)
        for role in ("snapshot", "timestamp"):
            done(restored, "keys", "rotate", role)
        publish(restored, write_gguf(tmp_path / "4.gguf", "number 4"), "m:f32@4")
        assert client.has("models/m-4-f32.gguf")
        assert not client.has("models/m-3-f32.gguf")


def test_what_is_no_backup(tmp_path: Path) -> None:
    empty = Node(tmp_path / "empty")
    empty.folder.mkdir()
    assert empty.command("restore", tmp_path / "nothing.tar").code == 4
    junk = tmp_path / "junk.tar"
    junk.write_bytes(b"junk" * 1000)
    assert empty.command("restore", junk).code == 1
    node = signing_node(tmp_path / "node")
    done(node, "backup", tmp_path / "whole.tar")
    cut = tmp_path / "cut.tar"
    cut.write_bytes((tmp_path / "whole.tar").read_bytes()[:-30_000])
    assert empty.command("restore", cut).code == 1
    # what an interrupted restore left is no node, and doesn't stand in the way of a whole one
    assert empty.command("list").code != 0
    done(empty, "restore", tmp_path / "whole.tar")
    assert done(empty, "status", "--json").json["node"]["id"] == done(node, "status", "--json").json["node"]["id"]
