"""`init`: a data directory with a key of its own."""

from __future__ import annotations

import click

from aibrother_tools.app import App, data_option, json_option, pass_app, print_json


@click.command()
@data_option
@click.option("--region", default="", help="Where this node stands, as operators call it: eu-central, us-east …")
@click.option("--public-url", default="", help="The URL under which clients reach this node.")
@click.option("--no-catalog", is_flag=True, help="Make no catalog; this version knows no other way.")
@json_option
@pass_app
def init(app: App, region: str, public_url: str, no_catalog: bool, as_json: bool) -> None:
    """Make a data directory: its folders, the node's key, node.toml."""
    if not no_catalog:
        raise click.UsageError("this version makes no catalog yet: say --no-catalog")
    from aibrother_node.errors import InvalidInput
    from aibrother_node.fleet.identity import NodeKey
    from aibrother_node.store.disk import Disk
    from aibrother_node.store.layout import DirectoryLock, Layout

    overrides = {"node.region": region} if region else {}
    if public_url:
        overrides["node.public_url"] = public_url
    config = app.load(overrides).config
    disk = Disk()
    layout = Layout(config.node.data)
    if layout.node_key.exists():
        raise InvalidInput(f"{layout.root} is a node's data directory already; nothing was changed")
    layout.root.mkdir(parents=True, exist_ok=True)
    with DirectoryLock.take(layout.root, 5.0):
        layout.create(disk)
        wrote_toml = not layout.node_toml.exists()
        if wrote_toml:
            from aibrother_node.config import starter_toml

            text = starter_toml(data=".", region=config.node.region, public_url=config.node.public_url)
            disk.write_file(layout.node_toml, text.encode(), aside=layout.incoming / "node.toml.new", mode=0o600)
        key = NodeKey.generate()
        # last: a directory with a key is complete
        key.save(layout.node_key, disk, aside=layout.incoming / "node.key.new")
    if as_json:
        print_json({"node": {"id": key.id, "key": key.public.hex()}, "root": None})
        return
    click.echo(f"node      {key.id}")
    click.echo(f"data      {layout.root}")
    click.echo(f"settings  {layout.node_toml}{'' if wrote_toml else ' (was there)'}")
    click.echo(
        f"There is no catalog, so there are no keys to take offline. {layout.node_key} is the node's own: back it up."
    )
    click.echo(
        f"Next: aibrother-node --data {layout.root} add FILE.gguf, then aibrother-node --data {layout.root} serve"
    )
