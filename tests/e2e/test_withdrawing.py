"""Withdrawing releases from a running node: at once, on every worker, under every name."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from counts import rounds
from e2e.publishing import done, every_worker, publish, sha256_of, signing_node, write_gguf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.harness import Node


@pytest.fixture(scope="module")
def running_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A running node with two workers; each test has models of its own."""
    node = signing_node(tmp_path_factory.mktemp("running"))
    try:
        yield node.start(workers=2)
        node.stop()
    finally:
        node.discard()


def test_yank_and_unyank(running_node: Node, tmp_path: Path) -> None:
    node = running_node
    old = write_gguf(tmp_path / "old.gguf", "yank old")
    shared = write_gguf(tmp_path / "shared.gguf", "yank shared")
    publish(node, old, "yanked:f32@1")
    publish(node, shared, "also:f32@1")
    digest = f"sha256:{sha256_of(old)}"
    named = ["/models/yanked-1-f32.gguf", "/models/yanked-f32.gguf", "/models/yanked-1-f32.gguf.json"]
    content = [
        f"/v1/blobs/{digest}",
        f"/v1/blobs/sha256/{digest[7:]}",
        f"/targets/models/{digest[7:]}.yanked-1-f32.gguf",
        f"/targets/models/{digest[7:]}.yanked-f32.gguf",
    ]
    with every_worker(node) as workers:
        for _ in range(rounds(2, 50)):
            for target in named + content:
                assert workers.statuses(target) == {200}, target
            told = done(node, "yank", "yanked", "--reason", "it müsli", "--json").json
            assert {one["name"] for one in told["targets"]} >= {"models/yanked-1-f32.gguf", "models/yanked-f32.gguf"}
            for target in named + content:
                for reply in workers.ask(target):
                    assert (target, reply.status) == (target, 410)
                    assert reply.problem()["detail"] == "it müsli"
                    assert reply.headers["Cache-Control"] == "public, max-age=60"
                assert workers.statuses(target, "HEAD") == {410}
            (reply, _) = workers.ask("/v1/catalog.json")
            (stone,) = [one for one in reply.json["yanked"] if one["name"] == "yanked"]
            assert (stone["sha256"], stone["reason"]) == (digest[7:], "it müsli")
            assert "yanked" not in [one["name"] for one in reply.json["models"]]
            assert node.command("show", "yanked").code == 4
            again = done(node, "yank", "yanked:f32@1", "--reason", "another")
            assert "nothing to do" in again.out
            done(node, "unyank", "yanked")
            for target in named + content:
                assert workers.statuses(target) == {200}, target
        # an older version takes the moving name over; what another release names is served on
        publish(node, shared, "yanked:f32@2")
        done(node, "yank", "yanked:f32@2", "--reason", "shared")
        assert workers.statuses("/models/yanked-2-f32.gguf") == {410}
        assert [reply.body for reply in workers.ask("/models/yanked-f32.gguf")] == [old.read_bytes()] * 2
        assert workers.statuses(f"/v1/blobs/sha256:{sha256_of(shared)}") == {200}
        assert workers.statuses("/models/also-1-f32.gguf") == {200}
    assert node.command("yank", "nothing", "--reason", "r").code == 4
    assert node.command("yank", "also").code == 2


def test_yank_from_staging(running_node: Node, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "staged.gguf", "yank staged")
    publish(running_node, file, "candidate:f32@1", "--channel", "staging")
    done(running_node, "yank", "candidate", "--reason", "not good enough")
    with every_worker(running_node) as workers:
        for target in ("/staging/candidate-1-f32.gguf", f"/v1/blobs/sha256:{sha256_of(file)}"):
            for reply in workers.ask(target):
                assert (reply.status, reply.problem()["detail"]) == (410, "not good enough")
    publish(running_node, file, "candidate:f32@2")
    assert running_node.get(f"/v1/blobs/sha256:{sha256_of(file)}").status == 200


def test_nothing_withdrawn_is_served_under_load(running_node: Node, tmp_path: Path) -> None:
    """Requests that were under way when a release was withdrawn leave nothing behind that later ones could get."""
    node = running_node
    file = write_gguf(tmp_path / "load.gguf", "load", rows=8)
    publish(node, file, "load:f32@1")
    target = f"/v1/blobs/sha256:{sha256_of(file)}"
    ended = False

    def read() -> None:
        with every_worker(node) as workers:
            while not ended:
                workers.ask(target)
                workers.ask("/models/load-f32.gguf")

    with ThreadPoolExecutor(2) as pool, every_worker(node) as workers:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for _ in range(rounds(1, 100)):
                done(node, "yank", "load", "--reason", "under load")
                for _ in range(20):
                    assert workers.statuses(target) == {410}
                    assert workers.statuses("/models/load-f32.gguf") == {410}
                done(node, "unyank", "load")
                assert workers.statuses(target) == {200}
        finally:
            ended = True
        for reader in readers:
            reader.result()


def test_yanking_on_a_stopped_node_is_served_by_the_next_start(tmp_path: Path) -> None:
    node = signing_node(tmp_path)
    file = write_gguf(tmp_path / "m.gguf", "stopped")
    publish(node, file, "gone:f32@1")
    done(node, "yank", "gone", "--reason", "stopped")
    (node.data / "index.sqlite3").unlink()  # derived: made again from what is signed
    try:
        node.start()
        assert node.get("/models/gone-1-f32.gguf").status == 410
        assert node.get(f"/v1/blobs/sha256:{sha256_of(file)}").status == 410
        node.stop()
    finally:
        node.discard()
