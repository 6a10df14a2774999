"""Remote publishing's part of control: uploads, and the way into the catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aibrother_node.store.disk import Disk
from aibrother_node.store.uploads import Uploads, boot_id
from aibrother_node.web.control.admin.catalog_routes import CatalogRoutes
from aibrother_node.web.control.admin.uploads import UploadRoutes
from aibrother_tools.catalog_client import follows
from aibrother_tools.storing import total_bytes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aibrother_node.catalog.accept import Draft
    from aibrother_node.config import NodeConfig
    from aibrother_node.store.layout import Layout
    from aibrother_node.web.control.admin.operation import Operation
    from aibrother_node.web.control.local import StoreThread


class PublishingService:
    """What publishers elsewhere need of this node.

    Args:
        layout: of the data directory.
        thread: the store.
        config: the configuration as it is now.
        accept: takes in roles that were signed elsewhere.
    """

    def __init__(
        self,
        layout: Layout,
        thread: StoreThread,
        config: Callable[[], NodeConfig],
        accept: Callable[[Draft], Awaitable[dict[str, int]]],
    ) -> None:
        disk = Disk()
        reserve = lambda: config().store.reserve_on(total_bytes(layout))  # noqa: E731
        uploads = Uploads(layout, disk, boot_id(), reserve=reserve, max_size=lambda: config().store.max_size)
        self._uploads = UploadRoutes(thread, uploads, disk)
        self._catalog = CatalogRoutes(layout, disk, lambda: not follows(config()), accept)

    def operations(self) -> list[Operation]:
        """The routes of the admin API."""
        return [*self._uploads.operations(), *self._catalog.operations()]

    def start(self) -> None:
        """Begin to drop uploads that are given up."""
        self._uploads.start()

    async def close(self) -> None:
        """End, when nobody asks any more."""
        await self._uploads.close()
