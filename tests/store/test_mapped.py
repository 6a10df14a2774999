"""Files to be mapped have their room before they are touched."""

import mmap
import os
from pathlib import Path

import pytest

from aibrother_node.store.draining import DrainFlag
from aibrother_node.store.generation import Generation
from aibrother_node.store.mapped import open_whole
from aibrother_node.store.withheld import Withheld
from store.helpers import new_layout


def room(path: Path) -> tuple[int, int]:
    """Size, and bytes that it takes on the disk."""
    found = path.stat()
    return found.st_size, found.st_blocks * 512


def test_there_is_room_for_all_of_it_and_what_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "x"
    os.close(open_whole(path, 10_000))
    assert path.read_bytes() == bytes(10_000)
    assert room(path)[1] >= 10_000
    path.write_bytes(b"abc")
    os.truncate(path, 1 << 20)  # as an older version left it
    fd = open_whole(path, 1 << 20)
    with mmap.mmap(fd, 1 << 20) as memory:
        assert memory[:4] == b"abc\0"
    os.close(fd)
    assert room(path)[1] >= 1 << 20


def test_a_disk_that_is_full_is_no_reason_not_to_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    os.close(open_whole(tmp_path / "x", 10_000))
    assert room(tmp_path / "x")[0] == 10_000


def test_none_of_a_nodes_has_a_hole(tmp_path: Path) -> None:
    layout = new_layout(tmp_path)
    for opened in (DrainFlag(layout), Generation(layout.generation), Withheld(layout.withheld)):
        opened.close()
    for path in (layout.drain_flag, layout.generation, layout.withheld):
        size, taken = room(path)
        assert taken >= size > 0, path
