"""A number in `run/` that tells all processes of a node that the catalog has changed: one mapped page, no system calls.

Workers remember what names stand for and keep blobs open. Before they use any of it they compare eight bytes of memory;
control raises the number once a change is on disk and in the index, and answers its command only then. So what a
command has withdrawn is not served from any worker's memory after the command returns.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Final

from aibrother_node.store.mapped import open_whole

if TYPE_CHECKING:
    from pathlib import Path

_LENGTH: Final = 8


class Generation:
    """The number, as one process sees it.

    Args:
        path: the file; made where it is missing.
        writable: for the process that raises it.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        fd = open_whole(path, _LENGTH)
        try:
            self._map = mmap.mmap(fd, _LENGTH, prot=mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))
        finally:
            os.close(fd)

    def now(self) -> bytes:
        """The number, as bytes to compare."""
        return self._map[:_LENGTH]

    def raise_it(self) -> None:
        """Tell everybody that something has changed."""
        number = int.from_bytes(self.now(), "little") + 1
        # eight aligned bytes: copied at once by every memcpy that there is, and to compare them is all that readers do
        self._map[:_LENGTH] = (number % (1 << 64)).to_bytes(_LENGTH, "little")

    def close(self) -> None:
        """Let go of the memory."""
        self._map.close()
