"""What workers know of the fleet."""

import multiprocessing
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from aibrother_node.content.digest import Digest
from aibrother_node.fleet.view import MAX_AGE, FleetView, FleetViewWriter, PeerView
from aibrother_node.store.layout import Layout

NOW = 1_800_000_000.0
ANN = PeerView("aa" * 32, "http://ann.example", "eu", "DE", 52.5, 13.4, 0.25)
BOB = PeerView("bb" * 32, "http://bob.example:8080")


def blob(number: int) -> Digest:
    return Digest(sha256(str(number).encode()).digest())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    layout = Layout(tmp_path)
    layout.run.mkdir()
    assert layout.fleet_generation == layout.fleet_view.with_suffix(".generation")
    return layout.fleet_view


@pytest.fixture
def writer(path: Path) -> Iterator[FleetViewWriter]:
    writer = FleetViewWriter(path)
    yield writer
    writer.close()


def test_peers_and_what_they_have(writer: FleetViewWriter, path: Path) -> None:
    view = FleetView(path)
    assert view.peers(NOW) == {}
    writer.put_peers([BOB, ANN], NOW)
    assert view.peers(NOW) == {ANN.id: ANN, BOB.id: BOB}
    assert list(view.peers(NOW)) == [ANN.id, BOB.id]
    writer.change_holdings(BOB.id, {blob(1): "complete", blob(2): "partial"})
    writer.change_holdings(ANN.id, {blob(1): "partial"})
    assert view.holders(blob(1), NOW) == [(ANN, "partial"), (BOB, "complete")]
    assert view.holders(blob(2), NOW) == [(BOB, "partial")]
    assert view.holders(blob(3), NOW) == []
    writer.change_holdings(BOB.id, {blob(1): None, blob(2): "complete", blob(9): None})
    assert view.holders(blob(1), NOW) == [(ANN, "partial")]
    assert view.holders(blob(2), NOW) == [(BOB, "complete")]
    writer.change_holdings(BOB.id, {blob(3): "complete"}, reset=True)
    assert view.holders(blob(2), NOW) == []
    assert view.holders(blob(3), NOW) == [(BOB, "complete")]
    assert view.holders(blob(1), NOW) == [(ANN, "partial")], "a reset is of one peer"


def test_holdings_outlive_that_a_peer_is_not_told_of(writer: FleetViewWriter, path: Path) -> None:
    view = FleetView(path)
    writer.change_holdings(ANN.id, {blob(1): "complete"})
    assert view.holders(blob(1), NOW) == []
    writer.put_peers([ANN], NOW)
    assert view.holders(blob(1), NOW) == [(ANN, "complete")]
    writer.put_peers([BOB], NOW)
    assert (view.peers(NOW), view.holders(blob(1), NOW)) == ({BOB.id: BOB}, [])
    writer.put_peers([ANN], NOW)
    assert view.holders(blob(1), NOW) == [(ANN, "complete")]


def test_a_full_disk_is_called_that_and_changes_nothing(writer: FleetViewWriter, path: Path) -> None:
    writer.change_holdings(BOB.id, {blob(1): "complete"})
    (pages,) = writer._db.execute("PRAGMA page_count").fetchone()
    writer._db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way to have no room
    with pytest.raises(sqlite3.OperationalError, match="full"):
        writer.change_holdings(ANN.id, dict.fromkeys(map(blob, range(10_000)), "complete"))
    writer._db.execute("PRAGMA max_page_count = 1000000")
    writer.change_holdings(ANN.id, {blob(1): "partial"})
    writer.put_peers([ANN, BOB], NOW)
    assert FleetView(path).holders(blob(1), NOW) == [(ANN, "partial"), (BOB, "complete")]


def test_members_no_more_are_forgotten(writer: FleetViewWriter, path: Path) -> None:
    view = FleetView(path)
    writer.put_peers([ANN, BOB], NOW)
    writer.change_holdings(ANN.id, {blob(1): "complete"})
    writer.change_holdings(BOB.id, {blob(1): "complete"})
    writer.forget([ANN.id, "cc" * 32])
    assert view.peers(NOW) == {BOB.id: BOB}
    assert view.holders(blob(1), NOW) == [(BOB, "complete")]
    writer.put_peers([ANN, BOB], NOW)
    assert view.peers(NOW) == {ANN.id: ANN, BOB.id: BOB}, "and may come back"
    assert view.holders(blob(1), NOW) == [(BOB, "complete")], "with nothing"


def test_the_version_rises_with_what_changes_and_only_then(writer: FleetViewWriter, path: Path) -> None:
    view = FleetView(path)
    seen = [view.version()]

    def rises() -> bool:
        seen.append(view.version())
        return seen[-1] > seen[-2]

    writer.put_peers([ANN, BOB], NOW)
    assert rises()
    writer.put_peers([BOB, ANN], NOW + 100)
    assert not rises()
    assert view.peers(NOW + 100 + MAX_AGE), "all the same it was said again"
    writer.put_peers([ANN, PeerView(BOB.id, BOB.url, load=0.5)], NOW + 100)
    assert rises()
    writer.change_holdings(ANN.id, {blob(1): "complete"})
    assert rises()
    writer.change_holdings(ANN.id, {blob(1): "complete", blob(2): None})
    assert not rises()
    writer.change_holdings(ANN.id, {blob(1): "partial"})
    assert rises()
    writer.change_holdings(ANN.id, {}, reset=True)
    assert rises()
    writer.forget(["cc" * 32])
    assert not rises()
    writer.forget([ANN.id])
    assert rises()
    writer.put_peers([], NOW)
    assert rises()


