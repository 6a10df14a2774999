"""`backup`: save what can't be fetched again."""

from __future__ import annotations

from pathlib import Path

import click

from aibrother_tools.app import App, data_option, json_option, pass_app, print_json


@click.command()
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE")
@data_option
@json_option
@pass_app
def backup(app: App, path: Path, as_json: bool) -> None:
    """Write keys, configuration, trust, the signed catalog, pins, tokens and jobs to FILE; never blobs.

    FILE holds private keys: keep it where you would keep those.
    """
    from aibrother_node.store.backup import backup as write
    from aibrother_node.store.layout import Layout

    layout = Layout(app.load().config.node.data)
    layout.check_version()
    count = write(layout, path)
    if as_json:
        print_json({"path": str(path), "files": count})
    else:
        click.echo(f"{count} files in {path}; it holds private keys")
