"""Reads a file's bytes from the disk itself, past the page cache (open(2), O_DIRECT).

So that what is checked is what the disk holds, not what memory still remembers of it, and so that a pass over a
terabyte doesn't push out of memory what clients ask for. Where the file system can't, it reads as everybody does.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
from typing import TYPE_CHECKING, Final, Self

from aibrother_node.content.chunks import MAX_CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ALIGN: Final = 4096
_NOT_HERE: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})


class DirectFile:
    """An open file, and memory for one chunk of it; for one thread at a time.

    Args:
        path: of a regular file.
        direct: False reads through the page cache.

    Attributes:
        size, inode: of the file.
        is_direct: whether the page cache is passed by.

    Raises:
        FileNotFoundError: it isn't there.
        OSError: it can't be opened, or is no regular file.
    """

    def __init__(self, path: Path, *, direct: bool = True) -> None:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        self.is_direct = direct
        try:
            self._fd = os.open(path, flags | (os.O_DIRECT if direct else 0))
        except OSError as error:
            if not direct or error.errno not in _NOT_HERE:
                raise
            self.is_direct = False
            self._fd = os.open(path, flags)
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(self._fd)
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        self.size, self.inode = found.st_size, found.st_ino
        self._buffer = mmap.mmap(-1, MAX_CHUNK + 2 * _ALIGN)  # anonymous memory begins at a page

    @contextlib.contextmanager
    def read(self, offset: int, length: int) -> Iterator[memoryview]:
        """At most `MAX_CHUNK` bytes; fewer where the file ends. They are valid inside the block.

        Raises:
            OSError: the disk can't read them (EIO).
        """
        start = offset - offset % _ALIGN
        wanted = -(-(offset + length - start) // _ALIGN) * _ALIGN
        with memoryview(self._buffer) as memory:
            try:
                count = self._fill(memory, start, wanted)
            except OSError as error:
                if not self.is_direct or error.errno not in _NOT_HERE:
                    raise
                self._use_page_cache()
                count = self._fill(memory, start, wanted)
            first = offset - start
            with memory[first : max(first, min(count, first + length))] as view:
                yield view

    def _fill(self, memory: memoryview, start: int, wanted: int) -> int:
        count = 0
        while count < wanted:
            with memory[count:wanted] as rest:
                got = os.preadv(self._fd, [rest], start + count)
            count += got
            if got == 0 or count % _ALIGN:
                break
        return count

    def _use_page_cache(self) -> None:
        """Some file systems say only when one reads that they can't."""
        fd = os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)
        os.close(self._fd)
        self._fd = fd
        self.is_direct = False

    def close(self) -> None:
        """Let go of the file and the memory."""
        os.close(self._fd)
        self._buffer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
