"""What commands say of a job."""

from __future__ import annotations

from typing import Any

from aibrother_tools.app import human_bytes


def counted(job: dict[str, Any]) -> str:
    """How far a job is, in words."""
    objects, size = job["objects"], job["bytes"]
    total = "" if objects["total"] is None else f" of {objects['total']}"
    bytes_total = "" if size["total"] is None else f" of {human_bytes(size['total'])}"
    failed = f", {objects['failed']} failed" if objects["failed"] else ""
    return f"{objects['done']}{total} objects{failed}, {human_bytes(size['done'])}{bytes_total}"


def paced(job: dict[str, Any]) -> str:
    """How quick a job is, and for how long it will be, in words; empty where neither is known."""
    rate = f"{human_bytes(job['rate'])}/s" if job["rate"] else ""
    eta = "" if job["eta"] is None else f"{duration(job['eta'])} left"
    return ", ".join(part for part in (rate, eta) if part)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
