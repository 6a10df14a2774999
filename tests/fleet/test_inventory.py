"""What a node has, and the copies that peers keep of that."""

from hashlib import sha256
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput
from aibrother_node.fleet.inventory import (
    MAX_ENTRIES,
    MAX_PAGE,
    Inventory,
    Page,
    PeerInventory,
    decode_page,
    encode_page,
)
from aibrother_node.fleet.view import Have


def blob(number: int) -> Digest:
    return Digest(sha256(str(number).encode()).digest())


def blobs(*numbers: int) -> set[Digest]:
    return {blob(number) for number in numbers}


numbers = st.sets(st.integers(0, 11))


def catch_up(copy: PeerInventory, inventory: Inventory, limit: int = 3) -> dict[Digest, Have]:
    """Ask until there is no more, by the wire; return what whoever followed the changes has."""
    known: dict[Digest, Have] = {}
    for _ in range(1000):
        follow(known, copy, inventory, limit)
        if copy.in_step_with(inventory.digest):
            return known
    raise AssertionError("never in step")


def follow(known: dict[Digest, Have], copy: PeerInventory, inventory: Inventory, limit: int) -> Page:
    page = decode_page(encode_page(inventory.page(copy.cursor, limit)))
    assert len(page.changes) <= limit
    changes, reset = copy.apply(page)
    if reset:
        known.clear()
    for digest, have in changes.items():
        if have is None:
            del known[digest]
        else:
            known[digest] = have
    return page


class Following(RuleBasedStateMachine):
    """Any interleaving of updates, pages and restarts ends with copies that are equal to the original."""

    @initialize(remembered=st.integers(0, 6))
    def begin(self, remembered: int) -> None:
        self.remembered = remembered
        self.epochs = 0
        self.state: dict[Digest, Have] = {}
        self.copies: list[tuple[dict[Digest, Have], PeerInventory]] = [({}, PeerInventory()) for _ in range(2)]
        self.restart()

    @rule()
    def restart(self) -> None:
        self.epochs += 1
        self.inventory = Inventory(self.epochs.to_bytes(4), remembered=self.remembered)
        self.state = {}

    @rule(complete=numbers, partial=numbers)
    def update(self, complete: set[int], partial: set[int]) -> None:
        before = dict(self.state)
        self.state = {**dict.fromkeys(blobs(*partial), "partial"), **dict.fromkeys(blobs(*complete), "complete")}
        changed = self.inventory.update(blobs(*complete), blobs(*partial))
        assert changed == (before != self.state)

    @rule(which=st.integers(0, 1), limit=st.integers(1, 5))
    def ask(self, which: int, limit: int) -> None:
        known, copy = self.copies[which]
        page = follow(known, copy, self.inventory, limit)
        if not page.more:
            assert copy.cursor == page.cursor, "what the last page left is right"
            assert known == self.state

    @invariant()
    def hashes_tell(self) -> None:
        if not hasattr(self, "inventory"):
            return
        for known, copy in self.copies:
            assert copy.in_step_with(self.inventory.digest) == (known == self.state)
            assert len(copy) == len(known)

    def teardown(self) -> None:
        if not hasattr(self, "inventory"):
            return
        for known, copy in self.copies:
            pages = 0
            while follow(known, copy, self.inventory, 2).more:
                pages += 1
                assert pages <= 20, "it ends"
            assert known == self.state


TestFollowing = Following.TestCase
TestFollowing.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def test_a_delta_is_what_changed_and_no_more() -> None:
    inventory = Inventory(b"\x07")
    assert inventory.update(blobs(*range(50)), set())
    first = inventory.page(limit=MAX_ENTRIES)
    assert (first.reset, first.more, len(first.changes)) == (True, False, 50)
    assert first.cursor == "07.50"
    assert not inventory.update(blobs(*range(50)), set())
    assert inventory.page(first.cursor) == Page("07.50", {}, inventory.digest)
    assert inventory.update(blobs(*range(1, 50)), blobs(60))
    delta = inventory.page(first.cursor)
    assert (delta.reset, delta.more) == (False, False)
    assert delta.changes == {blob(60): "partial", blob(0): None}
    assert inventory.update(blobs(*range(1, 50), 60), blobs(60)), "a fill came to its end"
    assert inventory.page(delta.cursor).changes == {blob(60): "complete"}
    assert inventory.page(first.cursor).changes == {blob(60): "complete", blob(0): None}, "each blob once"


