"""The whole's hash: from memory or from the file alike, in order, with memory that comes back."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from typing import TYPE_CHECKING

import pytest

from aibrother_node.content.digest import Digest
from aibrother_replicator.whole import WholeHash

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK = 64 << 10
COUNT = 12
DATA = random.Random(9).randbytes(COUNT * BLOCK - 321)
DIGEST = Digest(hashlib.sha256(DATA).digest())
PATIENCE = 20.0


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[int]:
    """A file of the right length with nothing in it: whoever reads it hashes something else."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, len(DATA))
    yield fd
    os.close(fd)


def piece(index: int) -> bytes:
    return DATA[index * BLOCK : (index + 1) * BLOCK]


def keep(whole: WholeHash, index: int) -> None:
    block = whole.borrow()
    assert block is not None
    data = piece(index)
    block[: len(data)] = data
    whole.keep(block, index * BLOCK, block[: len(data)])


def test_what_is_kept_is_not_read_from_the_file(empty: int) -> None:
    whole = WholeHash(empty, len(DATA), blocks=3, block_bytes=BLOCK)
    for index in range(COUNT):
        keep(whole, index)
        whole.reach(min((index + 1) * BLOCK, len(DATA)))
    assert whole.result() == DIGEST


def test_the_rest_is_read_from_the_file(empty: int) -> None:
    for index in (0, 1, 4, 11):
        os.pwrite(empty, piece(index), index * BLOCK)
    whole = WholeHash(empty, len(DATA), blocks=COUNT, block_bytes=BLOCK)
    whole.reach(2 * BLOCK)
    for index in (10, 3, 9, 8, 2, 7, 6, 5):
        keep(whole, index)
    whole.reach(len(DATA))
    assert whole.result() == DIGEST


def test_before_a_gap_the_block_that_is_needed_last_is_taken_back(empty: int) -> None:
    whole = WholeHash(empty, len(DATA), blocks=3, block_bytes=BLOCK)
    for index in range(4, COUNT):
        os.pwrite(empty, piece(index), index * BLOCK)
    for index in (2, 11, 3, 10, 9, 1):  # 11, 10 and 9 make room, one after the other
        keep(whole, index)
    os.pwrite(empty, piece(0), 0)
    whole.reach(len(DATA))
    assert whole.result() == DIGEST


def test_who_finds_no_block_waits_for_the_hash(empty: int) -> None:
    os.pwrite(empty, DATA, 0)
    whole = WholeHash(empty, len(DATA), blocks=1, block_bytes=BLOCK)
    held = whole.borrow()
    assert held is not None
    got: list[memoryview | None] = []
    waiting = threading.Thread(target=lambda: got.append(whole.borrow()))
    waiting.start()
    waiting.join(0.05)
    assert not got
    data = piece(0)
    held[: len(data)] = data
    whole.keep(held, 0, held[: len(data)])
    whole.reach(len(data))
    waiting.join(PATIENCE)
    assert len(got) == 1
    assert got[0] is held
    whole.stop()


def test_stopping_wakes_whoever_waits_for_a_block(empty: int) -> None:
    whole = WholeHash(empty, len(DATA), blocks=1, block_bytes=BLOCK)
    assert whole.borrow() is not None
    got: list[memoryview | None] = []
    waiting = threading.Thread(target=lambda: got.append(whole.borrow()))
    waiting.start()
    whole.stop()
    waiting.join(PATIENCE)
    assert got == [None]
    assert whole.result() is None


def test_a_file_that_ends_too_soon_is_an_error_for_all(empty: int) -> None:
    os.ftruncate(empty, BLOCK)
    whole = WholeHash(empty, len(DATA), blocks=1, block_bytes=BLOCK)
    assert whole.borrow() is not None
    whole.reach(len(DATA))
    with pytest.raises(OSError, match="the file ends at"):
        whole.borrow()
    with pytest.raises(OSError, match="the file ends at"):
        whole.result()
