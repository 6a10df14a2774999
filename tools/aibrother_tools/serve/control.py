"""Control: the one process of a node that changes its store and its index."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aiohttp import web

from aibrother_node.catalog.desk import Desk, utc_now
from aibrother_node.catalog.indexing import follow
from aibrother_node.config.masking import masked
from aibrother_node.errors import NodeError, NotFound
from aibrother_node.fleet.identity import NodeKey
from aibrother_node.metrics import FleetMetrics
from aibrother_node.store.blobs import BlobStore
from aibrother_node.store.disk import Disk
from aibrother_node.store.index import IndexReader
from aibrother_node.store.layout import DirectoryLock, Layout
from aibrother_node.traffic import SharedCounts, Together
from aibrother_node.web.bounded import BoundedServer
from aibrother_node.web.control.admin.node_routes import NodeRoutes
from aibrother_node.web.control.local import LocalPlane, StoreThread, tidy_up
from aibrother_node.web.control.local_socket import NAME, LocalSocket
from aibrother_node.web.control.plane import ControlPlane
from aibrother_tools.catalog_client import signing
from aibrother_tools.reports import status_report
from aibrother_tools.serve.admin_service import AdminService
from aibrother_tools.serve.child import every, run_child
from aibrother_tools.serve.collection_service import CollectionService
from aibrother_tools.serve.fleet_service import FleetService
from aibrother_tools.serve.jobs_service import JobsService
from aibrother_tools.serve.lifecycle import Lifecycle
from aibrother_tools.serve.publishing_service import PublishingService
from aibrother_tools.serve.scrub_service import ScrubService
from aibrother_tools.serve.sockets import BACKLOG
from aibrother_tools.serve.tls import make_context, renew_certificate

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping, Sequence

    from aibrother_node.catalog.accept import Draft
    from aibrother_node.config import NodeConfig
    from aibrother_node.web.control.admin.operation import Operation
    from aibrother_tools.serve.channel import Questions

_REFRESH: Final = 600.0  # seconds between looks for what has to be signed again; lives are counted in days
_DEBRIS: Final = 3600.0  # seconds that old files of the catalog are kept at least
_KEEPALIVE: Final = (
    75.0  # seconds within which a request has to come, from the connection's begin or the last answer on
)
_CONNECTIONS: Final = 128  # of a plane, at a time
_ORIGINS_PATIENCE: Final = 10.0  # seconds for the supervisor's answer, which it has at hand
_JOBS_PATIENCE: Final = 5.0  # seconds for jobs to come to the end of a step
_SHUTDOWN: Final = 2.0  # seconds for answers of the control plane that are under way at the end
_LOG: Final = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class Control:
    """Opens the store, serves the local plane and the control plane, and takes part in the fleet.

    Args:
        lock_fd: the data directory's lock, inherited from the supervisor.
        control_sockets, fleet_sockets, metrics_sockets: what listens for these planes, inherited as well.
        questions: the line to the supervisor.
    """

    def __init__(
        self,
        lock_fd: int,
        control_sockets: Sequence[socket.socket] = (),
        fleet_sockets: Sequence[socket.socket] = (),
        metrics_sockets: Sequence[socket.socket] = (),
        *,
        questions: Questions,
    ) -> None:
        self._lock_fd = lock_fd
        self._questions = questions
        self._control_sockets = list(control_sockets)
        self._fleet_sockets = list(fleet_sockets)
        self._metrics_sockets = list(metrics_sockets)
        self._fleet_context: ssl.SSLContext | None = None
        self._metrics = FleetMetrics()
        self._planes: list[BoundedServer] = []
        self._config: NodeConfig
        self._thread: StoreThread
        self._admin: AdminService
        self._jobs: JobsService
        self._publishing: PublishingService
        self._scrub: ScrubService
        self._collection: CollectionService
        self._runner: web.AppRunner
        self._tasks: list[asyncio.Task[None]]
        self._fleet: FleetService | None = None
        self._lifecycle: Lifecycle
        self._ending = False

    async def start(self, config: NodeConfig) -> None:
        """Open the store, listen, then finish what an interruption left."""
        self._config = config
        layout = Layout(config.node.data)
        lock = DirectoryLock.inherit(layout.root, self._lock_fd)
        self._lifecycle = Lifecycle(layout, self._tell_fleet, self._questions)
        self._thread = StoreThread(lambda: BlobStore.open(layout, lock, manifest_ceiling=config.store.max_manifest))
        await self._thread.start()
        try:
            await self._thread.change(lambda store: follow(store, Disk()))
        except NodeError as error:
            _LOG.error("the catalog on disk can't be used, what was indexed of it is served: %s", error)
        self._admin = AdminService(layout)
        self._jobs = JobsService(layout, self._metrics.registry)
        self._scrub = ScrubService(
            layout, self._thread, self._jobs, lambda: self._config, self._metrics.registry, _node_id(layout)
        )
        await self._scrub.start()
        self._collection = CollectionService(
            layout, self._thread, self._jobs, lambda: self._config, self._metrics.registry, lambda: self._fleet
        )
        await self._collection.start()
        self._publishing = PublishingService(layout, self._thread, lambda: self._config, self._accept)
        await self._admin.start(self._operations())
        local = LocalPlane(self._thread, self._edit, self._admin, self._admin.audit, self._clock_skew)
        self._runner = web.AppRunner(local.application(self._admin.local), access_log=None)
        await self._runner.setup()
        (layout.run / NAME).unlink(missing_ok=True)  # the lock is ours, so whoever left it is gone
        with LocalSocket(layout.run) as address:
            mask = os.umask(0o177)
            try:
                await web.UnixSite(self._runner, address).start()
            finally:
                os.umask(mask)
        if self._fleet_sockets:
            self._fleet_context = make_context(config.public)
            fleet = FleetService(config, layout, self._thread, self._metrics, lambda: self._thread.changes)
            await fleet.start(self._fleet_sockets, self._fleet_context)
            self._fleet = fleet
        await self._jobs.start()
        self._scrub.begin()
        self._collection.begin()
        self._publishing.start()
        plane = ControlPlane(Together(self._metrics.registry, SharedCounts(layout.metrics)), self._measure)
        await self._serve(plane.application(self._admin.guarded), self._control_sockets)
        await self._serve(plane.metrics_alone(), self._metrics_sockets)
        self._tasks = [
            asyncio.create_task(self._tidy_up(), name="tidy up"),
            asyncio.create_task(every(_REFRESH, self._refresh), name="refresh"),
        ]

    async def reload(self, config: NodeConfig) -> None:
        """Take over what status shows, and the certificate; the store's own settings need a restart."""
        if self._fleet_context is not None and config.public.tls_certificate is not None:
            await asyncio.to_thread(renew_certificate, self._fleet_context, config.public)
        self._config = config

    async def before_drain(self) -> None:
        """Let the fleet know, so that it sends no more clients here."""
        self._ending = True
        if self._fleet is not None:
            await self._fleet.tell("draining")

    async def drain(self, patience: float) -> None:
        """Finish the running change, and stop."""
        await self._jobs.close(min(patience, _JOBS_PATIENCE))  # first: jobs use all that ends below
        await self._scrub.close()
        await self._collection.close()
        if self._fleet is not None:
            await self._fleet.tell("leaving")
            await self._fleet.close()
        async with asyncio.timeout(patience + 1):
            await self._runner.cleanup()
            for plane in self._planes:
                await plane.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._publishing.close()
        await self._admin.close()
        (Layout(self._config.node.data).run / NAME).unlink(missing_ok=True)
        await self._collection.end()
        await self._thread.close()

    def _operations(self) -> list[Operation]:
        """The routes of the admin API, of all parts."""
        node = NodeRoutes(
            status=self._status,
            peers=self._peers,
            config=self._shown_config,
            audit=self._admin.audit,
            store=self._thread,
        )
        parts = (node, self._jobs, self._collection, self._lifecycle, self._publishing)
        return [operation for part in parts for operation in part.operations()]

    async def _shown_config(self) -> dict[str, Any]:
        answer = await self._questions.ask("origins", _ORIGINS_PATIENCE)
        return {**masked(self._config), "sources": answer["origins"]}

    async def _tell_fleet(self, state: str) -> None:
        if self._fleet is not None and not self._ending:
            await self._fleet.tell(state)

    async def _serve(self, application: web.Application, sockets: Sequence[socket.socket]) -> None:
        if not sockets:
            return
        count = self._metrics.traffic.count_for("control")
        plane = BoundedServer(application, most=_CONNECTIONS, idle=_KEEPALIVE, shutdown=_SHUTDOWN, count=count)
        self._planes.append(plane)
        await plane.start(sockets, None, BACKLOG)

    async def _measure(self) -> None:
        """Before metrics are shown: what the index knows without being told."""
        self._jobs.measure()
        await self._collection.measure()
        totals = await asyncio.to_thread(IndexReader(Layout(self._config.node.data).index).totals)
        if totals is not None:
            self._metrics.store(*totals)

    async def _tidy_up(self) -> None:
        try:
            await tidy_up(self._thread)
        except Exception:
            _LOG.exception("what an interruption left could not be put right; the next start tries again")

    async def _edit(self, action: Mapping[str, Any]) -> dict[str, Any]:
        return await self._at_desk(lambda desk: desk.run(action, utc_now()).to_json())

    async def _accept(self, draft: Draft) -> dict[str, int]:
        """Take in roles that a publisher has signed elsewhere."""
        await asyncio.to_thread(
            self._desk(self._thread.store).inspect, draft, utc_now()
        )  # it reads every file that is new
        return await self._at_desk(lambda desk: desk.accept(draft, utc_now()))

    async def _at_desk(self, work: Callable[[Desk], _Result]) -> _Result:
        """Change the catalog, alone, and let the fleet know."""

        def edit(store: BlobStore) -> _Result:
            return work(self._desk(store))

        fleet = self._fleet
        if fleet is None:
            return await self._thread.change(edit)
        fleet.check_clock()
        async with fleet.writing_catalog:
            try:
                return await self._thread.change(edit)
            finally:
                await fleet.catalog_changed()

    def _clock_skew(self) -> float | None:
        return None if self._fleet is None else self._fleet.clock_skew

    async def _peers(self) -> dict[str, Any]:
        if self._fleet is None:
            raise NotFound("this node follows no catalog, and so has no fleet")
        return await self._fleet.peers()

    def _desk(self, store: BlobStore) -> Desk:
        return Desk(store, signing(self._config), Disk())

    async def _refresh(self) -> None:
        """Sign again what is beyond half its life, where this node signs; remove what nobody can be asking for."""
        # a client that has the timestamp may take a while to what it leads to, whatever is done with blobs
        grace = timedelta(seconds=max(self._config.store.gc_grace, _DEBRIS))
        if not self._config.catalog.signer:
            if self._fleet is not None and (removed := await self._fleet.collect_debris(grace)):
                _LOG.info("removed %d old files of the catalog", removed)
            return
        try:
            done = await self._edit({"do": "refresh"})
        except NodeError as error:
            _LOG.error("the catalog could not be signed again: %s", error)
        else:
            if done["versions"]:
                _LOG.info("signed again: %s", ", ".join(sorted(done["versions"])))
        removed = await self._thread.change(lambda store: self._desk(store).collect_debris(utc_now(), grace))
        if removed:
            _LOG.info("removed %d old files of the catalog", removed)

    async def _status(self) -> dict[str, Any]:
        jobs = await self._jobs.current()
        return await asyncio.to_thread(status_report, self._config, running=True, jobs=jobs)


def _node_id(layout: Layout) -> str:
    try:
        return NodeKey.load(layout.node_key).id
    except NodeError:
        return ""


def main() -> None:
    """Entry point of the control process; the supervisor starts it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--lock", type=int, required=True)
    planes = ("control", "fleet", "metrics")
    for plane in planes:
        parser.add_argument(f"--{plane}-listen", type=int, nargs="*", default=[])
    options = parser.parse_args()
    sockets = [[socket.socket(fileno=fd) for fd in getattr(options, f"{plane}_listen")] for plane in planes]

    def make(questions: Questions) -> Control:
        return Control(options.lock, *sockets, questions=questions)

    run_child(options.name, make, options.channel, options.parent)


if __name__ == "__main__":
    main()
