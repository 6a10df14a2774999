"""Collection as a job: what nothing names is removed, and where room is needed, what others keep is evicted."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.errors import DiskFull, Temporary
from aibrother_node.store.collection.gc import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aibrother_node.store.collection.collecting import Gone
    from aibrother_node.store.collection.gc import Decision
    from aibrother_replicator.collector import Collector
    from aibrother_replicator.jobs.work import Progress

_TRIES: Final = 10
_PAUSE: Final = 1.0  # seconds until the index holds a catalog that has just come


class GcWork:
    """The kind of job. It has no way to go on with: what is run again looks at everything again, and finds less to do.

    Args:
        collector: does it.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    async def run(self, request: Mapping[str, Any], progress: Progress) -> None:
        """Collect.

        Args:
            request: nothing.
            progress: of the job; its cursor holds what earlier runs have removed.

        Raises:
            Temporary: the catalog or the index isn't ready.
        """
        del request
        found = dict(progress.cursor or {"removed": 0, "evicted": 0, "bytes": 0})
        for left in reversed(range(_TRIES)):
            try:
                await self._collect(progress, found)
            except DiskFull:
                raise
            except Temporary:
                if not left:
                    raise
                await asyncio.sleep(_PAUSE)
                await progress.breathe()
            else:
                return

    async def _collect(self, progress: Progress, found: dict[str, int]) -> None:
        planned = await self._collector.plan()
        await self._collector.mark(planned)
        due = planned.plan.of(Verdict.REMOVED)
        progress.expect(objects=found["removed"] + found["evicted"] + len(due), size=found["bytes"] + _bytes(due))
        async with aclosing(self._collector.remove(planned)) as steps:
            async for why, gone in steps:
                size = _bytes(gone)
                found["removed" if why == "unnamed" else "evicted"] += len(gone)
                found["bytes"] += size
                if why == "evicted":  # how many there will be isn't known before
                    progress.expect(objects=found["removed"] + found["evicted"], size=found["bytes"])
                progress.done(objects=len(gone), size=size)
                await progress.checkpoint(found)
                await progress.breathe()
        # what was named meanwhile, or pinned, stays: there is no more to do than was done
        progress.expect(objects=found["removed"] + found["evicted"], size=found["bytes"])
        evicted = _bytes(planned.plan.of(Verdict.EVICTED))
        marked = len(planned.plan.of(Verdict.MARKED))
        progress.result({**found, "marked": marked, "short_of": max(0, planned.plan.need - evicted)})


def _bytes(some: Iterable[Decision | Gone]) -> int:
    return sum(one.size for one in some)
