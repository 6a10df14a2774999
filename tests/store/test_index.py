"""The index's file: what is lost of it when, and what never is."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from aibrother_node.content.digest import Digest
from aibrother_node.errors import DiskFull, NodeError, Temporary
from aibrother_node.store import database
from aibrother_node.store.index import Index

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = Digest(bytes(32))
KEPT = ["CREATE TABLE kept (x)"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An index with a blob in it, and a durable part with a row."""
    path = tmp_path / "index.sqlite3"
    with closing(Index.open(path)) as index:
        index.put_blobs([(DIGEST, 5, 0.0)])
    with closing(database.open_part(path, "kept", KEPT)) as db:
        db.execute("INSERT INTO kept VALUES (7)")
    return path


def durable(path: Path) -> list[int]:
    with closing(database.open_part(path, "kept", KEPT)) as db:
        return [row[0] for row in db.execute("SELECT x FROM kept")]


def blobs(path: Path) -> set[bytes]:
    with closing(Index.open(path)) as index:
        return index.digests()


def test_nothing_is_lost_by_opening(path: Path) -> None:
    assert blobs(path) == {DIGEST.raw}
    assert durable(path) == [7]


@pytest.mark.parametrize("version", [0, 1, 99])
def test_another_layout_loses_what_is_derived_alone(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("ALTER TABLE blobs ADD COLUMN of_another_layout")
        db.execute("DROP TABLE yanked")
        db.execute(f"PRAGMA user_version = {version}")
    assert blobs(path) == set()
    assert durable(path) == [7]
    with closing(Index.open(path)) as index:
        index.put_blobs([(DIGEST, 5, 0.0)])
        index.put_catalog("state", [], [], whole=True)
    assert blobs(path) == {DIGEST.raw}, "the layout is this one now"


def test_a_part_may_come_first(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite3"
    with closing(database.open_part(path, "kept", KEPT)) as db:
        db.execute("INSERT INTO kept VALUES (7)")
    assert blobs(path) == set()
    assert durable(path) == [7]


def _no_database(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 1000)


def _a_torn_page(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'blobs'").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(bytes(range(1, 256)) * 16)


@pytest.mark.parametrize("damage", [_no_database, _a_torn_page])
def test_a_damaged_file_is_put_aside(path: Path, damage: object, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):  # what was put aside before makes way
        assert callable(damage)
        damage(path)
        bad = path.read_bytes()
        path.with_name("index.sqlite3-wal").write_bytes(b"a log")
        caplog.clear()
        assert blobs(path) == set()
        assert "damaged and put aside" in caplog.text
        assert path.with_name("index.sqlite3.damaged").read_bytes() == bad
        assert durable(path) == []
        with closing(Index.open(path)) as index:
            index.put_blobs([(DIGEST, 5, 0.0)])
    assert blobs(path) == {DIGEST.raw}


def test_a_locked_file_is_left_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr("aibrother_node.store.index._PATIENCE", 0.1)
        with pytest.raises(Temporary):
            Index.open(path)
        db.rollback()
    assert blobs(path) == {DIGEST.raw}
    assert durable(path) == [7]
    assert not path.with_name("index.sqlite3.damaged").exists()


_WITHOUT_ROOM = """
import resource, signal, sys
from pathlib import Path
from aibrother_node.errors import DiskFull
from aibrother_node.store.index import Index
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    Index.open(Path(sys.argv[1]))
except DiskFull:
    sys.exit(7)
"""


@pytest.mark.parametrize("new", [False, True])
def test_on_a_full_disk_it_is_left_alone(path: Path, tmp_path: Path, new: bool) -> None:
    """No file can grow: what SQLite sees where a quota or a file system is full."""
    where = tmp_path / "new.sqlite3" if new else path
    done = subprocess.run([sys.executable, "-c", _WITHOUT_ROOM, where], check=False, capture_output=True, text=True)
    assert done.returncode == 7, done
    assert blobs(path) == {DIGEST.raw}
    assert durable(path) == [7]
    assert not list(tmp_path.glob("*.damaged*"))


def test_what_cannot_be_opened_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite3"
    path.mkdir()
    with pytest.raises(NodeError, match="can't be opened") as refused:
        Index.open(path)
    assert not isinstance(refused.value, DiskFull)
    assert path.is_dir()
    assert os.listdir(tmp_path) == ["index.sqlite3"]
