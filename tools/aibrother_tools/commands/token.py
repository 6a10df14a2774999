"""`token`: who may ask the control plane for what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aibrother_tools.app import App, data_option, json_option, pass_app, print_json

if TYPE_CHECKING:
    from aibrother_node.store.blobs import BlobStore
    from aibrother_node.store.layout import Layout
    from aibrother_node.web.control.admin.tokens import TokenFiles
    from aibrother_tools.local_client import LocalNode


@click.group()
def token() -> None:
    """Tokens of the control plane's admin API."""


@token.command()
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(["read", "operate", "publish"]),
    multiple=True,
    required=True,
    help="What it allows; several may be given. `operate` and `publish` each include `read`.",
)
@click.option(
    "--expires", metavar="D", help='After how long it is of no use any more, such as "90d"; never by default.'
)
@click.option("--name", default="", help="For people, such as whose it is.")
@data_option
@json_option
@pass_app
def create(app: App, scopes: tuple[str, ...], expires: str | None, name: str, as_json: bool) -> None:
    """Make a token and show it: now and never again. This node keeps its hash only."""
    import time

    from aibrother_node.web.control.admin.operation import Scope
    from aibrother_node.web.control.admin.tokens import make_token, token_report
    from aibrother_tools.local_client import change

    now = time.time()
    secret, made = make_token(map(Scope, scopes), name, now, None if expires is None else _lifetime(expires))
    change(
        app.load().config,
        lambda store: _files(store.layout).write(made),
        lambda node: node.ask("PUT", "/tokens", made.model_dump(mode="json")),
    )
    report = token_report(made, now)
    if as_json:
        print_json({"id": made.id, "token": secret, "scope": report["scope"], "expires": report["expires"]})
        return
    click.echo(secret)
    until = f", until {report['expires']}" if report["expires"] else ""
    click.echo(f"token {made.id} for {made.scope}{until}; it is not shown again", err=True)


@token.command(name="list")
@data_option
@json_option
@pass_app
def list_(app: App, as_json: bool) -> None:
    """List the tokens: everything but the secrets, which nobody has."""
    import time

    from aibrother_node.store.layout import Layout
    from aibrother_node.web.control.admin.tokens import token_report

    layout = Layout(app.load().config.node.data)
    layout.check_version()
    now = time.time()
    tokens = [token_report(one, now) for one in _files(layout).read()]
    if as_json:
        print_json({"tokens": tokens})
        return
    for one in tokens:
        until = (
            "never expires" if one["expires"] is None else f"expire{'d' if one['expired'] else 's'} {one['expires']}"
        )
        click.echo(f"{one['id']}  {one['scope']:<15}  made {one['created']}, {until}  {one['name']}".rstrip())


@token.command()
@click.argument("token_id", metavar="ID")
@data_option
@json_option
@pass_app
def revoke(app: App, token_id: str, as_json: bool) -> None:
    """Take a token back; from then on a running node refuses it."""
    from aibrother_node.errors import InvalidInput, NotFound
    from aibrother_tools.local_client import Unreachable, change

    if not (token_id.isascii() and token_id.isalnum()):
        raise InvalidInput(f"no token's id: {token_id[:80]!r}")
    asked = False

    def offline(store: BlobStore) -> None:
        try:
            _files(store.layout).remove(token_id)
        except NotFound:
            if not asked:
                raise

    def online(node: LocalNode) -> Any:
        nonlocal asked
        try:
            return node.ask("DELETE", f"/tokens/{token_id}")
        except Unreachable:
            asked = True  # perhaps it had done so already, and ended before it could say so
            raise
        except NotFound:
            if not asked:
                raise
            return None

    change(app.load().config, offline, online)
    if as_json:
        print_json({"id": token_id, "revoked": True})
    else:
        click.echo(f"revoked {token_id}")


def _files(layout: Layout) -> TokenFiles:
    from aibrother_node.store.disk import Disk
    from aibrother_node.web.control.admin.tokens import TokenFiles

    return TokenFiles(layout.tokens, Disk())


def _lifetime(text: str) -> float:
    from aibrother_node.units import parse_duration

    try:
        found = parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--expires") from None
    if found <= 0:
        raise click.BadParameter("a token lives for some time", param_hint="--expires")
    return found
