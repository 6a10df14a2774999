"""One job that hasn't ended, its task, and those who wait for it to change. Belongs to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.errors import NodeError
from aibrother_replicator.jobs.model import State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aibrother_replicator.jobs.live import LiveJob
    from aibrother_replicator.jobs.model import Job

_LOG: Final = logging.getLogger(__name__)
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 30.0


def next_wait(before: float | None = None) -> float:
    """Seconds until something that could not be written is tried again."""
    return _FIRST_WAIT if before is None else min(2 * before, _LONGEST_WAIT)


class Slot:
    """A job and its task.

    Args:
        live: the job.

    Attributes:
        task: works at it; None while it waits for its turn.
        stopping: its work is to stop, between two steps.
        ending: its end is being written down, and nothing changes it any more.
        final: what is shown of it since it has ended.
        version: grows with each change that watchers are told of.
        unsaved: seconds that the last wait for writing its state down took; None where it is written.
        save_at: when it is to be written, by the loop's clock.
    """

    def __init__(self, live: LiveJob) -> None:
        self.live = live
        self.task: asyncio.Task[None] | None = None
        self.stopping = asyncio.Event()
        self.ending = False
        self.final: dict[str, Any] | None = None
        self.version = 0
        self.unsaved: float | None = None
        self.save_at = 0.0
        self._changed = asyncio.Event()
        self._shown: object = None
        self._break_off: asyncio.TimerHandle | None = None

    def become(self, job: Job) -> None:
        """Change the job's state, and wake whoever waits for that."""
        self.live.job = job
        self.touch()

    def touch(self) -> None:
        """Tell watchers that there is something new."""
        self.version += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def show(self, shown: object) -> None:
        """Tell watchers if this is something else than before."""
        if shown != self._shown:
            self._shown = shown
            self.touch()

    async def beyond(self, version: int) -> None:
        """Wait until the version is a later one than this."""
        while self.version <= version:
            await self._changed.wait()

    # -- the work

    def stop(self, grace: float) -> None:
        """Have the work stop between two of its steps, and where that takes longer than `grace` seconds, anywhere."""
        self.stopping.set()
        self.touch()
        if self.task is not None and self._break_off is None:
            self._break_off = asyncio.get_running_loop().call_later(grace, self.task.cancel)

    def worked(self) -> None:
        """The work is over: what follows isn't to be broken off."""
        if self._break_off is not None:
            self._break_off.cancel()

    async def go_on(self) -> None:
        """Wait while the job is paused.

        Raises:
            asyncio.CancelledError: the work is to stop.
        """
        await asyncio.sleep(0)
        while self.live.job.state is State.PAUSED and not self.stopping.is_set():
            await self.beyond(self.version)
        if self.stopping.is_set():
            raise asyncio.CancelledError

    async def insist(self, write: Callable[[], Awaitable[Any]], unless: asyncio.Event) -> Any:
        """Do something with the book; as long as that isn't possible, say so and try again.

        Returns:
            What it returns.

        Raises:
            asyncio.CancelledError: it isn't possible, and `unless` is set.
        """
        wait: float | None = None
        while True:
            try:
                done = await write()
            except NodeError as error:
                if wait is None:
                    _LOG.error("%s %s has to wait: %s", self.live.job.kind, self.live.job.id, error)
                self.live.trouble = str(error)
                self.touch()
            else:
                self.live.trouble = None
                return done
            wait = next_wait(wait)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(unless.wait(), wait)
                raise asyncio.CancelledError
