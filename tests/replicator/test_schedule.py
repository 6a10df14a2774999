"""The scheduler in virtual time: who gets what, what failures lead to, and how it ends."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aibrother_replicator.schedule import Complete, Failed, Fault, Policy, Run, Schedule, Wait

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20


@dataclass
class Origin:
    """A simulated source.

    Attributes:
        rate: bytes a second, shared by the runs out at it.
        per_connection: bytes a second that one run gets at most.
        wrong: chunks that it always delivers wrong.
        fault: given a time, how requests end then, or None.
    """

    rate: float
    per_connection: float = float("inf")
    wrong: frozenset[int] = frozenset()
    fault: Callable[[float], Fault | None] = field(default=lambda _: None)


@dataclass
class Ended:
    """How a simulation ended: the last step, when, and each run as (time, run)."""

    step: Complete | Failed
    now: float
    runs: list[tuple[float, Run]]

    def bytes_of(self, source: int) -> int:
        return sum(run.length for _, run in self.runs if run.source == source)


def simulate(schedule: Schedule, origins: list[Origin], workers: int = 8, until: float = 10_000) -> Ended:
    """Play workers that do what the scheduler says; a run's speed is fixed when it begins."""
    now = 0.0
    busy: list[tuple[float, int, Run, Fault | None]] = []
    runs: list[tuple[float, Run]] = []
    idle = workers
    out = [0] * len(origins)
    while now < until:
        wake: float | None = None
        while idle:
            step = schedule.next(now)
            if isinstance(step, Complete | Failed):
                return Ended(step, now, runs)
            if isinstance(step, Wait):
                assert step.until >= now
                wake = step.until
                break
            idle -= 1
            runs.append((now, step))
            out[step.source] += 1
            origin = origins[step.source]
            fault = origin.fault(now)
            rate = min(origin.rate / out[step.source], origin.per_connection)
            ends = now + (0.05 if fault else step.length / rate)
            heapq.heappush(busy, (ends, step.id, step, fault))
        if busy and (wake is None or idle == 0 or busy[0][0] <= wake):
            now, _, run, fault = heapq.heappop(busy)
            out[run.source] -= 1
            idle += 1
            if fault is None:
                bad = [index for index in range(run.first, run.stop) if index in origins[run.source].wrong]
                for index in bad:
                    schedule.wrong(run.id, index)
                schedule.stored(schedule.received(run.id, [i for i in range(run.first, run.stop) if i not in bad]))
            schedule.ended(run.id, now, 0 if fault else run.length, fault)
        else:
            assert wake is not None
            now = max(wake, now + 0.001)
    raise AssertionError("it goes on for ever")


def from_then_on(fault: Fault | None, start: float) -> Callable[[float], Fault | None]:
    return lambda now: fault if now >= start else None


def take(schedule: Schedule, now: float = 0.0) -> Run:
    step = schedule.next(now)
    assert isinstance(step, Run), step
    return step


def deliver(schedule: Schedule, run: Run, now: float) -> None:
    schedule.stored(schedule.received(run.id, range(run.first, run.stop)))
    schedule.ended(run.id, now, run.length)


# What is handed out


def test_nothing_to_fetch_is_complete_at_once() -> None:
    assert isinstance(Schedule([], sources=1).next(0.0), Complete)
    assert isinstance(Schedule([5, 6], [0, 1], sources=1).next(0.0), Complete)


def test_small_chunks_go_in_one_request_from_the_front() -> None:
    schedule = Schedule([MIB] * 100, sources=1, workers=2)
    assert [take(schedule).first for _ in range(3)] == [0, 8, 16]
    assert take(schedule).length == 8 * MIB


def test_a_chunk_larger_than_a_run_goes_alone() -> None:
    schedule = Schedule([8 * MIB] * 3, sources=1, policy=Policy(run_bytes=MIB))
    run = take(schedule)
    assert (run.first, run.stop, run.offset, run.length) == (0, 1, 0, 8 * MIB)


def test_runs_shrink_towards_the_end_so_that_all_have_work() -> None:
    schedule = Schedule([64 << 10] * 128, sources=1, workers=8)
    lengths = []
    while isinstance(step := schedule.next(0.0), Run):
        lengths.append(step.length)
    assert len(lengths) > 16
    assert max(lengths) == 512 << 10
    assert all(length >= 192 << 10 for length in lengths[:-1])


def test_what_is_there_is_not_asked_for() -> None:
    schedule = Schedule([MIB] * 10, [0, 1, 4], sources=1, workers=1)
    assert [(run.first, run.stop) for run in (take(schedule), take(schedule))] == [(2, 4), (5, 7)]
    assert schedule.prefix == 2 * MIB


def test_the_prefix_grows_as_gaps_close() -> None:
    schedule = Schedule([8 * MIB] * 4, sources=1)
    first, second = take(schedule), take(schedule)
    deliver(schedule, second, 1.0)
    assert schedule.prefix == 0
    deliver(schedule, first, 1.0)
    assert schedule.prefix == 16 * MIB


