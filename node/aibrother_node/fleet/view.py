"""What workers know of the fleet: `run/fleet.sqlite3`, written by control, read by every worker.

Control alone gossips and asks peers for their inventories. What it learns it writes here, so that a worker can say who
else has a blob without waiting for control; with control dead, workers go on with what was written last, for as long
as `MAX_AGE`. The file lives in `run/`: it is made anew at every start and holds nothing that gossip doesn't bring back.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from aibrother_node.store.database import transaction
from aibrother_node.store.generation import Generation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from aibrother_node.content.digest import Digest

Have = Literal["complete", "partial"]
MAX_AGE: Final = 300.0
"""Seconds after which what control wrote last is no longer told to clients."""
_PATIENCE: Final = 0.5  # seconds; a reader that would have to wait longer says that it knows of no peers
_NUMBER_OF: Final[Mapping[Have, int]] = {"complete": 1, "partial": 2}
_HAVE_OF: Final[Mapping[int, Have]] = {number: have for have, number in _NUMBER_OF.items()}
_PEERS: Final = """
SELECT p.id, p.url, p.region, p.country, p.latitude, p.longitude, p.load FROM peers p, told t
WHERE t.at BETWEEN ? AND ? AND p.url IS NOT NULL ORDER BY p.id
"""
_HOLDERS: Final = """
SELECT p.id, p.url, p.region, p.country, p.latitude, p.longitude, p.load, h.have
FROM holdings h JOIN peers p ON p.number = h.peer, told t
WHERE t.at BETWEEN ? AND ? AND h.digest = ? AND p.url IS NOT NULL ORDER BY p.id
"""
# a peer whose holdings are known, and which clients are not sent to now, has no url
_TABLES: Final = """
CREATE TABLE told (at REAL NOT NULL);
CREATE TABLE peers (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    url TEXT,
    region TEXT,
    country TEXT,
    latitude REAL,
    longitude REAL,
    load REAL
);
CREATE TABLE holdings (
    digest BLOB NOT NULL,
    peer INTEGER NOT NULL,
    have INTEGER NOT NULL,
    PRIMARY KEY (digest, peer)
) WITHOUT ROWID;
"""
_PUT_PEER: Final = """
INSERT INTO peers (id, url, region, country, latitude, longitude, load) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET url = excluded.url, region = excluded.region, country = excluded.country,
    latitude = excluded.latitude, longitude = excluded.longitude, load = excluded.load
