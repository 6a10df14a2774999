"""JSON from outside: bounded in length and depth before anything is built from it."""

from __future__ import annotations

import json
from typing import Final, NoReturn

from aibrother_node.errors import InvalidInput

_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
_ALL_BUT_BRACKETS: Final = bytes(sorted(set(range(256)) - set(b'[]{}"')))


def loads(data: bytes, what: str, max_bytes: int, max_depth: int) -> object:
    """Parse JSON (RFC 8259) in UTF-8: one value; NaN, infinities and members that occur twice are refused.

    Raises:
        InvalidInput: it is longer or nested deeper than that, or no JSON.
    """
    if len(data) > max_bytes:
        raise InvalidInput(f"{what} has {len(data)} bytes, more than the {max_bytes} allowed")
    if not _nests_at_most(data, max_depth):
        raise InvalidInput(f"{what} has brackets that don't pair off or are nested deeper than {max_depth}")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # ValueError: also bad UTF-8, and integers of thousands of digits
        raise InvalidInput(f"{what} is no JSON: {error}") from None


def _nests_at_most(data: bytes, depth: int) -> bool:
    """Tell whether all brackets outside strings pair off and none is inside more than `depth - 1` others.

    Every step runs over the bytes in C. Backslashes before the first fault of a text stand in strings only, where a run
    of them pairs off from its start; what comes after a fault is never parsed, so a wrong count there does no harm.
    """
    marks = data.replace(rb"\\", b"").replace(rb"\"", b"").translate(_ONE_KIND, _ALL_BUT_BRACKETS)
    left = b"".join(marks.split(b'"')[::2])
    for _ in range(depth):
        if not left:
            return True
        left = left.replace(b"[]", b"")  # the innermost level of each nest
    return not left


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member occurs twice in an object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
