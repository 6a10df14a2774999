"""`yank`: withdraw releases."""

from __future__ import annotations

import click

from aibrother_tools.app import App, data_option, json_option, pass_app
from aibrother_tools.commands._edit_catalog import REFERENCES, edit
from aibrother_tools.commands._editor import Editor, editing_options


@click.command()
@click.argument("references", nargs=-1, required=True, metavar=REFERENCES)
@click.option("--reason", required=True, help="Why; clients are told with 410.")
@data_option
@editing_options
@json_option
@pass_app
def yank(app: App, editor: Editor, references: tuple[str, ...], reason: str, as_json: bool) -> None:
    """Withdraw releases at once; `unyank` restores them."""
    edit(app, editor, {"do": "yank", "references": list(references), "reason": reason}, "yanked", as_json=as_json)
