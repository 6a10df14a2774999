"""What a node has of one blob: all of it, or the chunks of a fill, one bit each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgpack

from aibrother_node.errors import InvalidInput, NotFound
from aibrother_node.fleet.record import number, unpack
from aibrother_node.fleet.vouching import Vouch

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
        vouch: where the node says that it keeps all of it (vouching.py); None where it doesn't.
    """

    complete: bool
    bitmap: bytes = b""
    vouch: Vouch | None = None

    def encode(self) -> bytes:
        """As it is sent: a msgpack map."""
        fields: dict[str, Any] = {"v": 1, "complete": self.complete, "bitmap": self.bitmap, "keeps": False}
        if self.vouch is not None:
            fields |= {"keeps": True, "catalog": list(self.vouch.catalog), "vouch": self.vouch.signature}
        packed: bytes = msgpack.packb(fields)
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
        if fields.get("keeps") is not True:
            return cls(complete, bitmap)
        catalog, signature = fields.get("catalog"), fields.get("vouch")
        if type(catalog) is not list or len(catalog) != 2 or type(signature) is not bytes:
            raise InvalidInput("a node that keeps a blob says so by its signature")
        versions = number(catalog[0], "catalog"), number(catalog[1], "catalog")
        return cls(complete, bitmap, Vouch(versions, signature))


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
