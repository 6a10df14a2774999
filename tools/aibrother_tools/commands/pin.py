"""`pin`: keep a blob."""

from __future__ import annotations

import click

from aibrother_tools.app import App, data_option, json_option, pass_app, print_json
from aibrother_tools.digests import DIGEST
from aibrother_tools.remote import Remote, remote_options


@click.command()
@click.argument("digest", type=DIGEST)
@click.option("--reason", default="pinned by hand", help="Why; kept with the pin.")
@data_option
@remote_options
@json_option
@pass_app
def pin(app: App, digest: str, reason: str, as_json: bool, remote: Remote | None) -> None:
    """Keep a blob whatever the policy says."""
    from aibrother_node.content.digest import Digest
    from aibrother_tools.admin_client import admin_of
    from aibrother_tools.local_client import change

    if remote is not None:
        admin_of(app, remote).ask("PUT", f"/pins/{digest}", {"reason": reason})
    else:
        change(
            app.load().config,
            lambda store: store.pin(Digest.parse(digest), reason),
            lambda node: node.ask("PUT", f"/admin/v1/pins/{digest}", {"reason": reason}),
        )
    if as_json:
        print_json({"digest": digest, "pinned": True})
    else:
        click.echo(f"pinned {digest}")
