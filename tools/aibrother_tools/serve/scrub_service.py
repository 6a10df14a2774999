"""The scrub's part of control: checks on request and when they are due, and what is damaged tried again and again."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from aibrother_node.errors import NodeError, Temporary
from aibrother_node.fleet.view import FleetView
from aibrother_node.metrics import ScrubMetrics
from aibrother_node.store.scrubbing.book import next_pass
from aibrother_node.store.scrubbing.scrubber import Scrubber
from aibrother_replicator.peer_repair import PeerRepair
from aibrother_replicator.scrub_work import EVERYTHING, ScrubRequest, ScrubWork
from aibrother_tools.serve.child import every

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prometheus_client import CollectorRegistry

    from aibrother_node.config import NodeConfig
    from aibrother_node.content.digest import Digest
    from aibrother_node.store.layout import Layout
    from aibrother_node.web.control.local import StoreThread
    from aibrother_tools.serve.jobs_service import JobsService

_LOG: Final = logging.getLogger(__name__)
_RETRY: Final = 2.0  # seconds between looks for what is to be tried again; each blob has a pause of its own
_LOOK: Final = 30.0  # seconds between looks whether a pass is due


class ScrubService:
    """Scrub and repair of a running node.

    Args:
        layout: of the data directory.
        thread: the store.
        jobs: where the kind of job is registered.
        config: as it is now.
        registry: of the node's metrics.
        node_id: spreads nodes' passes over time; "" for a node without a key.
    """

    def __init__(
        self,
        layout: Layout,
        thread: StoreThread,
        jobs: JobsService,
        config: Callable[[], NodeConfig],
        registry: CollectorRegistry,
        node_id: str,
    ) -> None:
        self._layout = layout
        self._config = config
        self._jobs = jobs
        self._view = FleetView(layout.fleet_view)
        self._jitter = int(node_id[:8] or "0", 16) / 0xFFFF_FFFF
        self._metrics = ScrubMetrics(registry)
        store = config().store
        self._scrubber = Scrubber(
            layout,
            thread.change,
            PeerRepair(self._holders, lied=self._metrics.lied),
            self._metrics,
            store.scrub_interval,
            store.max_manifest,
        )
        jobs.register(
            "scrub",
            ScrubWork(self._scrubber, lambda: self._config().store.scrub_rate),
            "Check blobs against their hashes, and repair what is damaged",
            ScrubRequest,
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Withhold what is known to be bad; after the store is open, before anything is asked for."""
        await self._scrubber.start()
        try:
            last = await self._scrubber.last_completed()
        except Temporary as error:
            _LOG.error("what is known of former scrubs can't be read yet: %s", error)
        else:
            if last is not None:
                self._metrics.completed(last)

    def begin(self) -> None:
        """Look after it from now on; after the jobs have started."""
        self._tasks = [
            asyncio.create_task(every(_RETRY, self._scrubber.retry), name="repair"),
            asyncio.create_task(self._look(), name="scrub when due"),
        ]

    async def close(self) -> None:
        """End; after the jobs have stopped, before the store is closed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._scrubber.close()

    async def _look(self) -> None:
        while True:
            try:
                if await self._is_due(time.time()):
                    await self._jobs.runner.submit("scrub", EVERYTHING)
            except NodeError as error:
                _LOG.warning("a scrub is due, and can't begin: %s", error)
            except Exception:
                _LOG.exception("whether a scrub is due could not be found out")
            await asyncio.sleep(_LOOK)

    async def _is_due(self, now: float) -> bool:
        last = await self._scrubber.last_completed()
        begun = (await asyncio.to_thread(self._layout.version.stat)).st_mtime
        return now >= next_pass(last, begun, self._config().store.scrub_interval, self._jitter)

    async def _holders(self, digest: Digest) -> Sequence[str]:
        """Who has it; those that have a part of it last: theirs may be damaged elsewhere."""
        found = await asyncio.to_thread(self._view.holders, digest, time.time())
        found.sort(key=lambda one: (one[1] != "complete", one[0].load, one[0].id))
        own = self._config().node.public_url
        return [peer.url for peer, _ in found if peer.url != own]
