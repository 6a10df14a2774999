"""Descriptors stay open while they are used, and no longer than the cache wants after that."""

import os
from pathlib import Path

import pytest

from aibrother_node.content.digest import Digest
from aibrother_node.store.open_blob import OpenBlob
from aibrother_node.web.public.blob_cache import BlobCache


def _blob(tmp_path: Path, number: int) -> OpenBlob:
    path = tmp_path / str(number)
    path.write_bytes(b"x" * number)
    return OpenBlob(Digest(bytes([number]) * 32), os.open(path, os.O_RDONLY), number, number)


def _is_open(blob: OpenBlob) -> bool:
    try:
        os.fstat(blob.fd)
    except OSError:
        return False
    return True


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = BlobCache(capacity=2)
    one, two, three = (_blob(tmp_path, number) for number in (1, 2, 3))
    cache.release(cache.put(one))
    cache.release(cache.put(two))
    hit = cache.get(one.digest)
    assert hit is not None
    assert hit.representation.size == 1
    cache.release(hit)
    cache.release(cache.put(three))
    assert [_is_open(blob) for blob in (one, two, three)] == [True, False, True]
    cache.close()
    assert not _is_open(one)


def test_what_is_used_stays_open_until_it_is_given_back(tmp_path: Path) -> None:
    cache = BlobCache(capacity=1)
    one = _blob(tmp_path, 1)
    entry = cache.put(one)
    cache.drop([one.digest])
    assert cache.get(one.digest) is None
    assert _is_open(one)
    cache.release(entry)
    assert not _is_open(one)


def test_two_that_open_the_same_blob_share_one_descriptor(tmp_path: Path) -> None:
    cache = BlobCache()
    first, second = _blob(tmp_path, 1), _blob(tmp_path, 1)
    entry = cache.put(first)
    assert cache.put(second) is entry
    assert _is_open(first)
    assert not _is_open(second)
    cache.release(entry)
    cache.release(entry)
    cache.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(first.fd)
