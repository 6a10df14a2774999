"""`serve`: what happens before the supervisor runs."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from typing import TYPE_CHECKING, Final

from aibrother_node.errors import Temporary
from aibrother_node.fleet.identity import NodeKey
from aibrother_node.store.disk import Disk
from aibrother_node.store.draining import restore
from aibrother_node.store.layout import DirectoryLock, Layout
from aibrother_node.traffic import forget_counts
from aibrother_tools.serve.logs import set_up_logging
from aibrother_tools.serve.notify import Notifier
from aibrother_tools.serve.places import check_places
from aibrother_tools.serve.planes import listen
from aibrother_tools.serve.supervisor import Supervisor
from aibrother_tools.serve.tls import make_context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aibrother_node.config import NodeConfig

_LOG: Final = logging.getLogger(__name__)
_LOCK_PATIENCE: Final = 10.0


def serve(
    config: NodeConfig,
    *,
    origins: Mapping[str, str],
    reload: Callable[[], NodeConfig],
    say: Callable[[str], None],
    as_json: bool,
) -> int:
    """Run a node until a signal ends it.

    Args:
        config: the checked configuration.
        origins: for each key that somebody set, who.
        reload: reads the configuration again, and brings `origins` up to date.
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
        forget_counts(layout.metrics, Disk())
        if restore(layout):
            _LOG.warning("this node is drained: it serves no content until `undrain`")
        listening = listen(config, origins, layout, os.environ)
        urls = listening.urls(config)

        def announce() -> None:
            if as_json:
                say(json.dumps({"event": "ready", "node": node_id, "pid": os.getpid(), "urls": urls}))
            else:
                say(f"ready: {' '.join(urls['public'])} (node {node_id[:12]}, {config.public.workers} workers)")

        async def run() -> int:
            return await Supervisor(
                config,
                origins=origins,
                reload=reload,
                lock=lock,
                listening=listening,
                notifier=Notifier(os.environ),
                announce=announce,
            ).run()

        return asyncio.run(run())
