"""What stays and what goes: decisions about stores that are written down in a few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from aibrother_node.content.digest import Digest
from aibrother_node.store.collection.gc import Held, Name, Rules, Seen, Verdict, plan, room_for
from aibrother_node.store.last_access import LastAccess
from aibrother_node.store.leases import LONGEST, Lease

if TYPE_CHECKING:
    from pathlib import Path

NOW = 2_000_000_000.0
DAY = 86_400.0


def d(number: int) -> Digest:
    return Digest(bytes([number]) * 32)


def told(seen: Seen, **rules: Any) -> dict[int, str]:
    """What becomes of each blob, by its number."""
    found = plan(seen, Rules(**{"now": NOW, "grace": 7 * DAY, **rules}))
    return {digest.raw[0]: str(decision) for digest, decision in found.decisions.items()}


def test_each_blob_stays_or_goes_for_a_reason() -> None:
    seen = Seen(
        blobs={d(number): Held(10, NOW - 100 * DAY) for number in range(1, 12)},
        names={d(1): Name("models/x.gguf"), d(20): Name("models/elsewhere.gguf")},
        manifests={d(1): [d(2)], d(20): [d(3)], d(4): [d(5)], d(6): [d(7)], d(21): [d(10)], d(22): [d(11)]},
        pins={d(4): "by hand"},
        leases={d(8): Lease("publish 1", NOW + 60)},
        marks={d(6): NOW - 7 * DAY, d(7): NOW - 7 * DAY, d(9): NOW - 6 * DAY},
        fills=frozenset([d(21)]),
    )
    assert told(seen) == {
        1: "kept: models/x.gguf names it",
        2: f"kept: describes {d(1)}, which stays: models/x.gguf names it",
        3: f"kept: describes {d(20)}, which stays: models/elsewhere.gguf names it",
        4: 'kept: pinned ("by hand")',
        5: f'kept: describes {d(4)}, which stays: pinned ("by hand")',
        6: "removed: nothing names it",
        7: "removed: nothing names it",
        8: "kept: leased by publish 1 until 2033-05-18T03:34:20Z",
        9: "marked: nothing names it since 2033-05-12T03:33:20Z, removed after 2033-05-19T03:33:20Z",
        10: f"kept: describes {d(21)}, which stays: a part of it is here",
        11: "marked: nothing names it since 2033-05-18T03:33:20Z, removed after 2033-05-25T03:33:20Z",
    }
    # without a grace what is marked only now goes at once
    assert told(seen, grace=0.0)[11] == "removed: nothing names it"
    # marks that were lost are made anew: nothing goes
    assert not plan(Seen(**{**vars(seen), "marks": {}}), Rules(NOW, 7 * DAY)).of(Verdict.REMOVED)


def test_manifests_go_after_what_they_describe() -> None:
    seen = Seen(blobs={d(n): Held(1, 0) for n in (1, 2, 3, 4)}, manifests={d(4): [d(1)], d(3): [d(2)]})
    gone = plan(seen, Rules(NOW, 0.0)).of(Verdict.REMOVED)
    assert [decision.digest for decision in gone] == [d(3), d(4), d(1), d(2)]


def test_where_room_is_needed_what_is_least_missed_goes_first() -> None:
    accessed = {d(1): NOW - 1, d(2): NOW - 50, d(3): NOW, d(4): NOW, d(5): NOW - 99, d(6): NOW - 99}
    seen = Seen(
        blobs={d(number): Held(10, NOW - 100) for number in range(1, 8)},
        names={
            d(1): Name("models/a.gguf"),
            d(2): Name("models/b.gguf"),
            d(3): Name("models/c-1.gguf", newest=False),
            d(4): Name("staging/d.gguf", wanted=False),
            d(5): Name("models/e.gguf"),
            d(6): Name("models/f.gguf"),
        },
        manifests={d(1): [d(7)]},
        pins={d(5): "by hand"},
        leases={d(6): Lease("publish 1", NOW + 60)},
        free=1000,
        accessed=lambda digest: accessed[digest],
    )
    found = plan(seen, Rules(NOW, 0.0, max_size=45))
    assert (found.used, found.need, found.why_short) == (70, 25, "max_size")
    assert found.candidates == [d(4), d(3), d(2), d(1)], "neither pinned nor leased, nor manifests"
    chosen = room_for(iter(found.candidates), lambda digest: seen.blobs[digest].size, found.need, 16)
    assert chosen == [d(4), d(3), d(2)]
    assert str(found.evict(d(4), ["ab" * 32])) == "evicted: over max_size; also on abababababab"
    assert str(found.keep(d(3), "this is the last copy known")).startswith("kept: over max_size, but this is the last")
    assert found.sums()["evicted"] == {"blobs": 1, "bytes": 10}
    # the reserve counts as well, whichever is short by more
    more = plan(seen, Rules(NOW, 0.0, max_size=65, reserve=1030))
    assert (more.need, more.why_short) == (30, "the reserve")
    assert plan(seen, Rules(NOW, 0.0, max_size=70, reserve=1000)).candidates == []


def test_what_nothing_names_makes_room_first_but_never_before_every_lease_has_ended() -> None:
    seen = Seen(
        blobs={d(1): Held(10, 0), d(2): Held(10, 0), d(3): Held(10, 0)},
        names={d(3): Name("models/a.gguf")},
        marks={d(1): NOW - LONGEST, d(2): NOW - LONGEST + 1},
        free=100,
    )
    found = plan(seen, Rules(NOW, 7 * DAY, max_size=20))
    assert [decision.digest for decision in found.of(Verdict.REMOVED)] == [d(1)]
    assert found.need == 0
    assert told(seen)[1].startswith("marked"), "there is room: it waits"


def test_a_clock_that_was_set_back_makes_nothing_wait_for_ever() -> None:
    seen = Seen(blobs={d(1): Held(10, 0)}, marks={d(1): NOW + 1000 * DAY})
    assert "removed after 2033-05-25" in told(seen)[1]


def test_last_access_is_shared_and_survives_a_process(tmp_path: Path) -> None:
    path = tmp_path / "last-access"
    writer, reader = LastAccess(path, 100), LastAccess(path, 999)
    assert reader.last(d(1)) == 100, "what nobody asked for looks as old as the table"
    writer.touch(d(1), 150.7)
    assert (reader.last(d(1)), reader.last(d(2))) == (150, 100)
    writer.touch(d(2), 2.0**40)  # a clock beyond the table's years
    assert reader.last(d(2)) == 2**32 - 1
    for one in (writer, reader):
        one.close()
    again = LastAccess(path, 1000)
    assert again.last(d(1)) == 150
    again.close()
    path.unlink()
    lost = LastAccess(path, 2000)
    assert lost.last(d(1)) == 2000
    lost.close()


@pytest.mark.parametrize("count", [0, 1, 100])
def test_sums_are_those_of_the_blobs(count: int) -> None:
    sums = plan(Seen(blobs={d(n): Held(n, 0) for n in range(count)}), Rules(NOW, 0.0)).sums()
    assert sums["removed"] == {"blobs": count, "bytes": sum(range(count))}
