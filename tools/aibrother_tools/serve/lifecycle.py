"""Drain, undrain and reload, as control carries them out."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.catalog.desk import utc_now
from aibrother_node.catalog.values import time_text
from aibrother_node.errors import ConfigurationError
from aibrother_node.store import draining
from aibrother_node.store.disk import Disk
from aibrother_node.web.control.admin.lifecycle_routes import LifecycleRoutes, NotTakenOver

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aibrother_node.store.layout import Layout
    from aibrother_node.web.control.admin.operation import Operation
    from aibrother_tools.serve.channel import Questions

_LOG: Final = logging.getLogger(__name__)
RELOAD_PATIENCE: Final = 40.0
"""Seconds for the supervisor's answer, which itself waits `reloading`'s time for the other processes."""


class Lifecycle:
    """What operators do to a running node.

    Args:
        layout: the data directory.
        tell: tells the fleet how this node is from now on: `up` or `draining`.
        questions: the line to the supervisor.
    """

    def __init__(self, layout: Layout, tell: Callable[[str], Awaitable[None]], questions: Questions) -> None:
        self._layout = layout
        self._tell = tell
        self._questions = questions
        self._changing = asyncio.Lock()

    def operations(self) -> list[Operation]:
        """What the admin API has of it."""
        return LifecycleRoutes(drain=self.drain, undrain=self.undrain, reload=self.reload).operations()

    async def drain(self, reason: str) -> None:
        """Take the node out of service; workers have stopped to begin when this returns, and the fleet has been told.

        Raises:
            DiskFull: nothing has changed.
        """
        async with self._changing:
            now = time_text(utc_now())
            state = await asyncio.to_thread(draining.drain, self._layout, Disk(), now, reason)
            _LOG.info("drained%s: no content is served until undrain", f" ({state.reason})" if state.reason else "")
            await self._tell("draining")

    async def undrain(self) -> None:
        """Put the node back into service."""
        async with self._changing:
            if await asyncio.to_thread(draining.undrain, self._layout, Disk()):
                _LOG.info("undrained: content is served again")
            await self._tell("up")

    async def reload(self) -> dict[str, Any]:
        """Have the supervisor read the configuration again.

        Returns:
            `changed` and `needs_restart`.

        Raises:
            ConfigurationError: it has faults, and nothing has changed.
            NotTakenOver: a process couldn't use it.
            Temporary: no answer came.
        """
        answer = await self._questions.ask("reload", RELOAD_PATIENCE)
        if answer.get("faults"):
            raise ConfigurationError(answer["faults"])
        if answer.get("failed"):
            raise NotTakenOver(answer["failed"], answer["changed"], answer["needs_restart"])
        return {"changed": answer["changed"], "needs_restart": answer["needs_restart"]}
