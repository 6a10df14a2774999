"""Editing the catalog by commands, on a stopped node and on a running one: what they say, and what is served then."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from counts import rounds
from e2e.publishing import (
    done,
    every_worker,
    everything_below,
    names,
    publish,
    publish_all,
    sha256_of,
    signing_node,
    write_gguf,
    write_shards,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.harness import Node


@pytest.fixture(scope="module")
def running_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A running node with two workers, edited by many tests, each with models of its own."""
    node = signing_node(tmp_path_factory.mktemp("running"))
    try:
        yield node.start(workers=2)
        node.stop()
        assert node.command("verify").code == 0
    finally:
        node.discard()


@pytest.fixture(scope="module")
def stopped_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = signing_node(tmp_path_factory.mktemp("stopped"))
    yield node
    assert node.command("verify").code == 0


@pytest.fixture(params=["stopped", "running"])
def either(request: pytest.FixtureRequest) -> Node:
    """A node that runs, or one that doesn't."""
    node: Node = request.getfixturevalue(f"{request.param}_node")
    return node


def state_of(node: Node) -> dict[str, bytes]:
    """All that is signed, and all that is stored."""
    return everything_below(*(node.data / name for name in ("catalog", "blobs", "pins", "incoming", "keys")))


def signed(node: Node) -> dict[str, bytes]:
    return everything_below(node.data / "catalog")


# -- publish


def test_publish_a_file_by_what_it_says_of_itself(either: Node, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "whatever.gguf", either.folder.name, name="Phi 2 Möbile", licence="apache-2.0")
    told = done(either, "publish", "--json", file, "--version", "2026.11.1", "--tag", "small", "--tag", "chat").json
    (entry,) = told["entries"]
    assert (entry["name"], entry["variant"], entry["version"]) == ("phi-2-mobile", "f32", "2026.11.1")
    fixed = "phi-2-mobile-2026.11.1-f32.gguf"
    assert (entry["filename"], entry["sha256"], entry["size_bytes"]) == (fixed, sha256_of(file), file.stat().st_size)
    assert (entry["license"], entry["tags"], entry["gguf"]["architecture"]) == (
        "apache-2.0",
        ["chat", "small"],
        "llama",
    )
    assert entry["gguf"]["context_length"] == 2048
    assert entry["gguf"]["parameters"] == 64 * 256
    assert {target["name"]: target["state"] for target in told["targets"]} == {f"models/{fixed}": "new"}
    assert done(either, "show", "--json", "phi-2-mobile").json == [entry]
    shown = either.command("list")
    assert (shown.code, fixed in shown.out) == (0, True)
    if either.process is not None:
        assert either.get(f"/models/{fixed}").body == file.read_bytes()
        assert either.get(f"/models/{fixed}.json").json == entry


def test_both_ways_give_the_same(stopped_node: Node, running_node: Node, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "same.gguf", "same")
    entries = [publish(node, file, "both-ways:f32@1") for node in (stopped_node, running_node)]
    for entry in entries:
        del entry["processed_date"]
    assert entries[0] == entries[1]


def test_what_a_command_published_is_served_when_it_returns(running_node: Node, tmp_path: Path) -> None:
    with every_worker(running_node) as workers:
        for number in range(1, rounds(4, 100) + 1):
            file = write_gguf(tmp_path / f"{number}.gguf", f"at once {number}", rows=8)
            entry = publish(running_node, file, f"at-once:f32@{number}")
            for target in (f"/models/{entry['filename']}", "/models/at-once-f32.gguf"):
                for reply in workers.ask(target):
                    assert (reply.status, reply.body) == (200, file.read_bytes())
            for reply in workers.ask("/v1/catalog.json"):
                newest = [one["version"] for one in reply.json["models"] if one["name"] == "at-once"]
                assert newest == [str(number)]


def test_publish_a_folder(running_node: Node, tmp_path: Path) -> None:
    """Every model in it, shard sets whole, projectors only where a note says which model they belong to."""
    write_gguf(tmp_path / "one.gguf", "one", name="Folder One")
    write_shards(tmp_path, "shards", 2, "two", name="Folder Two")
    write_gguf(tmp_path / "mmproj-one.gguf", "projector")
    (tmp_path / "one.json").write_text(json.dumps({"projector": "mmproj-one.gguf", "version": "7", "sha256": "0" * 64}))
    told = done(running_node, "publish", "--json", tmp_path, "--variant", "f32", "--tag", "folder").json
    one, two = sorted(told["entries"], key=lambda entry: str(entry["name"]))
    assert (one["name"], one["version"], len(one["parts"])) == ("folder-one", "7", 1)
    assert one["projector"]["sha256"] == sha256_of(tmp_path / "mmproj-one.gguf")
    assert (two["name"], len(two["parts"]), two["projector"]) == ("folder-two", 2, None)
    assert len(told["targets"]) == 4


