"""The table of what isn't sent any more: laws of its ranges, and readers while it is written."""

import itertools
import os
import random
import threading
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from aibrother_node.content.digest import Digest
from aibrother_node.store.withheld import (
    CAPACITY,
    WHOLE,
    Withheld,
    WithheldWriter,
    first_withheld,
    fitting,
    merged,
)

_RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8)


def _digest(number: int) -> Digest:
    return Digest(number.to_bytes(32, "big"))


@given(_RANGES, st.integers(0, 70), st.integers(0, 20))
def test_ranges_against_sets(pairs: list[tuple[int, int]], offset: int, length: int) -> None:
    bytes_of = {place for start, stop in pairs for place in range(start, stop)}
    ranges = merged(pairs)
    assert {place for start, stop in ranges for place in range(start, stop)} == bytes_of
    assert all(before[1] < after[0] for before, after in itertools.pairwise(ranges))
    wanted = [place for place in range(offset, offset + length) if place in bytes_of]
    assert first_withheld(ranges, offset, length) == (wanted[0] if wanted else None)


@given(st.dictionaries(st.tuples(st.binary(min_size=32, max_size=32), st.integers(0, 9)), _RANGES, max_size=6))
def test_what_does_not_fit_is_withheld_all_the_more(
    found: dict[tuple[bytes, int], list[tuple[int, int]]],
) -> None:
    files = {key: ranges for key, pairs in found.items() if (ranges := merged(pairs))}
    for capacity in range(12):
        entries = fitting(files, capacity)
        if entries is None:
            assert len(files) > capacity
            continue
        assert len(entries) <= capacity
        for key, ranges in files.items():
            shown = merged((one.offset, one.offset + one.length) for one in entries if (one.digest, one.inode) == key)
            for start, stop in ranges:
                assert all(first_withheld(shown, place, 1) == place for place in range(start, stop))


def test_what_is_said_is_read(tmp_path: Path) -> None:
    path = tmp_path / "withheld"
    reader = Withheld(path)
    assert reader.ranges(_digest(1), 5) == ()
    writer = WithheldWriter(path)
    writer.withhold(_digest(1), 5, [(10, 20)])
    before = reader.now()
    writer.also_withhold(_digest(1), 5, [(15, 30), (40, 50)])
    assert reader.now() != before
    assert reader.ranges(_digest(1), 5) == ((10, 30), (40, 50))
    assert reader.ranges(_digest(1), 6) == (), "another file of that blob"
    assert reader.ranges(_digest(2), 5) == ()

    successor = WithheldWriter(path)  # another control, while the workers live
    assert reader.ranges(_digest(1), 5) == ((10, 30), (40, 50))
    successor.retire_others([], until=100.0)
    successor.forget_retired(99.0)
    assert reader.ranges(_digest(1), 5) == ((10, 30), (40, 50))
    successor.forget_retired(100.0)
    assert reader.ranges(_digest(1), 5) == ()


def test_rubbish_is_no_table(tmp_path: Path) -> None:
    """What a crash of the machine may leave of a mapped file."""
    path = tmp_path / "withheld"
    path.write_bytes(os.urandom(CAPACITY * 120))
    reader = Withheld(path)
    assert reader.ranges(_digest(1), 5) == ()
    writer = WithheldWriter(path)
    assert reader.ranges(_digest(1), 5) == ()
    assert reader.seen == reader.now(), "it needs no further look"
    writer.withhold(_digest(1), 5, [(10, 20)])
    assert reader.ranges(_digest(1), 5) == ((10, 20),)


def test_a_full_table_withholds_whole_blobs_and_then_everything(tmp_path: Path) -> None:
    reader, writer = Withheld(tmp_path / "withheld"), WithheldWriter(tmp_path / "withheld")
    writer.withhold(_digest(0), 1, [(2 * n, 2 * n + 1) for n in range(CAPACITY + 1)])
    assert reader.ranges(_digest(0), 1) == ((0, WHOLE),)
    writer.withhold_all((_digest(number), 1, [(0, 1)]) for number in range(1, CAPACITY + 1))
    assert reader.ranges(_digest(99_999), 7) == ((0, WHOLE),)
    writer.withhold(_digest(0), 1, [])
    assert reader.ranges(_digest(99_999), 7) == ()
    assert reader.ranges(_digest(CAPACITY), 1) == ((0, 1),)


def test_readers_never_see_half_a_table(tmp_path: Path) -> None:
    """Each table that is written has one blob's entries only; a reader that sees two kinds saw half of each."""
    path = tmp_path / "withheld"
    writer, over = WithheldWriter(path), threading.Event()

    def write() -> None:
        made = random.Random(4)
        while not over.is_set():
            length = made.randrange(1, 2**40)
            writer.withhold(_digest(1), 1, [(k * 2**41, k * 2**41 + length) for k in range(made.randrange(1, 400))])

    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen = 0
        reader = Withheld(path)
        for _ in range(3000):
            ranges = reader.ranges(_digest(1), 1)
            seen += bool(ranges)
            assert len({stop - start for start, stop in ranges}) <= 1
    finally:
        over.set()
        thread.join()
    assert seen


def test_a_table_that_was_not_finished_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "withheld"
    writer, reader = WithheldWriter(path), Withheld(path)
    writer.withhold(_digest(1), 1, [(0, 10)])
    held = path.read_bytes()
    writer.withhold(_digest(2), 1, [(0, 10)])
    newer = path.read_bytes()
    for cut in (
        20,
        60,
        200,
        len(held) // 2 + 30,
    ):  # a control that died so far into the other table, the number not yet
        torn = held[:8] + newer[8:cut] + held[cut:]
        fd = os.open(path, os.O_WRONLY)
        os.pwrite(fd, torn, 0)
        os.close(fd)
        assert reader.ranges(_digest(1), 1) == ((0, 10),)
        assert reader.ranges(_digest(2), 1) == ()
    assert WithheldWriter(path)._files.keys() == {(_digest(1).raw, 1)}
