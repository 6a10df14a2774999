"""When each blob was checked last, and which manifest was found to be its own; a durable part of `index.sqlite3`.

What is lost with the file is checked again: nothing else follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from aibrother_node.content.digest import Digest
from aibrother_node.store.database import durable, open_part

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable
    from pathlib import Path

_STEPS: Final = (
    """
CREATE TABLE scrubbed (
    digest BLOB PRIMARY KEY CHECK (length(digest) = 32),
    checked_at REAL NOT NULL,
    sha_checked_at REAL,
    manifest BLOB CHECK (length(manifest) = 32)
) WITHOUT ROWID;
CREATE TABLE scrub_passes (completed REAL NOT NULL)
""",
)


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known of one blob.

    Attributes:
        at: when it was checked last, in seconds since 1970.
        sha_at: when its whole SHA-256 was; None for never.
        manifest: the manifest that was found to agree with the blob when that was last whole.
    """

    at: float
    sha_at: float | None
    manifest: Digest | None


class Sound(NamedTuple):
    """A blob that was checked and is sound.

    Attributes:
        digest: of the blob.
        at: seconds since 1970.
        manifest: under which it was, where its whole SHA-256 was checked too.
        sha: whether that was.
    """

    digest: Digest
    at: float
    manifest: Digest | None
    sha: bool


class ScrubBook:
    """The part, for the thread that opened it."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    @classmethod
    def open(cls, path: Path) -> ScrubBook:
        """Open it in `index.sqlite3`.

        Raises:
            InvalidInput, DiskFull: as `open_part`.
        """
        return cls(open_part(path, "scrub", _STEPS))

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def get(self, digest: Digest) -> Checked | None:
        """What is known of a blob."""
        row = self._db.execute(
            "SELECT checked_at, sha_checked_at, manifest FROM scrubbed WHERE digest = ?", (digest.raw,)
        ).fetchone()
        return None if row is None else Checked(row[0], row[1], None if row[2] is None else Digest(row[2]))

    def put(self, sound: Iterable[Sound]) -> None:
        """Enter blobs that were checked and are sound, in one transaction."""
        with durable(self._db):
            for one in sound:
                self._put(*one)

    def _put(self, digest: Digest, now: float, manifest: Digest | None, sha: bool) -> None:
        self._db.execute(
            "INSERT INTO scrubbed VALUES (?1, ?2, CASE WHEN ?3 THEN ?2 END, CASE WHEN ?3 THEN ?4 END)"
            " ON CONFLICT DO UPDATE SET checked_at = ?2,"
            " sha_checked_at = CASE WHEN ?3 THEN ?2 ELSE sha_checked_at END,"
            " manifest = CASE WHEN ?3 THEN ?4 ELSE manifest END",
            (digest.raw, now, sha, None if manifest is None else manifest.raw),
        )

    def completed(self, now: float, there: Iterable[Digest]) -> None:
        """A pass over all blobs is over; what is known of others than these is forgotten."""
        known = {digest.raw for digest in there}
        with durable(self._db):
            gone = [(row[0],) for row in self._db.execute("SELECT digest FROM scrubbed") if row[0] not in known]
            self._db.executemany("DELETE FROM scrubbed WHERE digest = ?", gone)
            self._db.execute("DELETE FROM scrub_passes")
            self._db.execute("INSERT INTO scrub_passes VALUES (?)", (now,))

    def last_completed(self) -> float | None:
        """When the last pass over all blobs ended, in seconds since 1970."""
        row = self._db.execute("SELECT completed FROM scrub_passes").fetchone()
        return None if row is None else float(row[0])


def is_sha_due(checked: Checked | None, now: float, interval: float, every: int) -> bool:
    """Whether a blob's whole SHA-256 is to be checked in this pass.

    Args:
        checked: what is known of it.
        now: seconds since 1970.
        interval: between two passes, in seconds.
        every: how many passes.
    """
    if checked is None or checked.sha_at is None:
        return True
    # half an interval early, so that passes which drift don't leave one out
    return not 0 <= now - checked.sha_at < (every - 0.5) * interval


def next_pass(last: float | None, begun: float, interval: float, jitter: float) -> float:
    """When the next pass begins, in seconds since 1970.

    Args:
        last: when the last one ended; None for never.
        begun: since when this node is there, as far as it knows.
        interval: between two passes, in seconds.
        jitter: 0 to 1: nodes that were made together don't read all at the same time.
    """
    return (begun if last is None else last) + interval * (1 - 0.2 * jitter)
