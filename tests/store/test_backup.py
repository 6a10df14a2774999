"""Backups: what goes in comes out, and a hostile one reaches nothing outside the data directory."""

import io
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from aibrother_node.errors import InvalidInput, Refused
from aibrother_node.store.backup import backup, restore
from aibrother_node.store.database import open_part
from aibrother_node.store.disk import Disk
from aibrother_node.store.index import Index
from aibrother_node.store.layout import Layout
from store.helpers import new_layout


def filled(folder: Path) -> Layout:
    """A data directory with a file of every kind that is backed up, and some that are not."""
    layout = new_layout(folder)
    for name in ("keys", "catalog", "catalog/metadata", "catalog/targets", "catalog/targets/models", "catalog/aside"):
        (layout.root / name).mkdir(mode=0o700 if name == "keys" else 0o755)
    for name in (
        "node.key",
        "node.toml",
        "keys/keys.json",
        "catalog/metadata/timestamp.json",
        "catalog/metadata/1.root.json",
        "catalog/targets/models/0.catalog.json",
        "trust/root.json",
        "pins/00",
        "tokens/00.json",
        "catalog/aside/half",
        "blobs/sha256/00",
        "incoming/x",
        "index.sqlite3",
    ):
        (layout.root / name).write_text(name)
    (layout.root / "keys" / "keys.json").chmod(0o600)
    return layout


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    layout = filled(tmp_path / "data")
    count = backup(layout, tmp_path / "saved.tar")
    assert (tmp_path / "saved.tar").stat().st_mode & 0o777 == 0o600
    with tarfile.open(tmp_path / "saved.tar") as tar:
        names = tar.getnames()
    assert names[0] == "catalog/metadata/timestamp.json", "what it leads to is read later, and so is there"
    again = Layout(tmp_path / "again")
    assert restore(again, tmp_path / "saved.tar", Disk()) == count == len(names) == 10
    for name in names:
        assert (again.root / name).read_bytes() == (layout.root / name).read_bytes()
    assert (again.root / "keys" / "keys.json").stat().st_mode & 0o777 == 0o600
    assert (again.root / "tokens").stat().st_mode & 0o777 == 0o700
    again.check_version()
    assert not (again.root / "blobs/sha256/00").exists()


def test_of_the_database_jobs_alone(tmp_path: Path) -> None:
    layout = filled(tmp_path / "data")
    layout.index.unlink()
    Index.open(layout.index).close()
    for name in ("jobs", "other", "jobsx"):
        with closing(open_part(layout.index, name, [f"CREATE TABLE {name} (x);\nCREATE TABLE {name}_more (x)"])) as db:
            db.execute(f"INSERT INTO {name} VALUES (1)")
            db.execute(f"CREATE INDEX {name}_by_x ON {name}_more (x)")
            db.execute(f"INSERT INTO {name}_more VALUES ('two')")
    backup(layout, tmp_path / "saved.tar")
    again = Layout(tmp_path / "again")
    restore(again, tmp_path / "saved.tar", Disk())
    with closing(sqlite3.connect(again.index)) as db:
        names = {row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE sql IS NOT NULL")}
    assert names == {"parts", "jobs", "jobs_more", "jobs_by_x"}
    Index.open(again.index).close()
    with closing(open_part(again.index, "jobs", ["the tables are there"])) as db:
        assert db.execute("SELECT x FROM jobs").fetchall() == [(1,)]
        assert db.execute("SELECT x FROM jobs_more").fetchall() == [("two",)]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    layout = filled(tmp_path / "data")
    backup(layout, tmp_path / "saved.tar")
    with pytest.raises(Refused, match="there already"):
        backup(layout, tmp_path / "saved.tar")
    with pytest.raises(Refused, match="a data directory already"):
        restore(layout, tmp_path / "saved.tar", Disk())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../outside", tarfile.REGTYPE),
        ("/tmp/outside", tarfile.REGTYPE),
        ("keys/../../outside", tarfile.REGTYPE),
        ("keys//x", tarfile.REGTYPE),
        ("blobs/sha256/00", tarfile.REGTYPE),
        ("run/control.sock", tarfile.REGTYPE),
        ("keys/link", tarfile.SYMTYPE),
        ("keys/link", tarfile.LNKTYPE),
        ("keys/pipe", tarfile.FIFOTYPE),
        ("other", tarfile.REGTYPE),
    ],
)
def test_a_hostile_backup_is_refused(tmp_path: Path, name: str, kind: bytes) -> None:
    with tarfile.open(tmp_path / "saved.tar", "w") as tar:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, "/etc/passwd"
        tar.addfile(entry, io.BytesIO())
    with pytest.raises(InvalidInput, match="no backup holds"):
        restore(Layout(tmp_path / "data"), tmp_path / "saved.tar", Disk())
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("data", [b"", b"not a tar file at all", bytes(10_240)])
def test_what_is_no_backup_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "saved.tar").write_bytes(data)
    with pytest.raises(InvalidInput):
        restore(Layout(tmp_path / "data"), tmp_path / "saved.tar", Disk())
    assert not (tmp_path / "data" / "VERSION").exists()
