"""What workers know of the fleet, when its file breaks or goes while the node runs."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest

from aibrother_node.fleet.view import FleetView, PeerView
from aibrother_tools.serve.view_keeper import ViewKeeper

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PEER = PeerView("0" * 64, "http://peer")


def _remove(path: Path) -> None:
    for file in path.parent.glob("fleet.sqlite3*"):
        file.unlink()


def _remove_one(path: Path) -> None:
    path.unlink()


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    path.with_name(path.name + "-wal").write_bytes(b"")


def _truncate(path: Path) -> None:
    os.truncate(path, 0)


def _replace(path: Path) -> None:
    aside = path.with_name("other")
    aside.write_bytes(b"nothing" * 1000)
    aside.replace(path)


@pytest.mark.parametrize("damage", [_remove, _remove_one, _overwrite, _truncate, _replace])
async def test_a_file_that_breaks_or_goes_is_made_anew(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "fleet.sqlite3"
    renewed: list[bool] = []
    keeper = ViewKeeper(path, lambda: renewed.append(True))
    await keeper.start()
    view = FleetView(path)
    now = time.time()
    await keeper.change(lambda writer: writer.put_peers([PEER], now))
    assert view.peers(now) == {PEER.id: PEER}
    version = view.version()
    damage(path)
    with contextlib.suppress(sqlite3.Error):  # it may be told of once
        await keeper.change(lambda writer: writer.put_peers([PEER], now))
    await keeper.change(lambda writer: writer.put_peers([PEER], now))
    assert view.peers(now) == {PEER.id: PEER}
    assert view.version() != version
    assert renewed == [True]
    await keeper.close()


async def test_where_it_cant_be_made_the_next_change_tries_again(tmp_path: Path) -> None:
    path = tmp_path / "run" / "fleet.sqlite3"
    keeper = ViewKeeper(path, lambda: None)
    await keeper.start()
    now = time.time()
    with pytest.raises(FileNotFoundError):
        await keeper.change(lambda writer: writer.put_peers([PEER], now))
    path.parent.mkdir()
    await keeper.change(lambda writer: writer.put_peers([PEER], now))
    assert FleetView(path).peers(now) == {PEER.id: PEER}
    await keeper.close()
