"""What a node has of one blob: all of it, or the chunks of a fill, one bit each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgpack

from aibrother_node.errors import InvalidInput, NotFound
from aibrother_node.fleet.record import unpack

if TYPE_CHECKING:
    from aibrother_node.content.digest import Digest
    from aibrother_node.store.layout import Layout

MAX_BITMAP: Final = 1 << 20
"""Bytes of a bitmap: eight million chunks."""
MAX_ANSWER: Final = MAX_BITMAP + 1024


@dataclass(frozen=True, slots=True)
class Have:
    """What there is of a blob.

    Attributes:
        complete: all of it.
        bitmap: of a fill: bit i (from the lowest of the first byte) is chunk i of the manifest it is filled under.
    """

    complete: bool
    bitmap: bytes = b""

    def encode(self) -> bytes:
        """As it is sent: a msgpack map."""
        packed: bytes = msgpack.packb({"v": 1, "complete": self.complete, "bitmap": self.bitmap})
        return packed

    @classmethod
    def decode(cls, data: bytes) -> Have:
        """Read what was sent.

        Raises:
            InvalidInput: it is something else.
        """
        fields = unpack(data, longest=MAX_BITMAP)
        complete, bitmap = fields.get("complete"), fields.get("bitmap")
        if type(complete) is not bool or type(bitmap) is not bytes:
            raise InvalidInput("not what a node has of a blob")
        return cls(complete, bitmap)


def have_of(layout: Layout, digest: Digest) -> Have:
    """What is on disk of a blob. Blocks.

    Raises:
        NotFound: nothing.
    """
    if layout.blob(digest).exists():
        return Have(complete=True)
    try:
        with (layout.fills / digest.hex / "have").open("rb") as file:
            return Have(complete=False, bitmap=file.read(MAX_BITMAP))
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"nothing of {digest} is here") from None
