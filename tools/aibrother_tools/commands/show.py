"""`show`: what the verified catalog says of releases."""

from __future__ import annotations

import json

import click

from aibrother_tools.app import App, data_option, json_option, pass_app, print_json
from aibrother_tools.commands._edit_catalog import REFERENCES


@click.command()
@click.argument("references", nargs=-1, required=True, metavar=REFERENCES)
@data_option
@json_option
@pass_app
def show(app: App, references: tuple[str, ...], as_json: bool) -> None:
    """Show the entries of releases: the newest, or the version named."""
    from aibrother_node.catalog.names import parse_reference
    from aibrother_node.catalog.reading import find
    from aibrother_tools.catalog_client import open_catalog

    repository = open_catalog(app.load().config)
    entries = [entry for text in references for entry in find(repository, parse_reference(text))]
    if as_json:
        print_json([entry.to_json() for entry in entries])
        return
    for entry in entries:
        click.echo(json.dumps(entry.to_json(), ensure_ascii=False, indent=2))
