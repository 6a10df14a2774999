"""What several processes count, however they end, and that one answer shows it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from aibrother_node.errors import DiskFull
from aibrother_node.store.disk import Disk, DiskFile
from aibrother_node.traffic import PublicTraffic, SharedCounts, Together, Traffic, forget_counts, share_counts

if TYPE_CHECKING:
    from pathlib import Path

_COUNTS = """
import os, signal, sys
from pathlib import Path
from aibrother_node.store.disk import Disk
from aibrother_node.traffic import PublicTraffic, share_counts
assert share_counts(Path(sys.argv[1]), sys.argv[2], Disk())
traffic = PublicTraffic()
for number in range(int(sys.argv[3])):
    traffic.begun(0.002)
    traffic.ended(206, 1000 * (number + 1), cut=False)
traffic.look(1000 * int(sys.argv[3]), 2)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "metrics"
    forget_counts(made, Disk())
    return made


def count_and_die(folder: Path, name: str, answers: int) -> None:
    """Count in a process of its own that is killed at once."""
    command = [sys.executable, "-c", _COUNTS, str(folder), name, str(answers)]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL


def shown(*collectors: SharedCounts | CollectorRegistry) -> dict[str, float]:
    """All samples by name and labels, as Prometheus reads them; no family twice."""
    families = list(read_text(generate_latest(Together(*collectors)).decode()))
    assert len({one.name for one in families}) == len(families)
    return {
        one.name + "".join(f"{{{label}={value}}}" for label, value in sorted(one.labels.items())): one.value
        for family in families
        for one in family.samples
    }


PUBLIC_206 = "aibrother_http_requests_total{code=206}{plane=public}"
SENT, CONNECTIONS = "aibrother_http_sent_bytes_total", "aibrother_http_connections"
COUNT = "aibrother_http_first_byte_seconds_count"


def test_nothing_is_lost_with_a_process_and_files_do_not_grow_in_number(folder: Path) -> None:
    for _ in range(3):
        count_and_die(folder, "worker-0", 10)
    count_and_die(folder, "worker-1", 7)
    found = shown(SharedCounts(folder))
    assert (found[PUBLIC_206], found[SENT], found[COUNT]) == (37, 37_000, 37)
    assert found[CONNECTIONS] == 4, "two of the last worker-0, and two"
    files = sorted(folder.iterdir())
    assert len(files) == 2 * 3
    assert {path.stat().st_size for path in files} == {1 << 16}
    assert all(path.stat().st_blocks * 512 >= 1 << 16 for path in files), "their room is there"


def test_a_start_begins_at_zero(folder: Path) -> None:
    count_and_die(folder, "worker-0", 1)
    (folder / "what.db").mkdir()
    forget_counts(folder, Disk())
    assert list(folder.iterdir()) == []
    assert shown(SharedCounts(folder)) == {}
    count_and_die(folder, "worker-0", 2)
    assert shown(SharedCounts(folder))[PUBLIC_206] == 2


@pytest.mark.parametrize(
    "damage",
    [b"", b"\0\0\x10\0" + b"\x7f" * 200, b"\x40\0\0\0\0\0\0\0" + b"\xff" * 200],
    ids=["empty", "long", "nonsense"],
)
def test_damaged_files_hide_nothing_else_and_are_made_anew(
    folder: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    count_and_die(folder, "worker-0", 1)
    count_and_die(folder, "worker-1", 2)
    (folder / "counter_worker-0.db").write_bytes(damage)
    shared = SharedCounts(folder)
    for _ in range(3):
        assert shown(shared)[PUBLIC_206] == 2
    assert len([one for one in caplog.records if "counter_worker-0.db" in one.getMessage()]) == 1, "said once"
    count_and_die(folder, "worker-0", 5)
    assert shown(shared)[PUBLIC_206] == 7


class _Full(Disk):
    def create(self, path: Path, mode: int = 0o600) -> DiskFile:
        raise DiskFull(f"no space left to write {path}")

    def make_folder(self, path: Path, mode: int = 0o755) -> None:
        raise DiskFull(f"no space left to write {path}")


def test_where_there_is_no_room_a_worker_counts_for_itself(folder: Path) -> None:
    before = dict(os.environ)
    assert share_counts(folder, "worker-0", _Full()) is False
    forget_counts(folder, _Full())
    assert share_counts(folder, "worker-0", Disk()) is False, "there is no folder"
    assert dict(os.environ) == before
    registry = CollectorRegistry()
    traffic = PublicTraffic(registry)
    traffic.ended(200, 10, cut=True)
    traffic.ended(200, 30, cut=False)
    traffic.look(35, 3)
    found = shown(registry)
    assert found["aibrother_http_requests_total{code=200}{plane=public}"] == 2
    assert (found[SENT], found["aibrother_http_bodies_cut_total"], found[CONNECTIONS]) == (35, 1, 3)


def test_one_family_of_several_collectors_is_shown_once(folder: Path) -> None:
    count_and_die(folder, "worker-0", 3)
    own = CollectorRegistry()
    Gauge("aibrother_else", "Something else.", registry=own).set(1)
    Counter("aibrother_more", "More.", registry=own)
    count = Traffic(own).count_for("control")
    for status in (200, 404, 200):
        count(status)
    together = Together(own, SharedCounts(folder))
    found = shown(own, SharedCounts(folder))
    assert found["aibrother_http_requests_total{code=200}{plane=control}"] == 2
    assert found["aibrother_http_requests_total{code=404}{plane=control}"] == 1
    assert (found[PUBLIC_206], found["aibrother_else"]) == (3, 1)
    families = list(read_openmetrics(generate_openmetrics(together).decode()))  # type: ignore[no-untyped-call]
    assert {"aibrother_http_requests", "aibrother_http_first_byte_seconds", "aibrother_else"} <= {
        one.name for one in families
    }
