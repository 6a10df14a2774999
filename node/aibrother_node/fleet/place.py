"""Where a client is: by a database of places, by the word of trusted proxies, else where this node is.

What a header says counts only when a trusted proxy wrote it: the request came from one, and each further hop is
believed only as far as the one before it is trusted. Everything here takes hostile input and answers "not known" to it.
"""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import maxminddb

from aibrother_node.errors import InvalidInput
from aibrother_node.fleet.nearest import Place

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from ipaddress import IPv4Network, IPv6Network
    from pathlib import Path

    Network: TypeAlias = IPv4Network | IPv6Network

Address: TypeAlias = IPv4Address | IPv6Address

MAX_HOPS: Final = 32
"""Addresses of an X-Forwarded-For that are looked at, from the right."""

_COUNTRY: Final = re.compile(r"[A-Za-z]{2}")
_UNKNOWN_COUNTRIES: Final = frozenset({"XX", "T1"})  # Cloudflare's: not known, and the Tor network
_WITH_PORT: Final = re.compile(r"\[([0-9A-Fa-f:.]{2,45})\](?::\d{1,5})?|(\d{1,3}(?:\.\d{1,3}){3}):\d{1,5}")


class HeaderLines(Protocol):
    """Header fields of a request: all lines of a name, as multidict has them."""

    def getall(self, key: str, default: list[str], /) -> list[str]:
        """The values of a field's lines in order, or `default` where there is none."""


def client_address(peer_ip: str, headers: HeaderLines, trusted_proxies: Sequence[Network]) -> Address | None:
    """The address that a request comes from.

    X-Forwarded-For is read from the right, each hop only while everything to its right is a trusted proxy; a hop that
    is no address ends that, since what stands left of it was not written by anyone who is trusted.

    Args:
        peer_ip: the address at the other end of the connection.
        headers: of the request.
        trusted_proxies: whose X-Forwarded-For is believed.

    Returns:
        The first address that is no trusted proxy's, the last one that could be read where all are; None where
        `peer_ip` is no address (the connection is lost).
    """
    client = _address(peer_ip)
    if client is None or not is_trusted(client, trusted_proxies):
        return client
    for hop in islice(_hops_from_the_right(headers.getall("X-Forwarded-For", [])), MAX_HOPS):
        address = _address(hop)
        if address is None:
            break
        client = address
        if not is_trusted(client, trusted_proxies):
            break
    return client


def client_country(peer_ip: str, headers: HeaderLines, trusted_proxies: Sequence[Network]) -> str | None:
    """The country that a trusted proxy says a request comes from (CF-IPCountry), None where none does."""
    lines = headers.getall("CF-IPCountry", [])
    if len(lines) != 1:
        return None
    peer = _address(peer_ip)
    return _country(lines[0].strip()) if peer is not None and is_trusted(peer, trusted_proxies) else None


def is_trusted(address: Address, networks: Sequence[Network]) -> bool:
    """Whether an address is in one of the networks."""
    return any(address.version == network.version and address in network for network in networks)


class PlaceDatabase:
    """A database in MaxMind's format (maxmind.github.io/MaxMind-DB), open; any thread may look things up.

    It is read from the file position by position, never mapped: who overwrites a mapped file kills its readers.

    Args:
        path: of the file. Who replaces it opens it again.

    Raises:
        InvalidInput: it can't be read, or is no such database.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._reader = maxminddb.open_database(path, maxminddb.MODE_FILE)
        except OSError as error:
            raise InvalidInput(f"{path} can't be read: {error.strerror or error}") from None
        except Exception as error:  # its parser meets whatever the bytes are
            raise InvalidInput(f"{path} is no MaxMind database: {str(error)[:200]}") from None
        try:
            for probe in ("192.0.2.1", "2001:db8::1"):
                if ":" not in probe or self._reader.metadata().ip_version == 6:
                    self._reader.get(probe)
        except Exception as error:
            self._reader.close()
            raise InvalidInput(f"{path} is a damaged MaxMind database: {str(error)[:200]}") from None

    def place(self, address: Address) -> Place | None:
        """Where an address is; None where that isn't known, or the database can't say. Blocks: it reads the file."""
        try:
            with self._lock:
                record = self._reader.get(address)
        except Exception:  # a damaged record, an IPv6 address in a database of IPv4: no reason to fail a request
            return None
        if not isinstance(record, dict):
            return None
        country = _country(_member(_member(record, "country"), "iso_code"))
        location = _member(record, "location")
        latitude, longitude = _degrees(_member(location, "latitude"), 90), _degrees(_member(location, "longitude"), 180)
        if latitude is None or longitude is None:
            latitude = longitude = None
        if country is None and latitude is None:
            return None
        return Place(country, latitude, longitude)

    def close(self) -> None:
        """Let go of the file; who looks something up from now on is told "not known"."""
        with self._lock:  # not while a lookup reads: the descriptor's number may be another file's next
            self._reader.close()


def locate(address: Address | None, country: str | None, database: PlaceDatabase | None) -> Place | None:
    """Where a client is, None where nothing is known of it. Blocks where there is a database.

    Args:
        address: the client's, None if it isn't known.
        country: what a trusted proxy says; it counts only where the database knows no country.
        database: None where none is configured.
    """
    found = None if database is None or address is None else database.place(address)
    if found is None:
        return None if country is None else Place(country)
    return found if found.country is not None else replace(found, country=country)


def _hops_from_the_right(lines: Sequence[str]) -> Iterator[str]:
    """The hops of all lines, which are one list (RFC 9110, 5.3); no more are cut off a line than are looked at."""
    return (hop.strip() for line in reversed(lines) for hop in reversed(line.rsplit(",", MAX_HOPS)))


def _address(text: str) -> Address | None:
    if len(text) > 64:
        return None
    found = _WITH_PORT.fullmatch(text)
    try:
        address = ip_address(text if found is None else found[1] or found[2])
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.scope_id is not None:
            return IPv6Address(address.packed)
    return address


def _country(value: object) -> str | None:
    if not isinstance(value, str) or not _COUNTRY.fullmatch(value):
        return None
    country = value.upper()
    return None if country in _UNKNOWN_COUNTRIES else country


def _member(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, dict) else None


def _degrees(value: object, most: int) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -most <= value <= most:
        return None
    return float(value)
