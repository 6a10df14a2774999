"""The index: what the file system says, in a form that answers quickly.

It holds nothing that can't be read from the blobs again (invariant 2): lose it, and the next start rebuilds it. So its
writes need not be durable one by one, and whatever it says is checked against the file system when the store opens.

The file is shared with what isn't derived (database.py). So another layout of the index replaces its own tables alone,
and the whole file is put aside only where SQLite can't make sense of it.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aibrother_node.content.digest import Digest
from aibrother_node.errors import NodeError
from aibrother_node.store.database import named
from aibrother_node.store.disk import Disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_LOG: Final = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_PATIENCE: Final = 10.0  # seconds to wait for another connection's transaction
_SCHEMA_VERSION: Final = 2
_SCHEMA: Final = """
CREATE TABLE blobs (
    digest BLOB PRIMARY KEY CHECK (length(digest) = 32),
    size INTEGER NOT NULL CHECK (size >= 0),
    added REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE manifests (
    blob BLOB NOT NULL CHECK (length(blob) = 32),
    manifest BLOB NOT NULL CHECK (length(manifest) = 32),
    chunker TEXT NOT NULL,
    PRIMARY KEY (blob, manifest)
) WITHOUT ROWID;
CREATE INDEX manifests_by_digest ON manifests (manifest);
CREATE TABLE targets (
    path TEXT PRIMARY KEY,
    sha256 BLOB NOT NULL CHECK (length(sha256) = 32),
    size INTEGER NOT NULL CHECK (size >= 0),
    name TEXT,
    version TEXT,
    variant TEXT,
    manifest BLOB CHECK (length(manifest) = 32)
) WITHOUT ROWID;
CREATE INDEX targets_by_digest ON targets (sha256);
CREATE TABLE yanked (
    path TEXT PRIMARY KEY,
    sha256 BLOB NOT NULL CHECK (length(sha256) = 32),
    reason TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX yanked_by_digest ON yanked (sha256);
CREATE TABLE catalog (state TEXT NOT NULL);
"""
_TABLES: Final = ("blobs", "manifests", "targets", "yanked", "catalog")  # of all layouts that there have been
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_UNREADABLE: Final = frozenset(
    {sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS}
)
ASIDE: Final = ".damaged"
"""What the names of files end with that were put aside."""


@dataclass(frozen=True, slots=True)
class TargetRow:
    """One target of the verified catalog: a part of a release, or a document.

    Attributes:
        path: the target path, such as `models/phi-2-mobile-2026.11.1-q4_k_m.gguf`.
        sha256, size: of its bytes.
        name, version, variant: the release that a part belongs to; None for a document.
        manifest: the digest of a part's chunk manifest; None for a document.
    """

    path: str
    sha256: Digest
    size: int
    name: str | None = None
    version: str | None = None
    variant: str | None = None
    manifest: Digest | None = None


@dataclass(frozen=True, slots=True)
class YankedRow:
    """One target path that a withdrawn release had.

    Attributes:
        path: as it was.
        sha256: what it named.
        reason: of the publisher.
    """

    path: str
    sha256: Digest
    reason: str


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One manifest that is stored.

    Attributes:
        blob: the blob it describes, which need not be here.
        manifest: its own digest.
        chunker: `gguf/1` or `fixed/1`.
    """

    blob: Digest
    manifest: Digest
    chunker: str


class Index:
    """The index as its one writer uses it; confined to the thread that opened it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    @classmethod
    def open(cls, path: Path, disk: Disk | None = None) -> Index:
        """Open the index, or begin an empty one where there is none, or one of another layout.

        A file that is damaged is put aside, and all that it held is lost but for what an operator may save of it.

        Args:
            path: of `index.sqlite3`.
            disk: the file system; tests pass one that records.

        Raises:
            DiskFull, Temporary: it can't be opened now; nothing is lost.
            NodeError: it can't be opened, for another reason than that it is damaged.
        """
        try:
            return cls(_connect(path))
        except sqlite3.Error as error:
            if not _is_damage(error):
                raise _why_not(path, error) from error
            _LOG.error("%s is damaged and put aside, with jobs, leases and audit log: %s", path, error)
            _put_aside(path, disk or Disk())
        try:
            return cls(_connect(path))
        except sqlite3.Error as error:
            raise _why_not(path, error) from error

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def digests(self) -> set[bytes]:
        """The raw digests of all indexed blobs."""
        return {row[0] for row in self._db.execute("SELECT digest FROM blobs")}

    def put_blobs(self, rows: Iterable[tuple[Digest, int, float]]) -> None:
        """Enter blobs: digest, size in bytes, time added in seconds since 1970."""
        with self._db:
            self._db.executemany(
                "INSERT OR REPLACE INTO blobs VALUES (?, ?, ?)", ((d.raw, size, added) for d, size, added in rows)
            )

    def put_manifests(self, rows: Iterable[ManifestRow]) -> None:
        """Enter which manifests describe which blobs."""
        with self._db:
            self._db.executemany(
                "INSERT OR REPLACE INTO manifests VALUES (?, ?, ?)",
                ((row.blob.raw, row.manifest.raw, row.chunker) for row in rows),
            )

    def remove_blobs(self, digests: Iterable[Digest]) -> None:
        """Forget blobs, and what they said as manifests."""
        raw = [(d.raw,) for d in digests]
        with self._db:
            self._db.executemany("DELETE FROM blobs WHERE digest = ?", raw)
            self._db.executemany("DELETE FROM manifests WHERE manifest = ?", raw)

    def disown(self, manifest: Digest) -> None:
        """A blob that says it is a manifest isn't one of the blob that it names."""
        with self._db:
            self._db.execute("DELETE FROM manifests WHERE manifest = ?", (manifest.raw,))

    def totals(self) -> tuple[int, int]:
        """How many blobs there are, and their bytes in all."""
        count, size = self._db.execute("SELECT count(*), coalesce(sum(size), 0) FROM blobs").fetchone()
        return count, size

    def manifests_of(self, blob: Digest) -> list[ManifestRow]:
        """The stored manifests of a blob, best first."""
        return _manifests_of(self._db, blob)

    def catalog_state(self) -> str | None:
        """Which catalog the tables hold; None for none."""
        row = self._db.execute("SELECT state FROM catalog").fetchone()
        return None if row is None else str(row[0])

    def put_catalog(
        self,
        state: str,
        targets: Iterable[TargetRow],
        yanked: Iterable[YankedRow],
        *,
        removed: Iterable[str] = (),
        whole: bool,
    ) -> None:
        """Enter a catalog, all at once: readers see the one before or this one.

        Args:
            state: names it.
            targets: those that are new or changed; all of them where `whole`.
            yanked: all of them.
            removed: paths that are targets no longer.
            whole: forget every other target.
        """
        with self._db:
            if whole:
                self._db.execute("DELETE FROM targets")
            self._db.executemany("DELETE FROM targets WHERE path = ?", ((path,) for path in removed))
            self._db.executemany(
                "INSERT OR REPLACE INTO targets VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        row.path,
                        row.sha256.raw,
                        row.size,
                        row.name,
                        row.version,
                        row.variant,
                        None if row.manifest is None else row.manifest.raw,
                    )
                    for row in targets
                ),
            )
            self._db.execute("DELETE FROM yanked")
            self._db.executemany(
                "INSERT OR REPLACE INTO yanked VALUES (?, ?, ?)",
                ((row.path, row.sha256.raw, row.reason) for row in yanked),
            )
            self._db.execute("DELETE FROM catalog")
            self._db.execute("INSERT INTO catalog VALUES (?)", (state,))

    def name_of(self, digest: Digest) -> str | None:
        """A target path that names a blob, or names it as a manifest; None where none does."""
        query = (
            "SELECT path FROM targets WHERE sha256 = ?1 UNION ALL SELECT path FROM targets WHERE manifest = ?1 LIMIT 1"
        )
        return _text(_one(self._db, query, digest.raw))

    def names(self, digest: Digest) -> bool:
        """Whether a target names a blob, as what it is itself."""
        return _one(self._db, "SELECT 1 FROM targets WHERE sha256 = ?", digest.raw) is not None

    def described_by(self, manifest: Digest) -> list[Digest]:
        """The blobs that a stored manifest describes, here or not."""
        rows = self._db.execute("SELECT blob FROM manifests WHERE manifest = ?", (manifest.raw,)).fetchall()
        return [Digest(row[0]) for row in rows]

    def without_manifest(self) -> Iterator[Digest]:
        """Blobs that are no manifest themselves and that no stored manifest describes."""
        rows = self._db.execute(
            "SELECT digest FROM blobs WHERE digest NOT IN (SELECT blob FROM manifests)"
            " AND digest NOT IN (SELECT manifest FROM manifests)"
        ).fetchall()
        return (Digest(row[0]) for row in rows)