def test_a_slow_source_gets_short_runs() -> None:
    schedule = Schedule([64 << 10] * 4000, sources=1, workers=1)
    run = take(schedule)
    deliver(schedule, run, run.length / 100_000)
    assert take(schedule, 100.0).length <= 5 * 100_000


# Several sources


def test_work_is_shared_by_what_sources_deliver() -> None:
    schedule = Schedule([4 * MIB] * 500, sources=2)
    ended = simulate(schedule, [Origin(10 * MIB), Origin(90 * MIB)])
    assert isinstance(ended.step, Complete)
    share = ended.bytes_of(1) / (ended.bytes_of(0) + ended.bytes_of(1))
    assert 0.75 < share < 0.97
    assert ended.now < 1.4 * 2000 / 100


def test_two_equal_sources_share_equally() -> None:
    ended = simulate(Schedule([4 * MIB] * 400, sources=2), [Origin(50 * MIB), Origin(50 * MIB)])
    assert 0.4 < ended.bytes_of(0) / (1600 * MIB) < 0.6


def test_every_source_is_tried() -> None:
    schedule = Schedule([8 * MIB] * 20, sources=4)
    assert {take(schedule).source for _ in range(4)} == {0, 1, 2, 3}


# Failures


def test_an_error_sends_the_rest_of_the_run_elsewhere() -> None:
    schedule = Schedule([MIB] * 4, sources=2, workers=1)
    run = take(schedule)
    assert run.source == 0
    schedule.stored(schedule.received(run.id, [run.first]))
    schedule.ended(run.id, 1.0, MIB, Fault.UNREACHABLE)
    again = take(schedule, 1.0)
    assert (again.source, again.first) == (1, 1)


def test_a_failed_source_waits_longer_each_time_then_is_dropped() -> None:
    schedule = Schedule([MIB], sources=1)
    now, pauses = 0.0, []
    while isinstance(step := schedule.next(now), Run):
        schedule.ended(step.id, now, 0, Fault.UNREACHABLE)
        wait = schedule.next(now)
        if isinstance(wait, Wait):
            pauses.append(wait.until - now)
            now = wait.until
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert step == Failed(0, wrong=False)
    assert schedule.sources[0].dropped is Fault.UNREACHABLE


def test_connections_that_break_together_are_one_failure() -> None:
    schedule = Schedule([8 * MIB] * 8, sources=1)
    runs = [take(schedule) for _ in range(8)]
    for run in runs:
        schedule.ended(run.id, 1.0, 0, Fault.UNREACHABLE)
    assert schedule.sources[0].errors == 1
    assert isinstance(schedule.next(1.6), Run)


def test_success_forgives() -> None:
    schedule = Schedule([8 * MIB] * 3, sources=1)
    schedule.ended(take(schedule).id, 0.0, 0, Fault.UNREACHABLE)
    deliver(schedule, take(schedule, 1.0), 2.0)
    assert schedule.sources[0].errors == 0


@pytest.mark.parametrize("fault", [Fault.GONE, Fault.REFUSED])
def test_who_has_not_got_it_is_dropped_at_once(fault: Fault) -> None:
    schedule = Schedule([MIB], sources=1)
    schedule.ended(take(schedule).id, 0.0, 0, fault)
    assert schedule.next(0.0) == Failed(0, wrong=False)
    assert schedule.sources[0].dropped is fault


def test_a_busy_source_is_left_alone_as_long_as_it_asks() -> None:
    schedule = Schedule([MIB], sources=1)
    for now in (0.0, 7.0, 14.0, 21.0, 28.0, 35.0, 42.0):
        schedule.ended(take(schedule, now).id, now, 0, Fault.BUSY, 7.0)
        assert schedule.next(now) == Wait(now + 7.0)


def test_patience_with_a_busy_source_ends() -> None:
    schedule = Schedule([MIB], sources=1)
    schedule.ended(take(schedule).id, 0.0, 0, Fault.BUSY, 3600.0)
    assert schedule.next(0.0) == Failed(0, wrong=False)
    assert schedule.sources[0].retry_after == 3600.0
    ended = simulate(Schedule([MIB], sources=1), [Origin(1, fault=lambda _: Fault.BUSY)])
    assert isinstance(ended.step, Failed)


def test_a_wrong_chunk_is_asked_of_another_source_even_if_that_has_to_wait() -> None:
    schedule = Schedule([MIB] * 2, sources=2, workers=1)
    first = take(schedule)
    second = take(schedule)
    assert (first.source, second.source) == (0, 1)
    schedule.ended(second.id, 1.0, 0, Fault.UNREACHABLE)  # source 1 waits until 1.5
    schedule.wrong(first.id, 0)
    schedule.ended(first.id, 1.0, MIB)
    other = take(schedule, 1.0)
    assert (other.source, other.first) == (0, 1)
    assert schedule.next(1.0) == Wait(1.5)
    retry = take(schedule, 1.5)
    assert (retry.source, retry.first, retry.stop) == (1, 0, 1)


