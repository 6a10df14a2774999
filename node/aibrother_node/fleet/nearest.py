"""Which mirrors are nearest to a client: pure, so that every node says the same of the same fleet.

In this order:

1. who has all of a blob before who has a part of it, however near: every client can use a whole copy, few a part;
2. the client's own country before others: the way inside a country is the one that is seldom cut or metered;
3. the shorter distance over ground. Where a place has no coordinates, the same region counts as `REGION_KM`, anything
   else as farther than every known distance;
4. less load, in quarters: small differences change with each gossip and would send everybody to the same node at once;
5. a hash of the client's key and the node's id, so that mirrors that are alike share the clients, and a client that
   asks again is told the same.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aibrother_node.fleet.view import Have, PeerView

REGION_KM: Final = 1000.0
"""What the same region counts as, where there are no coordinates."""

_EARTH_KM: Final = 6371.0088
_LOAD_STEPS: Final = 4


@dataclass(frozen=True, slots=True)
class Place:
    """Where a client or a node is, as far as it is known.

    Attributes:
        country: ISO 3166-1 alpha-2, upper case.
        latitude, longitude: in degrees, both or neither.
        region: a short word, as nodes have them.
        assumed: nobody said so: it is the place of the node that was asked, for want of a better one.
    """

    country: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    region: str | None = None
    assumed: bool = False


@dataclass(frozen=True, slots=True)
class Mirror:
    """A node that has a blob, as a client sees it.

    Attributes:
        id, region, url, country: as in `PeerView`.
        distance_km: from the client, in whole kilometres; None where either place has no coordinates.
        have: all of the blob, or a part.
    """

    id: str
    region: str | None
    url: str
    country: str | None
    distance_km: float | None
    have: Have

    def to_json(self) -> dict[str, object]:
        """Return the JSON object of `/v1/mirrors`."""
        return {
            "id": self.id,
            "region": self.region,
            "url": self.url,
            "country": self.country,
            "distance_km": self.distance_km,
            "have": self.have,
        }


def nearest(holders: Iterable[tuple[PeerView, Have]], place: Place, client: bytes) -> list[Mirror]:
    """Order the nodes that have a blob for a client, best first.

    Args:
        holders: each node once, this one among them where it has the blob.
        place: the client's.
        client: its key: what tells it from others that are at the same place.
    """
    found: list[tuple[tuple[bool, bool, float, int, bytes, str], Mirror]] = []
    for node, have in holders:
        distance = distance_km(place, node)
        mirror = Mirror(node.id, node.region, node.url, node.country, distance, have)
        rank = (
            have != "complete",
            place.country is None or node.country != place.country,
            _counts_as(place, mirror),
            _load_step(node.load),
            hashlib.sha256(client + b"\0" + node.id.encode()).digest(),
            node.id,
        )
        found.append((rank, mirror))
    return [mirror for _, mirror in sorted(found, key=lambda one: one[0])]


def is_strictly_nearer(one: Mirror, other: Mirror, place: Place) -> bool:
    """Whether a client had better go to `one` than to `other`, for reasons of place alone.

    Never where the client's place is assumed, or where a country or a distance that would be compared isn't known.
    """
    if place.assumed:
        return False
    if place.country is not None and one.country is not None and other.country is not None:
        at_home = one.country == place.country
        if at_home != (other.country == place.country):
            return at_home
    return one.distance_km is not None and other.distance_km is not None and one.distance_km < other.distance_km


def distance_km(one: Place | PeerView, other: Place | PeerView) -> float | None:
    """The distance over ground in whole kilometres (haversine), or None where coordinates are missing.

    No database of places is more exact than that.
    """
    if one.latitude is None or one.longitude is None or other.latitude is None or other.longitude is None:
        return None
    first, second = math.radians(one.latitude), math.radians(other.latitude)
    across = math.radians(other.longitude - one.longitude)
    half = math.sin((second - first) / 2) ** 2 + math.cos(first) * math.cos(second) * math.sin(across / 2) ** 2
    return float(round(2 * _EARTH_KM * math.asin(min(1.0, math.sqrt(half)))))


def _counts_as(place: Place, mirror: Mirror) -> float:
    if mirror.distance_km is not None:
        return mirror.distance_km
    return REGION_KM if place.region is not None and mirror.region == place.region else math.inf


def _load_step(load: float) -> int:
    # what a record says may be anything; what is no number counts as full
    return _LOAD_STEPS if math.isnan(load) else int(min(max(load, 0.0), 1.0) * _LOAD_STEPS)
