"""The supervisor: holds the listening sockets, starts the children and keeps them alive; it touches no content.

It holds the data directory's lock and every listening socket for as long as the node runs, so a child may die at any
time: its successor finds the same sockets, with the clients that wait in them. Children die with it (`channel.py`).

SIGTERM drains and ends with 0, SIGINT the same with 130, a second signal ends at once. SIGHUP reads the configuration
again: what is wrong with it is logged and nothing changes; what can change without a restart does. Control may ask
for the same, and is told what came of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aibrother_node.errors import ConfigurationError
from aibrother_tools.serve.channel import Channel
from aibrother_tools.serve.logs import set_up_logging
from aibrother_tools.serve.reloading import Handover, read_again

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aibrother_node.config import NodeConfig
    from aibrother_node.store.layout import DirectoryLock
    from aibrother_tools.serve.notify import Notifier
    from aibrother_tools.serve.planes import Listening
    from aibrother_tools.serve.reloading import Reload

_LOG: Final = logging.getLogger(__name__)
SILENCE: Final = 30.0
"""Seconds without a heartbeat after which a child counts as stuck and is replaced."""
_STARTING: Final = 120.0
_FIRST_READY: Final = 120.0
_STEADY: Final = 10.0  # a child that lived this long may be restarted at once
_LONGEST_PAUSE: Final = 5.0
_TAKING_OVER: Final = 30.0  # seconds for all processes to say that they use a new configuration


@dataclass(slots=True)
class ChildSpec:
    """How to start one child.

    Attributes:
        name: `control` or `worker-<n>`.
        module: what `python -m` runs.
        arguments: after the ones that all children get.
        fds: descriptors that it inherits.
    """

    name: str
    module: str
    arguments: list[str]
    fds: list[int]


@dataclass(slots=True)
class _Running:
    spec: ChildSpec
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    process: asyncio.subprocess.Process | None = None
    channel: Channel | None = None
    heard: float = 0.0
    restarts: int = 0


class Supervisor:
    """Runs a node's processes until told to end.

    Args:
        config: the checked configuration.
        origins: for each key that somebody set, who, as of the last time that it was read.
        reload: reads it again.
        lock: the data directory's lock.
        listening: the sockets; closed when it drains.
        notifier: the service manager.
        announce: called once when every child is ready.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        origins: Mapping[str, str],
        reload: Callable[[], NodeConfig],
        lock: DirectoryLock,
        listening: Listening,
        notifier: Notifier,
        announce: Callable[[], None],
    ) -> None:
        self._config = config
        self._origins = origins
        self._reload = reload
        self._lock = lock
        self._listening = listening
        self._notifier = notifier
        self._announce = announce
        self._ending = asyncio.Event()
        self._at_once = asyncio.Event()
        self._exit_code = 0
        self._reloads = 0
        self._handovers: dict[int, Handover] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._children = [_Running(spec) for spec in self._specs()]

    async def run(self) -> int:
        """Serve until a signal ends it.

        Returns:
            The exit code: 0 after SIGTERM, 130 after SIGINT, 1 if the node never became ready.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_end, 0)
        loop.add_signal_handler(signal.SIGINT, self._on_end, 130)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        keepers = [asyncio.create_task(self._keep(child), name=child.spec.name) for child in self._children]
        others = [asyncio.create_task(self._watch(), name="watch"), asyncio.create_task(self._ready(), name="ready")]
        try:
            await self._ending.wait()
            self._notifier.stopping()
            await self._drain()
        finally:
            tasks = [*keepers, *others, *self._answering]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for child in self._children:
                self._kill(child)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await _all_ended(self._children)  # the loop must not close before it has heard of their ends
            for child in self._children:
                if child.channel is not None:
                    await child.channel.close()
        return self._exit_code

    def _specs(self) -> list[ChildSpec]:
        lock = self._lock.fd
        control = ChildSpec("control", "aibrother_tools.serve.control", ["--lock", str(lock)], [lock])
        planes = (
            ("--control-listen", self._listening.control),
            ("--fleet-listen", self._listening.fleet),
            ("--metrics-listen", self._listening.metrics),
        )
        for option, sockets in planes:
            fds = [sock.fileno() for sock in sockets]
            control.arguments.extend([option, *map(str, fds)])
            control.fds.extend(fds)
        specs = [control]
        for number, sockets in enumerate(self._listening.public):
            fds = [sock.fileno() for sock in sockets]
            specs.append(
                ChildSpec(f"worker-{number}", "aibrother_tools.serve.worker", ["--listen", *map(str, fds)], fds)
            )
        return specs

    async def _ready(self) -> None:
        try:
            async with asyncio.timeout(_FIRST_READY):
                for child in self._children:
                    await child.ready.wait()
        except TimeoutError:
            _LOG.critical("the node did not become ready within %g s; its log says why", _FIRST_READY)
            self._exit_code = 1
            self._ending.set()
            return
        self._announce()
        self._notifier.ready(f"serving with {len(self._listening.public)} workers")

    async def _keep(self, child: _Running) -> None:
        """Start one child, and start it again whenever it ends."""
        loop = asyncio.get_running_loop()
        pause = 0.0
        while not self._ending.is_set():
            started = loop.time()
            try:
                await self._start(child)
                assert child.process is not None
                code = await child.process.wait()
            except OSError as error:
                _LOG.error("%s can't be started: %s", child.spec.name, error)
                code = None
            if self._ending.is_set():
                return
            child.ready.clear()
            lived = loop.time() - started
            pause = 0.0 if lived > _STEADY else min(max(0.1, pause * 2), _LONGEST_PAUSE)
            child.restarts += 1
            _LOG.error("%s ended with %s after %.1f s; starting it again", child.spec.name, _how(code), lived)
            await asyncio.sleep(pause)

    async def _start(self, child: _Running) -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            child.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                child.spec.module,
                "--name",
                child.spec.name,
                "--channel",
                str(theirs.fileno()),
                "--parent",
                str(os.getpid()),
                *child.spec.arguments,
                pass_fds=[theirs.fileno(), *child.spec.fds],
                stdin=asyncio.subprocess.DEVNULL,
                # what children print by mistake must not end up between the lines that scripts read from us
                stdout=sys.stderr.fileno(),
            )
        child.heard = loop.time() + _STARTING - SILENCE
        child.channel = await Channel.open(ours)
        child.channel.send(config=self._config.model_dump_json())
        asyncio.create_task(self._listen(child, child.channel), name=f"listen {child.spec.name}")  # noqa: RUF006 - ends with its channel

    async def _listen(self, child: _Running, channel: Channel) -> None:
        loop = asyncio.get_running_loop()
        async for message in channel.messages():
            child.heard = max(child.heard, loop.time())
            match message.get("event"):
                case "ready":
                    child.heard = loop.time()
                    if child.restarts:
                        _LOG.warning("%s is back (%d restarts)", child.spec.name, child.restarts)
                    child.ready.set()
                case "reloaded":
                    if message["error"] is not None:
                        self._notifier.status(f"{child.spec.name} could not reload: {message['error']}")
                    handover = self._handovers.get(message["reload"])
                    if handover is not None:
                        handover.heard(child.spec.name, message["error"])
                case "origins":
                    channel.send(answer=message["question"], origins=dict(self._origins))
                case "reload":
                    answering = asyncio.create_task(self._answer_reload(channel, message["question"]))
                    self._answering.add(answering)
                    answering.add_done_callback(self._answering.discard)
        for handover in self._handovers.values():
            handover.ended(child.spec.name)
        await channel.close()

    async def _watch(self) -> None:
        """Replace children that have gone silent; tell the service manager that we are alive."""
        loop = asyncio.get_running_loop()
        interval = min(self._notifier.watchdog_interval or 5.0, 5.0)
        while True:
            await asyncio.sleep(interval)
            self._notifier.alive()
            for child in self._children:
                if child.process is not None and loop.time() - child.heard > SILENCE:
                    _LOG.error("%s has said nothing for %g s; replacing it", child.spec.name, SILENCE)
                    child.heard = loop.time()
                    self._kill(child)

    def _on_end(self, code: int) -> None:
        if self._ending.is_set():
            self._at_once.set()
            return
        self._exit_code = code
        self._ending.set()

    async def _drain(self) -> None:
        """Close the public sockets, let the workers finish their answers, then end control in the same way.

        So peers and whoever reads metrics are answered for as long as there are downloads.
        """
        patience = self._config.node.drain_seconds
        self._listening.close_public()
        for child in self._children:
            if child.spec.name == "control" and child.channel is not None and child.ready.is_set():
                child.channel.send(draining=True)
        for control_too in (False, True):
            if control_too:
                self._listening.close_others()
            group = [child for child in self._children if control_too or child.spec.name != "control"]
            for child in group:
                if child.channel is not None and child.ready.is_set():
                    child.channel.send(drain=patience)
                else:
                    self._kill(child)  # it serves nobody yet, and may not have heard of its channel
            ended = asyncio.create_task(_all_ended(group))
            hurry = asyncio.create_task(_set(self._at_once))
            await asyncio.wait({ended, hurry}, timeout=patience + 5, return_when=asyncio.FIRST_COMPLETED)
            for task in (ended, hurry):
                task.cancel()
            for child in group:
                self._kill(child)

    def _on_reload(self) -> None:
        with contextlib.suppress(ConfigurationError):  # all of it is logged
            self._reload_now()

    def _reload_now(self) -> tuple[Reload, int]:
        """Read the configuration again, use it, and hand it to the children.

        Returns:
            What changed, and the number under which children speak of it.

        Raises:
            ConfigurationError: it has faults; nothing has changed.
        """
        self._notifier.reloading()
        try:
            done = read_again(self._config, self._reload)
        except ConfigurationError as error:
            for fault in error.faults:
                _LOG.error("reload: %s; the node goes on as it was", fault)
            self._notifier.ready("reload failed: see the log")
            raise
        for key in done.needs_restart:
            _LOG.warning("reload: %s takes effect at the next start", key)
        self._config = done.config
        set_up_logging(self._config.log, "supervisor")
        self._reloads += 1
        for child in self._children:
            if child.channel is not None:
                child.channel.send(config=self._config.model_dump_json(), reload=self._reloads)
        _LOG.info("reload: %s", ", ".join(done.changed) or "nothing changed but perhaps the content of files")
        self._notifier.ready("reloaded")
        return done, self._reloads

    async def _answer_reload(self, channel: Channel, question: int) -> None:
        """Reload for control, and tell it what came of that once every process has said so."""
        try:
            done, number = self._reload_now()
        except ConfigurationError as error:
            channel.send(answer=question, faults=error.faults)
            return
        # who is being started reads it at its start
        names = [child.spec.name for child in self._children if child.channel is not None and child.ready.is_set()]
        handover = self._handovers[number] = Handover(names)
        try:
            failed = await handover.wait(_TAKING_OVER)
        finally:
            del self._handovers[number]
        channel.send(answer=question, changed=done.changed, needs_restart=done.needs_restart, failed=failed)

    @staticmethod
    def _kill(child: _Running) -> None:
        if child.process is not None and child.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.process.kill()


async def _set(event: asyncio.Event) -> None:
    await event.wait()


async def _all_ended(children: list[_Running]) -> None:
    for child in children:
        if child.process is not None:
            await child.process.wait()


def _how(code: int | None) -> str:
    if code is None:
        return "an error"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
