"""Copies of the peers' inventories: asked of their owners by deltas, and written where workers look them up.

A record says what its node's inventory hashes to. Where the copy hashes to something else, the owner is asked for what
has changed since, page by page, at most so often. A copy is believed as far as the owner is: about itself.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from aibrother_node.errors import InvalidInput, NodeError
from aibrother_node.fleet.inventory import MAX_PAGE, PeerInventory, decode_page

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from aibrother_node.content.digest import Digest
    from aibrother_node.fleet.peering import PeerState
    from aibrother_node.fleet.view import Have

_LOG: Final = logging.getLogger(__name__)
_AT_A_TIME: Final = 4
_PAGES: Final = 2000  # in one go; a million entries have a thousand
_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 120.0


@dataclass(slots=True)
class _Copy:
    inventory: PeerInventory = field(default_factory=PeerInventory)
    not_before: float = 0.0
    failures: int = 0


class PeerInventories:
    """Keeps the copies up to date.

    Args:
        ask: `(node, gossip URL, target, most bytes)` → the body of a signed GET.
        write: `(node, changes, reset)`: called with what changed of a peer's.
        forget: called with the nodes whose copies went.
    """

    def __init__(
        self,
        ask: Callable[[str, str, str, int], Awaitable[bytes]],
        write: Callable[[str, Mapping[Digest, Have | None], bool], Awaitable[None]],
        forget: Callable[[Iterable[str]], Awaitable[None]],
    ) -> None:
        self._ask = ask
        self._write = write
        self._forget = forget
        self._copies: dict[str, _Copy] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(_AT_A_TIME)

    async def look(self, peers: Iterable[PeerState], now: float) -> None:
        """Begin to ask whoever's inventory has changed; doesn't wait for the answers."""
        states = {state.id: state for state in peers}
        gone = [node for node in self._copies if node not in states]
        for node in gone:
            task = self._running.pop(node, None)
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            del self._copies[node]
        if gone:
            await self._forget(gone)
        for node, state in states.items():
            if state.record is None or state.state in ("dead", "unknown") or not state.gossip_urls:
                continue
            copy = self._copies.setdefault(node, _Copy())
            told = state.record.record.says.inventory
            if node in self._running or now < copy.not_before or copy.inventory.in_step_with(told):
                continue
            copy.not_before = now + _PAUSE
            task = asyncio.create_task(
                self._bring(node, state.gossip_urls, copy, now), name=f"inventory of {node[:12]}"
            )
            self._running[node] = task
            task.add_done_callback(partial(self._ended, node))

    async def close(self) -> None:
        """End what is running."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _ended(self, node: str, task: asyncio.Task[None]) -> None:
        if self._running.get(node) is task:
            del self._running[node]

    async def _bring(self, node: str, urls: tuple[str, ...], copy: _Copy, now: float) -> None:
        url = urls[copy.failures % len(urls)]
        try:
            async with self._places:
                await self._pages(node, url, copy)
        except NodeError as error:
            copy.failures += 1
            copy.not_before = now + min(_PAUSE * 2.0 ** min(copy.failures, 16), _LONGEST_PAUSE)
            _LOG.debug("inventory of %s: %s", node[:12], error)
        except Exception:
            copy.failures += 1
            copy.not_before = now + _LONGEST_PAUSE
            _LOG.exception("the inventory of %s could not be read", node[:12])
        else:
            copy.failures = 0
            if copy.inventory.full:
                copy.not_before = now + _LONGEST_PAUSE  # it is never in step: what is beyond the ceiling isn't kept

    async def _pages(self, node: str, url: str, copy: _Copy) -> None:
        for _ in range(_PAGES):
            since = copy.inventory.cursor
            target = "/inventory/v1" + (f"?since={quote(since, safe='.')}" if since else "")
            page = decode_page(await self._ask(node, url, target, MAX_PAGE))
            changes, reset = copy.inventory.apply(page)
            if changes or reset:
                await self._write(node, changes, reset)
            if not page.more:
                return
            if copy.inventory.cursor == since:
                raise InvalidInput("the inventory doesn't end")
