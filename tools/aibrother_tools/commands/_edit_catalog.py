"""What the commands have in common that edit releases which are in the catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aibrother_tools.app import App, print_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aibrother_tools.commands._editor import Editor

REFERENCES = "NAME[:VARIANT][@VERSION]..."


def edit(app: App, editor: Editor, action: Mapping[str, Any], done: str, *, as_json: bool) -> None:
    """Carry out an edit and tell what came of it.

    Args:
        app: the command's.
        editor: how it edits.
        action: for the desk.
        done: what has been done to each release, for people.
        as_json: tell it as JSON.
    """
    answer = editor.edit(app, action)
    if as_json:
        targets = [{"name": name, "state": state} for name, state in answer["targets"].items()]
        print_json({"entries": answer["entries"], "targets": targets})
        return
    if not answer["versions"]:
        click.echo("nothing to do: the catalog says so already")
    for entry in answer["entries"]:
        click.echo(f"{done} {entry['name']}:{entry['variant']}@{entry['version']}")
