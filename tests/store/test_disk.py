"""Writing that is to be on the disk soon: the same bytes wherever they lie, and whatever the kernel can."""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import random
from typing import TYPE_CHECKING

import pytest

from aibrother_node.errors import DiskFull
from aibrother_node.store.disk import Disk

if TYPE_CHECKING:
    from pathlib import Path

PAGE = mmap.PAGESIZE
DATA = random.Random(5).randbytes((2 << 20) + 3 * PAGE + 17)
CUTS = [
    [0, len(DATA)],
    [0, 1, len(DATA)],
    [0, 100, 200, PAGE, PAGE + 1, 3 * PAGE - 1, len(DATA) - 5, len(DATA)],
    [0, PAGE // 2, PAGE // 2 + PAGE, 1 << 20, (2 << 20) + 1, len(DATA)],
]


def fill(path: Path, cuts: list[int]) -> bytes:
    """Write the stretches last to first; each shares its first page with one that comes later."""
    with Disk().create(path) as file:
        for start, stop in reversed(list(itertools.pairwise(cuts))):
            file.write_out_at(DATA[start:stop], start)
        file.fsync()
    return path.read_bytes()


def fail_with(monkeypatch: pytest.MonkeyPatch, code: int) -> list[int]:
    """Make uncached writes fail; returns where they were tried."""
    tried: list[int] = []

    def pwritev(_fd: int, _views: list[memoryview], offset: int, flags: int) -> int:
        assert flags
        tried.append(offset)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pwritev", pwritev)
    return tried


@pytest.mark.parametrize("cuts", CUTS)
def test_stretches_that_share_pages_come_out_right(tmp_path: Path, cuts: list[int]) -> None:
    assert fill(tmp_path / "file", cuts) == DATA


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_kernel_that_can_not_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuts: list[int], code: int
) -> None:
    tried = fail_with(monkeypatch, code)
    assert fill(tmp_path / "file", cuts) == DATA
    assert len(tried) == 1


def test_short_writes_are_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pwritev(fd: int, views: list[memoryview], offset: int, _flags: int) -> int:
        return os.pwrite(fd, views[0][:1000], offset)

    monkeypatch.setattr(os, "pwritev", pwritev)
    assert fill(tmp_path / "file", [0, 10, len(DATA)]) == DATA


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, errno.ENOSPC)
    with pytest.raises(DiskFull, match="no space left to write"):
        fill(tmp_path / "file", [0, len(DATA)])


def test_other_faults_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        fill(tmp_path / "file", [0, len(DATA)])
