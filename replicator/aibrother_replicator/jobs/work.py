"""What a job does, and what it tells while it does it: the seam between the runner and the kinds of work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


class Progress(Protocol):
    """How a job's work tells how far it is. All of it is called on the event loop.

    What was told since the last `checkpoint` is told again when the work is run again after a crash: numbers are kept
    with the cursor, in one transaction.

    Attributes:
        cursor: what the last `checkpoint` of an earlier run said; None at the beginning.
        only: of a retry: the objects that failed before, and nothing else is to be done; None for all.
    """

    @property
    def cursor(self) -> Any: ...

    @property
    def only(self) -> frozenset[str] | None: ...

    def expect(self, *, objects: int | None = None, size: int | None = None) -> None:
        """Say how many objects and bytes there are in all, as far as it is known by now."""

    def done(self, *, objects: int = 0, size: int = 0) -> None:
        """Count objects and bytes that are done since the last call."""

    def failed(self, name: str, reason: str) -> None:
        """Count an object that could not be done; it is retried when the job is."""

    async def checkpoint(self, cursor: Any) -> None:
        """Make what was told so far durable, with where to go on from: small JSON. Blocks nobody."""

    async def breathe(self) -> None:
        """To be awaited between two steps, each of a second at most: waits while the job is paused.

        Raises:
            asyncio.CancelledError: the job was cancelled, or the node ends.
        """

    def result(self, value: Mapping[str, Any]) -> None:
        """Say what came of it: small JSON, shown with the job."""


class Work(Protocol):
    """One kind of job."""

    async def run(self, request: Mapping[str, Any], progress: Progress) -> None:
        """Do it, from the cursor on. Doing again what was done since the last checkpoint must do no harm.

        Raises:
            NodeError: the job as a whole fails, with this as its reason.
        """
