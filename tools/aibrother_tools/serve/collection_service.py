"""Collection's part of control: on request, when it is due, and when room is short; and this node's vouches."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.catalog.indexing import state_name, tell_workers
from aibrother_node.catalog.reading import STABLE, STAGING, catalog
from aibrother_node.catalog.repository import Repository
from aibrother_node.errors import DiskFull, NodeError, NotFound
from aibrother_node.metrics import CollectionMetrics
from aibrother_node.store.collection.collecting import Collecting
from aibrother_node.store.collection.gc import Verdict
from aibrother_node.store.collection.marks import Marks
from aibrother_node.store.collection.survey import Policy, counts
from aibrother_node.store.disk import Disk
from aibrother_node.store.last_access import LastAccess
from aibrother_node.store.room import used
from aibrother_replicator.collector import Collector, Wishes
from aibrother_replicator.gc_report import GcReports
from aibrother_replicator.gc_work import GcWork
from aibrother_tools.storing import total_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry

    from aibrother_node.config import NodeConfig
    from aibrother_node.content.digest import Digest
    from aibrother_node.fleet.keepers import Mirrors
    from aibrother_node.store.blobs import BlobStore
    from aibrother_node.store.layout import Layout
    from aibrother_node.web.control.admin.operation import Operation
    from aibrother_node.web.control.local import StoreThread
    from aibrother_tools.serve.fleet_service import FleetService
    from aibrother_tools.serve.jobs_service import JobsService

_LOG: Final = logging.getLogger(__name__)
_LOOK: Final = 10.0  # seconds between looks whether room is short
_SHORTEST: Final = 60.0  # seconds between looks at everything; an hour, or the grace where that is shorter
_LONGEST: Final = 3600.0
_AGAIN: Final = 600.0  # seconds until room that could not be made is looked for again
_NOTHING: Final[dict[str, Any]] = {}


class CollectionService:
    """Collection and eviction of a running node.

    Args:
        layout: of the data directory.
        thread: the store.
        jobs: where the kind of job is registered.
        config: as it is now.
        registry: of the node's metrics.
        fleet: this node's part in it; None before it has begun, and where there is none.
    """

    def __init__(
        self,
        layout: Layout,
        thread: StoreThread,
        jobs: JobsService,
        config: Callable[[], NodeConfig],
        registry: CollectorRegistry,
        fleet: Callable[[], FleetService | None],
    ) -> None:
        self._layout = layout
        self._thread = thread
        self._jobs = jobs
        self._config = config
        self._fleet = fleet
        self._metrics = CollectionMetrics(registry)
        self._rng = random.Random()  # noqa: S311  # spreads nodes over time
        self._task: asyncio.Task[None] | None = None
        self._said_short = False
        self._collecting: Collecting
        self._collector: Collector
        self._reports: GcReports

    async def start(self) -> None:
        """Open what is remembered; after the store is open, before operations are asked for."""
        try:
            access = await asyncio.to_thread(LastAccess, self._layout.last_access, time.time())
        except (NodeError, OSError) as error:
            _LOG.warning("when blobs were asked for isn't known: %s", error)
            access = None
        self._collecting = await self._thread.change(self._open)
        self._collector = Collector(
            self._layout,
            self._thread.change,
            self._collecting,
            self._wishes,
            access,
            self._fleet,
            self._metrics,
            lambda: tell_workers(self._layout),
        )
        self._jobs.runner.register("gc", GcWork(self._collector))
        self._reports = GcReports(self._collector, lambda: self._jobs.runner.submit("gc", _NOTHING))

    def operations(self) -> list[Operation]:
        """The routes of the admin API."""
        return self._reports.operations()

    def begin(self) -> None:
        """Vouch, and collect by itself from now on; after the jobs and the fleet have begun."""
        fleet = self._fleet()
        if fleet is not None:
            fleet.keeps = self._keeps
        self._task = asyncio.create_task(self._look(), name="collect when due")

    async def close(self) -> None:
        """Collect no more by itself; after the jobs have stopped."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def end(self) -> None:
        """Let go of all; when nobody asks any more, before the store is closed."""
        await self._thread.change(lambda _: self._collecting.marks.close())

    async def measure(self) -> None:
        """Bring the metrics up to date."""
        free, reserve = await asyncio.to_thread(self._room)
        self._metrics.room(free, reserve)
        waiting = await asyncio.to_thread(counts, self._layout, time.time())
        if waiting is not None:
            self._metrics.waiting(*waiting)

    def _open(self, store: BlobStore) -> Collecting:
        layout = self._layout
        return Collecting(
            store,
            Marks.open(layout.index),
            lambda: state_name(layout),
            lambda: is_to_have_a_catalog(self._config(), layout),
        )

    def _room(self) -> tuple[int, int]:
        return Disk().free_bytes(self._layout.root), self._config().store.reserve_on(total_bytes(self._layout))

    def _wishes(self) -> Wishes:
        """Blocks."""
        config = self._config()
        free, reserve = self._room()
        wants = config.policy.wants
        tags = catalog_tags(self._layout) if isinstance(wants, tuple) else None
        policy = Policy(wants, config.policy.channels, tags)
        return Wishes(config.store.gc_grace, config.store.max_size, reserve, policy, free)

    async def _keeps(self, digest: Digest, mirrors: Mirrors) -> bool:
        fleet = self._fleet()
        if fleet is None:
            return False
        evictions = fleet.evictions

        def look(_: BlobStore) -> bool:
            found = self._collecting.keeps(digest, mirrors.state)
            return found is not None and evictions.keeps(digest, mirrors, named=found[0], pinned=found[1])

        return await self._thread.look(look)

    async def _look(self) -> None:
        due = time.monotonic() + self._pause()
        not_before = 0.0
        while True:
            await asyncio.sleep(_LOOK)
            try:
                now = time.monotonic()
                short = now >= not_before and await asyncio.to_thread(self._is_short)
                if now < due and not short:
                    continue
                due, not_before = now + self._pause(), now + _AGAIN
                await self._collect()
            except NodeError as error:
                _LOG.warning("nothing is collected now: %s", error)
            except Exception:
                _LOG.exception("what is to be collected could not be found out")

    def _pause(self) -> float:
        return min(max(self._config().store.gc_grace, _SHORTEST), _LONGEST) * self._rng.uniform(0.8, 1.2)

    def _is_short(self) -> bool:
        free, reserve = self._room()
        most = self._config().store.max_size
        return free < reserve or (most is not None and used(self._layout) > most)

    async def _collect(self) -> None:
        """Mark, and begin a job where there is something to remove."""
        planned = await self._collector.plan()
        try:
            await self._collector.mark(planned)
        except DiskFull as error:
            _LOG.warning("what nothing names can't be marked: %s", error)  # what was marked before may go all the same
        if planned.plan.of(Verdict.REMOVED) or await self._collector.may_evict(planned):
            self._said_short = False
            try:
                await self._jobs.runner.submit("gc", _NOTHING)
            except DiskFull:  # no room for a job, which is to make room
                async for why, gone in self._collector.remove(planned):
                    _LOG.info("%d blobs removed without a job, since the disk is full (%s)", len(gone), why)
        elif planned.plan.need and not self._said_short:
            self._said_short = True
            _LOG.warning(
                "%d bytes over %s, and nothing may go: `gc --dry-run` says why",
                planned.plan.need,
                planned.plan.why_short,
            )


def is_to_have_a_catalog(config: NodeConfig, layout: Layout) -> bool:
    """Whether a node without a catalog is to have one: also one that has lost all but its configuration."""
    return (
        config.catalog.signer
        or config.catalog.root is not None
        or bool(config.fleet.seeds)
        or (layout.trust / "root.json").exists()
    )


def catalog_tags(layout: Layout) -> dict[tuple[str, str], set[str]]:
    """The tags of each model and variant that is offered. Blocks.

    Raises:
        NodeError: the catalog can't be read.
    """
    found: dict[tuple[str, str], set[str]] = {}
    try:
        repository = Repository.open(layout.catalog, Disk())
    except NotFound:
        return {}
    for path in (STABLE, STAGING):
        for entry in catalog(repository, path).models:
            found.setdefault((entry.name, entry.variant), set()).update(entry.tags)
    return found
