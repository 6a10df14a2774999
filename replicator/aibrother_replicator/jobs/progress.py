"""What the work of a job sees of it: `work.Progress` as the runner makes it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aibrother_replicator.jobs.slot import Slot
    from aibrother_replicator.jobs.thread import BookThread


class BookedProgress:
    """Shows at once what the work tells, and writes it down at checkpoints.

    Args:
        book: where to.
        slot: the job.
        only: of a selective attempt: the names that it is for.
        clock: seconds since 1970.
    """

    def __init__(self, book: BookThread, slot: Slot, only: frozenset[str] | None, clock: Callable[[], float]) -> None:
        self._book = book
        self._clock = clock
        self._slot = slot
        self._live = slot.live
        self._cursor = slot.live.job.cursor
        self._only = only
        self._writing = asyncio.Lock()

    @property
    def cursor(self) -> Any:
        return self._cursor

    @property
    def only(self) -> frozenset[str] | None:
        return self._only

    def expect(self, *, objects: int | None = None, size: int | None = None) -> None:
        self._live.expect(_now(), objects=objects, size=size)

    def done(self, *, objects: int = 0, size: int = 0) -> None:
        self._live.done(_now(), objects=objects, size=size)

    def failed(self, name: str, reason: str) -> None:
        self._live.failed(_now(), name, reason, self._clock())

    def result(self, value: Mapping[str, Any]) -> None:
        self._live.result(value)

    async def breathe(self) -> None:
        await self._slot.go_on()

    async def checkpoint(self, cursor: Any) -> None:
        async with self._writing:  # two of them would have to be written in this order
            made = self._live.checkpoint(_now(), cursor)
            try:
                await self._slot.insist(
                    lambda: self._book.run(lambda book: book.save_progress(made)), unless=self._slot.stopping
                )
            except BaseException:
                self._live.not_kept(made)
                raise
            self._live.kept(made)


def _now() -> float:
    return asyncio.get_running_loop().time()
