"""How a running node that doesn't sign keeps its catalog up to date: at once by gossip, and by asking around."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from aibrother_node.catalog.desk import utc_now
from aibrother_node.catalog.indexing import follow
from aibrother_node.errors import NodeError
from aibrother_node.store.disk import Disk
from aibrother_replicator.naming import fetcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from aibrother_node.catalog.following import Followed, Follower
    from aibrother_node.metrics import FleetMetrics
    from aibrother_node.web.control.local import StoreThread

_LOG: Final = logging.getLogger(__name__)
SOURCE_PATIENCE: Final = 30.0
"""Seconds that one source may take in all, however slowly it goes on."""


class CatalogFollowing:
    """Follows the catalog; one refresh at a time.

    Args:
        follower: verifies and writes.
        thread: the store, whose index has to say the same.
        metrics: counts what was refused.
        changed: awaited when this node serves a newer catalog.
    """

    def __init__(
        self, follower: Follower, thread: StoreThread, metrics: FleetMetrics, changed: Callable[[], Awaitable[None]]
    ) -> None:
        self._follower = follower
        self._thread = thread
        self._metrics = metrics
        self._changed = changed
        self._lock = asyncio.Lock()
        self._complained: dict[str, str] = {}

    @property
    def busy(self) -> bool:
        """Whether a refresh is under way."""
        return self._lock.locked()

    async def refresh(self, sources: Sequence[tuple[str, str]]) -> Followed | None:
        """Bring the newest valid catalog that any of these has.

        Args:
            sources: (name, base URL of a public plane) pairs.

        Returns:
            What came of it; None where nothing could be done at all, which is logged.
        """
        async with self._lock:
            try:
                followed = await asyncio.to_thread(self._refresh, sources)
                if followed.changed:
                    await self._thread.change(lambda store: follow(store, Disk()))
            except (NodeError, OSError) as error:
                _LOG.error("the catalog can't be followed: %s", error)
                return None
        for name, reason in followed.refused.items():
            self._complain(name, reason)
        if followed.incomplete is not None:
            _LOG.warning("a newer catalog is verified, and not served yet: %s", followed.incomplete)
        for alarm in followed.alarms:
            _LOG.error("ALARM: two signers, or a stolen key: %s", alarm)
        if followed.changed:
            _LOG.info("serving catalog %s", ".".join(map(str, followed.status)))
            await self._changed()
        return followed

    def _refresh(self, sources: Sequence[tuple[str, str]]) -> Followed:
        with ExitStack() as stack:
            fetchers = [(name, stack.enter_context(fetcher(url, patience=SOURCE_PATIENCE))) for name, url in sources]
            return self._follower.refresh(fetchers, utc_now())

    def _complain(self, name: str, error: NodeError) -> None:
        """Log what is wrong with a source once, not every minute."""
        self._metrics.catalog_refused(reason_of(error))
        text = str(error)
        if self._complained.get(name) != text:
            self._complained[name] = text
            _LOG.warning("the catalog of %s is not taken: %s", name, text)


def reason_of(error: NodeError) -> str:
    """A short reason for metrics: the rule that was broken, or the kind of failure."""
    rule = getattr(error, "rule", None)
    return str(rule.value) if rule is not None else type(error).__name__
