"""`promote`: staging → stable."""

from __future__ import annotations

import click

from aibrother_tools.app import App, data_option, json_option, pass_app
from aibrother_tools.commands._edit_catalog import REFERENCES, edit
from aibrother_tools.commands._editor import Editor, editing_options


@click.command()
@click.argument("references", nargs=-1, required=True, metavar=REFERENCES)
@data_option
@editing_options
@json_option
@pass_app
def promote(app: App, editor: Editor, references: tuple[str, ...], as_json: bool) -> None:
    """Move staged releases to stable: the same files, checked again, signed with the models key."""
    edit(app, editor, {"do": "promote", "references": list(references)}, "promoted", as_json=as_json)
