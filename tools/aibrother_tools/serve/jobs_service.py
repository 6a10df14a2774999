"""The jobs' part of control: the book, the runner, the kinds of work, what is measured of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from aibrother_node.errors import Temporary
from aibrother_node.metrics import JobMetrics
from aibrother_replicator.jobs.api import job_operations, start_operation
from aibrother_replicator.jobs.book import RECENT
from aibrother_replicator.jobs.runner import JobRunner
from aibrother_replicator.jobs.thread import BookThread

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from pydantic import BaseModel

    from aibrother_node.store.layout import Layout
    from aibrother_node.web.control.admin.operation import Operation
    from aibrother_replicator.jobs.work import Work


class JobsService:
    """All jobs of a node.

    Args:
        layout: of the data directory.
        registry: of the node's metrics.

    Attributes:
        runner: for whoever starts jobs by itself, such as a schedule.
    """

    def __init__(self, layout: Layout, registry: CollectorRegistry) -> None:
        self._metrics = JobMetrics(registry)
        self._starts: list[Operation] = []
        self.runner = JobRunner(
            BookThread(layout.index), ended=lambda job: self._metrics.ended(job.kind, job.state.value)
        )

    def register(self, kind: str, work: Work, summary: str, body: type[BaseModel] | None = None) -> None:
        """Add a kind of job, and `POST /<kind>`, which starts one; before `start`.

        Args:
            kind: its name.
            work: does it.
            summary: of the route, one line for people.
            body: what its request is made of: a model of `inputs.Input`.
        """
        self.runner.register(kind, work)
        self._starts.append(start_operation(kind, f"/{kind}", summary, body, self.runner))

    def operations(self) -> list[Operation]:
        """The routes of the admin API: starting, listing, changing and watching jobs."""
        return [*self._starts, *job_operations(self.runner)]

    async def start(self) -> None:
        """Go on with what the last process has left; after the store is open."""
        await self.runner.start()

    async def close(self, patience: float) -> None:
        """Stop at the last checkpoints; before the store is closed."""
        await self.runner.close(patience)

    async def current(self) -> list[dict[str, Any]]:
        """What `status` shows: jobs that haven't ended, and the newest that failed; none while they can't be read."""
        try:
            return await self.runner.view.current(time.time() - RECENT)
        except Temporary:
            return []

    def measure(self) -> None:
        """Bring the metrics up to date."""
        self._metrics.now(self.runner.view.tally(self.runner.kinds))