def test_publish_a_plan(stopped_node: Node, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    write_gguf(files / "a.gguf", "plan a")
    write_gguf(files / "b.gguf", "plan b")
    plan = tmp_path / "plan.toml"
    plan.write_text(
        '[defaults]\nname = "planned"\nversion = "3"\nlicense = "mit"\ntags = ["all"]\n'
        '[[release]]\nfiles = ["files/a.gguf"]\nvariant = "a"\n'
        '[[release]]\nfiles = ["files/b.gguf"]\nvariant = "b"\nlicense = "gpl-3.0-only"\n'
    )
    entries = done(stopped_node, "publish", "--json", plan, "--description", "of all").json["entries"]
    assert [(entry["variant"], entry["license"], entry["description"]) for entry in entries] == [
        ("a", "mit", "of all"),
        ("b", "gpl-3.0-only", "of all"),
    ]
    before = signed(stopped_node)
    plan.write_text(plan.read_text() + '[[release]]\nfiles = ["files/c.gguf"]\nvariant = "c"\n')
    missing = stopped_node.command("publish", plan)
    assert (missing.code, missing.out) == (4, "")
    assert "c.gguf" in missing.err
    plan.write_text('[[release]]\nfiles = ["files/a.gguf"]\nsurprise = 1\n')
    wrong = stopped_node.command("publish", plan)
    assert wrong.code in (1, 2)
    assert "surprise" in wrong.err
    assert signed(stopped_node) == before


def test_publish_a_shard_set_whole_or_not_at_all(running_node: Node, tmp_path: Path) -> None:
    shards = write_shards(tmp_path, "whole", 3)
    before = state_of(running_node)
    for given in (shards[:2], shards[1:], [*shards, write_gguf(tmp_path / "lone.gguf", "lone", name="Sharded")]):
        short = running_node.command("publish", *given, "--name", "sharded", "--variant", "f32", "--version", "1")
        assert (short.code, short.out) == (3, "")
        assert "shard" in short.err
    assert state_of(running_node) == before
    # the order on the command line doesn't matter: each shard says which one it is
    told = done(running_node, "publish", "--json", *reversed(shards), "--variant", "f32", "--version", "1").json
    (entry,) = told["entries"]
    assert [part["sha256"] for part in entry["parts"]] == [sha256_of(shard) for shard in shards]
    assert entry["parts"][1]["filename"] == "sharded-1-f32-00002-of-00003.gguf"
    assert (entry["sha256"], entry["chunks"], entry["pieces"]) == (None, None, None)
    assert entry["size_bytes"] == sum(shard.stat().st_size for shard in shards)
    assert entry["gguf"]["parameters"] == 256 * (33 + 34 + 35)
    for number, shard in enumerate(shards, 1):
        for name in (f"sharded-1-f32-{number:05}-of-00003.gguf", f"sharded-f32-{number:05}-of-00003.gguf"):
            assert running_node.get(f"/models/{name}").body == shard.read_bytes()


def test_notes_beside_files_and_what_is_stronger(stopped_node: Node, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "noted.gguf", "noted", licence=None)
    note = {"name": "noted", "version": "5", "license": "cc0-1.0", "description": "From\nthe note", "repo": "org/repo"}
    (tmp_path / "noted.json").write_text(json.dumps(note))
    entry = done(stopped_node, "publish", "--json", file, "--variant", "f32", "--license", "mit").json["entries"][0]
    assert (entry["name"], entry["version"], entry["license"]) == ("noted", "5", "mit")
    assert (entry["description"], entry["repo"]) == ("From\nthe note", "org/repo")
    (tmp_path / "noted.json").write_text("[")
    assert stopped_node.command("publish", file).code in (1, 2)
    (tmp_path / "noted.json").unlink()
    unknown = stopped_node.command("publish", "--json", file, "--name", "noted", "--version", "6")
    assert unknown.json["entries"][0]["license"] == "unknown"
    assert "licen" in unknown.err


def test_a_dry_run_changes_nothing(running_node: Node, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "dry.gguf", "dry")
    before = state_of(running_node)
    planned = done(running_node, "publish", "--dry-run", "--json", file, "--name", "dry", "--version", "1").json
    assert planned["entries"][0]["name"] == "dry"
    assert state_of(running_node) == before
    file.write_bytes(file.read_bytes()[:1000])
    assert running_node.command("publish", "--dry-run", file, "--name", "dry", "--version", "1").code == 3


def test_what_is_no_gguf_publishes_nothing(either: Node, tmp_path: Path) -> None:
    good = write_gguf(tmp_path / "good.gguf", "good", name="Good")
    cut = tmp_path / "zcut.gguf"
    cut.write_bytes(good.read_bytes()[:-1000])
    text = tmp_path / "ztext.gguf"
    text.write_text("no model")
    before = state_of(either)
    for bad in (cut, text):
        result = either.command("publish", good, bad, "--version", "1", "--variant", "f32", "--license", "mit")
        assert (result.code, result.out) == (3, "")
        assert str(bad) in result.err
    both = either.command("publish", good, "--projector", text, "--version", "1", "--variant", "f32")
    assert (both.code, both.out) == (3, "")
    assert either.command("publish", tmp_path / "nothing.gguf").code == 4
    assert either.command("publish", good, "--name", "No Name", "--version", "1").code in (1, 2)
    assert state_of(either) == before


def test_the_same_again_changes_nothing_and_other_content_is_refused(running_node: Node, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "first.gguf", "first")
    other = write_gguf(tmp_path / "other.gguf", "other")
    entry = publish(running_node, file, "taken:f32@1")
    before = signed(running_node)
    told = done(running_node, "publish", "--json", file, "--name", "taken", "--variant", "f32", "--version", "1").json
    assert (told["entries"], [target["state"] for target in told["targets"]]) == ([entry], ["same"])
    assert signed(running_node) == before

    def refused(why: str, channel: str) -> None:
        before = signed(running_node)
        what = ("--name", "taken", "--variant", "f32", "--version", "1", "--channel", channel)
        result = running_node.command("publish", other, *what)
        assert (result.code, result.out) == (5, ""), why
        assert sha256_of(other) in result.err
        assert sha256_of(file) in result.err
        assert signed(running_node) == before

    refused("published", "stable")
    refused("published", "staging")
    done(running_node, "yank", "taken:f32@1", "--reason", "for the test")
    refused("yanked", "stable")
    publish(running_node, other, "taken:f32@2")
    done(running_node, "retire", "taken:f32@1")
    refused("retired", "stable")
    refused("retired", "staging")
    assert running_node.command("unyank", "taken:f32@1").code == 5


# -- channels


def test_staging_then_stable(running_node: Node, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "staged.gguf", "staged")
    entry = publish(running_node, file, "staged:f32@1", "--channel", "staging")
    assert "staged:f32@1" in names(running_node, "--channel", "staging")
    assert "staged:f32@1" not in names(running_node)
    assert running_node.command("show", "staged").code == 4
    assert running_node.get("/staging/staged-1-f32.gguf").body == file.read_bytes()
    assert running_node.get("/models/staged-1-f32.gguf").status == 404
    assert running_node.get("/staging/staged-1-f32.gguf.json").json == entry
    assert running_node.command("promote", "nothing:f32").code == 4
    promoted = done(running_node, "promote", "--json", "staged").json
    assert promoted["entries"] == [entry]
    assert "staged:f32@1" not in names(running_node, "--channel", "staging")
    assert "staged:f32@1" in names(running_node)
    with every_worker(running_node) as workers:
        assert workers.statuses("/models/staged-1-f32.gguf") == {200}
        assert workers.statuses("/staging/staged-1-f32.gguf") == {404}
    before = signed(running_node)
    done(running_node, "promote", "staged")
    assert signed(running_node) == before


def test_promotion_checks_the_file_again(running_node: Node, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "rotten.gguf", "rotten")
    publish(running_node, file, "rotten:f32@1", "--channel", "staging")
    stored = running_node.data / "blobs/sha256" / sha256_of(file)
    whole = stored.read_bytes()
    stored.chmod(0o644)
    stored.write_bytes(b"JUNK" + whole[4:])
    before = signed(running_node)
    result = running_node.command("promote", "rotten")
    assert (result.code, result.out) == (3, "")
    assert signed(running_node) == before
    stored.write_bytes(whole)
    stored.chmod(0o444)
    done(running_node, "promote", "rotten")


# -- later


def test_retire_keeps_the_newest(running_node: Node, tmp_path: Path) -> None:
    files = {
        version: write_gguf(tmp_path / version, f"retire {version}", rows=4) for version in ("1", "2", "10", "3rc1")
    }
    publish_all(running_node, {f"retired:f32@{version}": file for version, file in files.items()})
    told = done(running_node, "retire", "--json", "--keep", "2", "retired").json
    assert sorted(entry["version"] for entry in told["entries"]) == ["1", "2"]
    assert [name for name in names(running_node, "--all-versions") if name.startswith("retired")] == [
        "retired:f32@10",
        "retired:f32@3rc1",
    ]
    assert running_node.get("/models/retired-10-f32.gguf").status == 200
    assert running_node.get("/models/retired-1-f32.gguf").status in (404, 410)
    stones = running_node.get("/catalog.json").json["yanked"]
    assert {stone["version"]: stone["reason"] for stone in stones if stone["name"] == "retired"} == {
        "1": "retired",
        "2": "retired",
    }
    before = signed(running_node)
    done(running_node, "retire", "--keep", "2", "retired")
    assert signed(running_node) == before
    assert running_node.command("retire", "nothing").code == 4
    assert running_node.command("retire", "--keep", "0", "retired").code == 2


def test_edit_changes_words_only(running_node: Node, tmp_path: Path) -> None:
    entry = publish(running_node, write_gguf(tmp_path / "e.gguf", "edit"), "edited:f32@1")
    words = ("--license", "gpl-3.0-only", "--tag", "b", "--tag", "a", "--description", "Größe", "--repo", "a/b")
    more = ("--url", "https://example.org/m.gguf", "--min-memory-bytes", "1000000")
    told = done(running_node, "edit", "--json", "edited", *words, *more).json
    changed = {
        "license": "gpl-3.0-only",
        "tags": ["a", "b"],
        "description": "Größe",
        "repo": "a/b",
        "urls": ["https://example.org/m.gguf"],
        "min_memory_bytes": 1000000,
    }
    assert told["entries"] == [{**entry, **changed}]
    assert done(running_node, "show", "--json", "edited").json == told["entries"]
    assert running_node.get("/models/edited-f32.gguf.json").json == told["entries"][0]
    before = signed(running_node)
    assert "nothing to do" in done(running_node, "edit", "edited", *words, *more).out
    assert signed(running_node) == before
    assert running_node.command("edit", "edited").code == 2
    assert running_node.command("edit", "nothing", "--license", "mit").code == 4


# -- reading


def test_list_and_show(stopped_node: Node, tmp_path: Path) -> None:
    releases = ("listed:a@1", "listed:a@2", "listed:b@1")
    publish_all(stopped_node, {one: write_gguf(tmp_path / one, one, rows=4) for one in releases})
    newest = [name for name in names(stopped_node) if name.startswith("listed")]
    assert newest == ["listed:a@2", "listed:b@1"]
    every = [name for name in names(stopped_node, "--all-versions") if name.startswith("listed")]
    assert sorted(every) == ["listed:a@1", "listed:a@2", "listed:b@1"]
    shown = done(stopped_node, "show", "--json", "listed", "listed:a@1").json
    assert [(entry["variant"], entry["version"]) for entry in shown] == [("a", "2"), ("b", "1"), ("a", "1")]
    assert json.loads(done(stopped_node, "show", "listed:b").out)["variant"] == "b"
    assert stopped_node.command("show", "listed:c").code == 4
    assert stopped_node.command("show", "Not A Name").code in (1, 2)


def test_head_of_a_catalogued_blob_that_is_not_here(running_node: Node, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "away.gguf", "away")
    publish(running_node, file, "away:f32@1")
    digest = sha256_of(file)
    (running_node.data / "blobs/sha256" / digest).unlink()
    try:
        for target in (
            f"/v1/blobs/sha256:{digest}",
            "/models/away-1-f32.gguf",
            f"/targets/models/{digest}.away-f32.gguf",
        ):
            head = running_node.get(target, method="HEAD")
            assert (head.status, head.headers["Content-Length"]) == (200, str(file.stat().st_size)), target
            assert head.headers["ETag"] == f'"sha256:{digest}"'
            assert running_node.get(target).status == 404
        assert running_node.get("/v1/blobs/sha256:" + "0" * 64, method="HEAD").status == 404
    finally:
        assert running_node.add(file) == [f"sha256:{digest}"]
    assert running_node.get("/models/away-1-f32.gguf").body == file.read_bytes()
