"""Range and Content-Range: parsing, resolving, the policy against abusive sets."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrother_node.web.ranges import (
    IntRange,
    RangeSpec,
    Slice,
    SuffixRange,
    content_range,
    overlapping,
    parse_range,
    resolve,
    select,
    unsatisfied_range,
)

from . import law

HUGE = 10**18


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ("bytes=0-499", (IntRange(0, 499),)),
        ("bytes=9500-", (IntRange(9500, None),)),
        ("bytes=-500", (SuffixRange(500),)),
        ("bytes=-0", (SuffixRange(0),)),
        ("bytes=0-0", (IntRange(0, 0),)),
        ("bytes=0-0,-1", (IntRange(0, 0), SuffixRange(1))),
        ("bytes= 0-999, 4500-5499, -1000", (IntRange(0, 999), IntRange(4500, 5499), SuffixRange(1000))),
        ("bytes=5-9,0-1", (IntRange(5, 9), IntRange(0, 1))),
        (" \tbytes=0-1\t ", (IntRange(0, 1),)),
        ("BYTES=0-1", (IntRange(0, 1),)),
        ("bytes=007-0010", (IntRange(7, 10),)),
        ("bytes=,0-1", (IntRange(0, 1),)),
        ("bytes= ,\t, 0-1 ,, 2- ,", (IntRange(0, 1), IntRange(2, None))),
        ("bytes=999999999999999999-", (IntRange(HUGE - 1, None),)),
        ("bytes=1000000000000000000-", (IntRange(HUGE, None),)),
        ("bytes=0-99999999999999999999999", (IntRange(0, HUGE),)),
        ("bytes=99999999999999999998-99999999999999999999", (IntRange(HUGE, HUGE),)),
        ("bytes=-99999999999999999999", (SuffixRange(HUGE),)),
    ],
)
def test_valid(text: str, specs: tuple[RangeSpec, ...]) -> None:
    assert parse_range(text) == specs


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes= ",
        "bytes=-",
        "bytes=1-0",
        "bytes=0-1,1-0",
        "bytes=99999999999999999999-99999999999999999998",
        "bytes=99999999999999999999-1",
        "bytes=a-b",
        "bytes=0-1;2-3",
        "bytes=0-1 2-3",
        "bytes=0 - 1",
        "bytes=0-1-2",
        "bytes=--1",
        "bytes=+0-1",
        "bytes=0x0-0x1",
        "bytes=1_0-20",
        "bytes=٠-١",
        "bytes=0-1\n",
        "bytes=0-1\x00",
        "bytes =0-1",
        "bytes:0-1",
        "bytes 0-1",
        "items=0-1",
        "xbytes=0-1",
        "bytes=0-1, items=0-1",
        "bytes=0-1, bytes=2-3",  # two lines of the field, joined
    ],
)
def test_ignored(text: str) -> None:
    assert parse_range(text) is None


def test_reading_stops_at_one_spec_too_many() -> None:
    assert parse_range("bytes=0-0,1-1,2-2,rubbish", max_ranges=2) == (IntRange(0, 0), IntRange(1, 1), IntRange(2, 2))
    assert parse_range("bytes=0-0,1-1,2-2,rubbish", max_ranges=3) is None


@pytest.mark.parametrize(
    "text",
    [
        "bytes=" + "9" * 1_000_000 + "-",
        "bytes=0-" + "9" * 1_000_000,
        "bytes=" + "1" * 500_000 + "-" + "2" * 500_000,
        "bytes=" + "0-0," * 250_000,
        "bytes=" + "," * 1_000_000 + "0-0",
        "bytes=" + " " * 1_000_000 + "x",
        "bytes=0-0" + " " * 1_000_000 + "x",
        "bytes=" + ", " * 500_000 + "x",
    ],
)
def test_a_megabyte_costs_little(text: str) -> None:
    begin = time.process_time()
    parse_range(text)
    # Linear work takes milliseconds; going back over whitespace or converting the number would take minutes.
    assert time.process_time() - begin < 1


@pytest.mark.parametrize(
    ("specs", "size", "slices"),
    [
        ((IntRange(0, 9),), 10, (Slice(0, 10),)),
        ((IntRange(0, 10),), 10, (Slice(0, 10),)),
        ((IntRange(9, None),), 10, (Slice(9, 1),)),
        ((IntRange(10, None),), 10, ()),
        ((IntRange(10, 20), IntRange(3, 3)), 10, (Slice(3, 1),)),
        ((SuffixRange(3),), 10, (Slice(7, 3),)),
        ((SuffixRange(30),), 10, (Slice(0, 10),)),
        ((SuffixRange(0),), 10, ()),
        ((SuffixRange(3), IntRange(0, None)), 0, ()),
        ((IntRange(0, HUGE), IntRange(HUGE, HUGE), SuffixRange(HUGE)), 10, (Slice(0, 10), Slice(0, 10))),
    ],
)
def test_resolve(specs: tuple[RangeSpec, ...], size: int, slices: tuple[Slice, ...]) -> None:
    assert resolve(specs, size) == slices


@pytest.mark.parametrize(
    ("slices", "count"),
    [
        ([], 0),
        ([(0, 5)], 0),
        ([(0, 5), (5, 5)], 0),
        ([(0, 5), (4, 5)], 2),
        ([(4, 5), (0, 5)], 2),
        ([(0, 5), (0, 5)], 2),
        ([(0, 5), (4, 2), (5, 5)], 3),
        ([(0, 100), (1, 1), (5, 1)], 3),
        ([(0, 100), (1, 1), (100, 1)], 2),
        ([(0, 2), (1, 2), (10, 2), (11, 2)], 4),
    ],
)
def test_overlapping(slices: list[tuple[int, int]], count: int) -> None:
    assert overlapping([Slice(*piece) for piece in slices]) == count


@law
@given(st.lists(st.builds(Slice, st.integers(0, 40), st.integers(1, 12)), max_size=16))
def test_overlapping_counts_what_shares_a_byte(slices: list[Slice]) -> None:
    covered = [set(range(offset, offset + length)) for offset, length in slices]
    shared = [i for i, mine in enumerate(covered) if any(mine & other for j, other in enumerate(covered) if i != j)]
    assert overlapping(slices) == len(shared)


@pytest.mark.parametrize(
    ("text", "size", "selected"),
    [
        ("bytes=0-,-1", 0, None),
        ("bytes=0-,-0", 0, ()),
        ("bytes=" + ",".join(f"{i}-{i}" for i in range(16)), 99, tuple(Slice(i, 1) for i in range(16))),
        ("bytes=" + ",".join(f"{i}-{i}" for i in range(17)), 99, ()),
        ("bytes=" + ",".join(f"{i}-{i}" for i in range(17)), 1, ()),  # too many, however few can be satisfied
        ("bytes=" + ",".join(["-1"] * 17), 0, ()),
        ("bytes=0-5,3-9,9-9", 9, (Slice(0, 6), Slice(3, 6))),  # the third would overlap, but is not there
    ],
)
def test_select(text: str, size: int, selected: tuple[Slice, ...] | None) -> None:
    specs = parse_range(text)
    assert specs is not None
    assert select(specs, size) == selected


def test_content_range() -> None:
    # RFC 9110, 14.4
    assert content_range(Slice(42, 1192), 1234) == "bytes 42-1233/1234"
    assert content_range(Slice(0, 500), 1234) == "bytes 0-499/1234"
    assert unsatisfied_range(1234) == "bytes */1234"
