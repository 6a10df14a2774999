"""How a job shows while it is watched: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from aibrother_tools.app import human_bytes
from aibrother_tools.job_words import counted, paced

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import TaskID

_PAUSE: Final = 5.0  # seconds between two lines, unless the state changes


class Lines:
    """A line on stdout where the state changes, and every few seconds."""

    def __init__(self) -> None:
        self._state = ""
        self._told_at = 0.0
        self._waited = ""

    def job(self, seen: dict[str, Any]) -> None:
        """The job has changed."""
        now = time.monotonic()
        if seen["state"] == self._state and now - self._told_at < _PAUSE:
            return
        self._state, self._told_at, self._waited = seen["state"], now, ""
        pace = paced(seen)
        click.echo(f"{seen['kind']} {seen['state']}: {counted(seen)}{f', {pace}' if pace else ''}")
        sys.stdout.flush()

    def waiting(self, reason: str) -> None:
        """The node is away."""
        if not self._waited:
            self._waited = reason
            click.echo(f"waiting for the node: {reason}", err=True)


class Bars(Lines):
    """Bars of objects and bytes."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._bytes: TaskID = progress.add_task("", total=None, text="")
        self._objects: TaskID = progress.add_task("", total=None, text="")

    def job(self, seen: dict[str, Any]) -> None:
        objects, size = seen["objects"], seen["bytes"]
        total = "" if size["total"] is None else f"/{human_bytes(size['total'])}"
        self._progress.update(
            self._bytes,
            description=f"{seen['kind']} {seen['state']}",
            total=size["total"],
            completed=size["done"],
            text=", ".join(part for part in (f"{human_bytes(size['done'])}{total}", paced(seen)) if part),
        )
        total = "" if objects["total"] is None else f"/{objects['total']}"
        failed = f", {objects['failed']} failed" if objects["failed"] else ""
        self._progress.update(
            self._objects,
            total=objects["total"],
            completed=objects["done"] + objects["failed"],
            text=f"{objects['done']}{total} objects{failed}",
        )
        if seen["state"] != self._state:
            self._state = seen["state"]
            self._progress.refresh()

    def waiting(self, reason: str) -> None:
        self._progress.update(self._bytes, description="waiting for the node", text=reason[:60])


@contextlib.contextmanager
def display() -> Iterator[Lines]:
    """Show a job: bars on stderr where that is a terminal, lines on stdout elsewhere."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Bars(progress)
