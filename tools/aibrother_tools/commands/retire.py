"""`retire`: let old versions go."""

from __future__ import annotations

import click

from aibrother_tools.app import App, data_option, json_option, pass_app
from aibrother_tools.commands._edit_catalog import edit


@click.command()
@click.argument("name")
@click.option("--keep", type=click.IntRange(min=1), default=1, show_default=True, help="Versions of each variant.")
@data_option
@json_option
@pass_app
def retire(app: App, name: str, keep: int, as_json: bool) -> None:
    """Let all but the newest versions of a model go; their numbers are never used again."""
    edit(app, {"do": "retire", "name": name, "keep": keep}, "retired", as_json=as_json)