def test_what_is_old_is_not_told(writer: FleetViewWriter, path: Path) -> None:
    view = FleetView(path)
    writer.put_peers([ANN], NOW)
    writer.change_holdings(ANN.id, {blob(1): "complete"})
    for now, told in ((NOW + MAX_AGE, True), (NOW + MAX_AGE + 1, False), (NOW - 5, True), (NOW - MAX_AGE - 1, False)):
        assert bool(view.peers(now)) == bool(view.holders(blob(1), now)) == told, now


def test_a_start_forgets_what_a_former_run_left(path: Path) -> None:
    view = FleetView(path)
    first = FleetViewWriter(path)
    first.put_peers([ANN], NOW)
    first.change_holdings(ANN.id, {blob(1): "complete"})
    before = view.version()
    first.close()
    assert view.holders(blob(1), NOW) == [(ANN, "complete")], "with control gone, workers go on"
    second = FleetViewWriter(path)
    assert view.version() > before
    assert view.peers(NOW) == {}
    second.put_peers([ANN], NOW)
    assert view.peers(NOW) == {ANN.id: ANN}
    assert view.holders(blob(1), NOW) == []
    second.close()


@pytest.mark.parametrize("rubbish", [b"", b"\xff" * 5000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_what_can_t_be_read_says_nothing_and_is_made_anew(path: Path, rubbish: bytes) -> None:
    view = FleetView(path)
    assert (view.peers(NOW), view.holders(blob(1), NOW), view.version()) == ({}, [], 0)
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).write_bytes(rubbish)
    assert (view.peers(NOW), view.holders(blob(1), NOW)) == ({}, [])
    writer = FleetViewWriter(path)
    writer.put_peers([ANN], NOW)
    assert view.peers(NOW) == {ANN.id: ANN}
    writer.close()


def test_pages_torn_by_a_crash_of_the_machine_are_made_anew(path: Path) -> None:
    writer = FleetViewWriter(path)
    writer.change_holdings(ANN.id, {blob(i): "complete" for i in range(2000)})
    writer.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xa5" * (size - 8192))
    assert FleetView(path).holders(blob(1), NOW) == []
    writer = FleetViewWriter(path)
    writer.put_peers([ANN], NOW)
    writer.change_holdings(ANN.id, {blob(i): "complete" for i in range(2000)})
    assert all(FleetView(path).holders(blob(i), NOW) for i in range(0, 2000, 97))
    writer.close()


def test_a_folder_that_is_missing_says_nothing(tmp_path: Path) -> None:
    view = FleetView(tmp_path / "run" / "fleet.sqlite3")
    assert (view.peers(NOW), view.version()) == ({}, 0)


def test_a_locked_file_says_nothing(writer: FleetViewWriter, path: Path) -> None:
    writer.put_peers([ANN], NOW)
    writer.close()
    other = sqlite3.connect(path)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    other.execute("DELETE FROM told")
    assert FleetView(path).peers(NOW) == {}
    other.close()
    assert FleetView(path).peers(NOW) == {ANN.id: ANN}


def test_a_failed_change_changes_nothing(writer: FleetViewWriter, path: Path) -> None:
    view = FleetView(path)
    writer.put_peers([ANN], NOW)
    before = view.version()
    with pytest.raises(KeyError):
        writer.change_holdings(ANN.id, {blob(1): "complete", blob(2): "whole"})  # type: ignore[dict-item]
    assert view.holders(blob(1), NOW) == []
    assert view.version() == before
    writer.change_holdings(ANN.id, {blob(1): "complete"})
    assert view.holders(blob(1), NOW) == [(ANN, "complete")]


def test_readers_see_whole_transactions(path: Path) -> None:
    """Two blobs that always change hands together are never seen apart, also across a restart of control."""
    wrong: list[object] = []
    done = threading.Event()

    def watch() -> None:
        view = FleetView(path)
        while not done.is_set():
            found = view.holders(blob(1), NOW)
            if len(found) > 1:
                wrong.append(found)

    readers = [threading.Thread(target=watch) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in range(5):
        writer = FleetViewWriter(path)
        writer.put_peers([ANN], NOW)
        for i in range(40):
            peer = (ANN, BOB)[i % 2]
            writer.put_peers([peer], NOW)
            writer.change_holdings(peer.id, {blob(1): "complete"})
        writer.close()
    done.set()
    for reader in readers:
        reader.join(30)
    assert not wrong


def _write_for_ever(path: Path, started: "multiprocessing.synchronize.Event") -> None:
    writer = FleetViewWriter(path)
    writer.put_peers([ANN], NOW)
    i = 0
    while True:
        have = ("complete", "partial")[i % 2]
        writer.change_holdings(ANN.id, {blob(n): have for n in range(500)})  # type: ignore[misc]
        started.set()
        i += 1


def test_a_writer_that_is_killed_leaves_the_last_whole_transaction(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    view = FleetView(path)
    for _ in range(3):
        started = context.Event()
        process = context.Process(target=_write_for_ever, args=(path, started))
        process.start()
        assert started.wait(30)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(30)
        process.close()
        found = {view.holders(blob(n), NOW)[0][1] for n in range(0, 500, 7)}
        assert len(found) == 1
