"""What `store.max_size` leaves: room beside what is stored already. The reserve of the file system is the other bound.

What is small and keeps a node going (catalog, pins, tokens, journals) may use the reserve: it is there for that. What
is large (blobs, uploads, fills) has to fit beside it, and into `store.max_size`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aibrother_node.errors import DiskFull
from aibrother_node.store.collection.survey import fill_bytes
from aibrother_node.store.index import IndexReader

if TYPE_CHECKING:
    from aibrother_node.store.layout import Layout

_RETRY: Final = 60.0


def used(layout: Layout) -> int:
    """Bytes of blobs and fills, as the index has them; 0 where there is no index to ask. Blocks."""
    totals = IndexReader(layout.index).totals()
    return 0 if totals is None else totals[1] + fill_bytes(layout)


def check_max_size(layout: Layout, what: str, size: int, max_size: int | None) -> None:
    """Make sure that something fits into `store.max_size`. Blocks.

    Raises:
        DiskFull: it doesn't.
    """
    if max_size is None:
        return
    taken = used(layout)
    if taken + size > max_size:
        raise DiskFull(
            f"{what} has {size} bytes; blobs and fills take {taken}, and store.max_size is {max_size}:"
            " raise it, or make room first",
            retry_after=_RETRY,
        )
