"""Commands on a stopped node and on a running one: the same results, the same exit codes."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from counts import rounds
from e2e.harness import PATIENCE, PROGRAM, Node, Result, environment, eventually, run
from e2e.wire import fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Content

ABSENT = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def running_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("running")).init()
    node.configure(node__drain_seconds=3)
    try:
        yield node.start()
        node.stop()
        assert node.command("verify").code == 0
    finally:
        node.discard()


@pytest.fixture(scope="module")
def stopped_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("stopped")).init()
    yield node
    assert node.command("verify").code == 0


@pytest.fixture(params=["stopped", "running"])
def either(request: pytest.FixtureRequest) -> Node:
    """A node that runs, or one that doesn't."""
    node: Node = request.getfixturevalue(f"{request.param}_node")
    return node


@pytest.fixture
def some_file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A file that no other test has."""
    path = tmp_path / "some file.gguf"
    path.write_bytes(hashlib.shake_256(request.node.name.encode()).digest(200_000))
    return path


def digest_of(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def blob(node: Node, digest: str) -> Path:
    return node.data / "blobs/sha256" / digest.removeprefix("sha256:")


def pin(node: Node, digest: str) -> Path:
    return node.data / "pins" / digest.removeprefix("sha256:")


def listing(node: Node) -> list[str]:
    """All of a data directory that an `add` could change."""
    return sorted(str(path) for name in ("blobs", "pins", "incoming") for path in (node.data / name).rglob("*"))


def is_served(node: Node, digest: str, data: bytes) -> None:
    if node.process is not None:
        assert fetch(("127.0.0.1", node.port), f"/v1/blobs/{digest}").body == data


def test_add_copies(either: Node, some_file: Path) -> None:
    data, digest = some_file.read_bytes(), digest_of(some_file)
    added = either.command("add", some_file)
    assert (added.code, added.out, added.err) == (0, f"{digest}  {len(data)}  {some_file}\n", "")
    is_served(either, digest, data)
    assert some_file.read_bytes() == data
    stored = blob(either, digest)
    assert stored.read_bytes() == data
    assert stored.stat().st_mode & 0o7777 == 0o444
    assert stored.stat().st_nlink == 1
    assert stored.stat().st_ino != some_file.stat().st_ino
    assert json.loads(pin(either, digest).read_text())["reason"]
    assert list((either.data / "incoming").iterdir()) == []
    some_file.write_bytes(b"changed")  # and what is stored is not
    assert stored.read_bytes() == data


def test_add_moves(either: Node, some_file: Path) -> None:
    data, digest, inode = some_file.read_bytes(), digest_of(some_file), some_file.stat().st_ino
    assert either.command("add", "--move", some_file).code == 0
    is_served(either, digest, data)
    assert not some_file.exists()
    assert blob(either, digest).stat().st_ino == inode
    assert blob(either, digest).stat().st_mode & 0o7777 == 0o444
    assert pin(either, digest).exists()


def test_add_moves_what_somebody_could_still_write(either: Node, some_file: Path) -> None:
    """Through another name or an open descriptor: then its bytes are copied."""
    data, digest = some_file.read_bytes(), digest_of(some_file)
    other = some_file.with_name("other")
    os.link(some_file, other)
    with some_file.open("r+b") as writer:
        assert either.command("add", "--move", some_file).code == 0
        assert not some_file.exists()
        writer.write(b"changed later")
    assert other.read_bytes() != data
    assert blob(either, digest).read_bytes() == data
    is_served(either, digest, data)


def test_add_links_or_changes_nothing(either: Node, some_file: Path) -> None:
    before, digest = listing(either), digest_of(some_file)
    added = either.command("add", "--link", some_file)
    if added.code == 0:  # a file system with reflinks
        assert blob(either, digest).stat().st_nlink == 1
        is_served(either, digest, some_file.read_bytes())
        return
    assert (added.code, added.out) == (1, "")
    assert added.err.startswith("error: ")
    assert listing(either) == before
    assert some_file.exists()


def test_tokens(either: Node) -> None:
    created = either.command("token", "create", "--scope", "operate", "--name", "laptop")
    secret = created.out.strip()
    assert (created.code, len(secret), secret[:4]) == (0, 47, "aib_")
    listed = either.command("token", "list").out.splitlines()
    [line] = [line for line in listed if line.endswith("  laptop")]
    token_id = line.split()[0]
    assert f"token {token_id} for operate" in created.err
    path = either.data / "tokens" / f"{token_id}.json"
    assert path.stat().st_mode & 0o7777 == 0o600
    assert json.loads(path.read_bytes())["sha256"] == hashlib.sha256(secret.encode()).hexdigest()
    assert not any(secret.encode() in path.read_bytes() for path in either.data.rglob("*") if path.is_file())

    def asked() -> int | None:
        if either.process is None:
            return None
        place = urlsplit(either.ready["urls"]["control"][0])
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=PATIENCE)
        with closing(connection):
            connection.request("GET", "/admin/v1/status", headers={"Authorization": f"Bearer {secret}"})
            return connection.getresponse().status

    assert asked() in (200, None)
    assert either.command("token", "revoke", token_id).code == 0
    assert asked() in (401, None)
    assert not path.exists()
    assert either.command("token", "revoke", token_id).code == 4
    assert either.command("token", "revoke", "../../node").code == 1
    for wrong in (
        ["--scope", "root"],
        [],
        ["--scope", "read", "--expires", "soon"],
        ["--scope", "read", "--expires", "0"],
    ):
        assert either.command("token", "create", *wrong).code == 2
    assert either.command("token", "create", "--scope", "read", "--name", "a\nb").code == 1


def test_add_without_a_pin_then_pin_and_unpin(either: Node, some_file: Path) -> None:
    digest = digest_of(some_file)
    assert either.command("add", "--no-pin", some_file).code == 0
    assert not pin(either, digest).exists()
    pinned = either.command("pin", digest, "--reason", "für immer", "--json")
    assert (pinned.code, pinned.json) == (0, {"digest": digest, "pinned": True})
    assert json.loads(pin(either, digest).read_text())["reason"] == "für immer"
    unpinned = either.command("unpin", digest)
    assert (unpinned.code, unpinned.out) == (0, f"unpinned {digest}\n")
    assert not pin(either, digest).exists()
    assert blob(either, digest).exists()
    is_served(either, digest, some_file.read_bytes())


@pytest.mark.parametrize("command", ["pin", "unpin"])
def test_pins_of_what_is_not_here(either: Node, command: str) -> None:
    results = either.command(command, ABSENT)
    assert results.code in (0, 4)
    # whichever it is, both ways agree: the exit code is recorded by the first one that runs
    known = _CODES.setdefault(command, results.code)
    assert results.code == known
    assert not pin(either, ABSENT).exists() or results.code == 0
    pin(either, ABSENT).unlink(missing_ok=True)


_CODES: dict[str, int] = {}


def test_what_cannot_be_added(either: Node, some_file: Path, tmp_path: Path) -> None:
    before = listing(either)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    missing = either.command("add", tmp_path / "nothing")
    assert (missing.code, missing.out) == (4, "")
    assert "no such file" in missing.err
    irregular = either.command("add", tmp_path, fifo, loop)
    assert (irregular.code, irregular.out) == (1, "")
    assert irregular.err.count("not a regular file") == 2
    assert str(loop) in irregular.err
    assert listing(either) == before
    # what is right beside what is wrong is added all the same
    mixed = either.command("add", "--json", tmp_path / "nothing", some_file)
    assert mixed.code == 4
    assert [one["digest"] for one in mixed.json] == [digest_of(some_file)]


def test_the_same_content_again(either: Node, some_file: Path) -> None:
    digest = digest_of(some_file)
    twin = some_file.with_name("twin")
    twin.write_bytes(some_file.read_bytes())
    assert either.add(some_file, twin) == [digest, digest]
    inode = blob(either, digest).stat().st_ino
    status = either.command("status", "--json").json["store"]
    assert either.add(some_file) == [digest]
    assert either.command("add", "--move", twin).code == 0
    assert not twin.exists()
    assert blob(either, digest).stat().st_ino == inode
    again = either.command("status", "--json").json["store"]
    assert (again["blobs"], again["bytes"]) == (status["blobs"], status["bytes"])


def test_a_strange_name(either: Node, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff \xe2\x80\xae\n-x.gguf")
    path.write_bytes(f"strange {either.process}".encode())
    added = either.command("add", "--", path)
    assert added.code == 0
    assert blob(either, digest_of(path)).exists()


def test_an_empty_file(either: Node, tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    [digest] = either.add(path)
    is_served(either, digest, b"")


def test_two_at_once(either: Node, tmp_path: Path) -> None:
    paths = []
    for n in range(3):
        path = tmp_path / str(n)
        path.write_bytes(f"{either.process} {n // 2}".encode() * 100_000)  # two have the same content
        paths.append(path)
    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(lambda path: either.add(path)[0], paths))
    assert digests == [digest_of(path) for path in paths]
    for path, digest in zip(paths, digests, strict=True):
        is_served(either, digest, path.read_bytes())
        assert blob(either, digest).read_bytes() == path.read_bytes()
    assert list((either.data / "incoming").iterdir()) == []


def test_status(either: Node, some_file: Path) -> None:
    before = either.command("status", "--json").json
    assert either.add(some_file)
    status = either.command("status", "--json").json
    assert list(status) == ["node", "catalog", "store", "fills", "jobs"]
    assert list(status["node"]) == ["id", "region", "running", "version", "drained"]
    assert len(status["node"]["id"]) == 64
    assert status["node"]["running"] is (either.process is not None)
    if either.process is not None:
        assert status["node"]["id"] == either.ready["node"]
    assert (status["catalog"], status["fills"], status["jobs"]) == (None, [], [])
    assert list(status["store"]) == ["blobs", "bytes", "free"]
    assert status["store"]["bytes"] >= before["store"]["bytes"] + 200_000
    assert status["store"]["free"] > 0
    told = either.command("status")
    assert told.code == 0
    assert ("running" if either.process else "stopped") in told.out


def test_verify(make_node: Callable[..., Node], model: Content) -> None:
    node = make_node()
    sound = node.command("verify", "--json")
    assert (sound.code, sound.json["bad"], sound.json["without_manifest"]) == (0, [], [])
    damaged = blob(node, model.digest)
    damaged.unlink()
    damaged.write_bytes(model.data[:-1] + bytes([model.data[-1] ^ 1]))
    found = node.command("verify", "--json")
    assert found.code == 3
    assert [bad["digest"] for bad in found.json["bad"]] == [model.digest]
    assert damaged.exists()
    repaired = node.command("verify", "--repair", "--json")
    assert repaired.code == 0
    assert not damaged.exists()
    assert node.add(model.path) == [model.digest]
    assert node.command("verify").code == 0
    node.start()
    running = node.command("verify")
    assert (running.code, running.out) == (75, "")
    assert "stop the node first" in running.err


def test_add_while_the_node_starts_and_ends(make_node: Callable[..., Node], tmp_path: Path) -> None:
    """Whenever it comes, it succeeds, and what it has added is there."""
    node = make_node(empty=True)
    added: dict[str, bytes] = {}

    def add(n: int) -> None:
        path = tmp_path / f"file-{n}"
        path.write_bytes(f"number {n}".encode() * 1000)
        [digest] = node.add(path)
        added[digest] = path.read_bytes()

    with ThreadPoolExecutor(1) as pool:
        for n in range(rounds(2, 10)):
            node.launch()
            time.sleep(0.2 * n)
            now = pool.submit(add, 2 * n)
            node.wait_ready()
            now.result(PATIENCE)
            for digest, data in added.items():
                is_served(node, digest, data)
            later = pool.submit(add, 2 * n + 1)
            time.sleep(0.1 * n)
            node.stop()
            later.result(PATIENCE * 2)
    for digest, data in added.items():
        assert blob(node, digest).read_bytes() == data
    assert node.command("verify").code == 0


def test_an_interrupted_add_can_be_asked_again(make_node: Callable[..., Node], large: Content) -> None:
    node = make_node(empty=True)
    for wait in [0.1 * n for n in range(4, 4 + rounds(5, 60), 3)]:
        process = subprocess.Popen(
            [PROGRAM, "--data", str(node.data), "add", str(large.path)],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=environment(),
        )
        time.sleep(wait)
        process.send_signal(2)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode in (0, 130, -2), err
        # before the program's first line, the interpreter itself ends by the signal and says where it was
        assert b"Traceback" not in err or process.returncode == -2
    assert node.add(large.path) == [large.digest]
    # what the interrupted ones left is gone by the next start
    node.start()
    eventually(lambda: not list((node.data / "incoming").iterdir()), "no debris", 10)
    assert node.get(large.target).body == large.data


# -- usage: nothing here needs a process of its own


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Run a command in this process, in a folder of its own."""
    from aibrother_tools import cli

    for name in [name for name in os.environ if name.startswith("AIBROTHER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run_here(*words: str | Path) -> Result:
        code = cli.run([str(word) for word in words])
        return Result(code, *capsys.readouterr())

    return run_here


COMMANDS = [
    "add",
    "backup",
    "check-config",
    "demo",
    "drain",
    "edit",
    "fleet",
    "gc",
    "init",
    "jobs",
    "keys",
    "list",
    "peers",
    "pin",
    "promote",
    "publish",
    "pull",
    "restore",
    "retire",
    "scrub",
    "serve",
    "show",
    "status",
    "token",
    "undrain",
    "unpin",
    "unyank",
    "verify",
    "yank",
]


def test_help_and_version(call: Callable[..., Result]) -> None:
    overview = call("--help")
    assert overview.code == 0
    listed = [line.split()[0] for line in overview.out.partition("Commands:\n")[2].splitlines() if line[:3].strip()]
    assert listed == COMMANDS
    assert call("-h").out == overview.out
    version = call("--version")
    assert version.code == 0
    assert version.out.startswith("aibrother-node, version ")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command: str, call: Callable[..., Result]) -> None:
    told = call(command, "--help")
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith(f"Usage: aibrother-node {command} ")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nothing"],
        ["--nothing"],
        ["add"],
        ["add", "--nothing", "x"],
        ["add", "--link", "--move", "x"],
        ["pin"],
        ["pin", "x"],
        ["pin", "sha256:12"],
        ["pin", ABSENT.upper()],
        ["serve", "--port", "65536"],
        ["serve", "--port", "x"],
        ["serve", "--workers", "0"],
        ["status", "extra"],
        ["--log-level", "loud", "status"],
        ["--config", "no-such-file.toml", "status"],
    ],
    ids=" ".join,
)
def test_wrong_usage(words: list[str], tmp_path: Path, call: Callable[..., Result]) -> None:
    wrong = call(*words)
    assert (wrong.code, wrong.out) == (2, ""), wrong
    assert wrong.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["add", __file__], ["pin", ABSENT], ["unpin", ABSENT], ["status"], ["verify"]])
