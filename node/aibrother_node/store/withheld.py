"""Which bytes of which files nobody may be sent any more: a table of fixed size in `run/`, mapped by every worker.

Control writes it the moment a bad chunk is found, before anything is done about it on disk. Workers compare eight bytes
of memory before each slice that they send, and read the table only when these have changed: no system call, no lock.

How readers never see half an entry: there are two tables, and the lowest bit of the number says which one is valid.
Control writes the other one and raises the number after that. A reader copies, and then looks whether the number is
still the same and the checksum right; else it looks again at the next slice. A control that dies while it writes leaves
the valid table and its number as they were.

An entry names an inode: a blob that was damaged may come back under its name as another file, while somebody still
sends from the old one. Such an old inode stays withheld (`retire`) until nobody can be sending from it any more.

Where there is no room for an entry, more is withheld, never less: all of a blob for its ranges, and in the end
everything.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import zlib
from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from aibrother_node.store.mapped import open_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from aibrother_node.content.digest import Digest

CAPACITY: Final = 4096
"""Entries."""
WHOLE: Final = (1 << 63) - 1
"""The length that stands for all of a file, and what may still be appended to it."""

_NUMBER: Final = struct.Struct("<Q")
_HEAD: Final = struct.Struct("<QII")  # number, count of entries, CRC-32 of number, count and entries
_ENTRY: Final = struct.Struct("<32sQQQ")
_ATTEMPTS: Final = 8  # more than enough for a writer that has just come between; what was read last holds until then
_EVERYTHING: Final = 0xFFFF_FFFF  # as a count
_TABLE: Final = _HEAD.size + CAPACITY * _ENTRY.size
_LENGTH: Final = _NUMBER.size + 2 * _TABLE

Ranges: TypeAlias = "tuple[tuple[int, int], ...]"
"""Bytes from the first up to, not including, the second; in order, apart from each other."""
_Files: TypeAlias = "dict[tuple[bytes, int], Ranges]"


class Entry(NamedTuple):
    """Bytes of one file that are withheld.

    Attributes:
        digest: raw, of the blob.
        inode: of its file.
        offset, length: in bytes.
    """

    digest: bytes
    inode: int
    offset: int
    length: int


def merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Put ranges in order, and those together that touch."""
    result: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if start >= stop:
            continue
        if result and start <= result[-1][1]:
            result[-1] = result[-1][0], max(stop, result[-1][1])
        else:
            result.append((start, stop))
    return tuple(result)


def first_withheld(ranges: Ranges, offset: int, length: int) -> int | None:
    """The first of these bytes that is withheld; None where none is."""
    place = bisect_right(ranges, (offset, WHOLE)) - 1
    if place >= 0 and ranges[place][1] > offset and length > 0:
        return offset
    place += 1
    if place < len(ranges) and ranges[place][0] < offset + length:
        return ranges[place][0]
    return None


def fitting(files: Mapping[tuple[bytes, int], Ranges], capacity: int) -> list[Entry] | None:
    """The entries of a table of `capacity`; None where it takes everything to be withheld."""
    if len(files) > capacity:
        return None
    count = sum(map(len, files.values()))
    shown = dict(files)
    for key, ranges in sorted(files.items(), key=lambda item: -len(item[1])):
        if count <= capacity:
            break
        shown[key] = ((0, WHOLE),)
        count -= len(ranges) - 1
    return [Entry(*key, start, stop - start) for key, ranges in shown.items() for start, stop in ranges]


class Withheld:
    """The table as one process reads it; for one thread.

    Args:
        path: of the file; made where it is missing.

    Attributes:
        memory: its first eight bytes are the number; for whoever compares it so often that a call would cost too much.
        seen: the number when the table was last read whole.
    """

    def __init__(self, path: Path) -> None:
        self.memory = _open(path, writable=False)
        self.seen = b""
        self._everything = False
        self._files: _Files = {}

    def now(self) -> bytes:
        """The number, as bytes to compare."""
        return self.memory[:8]

    def ranges(self, digest: Digest, inode: int) -> Ranges:
        """What is withheld of a file now."""
        if self.memory[:8] != self.seen:
            self._read()
        if self._everything:
            return ((0, WHOLE),)
        if not self._files:
            return ()
        return self._files.get((digest.raw, inode), ())

    def close(self) -> None:
        """Let go of the memory."""
        self.memory.close()

    def _read(self) -> None:
        for _ in range(_ATTEMPTS):
            number = self.now()
            found = _table(self.memory, _NUMBER.unpack(number)[0])
            if found is not None and self.now() == number:
                self.seen = number
                self._everything, self._files = found
                return


