"""What silence means."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrother_node.fleet.detector import PhiDetector
from fleet.parts import NOW

REFRESH = 30.0
DEAD = 8.0
ARRIVALS = st.lists(st.floats(0, 200), max_size=40)


def after(intervals: list[float]) -> PhiDetector:
    detector, now = PhiDetector(REFRESH, NOW), NOW
    for interval in intervals:
        now += interval
        detector.heard(now, after_silence=False)
    return detector


def dies_after(detector: PhiDetector) -> float:
    """Seconds of silence until it counts as dead."""
    return next(silent / 10 for silent in range(100_000) if detector.phi(detector.last + silent / 10) >= DEAD)


@given(ARRIVALS, st.lists(st.floats(0, 2000), min_size=2, max_size=20))
def test_phi_grows_with_silence(intervals: list[float], looks: list[float]) -> None:
    detector = after(intervals)
    phis = [detector.phi(detector.last + look) for look in sorted(looks)]
    assert phis == sorted(phis)
    assert all(0 <= phi <= 300 for phi in phis)


@given(ARRIVALS, st.floats(-100, 3000), st.floats(1, 20))
def test_dead_is_what_phi_says(intervals: list[float], look: float, threshold: float) -> None:
    detector = after(intervals)
    now = detector.last + look
    assert detector.dead(now, threshold) == (detector.phi(now) >= threshold)


@pytest.mark.parametrize("heard", [0, 1, 16, 50])
def test_a_steady_node_is_dead_within_two_refreshes(heard: int) -> None:
    detector = after([REFRESH] * heard)
    assert detector.phi(detector.last + REFRESH) < 1
    assert detector.phi(detector.last + 1.25 * REFRESH) < DEAD
    assert 1.25 * REFRESH < dies_after(detector) < 2 * REFRESH


def test_news_between_refreshes_make_nobody_impatient() -> None:
    assert dies_after(after([0.5] * 50)) == dies_after(after([REFRESH] * 50))


def test_who_comes_irregularly_is_waited_for_longer() -> None:
    rng = random.Random(1)
    late = after([rng.uniform(30, 60) for _ in range(16)])
    assert 2 * REFRESH < dies_after(late) < 5 * REFRESH


@given(st.lists(st.floats(20, 40), max_size=30))
def test_whatever_small_delays_there_are_the_living_live_and_the_dead_die(intervals: list[float]) -> None:
    detector = after(intervals)
    assert 1.25 * REFRESH < dies_after(detector) < 3 * REFRESH


@given(ARRIVALS)
def test_a_death_is_noticed_whatever_was_before(intervals: list[float]) -> None:
    assert dies_after(after(intervals)) < 5 * REFRESH


def test_it_recovers_and_forgets_how_long_it_was_away() -> None:
    detector = after([REFRESH] * 16)
    before = dies_after(detector)
    back = detector.last + 5000
    assert detector.phi(back) == 300
    detector.heard(back, after_silence=True)
    assert detector.phi(back) == 0
    assert dies_after(detector) == before


def test_what_is_older_than_the_last_changes_nothing() -> None:
    detector = after([REFRESH] * 3)
    last, phi = detector.last, detector.phi(detector.last + 40)
    detector.heard(last - 20, after_silence=False)
    assert (detector.last, detector.phi(last + 40)) == (last, phi)


def test_a_clock_that_goes_back_is_no_silence() -> None:
    assert after([REFRESH]).phi(NOW - 10_000) == 0
