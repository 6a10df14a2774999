"""Leases: what is about to be named stays."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput, Temporary
from aibrother_node.store import leases
from aibrother_node.store.leases import LONGEST, Lease, Leases

if TYPE_CHECKING:
    from pathlib import Path

A, B, C = (Digest(bytes([number]) * 32) for number in range(3))


def test_a_lease_lasts_until_it_is_released_or_ends_and_survives_the_process(tmp_path: Path) -> None:
    with closing(Leases.open(tmp_path / "index.sqlite3")) as found:
        found.take([A, B], "publish 1", 110, now=100)
        found.take([B], "publish 2", 150, now=100)
        found.take([B], "publish 2", 120, now=100)  # taken again, it doesn't get shorter
    with closing(Leases.open(tmp_path / "index.sqlite3")) as found:
        assert found.live(105) == {A: Lease("publish 1", 110), B: Lease("publish 2", 150)}
        assert found.of([A, B, C], 115) == {B: Lease("publish 2", 150)}
        assert found.release("publish 2") == 1
        assert found.live(105) == {A: Lease("publish 1", 110), B: Lease("publish 1", 110)}
        assert found.live(110) == {}


def test_leases_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "MOST", 3)
    with closing(Leases.open(tmp_path / "index.sqlite3")) as found:
        found.take([A, B], "publish 1", 110, now=100)
        with pytest.raises(Temporary, match="2 leases are out"):
            found.take([A, B], "publish 2", 120, now=100)
        found.take([A, B], "publish 2", 120, now=110)  # those that have ended don't count
        for holder in ("", "x" * 201, "two\nlines"):
            with pytest.raises(InvalidInput):
                found.take([A], holder, 111, now=110)
        for until in (110, 109, 110 + LONGEST + 1, float("nan"), float("inf")):
            with pytest.raises(InvalidInput):
                found.take([A], "publish 3", until, now=110)
        assert found.live(111) == {A: Lease("publish 2", 120), B: Lease("publish 2", 120)}
