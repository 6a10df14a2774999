"""A blob's open file, whole or in part, as whoever sends it sees it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aibrother_node.content.digest import Digest


class OpenBlob:
    """An open blob.

    Attributes:
        digest, size: what it is.
        fd: a descriptor for positional reads and sendfile; never move its position.
        inode: of the file; a blob that was damaged may come back as another one.
    """

    __slots__ = ("digest", "fd", "inode", "size")

    def __init__(self, digest: Digest, fd: int, size: int, inode: int) -> None:
        self.digest = digest
        self.fd = fd
        self.size = size
        self.inode = inode

    @property
    def is_whole(self) -> bool:
        """Whether all of its bytes are here."""
        return True

    def holds(self, offset: int, length: int) -> bool:  # noqa: ARG002 - a fill looks
        """Whether all of these bytes are here and may be served."""
        return True

    def close(self) -> None:
        os.close(self.fd)
