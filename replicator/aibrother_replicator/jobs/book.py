"""Jobs as they are written down: the part `jobs` of `index.sqlite3`. Blocking, and confined to one thread.

A checkpoint writes numbers, cursor and what failed in one transaction; changes of state write nothing but the state. So
the two can follow each other in any order, and whatever instant a process is killed at, what stands here fits together.
What can't be written is an `sqlite3.Error`, and then nothing of it is.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.store.database import open_part, read_only, transaction
from aibrother_replicator.jobs.document import document
from aibrother_replicator.jobs.live import SHOWN, Checkpoint, Failure, dump
from aibrother_replicator.jobs.model import Counts, Job, State, after_restart

if TYPE_CHECKING:
    from pathlib import Path

KEPT: Final = 1_000
"""Ended jobs that are kept; older ones are forgotten."""
KEPT_NAMES: Final = 20
"""Ended jobs of which all names of failed objects are kept; of older ones those that are shown."""
RECENT: Final = 7 * 86_400.0
"""Seconds for which a job that has failed is shown with those that haven't ended."""
_LISTED: Final = 10  # failed jobs that are worth a look, and errors of each
_STEPS: Final = (
    """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    request TEXT NOT NULL,
    created REAL NOT NULL,
    state TEXT NOT NULL,
    started REAL,
    ended REAL,
    reason TEXT,
    cancelling INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    selective INTEGER NOT NULL,
    whole INTEGER NOT NULL,
    objects_before INTEGER NOT NULL,
    bytes_before INTEGER NOT NULL,
    objects_total INTEGER,
    objects_done INTEGER NOT NULL,
    objects_failed INTEGER NOT NULL,
    bytes_total INTEGER,
    bytes_done INTEGER NOT NULL,
    cursor TEXT NOT NULL,
    result TEXT
) WITHOUT ROWID;
CREATE INDEX jobs_open ON jobs (id) WHERE ended IS NULL;
CREATE TABLE jobs_failures (
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    reason TEXT NOT NULL,
    at REAL NOT NULL,
    attempt INTEGER NOT NULL,
    again INTEGER NOT NULL,
    PRIMARY KEY (job, name)
) WITHOUT ROWID;
CREATE INDEX jobs_failures_by_time ON jobs_failures (job, at);
""",
)
_COLUMNS: Final = (
    *("id", "kind", "request", "created", "state", "started", "ended", "reason", "cancelling", "attempt", "selective"),
    *("whole", "objects_before", "bytes_before", "objects_total", "objects_done", "objects_failed", "bytes_total"),
    *("bytes_done", "cursor", "result"),
)
_SELECT: Final = " ".join(("SELECT", ", ".join(_COLUMNS), "FROM jobs"))
_INSERT: Final = f"INSERT INTO jobs ({', '.join(_COLUMNS)})"
_VALUES: Final = f"VALUES ({', '.join('?' * len(_COLUMNS))})"
_REPLACED: Final = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[1:])


