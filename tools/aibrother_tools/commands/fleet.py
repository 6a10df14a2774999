"""`fleet`: who is a member."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from aibrother_tools.app import App, data_option, json_option, pass_app, print_json, warn
from aibrother_tools.commands._editor import Editor, editing_options

if TYPE_CHECKING:
    from aibrother_node.catalog.entries import FleetDocument

_DIGITS: Final = re.compile(r"[0-9a-f]{8,64}", re.ASCII)
_WHOLE: Final = 64


@click.group()
def fleet() -> None:
    """The fleet: which nodes the catalog admits."""


@fleet.command()
@click.argument("node", metavar="NODE_ID|RECORD.json")
@click.option("--key", help="The node's public key, 64 hex digits; with a NODE_ID that the fleet doesn't know.")
@click.option("--region", help="Where it stands, such as eu-west.")
@click.option("--url", help="Under which clients reach it.")
@click.option("--gossip-url", help="Under which other nodes reach it.")
@click.option("--country", help="Where it stands: two letters, such as DE.")
@click.option("--latitude", type=click.FloatRange(-90, 90), help="In degrees; with --longitude.")
@click.option("--longitude", type=click.FloatRange(-180, 180), help="In degrees; with --latitude.")
@data_option
@editing_options
@json_option
@pass_app
def admit(
    app: App,
    editor: Editor,
    node: str,
    key: str | None,
    region: str | None,
    url: str | None,
    gossip_url: str | None,
    country: str | None,
    latitude: float | None,
    longitude: float | None,
    as_json: bool,
) -> None:
    """Admit a node by the record.json that its `init` wrote, or by its id and key; or change what is said of a member.

    Options override what the record says. A member keeps what neither says.
    """
    from aibrother_node.catalog.entries import FleetNode
    from aibrother_node.errors import InvalidInput

    if (latitude is None) != (longitude is None):
        raise click.UsageError("--latitude and --longitude come together")
    said = {
        "region": region,
        "url": url,
        "gossip_url": gossip_url,
        "country": country and country.upper(),
        "latitude": latitude,
        "longitude": longitude,
    }
    if _DIGITS.fullmatch(node) and not Path(node).exists():
        node_id, key = node, _key_of(_members(app, editor), node, key, said)
    else:
        node_id, key = _read(Path(node), key, said)
    try:
        FleetNode(node_id, key, **said)  # type: ignore[arg-type]  # mypy takes them for values of one type
    except InvalidInput as error:
        raise click.UsageError(str(error)) from error
    _edit(app, editor, {"do": "admit", "id": node_id, "key": key, "said": said}, "admitted", as_json=as_json)


@fleet.command()
@click.argument("node_id", metavar="ID")
@data_option
@editing_options
@json_option
@pass_app
def revoke(app: App, editor: Editor, node_id: str, as_json: bool) -> None:
    """Take a node's membership away; ID may be the first 8 or more digits. `fleet admit` takes it back in."""
    from aibrother_node.catalog.fleet_editing import find
    from aibrother_node.errors import InvalidInput

    try:
        found = find(_members(app, editor), node_id)
    except InvalidInput as error:
        raise click.UsageError(str(error)) from error
    _edit(app, editor, {"do": "revoke", "id": found.id}, "revoked", as_json=as_json)


@fleet.command(name="list")
@data_option
@editing_options
@json_option
@pass_app
def list_fleet(app: App, editor: Editor, as_json: bool) -> None:
    """List the nodes of the verified catalog, revoked ones too."""
    members = _members(app, editor)
    if as_json:
        print_json({"version": members.version, "nodes": [node.to_json() for node in members.nodes]})
        return
    for node in members.nodes:
        click.echo(f"{node.id}  {node.state:8}  {node.region or '-'}  {node.url or '-'}  {node.gossip_url or '-'}")


def _members(app: App, editor: Editor) -> FleetDocument:
    from aibrother_node.catalog.reading import fleet as members

    with editor.catalog(app) as catalog:
        return members(catalog)


def _key_of(members: FleetDocument, node_id: str, key: str | None, said: dict[str, Any]) -> str:
    """Check what a NODE_ID needs, which for a stranger is a key, and where it is; returns the node's key."""
    from aibrother_node.catalog.entries import FleetNode
    from aibrother_node.catalog.values import sha256
    from aibrother_node.errors import InvalidInput, VerificationFailed

    if len(node_id) != _WHOLE:
        raise click.UsageError(f"a node id has {_WHOLE} hex digits, {node_id} has {len(node_id)}")
    member = next((one for one in members.nodes if one.id == node_id), None)
    if member is not None and key in (None, member.key):
        return member.key
    if key is None:
        raise click.UsageError(f"the fleet doesn't know node {node_id}: give its --key, or its record.json")
    try:
        sha256(key, "--key")
    except InvalidInput as error:
        raise click.UsageError(str(error)) from error
    try:
        FleetNode(node_id, key)
    except InvalidInput as error:
        raise VerificationFailed(str(error)) from error
    if not (said["region"] and said["url"]):
        raise click.UsageError("a node that the fleet doesn't know needs --region and --url")
    return key


def _read(path: Path, key: str | None, said: dict[str, Any]) -> tuple[str, str]:
    """Read a record; what it says goes where no option says otherwise."""
    from aibrother_node.catalog.fleet_editing import CHANGEABLE
    from aibrother_node.errors import VerificationFailed
    from aibrother_node.fleet.admission import load_record

    record = load_record(path)
    if key not in (None, record.key):
        raise VerificationFailed(f"{path} is of another key", expected=key, actual=record.key)
    for name in CHANGEABLE:
        if said[name] is None:
            said[name] = getattr(record, name)
    return record.id, record.key


def _edit(app: App, editor: Editor, action: dict[str, Any], done: str, *, as_json: bool) -> None:
    answer = editor.edit(app, action)
    node, changed = answer["fleet"]["node"], bool(answer["versions"])
    if node["url"] is None and node["state"] == "admitted":
        warn("nothing says under which URL clients reach this node: none will be sent there (--url)")
    if as_json:
        print_json({"version": answer["fleet"]["version"], "changed": changed, "node": node})
        return
    if not changed:
        click.echo("nothing to do: the catalog says so already")
    click.echo(f"{done} {node['id']}  {node['region'] or '-'}  {node['url'] or '-'}")