def test_the_digest_depends_on_what_is_there_and_on_nothing_else() -> None:
    one, other = Inventory(b"1"), Inventory(b"2")
    assert one.digest == other.digest == bytes(32)
    one.update(blobs(1, 2), blobs(3))
    other.update(blobs(9), blobs(1))
    assert one.digest != other.digest
    other.update(blobs(1, 2), blobs(3, 1))
    assert one.digest == other.digest
    other.update(blobs(1, 2, 3), set())
    assert one.digest != other.digest, "complete or partial is a difference"
    one.update(set(), set())
    assert one.digest == bytes(32)


def test_who_was_away_too_long_begins_anew() -> None:
    inventory = Inventory(b"\x07", remembered=5)
    inventory.update(blobs(*range(20)), set())
    cursor = inventory.page().cursor
    inventory.update(blobs(*range(5, 20)), set())
    assert not inventory.page(cursor).reset, "five removals are remembered"
    inventory.update(blobs(*range(6, 20)), set())
    page = inventory.page(cursor)
    assert page.reset
    assert page.changes.keys() == blobs(*range(6, 20))
    assert not inventory.page(page.cursor).reset


def test_a_listing_in_pages_ends_also_where_removals_were_forgotten_before_it() -> None:
    inventory = Inventory(b"\x07", remembered=0)
    inventory.update(blobs(*range(40)), set())
    inventory.update(blobs(*range(30)), set())
    assert catch_up(PeerInventory(), inventory, limit=7).keys() == blobs(*range(30))


def test_a_removal_between_two_pages_is_not_lost() -> None:
    for remembered in (0, 1, 100):
        inventory = Inventory(b"\x07", remembered=remembered)
        inventory.update(blobs(*range(10)), set())
        copy = PeerInventory()
        known: dict[Digest, Have] = {}
        follow(known, copy, inventory, limit=5)
        assert len(known) == 5
        inventory.update(set(), set())
        while follow(known, copy, inventory, limit=3).more:
            pass
        assert known == {}


@pytest.mark.parametrize(
    "since", ["", "x", "07", "07.", "07.11", "07.5.11", "08.5", "07.-1", "07.5.", "07.٣", "07." + "9" * 5000, "\n07.5"]
)
def test_what_is_no_cursor_of_this_run_begins_anew(since: str) -> None:
    inventory = Inventory(b"\x07")
    inventory.update(blobs(*range(10)), set())
    assert inventory.page("07.5").reset is False
    assert inventory.page(since).reset


def test_the_log_stays_in_bounds() -> None:
    inventory = Inventory(b"\x07", remembered=10)
    for i in range(3000):
        inventory.update(blobs(i, i + 1), blobs(i % 7 + 1_000_000))
    assert len(inventory._log) <= 2 * 14 + 1000 + 4
    assert len(inventory._last) <= 3 + 10
    assert len(inventory._removals) <= 10


def test_a_limit_is_kept() -> None:
    inventory = Inventory(b"\x07")
    inventory.update(blobs(*range(MAX_ENTRIES + 5)), set())
    assert len(inventory.page().changes) == 1000
    for asked, given_ in ((0, 1), (-5, 1), (7, 7), (10**9, MAX_ENTRIES)):
        page = inventory.page(limit=asked)
        assert (len(page.changes), page.more) == (given_, True)
        assert decode_page(encode_page(page)) == page


def test_an_epoch_is_short() -> None:
    for wrong in (b"", bytes(33)):
        with pytest.raises(ValueError, match="epoch"):
            Inventory(wrong)


def test_a_peer_that_has_too_much_is_kept_in_part() -> None:
    inventory = Inventory(b"\x07")
    inventory.update(blobs(*range(12)), set())
    copy = PeerInventory(ceiling=10)
    changes, _ = copy.apply(inventory.page(limit=10))
    assert (len(changes), copy.full) == (10, False)
    changes, _ = copy.apply(inventory.page(copy.cursor))
    assert (len(changes), copy.full, len(copy)) == (0, True, 10)
    assert copy.cursor == "07.12", "it doesn't begin again for ever"
    assert not copy.in_step_with(inventory.digest)
    inventory.update(blobs(1), set())
    inventory.update(blobs(*range(3)), set())
    copy.apply(inventory.page())
    assert not copy.full
    assert copy.in_step_with(inventory.digest), "a listing from the start gives it another chance"


