"""Where a command edits the catalog: on this machine's data directory, or from afar with `--to`.

`editing_options` adds `--to CONTROL_URL --token-file F --keys-dir DIR --root ROOT.json` to a command, which gets an
`Editor` as `editor`. A publisher's machine needs no data directory, only its role's key and a token.
"""

from __future__ import annotations

import functools
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aibrother_tools.app import warn
from aibrother_tools.commands._trust import read_root, state_folder
from aibrother_tools.remote import remote_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from aibrother_node.catalog.repository import Repository
    from aibrother_node.config import NodeConfig
    from aibrother_tools.admin_node import AdminNode
    from aibrother_tools.app import App
    from aibrother_tools.publishing.remote_desk import RemoteDesk
    from aibrother_tools.remote import Remote


def editing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command gets an `Editor` as `editor`."""

    @remote_options
    @click.option(
        "--keys-dir",
        type=click.Path(path_type=Path, file_okay=False, exists=True, resolve_path=True),
        metavar="DIR",
        help="Where the keys to sign with are; with --to. By default catalog.keys_dir.",
    )
    @click.option(
        "--root",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        metavar="ROOT.json",
        help="The root that is trusted; with --to. By default catalog.root, else the one that was met first.",
    )
    @functools.wraps(command)
    def wrapped(*args: Any, remote: Remote | None, keys_dir: Path | None, root: Path | None, **kwargs: Any) -> Any:
        if remote is None and (keys_dir or root):
            raise click.UsageError("--keys-dir and --root are for editing from afar: with --to")
        return command(*args, editor=Editor(remote, keys_dir, root), **kwargs)

    return wrapped


@dataclass(frozen=True, slots=True)
class Editor:
    """How a command edits the catalog.

    Attributes:
        remote: the node elsewhere; None for this machine's data directory.
        keys: the folder of keys that was named.
        root: the root's file that was named.
    """

    remote: Remote | None
    keys: Path | None = None
    root: Path | None = None

    def edit(self, app: App, action: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out an edit.

        Returns:
            `{entries, targets, versions}`, and `fleet` of an edit of the fleet, as `Done.to_json`.

        Raises:
            NodeError: what is wrong.
        """
        if self.remote is None:
            from aibrother_tools.catalog_client import edit_catalog

            return edit_catalog(app.load().config, action)
        with self.desk(app.load().config) as (desk, _):
            return desk.run(action).to_json()

    @contextmanager
    def catalog(self, app: App) -> Iterator[Repository]:
        """The catalog as it is now, verified; for reading."""
        if self.remote is None:
            from aibrother_tools.catalog_client import open_catalog

            yield open_catalog(app.load().config)
            return
        with self.desk(app.load().config) as (desk, _):
            yield desk.repository()

    @contextmanager
    def desk(self, config: NodeConfig) -> Iterator[tuple[RemoteDesk, AdminNode]]:
        """The desk from which the catalog of the node elsewhere is edited, and that node."""
        import random

        from aibrother_tools.admin_node import AdminNode
        from aibrother_tools.catalog_client import signing
        from aibrother_tools.publishing.catalog_copy import CatalogCopy
        from aibrother_tools.publishing.remote_desk import RemoteDesk
        from aibrother_tools.remote_client import RemoteNode

        assert self.remote is not None
        settings = signing(config)
        if self.keys is not None:
            settings = replace(settings, keys=self.keys)
        root = self.root or config.catalog.root
        place = RemoteNode(self.remote)
        node = AdminNode(place)
        rng = random.Random()  # noqa: S311 - jitter
        with ExitStack() as stack:
            copy = CatalogCopy.open(
                place, self.remote.url, state_folder(), None if root is None else read_root(root), warn
            )
            stack.enter_context(copy)
            yield RemoteDesk(node, copy, settings, rng, warn), node
