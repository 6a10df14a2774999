"""The mark of a drained node: what stays, and what every process sees of it."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

import pytest

from aibrother_node.errors import DiskFull
from aibrother_node.store.disk import Disk, DiskFile
from aibrother_node.store.draining import MAX_REASON, Drained, DrainFlag, drain, drained, restore, undrain
from aibrother_node.store.layout import Layout

if TYPE_CHECKING:
    from pathlib import Path

NOW, LATER = "2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "data")
    made.create(Disk())
    return made


def test_it_stays_until_it_is_taken_back(layout: Layout) -> None:
    looking = DrainFlag(layout)
    assert (drained(layout), looking.is_up()) == (None, False)
    assert undrain(layout, Disk()) is False
    assert drain(layout, Disk(), NOW, "a new disk") == Drained(NOW, "a new disk")
    assert looking.is_up()
    assert drain(layout, Disk(), LATER) == Drained(NOW, "a new disk"), "since the first time"
    assert drain(layout, Disk(), LATER, "two disks") == drained(layout) == Drained(NOW, "two disks")
    layout.drain_flag.unlink()
    assert DrainFlag(layout).is_up(), "whoever finds no flag makes it as the file says"
    assert restore(layout)
    assert undrain(layout, Disk()) is True
    assert (drained(layout), DrainFlag(layout).is_up()) == (None, False)


def _say(layout: Layout) -> None:
    drain(layout, Disk(), NOW)


def test_other_processes_see_it_at_once(layout: Layout) -> None:
    looking = DrainFlag(layout)
    other = multiprocessing.get_context("spawn").Process(target=_say, args=(layout,))
    other.start()
    other.join(60)
    assert (other.exitcode, looking.is_up()) == (0, True)


def test_a_start_believes_the_file_and_not_what_the_last_run_left(layout: Layout) -> None:
    drain(layout, Disk(), NOW)
    layout.drained.unlink()
    looking = DrainFlag(layout)
    assert looking.is_up()
    assert restore(layout) is False
    assert not looking.is_up()


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{", b'{"since": 1, "reason": null}', b"x" * (1 << 20)])
def test_a_file_that_nobody_understands_keeps_the_node_drained(layout: Layout, content: bytes) -> None:
    layout.drained.write_bytes(content)
    assert drained(layout) == Drained("", "")
    assert restore(layout)
    assert drain(layout, Disk(), NOW, "r" * 10_000) == Drained(NOW, "r" * MAX_REASON) == drained(layout)


class _Full(Disk):
    def create(self, path: Path, mode: int = 0o600) -> DiskFile:
        raise DiskFull(f"no space left to write {path}")


def test_a_full_disk_changes_nothing_and_undraining_needs_no_room(layout: Layout) -> None:
    looking = DrainFlag(layout)
    with pytest.raises(DiskFull):
        drain(layout, _Full(), NOW)
    assert (drained(layout), looking.is_up()) == (None, False)
    drain(layout, Disk(), NOW)
    assert undrain(layout, _Full())
    assert not looking.is_up()
