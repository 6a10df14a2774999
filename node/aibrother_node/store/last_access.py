"""When blobs were last asked for: a mapped table in `run/`, which workers write and control reads, without locks.

A blob's slot follows from its digest. Two blobs in one slot look as fresh as the fresher one, which only keeps the
other a little longer. A slot is four aligned bytes: a write is seen whole or not at all, and one that is lost to
another process's is as good. A table that was lost says that everything was asked for when it was made.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Final

from aibrother_node.errors import DiskFull

if TYPE_CHECKING:
    from pathlib import Path

    from aibrother_node.content.digest import Digest

_SLOTS: Final = 1 << 16
_LENGTH: Final = 4 * (_SLOTS + 1)
"""Bytes of the table: when it was made, then the slots; each seconds since 1970."""
_MOST: Final = (1 << 32) - 1


class LastAccess:
    """The table, as one process sees it.

    Args:
        path: `run/last-access`; made where it is missing.
        now: the time, in seconds since 1970.

    Raises:
        DiskFull: there is no room for it.
        OSError: it can't be made.
    """

    def __init__(self, path: Path, now: float) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(fd).st_size < _LENGTH:
                try:
                    # all of it now: a page that the disk has no room for when it is touched would end the process
                    os.posix_fallocate(fd, 0, _LENGTH)
                except OSError as error:
                    raise DiskFull(f"no room for {path}: {error.strerror}") from error
            self._map = mmap.mmap(fd, _LENGTH)
        finally:
            os.close(fd)
        self._table = memoryview(self._map).cast("I")
        if not self._table[0]:
            self._table[0] = _seconds(now)

    def touch(self, digest: Digest, now: float) -> None:
        """A blob is asked for."""
        self._table[_slot(digest)] = _seconds(now)

    def last(self, digest: Digest) -> float:
        """When a blob was last asked for, at the latest."""
        return float(max(self._table[_slot(digest)], self._table[0]))

    def close(self) -> None:
        """Let go of the memory."""
        self._table.release()
        self._map.close()


def _slot(digest: Digest) -> int:
    return 1 + int.from_bytes(digest.raw[:2], "big")


def _seconds(now: float) -> int:
    return min(max(int(now), 0), _MOST)
