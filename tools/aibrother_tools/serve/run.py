"""`serve`: what happens before the supervisor runs."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Final

from aibrother_node.errors import Temporary
from aibrother_node.fleet.identity import NodeKey
from aibrother_node.store.layout import DirectoryLock, Layout
from aibrother_tools.serve.logs import set_up_logging
from aibrother_tools.serve.notify import Notifier
from aibrother_tools.serve.places import check_places
from aibrother_tools.serve.sockets import bind_all, passed_by_parent, reachable_url
from aibrother_tools.serve.supervisor import Supervisor
from aibrother_tools.serve.tls import make_context

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from aibrother_node.config import NodeConfig

_LOCK_PATIENCE: Final = 10.0


def serve(config: NodeConfig, *, reload: Callable[[], NodeConfig], say: Callable[[str], None], as_json: bool) -> int:
    """Run a node until a signal ends it.

    Args:
        config: the checked configuration.
        reload: reads the configuration again.
        say: prints a line on stdout.
        as_json: the ready line as a JSON object.

    Returns:
        The exit code.

    Raises:
        NotFound: there is no data directory, or no key in it.
        Temporary: another process is using the directory.
        ConfigurationError: the certificate or the database of places can't be used.
        BindError: an address can't be listened on.
    """
    set_up_logging(config.log, "supervisor")
    layout = Layout(config.node.data)
    layout.check_version()
    node_id = NodeKey.load(layout.node_key).id
    make_context(config.public)
    check_places(config.public)
    try:
        lock = DirectoryLock.take(layout.root, _LOCK_PATIENCE)
    except Temporary:
        raise Temporary(
            f"{layout.root} is in use: a node is running on it already, or a command is changing it"
        ) from None
    with lock:
        public = config.public
        sockets = passed_by_parent(os.environ, public.workers, public.congestion_control) or bind_all(
            public.host, public.port, public.workers, public.congestion_control
        )
        urls = _urls(sockets, "https" if public.tls_certificate else "http")

        def announce() -> None:
            if as_json:
                say(json.dumps({"event": "ready", "node": node_id, "pid": os.getpid(), "urls": {"public": urls}}))
            else:
                say(f"ready: {' '.join(urls)} (node {node_id[:12]}, {public.workers} workers)")

        async def run() -> int:
            return await Supervisor(
                config, reload=reload, lock=lock, sockets=sockets, notifier=Notifier(os.environ), announce=announce
            ).run()

        return asyncio.run(run())


def _urls(sockets: list[list[socket.socket]], scheme: str) -> list[str]:
    # IPv4 first: it is what works from the most programs when copied by hand
    return sorted({reachable_url(sock, scheme) for mine in sockets for sock in mine}, key=lambda url: ("[" in url, url))
