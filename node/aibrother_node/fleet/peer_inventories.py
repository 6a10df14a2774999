"""Copies of the peers' inventories: asked of their owners by deltas, and written where workers look them up.

A record says what its node's inventory hashes to. Where the copy hashes to something else, the owner is asked for what
has changed since, page by page, at most so often. A copy is believed as far as the owner is: about itself.

No owner gets more than half of the time, and none keeps a place for longer than `_TURN` at a time: what came until then
stays, and the next turn goes on from there. An inventory that doesn't end, begins again and again, or isn't what its
owner says it is, is asked for more and more seldom.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from aibrother_node.errors import InvalidInput, NodeError
from aibrother_node.fleet.inventory import MAX_PAGE, PeerInventory, decode_page

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from aibrother_node.content.digest import Digest
    from aibrother_node.fleet.inventory import Page
    from aibrother_node.fleet.peering import PeerState
    from aibrother_node.fleet.view import Have

_LOG: Final = logging.getLogger(__name__)
_AT_A_TIME: Final = 4
_TURN: Final = 60.0
_RESETS: Final = 2  # in one turn: its owner may have been started again meanwhile
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
        turn: seconds that one peer is asked at a time.
    """

    def __init__(
        self,
        ask: Callable[[str, str, str, int], Awaitable[bytes]],
        write: Callable[[str, Mapping[Digest, Have | None], bool], Awaitable[None]],
        forget: Callable[[Iterable[str]], Awaitable[None]],
        *,
        turn: float = _TURN,
    ) -> None:
        self._ask = ask
        self._write = write
        self._forget = forget
        self._turn = turn
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

    def begin_anew(self) -> None:
        """Forget all copies: what was written of them is lost."""
        self._copies.clear()
        for task in self._running.values():
            task.cancel()
        self._running.clear()

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
        asked = time.monotonic()
        spent = 0.0
        pause = _PAUSE
        try:
            async with self._places:
                began = time.monotonic()
                try:
                    await self._pages(node, url, copy, began + self._turn)
                finally:
                    spent = time.monotonic() - began
        except NodeError as error:
            copy.failures += 1
            pause = min(_PAUSE * 2.0 ** min(copy.failures, 16), _LONGEST_PAUSE)
            _LOG.debug("inventory of %s: %s", node[:12], error)
        except (sqlite3.Error, OSError) as error:
            copy.failures += 1
            pause = min(_PAUSE * 2.0 ** min(copy.failures, 16), _LONGEST_PAUSE)
            copy.inventory = PeerInventory()  # how far it is written isn't known
            _LOG.warning("the inventory of %s can't be written: %s", node[:12], error)
        except Exception:
            copy.failures += 1
            pause = _LONGEST_PAUSE
            copy.inventory = PeerInventory()
            _LOG.exception("the inventory of %s could not be read", node[:12])
        else:
            copy.failures = 0
            if copy.inventory.full:
                pause = _LONGEST_PAUSE  # it is never in step: what is beyond the ceiling isn't kept
        copy.not_before = now + (time.monotonic() - asked) + max(pause, spent)

    async def _pages(self, node: str, url: str, copy: _Copy, until: float) -> None:
        resets = 0
        while True:
            since = copy.inventory.cursor
            target = "/inventory/v1" + (f"?since={quote(since, safe='.')}" if since else "")
            body = await self._ask(node, url, target, MAX_PAGE)
            # hashing ten thousand entries takes a while
            page, changes, reset = await asyncio.to_thread(_take, copy.inventory, body)
            if changes or reset:
                await self._write(node, changes, reset)
            if not page.more:
                if copy.inventory.cursor is None:
                    raise InvalidInput("the inventory is not what its node says")
                return
            resets += reset
            if resets > _RESETS or copy.inventory.cursor == since:
                raise InvalidInput("the inventory doesn't end")
            if time.monotonic() > until:
                return


def _take(inventory: PeerInventory, body: bytes) -> tuple[Page, Mapping[Digest, Have | None], bool]:
    page = decode_page(body)
    return page, *inventory.apply(page)
