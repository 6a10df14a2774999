"""What commands and planes tell about a node, in the shapes of the contract."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from aibrother_node.catalog.desk import utc_now
from aibrother_node.catalog.reading import STABLE, catalog
from aibrother_node.catalog.repository import Repository
from aibrother_node.catalog.values import time_text
from aibrother_node.errors import NodeError
from aibrother_node.fleet.identity import NodeKey
from aibrother_node.store.blobs import BlobReader
from aibrother_node.store.disk import Disk
from aibrother_node.store.draining import drained
from aibrother_node.store.fills import describe_fills
from aibrother_node.store.layout import Layout
from aibrother_replicator.jobs.book import RECENT, read_jobs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aibrother_node.config import NodeConfig


def program_version() -> str:
    """The installed version of this program."""
    return version("aibrother-node")


def catalog_report(layout: Layout) -> dict[str, Any] | None:
    """Which catalog this data directory holds: its version, when it was published and when it expires (RFC 3339).

    None where it holds none, or one that can't be read. `stale` says that some of it has expired.
    """
    try:
        repository = Repository.open(layout.catalog, Disk())
        document = catalog(repository, STABLE)
        expires = min(repository.expiry().values())
    except NodeError:
        return None
    return {
        "version": document.version,
        "published": document.published,
        "expires": time_text(expires),
        "stale": expires <= utc_now(),
    }


def status_report(
    config: NodeConfig, *, running: bool, jobs: Sequence[Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """The answer of `status`: node, catalog, store, fills, jobs. Reads the disk; blocks.

    Args:
        config: the configuration.
        running: whether a node runs.
        jobs: as it knows them; without, they are read from disk too.

    Raises:
        NotFound: there is no data directory.
    """
    layout = Layout(config.node.data)
    layout.check_version()
    blobs, size = BlobReader(layout).totals()
    if jobs is None:
        now = time.time()
        jobs = read_jobs(layout.index, now, now - RECENT) or []
    try:
        node_id: str | None = NodeKey.load(layout.node_key).id
    except NodeError:
        node_id = None
    out_of_service = drained(layout)
    return {
        "node": {
            "id": node_id,
            "region": config.node.region or None,
            "running": running,
            "version": program_version(),
            "drained": None if out_of_service is None else out_of_service.to_json(),
        },
        "catalog": catalog_report(layout),
        "store": {"blobs": blobs, "bytes": size, "free": Disk().free_bytes(layout.root)},
        "fills": describe_fills(layout),
        "jobs": list(jobs),
    }
