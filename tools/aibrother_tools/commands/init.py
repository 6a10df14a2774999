"""`init`: make a data directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from aibrother_tools.app import App, data_option, json_option, pass_app, print_json, warn

if TYPE_CHECKING:
    from aibrother_node.catalog.entries import FleetNode
    from aibrother_node.config import NodeConfig
    from aibrother_node.fleet.identity import NodeKey
    from aibrother_node.store.disk import Disk
    from aibrother_node.store.layout import Layout

_UNFINISHED: Final = "node.key.unfinished"
_PATIENCE: Final = 300.0  # seconds for the whole catalog


@click.command()
@data_option
@click.option("--region", default="", help="Where the node stands, such as eu-west.")
@click.option("--public-url", default="", help="The URL under which clients reach this node.")
@click.option("--gossip-url", default="", help="The URL under which other nodes reach this node.")
@click.option("--no-catalog", is_flag=True, help="Make no catalog: the node stores and serves blobs by digest.")
@click.option("--join", default="", metavar="PUBLIC_URL", help="Follow the catalog of this node; with --root.")
@click.option(
    "--root",
    "root_file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="ROOT.json",
    help="The root that the catalog is verified from.",
)
@json_option
@pass_app
def init(
    app: App,
    region: str,
    public_url: str,
    gossip_url: str,
    no_catalog: bool,
    join: str,
    root_file: Path | None,
    as_json: bool,
) -> None:
    """Make a data directory: its folders, the node's key, node.toml, and a new catalog with its keys.

    With --join it follows a catalog that is there already, instead of making one.
    """
    from aibrother_node.fleet.admission import save_record
    from aibrother_node.store.disk import Disk
    from aibrother_node.store.layout import DirectoryLock, Layout

    joining = _joining(join, root_file, no_catalog=no_catalog)
    given = {"node.region": region, "node.public_url": public_url, "node.gossip_url": gossip_url}
    config = app.load({key: value for key, value in given.items() if value}).config
    disk = Disk()
    layout = Layout(config.node.data)
    _refuse_a_second(layout)
    layout.root.mkdir(parents=True, exist_ok=True)
    with DirectoryLock.take(layout.root, 5.0):
        _refuse_a_second(layout)
        layout.create(disk)
        key = _key(layout, disk)
        node = _node(config, key)
        if joining is not None:
            _join(layout, disk, *joining)
        wrote_toml = not layout.node_toml.exists()
        if wrote_toml:
            from aibrother_node.config import starter_toml

            text = starter_toml(
                data=".",
                region=config.node.region,
                public_url=config.node.public_url,
                gossip_url=config.node.gossip_url,
                signer=not (no_catalog or joining),
                seeds=[joining[0]] if joining else [],
            )
            disk.write_file(layout.node_toml, text.encode(), aside=layout.incoming / "node.toml.new", mode=0o600)
        if not (no_catalog or joining):
            from aibrother_node.catalog.desk import utc_now
            from aibrother_node.catalog.founding import found_catalog
            from aibrother_tools.catalog_client import signing

            found_catalog(layout, disk, signing(config), node, utc_now())
        save_record(layout.record, node, key, disk, aside=layout.incoming / "record.json.new")
        # last: a directory with a key is complete
        disk.rename(layout.incoming / _UNFINISHED, layout.node_key)
        disk.sync_folder(layout.root)
        disk.sync_folder(layout.incoming)
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
    if joining is not None:
        if not (wrote_toml or joining[0] in config.fleet.seeds):
            warn(
                f'{layout.node_toml} was there and is as it was: it should have seeds = ["{joining[0]}"] under [fleet]'
            )
        click.echo(f"record    {layout.record}")
        click.echo(f"{joining[0]} and its catalog are followed; {layout.node_key} is the node's own key: back it up.")
        click.echo(
            "Next: take record.json to a machine with the keys of the fleet role and run `aibrother-node fleet admit"
            f" record.json` there; here, run aibrother-node --data {layout.root} serve"
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


def _refuse_a_second(layout: Layout) -> None:
    from aibrother_node.errors import InvalidInput

    if layout.node_key.exists():
        raise InvalidInput(f"{layout.root} is a node's data directory already; nothing was changed")


def _key(layout: Layout, disk: Disk) -> NodeKey:
    """The node's key, as an interrupted `init` left it, since the catalog may name it already; else a new one."""
    from aibrother_node.errors import NotFound
    from aibrother_node.fleet.identity import NodeKey

    path = layout.incoming / _UNFINISHED
    try:
        return NodeKey.load(path)
    except NotFound:
        key = NodeKey.generate()
        key.save(path, disk, aside=layout.incoming / "node.key.new")
        return key


def _joining(url: str, root_file: Path | None, *, no_catalog: bool) -> tuple[str, bytes] | None:
    """Check what `--join` and `--root` say; returns the URL and the root's bytes."""
    from aibrother_node.catalog.roles import ceiling
    from aibrother_node.config.values import check_url

    if not url and root_file is None:
        return None
    if not url or root_file is None:
        raise click.UsageError("--join and --root come together: the root is what the catalog is verified from")
    if no_catalog:
        raise click.UsageError("--join follows a catalog, --no-catalog has none")
    try:
        url = check_url(url)
    except ValueError as error:
        raise click.UsageError(f"--join {error}") from error
    with root_file.open("rb") as file:
        return url, file.read(ceiling("root") + 1)


def _join(layout: Layout, disk: Disk, url: str, root: bytes) -> None:
    """Follow the catalog from a URL for the first time.

    Nothing that is left behind by a failure keeps a second `init` from anything: only what was verified is.

    Raises:
        TrustError: what is there must not be believed; nothing was kept.
        NotFound: no catalog is there.
        Temporary: it can't be reached.
    """
    from aibrother_node.catalog.desk import utc_now
    from aibrother_node.catalog.following import Follower
    from aibrother_replicator.naming import fetcher

    follower = Follower(layout, disk, root)
    with fetcher(url, patience=_PATIENCE) as fetch:
        followed = follower.refresh([(url, fetch)], utc_now())
    for error in (*followed.refused.values(), followed.incomplete):
        if error is not None:
            raise error
    disk.write_file(layout.trust / "root.json", root, aside=layout.incoming / "root.json.new")


def _node(config: NodeConfig, key: NodeKey) -> FleetNode:
    from aibrother_node.catalog.entries import FleetNode

    return FleetNode(
        id=key.id,
        key=key.public.hex(),
        region=config.node.region or None,
        url=config.node.public_url or None,
        gossip_url=config.node.gossip_url or None,
        latitude=config.node.latitude,
        longitude=config.node.longitude,
    )
