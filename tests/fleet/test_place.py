"""Where clients are: whose word is taken for their address, and what a database of places says."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from aibrother_node.errors import InvalidInput
from aibrother_node.fleet.nearest import Place
from aibrother_node.fleet.place import PlaceDatabase, client_address, client_country, locate

from .mmdb import city, write_mmdb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROXIES = tuple(map(ip_network, ("10.0.0.0/8", "2001:db8:1::/48")))


def headers(*lines: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(lines))


def forwarded(*values: str) -> CIMultiDictProxy[str]:
    return headers(*(("X-Forwarded-For", value) for value in values))


@pytest.mark.parametrize(
    ("peer", "lines", "client"),
    [
        ("192.0.2.7", [], "192.0.2.7"),
        ("192.0.2.7", ["198.51.100.1"], "192.0.2.7"),  # whoever writes it himself
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.1"], "198.51.100.1"),  # what stands left of it, the client made up
        ("10.0.0.1", ["203.0.113.9", "198.51.100.1, 10.2.2.2"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1,10.2.2.2 ,\t10.3.3.3"], "198.51.100.1"),
        ("10.0.0.1", ["10.4.4.4, 10.2.2.2"], "10.4.4.4"),
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ["[2001:db8:2::1]:443"], "2001:db8:2::1"),
        ("10.0.0.1", ["[2001:db8:2::1]"], "2001:db8:2::1"),
        ("10.0.0.1", ["2001:db8:2::1"], "2001:db8:2::1"),
        ("10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("2001:db8:1::5", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, unknown, 10.9.9.9"], "10.9.9.9"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1,"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.256"], "10.0.0.1"),
        ("10.0.0.1", ["1" * 5000], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1" + ", 10.1.1.1" * 100], "10.1.1.1"),  # too many hops
        ("fe80::1%eth0", [], "fe80::1"),
        ("", ["198.51.100.1"], None),
    ],
)
def test_the_address_of_a_client(peer: str, lines: list[str], client: str | None) -> None:
    found = client_address(peer, forwarded(*lines), PROXIES)
    assert found == (None if client is None else ip_address(client))
    if client is not None and peer:
        assert client_address(peer, forwarded(*lines), ()) == client_address(peer, headers(), PROXIES)


@given(st.lists(st.text(st.characters(codec="ascii"), max_size=40), max_size=4))
def test_no_header_makes_it_fail_or_speaks_for_strangers(lines: list[str]) -> None:
    assert client_address("192.0.2.7", forwarded(*lines), PROXIES) == ip_address("192.0.2.7")
    assert client_address("10.0.0.1", forwarded(*lines), PROXIES) is not None
    client_country("10.0.0.1", headers(*(("CF-IPCountry", line) for line in lines)), PROXIES)


@pytest.mark.parametrize(
    ("peer", "lines", "country"),
    [
        ("10.0.0.1", ["DE"], "DE"),
        ("10.0.0.1", ["de"], "DE"),
        ("10.0.0.1", ["XX"], None),
        ("10.0.0.1", ["T1"], None),
        ("10.0.0.1", ["DEU"], None),
        ("10.0.0.1", ["D\u00cb"], None),
        ("10.0.0.1", ["49"], None),
        ("10.0.0.1", [""], None),
        ("10.0.0.1", ["DE", "FR"], None),
        ("10.0.0.1", [], None),
        ("192.0.2.7", ["DE"], None),
    ],
)
def test_the_country_that_a_proxy_tells(peer: str, lines: list[str], country: str | None) -> None:
    assert client_country(peer, headers(*(("CF-IPCountry", line) for line in lines)), PROXIES) == country


# The database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[PlaceDatabase]:
    path = write_mmdb(
        tmp_path / "places.mmdb",
        {
            "192.0.2.0/25": city("DE", 52.52, 13.405),
            "192.0.2.128/25": city("FR"),
            "198.51.100.0/24": city(None, 1.0, 2.0),
            "203.0.113.0/28": city("XX"),
            "203.0.113.16/28": city("DE", 152.0, 13.0),
            "203.0.113.32/28": "not a map",
            "203.0.113.48/28": {"country": "DE", "location": [1.0]},
            "203.0.113.64/28": city("germany", float("nan"), 13.0),
            "2001:db8:7::/48": city("JP", 35.68, 139.69),
        },
    )
    opened = PlaceDatabase(path)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("192.0.2.1", Place("DE", 52.52, 13.405)),
        ("192.0.2.127", Place("DE", 52.52, 13.405)),
        ("192.0.2.128", Place("FR")),
        ("198.51.100.9", Place(None, 1.0, 2.0)),
        ("2001:db8:7::1", Place("JP", 35.68, 139.69)),
        ("2001:db8:8::1", None),
        ("8.8.8.8", None),
        ("203.0.113.1", None),
        ("203.0.113.17", Place("DE")),
        ("203.0.113.33", None),
        ("203.0.113.49", None),
        ("203.0.113.65", None),
    ],
)
def test_the_database_says(database: PlaceDatabase, address: str, place: Place | None) -> None:
    assert database.place(ip_address(address)) == place


def test_what_the_proxy_tells_fills_in_for_the_database(database: PlaceDatabase) -> None:
    assert locate(ip_address("192.0.2.1"), "US", database) == Place("DE", 52.52, 13.405)
    assert locate(ip_address("198.51.100.9"), "US", database) == Place("US", 1.0, 2.0)
    assert locate(ip_address("8.8.8.8"), "US", database) == Place("US")
    assert locate(ip_address("192.0.2.1"), "US", None) == Place("US")
    assert locate(ip_address("8.8.8.8"), None, database) is None
    assert locate(None, None, database) is None


@pytest.mark.parametrize(
    "content", [b"", b"not a database", b"\xab\xcd\xefMaxMind.com", b"\xab\xcd\xefMaxMind.com\xe0"]
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.mmdb"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"bad\.mmdb (is no MaxMind database|can't be read)"):
        PlaceDatabase(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.mmdb", tmp_path):
        with pytest.raises(InvalidInput, match="can't be read"):
            PlaceDatabase(path)


def test_a_file_that_is_overwritten_under_us_fails_no_request(tmp_path: Path) -> None:
    path = write_mmdb(tmp_path / "places.mmdb", {"192.0.2.0/24": city("DE", 52.52, 13.405)})
    database = PlaceDatabase(path)
    try:
        for content in (b"", b"\xff" * path.stat().st_size, bytes(100)):
            path.write_bytes(content)
            assert database.place(ip_address("192.0.2.1")) is None
    finally:
        database.close()
    assert database.place(ip_address("192.0.2.1")) is None
