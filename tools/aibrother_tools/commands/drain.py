"""`drain`: take a running node out of service."""

from __future__ import annotations

import click

from aibrother_tools.app import App, data_option, json_option, pass_app, print_json
from aibrother_tools.remote import Remote, remote_options


@click.command()
@click.option("--reason", default="", help="Why; `status` shows it.")
@data_option
@remote_options
@json_option
@pass_app
def drain(app: App, reason: str, as_json: bool, remote: Remote | None) -> None:
    """Take the running node out of service: no new downloads, and the fleet sends nobody. Until `undrain`."""
    from aibrother_tools.admin_client import admin_of

    done = admin_of(app, remote).ask("POST", "/drain", {"reason": reason})
    if as_json:
        print_json(done)
    else:
        click.echo("draining: running downloads go on, new ones go elsewhere, until `undrain`")