class WithheldWriter:
    """The table as control keeps it; any thread may. What is said is in the table when the call returns.

    Args:
        path: of the file; what is in it stays until it is taken back: a worker may outlive the control that wrote it.
    """

    def __init__(self, path: Path) -> None:
        self._map = _open(path, writable=True)
        self._lock = threading.Lock()
        self._number = int(_NUMBER.unpack(self._map[:8])[0])
        found = _table(self._map, self._number)
        self._files: _Files = {} if found is None else found[1]
        self._retired: dict[tuple[bytes, int], float] = {}
        if found is None:  # what a crash of the machine left: readers would go on looking for a table
            self._write()

    def withhold(self, digest: Digest, inode: int, ranges: Iterable[tuple[int, int]]) -> None:
        """Say what of a file is withheld from now on, instead of what was; nothing, where there is none."""
        with self._lock:
            wanted = merged(ranges)
            key = digest.raw, inode
            self._retired.pop(key, None)
            if wanted:
                self._files[key] = wanted
            else:
                self._files.pop(key, None)
            self._write()

    def withhold_all(self, files: Iterable[tuple[Digest, int, Iterable[tuple[int, int]]]]) -> None:
        """As `withhold`, for many files at once."""
        with self._lock:
            for digest, inode, ranges in files:
                self._retired.pop((digest.raw, inode), None)
                self._files[digest.raw, inode] = merged(ranges)
            self._files = {key: ranges for key, ranges in self._files.items() if ranges}
            self._write()

    def also_withhold(self, digest: Digest, inode: int, ranges: Iterable[tuple[int, int]]) -> None:
        """Withhold more of a file."""
        with self._lock:
            key = digest.raw, inode
            self._files[key] = merged([*self._files.get(key, ()), *ranges])
            self._write()

    def retire(self, digest: Digest, inode: int, until: float) -> None:
        """A file is nobody's any more: what is withheld of it stays so until `forget_retired` is told a later time."""
        with self._lock:
            if (digest.raw, inode) in self._files:
                self._retired[digest.raw, inode] = until

    def retire_others(self, known: Iterable[tuple[Digest, int]], until: float) -> None:
        """Retire whatever is in the table, but for these files: at start, what a former control left."""
        kept = {(digest.raw, inode) for digest, inode in known}
        with self._lock:
            for key in self._files.keys() - kept:
                self._retired.setdefault(key, until)

    def forget_retired(self, now: float) -> None:
        """Forget what was retired long enough ago."""
        with self._lock:
            over = [key for key, until in self._retired.items() if until <= now]
            for key in over:
                del self._retired[key]
                self._files.pop(key, None)
            if over:
                self._write()

    def changed(self) -> None:
        """Raise the number, so that workers look at the files again."""
        with self._lock:
            self._write()

    def close(self) -> None:
        """Let go of the memory."""
        self._map.close()

    def _write(self) -> None:
        entries = fitting(self._files, CAPACITY)
        data = b"" if entries is None else b"".join(_ENTRY.pack(*entry) for entry in entries)
        count = _EVERYTHING if entries is None else len(entries)
        number = (self._number + 1) % (1 << 64)
        at = _NUMBER.size + _TABLE * (number & 1)
        self._map[at + _HEAD.size : at + _HEAD.size + len(data)] = data
        self._map[at : at + _HEAD.size] = _HEAD.pack(number, count, _checksum(number, count, data))
        self._map[:8] = _NUMBER.pack(number)  # eight aligned bytes: copied at once by every memcpy that there is
        self._number = number


def _open(path: Path, *, writable: bool) -> mmap.mmap:
    fd = open_whole(path, _LENGTH)
    try:
        return mmap.mmap(fd, _LENGTH, prot=mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))
    finally:
        os.close(fd)


def _checksum(number: int, count: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(struct.pack("<QI", number, count)))


def _table(memory: Sequence[int] | mmap.mmap, number: int) -> tuple[bool, _Files] | None:
    """The table of this number: whether everything is withheld, and what of which file; None where it isn't whole."""
    if number == 0:
        return False, {}
    at = _NUMBER.size + _TABLE * (number & 1)
    head = bytes(memory[at : at + _HEAD.size])
    told, count, checksum = _HEAD.unpack(head)
    length = 0 if count == _EVERYTHING else count * _ENTRY.size
    if told != number or length > CAPACITY * _ENTRY.size:
        return None
    data = bytes(memory[at + _HEAD.size : at + _HEAD.size + length])
    if checksum != _checksum(number, count, data):
        return None
    files: dict[tuple[bytes, int], list[tuple[int, int]]] = {}
    for digest, inode, offset, size in _ENTRY.iter_unpack(data):
        files.setdefault((digest, inode), []).append((offset, offset + size))
    return count == _EVERYTHING, {key: merged(ranges) for key, ranges in files.items()}
