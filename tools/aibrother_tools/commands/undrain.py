"""`undrain`: put a running node back into service."""

from __future__ import annotations

import click

from aibrother_tools.app import App, data_option, json_option, pass_app, print_json
from aibrother_tools.remote import Remote, remote_options


@click.command()
@data_option
@remote_options
@json_option
@pass_app
def undrain(app: App, as_json: bool, remote: Remote | None) -> None:
    """Put the running node back into service after `drain`."""
    from aibrother_tools.admin_client import admin_of

    done = admin_of(app, remote).ask("POST", "/undrain")
    if as_json:
        print_json(done)
    else:
        click.echo("up: content is served again")