"""


@dataclass(frozen=True, slots=True)
class PeerView:
    """A peer that clients may be sent to: admitted, alive, not draining.

    Attributes:
        id: its node id.
        url: of its public plane, without a slash at the end.
        region, country, latitude, longitude: where it stands; from the catalog, else from its record.
        load: 0 (idle) to 1 (full), as its record says.
    """

    id: str
    url: str
    region: str | None = None
    country: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    load: float = 0.0


class FleetViewWriter:
    """The view as control writes it; for one thread at a time. Every method is one transaction.

    Args:
        path: `run/fleet.sqlite3`; what a former run left there is removed.
    """

    def __init__(self, path: Path) -> None:
        self._generation = Generation(path.with_suffix(".generation"), writable=True)
        self._path = path
        try:
            self._db = _begin(path)
        except sqlite3.DatabaseError:
            for suffix in ("", "-wal", "-shm", "-journal"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            self._db = _begin(path)
        self._told: dict[str, PeerView] = {}
        self._inode = path.stat().st_ino
        self._generation.raise_it()

    def is_lost(self) -> bool:
        """Whether the file is gone, another one, or overwritten: then nobody reads what is written."""
        try:
            if self._path.stat().st_ino != self._inode:
                return True
            with contextlib.closing(sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)) as db:
                return db.execute("SELECT name FROM sqlite_schema WHERE name = 'told'").fetchone() is None
        except sqlite3.OperationalError:
            return False  # busy, or out of something: nothing that a new file would mend
        except (OSError, sqlite3.DatabaseError):
            return True

    def put_peers(self, peers: Iterable[PeerView], now: float) -> None:
        """Say which peers clients may be sent to; what was said before is forgotten, holdings stay.

        The version rises only where that changes something, so that it may be said often: it keeps the view young.
        """
        told = {peer.id: peer for peer in peers}
        with transaction(self._db):
            self._db.execute("DELETE FROM told")
            self._db.execute("INSERT INTO told VALUES (?)", (now,))
            if told != self._told:
                gone = [(peer,) for peer in self._told.keys() - told.keys()]
                self._db.executemany("UPDATE peers SET url = NULL WHERE id = ?", gone)
                changed = [peer for peer in told.values() if self._told.get(peer.id) != peer]
                self._db.executemany(_PUT_PEER, map(astuple, changed))
        if told != self._told:
            self._told = told
            self._generation.raise_it()

    def change_holdings(self, peer: str, changes: Mapping[Digest, Have | None], *, reset: bool = False) -> None:
        """Say what a peer has: None takes a blob away, `reset` begins anew."""
        before = self._db.total_changes
        with transaction(self._db):
            row = self._db.execute("SELECT number FROM peers WHERE id = ?", (peer,)).fetchone()
            number = row[0] if row else self._db.execute("INSERT INTO peers (id) VALUES (?)", (peer,)).lastrowid
            if reset:
                self._db.execute("DELETE FROM holdings WHERE peer = ?", (number,))
            self._db.executemany(
                "DELETE FROM holdings WHERE digest = ? AND peer = ?",
                ((digest.raw, number) for digest, have in changes.items() if have is None),
            )
            self._db.executemany(
                "INSERT INTO holdings VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET have = excluded.have WHERE have != excluded.have",
                ((digest.raw, number, _NUMBER_OF[have]) for digest, have in changes.items() if have is not None),
            )
        if self._db.total_changes != before:
            self._generation.raise_it()

    def forget(self, peers: Iterable[str]) -> None:
        """Forget all holdings of peers that are no members any more, and the peers."""
        gone = [(peer,) for peer in peers]
        before = self._db.total_changes
        with transaction(self._db):
            # one peer at a time reads all holdings, which is rare enough to do without a second index
            self._db.executemany("DELETE FROM holdings WHERE peer = (SELECT number FROM peers WHERE id = ?)", gone)
            self._db.executemany("DELETE FROM peers WHERE id = ?", gone)
        for (peer,) in gone:
            self._told.pop(peer, None)
        if self._db.total_changes != before:
            self._generation.raise_it()

    def close(self) -> None:
        """Let go of the file; readers go on with what it holds."""
        self._db.close()
        self._generation.close()


class FleetView:
    """The view as workers read it; from any thread, blocking.

    A file that is missing, busy or can't be read says nothing: there are no peers then.

    Args:
        path: `run/fleet.sqlite3`, which need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._uri = f"{path.absolute().as_uri()}?mode=ro"
        self._generation_path = path.with_suffix(".generation")
        self._generation: Generation | None = None

    def version(self) -> int:
        """A number that changes with every transaction of the writer that changes what peers there are or have.

        It is eight bytes of memory: cheap enough for each request that is cached. That the view has grown too old for
        `MAX_AGE` it doesn't tell: nothing is written then.
        """
        if self._generation is None:
            try:
                self._generation = Generation(self._generation_path)
            except OSError:
                return 0
        return int.from_bytes(self._generation.now(), "little")

    def peers(self, now: float) -> dict[str, PeerView]:
        """The peers by id; none where control has written nothing for `MAX_AGE`."""
        rows = self._ask(_PEERS, now)
        return {row[0]: PeerView(*row) for row in rows}

    def holders(self, digest: Digest, now: float) -> list[tuple[PeerView, Have]]:
        """Which of these peers have a blob, in the order of their ids."""
        return [(PeerView(*row), _HAVE_OF[have]) for *row, have in self._ask(_HOLDERS, now, digest.raw)]

    def _ask(self, query: str, now: float, *parameters: object) -> list[tuple[Any, ...]]:
        # also not what was written long after now: a clock that was set back must not keep a view for ever
        times = (now - MAX_AGE, now + MAX_AGE)
        try:
            with contextlib.closing(sqlite3.connect(self._uri, uri=True, timeout=_PATIENCE)) as db:
                return db.execute(query, (*times, *parameters)).fetchall()
        except sqlite3.Error:
            return []


def _begin(path: Path) -> sqlite3.Connection:
    """Open the file and empty it in place: a file made anew under the same name would meet readers of the old one."""
    db = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
    try:
        # a control that is killed in the middle leaves the last whole transaction; only a crash of the machine may
        # leave rubbish, which is found here
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN IMMEDIATE")
        for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
            db.execute(f'DROP TABLE "{name}"')
        for table in filter(str.strip, _TABLES.split(";")):
            db.execute(table)
        db.execute("COMMIT")
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
    except BaseException:
        db.close()
        raise
    return db
