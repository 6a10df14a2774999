"""`restore`: make a data directory from a backup."""

from __future__ import annotations

from pathlib import Path

import click

from aibrother_tools.app import App, data_option, json_option, pass_app, print_json


@click.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
@data_option
@json_option
@pass_app
def restore(app: App, path: Path, as_json: bool) -> None:
    """Make the data directory from the backup FILE: the same node, whose catalog goes on.

    Blobs are not in a backup. If this node has signed since, the backup is older than what clients have seen, and they
    refuse it: `keys rotate snapshot` and `keys rotate timestamp` let them forget that.
    """
    from aibrother_node.errors import NotFound
    from aibrother_node.fleet.identity import NodeKey
    from aibrother_node.store.backup import restore as read
    from aibrother_node.store.disk import Disk
    from aibrother_node.store.layout import DirectoryLock, Layout

    layout = Layout(app.load().config.node.data)
    if not path.is_file():
        raise NotFound(f"no such file: {path}")
    layout.root.mkdir(parents=True, exist_ok=True)
    with DirectoryLock.take(layout.root, 5.0):
        count = read(layout, path, Disk())
    node = NodeKey.load(layout.node_key).id
    if as_json:
        print_json({"node": {"id": node}, "files": count})
    else:
        click.echo(f"node {node}: {count} files restored to {layout.root}; its blobs have to be fetched again")
