"""`gc`: remove what nothing names any more, and say why the rest stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aibrother_tools.app import App, data_option, human_bytes, json_option, pass_app, print_json
from aibrother_tools.remote import Remote, remote_options

if TYPE_CHECKING:
    from aibrother_tools.admin_node import AdminNode


@click.command()
@click.option("--dry-run", is_flag=True, help="Remove nothing; say of each blob whether it would go, and why.")
@click.option("--watch", is_flag=True, help="Go on showing it until it has ended: exit code 0 done, 1 anything else.")
@data_option
@remote_options
@json_option
@pass_app
def gc(app: App, dry_run: bool, watch: bool, as_json: bool, remote: Remote | None) -> int:
    """Start a job on a running node that removes blobs which no channel names and nobody has pinned or leased.

    Where the store is over store.max_size, or free space below store.reserve, it also evicts blobs that other nodes of
    the fleet confirm to keep.
    """
    from aibrother_tools.admin_client import admin_of
    from aibrother_tools.job_watching import start_job

    node = admin_of(app, remote)
    if not dry_run:
        return start_job(node, "/gc", {}, watch=watch, as_json=as_json)
    if watch:
        raise click.UsageError("--dry-run starts no job that could be watched")
    _report(node, as_json=as_json)
    return 0


def _report(node: AdminNode, *, as_json: bool) -> None:
    blobs: list[Any] = []
    after = None
    while True:
        page = node.ask("POST", "/gc", {"dry_run": True, **({} if after is None else {"after": after})}, timeout=300.0)
        if as_json:
            blobs += page["blobs"]
        else:
            for blob in page["blobs"]:
                size = human_bytes(blob["size"])
                click.echo(f"{blob['verdict']:8} {size:>10}  {blob['digest']}  {blob['reason']}")
        after = page["next"]
        if after is None:
            break
    if as_json:
        print_json({**page, "blobs": blobs})
        return
    for verdict, found in page["sums"].items():
        click.echo(f"{verdict:8} {human_bytes(found['bytes']):>10}  {found['blobs']} blobs")
    if page["to_evict"]:
        click.echo(f"room is short: {human_bytes(page['to_evict'])} would have to be evicted")
