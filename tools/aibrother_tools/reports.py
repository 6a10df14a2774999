"""What commands and planes tell about a node, in the shapes of the contract."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from aibrother_node.errors import NodeError
from aibrother_node.fleet.identity import NodeKey
from aibrother_node.store.blobs import BlobReader
from aibrother_node.store.disk import Disk
from aibrother_node.store.layout import Layout

if TYPE_CHECKING:
    from aibrother_node.config import NodeConfig


def program_version() -> str:
    """The installed version of this program."""
    return version("aibrother-node")


def status_report(config: NodeConfig, *, running: bool) -> dict[str, Any]:
    """The answer of `status`: node, catalog, store, fills, jobs. Reads the disk; blocks.

    Raises:
        NotFound: there is no data directory.
    """
    layout = Layout(config.node.data)
    layout.check_version()
    blobs, size = BlobReader(layout).totals()
    try:
        node_id: str | None = NodeKey.load(layout.node_key).id
    except NodeError:
        node_id = None
    return {
        "node": {"id": node_id, "region": config.node.region or None, "running": running, "version": program_version()},
        "catalog": None,
        "store": {"blobs": blobs, "bytes": size, "free": Disk().free_bytes(layout.root)},
        "fills": [],
        "jobs": [],
    }
