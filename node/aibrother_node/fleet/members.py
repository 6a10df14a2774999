"""Who is in the fleet: what `fleet.json` of the verified catalog says, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aibrother_node.catalog.entries import FleetDocument


@dataclass(frozen=True, slots=True)
class Member:
    """A node that the catalog admits.

    Attributes:
        id: SHA-256 of its key, 64 hex digits.
        key: its Ed25519 public key, 32 bytes.
        region, url, gossip_url, country, latitude, longitude: as in `fleet.json`; None where it doesn't say.
    """

    id: str
    key: bytes
    region: str | None = None
    url: str | None = None
    gossip_url: str | None = None
    country: str | None = None
    latitude: float | None = None
    longitude: float | None = None


def members_of(document: FleetDocument) -> dict[str, Member]:
    """The admitted nodes, by id."""
    return {
        node.id: Member(
            node.id,
            bytes.fromhex(node.key),
            node.region,
            node.url,
            node.gossip_url,
            node.country,
            node.latitude,
            node.longitude,
        )
        for node in document.nodes
        if node.admitted
    }
