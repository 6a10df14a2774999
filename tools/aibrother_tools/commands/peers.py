"""`peers`: who is in the fleet, and how are they?"""

from __future__ import annotations

from typing import Any

import click

from aibrother_tools.app import App, data_option, json_option, pass_app, print_json
from aibrother_tools.remote import Remote, remote_options


@click.command()
@data_option
@remote_options
@json_option
@pass_app
def peers(app: App, as_json: bool, remote: Remote | None) -> None:
    """List the nodes of the fleet as this node sees them now; it has to be running."""
    from aibrother_tools.admin_client import admin_of

    report: dict[str, Any] = admin_of(app, remote).ask("GET", "/peers", timeout=10.0)
    if as_json:
        print_json(report)
        return
    own = report["self"]
    click.echo(f"{_line(own)}  this node")
    for peer in report["peers"]:
        told = [f"seen {peer['last_seen']}" if peer["last_seen"] else "never seen"]
        if peer["catalog_refused"]:
            told.append(f"catalog refused: {peer['catalog_refused']}")
        click.echo(f"{_line(peer)}  {', '.join(told)}")
    if own["alarm"]:
        click.echo(f"ALARM: {own['alarm']}")


def _line(node: dict[str, Any]) -> str:
    version = "-" if node["catalog_version"] is None else node["catalog_version"]
    where = f"{node['region'] or '-':<10}  {node['url'] or '-'}"
    return f"{node['id'][:12]}  {node['state']:<8}  {where}  catalog {version}"
