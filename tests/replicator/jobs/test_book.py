"""Jobs as they are written down: what is kept, in which order, and how much of it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from aibrother_node.errors import InvalidInput
from aibrother_node.store.backup import backup, restore
from aibrother_node.store.disk import Disk
from aibrother_node.store.index import Index
from aibrother_node.store.layout import Layout
from aibrother_replicator.jobs import book as book_module
from aibrother_replicator.jobs.book import Book, read_jobs
from aibrother_replicator.jobs.live import Checkpoint, Failure
from aibrother_replicator.jobs.model import Counts, Job, State
from store.helpers import new_layout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.sqlite3"


@pytest.fixture
def book(path: Path) -> Iterator[Book]:
    with closing(Book.open(path)) as book:
        yield book


def made(number: int, state: State = State.QUEUED, **changes: object) -> Job:
    ended = 100.0 + number if state.ended else None
    job = Job(f"{number:016x}", "scrub", {"rate": "ü"}, float(number), state=state, started=1.0, ended=ended)
    return replace(job, **changes)  # type: ignore[arg-type]


def failures(*names: str, at: float = 1.0) -> tuple[Failure, ...]:
    return tuple(Failure(name, f"why {name}", at + n) for n, name in enumerate(names))


def test_a_job_comes_back_as_it_was(book: Book) -> None:
    job = made(
        7,
        State.FAILED,
        counts=Counts(5, 3, 2, None, 30),
        cursor=["a", {"b": None}],
        result={"x": [1.5]},
        reason="why",
        attempt=3,
        selective=True,
        whole=True,
        before=Counts(objects_done=1, bytes_done=2),
    )
    book.insert(job)
    assert book.get(job.id) == job
    assert book.get("f" * 16) is None


def test_a_checkpoint_leaves_the_state_and_the_state_leaves_the_progress(book: Book) -> None:
    job = made(1, State.RUNNING)
    book.insert(job)
    checkpoint = Checkpoint(job.id, 1, Counts(9, 4, 2, 90, 40), '"c"', '{"r":1}', failures("a", "b"))
    book.save_state(replace(job, state=State.PAUSED, cancelling=True))
    book.save_progress(checkpoint)
    book.save_state(replace(job, state=State.PAUSED))
    found = book.get(job.id)
    assert found == replace(job, state=State.PAUSED, counts=checkpoint.counts, cursor="c", result={"r": 1})
    assert [failure.name for failure in book.failures(found)] == ["b", "a"], "newest first"
    book.save_progress(replace(checkpoint, failures=failures("a", at=50.0)))
    assert [(one.name, one.at) for one in book.failures(found)] == [("a", 50.0), ("b", 2.0)]


def test_it_is_written_all_or_nothing(book: Book, path: Path) -> None:
    job = made(1, State.RUNNING)
    book.insert(job)
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON jobs_failures BEGIN SELECT RAISE(ABORT, 'no'); END")
    checkpoint = Checkpoint(job.id, 1, Counts(9, 4, 2, 90, 40), '"c"', None, failures("a"))
    with pytest.raises(sqlite3.Error):
        book.save_progress(checkpoint)
    with pytest.raises(sqlite3.Error):
        book.end(replace(job, state=State.FAILED, ended=1.0), checkpoint)
    assert book.get(job.id) == job
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TRIGGER full")
    book.save_progress(checkpoint)
    assert book.failures(job) == list(failures("a"))


def test_the_oldest_are_forgotten(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_module, "KEPT", 8)
    monkeypatch.setattr(book_module, "KEPT_NAMES", 3)
    monkeypatch.setattr(book_module, "SHOWN", 2)
    waiting = made(0)
    book.insert(waiting)
    for number in range(1, 21):
        job = made(number, State.RUNNING)
        book.insert(job)
        told = Checkpoint(job.id, 1, Counts(objects_failed=5), "null", None, failures(*"abcde"))
        book.end(replace(job, state=State.FAILED, ended=1.0, whole=True), told)
    assert book.open_jobs() == [waiting], "never one that waits"
    ended = book.ended(most=100)
    assert [job.id for job in ended] == [f"{number:016x}" for number in range(20, 12, -1)]
    assert [len(book.named(job)) for job in ended] == [5, 5, 5, 2, 2, 2, 2, 2]
    assert [one.name for one in book.failures(ended[-1])] == ["e", "d"]
    (orphans,) = book._db.execute("SELECT count(*) FROM jobs_failures WHERE job NOT IN (SELECT id FROM jobs)")
    assert orphans == (0,)


def test_what_is_listed_without_a_node(book: Book, path: Path, tmp_path: Path) -> None:
    assert read_jobs(tmp_path / "nothing", 0.0, 0.0) is None
    assert read_jobs(path, 0.0, 0.0) == []
    jobs = [
        made(1, State.FAILED, ended=50.0),
        made(2, State.FAILED, ended=150.0),
        made(3, State.DONE),
        made(4, State.STALLED),
        made(5, State.PAUSED, cancelling=True),
        made(6, State.PAUSED),
        made(7, State.QUEUED),
    ]
    for job in jobs:
        book.insert(job)
    listed = read_jobs(path, 200.0, 100.0)
    assert listed is not None
    assert [(job["id"][-1], job["state"]) for job in listed] == [
        ("7", "queued"),
        ("6", "paused"),
        ("5", "cancelled"),
        ("4", "queued"),
        ("2", "failed"),
    ]
    with closing(sqlite3.connect(tmp_path / "older")) as db:
        db.execute("CREATE TABLE blobs (x)")
    assert read_jobs(tmp_path / "older", 0.0, 0.0) is None


def test_a_newer_book_is_left_alone(book: Book, path: Path) -> None:
    book.insert(made(1))
    book.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE parts SET version = 99 WHERE name = 'jobs'")
    with pytest.raises(InvalidInput, match="use a newer one"):
        Book.open(path)


def test_jobs_survive_another_layout_of_the_index(book: Book, path: Path) -> None:
    book.insert(made(1, State.PAUSED))
    Index.open(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 1")
    Index.open(path).close()
    assert [job.state for job in book.open_jobs()] == [State.PAUSED]


def test_jobs_are_part_of_a_backup(tmp_path: Path) -> None:
    layout = new_layout(tmp_path / "data")
    layout.node_key.write_bytes(b"key")
    Index.open(layout.index).close()
    with closing(Book.open(layout.index)) as book:
        job = made(1, State.RUNNING, counts=Counts(9, 1, 1, None, 0), cursor=3)
        book.insert(job)
        book.save_progress(Checkpoint(job.id, 1, job.counts, "3", None, failures("a")))
        backup(layout, tmp_path / "saved.tar")  # while it is being worked at
    again = Layout(tmp_path / "again")
    restore(again, tmp_path / "saved.tar", Disk())
    Index.open(again.index).close()
    with closing(Book.open(again.index)) as book:
        assert book.open_jobs() == [job]
        assert book.failures(job) == list(failures("a"))
