"""Which node a command asks: this machine's over `run/control.sock`, or a remote one with `--to`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aibrother_node.store.layout import Layout
from aibrother_tools.admin_node import ADMIN, AdminNode
from aibrother_tools.local_client import Unreachable, open_local
from aibrother_tools.remote_client import remote_admin

if TYPE_CHECKING:
    import http.client

    from aibrother_node.errors import NodeError
    from aibrother_tools.app import App
    from aibrother_tools.remote import Remote


class _Local:
    """Over `run/control.sock`: as caller `local`, who may everything."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def connect(self, timeout: float | None) -> http.client.HTTPConnection:
        return open_local(self._layout, timeout)

    def target(self, path: str) -> str:
        return f"{ADMIN}{path}"

    def fields(self) -> dict[str, str]:
        return {}

    def unreachable(self, error: Exception) -> NodeError:
        return Unreachable(f"no node answers on {self._layout.root}: {error}")


def local_admin(layout: Layout) -> AdminNode:
    """The admin API of the node that runs on a data directory; `Unreachable` is raised where none does."""
    return AdminNode(_Local(layout))


def admin_of(app: App, remote: Remote | None) -> AdminNode:
    """The admin API of the node that a command is for: the remote one, or the one on this data directory.

    Raises:
        NotFound: there is no data directory.
    """
    if remote is not None:
        return remote_admin(remote)
    layout = Layout(app.load().config.node.data)
    layout.check_version()
    return local_admin(layout)
