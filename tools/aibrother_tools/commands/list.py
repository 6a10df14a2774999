"""`list`: the verified catalog."""

from __future__ import annotations

import click

from aibrother_tools.app import App, data_option, human_bytes, json_option, pass_app, print_json


@click.command(name="list")
@click.option("--channel", type=click.Choice(["stable", "staging"]), default="stable", show_default=True)
@click.option("--all-versions", is_flag=True, help="Older versions too.")
@data_option
@json_option
@pass_app
def list_(app: App, channel: str, all_versions: bool, as_json: bool) -> None:
    """List the releases of a channel."""
    from aibrother_node.catalog.reading import STABLE, STAGING, catalog, releases
    from aibrother_tools.catalog_client import open_catalog

    repository = open_catalog(app.load().config)
    document = catalog(repository, STABLE if channel == "stable" else STAGING)
    entries = list(document.models)
    if all_versions and channel == "stable":
        withdrawn = {stone.key for stone in document.yanked}
        names = dict.fromkeys(entry.name for entry in entries)
        found = [releases(repository, name) for name in names]
        entries = [
            entry for one in found if one is not None for entry in reversed(one.releases) if entry.key not in withdrawn
        ]
    if as_json:
        print_json({"channel": channel, "models": [entry.to_json() for entry in entries]})
        return
    for entry in entries:
        click.echo(
            f"{entry.name}:{entry.variant}@{entry.version}  {human_bytes(entry.size_bytes)}  {entry.license}"
            f"  {entry.filename}"
        )
