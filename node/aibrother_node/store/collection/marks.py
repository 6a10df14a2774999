"""Marks: since when nothing names a blob. Durable, so that the grace is one of the blob's and not of the process.

They are lost with the database; then everything is marked anew, and stays for another grace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from aibrother_node.store.database import durable, open_part

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable
    from pathlib import Path

    from aibrother_node.content.digest import Digest

_TABLES: Final = """
CREATE TABLE marks (
    digest BLOB PRIMARY KEY CHECK (length(digest) = 32),
    since REAL NOT NULL
) WITHOUT ROWID;
"""


class Marks:
    """Those of one store; confined to the thread that opened them, the one that changes the store."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open them in `index.sqlite3`.

        Raises:
            DiskFull, InvalidInput: as `open_part`.
        """
        return cls(open_part(path, "marks", [_TABLES]))

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def change(self, add: Iterable[tuple[Digest, float]], remove: Iterable[Digest]) -> None:
        """Take marks away, and mark blobs, each since when, in one transaction; a mark that is there then stays.

        Raises:
            DiskFull: there is no room.
        """
        with durable(self._db):
            self._db.executemany("DELETE FROM marks WHERE digest = ?", ((digest.raw,) for digest in remove))
            self._db.executemany(
                "INSERT INTO marks VALUES (?, ?) ON CONFLICT DO NOTHING", ((d.raw, since) for d, since in add)
            )

    def since(self, digest: Digest) -> float | None:
        """Since when a blob is marked; None where it isn't."""
        row = self._db.execute("SELECT since FROM marks WHERE digest = ?", (digest.raw,)).fetchone()
        return None if row is None else float(row[0])
