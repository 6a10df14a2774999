"""A reload: reading the configuration, what of it may change now, and what every process says to it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aibrother_node.config import NodeConfig, reloadable_changes
from aibrother_tools.serve.places import check_places
from aibrother_tools.serve.tls import make_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(frozen=True, slots=True)
class Reload:
    """A configuration that was read again.

    Attributes:
        config: what to use from now on: what needs a restart is as it was.
        changed: the keys that are different now.
        needs_restart: the keys that will be, after a restart.
    """

    config: NodeConfig
    changed: list[str]
    needs_restart: list[str]


def read_again(current: NodeConfig, read: Callable[[], NodeConfig]) -> Reload:
    """Read and check all of a configuration, and say what of it may be used now. Blocks: files are read.

    Raises:
        ConfigurationError: it has faults.
    """
    fresh = read()
    make_context(fresh.public)
    check_places(fresh.public)
    changed, waiting = reloadable_changes(current, fresh)
    if (current.public.tls_certificate is None) != (fresh.public.tls_certificate is None):
        # another certificate is for now; TLS or not is for all workers at once
        switched = [key for key in changed if key.startswith("public.tls_")]
        changed, waiting = [key for key in changed if key not in switched], [*switched, *waiting]
    # what needs a restart stays as it is, also for children that are started again from now on
    keep: dict[str, Any] = fresh.model_dump()
    for key in waiting:
        section, _, name = key.partition(".")
        if name:
            keep[section][name] = getattr(getattr(current, section), name)
        else:
            keep[section] = [one.model_dump() for one in getattr(current, section)]
    return Reload(NodeConfig.model_validate(keep), changed, waiting)


class Handover:
    """One configuration on its way to the processes that run: who has yet to say that it uses it.

    Args:
        names: of the processes that it was sent to.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._waiting = set(names)
        self._failed: dict[str, str] = {}
        self._over = asyncio.Event()
        self._look()

    def heard(self, name: str, error: str | None) -> None:
        """A process uses it, or says why it can't."""
        self._waiting.discard(name)
        if error is not None:
            self._failed[name] = error
        self._look()

    def ended(self, name: str) -> None:
        """A process has ended; its successor begins with the new configuration."""
        self._waiting.discard(name)
        self._look()

    async def wait(self, patience: float) -> dict[str, str]:
        """Wait for all of them, at most `patience` seconds.

        Returns:
            Who doesn't use it, and why.
        """
        try:
            async with asyncio.timeout(patience):
                await self._over.wait()
        except TimeoutError:
            return self._failed | dict.fromkeys(self._waiting, f"said nothing within {patience:g} s")
        return dict(self._failed)

    def _look(self) -> None:
        if not self._waiting:
            self._over.set()
