"""Each nonce counts once."""

from __future__ import annotations

from aibrother_node.fleet.replay import ReplayGuard
from fleet.parts import NOW


def test_a_nonce_counts_once_per_sender() -> None:
    guard = ReplayGuard(100)
    assert guard.first("ann", b"1", NOW, NOW)
    assert not guard.first("ann", b"1", NOW, NOW + 1)
    assert guard.first("ann", b"2", NOW, NOW)
    assert guard.first("bob", b"1", NOW, NOW)


def test_it_is_remembered_for_as_long_as_its_time_is_believed() -> None:
    for at in (NOW - 100, NOW, NOW + 100):
        guard = ReplayGuard(100)
        assert guard.first("ann", b"1", at, NOW)
        assert not guard.first("ann", b"1", at, at + 100)
    guard = ReplayGuard(100)
    guard.first("ann", b"1", NOW, NOW)
    guard.first("ann", b"2", NOW + 201, NOW + 201)
    assert len(guard._seen) == 1


def test_there_is_a_ceiling() -> None:
    guard = ReplayGuard(100)
    for number in range(70_000):
        assert guard.first("ann", b"%d" % number, NOW, NOW)
    assert len(guard._seen) == 65_536
    assert not guard.first("ann", b"69999", NOW, NOW)
