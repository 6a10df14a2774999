"""A download in progress on disk: `<name>.part`, which holds only verified bytes, and `<name>.part.have`, its state.

The law:

- One process at a time: the data file is locked (flock) while it is open here.
- A bit in the state on disk is set only after fdatasync of the chunk's data. On resume a bit is a claim, no more: the
  chunk counts once it was hashed again. What the file holds beside the claims is hashed too, for after a kill the
  page cache has more than the last recorded state says, and hashing costs less than fetching.
- The state file is advice from a stranger: whatever is wrong with it, it is ignored and the download starts over.
- The target's name changes hands in one rename, after the whole was verified and is on stable storage.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import stat
import threading
from bisect import bisect_left, bisect_right
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Self

import msgpack

from aibrother_node.content.chunks import MAX_CHUNKS, MAX_MANIFEST_BYTES
from aibrother_node.errors import DiskFull, InvalidInput, Temporary
from aibrother_node.store.disk import Disk, DiskFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from aibrother_node.content.digest import Digest

_STATE_VERSION: Final = 1
_MAX_STATE: Final = MAX_MANIFEST_BYTES + 33 * MAX_CHUNKS + 4096
_FALLOC_KEEP_SIZE: Final = 1  # linux/falloc.h
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_BLOCK: Final = 1 << 20
_COPY: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Saved:
    """What a state file claims.

    Attributes:
        size: of the blob in bytes.
        manifest: the chunk manifest's bytes, or None where the blob is fetched in pieces that nobody vouches for.
        have: numbers of the chunks whose bytes were stored.
        hashes: without a manifest, SHA-256 of each stored piece as it was received, 32 bytes each, zeros elsewhere.
    """

    size: int
    manifest: bytes | None
    have: frozenset[int]
    hashes: bytes


class Partial:
    """The two files of one download, locked from `open` to `close`.

    Args:
        digest: of the blob.
        target: the name that the whole will have.
        folder: where the two files stand; the target's own folder by default.
        disk: how the file system is changed.

    Attributes:
        target: as given.
        path: the data file.
        state_path: the state file.
    """

    def __init__(self, digest: Digest, target: Path, *, folder: Path | None = None, disk: Disk | None = None) -> None:
        self._digest = digest
        self._disk = disk or Disk()
        self.target = target
        self.path = target.with_name(f"{target.name}.part") if folder is None else folder / f"{digest.hex}.part"
        self.state_path = self.path.with_name(f"{self.path.name}.have")
        self._file: DiskFile | None = None
        self._size = 0
        self._manifest: bytes | None = None
        self._lock = threading.Lock()
        self._have = bytearray()
        self._hashes = bytearray()

    @property
    def fd(self) -> int:
        """The data file's descriptor."""
        return self._opened().fd

    def open(self) -> None:
        """Open and lock the data file, made if need be.

        Raises:
            Temporary: another process is at it.
            InvalidInput: the name is taken by something that is no plain file.
            OSError: the folder can't be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        while True:
            try:
                fd = os.open(self.path, flags, 0o644)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                    raise InvalidInput(f"{self.path} is in the way: it is no plain file") from error
                raise
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise InvalidInput(f"{self.path} is in the way: it is no plain file")
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    raise Temporary(f"another download is writing {self.path}") from error
                if self._is_current(fd):
                    self._file = DiskFile(self.path, fd)
                    return
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # it was renamed or removed between open and lock

    def close(self) -> None:
        """Give up the lock; what is stored stays, an empty data file without a state does not."""
        if self._file is not None:
            if (
                os.fstat(self._file.fd).st_size == 0
                and not self.state_path.exists()
                and self._is_current(self._file.fd)
            ):
                self._disk.unlink(self.path)
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def saved(self) -> Saved | None:
        """Read the state file.

        Returns:
            Its claims, or None where there is none.

        Raises:
            InvalidInput: it is not one that this class wrote for this blob; ignore it.
        """
        try:
            with self.state_path.open("rb") as file:
                data = file.read(_MAX_STATE + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InvalidInput(f"{self.state_path} can't be read: {error.strerror}") from error
        try:
            return _decode(data, self._digest)
        except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
            raise InvalidInput(f"{self.state_path} is not the state of this download") from error

    def begin(self, size: int, lengths: Sequence[int], manifest: bytes | None) -> None:
        """Lay the data file out for a blob of `size` bytes in chunks of these lengths; nothing of it counts yet.

        The state on disk stays as it is until `sync`.

        Raises:
            DiskFull: the file system hasn't the room that is still missing.
        """
        file = self._opened()
        before = os.fstat(file.fd)
        if before.st_size != size:
            os.ftruncate(file.fd, size)
        allocated = os.fstat(file.fd).st_blocks * 512
        missing, free = size - allocated, self._disk.free_bytes(self.path.parent)
        if missing > free:
            if before.st_size == 0:
                os.ftruncate(file.fd, 0)
            raise DiskFull(f"{self.path} needs {missing} bytes more, {free} are free")
        self._allocate(size)
        self._size = size
        self._manifest = manifest
        with self._lock:
            self._have = bytearray(len(lengths))
            self._hashes = bytearray(32 * len(lengths)) if manifest is None else bytearray()

    def allocated(self) -> int:
        """Bytes of disk that the data file takes now; 0 where there is none. Needs no lock."""
        try:
            return os.stat(self.path, follow_symlinks=False).st_blocks * 512
        except FileNotFoundError:
            return 0

    def recover(self, lengths: Sequence[int], hashes: bytes | None, saved: Saved | None) -> list[int]:
        """Hash again what the data file may hold of the blob, in several threads, and mark what is right.

        Args:
            lengths: of the chunks, as for `begin`.
            hashes: their SHA-256 from a manifest. None: what counts is what `saved` says was received.
            saved: what the state file claimed before `begin`.

        Returns:
            The chunks that are right, in order.
        """
        offsets = list(accumulate(lengths, initial=0))
        if hashes is not None:
            candidates = list(self._chunks_written(offsets))
        elif saved is not None and saved.manifest is None and len(saved.hashes) == 32 * len(lengths):
            hashes, candidates = saved.hashes, sorted(saved.have)
        else:
            return []
        expected = [hashes[32 * index : 32 * index + 32] for index in range(len(lengths))]

        def is_right(index: int) -> bool:
            return sha256_at(self.fd, offsets[index], lengths[index]) == expected[index]

        with ThreadPoolExecutor(min(os.cpu_count() or 1, 8), thread_name_prefix="rehash") as pool:
            try:
                right = [index for index, ok in zip(candidates, pool.map(is_right, candidates), strict=True) if ok]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        self.mark(right, [expected[index] for index in right])
        return right

    def forget(self) -> None:
        """Empty the data file: nothing in it counts any more."""
        self._disk.unlink(self.state_path)
        os.ftruncate(self.fd, 0)

    def _written(self) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) of the stretches of the data file that were ever written, in bytes."""
        position = 0
        while position < self._size:
            try:
                start = os.lseek(self.fd, position, os.SEEK_DATA)
                stop = os.lseek(self.fd, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return  # nothing after this position
                raise
            yield start, stop
            position = stop

    def write(self, view: memoryview, offset: int) -> None:
        """Write verified bytes, on their way to the disk at once.

        Raises:
            DiskFull: there is no room.
        """
        self._opened().write_out_at(view, offset)

    def mark(self, indices: Iterable[int], hashes: Sequence[bytes] | None = None) -> None:
        """Note that chunks are in the data file; the next `sync` records it.

        `hashes` are their SHA-256 where no manifest has them.
        """
        with self._lock:
            for position, index in enumerate(indices):
                self._have[index] = 1
                if self._hashes and hashes is not None:
                    self._hashes[32 * index : 32 * index + 32] = hashes[position]

    def sync(self) -> None:
        """Bring the data to stable storage, then record what is there.

        Raises:
            DiskFull: there is no room.
        """
        with self._lock:
            have, hashes = bytes(self._have), bytes(self._hashes)
        os.fdatasync(self.fd)
        self._record(have, hashes)

    def finish(self, whole_matches: Callable[[int], bool] | None = None) -> None:
        """Make the data file the target; call it once the whole is verified.

        `whole_matches` checks a copy, by its descriptor, where the target lies on another file system.
        """
        file = self._opened()
        file.fsync()
        try:
            self._disk.rename(self.path, self.target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._finish_by_copy(whole_matches)
        self._disk.sync_folder(self.target.parent)
        self._disk.unlink(self.state_path)

    def _chunks_written(self, offsets: Sequence[int]) -> Iterator[int]:
        """Yield the chunks that lie wholly in what was ever written; `offsets` has their bounds."""
        for start, stop in self._written():
            first = bisect_left(offsets, start)
            yield from range(first, bisect_right(offsets, stop) - 1)

    def discard(self) -> None:
        """Remove both files."""
        self._disk.unlink(self.state_path)
        self._disk.unlink(self.path)

    def _finish_by_copy(self, whole_matches: Callable[[int], bool] | None) -> None:
        aside = self.target.with_name(f".{self.target.name}.{os.getpid()}.part")
        self._disk.unlink(aside)
        try:
            with self._disk.create(aside, 0o644) as copy:
                offset = 0
                while piece := os.pread(self.fd, _COPY, offset):
                    copy.write_at(piece, offset)
                    offset += len(piece)
                copy.fsync()
                if whole_matches is not None and not whole_matches(copy.fd):
                    raise Temporary(f"the copy of {self.path} to {self.target.parent} came out wrong")
            self._disk.rename(aside, self.target)
        except BaseException:
            self._disk.unlink(aside)
            raise
        self._disk.unlink(self.path)

    def _opened(self) -> DiskFile:
        assert self._file is not None, "the partial file is not open"
        return self._file

    def _is_current(self, fd: int) -> bool:
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(fd))

    def _allocate(self, size: int) -> None:
        """Reserve the blocks, where the file system can; posix_fallocate would write zeros where it can't."""
        if size:
            result = _LIBC.fallocate(self.fd, _FALLOC_KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(size))
            if result != 0 and ctypes.get_errno() in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(f"no space left for the {size} bytes of {self.path}")

    def _record(self, have: bytes, hashes: bytes) -> None:
        state = {
            "v": _STATE_VERSION,
            "blob": self._digest.raw,
            "size": self._size,
            "manifest": self._manifest,
            "chunks": len(have),
            "have": _pack_bits(have),
            "sha256": hashes,
        }
        self._disk.write_file(
            self.state_path, msgpack.packb(state), aside=self.state_path.with_name(f"{self.state_path.name}.new")
        )


def sha256_at(fd: int, offset: int, length: int, buffer: memoryview | None = None) -> bytes:
    """SHA-256 of a stretch of a file; of fewer bytes where the file ends before."""
    memory = memoryview(bytearray(min(_BLOCK, length))) if buffer is None else buffer
    sha256 = hashlib.sha256()
    end = offset + length
    while offset < end:
        count = os.preadv(fd, [memory[: min(len(memory), end - offset)]], offset)
        if count == 0:
            break
        sha256.update(memory[:count])
        offset += count
    return sha256.digest()


def _pack_bits(flags: bytes) -> bytes:
    """One bit a flag, the first in the lowest bit of the first byte."""
    packed = bytearray((len(flags) + 7) // 8)
    for index, flag in enumerate(flags):
        if flag:
            packed[index >> 3] |= 1 << (index & 7)
    return bytes(packed)


def _decode(data: bytes, digest: Digest) -> Saved:
    """Read a state file's bytes; raises ValueError, TypeError or KeyError for any that `_record` would not write."""
    state = msgpack.unpackb(
        data, max_str_len=16, max_bin_len=MAX_MANIFEST_BYTES, max_array_len=0, max_map_len=7, max_ext_len=0
    )
    size, manifest, chunks, bits, hashes = (state[key] for key in ("size", "manifest", "chunks", "have", "sha256"))
    if state["v"] != _STATE_VERSION or state["blob"] != digest.raw:
        raise ValueError("another version or blob")
    if type(size) is not int or size < 0 or type(chunks) is not int or not 0 <= chunks <= MAX_CHUNKS:
        raise ValueError("sizes")
    if type(bits) is not bytes or len(bits) != (chunks + 7) // 8 or type(hashes) is not bytes:
        raise ValueError("bits")
    if manifest is None:
        if len(hashes) != 32 * chunks:
            raise ValueError("hashes")
    elif type(manifest) is not bytes or hashes:
        raise ValueError("manifest")
    have = frozenset(index for index in range(chunks) if bits[index >> 3] >> (index & 7) & 1)
    return Saved(size, manifest, have, hashes)
