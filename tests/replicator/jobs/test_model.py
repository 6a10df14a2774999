"""States of jobs: which changes there are, and no others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from aibrother_node.errors import Conflict
from aibrother_replicator.jobs import model
from aibrother_replicator.jobs.model import Counts, Job, State

if TYPE_CHECKING:
    from collections.abc import Callable

JOB = Job("0" * 16, "scrub", {}, 1.0)
HALF = Counts(10, 4, 1, 100, 40)


def job(state: State, **changes: object) -> Job:
    ended = 9.0 if state.ended else None
    started = None if state is State.QUEUED else 2.0
    made = replace(JOB, state=state, started=started, ended=ended, counts=HALF, cursor="c")
    return replace(made, **changes)  # type: ignore[arg-type]


CHANGES: dict[str, tuple[Callable[[Job], Job], dict[State, State]]] = {
    "pause": (
        model.pause,
        {State.QUEUED: State.PAUSED, State.RUNNING: State.PAUSED, State.STALLED: State.PAUSED},
    ),
    "resume at work": (lambda job: model.resume(job, at_work=True), {State.PAUSED: State.RUNNING}),
    "resume": (lambda job: model.resume(job, at_work=False), {State.PAUSED: State.QUEUED}),
    "cancel": (
        lambda job: model.cancel(job, 5.0, at_work=False),
        dict.fromkeys((State.QUEUED, State.PAUSED, State.RUNNING, State.STALLED), State.CANCELLED),
    ),
    "retry": (lambda job: model.retry(job, named=1), {State.FAILED: State.QUEUED}),
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("name", CHANGES)
def test_what_people_may_ask_for(name: str, state: State) -> None:
    change, allowed = CHANGES[name]
    if state in allowed:
        changed = change(job(state))
        assert changed.state is allowed[state]
        assert (changed.ended is not None) is changed.state.ended
    else:
        with pytest.raises(Conflict, match=f"is {state.value} and can't be"):
            change(job(state))


@pytest.mark.parametrize("state", [State.RUNNING, State.STALLED, State.PAUSED])
def test_what_is_worked_at_is_cancelled_when_that_has_stopped(state: State) -> None:
    cancelling = model.cancel(job(state), 5.0, at_work=True)
    assert (cancelling.state, cancelling.cancelling, cancelling.ended) == (state, True, None)
    assert model.cancel(cancelling, 6.0, at_work=True) == cancelling, "asked for twice"
    for change in (model.pause, lambda job: model.resume(job, at_work=True)):
        with pytest.raises(Conflict, match="is being cancelled"):
            change(cancelling)
    stopped = model.stop(cancelling, replace(HALF, objects_done=5), 7.0)
    assert (stopped.state, stopped.cancelling, stopped.ended) == (State.CANCELLED, False, 7.0)
    assert stopped.counts.objects_done == 5


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("cancelling", [False, True])
def test_a_restart(state: State, cancelling: bool) -> None:
    if cancelling and (state.ended or state is State.QUEUED):
        return
    found = model.after_restart(job(state, cancelling=cancelling), 8.0)
    assert (found.counts, found.cursor) == (HALF, "c"), "from where it was"
    if cancelling:
        assert (found.state, found.ended, found.cancelling) == (State.CANCELLED, 8.0, False)
    elif state.working:
        assert (found.state, found.started) == (State.QUEUED, 2.0)
        assert model.begin(found, 20.0).started == 2.0, "it began when it began"
    else:
        assert found == job(state)


def test_the_alarm() -> None:
    stalled = model.stall(job(State.RUNNING))
    assert stalled.state is State.STALLED
    assert model.move(stalled).state is State.RUNNING
    for state in State:
        if state is not State.RUNNING:
            assert model.stall(job(state)) == job(state)
        if state is not State.STALLED:
            assert model.move(job(state)) == job(state)


def test_one_object_that_failed_makes_the_job_fail() -> None:
    whole = Counts(10, 10, 0, 100, 100)
    assert model.finish(job(State.RUNNING), whole, 9.0).state is State.DONE
    failed = model.finish(job(State.RUNNING), replace(whole, objects_done=9, objects_failed=1), 9.0)
    assert (failed.state, failed.whole, failed.cursor) == (State.FAILED, True, None)


def test_what_broke_off_goes_on_where_it_was() -> None:
    broken = model.break_off(job(State.RUNNING), "the disk is gone", 9.0)
    assert (broken.state, broken.reason, broken.counts, broken.cursor) == (State.FAILED, "the disk is gone", HALF, "c")
    again = model.retry(broken, named=1)
    assert (again.state, again.reason, again.ended, again.started) == (State.QUEUED, None, None, None)
    assert (again.counts, again.cursor, again.attempt, again.selective) == (HALF, "c", 1, False)


def test_a_retry_of_what_failed() -> None:
    counts = Counts(10, 8, 2, 100, 80)
    failed = model.finish(job(State.RUNNING), counts, 9.0)
    again = model.retry(failed, named=2)
    assert (again.attempt, again.selective, again.whole, again.cursor) == (2, True, False, None)
    assert again.counts == replace(counts, objects_failed=0)
    assert again.before == Counts(objects_done=8, bytes_done=80)


def test_where_not_all_names_are_known_all_is_done_again() -> None:
    failed = model.finish(job(State.RUNNING), Counts(10, 8, 2, 100, 80), 9.0)
    again = model.retry(failed, named=1)
    assert (again.attempt, again.selective, again.counts, again.before) == (2, False, Counts(), Counts())


def test_who_keeps_others_waiting() -> None:
    assert {state for state in State if job(state).keeps_others_waiting} == {
        State.RUNNING,
        State.STALLED,
        State.PAUSED,
    }
    assert not job(State.PAUSED, started=None).keeps_others_waiting, "it was paused while it waited itself"
