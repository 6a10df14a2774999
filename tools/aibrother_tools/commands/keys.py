"""`keys`: the catalog's keys."""

from __future__ import annotations

from pathlib import Path

import click

from aibrother_tools.app import App, data_option, json_option, pass_app, print_json
from aibrother_tools.commands._editor import Editor, editing_options


@click.group()
def keys() -> None:
    """The catalog's keys: which there are, where, and how to replace them."""


@keys.command(name="list")
@data_option
@json_option
@pass_app
def list_keys(app: App, as_json: bool) -> None:
    """List the keys of every role, and where their private halves are."""
    from aibrother_node.catalog.keys import KeyRing
    from aibrother_node.store.disk import Disk
    from aibrother_tools.catalog_client import signing

    settings = signing(app.load().config)
    found = KeyRing.load(settings.keys, Disk(), passphrase=settings.passphrase).listed()
    if as_json:
        print_json([{"role": key.role, "keyid": key.keyid, "where": key.where} for key in found])
        return
    for key in found:
        click.echo(f"{key.role:10} {key.keyid[:16]}  {key.where}")


_beside = click.option(
    "--beside",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False, exists=True, resolve_path=True),
    metavar="DIR",
    help="Where keys were moved offline to; may be repeated.",
)


@keys.command()
@click.argument("role")
@_beside
@click.option("--keys", "count", type=click.IntRange(1, 16), help="How many it gets; by default as many as it had.")
@click.option("--threshold", type=click.IntRange(1, 16), help="How many must sign; by default as many as before.")
@click.option("--lost", is_flag=True, help="Go on though the role's old keys aren't anywhere.")
@data_option
@editing_options
@json_option
@pass_app
def rotate(
    app: App,
    editor: Editor,
    role: str,
    beside: tuple[Path, ...],
    count: int | None,
    threshold: int | None,
    lost: bool,
    as_json: bool,
) -> None:
    """Replace a role's keys with new ones; clients follow along. It takes the keys of whoever names the role's:

    root's for root, timestamp, snapshot and targets, targets' for the others.
    """
    from aibrother_node.catalog.roles import OFFLINE_ROLES

    action = {"do": "rotate", "role": role, "beside": list(map(str, beside)), "lost": lost}
    action |= {"keys": count, "threshold": threshold}
    answer = editor.edit(app, action)
    if as_json:
        print_json({"role": role, "versions": answer["versions"]})
    else:
        click.echo(f"{role} has a new key; signed: {_shown(answer['versions'])}")
        if role in OFFLINE_ROLES:
            click.echo(
                "The new key is on this machine: `aibrother-node keys move-offline DIR` takes it where it belongs."
            )


@keys.command()
@_beside
@data_option
@json_option
@pass_app
def takeover(app: App, beside: tuple[Path, ...], as_json: bool) -> None:
    """Make this the one node that signs: new keys of timestamp and snapshot. It takes the keys of root."""
    from aibrother_tools.catalog_client import edit_catalog

    answer = edit_catalog(app.load().config, {"do": "takeover", "beside": list(map(str, beside))})
    if as_json:
        print_json({"versions": answer["versions"]})
        return
    click.echo(f"this node signs from now on; signed: {_shown(answer['versions'])}")
    click.echo("Set `signer = true` under [catalog] here, and `signer = false` on the node that signed before.")


@keys.command()
@click.argument("path", type=click.Path(path_type=Path), metavar="ROOT.json")
@data_option
@pass_app
def export(app: App, path: Path) -> None:
    """Write the newest root, for clients and nodes to begin with."""
    from aibrother_tools.catalog_client import open_catalog

    path.write_bytes(open_catalog(app.load().config).root_bytes())
    click.echo(f"{path}: give it to clients by a way that you trust")


@keys.command()
@_beside
@data_option
@editing_options
@json_option
@pass_app
def refresh(app: App, editor: Editor, beside: tuple[Path, ...], as_json: bool) -> None:
    """Sign again what is beyond half its life, as far as its keys are here."""
    answer = editor.edit(app, {"do": "refresh", "beside": list(map(str, beside))})
    if as_json:
        print_json({"versions": answer["versions"]})
    else:
        click.echo(f"signed: {_shown(answer['versions'])}" if answer["versions"] else "nothing is due")


@keys.command(name="move-offline")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.option("--role", "roles", multiple=True, help="Whose keys; by default root and targets. May be repeated.")
@data_option
@json_option
@pass_app
def move_offline(app: App, folder: Path, roles: tuple[str, ...], as_json: bool) -> None:
    """Move private keys to another medium; here they stay named."""
    from aibrother_node.catalog.keys import KeyRing
    from aibrother_node.catalog.roles import OFFLINE_ROLES
    from aibrother_node.store.disk import Disk
    from aibrother_tools.catalog_client import signing

    settings = signing(app.load().config)
    ring = KeyRing.load(settings.keys, Disk(), passphrase=settings.passphrase)
    moved = ring.move_offline(folder, roles or OFFLINE_ROLES)
    if as_json:
        print_json([{"role": key.role, "keyid": key.keyid} for key in moved])
        return
    for key in moved:
        click.echo(f"{key.role:10} {key.keyid[:16]}  moved to {folder}")
    if not moved:
        click.echo("there was nothing to move")


def _shown(versions: dict[str, int]) -> str:
    return ", ".join(f"{role} {version}" for role, version in sorted(versions.items()))
