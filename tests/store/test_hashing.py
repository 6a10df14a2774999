"""One pass over a file: all hashes right whatever the cuts, errors carried, memory bounded."""

import hashlib
import os
from pathlib import Path

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from aibrother_node.errors import DiskFull, InvalidInput
from aibrother_node.store.disk import Disk, DiskFile
from aibrother_node.store.hashing import BLOCK, hash_file


def _open(path: Path, data: bytes) -> int:
    path.write_bytes(data)
    return os.open(path, os.O_RDONLY)


@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=5000), cuts=st.lists(st.integers(1, 5000), max_size=20))
def test_hashes_are_those_of_the_slices(tmp_path_factory: pytest.TempPathFactory, data: bytes, cuts: list[int]) -> None:
    path = tmp_path_factory.mktemp("hash") / "file"
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)} - {0})
    lengths = [end - start for start, end in zip([0, *ends], ends, strict=False) if end > start]
    fd = _open(path, data)
    hashes = hash_file(fd, len(data), lengths)
    os.close(fd)
    assert hashes.whole.raw == hashlib.sha256(data).digest()
    pieces, start = [], 0
    for length in lengths:
        pieces.append(data[start : start + length])
        start += length
    assert hashes.sha256 == b"".join(hashlib.sha256(piece).digest() for piece in pieces)
    assert hashes.xxh3 == b"".join(xxhash.xxh3_128_digest(piece) for piece in pieces)


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 40 * BLOCK + 17])
def test_the_copy_and_the_progress_are_whole(tmp_path: Path, size: int) -> None:
    data = os.urandom(1 << 16) * (size // (1 << 16) + 1)
    data = data[:size]
    fd = _open(tmp_path / "from", data)
    seen: list[int] = []
    with Disk().create(tmp_path / "to") as target:
        hashes = hash_file(fd, size, [size] if size else [], copy_to=target, progress=seen.append)
    os.close(fd)
    assert (tmp_path / "to").read_bytes() == data
    assert hashes.whole.raw == hashlib.sha256(data).digest()
    assert sum(seen) == size


def test_a_file_that_ends_early_is_named(tmp_path: Path) -> None:
    fd = _open(tmp_path / "short", b"x" * 10)
    with pytest.raises(InvalidInput, match="ends at 10 bytes where 20"):
        hash_file(fd, 20, [20])
    os.close(fd)


class _FullDisk(DiskFile):
    def write_at(self, data: bytes | memoryview, offset: int) -> None:
        if offset >= 3 * BLOCK:
            raise DiskFull("full")
        super().write_at(data, offset)


def test_a_consumer_that_fails_ends_the_pass(tmp_path: Path) -> None:
    fd = _open(tmp_path / "from", bytes(64 * BLOCK))
    target = _FullDisk(tmp_path / "to", os.open(tmp_path / "to", os.O_RDWR | os.O_CREAT))
    with target, pytest.raises(DiskFull, match="full"):
        hash_file(fd, 64 * BLOCK, [64 * BLOCK], copy_to=target)
    os.close(fd)