def test_no_data_directory(words: list[str], tmp_path: Path, call: Callable[..., Result]) -> None:
    missing = call("--data", tmp_path / "none", *words)
    assert (missing.code, missing.out) == (4, "")
    assert "aibrother-node init" in missing.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[limits]\nmax_ranges = 0\n", "limits.max_ranges"),
        ("[limits]\nno_such = 1\n", "limits.no_such"),
        ("[nothing]\nx = 1\n", "nothing"),
        ("[public]\ntls_key = 'k.pem'\n", "tls_certificate"),
        ("[node]\ndata = [\n", "node.toml"),
        ("[public]\nport = 70000\n", "public.port"),
    ],
)
def test_check_config_names_faults(tmp_path: Path, text: str, named: str, call: Callable[..., Result]) -> None:
    file = tmp_path / "node.toml"
    file.write_text(text)
    wrong = call("--config", file, "check-config")
    assert (wrong.code, wrong.out) == (2, "")
    assert named in wrong.err
    assert str(file) in wrong.err
    as_json = call("--config", file, "check-config", "--json")
    assert as_json.code == 2
    assert named in as_json.json["faults"][0]
    assert call("--config", file, "status").code == 2


def test_check_config_of_a_right_one(make_node: Callable[..., Node]) -> None:
    node = make_node()
    right = node.command("check-config")
    assert (right.code, right.err) == (0, "")
    assert str(node.data / "node.toml") in right.out
    assert run("--data", node.data, "check-config", env={"AIBROTHER_PUBLIC__PORT": "x"}).code == 2


def test_init_again_changes_nothing(make_node: Callable[..., Node]) -> None:
    node = make_node()
    key = (node.data / "node.key").read_bytes()
    again = node.command("init", "--no-catalog")
    assert again.code == 1
    assert (node.data / "node.key").read_bytes() == key
    assert (node.data / "node.key").stat().st_mode & 0o777 == 0o600


def test_init_tells_the_node(tmp_path: Path) -> None:
    made = run("init", "--no-catalog", "--json", "--region", "eu-central", "--data", tmp_path / "new")
    assert made.code == 0
    assert list(made.json) == ["node", "root"]
    assert made.json["root"] is None
    assert hashlib.sha256(bytes.fromhex(made.json["node"]["key"])).hexdigest() == made.json["node"]["id"]
    status = run("--data", tmp_path / "new", "status", "--json").json
    assert (status["node"]["id"], status["node"]["region"]) == (made.json["node"]["id"], "eu-central")
