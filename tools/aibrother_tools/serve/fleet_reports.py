"""What a node tells of its fleet: the answer of `peers`, and metrics."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aibrother_node.catalog.values import time_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aibrother_node.fleet.catalog_now import CatalogNow
    from aibrother_node.fleet.engine import Engine
    from aibrother_node.fleet.peering import PeerState
    from aibrother_node.fleet.record import Description, SignedRecord
    from aibrother_node.metrics import FleetMetrics


def peers_report(
    node: str,
    says: Description,
    own: SignedRecord | None,
    catalog: CatalogNow,
    states: Sequence[PeerState],
    skew: tuple[float, int],
    alarm: str | None,
) -> dict[str, Any]:
    """`{self, peers}` in the shape of the contract."""
    member = catalog.members.get(node)
    clock, heard = skew
    return {
        "self": {
            "id": node,
            "region": (member.region if member else None) or says.region,
            "url": (member.url if member else None) or says.url,
            "state": says.state if member is not None else "not admitted",
            "catalog_version": catalog.published,
            "catalog": list(catalog.version),
            "incarnation": None if own is None else own.record.incarnation,
            "clock_skew": round(clock, 3) if heard else None,
            "alarm": alarm,
        },
        "peers": [_peer(state) for state in states],
    }


def _peer(state: PeerState) -> dict[str, Any]:
    says = None if state.record is None else state.record.record.says
    return {
        "id": state.id,
        "region": state.member.region or (says.region if says else None),
        "url": state.url,
        "gossip_url": next(iter(state.gossip_urls), None),
        "state": state.state,
        "catalog_version": None if says is None else says.published,
        "catalog": None if says is None else list(says.catalog),
        "catalog_refused": None if state.refused_catalog is None else state.refused_catalog[1],
        "last_seen": None if state.last_seen is None else time_text(datetime.fromtimestamp(state.last_seen, UTC)),
        "phi": round(state.phi, 2),
        "clock_offset": None if state.offset is None else round(state.offset, 3),
        "blobs": None if says is None else says.blobs,
        "load": None if says is None else says.load / 10,
        "software": None if says is None else says.software,
    }


def update_metrics(metrics: FleetMetrics, engine: Engine, states: Sequence[PeerState], catalog: CatalogNow) -> None:
    """Bring metrics up to date; on the engine's thread."""
    metrics.catalog(catalog.published, catalog.expires)
    metrics.fleet(len(engine.members), states)
    metrics.clock_skew(engine.skew()[0])
    metrics.gossip(engine.counts)
