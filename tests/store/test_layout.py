"""The data directory: version and lock."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aibrother_node.errors import InvalidInput, NotFound, Temporary
from aibrother_node.store.disk import Disk
from aibrother_node.store.layout import LAYOUT_VERSION, DirectoryLock, Layout
from store.helpers import new_layout


def test_create_makes_a_directory_that_passes_its_check(tmp_path: Path) -> None:
    layout = new_layout(tmp_path / "data")
    layout.check_version()
    assert {path.name for path in layout.root.iterdir()} == {
        "VERSION",
        "blobs",
        "fills",
        "incoming",
        "pins",
        "quarantine",
        "run",
        "tokens",
        "trust",
    }


def test_create_again_changes_nothing(tmp_path: Path) -> None:
    layout = new_layout(tmp_path)
    before = layout.version.stat()
    layout.create(Disk())
    assert layout.version.stat().st_ino == before.st_ino


def test_a_directory_without_version_is_none(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no data directory"):
        Layout(tmp_path / "missing").check_version()
    with pytest.raises(NotFound, match="no data directory"):
        Layout(tmp_path).check_version()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{LAYOUT_VERSION + 1}\n", f"layout version {LAYOUT_VERSION + 1}; this program knows {LAYOUT_VERSION}"),
        ("0\n", "no layout version 0"),
        ("", "no layout version"),
        ("one", "no layout version"),
        ("\xff", "no layout version"),
        ("1" * 5000, "layout version"),
    ],
)
def test_other_versions_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    layout = new_layout(tmp_path)
    layout.version.write_text(text, encoding="latin-1")
    with pytest.raises(InvalidInput, match=reason):
        layout.check_version()


def test_the_lock_is_exclusive_and_ends_with_its_holder(tmp_path: Path) -> None:
    with DirectoryLock.take(tmp_path, 0):
        assert DirectoryLock.try_take(tmp_path) is None
        with pytest.raises(Temporary, match="in use"):
            DirectoryLock.take(tmp_path, 0)
    again = DirectoryLock.try_take(tmp_path)
    assert again is not None
    again.release()


def test_the_lock_survives_in_a_child_that_inherits_it(tmp_path: Path) -> None:
    lock = DirectoryLock.take(tmp_path, 0)
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=[lock.fd]
    )
    lock.release()
    try:
        assert DirectoryLock.try_take(tmp_path) is None
    finally:
        child.kill()
        child.communicate()
    DirectoryLock.take(tmp_path, 5.0).release()


def test_a_lock_needs_a_directory(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        DirectoryLock.try_take(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(NotFound):
        DirectoryLock.try_take(tmp_path / "file")


def test_an_inherited_lock_is_not_passed_on(tmp_path: Path) -> None:
    lock = DirectoryLock.take(tmp_path, 0)
    os.set_inheritable(lock.fd, True)
    assert not os.get_inheritable(DirectoryLock.inherit(tmp_path, lock.fd).fd)
    lock.release()
