"""Decay on a running node: found, never sent again, repaired from a peer, or lived with; each byte is looked at."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from aibrother_node.content.digest import Digest
from aibrother_node.store.fills import open_fill
from aibrother_node.store.layout import Layout
from e2e.damage import Crowd, SlowClient, blob_path, fill_path, fills, flip, job, manifest_of
from e2e.fleets import pair, scrape
from e2e.harness import Node, eventually
from e2e.publishing import done, publish, write_gguf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROWS = 42 << 10  # of a KiB each
NAME = "/models/big-1-f32.gguf"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    folder = tmp_path_factory.mktemp("scrub")
    with pair(folder) as (us, eu):
        yield us, eu


@pytest.fixture(scope="module")
def model(nodes: tuple[Node, Node], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """A published GGUF of 42 MiB that both have."""
    us, eu = nodes
    path = write_gguf(tmp_path_factory.mktemp("model") / "big.gguf", "big", rows=ROWS)
    digest = f"sha256:{publish(us, path, 'big:f32@1')['parts'][0]['sha256']}"
    assert eu.add(path) == [digest]
    eventually(lambda: _has_mirror(us, digest, "eu"), "eu is known to have it")
    eventually(lambda: eu.get(NAME, method="HEAD").status == 200, "the catalog at eu")
    return digest, path.read_bytes()


def _has_mirror(node: Node, digest: str, region: str) -> bool:
    mirrors = node.get(f"/v1/mirrors?digest={digest}").json["mirrors"]
    return any(one["region"] == region and one["have"] == "complete" for one in mirrors)


def _is_whole(node: Node, digest: str, data: bytes) -> None:
    assert blob_path(node, digest).read_bytes() == data
    assert not fill_path(node, digest).exists()
    assert fills(node) == []
    assert node.get(NAME).body == data


def test_found_not_sent_and_repaired_from_a_peer(nodes: tuple[Node, Node], model: tuple[str, bytes]) -> None:
    us, _ = nodes
    digest, data = model
    manifest = manifest_of(us, digest)
    bad = manifest.chunk(len(manifest) - 2)
    good = [(one.offset, one.offset + one.length) for one in manifest if one.index != bad.index]
    before = scrape(us)
    slow = SlowClient(us.port, NAME)
    slow.read(1 << 20)
    with Crowd(us.port, NAME, data, good) as crowd:
        eventually(lambda: crowd.good > 20, "a crowd")
        flip(blob_path(us, digest), bad.offset + bad.length // 2)
        began = crowd.good
        done_job = job(us, "--digest", digest)
        found_at = time.monotonic()
        eventually(lambda: crowd.good > began + 40, "answers after it")
    assert done_job["state"] == "done", done_job
    assert done_job["result"] == {"bad_chunks": 1, "repaired": 1, "damaged": 0}
    assert crowd.faults == [], "good chunks are served all the time"
    assert [one for one in crowd.wrong if one[0] > found_at] == []
    slow.read_to_end(len(data))
    assert bytes(slow.body) in (data, data[: bad.offset]), "cut before the bad chunk, or repaired when it came to it"

    evidence = sorted((us.data / "quarantine").glob("chunk-*"))
    assert len(evidence) == 2
    kept = evidence[0].read_bytes()
    assert sum(a != b for a, b in zip(kept, data[bad.offset : bad.offset + bad.length], strict=True)) == 1
    reason = json.loads(evidence[1].read_bytes())
    assert (reason["blob"], reason["chunk"], reason["offset"]) == (digest, bad.index, bad.offset)
    _is_whole(us, digest, data)
    after = scrape(us)
    for name in ("scrub_bad_chunks_total", "repaired_chunks_total"):
        assert after[f"aibrother_{name}"] == before.get(f"aibrother_{name}", 0) + 1
    assert after["aibrother_scrub_checked_bytes_total"] >= before["aibrother_scrub_checked_bytes_total"] + len(data)
    assert after["aibrother_damaged_blobs"] == 0


def test_a_manifest_that_decays_is_made_again(nodes: tuple[Node, Node], model: tuple[str, bytes]) -> None:
    us, _ = nodes
    digest, data = model
    manifest = manifest_of(us, digest)
    path = blob_path(us, str(manifest.digest()))
    before = path.read_bytes()
    flip(path, 60)
    done_job = job(us)
    assert done_job["state"] == "done", done_job
    assert done_job["result"] == {"bad_chunks": 1, "repaired": 1, "damaged": 0}
    assert path.read_bytes() == before
    assert manifest_of(us, digest) == manifest
    _is_whole(us, digest, data)
    assert scrape(us)["aibrother_scrub_last_completed_timestamp_seconds"] > time.time() - 60


def test_a_worker_that_was_stopped_meanwhile_sends_what_is_right(
    nodes: tuple[Node, Node], model: tuple[str, bytes]
) -> None:
    """Stopped before the finding, it goes on after the repair: it has seen neither, and has the old file open."""
    us, _ = nodes
    digest, data = model
    bad = manifest_of(us, digest).chunk(3)
    slow = SlowClient(us.port, NAME)
    slow.read(1000)
    worker = us.child("worker-0")
    os.kill(worker, signal.SIGSTOP)
    try:
        flip(blob_path(us, digest), bad.offset + 9)
        assert job(us, "--digest", digest)["state"] == "done"
    finally:
        os.kill(worker, signal.SIGCONT)
    slow.read_to_end(len(data))
    assert bytes(slow.body) == data
    assert us.child("worker-0") == worker
    _is_whole(us, digest, data)


def test_it_begins_by_itself_when_it_is_due(tmp_path: Path) -> None:
    node = Node(tmp_path).init()
    node.configure(store__scrub_interval="1h")
    made = (node.data / "VERSION").stat().st_mtime
    os.utime(node.data / "VERSION", (made, made - 4000))
    try:
        node.start()

        def jobs() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = node.command("jobs", "--kind", "scrub", "--json").json["jobs"]
            return [one for one in found if one["state"] == "done"]

        (one,) = eventually(jobs, "a scrub")
        assert one["request"] == {"rate": None, "digests": None}
        node.stop()
    finally:
        node.discard()


def test_without_a_peer_it_stays_damaged_also_over_a_crash(nodes: tuple[Node, Node], model: tuple[str, bytes]) -> None:
    us, eu = nodes
    digest, data = model
    manifest = manifest_of(us, digest)
    bad = manifest.chunk(len(manifest) - 1)
    eu.stop()
    try:
        slow = SlowClient(us.port, NAME)
        slow.read(1000)
        flip(blob_path(us, digest), bad.offset)
        failed = job(us, "--digest", digest)
        assert failed["state"] == "failed", failed
        assert failed["errors"][0]["name"] == digest
        slow.read_to_end(len(data))
        assert bytes(slow.body) == data[: bad.offset], "cut where the bad chunk begins"
        _serves_what_is_good(us, digest, data, bad.offset, bad.offset + bad.length)
        status = done(us, "status", "--json").json
        assert [one["digest"] for one in status["fills"]] == [digest]
        assert status["fills"][0]["missing_chunks"] == 1
        assert scrape(us)["aibrother_damaged_blobs"] == 1

        us.send(signal.SIGKILL)
        us.end()
        us.start(port=None)
        _serves_what_is_good(us, digest, data, bad.offset, bad.offset + bad.length)
        offline = open_fill(Layout(us.data), Digest.parse(digest))
        offline.close()
        assert list(offline.have.missing()) == [bad.index]
    finally:
        eu.start(port=None)
    eventually(lambda: blob_path(us, digest).exists(), "the repair, once a peer is there", patience=90)
    eventually(lambda: fills(us) == [], "no fills")
    _is_whole(us, digest, data)


def _serves_what_is_good(node: Node, digest: str, data: bytes, start: int, stop: int) -> None:
    for target in (NAME, f"/v1/blobs/{digest}"):
        whole = node.get(target)
        assert whole.status == 503
        assert int(whole.headers["Retry-After"]) > 0
        assert whole.problem()["title"] == "Service Unavailable"
        head = node.get(target, method="HEAD")
        assert head.status == 200
        assert head.headers["Content-Length"] == str(len(data))
        for first, last in ((0, 100_000), (start - 100_000, start - 1)):
            answer = node.get(target, {"Range": f"bytes={first}-{last}"})
            assert answer.status == 206
            assert answer.headers["ETag"] == f'"{digest}"'
            assert answer.body == data[first : last + 1]
        for first, last in ((start, stop - 1), (start - 1, start), (stop - 1, stop - 1), (0, stop - 1)):
            assert node.get(target, {"Range": f"bytes={first}-{last}"}).status == 503
        assert node.get(target, {"Range": f"bytes={start}-{start}", "Cache-Control": "only-if-cached"}).status == 504


@pytest.mark.soak
def test_two_that_are_damaged_in_different_places_heal_one_another(tmp_path: Path) -> None:
    with pair(tmp_path) as (us, eu):
        path = write_gguf(tmp_path / "m.gguf", "both", rows=30 << 10)
        digest = us.add(path)[0]
        assert eu.add(path) == [digest]
        manifest = manifest_of(us, digest)
        eu.stop()
        flip(blob_path(us, digest), manifest.chunk(1).offset + 9)
        flip(blob_path(eu, digest), manifest.chunk(2).offset + 9)
        assert job(us)["state"] == "failed"
        us.stop()
        eu.start(port=None)
        assert job(eu)["state"] == "failed"
        us.start(port=None)
        eventually(lambda: not fills(us) and not fills(eu), "both are whole", patience=120)
        assert blob_path(us, digest).read_bytes() == path.read_bytes() == blob_path(eu, digest).read_bytes()


def test_a_peer_that_lies_is_not_believed(tmp_path: Path) -> None:
    with pair(tmp_path) as (us, eu):
        path = write_gguf(tmp_path / "m.gguf", "lied", rows=20 << 10)
        digest = us.add(path)[0]
        assert eu.add(path) == [digest]
        data = path.read_bytes()
        eventually(lambda: _has_mirror(us, digest, "eu"), "eu is known to have it")
        bad = manifest_of(us, digest).chunk(1)
        flip(blob_path(eu, digest), bad.offset + 7)  # eu doesn't know of it yet, and says it has all of it
        flip(blob_path(us, digest), bad.offset + 5)
        failed = job(us)
        assert failed["state"] == "failed", failed
        assert "other bytes" in failed["errors"][0]["reason"]
        assert scrape(us)["aibrother_repair_wrong_answers_total"] >= 1
        assert us.get(f"/v1/blobs/{digest}").status == 503
        assert us.get(f"/v1/blobs/{digest}", {"Range": "bytes=0-99"}).body == data[:100]

        # stored anew, by a command: whole again at once, though nobody was believed
        assert us.add(path) == [digest]
        assert us.get(f"/v1/blobs/{digest}").body == data
        assert fills(us) == []
        us.stop()
        assert done(us, "verify", "--json").json["bad"] == []
        us.start(port=None)
