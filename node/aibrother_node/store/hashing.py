"""One pass over a file's bytes: whole SHA-256, SHA-256 and XXH3-128 of each chunk, and a copy, all at once.

One thread reads into a few recycled buffers; each consumer (whole hash, chunk hashes, copy) is a thread of its own
that sees every buffer in order. hashlib and os.pwrite release the GIL, so the pass takes as long as its slowest
consumer: with SHA instructions the whole hash and the chunk hashes take the same time, side by side on two cores.
Memory is the buffers, whatever the file's size.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import xxhash

from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aibrother_node.store.disk import DiskFile

BLOCK: Final = 1 << 20
_BLOCKS: Final = 8
_WRITEBACK_EVERY: Final = 32 << 20  # measured: with this, the final fsync finds almost nothing left to write


@dataclass(frozen=True, slots=True)
class Hashes:
    """What one pass found.

    Attributes:
        whole: the digest of all bytes.
        sha256: the chunks' SHA-256, 32 bytes each, one after the other.
        xxh3: the chunks' XXH3-128, 16 bytes each, canonical (big-endian).
        also: the same of a second cut, where one was asked for.
    """

    whole: Digest
    sha256: bytes
    xxh3: bytes
    also: tuple[bytes, bytes] | None = None


class _Consumer(Protocol):
    def take(self, view: memoryview, offset: int) -> None: ...


class _WholeHash:
    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def take(self, view: memoryview, offset: int) -> None:  # noqa: ARG002 - blocks come in order
        self._sha256.update(view)

    def digest(self) -> Digest:
        return Digest(self._sha256.digest())


class _ChunkHashes:
    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths = iter(lengths)
        self._left = 0
        self._sha256 = hashlib.sha256()
        self._xxh3 = xxhash.xxh3_128()
        self.sha256 = bytearray()
        self.xxh3 = bytearray()

    def take(self, view: memoryview, offset: int) -> None:  # noqa: ARG002 - blocks come in order
        while view:
            if self._left == 0:
                self._left = next(self._lengths)
            piece = view[: self._left]
            self._sha256.update(piece)
            self._xxh3.update(piece)
            self._left -= len(piece)
            view = view[len(piece) :]
            if self._left == 0:
                self.sha256 += self._sha256.digest()
                self.xxh3 += self._xxh3.digest()
                self._sha256 = hashlib.sha256()
                self._xxh3.reset()


class _Copy:
    def __init__(self, target: DiskFile) -> None:
        self._target = target
        self._started = 0

    def take(self, view: memoryview, offset: int) -> None:
        self._target.write_at(view, offset)
        end = offset + len(view)
        if end - self._started >= _WRITEBACK_EVERY:
            self._target.start_writeback(self._started, end - self._started)
            self._started = end


class _Block:
    def __init__(self) -> None:
        self.memory = memoryview(bytearray(BLOCK))
        self.length = 0
        self.offset = 0
        self.waiting_for = 0


class _Pass:
    """The buffers and threads of one pass."""

    def __init__(self, consumers: Sequence[_Consumer]) -> None:
        self._free: queue.SimpleQueue[_Block] = queue.SimpleQueue()
        for _ in range(_BLOCKS):
            self._free.put(_Block())
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._queues: list[queue.SimpleQueue[_Block | None]] = [queue.SimpleQueue() for _ in consumers]
        self._threads = [
            threading.Thread(target=self._consume, args=(consumer, blocks), name="hash-pass", daemon=True)
            for consumer, blocks in zip(consumers, self._queues, strict=True)
        ]

    def run(self, fd: int, size: int, progress: Callable[[int], None] | None) -> None:
        for thread in self._threads:
            thread.start()
        try:
            self._read(fd, size, progress)
        finally:
            for blocks in self._queues:
                blocks.put(None)
            for thread in self._threads:
                thread.join()
        if self._failure is not None:
            raise self._failure

    def _read(self, fd: int, size: int, progress: Callable[[int], None] | None) -> None:
        offset = 0
        while offset < size and self._failure is None:
            block = self._free.get()
            wanted = min(BLOCK, size - offset)
            block.length = os.preadv(fd, [block.memory[:wanted]], offset)
            if block.length == 0:
                raise InvalidInput(f"the file ends at {offset} bytes where {size} were expected")
            block.offset = offset
            block.waiting_for = len(self._queues)
            offset += block.length
            length = block.length
            for blocks in self._queues:
                blocks.put(block)
            if progress is not None:
                progress(length)

    def _consume(self, consumer: _Consumer, blocks: queue.SimpleQueue[_Block | None]) -> None:
        failed = False
        while (block := blocks.get()) is not None:
            if not failed:
                try:
                    consumer.take(block.memory[: block.length], block.offset)
                except BaseException as error:
                    self._failure = self._failure or error
                    failed = True
            with self._lock:
                block.waiting_for -= 1
                last = block.waiting_for == 0
            if last:
                self._free.put(block)


def hash_file(
    fd: int,
    size: int,
    lengths: Sequence[int],
    *,
    also: Sequence[int] | None = None,
    copy_to: DiskFile | None = None,
    progress: Callable[[int], None] | None = None,
) -> Hashes:
    """Hash `size` bytes of an open file from its start, and copy them if wanted, in one pass.

    Args:
        fd: a seekable descriptor; its position is neither used nor moved.
        size: bytes to read.
        lengths: the chunks' lengths in bytes, which sum to `size`.
        also: the lengths of a second cut.
        copy_to: where the bytes are written as well.
        progress: called with the number of bytes read since it was called last.

    Raises:
        InvalidInput: the file is shorter than `size`.
        DiskFull: the copy found no room.
    """
    whole = _WholeHash()
    chunks = _ChunkHashes(lengths)
    second = None if also is None else _ChunkHashes(also)
    consumers: list[_Consumer] = [whole, chunks]
    if second is not None:
        consumers.append(second)
    if copy_to is not None:
        consumers.append(_Copy(copy_to))
    _Pass(consumers).run(fd, size, progress)
    return Hashes(
        whole.digest(),
        bytes(chunks.sha256),
        bytes(chunks.xxh3),
        None if second is None else (bytes(second.sha256), bytes(second.xxh3)),
    )
