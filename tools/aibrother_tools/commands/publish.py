"""`publish`: put releases into the catalog."""

from __future__ import annotations

import random
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aibrother_tools.app import App, byte_progress, data_option, human_bytes, json_option, pass_app, print_json, warn
from aibrother_tools.commands._editor import Editor, editing_options

if TYPE_CHECKING:
    from aibrother_node.config import NodeConfig
    from aibrother_tools.admin_node import AdminNode
    from aibrother_tools.publishing.drafts import Draft
    from aibrother_tools.publishing.remote_desk import RemoteDesk


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...|DIR|PLAN.toml")
@click.option("--name", help="The model's name; by default what the GGUF says.")
@click.option("--version", help="By default today's date, such as 2026.11.1.")
@click.option("--variant", help="By default the quantization, in lower case.")
@click.option("--license", "licence", help="An SPDX expression.")
@click.option("--tag", "tags", multiple=True, help="May be repeated.")
@click.option("--description", help="For people.")
@click.option("--repo", help="Where it comes from, such as org/repo.")
@click.option("--url", "urls", multiple=True, help="Where else the first part may be had; may be repeated.")
@click.option("--projector", help="A multimodal projector that goes with it.", metavar="FILE")
@click.option("--channel", type=click.Choice(["stable", "staging"]), default="stable", show_default=True)
@click.option("--dry-run", is_flag=True, help="Check everything, store and sign nothing.")
@data_option
@editing_options
@json_option
@pass_app
def publish(
    app: App,
    editor: Editor,
    paths: tuple[Path, ...],
    name: str | None,
    version: str | None,
    variant: str | None,
    licence: str | None,
    tags: tuple[str, ...],
    description: str | None,
    repo: str | None,
    urls: tuple[str, ...],
    projector: str | None,
    channel: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Check, store and sign releases: all of them or none.

    Several files of one name are a shard set. A folder publishes every GGUF file in it; a plan says more of each.
    """
    from pydantic import ValidationError

    from aibrother_node.catalog.desk import utc_now
    from aibrother_tools.publishing.drafts import drafts
    from aibrother_tools.publishing.sources import Fields, sources

    given = {
        "name": name,
        "version": version,
        "variant": variant,
        "license": licence,
        "tags": list(tags) or None,
        "description": description,
        "repo": repo,
        "urls": list(urls) or None,
        "projector": projector,
    }
    try:
        fields = Fields.model_validate(given)
    except ValidationError as error:
        raise click.UsageError(str(error.errors()[0]["msg"])) from error
    config = app.load().config
    found = drafts(sources(paths, fields), utc_now())
    for draft in found:
        for warning in draft.warnings:
            warn(warning)
    if dry_run:
        _tell([_planned(draft, channel) for draft in found], [], as_json=as_json)
        return
    if editor.remote is None:
        entries, answer = _publish_here(config, found, channel, show=not as_json)
    else:
        with editor.desk(config) as (desk, node):
            entries, answer = _publish_there(desk, node, found, channel, show=not as_json)
    changed = answer["targets"]
    targets = [
        {"name": target, "state": changed.get(target, "same"), "bytes": part["size_bytes"]}
        for entry in entries
        for part in [*entry["parts"], *([entry["projector"]] if entry["projector"] else [])]
        for target in [f"{'models' if channel == 'stable' else 'staging'}/{part['filename']}"]
    ]
    _tell(answer["entries"] or entries, targets, as_json=as_json)


def _publish_here(
    config: NodeConfig, found: list[Draft], channel: str, *, show: bool
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Store the files in this machine's data directory, and sign there; returns the entries, and what came of it."""
    from aibrother_tools.catalog_client import edit_catalog, refuse_to_follow

    refuse_to_follow(config)  # before anything is stored
    holder = f"publish {secrets.token_hex(8)}"
    entries = [_store(config, draft, holder, show=show) for draft in found]
    return entries, edit_catalog(config, {"do": "publish", "channel": channel, "entries": entries, "lease": holder})


def _publish_there(
    desk: RemoteDesk, node: AdminNode, found: list[Draft], channel: str, *, show: bool
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Upload the files to the node that signs, and sign here; returns as `_publish_here`."""
    from aibrother_node.catalog.desk import utc_now
    from aibrother_tools.publishing.entry import entry_of
    from aibrother_tools.publishing.uploading import LocalFile, Uploader

    uploader = Uploader(node, random.Random())  # noqa: S311 - jitter
    files: list[LocalFile] = []
    entries = []
    for draft in found:
        of_draft = []
        for path in _paths(draft):
            with byte_progress(f"reading {path.name}", path.stat().st_size, show=show) as progress:
                of_draft.append(LocalFile.read(path, progress))
        entries.append(entry_of(draft, [file.stored() for file in of_draft], utc_now()).to_json())
        files += of_draft
    action = {"do": "publish", "channel": channel, "entries": entries}
    desk.check(action)  # before anything is sent
    for file in files:
        with file, byte_progress(f"sending {file.path.name}", file.size, show=show) as progress:
            uploader.upload(file, progress)
    return entries, desk.run(action, patient=True).to_json()


def _paths(draft: Draft) -> list[Path]:
    return [*draft.files, *((draft.projector,) if draft.projector else ())]


def _store(config: NodeConfig, draft: Draft, holder: str, *, show: bool) -> dict[str, Any]:
    """Store a draft's files under a lease; returns its entry as JSON."""
    from aibrother_node.catalog.desk import utc_now
    from aibrother_node.store.incoming import Options
    from aibrother_node.store.layout import Layout
    from aibrother_tools.publishing.entry import entry_of
    from aibrother_tools.storing import store_file, total_bytes

    layout = Layout(config.node.data)
    layout.check_version()
    reserve = config.store.reserve_on(total_bytes(layout))
    options = Options(how="copy", pin=None, reserve=reserve, pieces=True, lease=holder, max_size=config.store.max_size)
    stored = []
    for path in _paths(draft):
        with byte_progress(path.name, path.stat().st_size, show=show) as progress:
            stored.append(store_file(config, layout, path, options, progress))
    return entry_of(draft, stored, utc_now()).to_json()


def _planned(draft: Draft, channel: str) -> dict[str, Any]:
    return {
        "name": draft.name,
        "version": draft.version,
        "variant": draft.variant,
        "channel": channel,
        "license": draft.fields.license,
        "files": [str(file) for file in draft.files],
        "size_bytes": sum(file.stat().st_size for file in draft.files),
        "gguf": draft.gguf.to_json(),
    }


def _tell(entries: list[dict[str, Any]], targets: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json({"entries": entries, "targets": targets})
        return
    for entry in entries:
        click.echo(
            f"{entry['name']}:{entry['variant']}@{entry['version']}  {human_bytes(entry['size_bytes'])}"
            f"  {entry['license']}"
        )
    for target in targets:
        click.echo(f"  {target['state']:8} {target['name']}")
