"""Collection as a job: what nothing names is removed, and where room is needed, what others keep is evicted."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from aibrother_node.store.gc import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aibrother_node.store.gc import Decision
    from aibrother_replicator.collector import Collector
    from aibrother_replicator.jobs.work import Progress


class GcWork:
    """The kind of job. It has no cursor: what is run again looks at everything again, and finds less to do.

    Args:
        collector: does it.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    async def run(self, request: Mapping[str, Any], progress: Progress) -> None:
        """Collect.

        Args:
            request: nothing.
            progress: of the job.

        Raises:
            Temporary: the catalog or the index isn't ready.
        """
        del request
        before = dict(progress.cursor or {"removed": 0, "evicted": 0, "bytes": 0})
        planned = await self._collector.plan()
        await self._collector.mark(planned)
        due = planned.plan.of(Verdict.REMOVED)
        progress.expect(objects=before["removed"] + before["evicted"] + len(due), size=before["bytes"] + _bytes(due))
        found = before
        async with aclosing(self._collector.remove(planned)) as steps:
            async for why, gone in steps:
                size = sum(one.size for one in gone)
                found["removed" if why == "unnamed" else "evicted"] += len(gone)
                found["bytes"] += size
                if why == "evicted":  # how many there will be isn't known before
                    progress.expect(objects=found["removed"] + found["evicted"], size=found["bytes"])
                progress.done(objects=len(gone), size=size)
                await progress.checkpoint(found)
                await progress.breathe()
        # what was named meanwhile, or pinned, stays: there is no more to do than was done
        progress.expect(objects=found["removed"] + found["evicted"], size=found["bytes"])
        marked = planned.plan.of(Verdict.MARKED)
        progress.result(
            {
                **found,
                "marked": len(marked),
                "short_of": max(0, planned.plan.need - _bytes(planned.plan.of(Verdict.EVICTED))),
            }
        )


def _bytes(decisions: Iterable[Decision]) -> int:
    return sum(decision.size for decision in decisions)
