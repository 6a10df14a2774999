"""How commands change a data directory, whether a node runs on it or not.

`LocalNode` asks a running node's control process over `run/control.sock`; `with_store` takes the directory's lock and
opens the store itself. `change` picks whichever applies, and waits a little where neither does: a node that is just
starting has the lock and no socket yet.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aibrother_node.errors import InvalidInput, Temporary
from aibrother_node.store.layout import DirectoryLock, Layout
from aibrother_node.web.control.local_socket import LocalSocket
from aibrother_node.web.errors import error_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aibrother_node.config import NodeConfig
    from aibrother_node.store.blobs import BlobStore

PATIENCE: Final = 30.0
"""Seconds to wait for a node that is starting, or for another command, to make way."""
_ANSWER_CEILING: Final = 16 << 20
_Result = TypeVar("_Result")


class Unreachable(Temporary):
    """No node answers on this data directory."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, layout: Layout, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._layout = layout

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(5.0)
            with LocalSocket(self._layout.run) as address:
                sock.connect(address)
            sock.settimeout(self.timeout)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


def open_local(layout: Layout, timeout: float | None) -> http.client.HTTPConnection:
    """A connection to the node that runs on a data directory, made when it is first used.

    Args:
        layout: the directory.
        timeout: seconds for each wait for bytes; None for none.
    """
    return _Connection(layout, timeout)


class LocalNode:
    """The running node on a data directory.

    Args:
        layout: the directory.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def ask(self, method: str, path: str, body: object = None, *, timeout: float | None = 30.0) -> Any:
        """Ask, and read the JSON answer.

        Args:
            method, path: of the local plane.
            body: JSON to send.
            timeout: seconds without a byte; None waits as long as control lives.

        Raises:
            Unreachable: no node answers, or it ended before it had answered.
            NodeError: what the node says is wrong.
        """
        connection = _Connection(self._layout, timeout)
        try:
            connection.request(
                method,
                path,
                None if body is None else json.dumps(body),
                {"Content-Type": "application/json"} if body is not None else {},
            )
            response = connection.getresponse()
            data = response.read(_ANSWER_CEILING)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"no node answers on {self._layout.root}: {error}") from error
        finally:
            connection.close()
        try:
            answer = json.loads(data) if data else None
        except ValueError as error:
            raise InvalidInput(f"the node answered {method} {path} with something else than JSON") from error
        if response.status >= 300:
            detail = answer.get("detail") if isinstance(answer, dict) else None
            raise error_of(response.status)(detail or f"the node answered {response.status}")
        return answer


@contextmanager
def with_store(config: NodeConfig, lock: DirectoryLock) -> Iterator[BlobStore]:
    """Open the store of a stopped node."""
    from aibrother_node.store.blobs import BlobStore

    store = BlobStore.open(
        Layout(config.node.data),
        lock,
        manifest_ceiling=config.store.max_manifest,
    )
    try:
        yield store
    finally:
        store.close()


def change(
    config: NodeConfig, offline: Callable[[BlobStore], _Result], online: Callable[[LocalNode], _Result]
) -> _Result:
    """Change a data directory: by `offline` where no node runs on it, by `online` where one does.

    `online` may be called again when the node ends in the middle, so it must be something that can be asked twice.

    Raises:
        Temporary: the directory stays in use and no node answers.
    """
    layout = Layout(config.node.data)
    layout.check_version()
    deadline = time.monotonic() + PATIENCE
    while True:
        lock = DirectoryLock.try_take(layout.root)
        if lock is not None:
            with lock, with_store(config, lock) as store:
                return offline(store)
        try:
            return online(LocalNode(layout))
        except Unreachable:
            if time.monotonic() >= deadline:
                raise Temporary(f"{layout.root} is in use by another process, and no node answers there") from None
        time.sleep(0.1)
