"""A worker: one process of the public plane. It reads blobs and never changes anything."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import resource
import socket
import stat
import time
from typing import TYPE_CHECKING, Final

from aibrother_node.catalog.desk import utc_now
from aibrother_node.catalog.indexing import timestamp_expires
from aibrother_node.errors import ConfigurationError, NodeError
from aibrother_node.fleet.identity import NodeKey
from aibrother_node.fleet.nearest import Place
from aibrother_node.store.blobs import BlobReader
from aibrother_node.store.disk import Disk
from aibrother_node.store.last_access import LastAccess
from aibrother_node.store.layout import Layout
from aibrother_node.store.withheld import Withheld
from aibrother_node.traffic import share_counts
from aibrother_node.web.control.local_socket import LocalSocket
from aibrother_node.web.public.fleet_sight import MirrorSettings
from aibrother_node.web.public.handler import PublicPlane, Settings
from aibrother_node.web.public.readiness import Check
from aibrother_node.web.public.sender import Sends
from aibrother_node.web.public.server import PublicServer
from aibrother_tools.serve.child import every, run_child
from aibrother_tools.serve.logs import AccessLog
from aibrother_tools.serve.places import open_places
from aibrother_tools.serve.sockets import BACKLOG
from aibrother_tools.serve.tls import make_context, renew_certificate

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from aibrother_node.config import LimitsSection, NodeConfig
    from aibrother_node.content.digest import Digest

_SWEEP: Final = 1.0  # seconds between looks for connections that take too long
_LAST_CALL: Final = 0.1  # seconds before a drain closes what nobody has asked on …
_LAST_TURNS: Final = 5  # … and the turns of the event loop that it takes at least, to accept, to read, to answer
_LOOK: Final = 1.0  # seconds between looks at what control says of the fleet
_CONTROL_PATIENCE: Final = 0.5
_CONTROL_ANSWER: Final = 4096
_OTHER_DESCRIPTORS: Final = 640  # cached blobs, sockets, the log
_LOG: Final = logging.getLogger(__name__)


class Worker:
    """Serves the public plane on sockets that the supervisor bound.

    Args:
        sockets: listening sockets.
        name: of the worker's place among the others; a successor has the same.
    """

    def __init__(self, sockets: list[socket.socket], name: str) -> None:
        self._sockets = sockets
        self._name = name
        self._listeners: list[asyncio.Server] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._context: ssl.SSLContext | None = None
        self._access_log_task: asyncio.Task[None] | None = None
        self._server: PublicServer
        self._plane: PublicPlane
        self._sends: Sends
        self._layout: Layout
        self._clock_skew: float | None = None

    async def start(self, config: NodeConfig) -> None:
        """Listen."""
        self._layout = Layout(config.node.data)
        self._layout.check_version()
        self._context = make_context(config.public)
        share_counts(self._layout.metrics, self._name, Disk())
        self._sends = Sends(config.limits.send_timeout, Withheld(self._layout.withheld))
        self._plane = PublicPlane(
            BlobReader(self._layout),
            self._sends,
            await asyncio.to_thread(self._settings, config),
            checks=(self._store_check, self._control_check, self._clock_check, self._catalog_check),
        )
        self._plane.touched = await asyncio.to_thread(_last_access, self._layout)
        self._server = PublicServer(self._plane, _fitting(config.limits))
        self._set_access_log(config.log.access_log)
        self._tasks.append(asyncio.create_task(every(_SWEEP, self._sweep), name="sweep"))
        await self._plane.sight.refresh()
        self._tasks.append(asyncio.create_task(every(_LOOK, self._plane.sight.refresh), name="look at the fleet"))
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            self._listeners.append(
                await loop.create_server(
                    self._server,
                    sock=sock,
                    backlog=BACKLOG,
                    ssl=self._context,
                    ssl_handshake_timeout=config.limits.header_timeout if self._context else None,
                )
            )

    async def reload(self, config: NodeConfig) -> None:
        """Take over certificate, limits, origins, what concerns mirrors, and logs."""
        if self._context is not None and config.public.tls_certificate is not None:
            await asyncio.to_thread(renew_certificate, self._context, config.public)
        elif (self._context is None) != (config.public.tls_certificate is None):
            raise ConfigurationError(["public.tls_certificate: TLS is switched on or off by a restart only"])
        self._plane.configure(await asyncio.to_thread(self._settings, config))
        self._server.limits = _fitting(config.limits)
        self._sends.stall_timeout = config.limits.send_timeout
        self._set_access_log(config.log.access_log)

    async def before_drain(self) -> None:
        """Nothing: the drain itself follows at once."""

    async def drain(self, patience: float) -> None:
        """Take no new connections, let answers finish."""
        self._plane.settings.draining = True
        for _ in range(_LAST_TURNS):  # who has asked before this, and wasn't read yet, is answered
            await asyncio.sleep(_LAST_CALL / _LAST_TURNS)
        for listener in self._listeners:
            listener.close()
        await self._server.drain(patience)
        self._set_access_log("")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._plane.sight.close()

    def _settings(self, config: NodeConfig) -> Settings:
        """What the plane's answers depend on. Blocks: the node's key and the database of places are read."""
        node, public = config.node, config.public
        return Settings(
            cors_origins=public.cors_origins,
            max_ranges=config.limits.max_ranges,
            max_manifest=config.store.max_manifest,
            mirrors=MirrorSettings(
                node_id=NodeKey.load(self._layout.node_key).id,
                public_url=node.public_url,
                place=Place(None, node.latitude, node.longitude, node.region or None),
                trusted_proxies=public.trusted_proxies,
                database=open_places(public),
                on_miss=public.on_miss,
                redirect=public.redirect,
            ),
        )

    def _set_access_log(self, destination: str) -> None:
        if self._access_log_task is not None:
            self._access_log_task.cancel()
            self._tasks.append(self._access_log_task)
            self._access_log_task = None
        self._plane.report = None
        if destination:
            log = AccessLog(destination)
            self._plane.report = log.report
            self._access_log_task = asyncio.create_task(log.run(), name="access log")

    async def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        self._sends.cut_stalled(now)
        self._sends.cut_withheld()
        self._server.sweep(now)
        self._plane.traffic.look(self._sends.bytes_sent, len(self._server))
        # a blob that was removed has no name any more; nobody new gets it from an open descriptor
        self._plane.cache.drop(await asyncio.to_thread(self._nameless, self._plane.cache.digests()))

    def _nameless(self, digests: list[Digest]) -> list[Digest]:
        named = (self._layout.blob, lambda digest: self._layout.fill(digest) / "data")
        return [digest for digest in digests if not any(path(digest).exists() for path in named)]

    async def _store_check(self) -> Check:
        try:
            found = await asyncio.to_thread(os.stat, self._layout.blobs)
        except OSError as error:
            return Check("store", ok=False, detail=error.strerror or "can't be read")
        return Check("store", ok=stat.S_ISDIR(found.st_mode))

    async def _catalog_check(self) -> Check:
        """An expired catalog is a warning: blobs are served all the same, and clients judge for themselves."""
        expires = await asyncio.to_thread(timestamp_expires, self._layout)
        if expires is None or expires > utc_now():
            return Check("catalog", ok=True, warning=True)
        return Check("catalog", ok=False, detail=f"expired at {expires:%Y-%m-%dT%H:%M:%SZ}", warning=True)

    async def _control_check(self) -> Check:
        """Control being away is a warning: what is complete is served without it."""
        self._clock_skew = None
        try:
            async with asyncio.timeout(_CONTROL_PATIENCE):
                with LocalSocket(self._layout.run) as address:
                    reader, writer = await asyncio.open_unix_connection(address)
                try:
                    # the kernel accepts for a process that is stopped or stuck: only an answer shows that it lives
                    writer.write(b"GET /alive HTTP/1.0\r\n\r\n")
                    answer = await reader.read(_CONTROL_ANSWER)
                    if not answer:
                        raise ConnectionResetError("closed without an answer")
                    while more := await reader.read(_CONTROL_ANSWER):
                        answer += more
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            return Check("control", ok=False, detail=str(error) or "no answer", warning=True)
        self._clock_skew = json.loads(answer.partition(b"\r\n\r\n")[2] or b"{}").get("clock_skew")
        return Check("control", ok=True, warning=True)

    async def _clock_check(self) -> Check:
        """A clock that the fleet doesn't agree with is a warning; control has just told of it."""
        if self._clock_skew is None:
            return Check("clock", ok=True, warning=True)
        detail = f"{-self._clock_skew:+.0f} s off the clocks of the fleet"
        return Check("clock", ok=False, detail=detail, warning=True)


def _last_access(layout: Layout) -> Callable[[Digest], None] | None:
    """Writes down when blobs are asked for; None where there is no room for that."""
    try:
        table = LastAccess(layout.last_access, time.time())
    except (NodeError, OSError) as error:
        _LOG.warning("when blobs are asked for isn't written down: %s", error)
        return None
    return lambda digest: table.touch(digest, time.time())


def _fitting(limits: LimitsSection) -> LimitsSection:
    """The limits, with no more connections than this process has descriptors for: each takes two, blobs the rest."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = max(1, (descriptors - _OTHER_DESCRIPTORS) // 2)
    if descriptors == resource.RLIM_INFINITY or limits.max_connections <= room:
        return limits
    _LOG.info("limits.max_connections: %d descriptors are enough for %d connections", descriptors, room)
    return limits.model_copy(update={"max_connections": room})


def main() -> None:
    """Entry point of a worker process; the supervisor starts it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--listen", type=int, nargs="+", required=True)
    options = parser.parse_args()
    sockets = [socket.socket(fileno=fd) for fd in options.listen]
    run_child(options.name, lambda _: Worker(sockets, options.name), options.channel, options.parent)


if __name__ == "__main__":
    main()
