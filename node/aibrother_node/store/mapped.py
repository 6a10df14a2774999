"""Files of fixed size that processes map, with all their room there before anybody touches it.

A page of a hole that the disk has no room for is no error but a signal (SIGBUS) that ends the process, and on tmpfs
reading one is enough.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_BLOCK: Final = 512  # bytes, in which stat counts (stat(2))


def open_whole(path: Path, length: int) -> int:
    """Open a file to be mapped; it is made where it is missing, and has room for all its bytes, which begin as zeros.

    On a disk that is full already it has a hole: better to begin, and perhaps to have room when it is touched.

    Args:
        path: where it is.
        length: how many bytes are mapped.

    Returns:
        A descriptor, for reading and writing.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        found = os.fstat(fd)
        if min(found.st_size, found.st_blocks * _BLOCK) < length:
            try:
                os.posix_fallocate(fd, 0, length)
            except OSError:
                if found.st_size < length:
                    os.ftruncate(fd, length)
    except BaseException:
        os.close(fd)
        raise
    return fd
