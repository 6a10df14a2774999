"""Tables of `index.sqlite3` that aren't derived from the files: jobs, audit, leases, counters.

The index can be made again from the blobs (invariant 2) and so commits lazily. What stands here can't; its connections
commit durably (`synchronous = FULL`), and each part's tables have a version of their own, so that a new layout of the
index loses none of it. With the file itself it is lost, and nothing that is stored suffers.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from typing import TYPE_CHECKING, Final

from aibrother_node.errors import DiskFull, InvalidInput, Temporary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_LOG: Final = logging.getLogger(__name__)
_PATIENCE: Final = 10.0  # seconds to wait for another connection's transaction
_NO_SPACE: Final = frozenset(
    # the last: no room for the file beside it through which connections share what they know of the log
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_SHMSIZE}
)
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_PARTS: Final = "CREATE TABLE IF NOT EXISTS parts (name TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID"


def open_part(path: Path, name: str, steps: Sequence[str]) -> sqlite3.Connection:
    """Open the database for one part's tables; for the one thread that calls, of the process that holds the lock.

    Args:
        path: of `index.sqlite3`; made where it is missing.
        name: of the part.
        steps: SQL scripts, the n-th of which brings the tables from version n to n + 1. Only ever added to.

    Raises:
        InvalidInput: the tables were written by a newer program.
        DiskFull: there is no room.
        Temporary: another connection doesn't make way.
    """
    db = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(_PARTS)
        db.execute("BEGIN IMMEDIATE")
        row = db.execute("SELECT version FROM parts WHERE name = ?", (name,)).fetchone()
        version = 0 if row is None else int(row[0])
        if version > len(steps):
            raise InvalidInput(
                f"{path}: {name} has version {version}; this program knows {len(steps)}: use a newer one"
            )
        for step in steps[version:]:
            for statement in step.split(";\n"):
                if statement.strip():
                    db.execute(statement)
        if version != len(steps):  # else nothing is written: a full disk keeps no process from starting again
            db.execute("INSERT OR REPLACE INTO parts VALUES (?, ?)", (name, len(steps)))
        db.execute("COMMIT")
    except sqlite3.OperationalError as error:
        db.close()
        raise named(error) from error
    except BaseException:
        db.close()
        raise
    return db


def copy_part(path: Path, name: str) -> bytes | None:
    """A database that holds one part's tables and nothing else, as they are at one instant; for backups.

    Args:
        path: of `index.sqlite3`, which others may be writing to.
        name: of the part; its tables are called so, or begin so with an underscore.

    Returns:
        The file's bytes; None where there is no such part, or no database that can be read.
    """
    pattern = name.replace("_", "\\_") + "\\_%"
    try:
        with (
            contextlib.closing(read_only(path, _PATIENCE)) as db,
            contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as copy,
        ):
            db.execute("BEGIN")
            row = db.execute("SELECT version FROM parts WHERE name = ?", (name,)).fetchone()
            if row is None:
                return None
            copy.execute(_PARTS)
            copy.execute("INSERT INTO parts VALUES (?, ?)", (name, *row))
            made = db.execute(
                "SELECT type, name, sql FROM sqlite_schema WHERE (tbl_name = ? OR tbl_name LIKE ? ESCAPE '\\')"
                " AND type IN ('table', 'index') AND sql IS NOT NULL ORDER BY type DESC",
                (name, pattern),
            ).fetchall()
            for kind, table, sql in made:
                copy.execute(sql)
                if kind == "table":
                    rows = db.execute(f'SELECT * FROM "{table}"')  # noqa: S608  # names of the database's own schema
                    marks = ", ".join("?" for _ in rows.description)
                    copy.executemany(f'INSERT INTO "{table}" VALUES ({marks})', rows)  # noqa: S608
            return copy.serialize()
    except sqlite3.Error as error:
        if path.exists():
            _LOG.warning("%s in %s can't be copied: %s", name, path, error)
        return None


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing; for a connection that begins no transactions by itself. What is raised inside goes on."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk may have ended it
            db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def durable(db: sqlite3.Connection) -> Iterator[None]:
    """A transaction of one of the parts.

    Raises:
        DiskFull, Temporary: as `named`; nothing has changed.
    """
    try:
        with transaction(db):
            yield
    except sqlite3.Error as error:
        raise named(error) from error


def read_only(path: Path, timeout: float) -> sqlite3.Connection:
    """A connection that changes nothing, beside the writer's; waits at most so many seconds for it."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=timeout)


def named(error: sqlite3.Error) -> Exception:
    """The project's own error for one of SQLite's, where it stands for a full disk or a lock; else the same."""
    code = getattr(error, "sqlite_errorcode", 0)
    if code in _NO_SPACE:
        return DiskFull(f"no space left for the database: {error}")
    if code & 0xFF in _BUSY:
        return Temporary(f"the database is in use: {error}")
    return error
