"""Why a body ends before its end, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aibrother_node.store.withheld import first_withheld

if TYPE_CHECKING:
    from aibrother_node.store.withheld import Ranges


class BodyCut(ConnectionError):
    """The body can't be finished: the client is gone or stalled, or the file is shorter than it was."""


def up_to_withheld(barred: Ranges, offset: int, length: int) -> int:
    """How many of `length` bytes at `offset` come before the first that is withheld.

    Raises:
        BodyCut: none do.
    """
    first = first_withheld(barred, offset, length)
    if first is None:
        return length
    if first == offset:
        raise BodyCut("the next bytes are withheld: a bad chunk was found")
    return first - offset
