"""Leases: blobs that somebody is about to name, and that collection leaves alone until then.

Whoever stores a blob in order to publish it takes a lease before it is told that the blob is stored, also where the
blob was here already. Once a channel names the blob, the lease is released; where nothing comes of it, it expires.

A lease is durable before `take` returns: a crash between upload and publication costs nobody an upload. With the
database itself leases are lost, and a publication that was under way is refused by name (its blobs aren't here).
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput, Temporary
from aibrother_node.store.database import durable, named, open_part

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

LONGEST: Final = 86_400.0
"""Seconds that a lease may last from when it is taken; taken again, it lasts longer."""
MOST: Final = 500_000
"""Leases at a time: a batch of a hundred thousand releases, each a part with its manifests, is beyond it."""
_MOST_HOLDER: Final = 200
_TABLES: Final = """
CREATE TABLE leases (
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    holder TEXT NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (digest, holder)
) WITHOUT ROWID;
CREATE INDEX leases_by_holder ON leases (holder);
CREATE INDEX leases_by_end ON leases (until);
"""


@dataclass(frozen=True, slots=True)
class Lease:
    """One lease on one blob.

    Attributes:
        holder: who has it, in words that tell people something, such as `publish 3f2a…`.
        until: when it ends, in seconds since 1970.
    """

    holder: str
    until: float


class Leases:
    """The leases of one store; confined to the thread that opened them, the one that changes the store."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open them in `index.sqlite3`.

        Raises:
            DiskFull, InvalidInput: as `open_part`.
        """
        return cls(open_part(path, "leases", [_TABLES]))

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def take(self, digests: Collection[Digest], holder: str, until: float, *, now: float) -> None:
        """Lease blobs, durably, whether they are here yet or not; one that the holder has already lasts longer.

        Args:
            digests: of the blobs, their manifests among them.
            holder: who; one line of up to 200 characters. What `release` is called with.
            until: when the lease ends, in seconds since 1970; at most `LONGEST` from now.
            now: the time.

        Raises:
            InvalidInput: the holder is no name, or the time is out of bounds.
            Temporary: there are too many leases.
            DiskFull: there is no room.
        """
        if not 0 < len(holder) <= _MOST_HOLDER or not holder.isprintable():
            raise InvalidInput(f"no name for the holder of a lease: {holder[:80]!r}")
        if not now < until <= now + LONGEST:
            raise InvalidInput(f"a lease lasts up to {LONGEST:g} s, not {until - now:g} s")
        with durable(self._db):
            self._db.execute("DELETE FROM leases WHERE until <= ?", (now,))
            (taken,) = self._db.execute("SELECT count(*) FROM leases").fetchone()
            if taken + len(digests) > MOST:
                raise Temporary(f"{taken} leases are out, and {MOST} are the most: publish or wait", retry_after=60)
            self._db.executemany(
                "INSERT INTO leases VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET until = max(until, excluded.until)",
                ((digest.raw, holder, until) for digest in digests),
            )

    def release(self, holder: str) -> int:
        """End all leases of a holder; returns how many there were.

        Raises:
            DiskFull: there is no room; the leases end by themselves.
        """
        try:
            return self._db.execute("DELETE FROM leases WHERE holder = ?", (holder,)).rowcount
        except sqlite3.Error as error:
            raise named(error) from error

    def live(self, now: float) -> dict[Digest, Lease]:
        """All leased blobs, each with the lease that ends last."""
        rows = self._db.execute("SELECT digest, holder, max(until) FROM leases WHERE until > ? GROUP BY digest", (now,))
        return {Digest(raw): Lease(holder, until) for raw, holder, until in rows}

    def of(self, digests: Iterable[Digest], now: float) -> dict[Digest, Lease]:
        """Those of these blobs that are leased, each with the lease that ends last."""
        found = {}
        for digest in digests:
            row = self._db.execute(
                "SELECT holder, until FROM leases WHERE digest = ? AND until > ? ORDER BY until DESC LIMIT 1",
                (digest.raw, now),
            ).fetchone()
            if row is not None:
                found[digest] = Lease(*row)
        return found