class IndexReader:
    """The index as workers use it: read-only, one short-lived connection a question, from any thread."""

    def __init__(self, path: Path) -> None:
        self._uri = f"{path.absolute().as_uri()}?mode=ro"

    def manifests_of(self, blob: Digest) -> list[ManifestRow]:
        """The stored manifests of a blob, best first; none where the index is missing or busy."""
        return self._ask(lambda db: _manifests_of(db, blob)) or []

    def manifests_to_try(self, blobs: Iterable[Digest]) -> dict[Digest, list[Digest]] | None:
        """For each of these blobs the manifest that the catalog names, then the stored ones, best first.

        None where there is no index to ask.
        """
        return self._ask(lambda db: {blob: _manifests_to_try(db, blob) for blob in blobs})

    def described_by(self, manifest: Digest) -> ManifestRow | None:
        """What a stored manifest describes; None for a blob that is no manifest."""
        query = "SELECT blob, manifest, chunker FROM manifests WHERE manifest = ?"
        row = self._ask(lambda db: _one(db, query, manifest.raw))
        return None if row is None else ManifestRow(Digest(row[0]), Digest(row[1]), row[2])

    def sizes(self) -> list[tuple[Digest, int, bool]] | None:
        """All blobs, their sizes, and whether each is a manifest; None where there is no index to ask."""
        query = "SELECT digest, size, digest IN (SELECT manifest FROM manifests) FROM blobs"
        return self._ask(lambda db: [(Digest(row[0]), row[1], bool(row[2])) for row in db.execute(query)])

    def digests(self) -> set[Digest] | None:
        """All blobs, or None where there is no index to ask."""
        return self._ask(lambda db: {Digest(row[0]) for row in db.execute("SELECT digest FROM blobs")})

    def totals(self) -> tuple[int, int] | None:
        """How many blobs there are and their bytes, or None where there is no index to ask."""
        return self._ask(lambda db: _one(db, "SELECT count(*), coalesce(sum(size), 0) FROM blobs"))

    def target(self, path: str) -> TargetRow | None:
        """What a target path names in the catalog."""
        return self._ask(lambda db: _target(_one(db, f"{_TARGET} WHERE path = ?", path)))

    def target_of(self, sha256: Digest) -> TargetRow | None:
        """A target that names this blob; the first by path where there are several."""
        return self._ask(lambda db: _target(_one(db, f"{_TARGET} WHERE sha256 = ? ORDER BY path LIMIT 1", sha256.raw)))

    def yanked(self, path: str) -> str | None:
        """Why what a path named was withdrawn; None where it was not."""
        return self._ask(lambda db: _text(_one(db, "SELECT reason FROM yanked WHERE path = ?", path)))

    def yanked_blob(self, sha256: Digest) -> str | None:
        """Why a blob was withdrawn; None where it was not, or where another release still names it."""
        query = (
            "SELECT reason FROM yanked WHERE sha256 = ?1"
            " AND NOT EXISTS (SELECT 1 FROM targets WHERE sha256 = ?1) ORDER BY path LIMIT 1"
        )
        return self._ask(lambda db: _text(_one(db, query, sha256.raw)))

    def catalog_state(self) -> str | None:
        """Which catalog the index holds; None for none."""
        return self._ask(lambda db: _text(_one(db, "SELECT state FROM catalog")))

    def _ask(self, question: Callable[[sqlite3.Connection], _Result | None]) -> _Result | None:
        try:
            with contextlib.closing(sqlite3.connect(self._uri, uri=True, timeout=2.0)) as db:
                return question(db)
        except sqlite3.Error:
            return None


