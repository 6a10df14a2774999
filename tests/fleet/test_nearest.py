"""The order of mirrors: laws that hold for every fleet, and examples from the map."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise, permutations
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aibrother_node.fleet.nearest import Mirror, Place, distance_km, is_strictly_nearer, nearest
from aibrother_node.fleet.view import Have, PeerView

if TYPE_CHECKING:
    import random

law = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])

BERLIN, PARIS, OREGON, SYDNEY = (52.52, 13.405), (48.857, 2.352), (45.52, -122.68), (-33.87, 151.21)
COUNTRIES = st.sampled_from([None, "DE", "FR", "US"])
REGIONS = st.sampled_from([None, "eu", "us"])
COORDINATES = st.one_of(
    st.just((None, None)),
    st.tuples(st.floats(-90, 90), st.floats(-180, 180)),
    st.sampled_from([BERLIN, PARIS, OREGON]),  # so that some are alike
)
HAVE: st.SearchStrategy[Have] = st.sampled_from(["complete", "partial"])


@st.composite
def places(draw: st.DrawFn) -> Place:
    latitude, longitude = draw(COORDINATES)
    return Place(draw(COUNTRIES), latitude, longitude, draw(REGIONS), assumed=draw(st.booleans()))


@st.composite
def fleets(draw: st.DrawFn) -> list[tuple[PeerView, Have]]:
    found: list[tuple[PeerView, Have]] = []
    for number in range(draw(st.integers(0, 7))):
        latitude, longitude = draw(COORDINATES)
        load = draw(st.one_of(st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.floats()))
        node = PeerView(f"{number:064x}", f"https://n{number}.example", draw(REGIONS), draw(COUNTRIES), latitude,
                        longitude, load)  # fmt: skip
        found.append((node, draw(HAVE)))
    return found


def peer(name: str, at: tuple[float, float] | None = None, country: str | None = None, **more: object) -> PeerView:
    latitude, longitude = at or (None, None)
    return PeerView(name, f"https://{name}.example", None, country, latitude, longitude, **more)  # type: ignore[arg-type]


def order(place: Place, *nodes: PeerView | tuple[PeerView, Have], client: bytes = b"c") -> list[str]:
    holders: list[tuple[PeerView, Have]] = [(one, "complete") if isinstance(one, PeerView) else one for one in nodes]
    return [mirror.id for mirror in nearest(holders, place, client)]


@law
@given(fleets(), places(), st.binary(max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_what_is_given_plays_no_part(
    fleet: list[tuple[PeerView, Have]], place: Place, client: bytes, shuffler: random.Random
) -> None:
    shuffled = fleet.copy()
    shuffler.shuffle(shuffled)
    assert nearest(fleet, place, client) == nearest(shuffled, place, client)


@law
@given(fleets(), places(), st.binary(max_size=4))
def test_all_that_were_given_and_nobody_else(fleet: list[tuple[PeerView, Have]], place: Place, client: bytes) -> None:
    given_ = {node.id: (node.url, node.region, node.country, have) for node, have in fleet}
    mirrors = nearest(fleet, place, client)
    assert {one.id: (one.url, one.region, one.country, one.have) for one in mirrors} == given_
    assert len(mirrors) == len(fleet)


@law
@given(fleets(), places(), st.binary(max_size=4))
def test_whole_copies_first_then_the_own_country_then_the_shorter_way(
    fleet: list[tuple[PeerView, Have]], place: Place, client: bytes
) -> None:
    mirrors = nearest(fleet, place, client)
    for one, other in pairwise(mirrors):
        assert (one.have, other.have) != ("partial", "complete")
        if one.have != other.have:
            continue
        if place.country is not None:
            assert not (one.country != place.country and other.country == place.country)
        if (one.country == place.country) != (other.country == place.country):
            continue
        if one.distance_km is not None and other.distance_km is not None:
            assert one.distance_km <= other.distance_km


@law
@given(fleets(), places(), st.binary(max_size=4))
def test_taking_one_away_leaves_the_others_in_order(
    fleet: list[tuple[PeerView, Have]], place: Place, client: bytes
) -> None:
    mirrors = nearest(fleet, place, client)
    for gone in mirrors:
        rest = [(node, have) for node, have in fleet if node.id != gone.id]
        assert nearest(rest, place, client) == [one for one in mirrors if one is not gone]


@law
@given(places(), places())
def test_distance_is_symmetric_and_bounded(one: Place, other: Place) -> None:
    distance = distance_km(one, other)
    assert distance == distance_km(other, one)
    if distance is not None:
        assert 0 <= distance <= 20_016
        assert distance == round(distance)
    assert distance_km(one, one) in (None, 0)


@pytest.mark.parametrize(
    ("one", "other", "kilometres"),
    [
        (BERLIN, PARIS, 878),
        (BERLIN, OREGON, 8308),
        (PARIS, SYDNEY, 16_960),
        ((0, 180), (0, -180), 0),
        ((0, 179.5), (0, -179.5), 111),  # over the date line, not around the world
        ((90, 0), (-90, 77), 20_015),
    ],
)
def test_distances_of_the_map(one: tuple[float, float], other: tuple[float, float], kilometres: float) -> None:
    found = distance_km(Place(None, *one), Place(None, *other))
    assert found is not None
    assert math.isclose(found, kilometres, rel_tol=0.005, abs_tol=1)


def test_a_client_in_berlin() -> None:
    nodes: list[PeerView | tuple[PeerView, Have]] = [
        peer("sydney", SYDNEY, "AU"),
        peer("paris", PARIS, "FR"),
        peer("munich", (48.14, 11.58), "DE"),
        peer("berlin", BERLIN, "DE"),
        (peer("berlin-fills", BERLIN, "DE"), "partial"),
        peer("unknown"),
    ]
    for shuffled in permutations(nodes):
        assert order(Place("DE", *BERLIN), *shuffled) == [
            "berlin", "munich", "paris", "sydney", "unknown", "berlin-fills",
        ]  # fmt: skip


def test_only_the_country_is_known() -> None:
    assert order(Place("US"), peer("a", PARIS, "FR"), peer("b", OREGON, "US"))[0] == "b"
    (mirror,) = nearest([(peer("b", OREGON, "US"), "complete")], Place("US"), b"")
    assert mirror.distance_km is None


def test_a_region_stands_in_for_coordinates() -> None:
    far = PeerView("far", "https://far.example", "us", None)
    near = PeerView("near", "https://near.example", "eu", None)
    assert order(Place(region="eu"), far, near) == ["near", "far"]
    # and beside those that have some it counts as a thousand kilometres
    berlin = Place(None, *BERLIN, region="eu")
    assert order(berlin, near, peer("paris", PARIS), peer("oregon", OREGON), far) == ["paris", "near", "oregon", "far"]


def test_load_decides_between_neighbours_when_it_differs_much() -> None:
    busy, idle = peer("busy", BERLIN, load=0.9), peer("idle", BERLIN, load=0.1)
    for client in (bytes([n]) for n in range(50)):
        assert order(Place(None, *PARIS), busy, idle, client=client) == ["idle", "busy"]
    # never against the way
    assert order(Place(None, *PARIS), peer("paris", PARIS, load=1.0), idle)[0] == "paris"


def test_a_load_that_is_no_number_counts_as_full() -> None:
    for odd in (math.nan, math.inf, 7.0):
        assert order(Place(), peer("odd", load=odd), peer("half", load=0.5)) == ["half", "odd"]


def test_mirrors_that_are_alike_share_the_clients_and_each_client_is_told_the_same() -> None:
    nodes = [peer(name, BERLIN, "DE", load=load) for name, load in (("a", 0.0), ("b", 0.1), ("c", 0.2))]
    first = Counter(order(Place("DE", *BERLIN), *nodes, client=bytes([n]))[0] for n in range(256))
    assert set(first) == {"a", "b", "c"}
    assert min(first.values()) > 50


@pytest.mark.parametrize(
    ("place", "one", "other", "nearer"),
    [
        (Place("DE", *BERLIN), ("DE", None), ("FR", None), True),
        (Place("DE", *BERLIN), ("FR", None), ("DE", None), False),
        (Place("DE", *BERLIN), ("FR", 10.0), ("DE", 900.0), False),  # one's own country comes first
        (Place("DE", *BERLIN), ("DE", 10.0), ("DE", 900.0), True),
        (Place("DE", *BERLIN), ("DE", 900.0), ("DE", 900.0), False),
        (Place("DE", *BERLIN), ("FR", 10.0), ("US", 900.0), True),
        (Place("DE", *BERLIN), ("FR", None), ("US", 900.0), False),  # it can't be told
        (Place("DE", *BERLIN), ("DE", None), (None, None), False),
        (Place("DE", *BERLIN), ("DE", 10.0), (None, 900.0), True),
        (Place("DE"), ("FR", None), ("US", None), False),
        (Place(None, *BERLIN), ("FR", 10.0), ("US", 900.0), True),
        (Place("DE", *BERLIN, assumed=True), ("DE", 10.0), ("FR", 900.0), False),
    ],
)
def test_who_is_strictly_nearer(
    place: Place, one: tuple[str | None, float | None], other: tuple[str | None, float | None], *, nearer: bool
) -> None:
    def mirror(of: tuple[str | None, float | None]) -> Mirror:
        return Mirror("n", None, "https://n.example", *of, "complete")

    assert is_strictly_nearer(mirror(one), mirror(other), place) is nearer


@law
@given(fleets(), places())
def test_nearer_is_a_strict_order_that_agrees_with_the_list(fleet: list[tuple[PeerView, Have]], place: Place) -> None:
    mirrors = nearest([(node, "complete") for node, _ in fleet], place, b"")
    for at, one in enumerate(mirrors):
        assert not is_strictly_nearer(one, one, place)
        for later in mirrors[at + 1 :]:
            both_known = one.country is not None and later.country is not None
            if both_known or place.country is None:
                assert not is_strictly_nearer(later, one, place)
            assert not (is_strictly_nearer(one, later, place) and is_strictly_nearer(later, one, place))
