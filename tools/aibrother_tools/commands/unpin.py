"""`unpin`: take a pin away."""

from __future__ import annotations

import click

from aibrother_tools.app import App, data_option, json_option, pass_app, print_json
from aibrother_tools.digests import DIGEST
from aibrother_tools.remote import Remote, remote_options


@click.command()
@click.argument("digest", type=DIGEST)
@data_option
@remote_options
@json_option
@pass_app
def unpin(app: App, digest: str, as_json: bool, remote: Remote | None) -> None:
    """Take a pin away: the blob stays until collection finds that nothing names it."""
    from aibrother_node.content.digest import Digest
    from aibrother_tools.admin_client import admin_of
    from aibrother_tools.local_client import change

    if remote is not None:
        admin_of(app, remote).ask("DELETE", f"/pins/{digest}")
    else:
        change(
            app.load().config,
            lambda store: store.unpin(Digest.parse(digest)),
            lambda node: node.ask("DELETE", f"/admin/v1/pins/{digest}"),
        )
    if as_json:
        print_json({"digest": digest, "pinned": False})
    else:
        click.echo(f"unpinned {digest}")
