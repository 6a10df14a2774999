"""`status`: how is the node?"""

from __future__ import annotations

from typing import Any

import click

from aibrother_tools.app import App, data_option, human_bytes, json_option, pass_app, print_json
from aibrother_tools.remote import Remote, remote_options


@click.command()
@data_option
@remote_options
@json_option
@pass_app
def status(app: App, as_json: bool, remote: Remote | None) -> None:
    """Tell how the node is: from the running node, or from disk when none runs."""
    from aibrother_tools.admin_client import admin_of
    from aibrother_tools.job_words import counted, paced
    from aibrother_tools.local_client import Unreachable
    from aibrother_tools.reports import status_report

    report: dict[str, Any]
    try:
        report = admin_of(app, remote).ask("GET", "/status", timeout=5.0 if remote is None else 30.0)
    except Unreachable:
        report = status_report(app.load().config, running=False)
    if as_json:
        print_json(report)
        return
    node, store = report["node"], report["store"]
    click.echo(f"node     {node['id'] or 'has no key'}{' in ' + node['region'] if node['region'] else ''}")
    click.echo(f"state    {'running' if node['running'] else 'stopped'}, version {node['version']}")
    if node["drained"] is not None:
        since, reason = node["drained"]["since"], node["drained"]["reason"]
        click.echo(f"drained  since {since or 'an unknown time'}{f': {reason}' if reason else ''}")
    click.echo(f"catalog  {_catalog(report['catalog'])}")
    click.echo(f"store    {store['blobs']} blobs, {human_bytes(store['bytes'])}; {human_bytes(store['free'])} free")
    for fill in report["fills"]:
        missing = f"{fill['missing_chunks']} of {fill['chunks']} chunks missing ({human_bytes(fill['missing_bytes'])})"
        click.echo(f"fill     {fill['digest']} {fill['state']}: {missing}")
    for job in report["jobs"]:
        pace = paced(job)
        click.echo(f"job      {job['kind']} {job['id']} {job['state']}: {counted(job)}{f'; {pace}' if pace else ''}")


def _catalog(found: dict[str, Any] | None) -> str:
    if found is None:
        return "none"
    expires = f"{'EXPIRED at' if found['stale'] else 'expires'} {found['expires']}"
    return f"version {found['version']}, published {found['published']}, {expires}"