_TARGET: Final = "SELECT path, sha256, size, name, version, variant, manifest FROM targets"


def _one(db: sqlite3.Connection, query: str, *parameters: object) -> tuple[Any, ...] | None:
    row: tuple[Any, ...] | None = db.execute(query, parameters).fetchone()
    return row


def _text(row: tuple[Any, ...] | None) -> str | None:
    return None if row is None else str(row[0])


def _target(row: tuple[Any, ...] | None) -> TargetRow | None:
    if row is None:
        return None
    path, sha256, size, name, version, variant, manifest = row
    return TargetRow(path, Digest(sha256), size, name, version, variant, None if manifest is None else Digest(manifest))


class _Damaged(sqlite3.DatabaseError):
    """SQLite can read the file, and it isn't in order."""


def _is_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    return isinstance(error, _Damaged) or code & 0xFF in _DAMAGE or code in _UNREADABLE


def _why_not(path: Path, error: sqlite3.Error) -> Exception:
    known = named(error)
    return NodeError(f"{path} can't be opened: {error}") if known is error else known


def _put_aside(path: Path, disk: Disk) -> None:
    """Move the database away with its log, over what was put aside before."""
    for suffix in ("", "-wal"):
        found = path.with_name(path.name + suffix)
        aside = path.with_name(path.name + ASIDE + suffix)
        if found.exists():
            disk.rename(found, aside)
        else:
            disk.unlink(aside)
    for suffix in ("-shm", "-journal"):
        disk.unlink(path.with_name(path.name + suffix))


