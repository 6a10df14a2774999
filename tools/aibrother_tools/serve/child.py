"""What workers and control have in common: the line to the supervisor, the configuration, the end."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import socket
from typing import TYPE_CHECKING, Final, Protocol

from aibrother_node.config import NodeConfig
from aibrother_node.errors import NodeError
from aibrother_tools.serve.channel import Channel, Questions, beat, die_with_parent
from aibrother_tools.serve.logs import set_up_logging

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_LOG: Final = logging.getLogger(__name__)


class Child(Protocol):
    """What a kind of child does."""

    async def start(self, config: NodeConfig) -> None:
        """Begin to serve."""

    async def reload(self, config: NodeConfig) -> None:
        """Take over what may change while it runs.

        Raises:
            NodeError: it can't; everything stays as it was.
        """

    async def before_drain(self) -> None:
        """The node is about to end: workers drain first."""

    async def drain(self, patience: float) -> None:
        """Finish what is running, within `patience` seconds, and stop."""


def run_child(name: str, make: Callable[[Questions], Child], channel_fd: int, parent: int) -> None:
    """Run a child process until the supervisor drains it or is gone."""
    die_with_parent(parent)
    # the terminal's Ctrl-C reaches the whole group; what it means is for the supervisor to say
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_run(name, make, socket.socket(fileno=channel_fd)))


async def _run(name: str, make: Callable[[Questions], Child], end: socket.socket) -> None:
    channel = await Channel.open(end)
    questions = Questions(channel)
    heart = asyncio.create_task(beat(channel), name="heartbeat")
    child: Child | None = None
    try:
        async for message in channel.messages():
            if "config" in message:
                config = NodeConfig.model_validate_json(message["config"])
                set_up_logging(config.log, name)
                if child is None:
                    child = make(questions)
                    await child.start(config)
                    gc.freeze()  # what is loaded by now stays: the collector need not look at it again
                    channel.send(event="ready")
                else:
                    await _reload(child, config, channel, message.get("reload"))
            elif "answer" in message:
                questions.answered(message)
            elif "draining" in message and child is not None:
                await child.before_drain()
            elif "drain" in message and child is not None:
                await child.drain(message["drain"])
                return
    finally:
        heart.cancel()
        await asyncio.gather(heart, return_exceptions=True)
        await channel.close()


async def _reload(child: Child, config: NodeConfig, channel: Channel, number: int | None) -> None:
    try:
        await child.reload(config)
    except NodeError as error:
        _LOG.error("reload failed, everything stays as it was: %s", error)
        channel.send(event="reloaded", reload=number, error=str(error))
    else:
        channel.send(event="reloaded", reload=number, error=None)


async def every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do something again and again until cancelled; one failure is logged and no reason to stop."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except Exception:
            _LOG.exception("%s failed; it will be tried again", getattr(work, "__qualname__", work))
