"""The jobs as people see them: those that haven't ended as they are now, the others as they are written down."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.errors import NotFound, Temporary
from aibrother_replicator.jobs.document import document
from aibrother_replicator.jobs.model import State

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping

    from aibrother_replicator.jobs.book import Book
    from aibrother_replicator.jobs.slot import Slot
    from aibrother_replicator.jobs.thread import BookThread

LISTED: Final = 10
"""Errors of each job where many are shown."""
MAX_WATCHERS: Final = 64
"""Watchers of all jobs together."""


class JobsView:
    """Looks at all jobs, and changes none.

    Args:
        book: where they are written down.
        slots: those that haven't ended, by id; the runner's own.
        opened: is set when those are known.
        closing: is set when the node ends.

    Attributes:
        watchers: how many watch.
    """

    def __init__(
        self, book: BookThread, slots: Mapping[str, Slot], opened: asyncio.Event, closing: asyncio.Event
    ) -> None:
        self._book = book
        self._slots = slots
        self._opened = opened
        self._closing = closing
        self.watchers = 0

    async def get(self, job: str) -> dict[str, Any]:
        """One job.

        Raises:
            NotFound: there is none of this id.
        """
        self._check_open()
        if job in self._slots:
            return self.document(self._slots[job])
        return await self.read(job)

    async def page(
        self, *, before: str | None = None, state: State | None = None, kind: str | None = None, most: int = 100
    ) -> list[dict[str, Any]]:
        """Jobs, newest first.

        Args:
            before: those of which the id is less.
            state, kind: those alone.
            most: how many at most.
        """
        self._check_open()
        found = {
            job: self.document(slot, LISTED)
            for job, slot in self._slots.items()
            if (before is None or job < before)
            and (state is None or slot.live.job.state is state)
            and (kind is None or slot.live.job.kind == kind)
        }
        if state is None or state.ended:
            for ended in await self._book.run(
                lambda book: [
                    document(job, book.failures(job, LISTED))
                    for job in book.ended(before=before, state=state, kind=kind, most=most)
                ]
            ):
                if ended["id"] not in self._slots:  # else its end is not shown yet, or it was taken up again meanwhile
                    found[ended["id"]] = ended
        return [found[job] for job in sorted(found, reverse=True)[:most]]

    async def current(self, since: float) -> list[dict[str, Any]]:
        """What is worth a look: the jobs that haven't ended, and the newest of those that failed.

        Args:
            since: when, in seconds since 1970.
        """
        self._check_open()
        open_jobs = [self.document(self._slots[job], LISTED) for job in sorted(self._slots, reverse=True)]
        return open_jobs + await self._book.run(
            lambda book: [document(job, book.failures(job, LISTED)) for job in book.failed(since)]
        )

    async def watch(self, job: str) -> AsyncGenerator[dict[str, Any], None]:
        """A job as it is now, then whenever it has changed, last as it has ended.

        Whoever is slow misses what was in between, never the last. It ends without that when the node ends.

        Raises:
            NotFound: there is no such job.
            Temporary: too many watch.
        """
        self._check_open()
        if job not in self._slots:
            found = await self.read(job)
            if job not in self._slots:  # else it was taken up again meanwhile, and the end that was read is none
                yield found
                return
        slot = self._slots[job]
        if self.watchers >= MAX_WATCHERS:
            raise Temporary(f"{MAX_WATCHERS} watch already", retry_after=10)
        self.watchers += 1
        try:
            seen = -1
            while not (self._closing.is_set() and slot.final is None):
                await slot.beyond(seen)
                seen = slot.version
                if slot.final is not None:
                    yield slot.final
                    return
                yield self.document(slot)
        finally:
            self.watchers -= 1

    def tally(self, kinds: Iterable[str]) -> dict[tuple[str, str], int]:
        """How many jobs that haven't ended there are: by kind and state, with zeros for these kinds."""
        states = [state.value for state in State if not state.ended]
        found = dict.fromkeys(((kind, state) for kind in kinds for state in states), 0)
        for slot in self._slots.values():
            key = (slot.live.job.kind, slot.live.job.state.value)
            found[key] = found.get(key, 0) + 1
        return found

    def document(self, slot: Slot, errors: int | None = None) -> dict[str, Any]:
        """One job that hasn't ended, or has just now, with its newest errors, at most so many."""
        if slot.final is not None:
            return slot.final
        live = slot.live
        rate, eta = live.speed(asyncio.get_running_loop().time())
        return document(live.as_told(), live.errors()[:errors], rate=rate, eta=eta, trouble=live.trouble)

    async def read(self, job: str) -> dict[str, Any]:
        """One job as it is written down.

        Raises:
            NotFound: there is none of this id.
        """

        def read(book: Book) -> dict[str, Any] | None:
            found = book.get(job)
            return None if found is None else document(found, book.failures(found))

        found = await self._book.run(read)
        if found is None:
            raise NotFound(f"there is no job {job}")
        return found

    def _check_open(self) -> None:
        if not self._opened.is_set():
            raise Temporary("jobs can't be read yet", retry_after=5)
