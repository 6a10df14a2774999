"""How quick a job is, and whether it moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrother_replicator.jobs.meter import WINDOW, Meter
from aibrother_replicator.jobs.model import Counts


def counts(done: int, total: int | None = None, objects: int = 0, objects_total: int | None = None) -> Counts:
    return Counts(objects_total=objects_total, objects_done=objects, bytes_total=total, bytes_done=done)


def steady(seconds: int, rate: int) -> Meter:
    """A meter that has seen so many bytes in each tenth of a second."""
    meter = Meter(0.0, counts(0))
    for tick in range(1, seconds * 10 + 1):
        meter.see(tick / 10, counts(tick * rate // 10))
    return meter


@pytest.mark.parametrize("seconds", [2, 5, 19, 20, 21, 100])
def test_a_steady_rate(seconds: int) -> None:
    meter = steady(seconds, 1000)
    assert meter.rate(seconds) == pytest.approx(1000, rel=0.05)
    assert meter.eta(seconds, counts(seconds * 1000, seconds * 1000 + 5000)) == pytest.approx(5, rel=0.05)


def test_it_falls_while_nothing_moves() -> None:
    meter = steady(100, 1000)
    rates = [meter.rate(100 + wait) for wait in (0, 5, 10, 15)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(250, rel=0.15)
    assert meter.rate(100 + WINDOW + 1) == 0
    assert meter.eta(100 + WINDOW + 1, counts(100_000, 200_000)) is None


def test_what_was_before_a_pause_says_nothing() -> None:
    meter = steady(100, 1000)
    meter.restart(500.0, counts(100_000))
    assert meter.rate(500.5) == 0
    meter.see(502.0, counts(104_000))
    assert meter.rate(502.0) == pytest.approx(2000)


@pytest.mark.parametrize(
    ("now", "eta"),
    [
        (counts(500), None),  # nobody knows how much it is
        (counts(500, 1000), 1.0),
        (counts(1000, 1000), 0.0),
        (counts(1200, 1000), 0.0),  # there was more than was said
        (counts(500, 1000, 5, 20), 1.0),
        (counts(500, None, 5, 20), 3.0),
        (counts(500, 500, 5, 20), 3.0),  # all bytes are through, and not all objects
        (counts(0, 0, 0, 0), 0.0),
    ],
)
def test_when_it_will_be_through(now: Counts, eta: float | None) -> None:
    meter = Meter(0.0, counts(0))
    meter.see(1.0, counts(500, objects=5))
    assert meter.eta(1.0, now) == (None if eta is None else pytest.approx(eta))


def test_the_alarm_needs_silence() -> None:
    meter = Meter(0.0, counts(0), stall_after=60)
    assert not meter.stalled(59.9)
    assert meter.stalled(60.0)
    meter.alive(70.0)
    assert not meter.stalled(129.0)
    meter.see(129.0, counts(1))
    assert not meter.stalled(188.0)
    assert meter.stalled(189.0)
    meter.restart(1000.0, counts(1))
    assert not meter.stalled(1059.0)


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 10_000)), max_size=200))
def test_it_never_says_more_than_what_came_within_the_window(steps: list[tuple[float, int]]) -> None:
    meter = Meter(0.0, counts(0))
    now, done, seen = 0.0, 0, [(0.0, 0)]
    for wait, size in steps:
        now += wait
        done += size
        meter.see(now, counts(done))
        seen.append((now, done))
    # marks are taken together for half a second, so that much may come in from before the window
    before = max((done for at, done in seen if at <= now - WINDOW - 1), default=0)
    span = max(1.0, min(now, WINDOW))
    assert 0 <= meter.rate(now) <= (done - before) / span + 1e-6
    assert len(meter._marks) < 100
