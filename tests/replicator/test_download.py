"""Downloads from real sockets: honest, lying, dying and dripping sources, kill -9, and what is on disk afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from aibrother_node.content.digest import Digest
from aibrother_node.errors import DiskFull, InvalidInput, NotFound, Refused, Temporary, VerificationFailed
from aibrother_replicator.download import Event, Options, Result, download, plan
from aibrother_replicator.http_source import Timeouts
from aibrother_replicator.partial import Partial
from aibrother_replicator.schedule import Policy
from replicator.sources import Behaviour, Server, certificate, even_lengths, manifest_of, serving, urls, wait_until

if TYPE_CHECKING:
    from pathlib import Path

CHUNK = 256 << 10
DATA = random.Random(4).randbytes(20 * CHUNK + 1234)
DIGEST = Digest(hashlib.sha256(DATA).digest())
MANIFEST = manifest_of(DATA, even_lengths(len(DATA), CHUNK))
QUICK = Options(policy=Policy(backoff=0.02, backoff_limit=0.1), timeouts=Timeouts(connect=2.0, stall=0.5))
SMALL_RUNS = replace(QUICK, policy=replace(QUICK.policy, run_bytes=CHUNK))


def honest(**more: Any) -> Behaviour:
    return Behaviour(DATA, manifest=MANIFEST.encode(), **more)


class Pull:
    """One download, and what it told."""

    def __init__(self, folder: Path, digest: Digest = DIGEST) -> None:
        self.folder = folder
        self.target = folder / "model.gguf"
        self.digest = digest
        self.events: list[Event] = []

    def run(self, sources: list[Server] | list[str], options: Options = QUICK) -> Result:
        bases = [source.url if isinstance(source, Server) else source for source in sources]
        return download(self.digest, bases, self.target, options, self.events.append)

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["event"] == kind]

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def pull(tmp_path: Path) -> Pull:
    return Pull(tmp_path)


def assert_right(pull: Pull, data: bytes = DATA) -> None:
    assert pull.target.read_bytes() == data
    assert pull.names() == ["model.gguf"]


# Honest sources


def test_a_blob_arrives_verified(pull: Pull) -> None:
    with serving(honest()) as servers:
        result = pull.run(servers)
    assert_right(pull)
    assert (result.path, result.sha256, result.size) == (pull.target, DIGEST, len(DATA))
    assert (result.fetched, result.reused) == (len(DATA), 0)
    assert [(report.bytes, report.errors) for report in result.sources] == [(len(DATA), 0)]
    assert pull.of("start")[0] == {
        "event": "start",
        "sha256": DIGEST.hex,
        "size": len(DATA),
        "manifest": True,
        "reused": 0,
    }
    assert pull.of("progress")[-1] == {
        "event": "progress",
        "done": len(DATA),
        "total": len(DATA),
        "fetched": len(DATA),
    }


def test_progress_never_goes_backwards(pull: Pull) -> None:
    with serving(honest(rate=1_000_000.0)) as servers:
        pull.run(servers)
    done = [event["done"] for event in pull.of("progress")]
    assert done == sorted(done)
    assert len(done) > 2


def test_several_sources_share_the_work(pull: Pull) -> None:
    with serving(honest(rate=5e6), honest(rate=5e6), honest(rate=5e6)) as servers:
        result = pull.run(servers, SMALL_RUNS)
    assert_right(pull)
    assert all(report.bytes > 0 for report in result.sources)
    assert result.fetched == len(DATA)


@pytest.mark.parametrize("lengths", [[len(DATA)], [1] * 50 + [len(DATA) - 50], even_lengths(len(DATA), 1000)])
def test_chunks_of_any_length(pull: Pull, lengths: list[int]) -> None:
    with serving(Behaviour(DATA, manifest=manifest_of(DATA, lengths).encode())) as [server]:
        pull.run([server])
        assert len(server.ranges) < 60
    assert_right(pull)


def test_a_blob_of_no_bytes(tmp_path: Path) -> None:
    pull = Pull(tmp_path, Digest(hashlib.sha256(b"").digest()))
    with serving(Behaviour(b"", manifest=manifest_of(b"", []).encode()), Behaviour(b"")) as [with_manifest, without]:
        for server in (with_manifest, without):
            result = pull.run([server])
            assert (result.size, result.fetched) == (0, 0)
            assert_right(pull, b"")
            pull.target.unlink()


def test_without_a_manifest_the_whole_decides(pull: Pull) -> None:
    with serving(Behaviour(DATA), Behaviour(DATA)) as servers:
        result = pull.run(servers)
    assert_right(pull)
    assert result.fetched == len(DATA)
    assert pull.of("start")[0]["manifest"] is False


def test_https(pull: Pull, tmp_path_factory: pytest.TempPathFactory) -> None:
    context, trusted = certificate(tmp_path_factory.mktemp("tls"))
    with Server(honest(), tls=context) as server:
        with pytest.raises(Refused, match="certificate"):
            pull.run([server])
        pull.run([server], replace(QUICK, context=ssl.create_default_context(cafile=trusted)))
    assert_right(pull)


def test_a_rate_is_held(pull: Pull) -> None:
    before = time.monotonic()
    with serving(honest()) as servers:
        pull.run(servers, replace(QUICK, limit_rate=4 * len(DATA)))
    assert 0.2 < time.monotonic() - before < 1.5
    assert_right(pull)


def test_a_target_that_is_right_costs_nothing(pull: Pull) -> None:
    pull.target.write_bytes(DATA)
    result = pull.run(["http://127.0.0.1:9"])
    assert (result.fetched, result.reused) == (0, len(DATA))


def test_a_target_that_is_wrong_is_replaced_at_the_end_only(pull: Pull) -> None:
    pull.target.write_bytes(b"old")
    seen: list[bytes] = []
    with serving(honest()) as servers:
        download(DIGEST, urls(servers), pull.target, QUICK, lambda _: seen.append(pull.target.read_bytes()))
    assert set(seen) == {b"old"}
    assert_right(pull)


def test_a_target_that_is_wrong_stays_when_no_source_is_right(pull: Pull) -> None:
    pull.target.write_bytes(b"old")
    with serving(honest(flip={5: 99})) as servers, pytest.raises(VerificationFailed):
        pull.run(servers)
    assert_right(pull, b"old")


def test_a_plan_changes_nothing(pull: Pull) -> None:
    with serving(honest(), Behaviour(DATA)) as [with_manifest, without]:
        for server in (with_manifest, without):
            planned = plan(DIGEST, [server.url], pull.target, QUICK)
            assert (planned.size, planned.fetch, planned.disk) == (len(DATA), len(DATA), len(DATA))
    assert pull.names() == []


# Corrupt sources


def test_a_corrupt_chunk_is_named_and_fetched_again_from_another_source(pull: Pull) -> None:
    at = 12 * CHUNK + 99
    wrong = bytearray(DATA[12 * CHUNK : 13 * CHUNK])
    wrong[99] ^= 0xFF
    with serving(honest(flip={at: 1000}), honest(rate=2e5)) as [bad, good]:
        result = pull.run([bad, good], SMALL_RUNS)
        assert_right(pull)
        events = pull.of("corrupt")
        assert events[0] == {
            "event": "corrupt",
            "chunk": 12,
            "url": bad.url,
            "expected": f"sha256:{hashlib.sha256(DATA[12 * CHUNK : 13 * CHUNK]).hexdigest()}",
            "actual": f"sha256:{hashlib.sha256(wrong).hexdigest()}",
            "offset": 12 * CHUNK,
            "length": CHUNK,
        }
        assert len(events) == 1
        assert sum(start <= at < stop for start, stop in good.ranges) == 1
        assert [report.errors for report in result.sources] == [1, 0]
        assert result.fetched == len(DATA) + CHUNK


def test_a_chunk_that_was_corrupt_once_is_fetched_again_from_the_only_source(pull: Pull) -> None:
    with serving(honest(flip={3 * CHUNK: 1})) as servers:
        pull.run(servers)
    assert_right(pull)
    assert [event["chunk"] for event in pull.of("corrupt")] == [3]


@pytest.mark.parametrize("manifest", [MANIFEST.encode(), None])
def test_a_single_corrupt_source_fails_and_nothing_is_kept(pull: Pull, manifest: bytes | None) -> None:
    with serving(Behaviour(DATA, manifest=manifest, flip={len(DATA) - 1: 1000})) as servers:
        with pytest.raises(VerificationFailed) as caught:
            pull.run(servers)
    assert pull.names() == []
    assert caught.value.expected == str(DIGEST)
    assert servers[0].url in str(caught.value)


def test_without_manifests_each_source_is_tried_alone(pull: Pull) -> None:
    with serving(Behaviour(DATA, flip={5: 1000}), Behaviour(DATA)) as servers:
        pull.run(servers)
    assert_right(pull)


def test_without_manifests_two_corrupt_sources_fail(pull: Pull) -> None:
    with serving(Behaviour(DATA, flip={5: 1000}), Behaviour(DATA, flip={9: 1000})) as servers:
        with pytest.raises(VerificationFailed):
            pull.run(servers)
    assert pull.names() == []


def lying(data: bytes) -> Behaviour:
    """A source whose manifest and bytes agree, of another file."""
    manifest = manifest_of(data, even_lengths(len(data), CHUNK), blob=DIGEST)
    return Behaviour(data, manifest=manifest.encode())


OTHER = DATA[: 10 * CHUNK] + b"trojan" + DATA[10 * CHUNK + 6 :]


@pytest.mark.parametrize("other", [OTHER, b"short", DATA + b"more"])
def test_a_lying_manifest_alone_fails(pull: Pull, other: bytes) -> None:
    with serving(lying(other)) as servers, pytest.raises(VerificationFailed):
        pull.run(servers)
    assert pull.names() == []
    assert "the whole is" in pull.of("manifest_rejected")[0]["reason"]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("other", [OTHER, b"short", DATA + b"more"])
def test_a_lying_manifest_beside_an_honest_one(pull: Pull, other: bytes, order: int) -> None:
    with serving(lying(other), honest()) as servers:
        pull.run(servers[::order])
    assert_right(pull)


def test_a_lying_manifest_beside_an_honest_source_without_one(pull: Pull) -> None:
    with serving(lying(OTHER), Behaviour(DATA)) as servers:
        pull.run(servers)
    assert_right(pull)


def test_a_broken_manifest_beside_honest_sources(pull: Pull) -> None:
    hashes = bytearray(MANIFEST.sha256)
    hashes[40] ^= 1
    broken = replace(MANIFEST, sha256=bytes(hashes)).encode()
    with serving(Behaviour(DATA, manifest=broken), Behaviour(DATA)) as servers:
        pull.run(servers)
    assert_right(pull)


@pytest.mark.parametrize(
    "manifest", [b"", b"<html>", manifest_of(b"other", [5]).encode(), MANIFEST.encode() + b"x", bytes(1000)]
)
def test_what_is_no_manifest_of_this_blob_is_not_used(pull: Pull, manifest: bytes) -> None:
    with serving(Behaviour(DATA, manifest=manifest)) as servers:
        pull.run(servers)
    assert_right(pull)
    assert pull.of("manifest_rejected")
    assert pull.of("start")[0]["manifest"] is False


# Sources that break


@pytest.mark.parametrize(
    "trouble",
    [
        {"truncate": 10},
        {"html": True},
        {"ignore_range": True},
        {"shift": 3},
        {"total": 99},
        {"endless": True},
        {"coding": "gzip"},
        {"reset_after": 3 * CHUNK},
        {"status": 404},
        {"status": 500},
        {"status": 429, "retry_after": "3600"},
        {"redirect": "self"},
        {"drip": 0.2},
    ],
    ids=lambda trouble: ",".join(trouble),
)
def test_trouble_at_one_source_is_made_good_by_another(pull: Pull, trouble: dict[str, Any]) -> None:
    with serving(honest(**trouble), honest()) as servers:
        pull.run(servers, SMALL_RUNS)
    assert_right(pull)


def test_a_source_that_dies_in_the_middle(pull: Pull) -> None:
    with serving(honest(rate=4e5), honest(rate=4e5)) as [dying, staying]:
        threading.Timer(0.5, dying.close).start()
        result = pull.run([dying, staying], SMALL_RUNS)
    assert_right(pull)
    assert result.sources[0].bytes > 0
    assert pull.of("source_error")


def test_a_source_that_resets_comes_back(pull: Pull) -> None:
    with serving(honest(reset_heads=3, truncate=5)) as [server]:
        threading.Timer(0.1, lambda: setattr(server.behaviour, "truncate", 0)).start()
        pull.run([server])
    assert_right(pull)


def test_a_busy_source_is_asked_again(pull: Pull) -> None:
    with serving(honest(statuses=[429, 503], retry_after="1")) as servers:
        before = time.monotonic()
        pull.run(servers)
    assert time.monotonic() - before >= 1.0
    assert_right(pull)


def test_a_stalled_tail_is_fetched_twice(pull: Pull) -> None:
    options = replace(QUICK, timeouts=Timeouts(stall=60.0), policy=replace(QUICK.policy, hedge_after=0.3))
    with serving(honest(stall_at=len(DATA) - 1)) as servers:
        before = time.monotonic()
        pull.run(servers, options)
    assert time.monotonic() - before < 10
    assert_right(pull)


def test_nobody_has_it(pull: Pull) -> None:
    with serving(Behaviour(DATA, status=404), Behaviour(DATA, status=410)) as servers, pytest.raises(NotFound):
        pull.run(servers)
    assert pull.names() == []


def test_nobody_gives_it(pull: Pull) -> None:
    with serving(Behaviour(DATA, status=403), Behaviour(DATA, status=404)) as servers, pytest.raises(Refused):
        pull.run(servers)
    assert pull.names() == []


def test_nobody_answers(pull: Pull) -> None:
    with serving(honest()) as [server]:
        url = server.url
    with pytest.raises(Temporary):
        pull.run([url])
    assert pull.names() == []


def test_everybody_is_busy_for_long(pull: Pull) -> None:
    with serving(honest(status=429, retry_after="500")) as servers, pytest.raises(Temporary) as caught:
        pull.run(servers)
    assert caught.value.retry_after == 500


@pytest.mark.parametrize("trouble", [{"html": True}, {"ignore_range": True}, {"endless": True}, {"total": 7}])
def test_a_single_source_that_never_answers_right(pull: Pull, trouble: dict[str, Any]) -> None:
    with serving(honest(**trouble)) as servers, pytest.raises(VerificationFailed):
        pull.run(servers)
    assert not pull.target.exists()


def test_a_corrupt_and_an_absent_source_may_be_right_later(pull: Pull) -> None:
    with serving(honest(flip={5: 1000}), honest(status=500)) as servers, pytest.raises(Temporary):
        pull.run(servers)
    assert pull.names() == ["model.gguf.part", "model.gguf.part.have"]


def test_the_disk_is_full(pull: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Partial.write

    def full(self: Partial, view: memoryview, offset: int) -> None:
        if offset > 5 * CHUNK:
            raise DiskFull("no space left")
        written(self, view, offset)

    monkeypatch.setattr(Partial, "write", full)
    with serving(honest()) as servers:
        with pytest.raises(DiskFull):
            pull.run(servers, SMALL_RUNS)
        monkeypatch.undo()
        assert pull.run(servers).reused > 0
    assert_right(pull)


@pytest.mark.parametrize("sources", [[], ["ftp://x"], [""]])
def test_sources_that_are_none(pull: Pull, sources: list[str]) -> None:
    with pytest.raises(InvalidInput):
        pull.run(sources)


def test_a_folder_can_not_be_the_target(pull: Pull) -> None:
    pull.target.mkdir()
    with pytest.raises(InvalidInput):
        pull.run(["http://127.0.0.1:9"])


# Interrupted downloads

LARGE = random.Random(5).randbytes(24 << 20)
LARGE_DIGEST = Digest(hashlib.sha256(LARGE).digest())
LARGE_MANIFEST = manifest_of(LARGE, even_lengths(len(LARGE), CHUNK))
PROGRAM = """
import json, pathlib, re, sys
from aibrother_node.content.digest import Digest
from aibrother_replicator.download import download
result = download(Digest.parse(sys.argv[1]), [sys.argv[2]], pathlib.Path(sys.argv[3]))
# getrusage's maximum would be that of the process which forked this one
peak = int(re.search("VmHWM:\\s+([0-9]+) kB", pathlib.Path("/proc/self/status").read_text())[1]) << 10
print(json.dumps({"fetched": result.fetched, "peak": peak}))
"""


def start(digest: Digest, url: str, target: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(digest), url, str(target)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("manifest", [LARGE_MANIFEST.encode(), None], ids=["manifest", "pieces"])
def test_kill_at_any_instant_then_resume(tmp_path: Path, manifest: bytes | None) -> None:
    rng = random.Random(6)
    pull = Pull(tmp_path, LARGE_DIGEST)
    with serving(Behaviour(LARGE, manifest=manifest, rate=3e6)) as [server]:
        for number in range(5 if manifest else 1):
            process = start(LARGE_DIGEST, server.url, pull.target)
            wait_until(lambda: server.ranges)
            if number == 4:  # once surely after runs were stored, however busy the machine is
                wait_until(lambda: len(server.ranges) > 20)
            time.sleep(rng.uniform(0.0, 0.4))
            process.kill()
            process.communicate()
            assert process.returncode == -signal.SIGKILL
            assert not pull.target.exists()
            server.requests.clear()
        server.behaviour.rate = None
        result = pull.run([server])
    assert_right(pull, LARGE)
    if manifest:
        assert result.reused > 0
        assert result.fetched == len(LARGE) - result.reused


def test_interrupt_leaves_a_resumable_state(tmp_path: Path) -> None:
    pull = Pull(tmp_path, LARGE_DIGEST)
    with serving(Behaviour(LARGE, manifest=LARGE_MANIFEST.encode(), rate=2e6)) as [server]:
        process = start(LARGE_DIGEST, server.url, pull.target)
        part = tmp_path / "model.gguf.part"
        wait_until(lambda: len(server.ranges) > 20)
        process.send_signal(signal.SIGINT)
        before = time.monotonic()
        _, errors = process.communicate(timeout=10)
        assert time.monotonic() - before < 3
        assert b"KeyboardInterrupt" in errors
        assert part.exists()
        with Partial(LARGE_DIGEST, pull.target) as partial:
            saved = partial.saved()
            assert saved is not None
            assert saved.have
        server.behaviour.rate = None
        planned = plan(LARGE_DIGEST, [server.url], pull.target)
        assert 0 < planned.fetch < planned.size
        result = pull.run([server])
    assert_right(pull, LARGE)
    assert 0 < result.fetched < len(LARGE)


def test_resuming_believes_nothing_on_disk(pull: Pull) -> None:
    with serving(honest(status=None)) as [server]:
        with Partial(DIGEST, pull.target) as partial:
            partial.begin(len(DATA), MANIFEST.lengths, MANIFEST.encode())
            partial.write(memoryview(DATA[: 5 * CHUNK]), 0)
            partial.write(memoryview(b"wrong"), 2 * CHUNK)
            partial.mark(range(20))
            partial.sync()
        result = pull.run([server])
    assert_right(pull)
    assert (result.reused, result.fetched) == (4 * CHUNK, len(DATA) - 4 * CHUNK)


def test_two_downloads_of_one_target_do_not_mix(pull: Pull) -> None:
    with serving(honest()) as servers, Partial(DIGEST, pull.target):
        with pytest.raises(Temporary, match="another download"):
            pull.run(servers)


def test_state_in_a_folder_of_its_own(pull: Pull, tmp_path_factory: pytest.TempPathFactory) -> None:
    state = tmp_path_factory.mktemp("state") / "deep"
    with serving(honest()) as servers:
        pull.run(servers, replace(QUICK, state=state))
    assert_right(pull)
    assert list(state.iterdir()) == []


# Resources


def test_memory_does_not_grow_with_the_blob(tmp_path: Path) -> None:
    peaks = []
    for number, size in enumerate((16 << 20, 256 << 20)):
        data = bytes(size)
        digest = Digest(hashlib.sha256(data).digest())
        manifest = manifest_of(data, even_lengths(size, 8 << 20))
        with serving(Behaviour(data, manifest=manifest.encode())) as [server]:
            process = start(digest, server.url, tmp_path / str(number))
            output, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
            peaks.append(json.loads(output)["peak"])
    # eight connections with memory for a chunk of 8 MiB each, and the program
    assert peaks[1] < 128 << 20
    assert peaks[1] - peaks[0] < 64 << 20


def test_nothing_stays_open(pull: Pull) -> None:
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    with serving(honest(flip={5: 1}), honest(reset_after=CHUNK)) as servers:
        pull.run(servers, SMALL_RUNS)
    wait_until(lambda: threading.active_count() <= before[1])
    assert len(os.listdir("/proc/self/fd")) == before[0]