class Book:
    """The jobs of one node, as its one process that works at them writes them down.

    Args:
        db: a connection that nobody else uses.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        db.execute("PRAGMA foreign_keys = ON")

    @classmethod
    def open(cls, path: Path) -> Book:
        """Open the book in `index.sqlite3`.

        Raises:
            DiskFull, sqlite3.Error: not now.
            InvalidInput: a newer program has written it.
        """
        return cls(open_part(path, "jobs", _STEPS))

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    # -- reading

    def get(self, job: str) -> Job | None:
        """One job, or None where there is none of this id."""
        row = self._db.execute(f"{_SELECT} WHERE id = ?", (job,)).fetchone()
        return None if row is None else _job(row)

    def open_jobs(self) -> list[Job]:
        """All jobs that haven't ended, oldest first."""
        return _open_jobs(self._db)

    def ended(
        self, *, before: str | None = None, state: State | None = None, kind: str | None = None, most: int
    ) -> list[Job]:
        """Jobs that have ended, newest first.

        Args:
            before: of which the id is less than this.
            state, kind: of which alone.
            most: how many at most.
        """
        rows = self._db.execute(
            f"{_SELECT} WHERE ended IS NOT NULL AND (?1 IS NULL OR id < ?1) AND (?2 IS NULL OR state = ?2)"
            " AND (?3 IS NULL OR kind = ?3) ORDER BY id DESC LIMIT ?4",
            (before, None if state is None else state.value, kind, most),
        )
        return [_job(row) for row in rows]

    def failed(self, since: float) -> list[Job]:
        """The newest jobs that have failed since then (seconds since 1970), newest first."""
        return _failed_jobs(self._db, since)

    def failures(self, job: Job, most: int = SHOWN) -> list[Failure]:
        """What failed in the last attempt, newest first."""
        return _failures(self._db, job, most)

    def named(self, job: Job) -> set[str]:
        """The names of what failed in the last attempt, as far as they are kept."""
        rows = self._db.execute("SELECT name FROM jobs_failures WHERE job = ? AND attempt = ?", (job.id, job.attempt))
        return {row[0] for row in rows}

    def only(self, job: Job) -> frozenset[str]:
        """The names that a selective attempt is for: the same from its beginning to its end."""
        rows = self._db.execute("SELECT name FROM jobs_failures WHERE job = ? AND again = ?", (job.id, job.attempt))
        return frozenset(row[0] for row in rows)

    # -- writing, each in one transaction

    def insert(self, job: Job) -> None:
        """Write down a new job."""
        with transaction(self._db):
            self._insert(job)

    def save_state(self, job: Job) -> None:
        """Write down a job's state, and nothing of its progress."""
        with transaction(self._db):
            self._save_state(job)

    def save_progress(self, checkpoint: Checkpoint) -> None:
        """Write down a checkpoint, and nothing of the state."""
        with transaction(self._db):
            self._save_progress(checkpoint)

    def end(self, job: Job, checkpoint: Checkpoint | None) -> None:
        """Write down that a job has ended, with the last of its numbers; forget the oldest of those that have.

        Args:
            job: as it has ended.
            checkpoint: all that was told; None leaves the last checkpoint as it is.
        """
        with transaction(self._db):
            if checkpoint is not None:
                self._save_progress(checkpoint)
            self._save_state(job)
            self._prune()

    def retry(self, job: Job) -> None:
        """Write down that an ended job goes on; what failed is what a selective attempt is for."""
        with transaction(self._db):
            if not job.whole and job.selective:
                self._db.execute(
                    "UPDATE jobs_failures SET again = ? WHERE job = ? AND attempt = ?",
                    (job.attempt, job.id, job.attempt - 1),
                )
            self._db.execute(
                "DELETE FROM jobs_failures WHERE job = ? AND attempt != ? AND again != ?",
                (job.id, job.attempt, job.attempt),
            )
            self._insert(job)

    def _insert(self, job: Job) -> None:
        self._db.execute(f"{_INSERT} {_VALUES} ON CONFLICT (id) DO UPDATE SET {_REPLACED}", _row(job))

    def _save_state(self, job: Job) -> None:
        self._db.execute(
            "UPDATE jobs SET state = ?, started = ?, ended = ?, reason = ?, cancelling = ?, whole = ? WHERE id = ?",
            (job.state.value, job.started, job.ended, job.reason, job.cancelling, job.whole, job.id),
        )

    def _save_progress(self, made: Checkpoint) -> None:
        counts = made.counts
        self._db.execute(
            "UPDATE jobs SET objects_total = ?, objects_done = ?, objects_failed = ?, bytes_total = ?, bytes_done = ?,"
            " cursor = ?, result = ? WHERE id = ?",
            (
                counts.objects_total,
                counts.objects_done,
                counts.objects_failed,
                counts.bytes_total,
                counts.bytes_done,
                made.cursor,
                made.result,
                made.job,
            ),
        )
        self._db.executemany(
            "INSERT INTO jobs_failures VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT (job, name)"
            " DO UPDATE SET reason = excluded.reason, at = excluded.at, attempt = excluded.attempt",
            ((made.job, one.name, one.reason, one.at, made.attempt) for one in made.failures),
        )

    def _prune(self) -> None:
        """Forget the oldest of the jobs that have ended, and most names of those that are no longer new."""
        newest = "SELECT id FROM jobs WHERE ended IS NOT NULL ORDER BY id DESC LIMIT 1 OFFSET ?"
        for (job,) in self._db.execute(newest, (KEPT,)).fetchall():
            self._db.execute("DELETE FROM jobs WHERE ended IS NOT NULL AND id <= ?", (job,))
        row = self._db.execute(newest, (KEPT_NAMES,)).fetchone()
        if row is not None:  # by one with each job that ends
            self._db.execute(
                "DELETE FROM jobs_failures WHERE job = ?1 AND name NOT IN"
                " (SELECT name FROM jobs_failures WHERE job = ?1 ORDER BY at DESC, name LIMIT ?2)",
                (row[0], SHOWN),
            )


