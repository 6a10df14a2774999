"""`POST /gc`: collection on request, and the report of what it would do, page by page."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field

from aibrother_node.content.digest import Digest
from aibrother_node.web.control.admin.inputs import Input
from aibrother_node.web.control.admin.node_answers import Output
from aibrother_node.web.control.admin.operation import Documented, Operation, Reply, Scope
from aibrother_replicator.jobs.answers import JobStarted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aibrother_node.web.control.admin.operation import Call
    from aibrother_replicator.collector import Collector, Planned

_KEPT_FOR: Final = 60.0  # seconds that a report is paged through without being made again
MAX_PAGE: Final = 1000


class GcRequest(Input):
    """Whether to collect, or to say what would go; as the admin API takes it."""

    dry_run: bool = Field(False, description="remove nothing, answer what would be removed and why")
    after: Annotated[str | None, Field(pattern="^sha256:[0-9a-f]{64}$")] = Field(
        None, description="of a dry run: go on after this blob; `next` of the page before"
    )
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = Field(MAX_PAGE, description="of a dry run: blobs in a page")


class GcBlob(Output):
    """What becomes of one blob: `kept`, `marked` (removed later), `removed` or `evicted`."""

    digest: str
    size: int
    verdict: str
    reason: str


class GcSum(Output):
    """Of one verdict."""

    blobs: int
    bytes: int


class GcReport(Output):
    """A page of what collection would do; `to_evict` is how many bytes have to go beside what nothing names."""

    used: int
    max_size: int | None
    reserve: int
    to_evict: int
    sums: dict[str, GcSum]
    blobs: list[GcBlob]
    next: str | None


class GcReports:
    """The route, and the report that is paged through.

    Args:
        collector: plans.
        submit: begins the job; returns its id.
    """

    def __init__(self, collector: Collector, submit: Callable[[], Awaitable[str]]) -> None:
        self._collector = collector
        self._submit = submit
        self._made_at = 0.0
        self._planned: Planned | None = None
        self._order: list[Digest] = []
        self._lock = asyncio.Lock()

    def operations(self) -> list[Operation]:
        """The route."""
        return [
            Operation(
                name="start_gc",
                method="POST",
                path="/gc",
                scope=Scope.OPERATE,
                summary="Remove what nothing names, and evict where room is needed; or say what would go",
                handler=self._start,
                answers={
                    200: Documented("of a dry run: what would become of each blob, and why", GcReport),
                    202: Documented("the job; the same one for who asks again while it hasn't ended", JobStarted),
                },
                body=GcRequest,
            )
        ]

    async def _start(self, call: Call) -> Reply:
        body: GcRequest = call.body
        if not body.dry_run:
            call.notes["job"] = job = await self._submit()
            return Reply({"job": job}, 202)
        async with self._lock:
            return Reply(await self._page(body))

    async def _page(self, body: GcRequest) -> dict[str, Any]:
        if self._planned is None or body.after is None or time.monotonic() - self._made_at > _KEPT_FOR:
            planned = await self._collector.plan()
            await self._collector.ask_about(planned)
            self._planned, self._made_at = planned, time.monotonic()
            self._order = sorted(planned.plan.decisions)
        after = None if body.after is None else Digest.parse(body.after)
        some = [digest for digest in self._order if after is None or digest > after][: body.limit + 1]
        shown, planned = some[: body.limit], self._planned
        decisions = [planned.plan.decisions[digest] for digest in shown]
        last = len(some) <= body.limit
        if last:
            self._planned, self._order = None, []  # a report of a hundred thousand blobs is no small thing to keep
        return {
            **self._collector.to_json(planned),
            "blobs": [
                {"digest": str(one.digest), "size": one.size, "verdict": str(one.verdict), "reason": one.reason}
                for one in decisions
            ],
            "next": None if last else str(shown[-1]),
        }
