"""Collection on running nodes: what goes, what stays and why, and what never happens."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from importlib import resources
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

import counts
from e2e.fleets import know_each_other, make_member, scrape
from e2e.harness import Node, eventually
from e2e.publishing import done, publish, publish_all, signing_node, write_gguf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCHEMA = json.loads((resources.files("aibrother_tools") / "data/schemas/gc.json").read_text())


def blobs(node: Node) -> set[str]:
    return {path.name for path in (node.data / "blobs/sha256").iterdir()}


def digests_of(entry: Any) -> set[str]:
    """The blob of a release and its manifests."""
    return {
        digest.removeprefix("sha256:")
        for part in entry["parts"]
        for digest in (part["sha256"], part["chunks"], part["pieces"])
    }


def collect(node: Node) -> Any:
    """Collect, and wait for the end; returns what came of it."""
    result = node.command("gc", "--watch", "--json")
    assert result.code == 0, result
    return json.loads(result.out.splitlines()[-1])


def job_states(node: Node) -> set[str]:
    """How the jobs are that collect."""
    return {job["state"] for job in done(node, "jobs", "--json").json["jobs"] if job["kind"] == "gc"}


def dry_run(node: Node) -> dict[str, tuple[str, str]]:
    """What would become of each blob, and why."""
    report = done(node, "gc", "--dry-run", "--json").json
    jsonschema.validate(report, SCHEMA)
    return {one["digest"].removeprefix("sha256:"): (one["verdict"], one["reason"]) for one in report["blobs"]}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = signing_node(tmp_path_factory.mktemp("signer"), **{"store.gc_grace": "0s"})
    try:
        yield node.start()
        node.stop()
    finally:
        node.discard()


def test_what_nothing_names_goes_with_its_manifests_and_nothing_else_does(node: Node, tmp_path: Path) -> None:
    old = publish(node, write_gguf(tmp_path / "old.gguf", "old"), "a:f32@1")
    bad = publish(node, write_gguf(tmp_path / "bad.gguf", "bad"), "b:f32@1")
    new = publish(node, write_gguf(tmp_path / "new.gguf", "new"), "a:f32@2")
    staged = publish(node, write_gguf(tmp_path / "staged.gguf", "staged"), "c:f32@1", "--channel", "staging")
    (tmp_path / "pinned").write_bytes(b"pinned" * 1000)
    (tmp_path / "loose").write_bytes(b"loose" * 1000)
    (pinned,) = node.add(tmp_path / "pinned")
    (loose,) = node.add("--no-pin", tmp_path / "loose")
    everything = blobs(node)
    assert collect(node)["result"]["removed"] == 0, "all of it is named, pinned or leased"

    done(node, "retire", "a", "--keep", "1")
    done(node, "yank", "b", "--reason", "wrong")
    told = dry_run(node)
    assert told.keys() == everything
    gone = {digest for digest, (verdict, _) in told.items() if verdict == "removed"}
    assert gone == digests_of(old) | digests_of(bad)
    assert {told[digest][1] for digest in gone} == {"nothing names it"}
    assert told[new["sha256"]] == ("kept", "models/a-2-f32.gguf names it")
    assert told[staged["sha256"]][1].startswith("staging/c-1-f32.gguf names it; the policy doesn't want it")
    assert told[pinned.removeprefix("sha256:")] == ("kept", 'pinned ("added by hand")')
    assert told[loose.removeprefix("sha256:")][1].startswith("leased by add ")
    manifest = new["chunks"].removeprefix("sha256:")
    assert told[manifest][1] == f"describes sha256:{new['sha256']}, which stays: models/a-2-f32.gguf names it"
    assert blobs(node) == everything, "a dry run removes nothing"

    job = collect(node)
    assert blobs(node) == everything - gone
    assert (job["result"]["removed"], job["objects"]["done"]) == (len(gone), len(gone))
    assert node.get(f"/v1/blobs/sha256:{old['sha256']}").status in (404, 410)
    assert node.get("/models/b-1-f32.gguf").status == 410
    assert node.get("/models/a-f32.gguf").status == 200
    assert done(node, "verify", "--help").code == 0
    totals = done(node, "status", "--json").json["store"]
    assert totals["blobs"] == len(blobs(node))

    refused = node.command("unyank", "b")
    assert refused.code == 4, "its blob is gone"
    assert "not stored here" in refused.err
    assert scrape(node)["aibrother_store_marked_blobs"] == 0

    done(node, "publish", tmp_path / "bad.gguf", "--name", "d", "--variant", "f32", "--version", "1")  # brought again
    done(node, "unyank", "b")
    assert node.get("/models/b-1-f32.gguf").status == 200


def test_publishing_and_collection_in_a_race_never_leave_a_name_without_its_blob(node: Node, tmp_path: Path) -> None:
    ended = threading.Event()

    def collect_again_and_again() -> None:
        while not ended.is_set():
            collect(node)

    collecting = threading.Thread(target=collect_again_and_again)
    collecting.start()
    try:
        for number in range(counts.rounds(2, 40)):
            path = write_gguf(tmp_path / "r.gguf", f"race {number % 2}", rows=16)
            publish(node, path, f"race:f32@{number}")
            for entry in done(node, "list", "--json").json["models"]:
                missing = digests_of(entry) - blobs(node)
                assert not missing, f"{entry['name']}@{entry['version']} is named, and {missing} is not here"
            done(node, "retire", f"race:f32@{number}")
    finally:
        ended.set()
        collecting.join(60)


def test_a_crowd_that_reads_what_is_collected_reads_it_to_its_end(node: Node, tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * 48
    (tmp_path / "large").write_bytes(data)
    (digest,) = node.add(tmp_path / "large")
    crowd = []
    for _ in range(8):
        connection = node.connect()
        connection.request("GET", f"/v1/blobs/{digest}")
        crowd.append((connection, connection.getresponse()))
    done(node, "unpin", digest)
    assert collect(node)["result"]["bytes"] >= len(data)
    assert digest.removeprefix("sha256:") not in blobs(node)
    assert node.get(f"/v1/blobs/{digest}", {"Range": "bytes=0-9"}).status == 404
    for connection, response in crowd:
        assert hashlib.sha256(response.read()).hexdigest() == digest.removeprefix("sha256:")
        connection.close()
    worker = node.child()

    def closed() -> bool:
        names = (os.readlink(f"/proc/{worker}/fd/{fd}") for fd in os.listdir(f"/proc/{worker}/fd") if fd.isdecimal())
        return not any(digest.removeprefix("sha256:") in name for name in names)

    eventually(closed, "the worker lets go of it, and its room is given back")


def test_a_grace_is_waited_for(tmp_path: Path) -> None:
    node = signing_node(tmp_path / "node", **{"store.gc_grace": "7d"})
    entry = publish(node, write_gguf(tmp_path / "a.gguf", "a"), "a:f32@1")
    done(node, "yank", "a", "--reason", "wrong")
    assert node.command("gc").code == 75, "no node runs"
    try:
        node.start()
        job = collect(node)
        assert (job["result"]["removed"], job["result"]["marked"]) == (0, len(digests_of(entry)))
        assert digests_of(entry) <= blobs(node)
        marked = dry_run(node)[entry["sha256"]]
        assert marked[0] == "marked"
        assert "removed after" in marked[1]
        done(node, "unyank", "a")
        collect(node)
        assert dry_run(node)[entry["sha256"]] == ("kept", "models/a-1-f32.gguf names it")
        assert node.command("gc", "--dry-run", "--watch").code == 2
        node.stop()
    finally:
        node.discard()


def test_two_nodes_that_evict_at_once_never_both_lose_a_blob(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"store.copies": 1, "store.gc_grace": "0s"}
    us = make_member(tmp_path / "us", **settings)
    eu = None
    try:
        us.start(port=None)
        eu = make_member(tmp_path / "eu", us, region="eu", **settings)
        files = {f"m{n}:f32@1": write_gguf(tmp_path / f"{n}.gguf", str(n), rows=64) for n in range(16)}
        entries = publish_all(us, files)
        named = {entry["sha256"] for entry in entries}
        us.stop()
        # what replication will do: the other one has all of it, too
        for path in (us.data / "blobs/sha256").iterdir():
            os.link(path, eu.data / "blobs/sha256" / path.name)
        for node in (us, eu):
            node.configure(store__max_size="64 KiB")
            node.start(port=None)
        know_each_other(us, eu)
        eventually(lambda: len(done(eu, "list", "--json").json["models"]) == 16, "it follows the catalog")

        nodes = (us, eu)
        jobs: list[Any] = []
        both = [threading.Thread(target=lambda node=node: jobs.append(collect(node))) for node in nodes]
        for one in both:
            one.start()
        for one in both:
            one.join(60)
        assert len(jobs) == 2
        assert named <= blobs(us) | blobs(eu)
        evicted = [named - blobs(node) for node in nodes]
        assert not evicted[0] & evicted[1]
        assert evicted[0] | evicted[1] == named, "each has gone from the node that doesn't keep it"
        told = dry_run(us)
        for digest in named & blobs(us):
            assert told[digest] == ("kept", "over max_size, but this node is one of those that keep it")
        for entry in entries:  # the manifests of what is named stay: they are small, and a fill begins with them
            assert digests_of(entry) - named <= blobs(us)

        # a cache evicts by itself what was asked for the longest time ago, where the mirror confirms that it keeps it
        for node in nodes:
            node.stop()
        asked, lost = sorted(named)[:8], sorted(named)[8:12]
        for digest in named:
            have = next(node for node in nodes if digest in blobs(node)).data / "blobs/sha256" / digest
            for node in nodes:
                if digest not in blobs(node):
                    os.link(have, node.data / "blobs/sha256" / digest)
        for digest in lost:
            (us.data / "blobs/sha256" / digest).unlink()
        us.configure(store__max_size="auto")
        used = sum(path.stat().st_size for path in (eu.data / "blobs/sha256").iterdir())
        eu.configure(store__mode="cache", store__max_size=f"{used - 4 * entries[0]['size_bytes']} B")
        for node in nodes:
            node.start(port=None)
        know_each_other(us, eu)
        for digest in asked:
            eu.get(f"/v1/blobs/sha256:{digest}", {"Range": "bytes=0-0"})
        eventually(lambda: len(named - blobs(eu)) >= 4, "it makes room by itself", 40.0)
        eventually(lambda: job_states(eu) == {"done"}, "the job ends")
        assert named - blobs(eu) == set(sorted(named)[12:]), "not what was asked for, nor what the mirror has lost"
        for node in nodes:
            node.stop()
    finally:
        us.discard()
        if eu is not None:
            eu.discard()


@pytest.mark.parametrize("kills", [1, pytest.param(40, marks=pytest.mark.soak)])
def test_collection_that_is_killed_goes_on(tmp_path: Path, kills: int) -> None:
    node = signing_node(tmp_path / "node", **{"store.gc_grace": "0s"})
    entry = publish(node, write_gguf(tmp_path / "a.gguf", "a"), "a:f32@1")
    kept = digests_of(entry)
    try:
        node.start()
        for round_ in range(kills):
            for number in range(200):  # what nothing describes gets a manifest when the node starts, or none in time
                data = f"{round_} {number}".encode()
                (node.data / "blobs/sha256" / hashlib.sha256(data).hexdigest()).write_bytes(data)
            control = node.child("control")
            os.kill(control, signal.SIGKILL)  # the next one finds them
            node.successor("control", control)
            eventually(lambda: node.command("gc").code == 0, "it can be asked")
            time.sleep(0.05 * (round_ % 5))
            control = node.child("control")
            os.kill(control, signal.SIGKILL)
            node.successor("control", control)
            eventually(lambda: node.command("jobs").code == 0, "it answers again")
            eventually(lambda: job_states(node) <= {"done"}, "the job goes on and ends")
            eventually(lambda: collect(node)["result"]["marked"] == 0 and blobs(node) == kept, "all of it goes")
            assert node.get("/models/a-1-f32.gguf").status == 200
            assert done(node, "status", "--json").json["store"]["blobs"] == len(kept)
        node.stop()
    finally:
        node.discard()