def read_jobs(path: Path, now: float, since: float) -> list[dict[str, Any]] | None:
    """What the book says, for whoever only looks while no node runs.

    Args:
        path: of `index.sqlite3`.
        now: seconds since 1970.
        since: of the failed jobs those that ended after this.

    Returns:
        The documents of the jobs that haven't ended, as the next start will take them up, and of the newest that have
        failed; None where there is nothing that can be read.
    """
    try:
        with contextlib.closing(read_only(path, 2.0)) as db:
            db.execute("BEGIN")
            jobs = [*reversed([after_restart(job, now) for job in _open_jobs(db)]), *_failed_jobs(db, since)]
            return [document(job, _failures(db, job, _LISTED)) for job in jobs]
    except (sqlite3.Error, ValueError):
        return None


def _open_jobs(db: sqlite3.Connection) -> list[Job]:
    return [_job(row) for row in db.execute(f"{_SELECT} WHERE ended IS NULL ORDER BY id")]


def _failed_jobs(db: sqlite3.Connection, since: float) -> list[Job]:
    rows = db.execute(
        f"{_SELECT} WHERE state = ? AND ended > ? ORDER BY id DESC LIMIT ?", (State.FAILED.value, since, _LISTED)
    )
    return [_job(row) for row in rows]


def _failures(db: sqlite3.Connection, job: Job, most: int) -> list[Failure]:
    rows = db.execute(
        "SELECT name, reason, at FROM jobs_failures WHERE job = ? AND attempt = ? ORDER BY at DESC, name LIMIT ?",
        (job.id, job.attempt, most),
    )
    return [Failure(*row) for row in rows]


def _row(job: Job) -> tuple[object, ...]:
    counts, before = job.counts, job.before
    return (
        *(job.id, job.kind, dump(job.request), job.created, job.state.value, job.started, job.ended, job.reason),
        *(job.cancelling, job.attempt, job.selective, job.whole, before.objects_done, before.bytes_done),
        *(counts.objects_total, counts.objects_done, counts.objects_failed, counts.bytes_total, counts.bytes_done),
        *(dump(job.cursor), None if job.result is None else dump(job.result)),
    )


def _job(row: tuple[Any, ...]) -> Job:
    return Job(
        id=row[0],
        kind=row[1],
        request=json.loads(row[2]),
        created=row[3],
        state=State(row[4]),
        started=row[5],
        ended=row[6],
        reason=row[7],
        cancelling=bool(row[8]),
        attempt=row[9],
        selective=bool(row[10]),
        whole=bool(row[11]),
        before=Counts(objects_done=row[12], bytes_done=row[13]),
        counts=Counts(*row[14:19]),
        cursor=json.loads(row[19]),
        result=None if row[20] is None else json.loads(row[20]),
    )
