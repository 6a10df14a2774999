"""`init`: make a data directory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from aibrother_tools.app import App, data_option, json_option, pass_app, print_json

if TYPE_CHECKING:
    from aibrother_node.config import NodeConfig
    from aibrother_node.fleet.identity import NodeKey
    from aibrother_node.store.disk import Disk
    from aibrother_node.store.layout import Layout


@click.command()
@data_option
@click.option("--region", default="", help="Where the node stands, such as eu-west.")
@click.option("--public-url", default="", help="The URL under which clients reach this node.")
@click.option("--gossip-url", default="", help="The URL under which other nodes reach this node.")
@click.option("--no-catalog", is_flag=True, help="Make no catalog: the node stores and serves blobs by digest.")
@json_option
@pass_app
def init(app: App, region: str, public_url: str, gossip_url: str, no_catalog: bool, as_json: bool) -> None:
    """Make a data directory: its folders, the node's key, node.toml, and a new catalog with its keys."""
    from aibrother_node.errors import InvalidInput
    from aibrother_node.fleet.identity import NodeKey
    from aibrother_node.store.disk import Disk
    from aibrother_node.store.layout import DirectoryLock, Layout

    given = {"node.region": region, "node.public_url": public_url, "node.gossip_url": gossip_url}
    config = app.load({key: value for key, value in given.items() if value}).config
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

            text = starter_toml(
                data=".",
                region=config.node.region,
                public_url=config.node.public_url,
                gossip_url=config.node.gossip_url,
                signer=not no_catalog,
            )
            disk.write_file(layout.node_toml, text.encode(), aside=layout.incoming / "node.toml.new", mode=0o600)
        key = NodeKey.generate()
        if not no_catalog:
            _found(config, layout, disk, key)
        # last: a directory with a key is complete
        key.save(layout.node_key, disk, aside=layout.incoming / "node.key.new")
    root = layout.trust / "root.json"
    if as_json:
        document = None if no_catalog else json.loads(root.read_bytes())
        print_json({"node": {"id": key.id, "key": key.public.hex()}, "root": document})
        return
    click.echo(f"node      {key.id}")
    click.echo(f"data      {layout.root}")
    click.echo(f"settings  {layout.node_toml}{'' if wrote_toml else ' (was there)'}")
    if no_catalog:
        click.echo(f"There is no catalog. {layout.node_key} is the node's own key: back it up.")
        click.echo(
            f"Next: aibrother-node --data {layout.root} add FILE.gguf, then aibrother-node --data {layout.root} serve"
        )
        return
    click.echo(f"root      {root}: clients are given this file once, and trust nothing else")
    click.echo(
        "The keys of root and targets belong offline: `aibrother-node keys move-offline DIR` moves them to another "
        "medium. Back all of them up first: `aibrother-node backup FILE`."
    )
    click.echo(
        f"Next: aibrother-node --data {layout.root} publish FILE.gguf, then aibrother-node --data {layout.root} serve"
    )


def _found(config: NodeConfig, layout: Layout, disk: Disk, key: NodeKey) -> None:
    from aibrother_node.catalog.desk import utc_now
    from aibrother_node.catalog.entries import FleetNode
    from aibrother_node.catalog.founding import found_catalog
    from aibrother_tools.catalog_client import signing

    node = FleetNode(
        id=key.id,
        key=key.public.hex(),
        region=config.node.region or None,
        url=config.node.public_url or None,
        gossip_url=config.node.gossip_url or None,
        latitude=config.node.latitude,
        longitude=config.node.longitude,
    )
    found_catalog(layout, disk, signing(config), node, utc_now())
