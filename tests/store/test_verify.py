"""The offline check, and what it repairs."""

import json
import os
from pathlib import Path

import pytest

from aibrother_node.store.disk import Disk
from aibrother_node.store.layout import Layout
from aibrother_node.store.verify import verify_store
from store.helpers import add, assert_visible_is_right, digest_of, new_layout, open_store


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return new_layout(tmp_path / "data")


def _source(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "source"
    path.write_bytes(data)
    return path


def _flip(path: Path, offset: int) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_a_sound_store(layout: Layout, tmp_path: Path) -> None:
    with open_store(layout) as store:
        add(store, _source(tmp_path, os.urandom(3000)))
        report = verify_store(store, Disk(), repair=False)
    assert report.sound
    assert report.blobs == 2


def test_a_flipped_bit_is_found_named_and_quarantined(layout: Layout, tmp_path: Path) -> None:
    data = os.urandom(20 << 20)
    with open_store(layout) as store:
        stored = add(store, _source(tmp_path, data))
        _flip(layout.blob(stored.digest), (9 << 20) + 5)
        report = verify_store(store, Disk(), repair=False)
        assert not report.sound
        ((digest, reason),) = report.bad
        assert digest == stored.digest
        assert f"bad chunks: 1 (bytes {8 << 20} to {(16 << 20) - 1})" in reason
        assert layout.blob(stored.digest).exists(), "without repair nothing changes"

        verify_store(store, Disk(), repair=True)
        assert not layout.blob(stored.digest).exists()
        assert (layout.quarantine / stored.digest.hex).stat().st_size == len(data)
        assert json.loads((layout.quarantine / f"{stored.digest.hex}.json").read_bytes())["reason"] == reason
        again = verify_store(store, Disk(), repair=False)
        assert again.sound
        assert again.dangling_pins == [stored.digest.hex], "what the operator wanted is still known"
    assert_visible_is_right(layout)


def test_strangers_stale_fills_and_lost_manifests(layout: Layout, tmp_path: Path) -> None:
    with open_store(layout) as store:
        stored = add(store, _source(tmp_path, b"content" * 100))
        layout.blob(stored.manifest).unlink()
        (layout.blobs / "notes.txt").write_text("mine")
        (layout.fills / stored.digest.hex).mkdir()
        (layout.fills / digest_of(b"unfinished").hex).mkdir()
        (layout.fills / "nonsense").mkdir()
        (layout.pins / "nonsense").touch()
        store.reconcile()
        report = verify_store(store, Disk(), repair=True)
        assert report.strangers == ["notes.txt"]
        assert report.without_manifest == [stored.digest]
        stale = [f"fills/{name}" for name in (stored.digest.hex, digest_of(b"unfinished").hex, "nonsense")]
        assert sorted(report.stale) == sorted([*stale, "pins/nonsense"]), "a fill without data is debris"
        assert (layout.quarantine / "stranger-notes.txt").read_text() == "mine"
        assert list(layout.fills.iterdir()) == []
        assert verify_store(store, Disk(), repair=False).sound
