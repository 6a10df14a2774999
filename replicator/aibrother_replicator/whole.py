"""The SHA-256 of a whole file while it is being filled, and the memory that the file is filled from.

A thread follows the bytes stored without a gap. It takes them from the memory that they were received in: whoever
stored a run hands its block of memory over (`keep`) and borrows another. There are only so many blocks. Who finds none
waits while the thread is hashing, for that is what brings them back: on a machine whose cores are busy with receiving,
it would otherwise begin in earnest only when all else is done. Where the thread itself waits for a gap to be filled,
the block that is needed last is taken back, and its bytes are read from the file when their turn comes; so are those
that were in the file from the beginning.
"""

from __future__ import annotations

import hashlib
import os
import threading
from typing import Final

from aibrother_node.content.digest import Digest

_PIECE: Final = 512 << 10


class WholeHash:
    """Hashes a file from its start as far as `reach` says.

    Args:
        fd: of the file.
        size: of the blob in bytes.
        blocks: of memory that there may be; more than are ever borrowed at once.
        block_bytes: the length of each.
    """

    def __init__(self, fd: int, size: int, *, blocks: int, block_bytes: int) -> None:
        self._fd = fd
        self._size = size
        self._sha256 = hashlib.sha256()
        self._reached = 0
        self._hashed = 0
        self._stopped = False
        self._failure: BaseException | None = None
        self._blocks_left = blocks
        self._block_bytes = block_bytes
        self._free: list[memoryview] = []  # the last one that came back first: its pages are warm
        self._kept: dict[int, tuple[memoryview, memoryview]] = {}  # where bytes begin: they, and the block to free
        self._more = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="whole-hash", daemon=True)
        self._thread.start()

    def borrow(self) -> memoryview | None:
        """A block to receive into, once there is one; it comes back by `keep` or `free`. None when stopped.

        Raises:
            OSError: the file can't be read.
        """
        with self._more:
            while not self._stopped:
                if self._free:
                    return self._free.pop()
                if self._blocks_left:
                    self._blocks_left -= 1
                    return memoryview(bytearray(self._block_bytes))
                if self._kept and self._hashed == self._reached:
                    return self._kept.pop(max(self._kept))[1]
                self._more.wait()
            if self._failure is not None:
                raise self._failure
            return None

    def keep(self, block: memoryview, offset: int, data: memoryview) -> None:
        """Give a block back that holds bytes of the file: all that is stored from `offset` to the end of `data`.

        Call it before `reach` includes them.
        """
        with self._more:
            self._kept[offset] = data, block
            self._more.notify_all()

    def free(self, block: memoryview) -> None:
        """Give a block back that holds nothing of use."""
        with self._more:
            self._free.append(block)
            self._more.notify_all()

    def reach(self, position: int) -> None:
        """The bytes before `position` are in the file to stay."""
        with self._more:
            if position > self._reached:
                self._reached = position
                self._more.notify_all()

    def stop(self) -> None:
        """End the thread, finished or not."""
        with self._more:
            self._stopped = True
            self._more.notify_all()
        self._thread.join()

    def result(self) -> Digest | None:
        """Wait for the whole and return its digest; None when stopped before.

        Raises:
            OSError: the file can't be read, or is shorter than it should be.
        """
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return Digest(self._sha256.digest()) if self._hashed == self._size else None

    def _run(self) -> None:
        try:
            self._hash()
        except BaseException as error:
            with self._more:
                self._failure = error
                self._stopped = True
                self._more.notify_all()

    def _hash(self) -> None:
        piece = memoryview(bytearray(_PIECE))
        while self._hashed < self._size:
            with self._more:
                self._more.wait_for(lambda: self._stopped or self._reached > self._hashed)
                if self._stopped:
                    return
                kept = self._kept.pop(self._hashed, None)
                upto = min([self._hashed + _PIECE, self._reached, *self._kept]) if kept is None else 0
            if kept is None:
                count = os.preadv(self._fd, [piece[: upto - self._hashed]], self._hashed)
                if count == 0:
                    raise OSError(f"the file ends at {self._hashed} bytes where {self._reached} were written")
                self._sha256.update(piece[:count])
            else:
                self._sha256.update(kept[0])
                count = len(kept[0])
            with self._more:
                self._hashed += count
                if kept is not None:
                    self._free.append(kept[1])
                if kept is not None or self._hashed == self._reached:
                    self._more.notify_all()
