"""What of a file is in memory, and how to bring it there."""

from __future__ import annotations

import errno
import os
from typing import Final

_PIECE: Final = 512 << 10
_NOWAIT_UNKNOWN: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
_READ_AHEAD: Final = 4 << 20


class PageCache:
    """Whether bytes of a file can be had without waiting for the disk, and a way to make it so."""

    def __init__(self) -> None:
        self._probe = bytearray(1)
        self._can_probe = True

    def has(self, fd: int, offset: int, length: int) -> bool:
        """True when the last byte of the range is in memory, or when the file system can't say."""
        if not self._can_probe:
            return True
        try:
            os.preadv(fd, [self._probe], offset + length - 1, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NOWAIT_UNKNOWN:
                raise
            self._can_probe = False
        return True

    @staticmethod
    def warm(fd: int, offset: int, length: int) -> None:
        """Bring a range into memory, start reading what follows, close the descriptor. Blocks: for threads only."""
        try:
            os.posix_fadvise(fd, offset, length + _READ_AHEAD, os.POSIX_FADV_WILLNEED)
            end = offset + length
            while offset < end:
                piece = os.pread(fd, min(_PIECE, end - offset), offset)
                if not piece:
                    return
                offset += len(piece)
        finally:
            os.close(fd)
