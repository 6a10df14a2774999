"""The join of records, and how two tables are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrother_node.errors import InvalidInput
from aibrother_node.fleet.record import ENTRY_BYTES, NAME_BYTES, SignedRecord
from aibrother_node.fleet.table import RecordTable, TableLimits, Verdict
from fleet.parts import NOW, KeyedHash, id_of, members, record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LIMITS = TableLimits(forget_after=1000.0, clock_tolerance=100.0)
ANN, BOB, CAT, DAN, EVE = (KeyedHash(name) for name in ("ann", "bob", "cat", "dan", "eve"))
OTHERS = (ANN, BOB, CAT, DAN)
OWN = KeyedHash("own")
# two of each key have the same incarnation and version: their owner signed twice
RECORDS = [
    record(key, version, incarnation=incarnation, region=region)
    for key in OTHERS
    for incarnation, version, region in ((1, 1, "a"), (1, 2, "a"), (1, 2, "b"), (2, 1, "a"))
]
CHOSEN = st.lists(st.sampled_from(RECORDS))


def new_table(records: Iterable[SignedRecord] = ()) -> RecordTable:
    signatures = KeyedHash("checks")
    table = RecordTable(signatures, LIMITS)
    table.set_members(members((*OTHERS, OWN)))
    take(table, records)
    return table


def take(table: RecordTable, records: Iterable[SignedRecord]) -> list[Verdict]:
    return [merge(table, one.raw) for one in records]


def merge(table: RecordTable, raw: bytes, sender: KeyedHash = DAN, now: float = NOW) -> Verdict:
    verdict, found = table.merge(raw, id_of(sender), id_of(OWN), now)
    assert (found is not None) == (verdict in (Verdict.ACCEPTED, Verdict.OWN))
    return verdict


def checks(table: RecordTable) -> int:
    signatures = table._signatures
    assert isinstance(signatures, KeyedHash)
    return signatures.verified


# -- the law -----------------------------------------------------------------------------------------------------------


@given(CHOSEN.flatmap(lambda chosen: st.tuples(st.just(chosen), st.permutations(chosen))), CHOSEN)
def test_the_order_and_number_of_arrivals_do_not_matter(
    two: tuple[Sequence[SignedRecord], Sequence[SignedRecord]], again: list[SignedRecord]
) -> None:
    chosen, shuffled = two
    doubled = [*shuffled, *(one for one in again if one in chosen), *chosen]
    assert new_table(chosen).state() == new_table(shuffled).state() == new_table(doubled).state()


@given(CHOSEN, CHOSEN, CHOSEN)
def test_batches_join_in_any_grouping(a: list[SignedRecord], b: list[SignedRecord], c: list[SignedRecord]) -> None:
    def join(*tables: RecordTable) -> RecordTable:
        return new_table(one for table in tables for one in table.records().values())

    first = join(join(new_table(a), new_table(b)), new_table(c))
    second = join(new_table(a), join(new_table(b), new_table(c)))
    assert first.state() == second.state() == join(new_table(c), new_table(a), new_table(b)).state()
    assert join(first, first).state() == first.state()


@given(CHOSEN)
def test_what_is_known_only_grows(chosen: list[SignedRecord]) -> None:
    table = new_table()
    for one in chosen:
        before = dict(table.records())
        merge(table, one.raw)
        for node, known in before.items():
            assert table.records()[node].order >= known.order
        best = table.get(one.id)
        assert best is not None
        assert best.order >= one.order


@given(CHOSEN, CHOSEN)
def test_two_tables_are_equal_after_one_exchange(a: list[SignedRecord], b: list[SignedRecord]) -> None:
    one, other = new_table(a), new_table(b)
    exchange(one, other, 0, 100)
    assert one.state() == other.state() == new_table([*a, *b]).state()


@given(CHOSEN, CHOSEN, st.integers(1, 3))
def test_partial_digests_by_turns_come_to_the_same(a: list[SignedRecord], b: list[SignedRecord], most: int) -> None:
    one, other = new_table(a), new_table(b)
    turn = 0
    for _ in range(12):
        exchange(one, other, turn, most)
        turn += most
    assert one.state() == other.state() == new_table([*a, *b]).state()


def exchange(one: RecordTable, other: RecordTable, start: int, most: int) -> None:
    """What a `syn`, an `ack` and a `push` do."""
    lowest, beyond, digest = one.digest(start, most)
    assert len(digest) <= most * ENTRY_BYTES
    lacking, names = other.compare(lowest, beyond, digest)
    wanted = one.named(names)
    assert len(wanted) * NAME_BYTES == len(names)
    # nothing is sent that the other has already
    assert set(take(one, lacking)) <= {Verdict.ACCEPTED}
    assert set(take(other, wanted)) <= {Verdict.ACCEPTED}


@given(CHOSEN, st.integers(0, 10), st.integers(1, 5))
def test_a_part_of_a_digest_speaks_of_its_bounds_alone(chosen: list[SignedRecord], start: int, most: int) -> None:
    table = new_table(chosen)
    lowest, beyond, digest = table.digest(start, most)
    lacking, names = new_table().compare(lowest, beyond, digest)
    assert (lacking, len(names) // NAME_BYTES) == ([], len(digest) // ENTRY_BYTES)
    assert new_table(chosen).compare(lowest, beyond, digest) == ([], b"")
    told = {digest[i : i + NAME_BYTES] for i in range(0, len(digest), ENTRY_BYTES)}
    lacking, _ = table.compare(lowest, beyond, b"")
    assert {bytes.fromhex(one.id)[:NAME_BYTES] for one in lacking} == told


@given(st.binary(max_size=200), st.binary(max_size=8), st.binary(max_size=8))
def test_hostile_digests_only_ever_raise_invalid_input(digest: bytes, lowest: bytes, beyond: bytes) -> None:
    table = new_table(RECORDS)
    try:
        lacking, names = table.compare(lowest, beyond, digest)
    except InvalidInput:
        assert len(digest) % ENTRY_BYTES
        return
    assert len(lacking) <= len(table)
    assert len(table.named(names)) * NAME_BYTES == len(names)


# -- verdicts ----------------------------------------------------------------------------------------------------------

VERDICTS: list[tuple[Verdict, bytes]] = [
    (Verdict.ACCEPTED, record(ANN, 3).raw),
    (Verdict.DUPLICATE, record(ANN, 2).raw),
    (Verdict.STALE, record(ANN, 1).raw),
    (Verdict.STALE, record(ANN, 9, incarnation=0).raw),
    (Verdict.MALFORMED, b"nothing"),
    (Verdict.MALFORMED, record(ANN, 3).raw[:-1]),
    (Verdict.MALFORMED, bytes(5000)),
    (Verdict.STRANGER, record(EVE, 1).raw),
    (Verdict.FUTURE, record(ANN, 3, issued=NOW + 101).raw),
    (Verdict.ACCEPTED, record(ANN, 3, issued=NOW + 99).raw),
    (Verdict.FORGOTTEN, record(BOB, 3, issued=NOW - 1001).raw),
    (Verdict.ACCEPTED, record(BOB, 3, issued=NOW - 999).raw),
    (Verdict.FORGED, bytes(64) + record(ANN, 3).raw[64:]),
    (Verdict.FORGED, record(BOB, 3).raw[:64] + record(ANN, 3).raw[64:]),
    (Verdict.OWN, record(OWN, 1).raw),
    (Verdict.FORGED, bytes(64) + record(OWN, 1).raw[64:]),
]


@pytest.mark.parametrize(("verdict", "raw"), VERDICTS)
def test_each_verdict(verdict: Verdict, raw: bytes) -> None:
    table = new_table([record(ANN, 2)])
    before = table.state()
    assert merge(table, raw) is verdict
    assert (table.state() != before) == (verdict is Verdict.ACCEPTED)


def test_every_verdict_has_its_case() -> None:
    assert {verdict for verdict, _ in VERDICTS} == set(Verdict)
    assert {verdict for verdict in Verdict if verdict.refused} == {Verdict.MALFORMED, Verdict.FORGED, Verdict.FUTURE}


def test_only_its_owner_brings_what_is_old() -> None:
    table, old = new_table(), record(BOB, 3, issued=NOW - 1001)
    assert merge(table, old.raw, sender=ANN) is Verdict.FORGOTTEN
    assert merge(table, old.raw, sender=BOB) is Verdict.ACCEPTED


def test_what_came_too_early_is_taken_in_time() -> None:
    table, early = new_table(), record(BOB, 3, issued=NOW + 200)
    assert merge(table, early.raw) is Verdict.FUTURE
    assert merge(table, early.raw, now=NOW + 150) is Verdict.ACCEPTED


def test_a_stranger_may_become_a_member() -> None:
    table, theirs = new_table(), record(EVE)
    assert merge(table, theirs.raw) is Verdict.STRANGER
    table.set_members(members((*OTHERS, EVE, OWN)))
    assert merge(table, theirs.raw) is Verdict.ACCEPTED
    assert table.set_members(members((*OTHERS, OWN))) == [theirs.id]
    assert table.get(theirs.id) is None
    assert table.state() == new_table().state()


def test_no_signature_is_checked_twice_nor_in_vain() -> None:
    table = new_table([record(ANN, 2)])
    assert checks(table) == 1
    take(table, [record(ANN, 2)] * 100)
    assert checks(table) == 1, "a duplicate"
    for raw in (record(ANN, 1).raw, record(EVE).raw, record(BOB, 3, issued=NOW - 1001).raw, b"nothing"):
        merge(table, raw)
    assert checks(table) == 1, "what is refused for less"
    forged = bytes(64) + record(ANN, 3).raw[64:]
    assert [merge(table, forged) for _ in range(100)] == [Verdict.FORGED] * 100
    assert checks(table) == 2, "a bad one that is known"


def test_bad_ones_that_are_remembered_have_a_ceiling() -> None:
    table = new_table()
    for number in range(5000):
        merge(table, b"nothing %d" % number)
    assert len(table._refused) == 4096


def test_what_is_old_is_forgotten_but_for_who_is_spared() -> None:
    table = new_table([record(ANN), record(BOB, issued=NOW + 50), record(CAT)])
    table.put_own(record(OWN, issued=NOW - 5000))
    assert table.forget(NOW + 1000, [id_of(OWN)]) == []
    assert set(table.forget(NOW + 1001, [id_of(OWN)])) == {id_of(ANN), id_of(CAT)}
    assert set(table.records()) == {id_of(BOB), id_of(OWN)}
    assert table.forget(NOW + 1051, [id_of(OWN)]) == [id_of(BOB)]
    assert merge(table, record(ANN).raw, now=NOW + 1051) is Verdict.FORGOTTEN
    assert len(table) == 1


def test_names_that_are_not_here_are_left_out() -> None:
    found = new_table([record(ANN)]).named(
        bytes(8) + bytes.fromhex(id_of(ANN))[:8] + bytes.fromhex(id_of(BOB))[:8] + b"a"
    )
    assert [one.id for one in found] == [id_of(ANN)]
