"""The SHA-256 of a whole file while it is being filled: a thread that follows the bytes stored without a gap.

Whoever stores bytes waits (`keep_up`) while the thread is too far behind: on a machine whose cores are busy with
receiving, it would otherwise begin in earnest only when all else is done.
"""

from __future__ import annotations

import hashlib
import os
import threading
from typing import Final

from aibrother_node.content.digest import Digest

_BLOCK: Final = 512 << 10
MAX_LAG: Final = 64 << 20
"""Bytes that may be stored without a gap and not hashed yet, before those who store wait."""


class WholeHash:
    """Hashes a file from its start as far as `reach` says.

    Args:
        fd: of the file.
        size: of the blob in bytes.
    """

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._size = size
        self._sha256 = hashlib.sha256()
        self._reached = 0
        self._hashed = 0
        self._stopped = False
        self._failure: BaseException | None = None
        self._more = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="whole-hash", daemon=True)
        self._thread.start()

    def reach(self, position: int) -> None:
        """The bytes before `position` are in the file to stay."""
        with self._more:
            if position > self._reached:
                self._reached = position
                self._more.notify_all()

    def keep_up(self) -> None:
        """Return once the thread is less than `MAX_LAG` behind, or was stopped."""
        if self._reached - self._hashed <= MAX_LAG:
            return
        with self._more:
            self._more.wait_for(lambda: self._stopped or self._reached - self._hashed <= MAX_LAG)

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
            self._failure = error
            with self._more:
                self._stopped = True
                self._more.notify_all()

    def _hash(self) -> None:
        memory = memoryview(bytearray(_BLOCK))
        while self._hashed < self._size:
            if self._hashed == self._reached or self._stopped:
                with self._more:
                    self._more.wait_for(lambda: self._stopped or self._reached > self._hashed)
                if self._stopped:
                    return
            wanted = min(_BLOCK, self._reached - self._hashed)
            count = os.preadv(self._fd, [memory[:wanted]], self._hashed)
            if count == 0:
                raise OSError(f"the file ends at {self._hashed} bytes where {self._reached} were written")
            self._sha256.update(memory[:count])
            lagged = self._reached - self._hashed > MAX_LAG
            self._hashed += count
            if lagged and self._reached - self._hashed <= MAX_LAG:
                with self._more:
                    self._more.notify_all()
