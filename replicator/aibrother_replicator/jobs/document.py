"""A job as programs read it: the contract's members, the same from a running node and from its disk."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aibrother_node.catalog.values import time_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aibrother_replicator.jobs.live import Failure
    from aibrother_replicator.jobs.model import Job


def document(
    job: Job,
    errors: Sequence[Failure],
    *,
    rate: float = 0.0,
    eta: float | None = None,
    trouble: str | None = None,
) -> dict[str, Any]:
    """Describe a job.

    Args:
        job: with the numbers to show.
        errors: newest first.
        rate, eta: bytes a second; seconds that are left.
        trouble: what keeps it from going on just now.
    """
    counts = job.counts
    shown = [{"name": error.name, "reason": error.reason, "at": _text(error.at)} for error in errors]
    for reason in (job.reason, trouble):
        if reason is not None:  # of the job as a whole
            shown.insert(0, {"name": None, "reason": reason, "at": _text(job.ended)})
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state.value,
        "created": _text(job.created),
        "started": _text(job.started),
        "ended": _text(job.ended),
        "objects": {"total": counts.objects_total, "done": counts.objects_done, "failed": counts.objects_failed},
        "bytes": {"total": counts.bytes_total, "done": counts.bytes_done},
        "rate": round(rate),
        "eta": None if eta is None else round(eta, 1),
        "errors": shown,
        "request": dict(job.request),
        "result": None if job.result is None else dict(job.result),
        "cancelling": job.cancelling,
    }


def _text(seconds: float | None) -> str | None:
    return None if seconds is None else time_text(datetime.fromtimestamp(seconds, UTC))
