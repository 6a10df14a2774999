"""Gossip's IO: a clock, a thread for the engine, and requests. Whatever is decided, engine.py decides.

The engine checks signatures, so it runs on a thread of its own, one call at a time; the event loop only waits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

from aibrother_node.errors import NodeError
from aibrother_node.fleet.messages import MAX_FRAME

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from aibrother_node.fleet.client import FleetClient
    from aibrother_node.fleet.engine import Contact, Engine

_LOG: Final = logging.getLogger(__name__)
_UNDER_WAY: Final = 64  # contacts at a time; a round beyond that is left out
_Result = TypeVar("_Result")


class GossipLoop:
    """Runs an engine.

    Args:
        engine: not to be touched by anybody else from now on, but through `call`.
        client: sends.
        interval: seconds between rounds.
        rng: spreads the rounds of different nodes.
        before_round: called on the engine's thread at the start of each round with the time: what this node says of
            itself is brought up to date there.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        engine: Engine,
        client: FleetClient,
        interval: float,
        rng: random.Random,
        *,
        before_round: Callable[[float], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._client = client
        self._interval = interval
        self._rng = rng
        self._before_round = before_round
        self._clock = clock
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="gossip")
        self._under_way: set[asyncio.Task[None]] = set()
        self._hurry = asyncio.Event()

    async def call(self, work: Callable[[Engine, float], _Result]) -> _Result:
        """Do something with the engine, on its thread."""
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: work(self._engine, self._clock())
        )

    async def receive(self, frame: bytes) -> bytes:
        """Answer a frame; raises as `Engine.receive`."""
        return await self.call(lambda engine, now: engine.receive(frame, now))

    def hurry(self) -> None:
        """Begin the next round at once: there is something new to tell."""
        self._hurry.set()

    async def run(self) -> None:
        """Gossip until cancelled."""
        try:
            while True:
                try:
                    await self.round()
                except Exception:
                    _LOG.exception("a round of gossip failed; the next one comes")
                self._hurry.clear()
                try:
                    async with asyncio.timeout(self._interval * self._rng.uniform(0.9, 1.1)):
                        await self._hurry.wait()
                except TimeoutError:
                    continue
                # news in quick succession still make a few rounds a second at most
                await asyncio.sleep(min(0.1, self._interval / 4))
        finally:
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)

    async def round(self, *, wait: bool = False) -> None:
        """Do one round.

        Args:
            wait: until all of it has been answered, or failed.
        """

        def begin(engine: Engine, now: float) -> list[Contact]:
            self._before_round(now)
            return engine.tick(now)

        contacts = await self.call(begin)
        for contact in contacts[: max(0, _UNDER_WAY - len(self._under_way))]:
            task = asyncio.create_task(self._carry_out(contact), name=f"gossip with {contact.url}")
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        if wait and self._under_way:
            await asyncio.wait(set(self._under_way))

    async def close(self) -> None:
        """End the engine's thread; nothing may be asked of it any more."""
        await asyncio.to_thread(self._executor.shutdown)

    async def _carry_out(self, contact: Contact) -> None:
        following: Contact | None = contact
        try:
            while following is not None:
                asked = following
                try:
                    frame = await self._client.post(asked.url, asked.frame, MAX_FRAME)
                except NodeError as error:
                    _LOG.debug("gossip: %s", error)
                    await self.call(lambda engine, now, asked=asked: engine.failed(asked, now))  # type: ignore[misc]
                    return
                following = await self.call(
                    lambda engine, now, asked=asked, frame=frame: engine.answered(asked, frame, now)  # type: ignore[misc]
                )
        except NodeError as error:
            _LOG.debug("gossip: %s", error)
        except Exception:
            _LOG.exception("gossip with %s failed", contact.url)
