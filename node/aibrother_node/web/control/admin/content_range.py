"""Which bytes of an upload a request brings: Content-Range of a PUT (RFC 9110, 14.4 and 14.5).

Content-Range: bytes 0-8388607/268435456      these bytes, of so many in all
Content-Range: bytes */268435456              none: only finish what has come
(none)                                        the whole; Content-Length says how long it is
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from aibrother_node.errors import InvalidInput

_RANGE: Final = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Piece:
    """What a request brings.

    Attributes:
        start, stop: offsets in bytes, the second one exclusive; equal where it brings nothing.
        total: bytes of the blob.
        finishing: whether it brings nothing on purpose.
    """

    start: int
    stop: int
    total: int
    finishing: bool = False

    @classmethod
    def of(cls, content_range: str | None, content_length: int | None) -> Piece:
        """Read the two fields.

        Args:
            content_range: the value of Content-Range; None where there is none.
            content_length: of the body; None where that isn't said.

        Raises:
            InvalidInput: they are malformed, or don't fit together.
        """
        if content_range is None:
            if content_length is None:
                raise InvalidInput("an upload says how long it is: with Content-Length, or Content-Range")
            return cls(0, content_length, content_length)
        found = _RANGE.fullmatch(content_range.strip())
        if found is None:
            raise InvalidInput(f"not a Content-Range of an upload: {content_range[:80]!r}")
        total = int(found[3])
        if found[1] is None:
            if content_length not in (None, 0):
                raise InvalidInput(f"{content_range!r} comes with no body, and this has {content_length} bytes")
            return cls(total, total, total, finishing=True)
        start, stop = int(found[1]), int(found[2]) + 1
        if not start < stop <= total:
            raise InvalidInput(f"{content_range!r} is no range")
        if content_length is not None and content_length != stop - start:
            raise InvalidInput(f"{content_range!r} are {stop - start} bytes, and Content-Length is {content_length}")
        return cls(start, stop, total)