def test_a_chunk_that_is_wrong_everywhere_ends_it() -> None:
    ended = simulate(
        Schedule([MIB] * 40, sources=2, policy=Policy(max_wrong=100)),
        [Origin(MIB, wrong=frozenset({7})), Origin(MIB, wrong=frozenset({7}))],
    )
    assert ended.step == Failed(7, wrong=True)
    assert sum(run.first <= 7 < run.stop for _, run in ended.runs) == 4


def test_one_source_gets_a_second_try_at_a_chunk() -> None:
    schedule = Schedule([MIB], sources=1)
    run = take(schedule)
    schedule.wrong(run.id, 0)
    schedule.ended(run.id, 1.0, MIB)
    deliver(schedule, take(schedule, 1.0), 2.0)
    assert schedule.complete


def test_a_source_that_is_often_wrong_is_dropped() -> None:
    schedule = Schedule([8 * MIB] * 50, sources=2)
    ended = simulate(schedule, [Origin(50 * MIB, wrong=frozenset(range(50))), Origin(5 * MIB)])
    assert isinstance(ended.step, Complete)
    assert schedule.sources[0].dropped is Fault.WRONG
    assert ended.bytes_of(0) < 20 * 8 * MIB


def test_a_source_that_dies_in_the_middle_costs_little() -> None:
    schedule = Schedule([4 * MIB] * 100, sources=2)
    ended = simulate(
        schedule, [Origin(50 * MIB), Origin(50 * MIB, fault=lambda now: Fault.UNREACHABLE if now > 2 else None)]
    )
    assert isinstance(ended.step, Complete)
    assert ended.now < 10


# The tail


def test_an_overdue_run_is_duplicated_once_at_another_source() -> None:
    schedule = Schedule([MIB, MIB], sources=2, workers=2)
    slow, fast = take(schedule), take(schedule)
    assert slow.source != fast.source
    deliver(schedule, fast, 0.1)
    assert schedule.next(0.1) == Wait(1.0)
    hedge = take(schedule, 1.0)
    assert (hedge.first, hedge.stop, hedge.source, hedge.hedge) == (slow.first, slow.stop, fast.source, True)
    assert isinstance(schedule.next(1.0), Wait)
    assert isinstance(schedule.next(2.5), Wait)


def test_of_two_runs_only_the_first_to_deliver_may_write() -> None:
    schedule = Schedule([MIB], sources=2, workers=2)
    slow = take(schedule)
    hedge = take(schedule, 1.5)
    assert schedule.received(hedge.id, [0]) == [0]
    assert schedule.received(slow.id, [0]) == []
    assert not schedule.complete
    schedule.stored([0])
    assert schedule.complete


def test_a_failed_hedge_leaves_the_first_run_alone() -> None:
    schedule = Schedule([MIB], sources=2, workers=2)
    slow = take(schedule)
    hedge = take(schedule, 1.5)
    schedule.ended(hedge.id, 2.0, 0, Fault.GONE)
    assert isinstance(schedule.next(2.0), Wait)
    deliver(schedule, slow, 3.0)
    assert schedule.complete


def test_a_failed_run_leaves_its_hedge_alone() -> None:
    schedule = Schedule([MIB], sources=2, workers=2)
    slow = take(schedule)
    hedge = take(schedule, 1.5)
    schedule.ended(slow.id, 2.0, 0, Fault.UNREACHABLE)
    assert isinstance(schedule.next(10.0), Run | Wait)
    deliver(schedule, hedge, 3.0)
    assert schedule.complete


def test_a_single_source_is_hedged_over_another_connection() -> None:
    schedule = Schedule([MIB], sources=1, workers=2)
    stalled = take(schedule)
    assert take(schedule, 5.0).source == stalled.source


def test_the_tail_does_not_wait_for_a_slow_source() -> None:
    ended = simulate(Schedule([8 * MIB] * 20, sources=2), [Origin(100 * MIB), Origin(MIB / 10)])
    assert isinstance(ended.step, Complete)
    # the hedge brings the last chunk, long before the slow source would in 80 s
    assert ended.now < 10


# Laws


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 8 * MIB), max_size=120),
    have=st.sets(st.integers(0, 119)),
    rates=st.lists(st.floats(1e5, 1e9), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_with_one_honest_source_it_always_completes(
    lengths: list[int], have: set[int], rates: list[float], seed: int
) -> None:
    rng = random.Random(seed)
    origins = [Origin(rates[0])]
    for rate in rates[1:]:
        wrong = frozenset(index for index in range(len(lengths)) if rng.random() < 0.3)
        fault = rng.choice([None, *Fault])
        starts = rng.uniform(0, 5)
        origins.append(Origin(rate, wrong=wrong, fault=from_then_on(fault, starts)))
    had = [index for index in have if index < len(lengths)]
    schedule = Schedule(lengths, had, sources=len(origins))
    ended = simulate(schedule, origins)
    assert isinstance(ended.step, Complete)
    assert schedule.complete
    assert schedule.prefix == sum(lengths)
    assert all(run.length == sum(lengths[run.first : run.stop]) for _, run in ended.runs)
