"""Whatever is asked for and whenever the process dies: states are legal, and nothing is counted twice or lost."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aibrother_node.errors import Conflict
from aibrother_replicator.jobs import live as live_module
from aibrother_replicator.jobs import model
from aibrother_replicator.jobs.book import Book, read_jobs
from aibrother_replicator.jobs.live import LiveJob
from aibrother_replicator.jobs.model import Job, State
from counts import rounds

NAMES = [f"object-{n:02}" for n in range(5)]
SIZE = {name: n * 7 + 1 for n, name in enumerate(NAMES)}


class JobLaws(RuleBasedStateMachine):
    """One job: what the book and the model make of it, beside sets of what was really done."""

    def __init__(self) -> None:
        super().__init__()
        # processes die here, the machine doesn't: no need to wait for a disk
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        self.now = 0.0
        self.at_work = False
        self.todo: list[str] = []
        self.at = 0
        self.done: set[str] = set()
        self.failed: set[str] = set()
        self.kept: tuple[int, set[str], set[str]] = (0, set(), set())

    @initialize(named=st.sampled_from([2, 10_000]))
    def make(self, named: int) -> None:
        self.most_named = named
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(live_module, "MAX_NAMED", named)
        self.book = Book.open(self.folder / "index.sqlite3")
        job = Job("0" * 16, "test", {}, 0.0)
        self.book.insert(job)
        self._load()

    def teardown(self) -> None:
        if hasattr(self, "book"):
            self.book.close()
            self.patch.undo()
        shutil.rmtree(self.folder)

    # -- the process

    def _load(self) -> None:
        job = self.book.get("0" * 16)
        assert job is not None
        found = model.after_restart(job, self.now)
        if found != job:
            if found.state.ended:
                self.book.end(found, None)
            else:
                self.book.save_state(found)
        self._take_up(found)

    def _take_up(self, job: Job) -> None:
        self.live = LiveJob(job, self.book.named(job), reversed(self.book.failures(job)), self.now)
        self.at_work = False

    @property
    def job(self) -> Job:
        return self.live.job

    @rule(written=st.booleans(), during=st.booleans())
    def die(self, written: bool, during: bool) -> None:
        """At any instant: also in the middle of a checkpoint, before or after it is written."""
        if during and self.at_work and not self.job.state.ended:
            self._write_checkpoint(written)
        self.book.close()
        self.at, self.done, self.failed = self.kept[0], set(self.kept[1]), set(self.kept[2])
        self.book = Book.open(self.folder / "index.sqlite3")
        before = self.job
        listed = read_jobs(self.folder / "index.sqlite3", self.now, -1.0)
        self._load()
        assert listed is not None
        assert [one["state"] for one in listed] in ([], [self.job.state])
        if before.cancelling:
            assert self.job.state is State.CANCELLED
        else:
            assert self.job.state is (State.QUEUED if before.state.working else before.state)

    # -- the work

    @precondition(lambda self: self.job.state is State.QUEUED)
    @rule()
    def begin(self) -> None:
        self.live.job = model.begin(self.job, self.now)
        self.book.save_state(self.job)
        only = self.book.only(self.job) if self.job.selective else None
        self.todo = [name for name in NAMES if only is None or name in only]
        self.at = self.job.cursor or 0
        assert self.at == self.kept[0]
        self.live.expect(self.now, objects=len(self.todo), size=sum(SIZE[name] for name in self.todo))
        self.at_work = True

    @property
    def _moves(self) -> bool:
        return self.at_work and self.job.state.working

    @precondition(lambda self: self._moves and self.at < len(self.todo))
    @rule(well=st.sampled_from([True, True, False]), again=st.booleans())
    def step(self, well: bool, again: bool) -> None:
        name = self.todo[self.at]
        if well:
            self.live.done(self.now, objects=1, size=SIZE[name])
            self.done.add(name)
        else:
            self.live.failed(self.now, name, "it is hard", self.now)
            if again and len(self.failed) < self.most_named:
                self.live.failed(self.now, name, "told twice", self.now)
            self.failed.add(name)
        self.at += 1

    @precondition(lambda self: self._moves and self.at < len(self.todo))
    @rule(wells=st.lists(st.booleans(), min_size=len(NAMES), max_size=len(NAMES)))
    def work_through(self, wells: list[bool]) -> None:
        for well in wells[: len(self.todo) - self.at]:
            self.step(well, again=False)

    def _write_checkpoint(self, written: bool) -> None:
        made = self.live.checkpoint(self.now, self.at)
        if written:
            self.book.save_progress(made)
            self.live.kept(made)
            self.kept = (self.at, set(self.done), set(self.failed))
        else:
            self.live.not_kept(made)

    @precondition(lambda self: self.at_work and not self.job.state.ended)
    @rule(written=st.sampled_from([True, True, False]))
    def checkpoint(self, written: bool) -> None:
        self._write_checkpoint(written)

    @precondition(lambda self: self._moves and self.at == len(self.todo))
    @rule()
    def finish(self) -> None:
        made = self.live.last_checkpoint(self.now)
        self._end(model.finish(self.job, self.live.told, self.now), made)
        assert self.job.state is (State.FAILED if self.failed else State.DONE)

    @precondition(lambda self: self._moves and not self.job.cancelling)
    @rule()
    def break_off(self) -> None:
        self._end(model.break_off(self.job, "it can't go on", self.now), None)

    @precondition(lambda self: self.at_work and self.job.cancelling)
    @rule()
    def stopped(self) -> None:
        self._end(model.stop(self.job, self.live.told, self.now), self.live.last_checkpoint(self.now))

    def _end(self, ended: Job, made: Any) -> None:
        self.book.end(ended, made)
        if made is None:
            self.at, self.done, self.failed = self.kept[0], set(self.kept[1]), set(self.kept[2])
        else:
            self.kept = (0, set(self.done), set(self.failed))
        self._take_up(ended if made is None else replace(ended, cursor=None))

    # -- people and the clock

    @rule(what=st.sampled_from(["pause", "resume", "cancel"]))
    def command(self, what: str) -> None:
        try:
            if what == "pause":
                changed = model.pause(self.job)
            elif what == "resume":
                changed = model.resume(self.job, at_work=self.at_work)
            else:
                changed = model.cancel(self.job, self.now, at_work=self.at_work)
        except Conflict:
            return
        self.live.job = changed
        if changed.state.ended:
            self.book.end(changed, None)
        else:
            self.book.save_state(changed)

    @precondition(lambda self: self.job.state is State.FAILED)
    @rule()
    def retry(self) -> None:
        job = self.book.get("0" * 16)
        assert job is not None
        again = model.retry(job, named=len(self.book.named(job)))
        self.book.retry(again)
        if job.whole:
            all_again = len(self.failed) > self.most_named
            self.kept = (0, set() if all_again else set(self.done), set())
            self.at, self.done, self.failed = 0, set(self.kept[1]), set()
            wanted = frozenset() if all_again else frozenset(NAMES) - self.done
            assert self.book.only(again) == wanted
        self._take_up(again)

    @rule(seconds=st.sampled_from([1.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        before = self.job.state
        self.live.look(self.now)
        assert (before, self.job.state) in {
            (State.RUNNING, State.STALLED),
            (State.STALLED, State.RUNNING),
            *((state, state) for state in State),
        }

    # -- the laws

    @invariant()
    def the_numbers_are_right(self) -> None:
        if not hasattr(self, "live"):
            return
        told = self.live.told
        assert told.objects_done == len(self.done)
        assert told.bytes_done == sum(SIZE[name] for name in self.done)
        assert told.objects_failed == len(self.failed)
        assert not self.done & self.failed
        if told.objects_total is not None:
            assert told.objects_done + told.objects_failed <= told.objects_total == len(NAMES)
            assert told.bytes_total == sum(SIZE.values())

    @invariant()
    def the_book_is_right(self) -> None:
        if not hasattr(self, "live"):
            return
        job = self.book.get("0" * 16)
        assert job is not None
        at, done, failed = self.kept
        assert job.counts.objects_done == len(done)
        assert job.counts.bytes_done == sum(SIZE[name] for name in done)
        assert job.counts.objects_failed == len(failed)
        if job.state is not State.CANCELLED:  # nothing goes on from there
            assert (job.cursor or 0) == (0 if job.state.ended and job.reason is None else at)
        named = self.book.named(job)
        assert named <= failed
        assert len(named) == min(len(failed), self.most_named)
        assert (job.ended is not None) is job.state.ended
        if job.state is State.DONE:
            assert job.counts.objects_done == len(NAMES)
        # what is seen and isn't stalled is what is written down
        seen = self.job.state
        assert job.state is seen or {job.state, seen} == {State.RUNNING, State.STALLED}


JobLaws.TestCase.settings = settings(max_examples=rounds(100, 1000), stateful_step_count=50, deadline=None)
TestJobLaws = JobLaws.TestCase