def _lay_out(db: sqlite3.Connection) -> None:
    """Make the index's own tables anew, all at once; the others in the file stay as they are."""
    with db:
        db.execute("BEGIN IMMEDIATE")
        for table in _TABLES:
            db.execute(f"DROP TABLE IF EXISTS {table}")
        for statement in _SCHEMA.split(";\n"):
            if statement.strip():
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=_PATIENCE, check_same_thread=True)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise _Damaged(" ".join(verdict.split()))
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version != _SCHEMA_VERSION:
            _lay_out(db)  # derived data: cheaper to rebuild than to migrate
        with db:
            db.execute("CREATE INDEX IF NOT EXISTS targets_by_manifest ON targets (manifest)")
    except BaseException:
        db.close()
        raise
    return db


def _manifests_to_try(db: sqlite3.Connection, blob: Digest) -> list[Digest]:
    target = _target(_one(db, f"{_TARGET} WHERE sha256 = ? ORDER BY path LIMIT 1", blob.raw))
    named = [] if target is None or target.manifest is None else [target.manifest]
    return named + [row.manifest for row in _manifests_of(db, blob)]


def _manifests_of(db: sqlite3.Connection, blob: Digest) -> list[ManifestRow]:
    rows = db.execute(
        # the cut by meaning first: it is the one that lets a reader reuse what did not change
        "SELECT manifest, chunker FROM manifests WHERE blob = ? ORDER BY chunker != 'gguf/1', chunker, manifest",
        (blob.raw,),
    ).fetchall()
    return [ManifestRow(blob, Digest(manifest), chunker) for manifest, chunker in rows]
