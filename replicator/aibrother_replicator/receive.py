"""One run on its way: from a body through a worker's memory, past its hashes, into the file."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aibrother_replicator.http_body import Body
    from aibrother_replicator.ledger import Ledger, Limiter
    from aibrother_replicator.partial import Partial
    from aibrother_replicator.schedule import Run
    from aibrother_replicator.whole import WholeHash

SYNC_BYTES: Final = 256 << 20
_PIECE: Final = 1 << 20  # hashed while it is warm, and few enough system calls
_SLOW_PIECE: Final = 64 << 10
_SLOW: Final = 0.1  # seconds a piece, from which on progress is told by smaller ones
_WRITE_AFTER: Final = 1.0  # seconds that right chunks of a slow run may wait in memory


class Receiving:
    """Takes one run in.

    Args:
        ledger: of the transfer.
        partial: the file.
        block: memory at least as long as the run.
        run: what to receive.
        limiter: holds it to a rate.

    Attributes:
        count: bytes received.
    """

    def __init__(
        self, ledger: Ledger, partial: Partial, block: memoryview, run: Run, limiter: Limiter | None = None
    ) -> None:
        self.count = 0
        self._ledger = ledger
        self._partial = partial
        self._block = block
        self._memory = block[: run.length]
        self._run = run
        self._limiter = limiter
        self._right: dict[int, tuple[int, bytes]] = {}  # chunk: its place in memory, its hash
        self._written_at = time.monotonic()

    def receive(self, body: Body) -> None:
        """Take the run, or as much as there is time for before the transfer ends; right chunks wait for `finish`.

        Raises:
            SourceError: as the body raises it.
        """
        ledger, run, memory = self._ledger, self._run, self._memory
        index, start, end = run.first, 0, ledger.lengths[run.first]
        sha256 = hashlib.sha256()
        before = self._written_at
        piece = _SLOW_PIECE
        while self.count < run.length and not ledger.stopping:
            position, stop = self.count, min(self.count + piece, run.length)
            if self._limiter is not None:
                stop = min(stop, position + self._limiter.piece)
                ledger.pause(self._limiter.take(stop - position))
            body.fill(memory[position:stop])
            self.count = stop
            ledger.received += stop - position  # for show: a lost addition doesn't matter
            while position < stop:
                upto = min(end, stop)
                sha256.update(memory[position:upto])
                position = upto
                if position == end:
                    self._judge(index, start, sha256.digest())
                    index, start = index + 1, end
                    end += ledger.lengths[index] if index < run.stop else 0
                    sha256 = hashlib.sha256()
            now = time.monotonic()
            piece = _PIECE if now - before < _SLOW else _SLOW_PIECE
            before = now
            if now - self._written_at > _WRITE_AFTER:
                self._store()

    def finish(self, whole: WholeHash) -> None:
        """Write the right chunks that wait, and leave the memory to the whole's hash.

        Raises:
            DiskFull: there is no room.
        """
        self._store(whole)

    def _store(self, whole: WholeHash | None = None) -> None:
        """Write the right chunks that wait.

        Raises:
            DiskFull: there is no room.
        """
        self._written_at = time.monotonic()
        mine = self._ledger.claim(self._run, self._right)
        chunks = [(index, start, sha256) for index, (start, sha256) in self._right.items() if index in mine]
        self._right.clear()
        spans: list[tuple[int, int]] = []
        for index, start, _ in chunks:
            stop = start + self._ledger.lengths[index]
            if spans and spans[-1][1] == start:
                spans[-1] = spans[-1][0], stop
            else:
                spans.append((start, stop))
        for start, stop in spans:
            self._partial.write(self._memory[start:stop], self._run.offset + start)
        if whole is not None:
            if len(spans) == 1:
                ((start, stop),) = spans
                whole.keep(self._block, self._run.offset + start, self._memory[start:stop])
            else:
                whole.free(self._block)
        indices = [index for index, _, _ in chunks]
        self._partial.mark(indices, [sha256 for _, _, sha256 in chunks])
        self._ledger.stored(self._run, indices, SYNC_BYTES)

    def _judge(self, index: int, start: int, actual: bytes) -> None:
        hashes = self._ledger.hashes
        if hashes is not None and (expected := hashes[32 * index : 32 * index + 32]) != actual:
            self._ledger.wrong(self._run, index, expected, actual)
        else:
            self._right[index] = start, actual