def test_a_copy_that_is_wrong_begins_anew() -> None:
    inventory = Inventory(b"\x07")
    inventory.update(blobs(1, 2, 3), set())
    copy = PeerInventory()
    page = inventory.page()
    copy.apply(Page(page.cursor, {blob(1): "complete"}, page.digest, reset=True))
    assert copy.cursor is None
    with pytest.raises(InvalidInput, match="goes on"):
        copy.apply(Page(page.cursor, {}, page.digest))
    assert catch_up(copy, inventory).keys() == blobs(1, 2, 3)


def test_changes_are_those_that_change() -> None:
    copy = PeerInventory()
    first: dict[Digest, Have | None] = {blob(1): "complete", blob(2): None}
    assert copy.apply(Page("a", first, bytes(32), reset=True, more=True)) == ({blob(1): "complete"}, True)
    second: dict[Digest, Have | None] = {blob(1): "complete", blob(3): "partial"}
    assert copy.apply(Page("b", second, bytes(32), more=True)) == ({blob(3): "partial"}, False)


# -- the wire

GOOD: dict[str, Any] = {
    "cursor": "07.5",
    "digest": bytes(32),
    "reset": False,
    "more": False,
    "complete": blob(1).raw + blob(2).raw,
    "partial": blob(3).raw,
    "gone": blob(4).raw,
}


def test_a_page_reads_as_it_was_written() -> None:
    page = decode_page(msgpack.packb({**GOOD, "later": [1, {"x": None}]}))
    assert page == Page(
        "07.5", {blob(1): "complete", blob(2): "complete", blob(3): "partial", blob(4): None}, bytes(32)
    )
    assert encode_page(page) == msgpack.packb(GOOD)


@pytest.mark.parametrize(
    "change",
    [
        {"cursor": ""},
        {"cursor": b"07.5"},
        {"cursor": "x" * 129},
        {"cursor": "07.5\r\nHost: x"},
        {"cursor": "é"},
        {"cursor": None},
        {"digest": bytes(31)},
        {"digest": "0" * 32},
        {"reset": 1},
        {"more": None},
        {"complete": bytes(33)},
        {"complete": [blob(1).raw]},
        {"partial": blob(1).raw},
        {"gone": blob(4).raw * 2},
        {"complete": b"", "partial": b"", "gone": b"", "more": True},
        {"complete": b"".join(blob(i).raw for i in range(10, MAX_ENTRIES + 10))},
        {"later": list(range(65))},
        {"later": msgpack.ExtType(1, b"x")},
        {"later": {1: 2}},
        {"later": bytes(MAX_PAGE)},
        {"later": "\udcff"},
    ],
)
def test_what_breaks_the_format_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        decode_page(msgpack.packb({**GOOD, **change}, unicode_errors="surrogateescape"))


@pytest.mark.parametrize(
    "content", [b"", b"\xc1", b"\x90", b"\x80", b"\x91" * 5000, msgpack.packb(GOOD)[:-1], msgpack.packb(GOOD) + b"\0"]
)
def test_what_is_no_page_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode_page(content)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=70) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(list(GOOD)), values))
@settings(max_examples=300, deadline=None)
def test_any_values_make_a_page_or_are_refused(changes: dict[str, Any]) -> None:
    try:
        page = decode_page(msgpack.packb({**GOOD, **changes}))
    except InvalidInput:
        return
    assert decode_page(encode_page(page)) == page


@given(st.binary(max_size=300), st.integers(0, 250), st.integers(0, 40))
@settings(max_examples=500, deadline=None)
def test_any_bytes_make_a_page_or_are_refused(noise: bytes, at: int, cut: int) -> None:
    good = msgpack.packb(GOOD)
    for content in (noise, good[:at] + noise + good[at + cut :]):
        try:
            page = decode_page(content)
        except InvalidInput:
            continue
        assert decode_page(encode_page(page)) == page
