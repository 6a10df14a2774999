"""A writer of small databases in MaxMind's format (maxmind.github.io/MaxMind-DB), so that tests read real ones."""

from __future__ import annotations

import struct
from ipaddress import IPv6Network, ip_network
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MARKER = b"\xab\xcd\xefMaxMind.com"


def write_mmdb(path: Path, records: Mapping[str, Any]) -> Path:
    """Write a database of networks: IPv4 ones lie at ::/96, as MaxMind's do.

    Args:
        path: of the file.
        records: by network in CIDR notation; none inside another one.
    """
    data = b""
    tree: list[list[int | None]] = [[None, None]]
    values: dict[tuple[int, int], int] = {}
    for text, record in records.items():
        network = ip_network(text)
        bits, length = int(network.network_address), network.prefixlen
        if not isinstance(network, IPv6Network):
            length += 96
        at = 0
        for depth in range(length):
            bit = bits >> (127 - depth) & 1
            if depth == length - 1:
                values[at, bit] = len(data)
                break
            following = tree[at][bit]
            if following is None:
                following = tree[at][bit] = len(tree)
                tree.append([None, None])
            at = following
        data += _encode(record)
    count = len(tree)
    nodes = b""
    for number, node in enumerate(tree):
        for bit in (0, 1):
            child = node[bit]
            offset = values.get((number, bit))
            target = count if child is None else child
            nodes += (target if offset is None else count + 16 + offset).to_bytes(3, "big")
    metadata = {
        "binary_format_major_version": _uint(5, 2),
        "binary_format_minor_version": _uint(5, 0),
        "build_epoch": _uint(9, 1_700_000_000),
        "database_type": "Test-City",
        "description": {"en": "made for tests"},
        "ip_version": _uint(5, 6),
        "languages": [],
        "node_count": _uint(6, count),
        "record_size": _uint(5, 24),
    }
    path.write_bytes(nodes + bytes(16) + data + _MARKER + _encode(metadata))
    return path


def city(country: str | None = None, latitude: float | None = None, longitude: float | None = None) -> dict[str, Any]:
    """A record as GeoLite2-City has it, as far as it is read here."""
    record: dict[str, Any] = {"continent": {"code": "EU"}}
    if country is not None:
        record["country"] = {"iso_code": country, "names": {"en": "somewhere"}}
    if latitude is not None and longitude is not None:
        record["location"] = {"accuracy_radius": 20.0, "latitude": latitude, "longitude": longitude}
    return record


def _encode(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value  # encoded already
    if isinstance(value, str):
        raw = value.encode()
        return _control(2, len(raw)) + raw
    if isinstance(value, float):
        return _control(3, 8) + struct.pack(">d", value)
    if isinstance(value, dict):
        return _control(7, len(value)) + b"".join(_encode(key) + _encode(item) for key, item in value.items())
    assert isinstance(value, list), value
    return _control(11, len(value)) + b"".join(map(_encode, value))


def _uint(kind: int, value: int) -> bytes:
    raw = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return _control(kind, len(raw)) + raw


def _control(kind: int, size: int) -> bytes:
    assert size < 29
    return bytes([kind << 5 | size]) if kind < 8 else bytes([size, kind - 7])
