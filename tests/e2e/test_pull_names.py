"""`pull NAME`: what a name means by the verified catalog, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from e2e.harness import Node, Result, run
from e2e.publishing import (
    ago,
    done,
    publish,
    publish_all,
    sha256_of,
    sign_timestamp,
    signing_node,
    write_gguf,
    write_shards,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class World:
    """A running node with models, and an older state of the same node that runs beside it."""

    def __init__(self, folder: Path) -> None:
        self.node = signing_node(folder / "node")
        self.old = Node(folder / "old")
        self.files = {
            release: write_gguf(folder / f"{number}.gguf", release, rows=1024 if release.startswith("one") else 8)
            for number, release in enumerate(("one:f32@1", "one:f32@2", "two:a@1", "two:b@1", "bad:f32@1", "half:a@1"))
        }
        first = {release: file for release, file in self.files.items() if release != "one:f32@2"}
        publish_all(self.node, first | {"half:b@1": self.files["two:a@1"]})
        done(self.node, "yank", "bad", "half:b", "--reason", "broken")
        self.shards = write_shards(folder, "pulled", 3)
        self.projector = write_gguf(folder / "projector.gguf", "projector", rows=8)
        what = ("--name", "wide", "--variant", "f32", "--version", "1", "--projector", self.projector)
        done(self.node, "publish", *self.shards, *what)
        self.old.folder.mkdir()
        self.old.like(self.node).configure(node__drain_seconds=3)
        publish(self.node, self.files["one:f32@2"], "one:f32@2")
        self.root = folder / "root.json"
        self.root.write_bytes((self.node.data / "trust/root.json").read_bytes())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("world"))
    try:
        world.node.start()
        world.old.start()
        yield world
        world.node.stop()
        world.old.stop()
    finally:
        world.node.discard()
        world.old.discard()


class Puller:
    """`pull` in a folder of its own, with a trust state of its own."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder / "here"
        self.folder.mkdir()
        self.env = {"XDG_STATE_HOME": str(folder / "state"), "HOME": str(folder)}

    def __call__(self, name: str, *arguments: str | Path, node: Node | None = None, root: Path | None = None) -> Result:
        url = f"http://127.0.0.1:{(node or self.world.node).port}"
        trusted = ("--root", root or self.world.root)
        return run("pull", name, "--from", url, *trusted, *arguments, cwd=self.folder, env=self.env)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def pull(world: World, tmp_path: Path) -> Puller:
    return Puller(world, tmp_path)


def last_event(result: Result) -> Any:
    return json.loads(result.out.splitlines()[-1])


def test_the_newest_the_named_and_the_output(pull: Puller, world: World) -> None:
    newest = pull("one", "--json")
    assert newest.code == 0, newest
    assert last_event(newest)["event"] == "done"
    assert last_event(newest)["sha256"] == sha256_of(world.files["one:f32@2"])
    assert pull.left() == ["one-2-f32.gguf"]
    assert (pull.folder / "one-2-f32.gguf").read_bytes() == world.files["one:f32@2"].read_bytes()
    assert pull("one@1", "-o", "older.gguf").code == 0
    assert (pull.folder / "older.gguf").read_bytes() == world.files["one:f32@1"].read_bytes()
    assert pull("two:b@1", "-o", pull.folder).code == 0
    assert (pull.folder / "two-1-b.gguf").read_bytes() == world.files["two:b@1"].read_bytes()
    before = pull.left()
    planned = pull("two:a", "--dry-run", "--json")
    assert (planned.code, last_event(planned)["sha256"]) == (0, sha256_of(world.files["two:a@1"]))
    assert pull.left() == before


def test_names_that_mean_nothing_or_too_much(pull: Puller) -> None:
    several = pull("two")
    assert several.code == 2
    assert "two:a" in several.err
    assert "two:b" in several.err
    for unknown in ("nothing", "one:q4_0@3"):
        assert pull(unknown).code == 4, unknown
    for withdrawn in ("bad", "half:b@1"):
        result = pull(withdrawn)
        assert result.code == 4
        assert "withdrawn" in result.err
    assert pull("No Name").code == 2
    assert pull.left() == []


def test_a_withdrawn_variant_is_no_choice(pull: Puller, world: World) -> None:
    assert pull("half", "-o", "half.gguf").code == 0
    assert (pull.folder / "half.gguf").read_bytes() == world.files["half:a@1"].read_bytes()


