"""The Range and Content-Range header fields as value types: parse, resolve against a size, format.

The law (RFC 9110, section 14):

- `ranges-specifier = range-unit "=" OWS range-set` (OWS by erratum 7306), `range-set = 1#range-spec`; unit names are
  case-insensitive (14.1).
- A specifier with one invalid spec (last < first, or a form that `bytes` does not define) is invalid as a whole
  (14.1.1); a server may ignore or reject it (14.2). We ignore it: the client gets the whole blob and not an error.
- A first position at or beyond the size, or a suffix of no bytes, can't be satisfied; such a spec is dropped, and the
  answer is 416 if none is left (14.1.2, 15.5.17). A last position beyond the size and a suffix longer than the size are
  cut to what is there.
- A server may reject "more than two overlapping ranges" and sets of many (14.2, 17.15). We answer 416 to both.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_RANGES: Final = 16
"""Specs in one Range header above which the answer is 416."""

_MAX_DIGITS: Final = 18
_HUGE: Final = 10**_MAX_DIGITS  # beyond every file's size, and within off_t

# Repetitions are possessive: no input makes the matcher go back, so the cost is linear.
_PREFIX: Final = re.compile(r"bytes=", re.ASCII | re.IGNORECASE)
# A run of separators stands for empty elements, which are skipped (5.6.1.2), or for the whitespace after "=".
_SEPARATORS: Final = re.compile(r"[ \t,]*+")
_SPEC: Final = re.compile(r"([0-9]*+)-([0-9]*+)[ \t]*+(?:,|\Z)")


class Slice(NamedTuple):
    """A contiguous piece of a representation.

    Attributes:
        offset: of the first byte, from 0.
        length: in bytes, at least 1 when it comes from a Range.
    """

    offset: int
    length: int


class IntRange(NamedTuple):
    """`first-last` or `first-` (RFC 9110, 14.1.1): positions are inclusive, `last` is None when left open."""

    first: int
    last: int | None


class SuffixRange(NamedTuple):
    """`-length` (RFC 9110, 14.1.1): the last `length` bytes."""

    length: int


RangeSpec: TypeAlias = IntRange | SuffixRange


def parse_range(text: str, *, max_ranges: int = MAX_RANGES) -> tuple[RangeSpec, ...] | None:
    """Read the value of a Range header.

    Numbers of more than 18 digits are taken as 10**18, which is beyond every size; no text makes this slow or raises.

    Returns:
        The specs in the order given, at most `max_ranges + 1`: the rest is not read, for the answer is settled by then.
        None if the header is to be ignored: another unit, or not valid.
    """
    text = text.strip(" \t")
    prefix = _PREFIX.match(text)
    if prefix is None:
        return None
    specs: list[RangeSpec] = []
    position = _past_separators(text, prefix.end())
    while position < len(text) and len(specs) <= max_ranges:
        element = _SPEC.match(text, position)
        spec = _spec(*element.groups()) if element else None
        if element is None or spec is None:
            return None
        specs.append(spec)
        position = _past_separators(text, element.end())
    return tuple(specs) or None


def _past_separators(text: str, position: int) -> int:
    found = _SEPARATORS.match(text, position)
    return found.end() if found else position


def _spec(first: str, last: str) -> RangeSpec | None:
    """One spec from its two runs of digits, either of which may be empty; None if it is invalid."""
    if not first:
        return SuffixRange(_number(last)) if last else None
    if not last:
        return IntRange(_number(first), None)
    if len(first) <= _MAX_DIGITS and len(last) <= _MAX_DIGITS:
        start, stop = int(first), int(last)
        return IntRange(start, stop) if start <= stop else None
    # Which one is larger must be known exactly even where the value no longer matters: 9…9-1…1 is invalid.
    first, last = first.lstrip("0"), last.lstrip("0")
    if (len(first), first) > (len(last), last):
        return None
    return IntRange(_number(first), _number(last))


def _number(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        digits = digits.lstrip("0")
        if len(digits) > _MAX_DIGITS:
            return _HUGE
    return int(digits or "0")


def resolve(specs: Sequence[RangeSpec], size: int) -> tuple[Slice, ...]:
    """The slices of a representation of `size` bytes that satisfy `specs`, in their order (RFC 9110, 14.1.2).

    Specs that can't be satisfied are left out; nothing is merged or sorted.
    """
    slices = []
    for spec in specs:
        if isinstance(spec, SuffixRange):
            length = min(spec.length, size)
            if length:
                slices.append(Slice(size - length, length))
        elif spec.first < size:
            stop = size if spec.last is None else min(spec.last + 1, size)
            slices.append(Slice(spec.first, stop - spec.first))
    return tuple(slices)


def overlapping(slices: Sequence[Slice]) -> int:
    """How many of the slices share at least one byte with at least one other of them."""
    ordered = sorted(slices)
    count = 0
    reached = 0  # the furthest end of all slices before this one
    for index, (offset, length) in enumerate(ordered):
        # Of the slices after this one the next begins first: if that one does not overlap, none does.
        if offset < reached or (index + 1 < len(ordered) and ordered[index + 1].offset < offset + length):
            count += 1
        reached = max(reached, offset + length)
    return count


def select(specs: Sequence[RangeSpec], size: int, *, max_ranges: int = MAX_RANGES) -> tuple[Slice, ...] | None:
    """Decide what a Range header gets from a representation of `size` bytes.

    Returns:
        The slices to send; an empty tuple if the answer is 416: nothing satisfiable, more than `max_ranges` specs, or
        more than two slices that overlap with another; None if the header is to be ignored: a suffix of an empty
        representation is satisfiable (RFC 9110, 14.1.2), and Content-Range can't say so.
    """
    if len(specs) > max_ranges:
        return ()
    slices = resolve(specs, size)
    if len(slices) > 2 and overlapping(slices) > 2:
        return ()
    if size == 0 and any(isinstance(spec, SuffixRange) and spec.length for spec in specs):
        return None
    return slices


def content_range(piece: Slice, size: int) -> str:
    """The value of Content-Range for a slice of `size` bytes (RFC 9110, 14.4)."""
    return f"bytes {piece.offset}-{piece.offset + piece.length - 1}/{size}"


def unsatisfied_range(size: int) -> str:
    """The value of Content-Range in a 416 (RFC 9110, 14.4)."""
    return f"bytes */{size}"
