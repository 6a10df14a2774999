"""`edit`: change what is said of releases, not their files."""

from __future__ import annotations

from typing import Any

import click

from aibrother_tools.app import App, data_option, json_option, pass_app
from aibrother_tools.commands._edit_catalog import REFERENCES
from aibrother_tools.commands._edit_catalog import edit as edit_releases
from aibrother_tools.commands._editor import Editor, editing_options


@click.command()
@click.argument("references", nargs=-1, required=True, metavar=REFERENCES)
@click.option("--license", "licence", help="An SPDX expression.")
@click.option("--tag", "tags", multiple=True, help="All tags from now on; may be repeated.")
@click.option("--description", help="For people.")
@click.option("--repo", help="Where it comes from, such as org/repo.")
@click.option("--min-memory-bytes", type=click.IntRange(min=1), help="What a machine should have.")
@click.option("--url", "urls", multiple=True, help="All URLs from now on; may be repeated.")
@data_option
@editing_options
@json_option
@pass_app
def edit(
    app: App,
    editor: Editor,
    references: tuple[str, ...],
    licence: str | None,
    tags: tuple[str, ...],
    description: str | None,
    repo: str | None,
    min_memory_bytes: int | None,
    urls: tuple[str, ...],
    as_json: bool,
) -> None:
    """Change licence, tags, description and such; no byte of a model is touched."""
    changes: dict[str, Any] = {
        "license": licence,
        "tags": list(tags) or None,
        "description": description,
        "repo": repo,
        "min_memory_bytes": min_memory_bytes,
        "urls": list(urls) or None,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    if not changes:
        raise click.UsageError("say what to change: --license, --tag, --description …")
    action = {"do": "edit", "references": list(references), "changes": changes}
    edit_releases(app, editor, action, "edited", as_json=as_json)