def test_shards_and_projector_go_to_a_folder(pull: Puller, world: World) -> None:
    assert pull("wide", "--json").code == 0
    (folder,) = pull.left()
    expected = {f"wide-1-f32-{number:05}-of-00003.gguf": file for number, file in enumerate(world.shards, 1)}
    pulled = {path.name: path.read_bytes() for path in (pull.folder / folder).iterdir()}
    (projector,) = set(pulled) - set(expected)
    assert "mmproj" in projector
    assert pulled == {projector: world.projector.read_bytes()} | {
        name: file.read_bytes() for name, file in expected.items()
    }
    again = pull("wide", "--json")
    assert (again.code, last_event(again)["fetched"]) == (0, 0)


def test_which_root_is_trusted(pull: Puller, world: World, tmp_path: Path) -> None:
    other = signing_node(tmp_path / "other")
    foreign = pull("one", root=other.data / "trust/root.json")
    assert foreign.code == 3
    assert "root" in foreign.err or "signature" in foreign.err
    assert pull("one", root=tmp_path / "nowhere.json").code == 4
    garbage = tmp_path / "garbage.json"
    garbage.write_text("{}")
    assert pull("one", root=garbage).code == 3
    bare = run("pull", "one", "--from", world.node.url, cwd=pull.folder, env=pull.env)
    assert bare.code == 2
    assert "--root" in bare.err
    assert pull.left() == []
    # a data directory at hand has one
    assert world.node.command("pull", "one", "--from", world.node.url, "-o", pull.folder / "m.gguf").code == 0


def test_a_node_that_was_rolled_back(pull: Puller, world: World, tmp_path: Path) -> None:
    """Who has seen nothing newer can't know; who has, says so. Another source makes up for it."""
    (tmp_path / "other").mkdir()
    unknowing = Puller(world, tmp_path / "other")
    assert unknowing("one", node=world.old).code == 0
    assert unknowing.left() == ["one-1-f32.gguf"]
    assert pull("one").code == 0
    (pull.folder / "one-2-f32.gguf").unlink()
    behind = pull("one", node=world.old)
    assert behind.code == 3
    assert "rollback" in behind.err
    assert "timestamp" in behind.err
    assert pull("one", "--allow-stale", node=world.old).code == 3
    assert pull.left() == []
    both = pull("one", "--from", f"http://127.0.0.1:{world.old.port}")
    assert both.code == 0
    assert "rollback" in both.err
    assert (pull.folder / "one-2-f32.gguf").read_bytes() == world.files["one:f32@2"].read_bytes()


def damage(path: Path) -> bytes:
    """Change bytes in the middle of a stored file; returns what it held."""
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(whole[: len(whole) // 2] + b"tampered" + whole[len(whole) // 2 + 8 :])
    return whole


@pytest.mark.parametrize("what", ["sha256", "document"])
def test_a_node_that_was_tampered_with(pull: Puller, world: World, what: str) -> None:
    blobs = world.node.data / "blobs/sha256"
    (entry,) = done(world.node, "show", "--json", "two:a").json
    if what == "document":
        documents = (world.node.data / "catalog/targets/models").glob("*.two.releases.json")
        path = max(documents, key=lambda one: one.stat().st_mtime_ns)
    else:
        path = blobs / entry["sha256"]
    whole = damage(path)
    try:
        result = pull("two:a")
        assert result.code == 3, result
        assert pull.left() == []
    finally:
        path.write_bytes(whole)
    assert pull("two:a").code == 0
    assert (pull.folder / "two-1-a.gguf").read_bytes() == world.files["two:a@1"].read_bytes()


def test_a_manifest_that_was_tampered_with_is_not_believed(pull: Puller, world: World) -> None:
    """The signed digest of the manifest decides; without the manifest the file's own digest does."""
    (entry,) = done(world.node, "show", "--json", "two:b").json
    path = world.node.data / "blobs/sha256" / entry["chunks"].removeprefix("sha256:")
    whole = damage(path)
    try:
        result = pull("two:b")
        kept = pull.left()
        assert (result.code, kept) in [(3, []), (4, []), (0, ["two-1-b.gguf"])]
        if kept:
            assert (pull.folder / "two-1-b.gguf").read_bytes() == world.files["two:b@1"].read_bytes()
    finally:
        path.write_bytes(whole)


def test_an_expired_catalog(pull: Puller, world: World, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    new = Puller(world, tmp_path / "other")
    assert pull("two:a").code == 0
    sign_timestamp(world.node, ago(hours=1))
    for puller in (pull, new):
        refused = puller("two:b")
        assert refused.code == 3
        assert "expired" in refused.err
    stale = pull("two:a", "--allow-stale", "-o", "stale.gguf")
    assert stale.code == 0, stale
    assert "expired" in stale.err
    assert new("two:a", "--allow-stale").code == 3
    assert new.left() == []
    assert "timestamp" in done(world.node, "keys", "refresh", "--json").json["versions"]
    for puller in (pull, new):
        assert puller("two:b").code == 0
