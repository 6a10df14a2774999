"""`retire`: let old versions go."""

from __future__ import annotations

import click

from aibrother_tools.app import App, data_option, json_option, pass_app
from aibrother_tools.commands._edit_catalog import REFERENCES, edit
from aibrother_tools.commands._editor import Editor, editing_options


@click.command()
@click.argument("references", nargs=-1, required=True, metavar=REFERENCES)
@click.option("--keep", type=click.IntRange(min=1), default=1, show_default=True, help="Versions of each variant.")
@data_option
@editing_options
@json_option
@pass_app
def retire(app: App, editor: Editor, references: tuple[str, ...], keep: int, as_json: bool) -> None:
    """Let all but the newest versions of models go, or the one named; their numbers are never used again."""
    edit(app, editor, {"do": "retire", "references": list(references), "keep": keep}, "retired", as_json=as_json)
