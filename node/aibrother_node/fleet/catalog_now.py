"""What the catalog on disk says that gossip has to know: its version, and who is in the fleet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aibrother_node.catalog.entries import decode_catalog, decode_fleet
from aibrother_node.catalog.repository import Repository
from aibrother_node.catalog.targets import FLEET_PATH, catalog_path
from aibrother_node.errors import NodeError
from aibrother_node.fleet.members import Member, members_of
from aibrother_node.store.disk import Disk

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from aibrother_node.fleet.record import CatalogVersion
    from aibrother_node.store.layout import Layout


@dataclass(frozen=True, slots=True)
class CatalogNow:
    """The catalog that this node serves.

    Attributes:
        version: (root version, timestamp version); (0, 0) where there is none, or none that can be read.
        published: the version of the stable document.
        expires: when the first of its roles expires.
        members: who is in the fleet.
    """

    version: CatalogVersion = (0, 0)
    published: int = 0
    expires: datetime | None = None
    members: Mapping[str, Member] = field(default_factory=dict)


def catalog_now(layout: Layout) -> CatalogNow:
    """Read it. Blocks."""
    try:
        repository = Repository.open(layout.catalog, Disk())
        versions = repository.versions
        stable = repository.document(catalog_path("stable"))
        fleet = repository.document(FLEET_PATH)
        return CatalogNow(
            (versions["root"], versions["timestamp"]),
            0 if stable is None else decode_catalog(stable).version,
            min(repository.expiry().values()),
            {} if fleet is None else members_of(decode_fleet(fleet)),
        )
    except NodeError:
        return CatalogNow()
