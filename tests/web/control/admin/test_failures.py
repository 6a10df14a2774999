"""How often an address may fail."""

from __future__ import annotations

import time

import pytest

from aibrother_node.web.control.admin import failures
from aibrother_node.web.control.admin.failures import FailureLimit, network_of


def test_so_many_a_minute_for_each_key() -> None:
    limit = FailureLimit(3)
    assert [limit.failed("a") for _ in range(3)] == [None] * 3
    wait = limit.failed("a")
    assert wait is not None
    assert 1 <= wait <= 60
    assert limit.failed("b") is None


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_MAX_KEYS", 10)
    limit = FailureLimit(1)
    found = [limit.failed(f"{number}") for number in range(30)]
    assert found[:11] == [None] * 11, "the eleventh is the first of all others"
    assert all(wait is not None for wait in found[11:]), "who share one"
    assert len(limit._keys) == 10
    assert len(limit._storage.events) <= 11
    later = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert limit.failed("another") is None
    assert len(limit._keys) == 1
    assert len(limit._storage.events) <= 2, "what nobody asks about any more is forgotten"


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("local", "local"),
    ],
)
def test_whose_an_address_is(address: str, network: str) -> None:
    assert network_of(address) == network
