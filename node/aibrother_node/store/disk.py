"""Every way in which the store changes the file system, in one small class.

The store's promises (invariant 1: write aside → fsync → rename → fsync the folder) rest on the order of these calls, so
all of them go through a `Disk`. Tests pass one that records each call, and replay every state that a power loss may
leave behind.

What the calls promise is what POSIX and Linux promise, no more: data is durable after `DiskFile.fsync`, a name is
durable after `sync_folder` of the folder it stands in, `rename` is atomic for whoever looks while the machine runs.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Self

from aibrother_node.errors import DiskFull, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FICLONE: Final = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_SYNC_FILE_RANGE_WRITE: Final = 2  # linux/fs.h: start write-back, wait for nothing
_FALLOC_FL_KEEP_SIZE: Final = 1  # linux/falloc.h
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_RWF_DONTCACHE: Final = 0x80  # linux/fs.h, since 6.14: write out at once, and drop the pages once they are on the disk
_WRITE_OUT: Final = 1 << 20  # bytes a call: written out and forgotten before many more pages are needed
_NOT_HERE: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def _disk_full_named(path: Path) -> Iterator[None]:
    """Turn the operating system's ways to say "no space" into `DiskFull`."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise DiskFull(f"no space left to write {path}: {os.strerror(error.errno or 0)}") from error
        raise


class DiskFile:
    """A file opened for writing aside.

    Attributes:
        path: where it stands.
        fd: its descriptor, readable and writable.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        self._uncached = sys.platform == "linux"

    def write_at(self, data: bytes | memoryview, offset: int) -> None:
        """Write all of `data` at `offset` (bytes).

        Raises:
            DiskFull: the file system has no room; what was written until then stays, in a file nobody sees.
        """
        with _disk_full_named(self.path):
            view = memoryview(data)
            while view:
                written = os.pwrite(self.fd, view, offset)
                view = view[written:]
                offset += written

    def write_out_at(self, data: bytes | memoryview, offset: int) -> None:
        """As `write_at`, and the kernel begins to write out at once: the final fsync finds little to do.

        Where the kernel can (RWF_DONTCACHE), whole pages leave the page cache as soon as they are on the disk: a few
        are used over and over, instead of as many as the file is long. So it is for what isn't read again soon. The
        pages at both ends stay: neighbours that are written later would have to read them back.

        Raises:
            DiskFull: as `write_at`.
        """
        view = memoryview(data)
        start = min(-offset % mmap.PAGESIZE, len(view))
        stop = max(len(view) - (offset + len(view)) % mmap.PAGESIZE, start)
        self.write_at(view[:start], offset)
        while self._uncached and start < stop:
            start += self._write_uncached(view[start : min(start + _WRITE_OUT, stop)], offset + start)
        self.write_at(view[start:], offset + start)
        if start < stop:
            self.start_writeback(offset + start, stop - start)

    def _write_uncached(self, view: memoryview, offset: int) -> int:
        """Write some of `view`; returns how many bytes, 0 where it turns out that this isn't possible here."""
        try:
            with _disk_full_named(self.path):
                return os.pwritev(self.fd, [view], offset, _RWF_DONTCACHE)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            self._uncached = False
            return 0

    def allocate(self, size: int) -> None:
        """Reserve `size` bytes of room, so that a full disk shows before the work and blocks lie together."""
        if size:
            with _disk_full_named(self.path):
                os.posix_fallocate(self.fd, 0, size)

    def keep_room(self, size: int) -> None:
        """Reserve room for `size` bytes in all; the file stays as long as it is, so its length tells how far it is.

        Where the file system can't, nothing is reserved.

        Raises:
            DiskFull: there is no room.
        """
        with _disk_full_named(self.path):
            if size and _LIBC.fallocate(self.fd, _FALLOC_FL_KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(size)):
                code = ctypes.get_errno()
                if code not in _NOT_HERE:
                    raise OSError(code, os.strerror(code))

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""
        os.ftruncate(self.fd, size)

    def start_writeback(self, offset: int, length: int) -> None:
        """Let the kernel begin to write these bytes out, so that the final fsync finds little to do."""
        _LIBC.sync_file_range(
            self.fd, ctypes.c_int64(offset), ctypes.c_int64(length), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE)
        )

    def fsync(self) -> None:
        """Return once all bytes written so far are on stable storage."""
        with _disk_full_named(self.path):
            os.fsync(self.fd)

    def close(self) -> None:
        """Give the descriptor back; nothing is synchronised."""
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Disk:
    """The real file system."""

    def create(self, path: Path, mode: int = 0o600) -> DiskFile:
        """Make a new, empty file; an existing one is an error (`FileExistsError`)."""
        with _disk_full_named(path):
            return DiskFile(
                path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
            )

    def reopen(self, path: Path) -> DiskFile:
        """Open a file for more writing that an earlier process may have begun.

        Raises:
            FileNotFoundError: it isn't there.
        """
        return DiskFile(path, os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW))

    def clone(self, source_fd: int, path: Path) -> DiskFile:
        """Make `path` a reflink of an open file: its blocks are shared until one side is changed.

        Raises:
            Unsupported: the file system can't, or the two lie on different ones.
        """
        file = self.create(path)
        try:
            with _disk_full_named(path):
                fcntl.ioctl(file.fd, _FICLONE, source_fd)
        except OSError as error:
            file.close()
            self.unlink(path)
            raise Unsupported(
                f"this file system can't share blocks between two files (reflink): {error.strerror}"
            ) from error
        return file

    def make_folder(self, path: Path, mode: int = 0o755) -> None:
        """Make a folder; its parent must exist."""
        with _disk_full_named(path):
            path.mkdir(mode)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file its final name, atomically, over whatever had it."""
        with _disk_full_named(target):
            source.rename(target)

    def set_mode(self, path: Path, mode: int) -> None:
        """Set permission bits."""
        path.chmod(mode, follow_symlinks=True)

    def sync_folder(self, path: Path) -> None:
        """Return once the names in this folder are on stable storage."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def unlink(self, path: Path) -> None:
        """Remove a file if it is there."""
        path.unlink(missing_ok=True)

    def remove_tree(self, path: Path) -> None:
        """Remove a folder and what is in it; a missing one is fine."""
        shutil.rmtree(path, ignore_errors=True)

    def write_file(self, path: Path, data: bytes, *, aside: Path, mode: int = 0o644) -> None:
        """Put a small file in place durably and atomically.

        Args:
            path: its final name.
            data: its bytes.
            aside: a name that nobody looks at, on the same file system, where it is written first.
            mode: permission bits.
        """
        self.unlink(aside)
        with self.create(aside, mode) as file:
            file.write_at(data, 0)
            file.fsync()
        self.rename(aside, path)
        self.sync_folder(path.parent)

    def free_bytes(self, path: Path) -> int:
        """Bytes that an unprivileged process may still write on this file system."""
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize
