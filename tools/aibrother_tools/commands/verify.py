"""`verify`: the offline check of the whole data directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aibrother_tools.app import App, byte_progress, data_option, human_bytes, json_option, pass_app, print_json

if TYPE_CHECKING:
    from aibrother_node.store.verify import Report


@click.command()
@data_option
@click.option("--repair", is_flag=True, help="Put right what is wrong: bad blobs to quarantine, manifests rebuilt.")
@json_option
@pass_app
def verify(app: App, repair: bool, as_json: bool) -> int:
    """Read and hash everything; needs a stopped node.

    Exit code 3 when something is wrong and was not repaired.
    """
    from aibrother_node.errors import Temporary
    from aibrother_node.store.disk import Disk
    from aibrother_node.store.layout import DirectoryLock, Layout
    from aibrother_node.store.verify import verify_store
    from aibrother_tools.local_client import with_store

    config = app.load().config
    layout = Layout(config.node.data)
    layout.check_version()
    lock = DirectoryLock.try_take(layout.root)
    if lock is None:
        raise Temporary(f"{layout.root} is in use: stop the node first")
    with lock, with_store(config, lock) as store:
        store.take_in_all()
        _, total = store.totals()
        with byte_progress("verify", total, show=not as_json) as progress:
            report = verify_store(store, Disk(), repair=repair, progress=lambda _, done: progress(done))
    _print(report, as_json=as_json)
    return 0 if report.sound or repair else 3


def _print(report: Report, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "blobs": report.blobs,
                "bytes": report.bytes,
                "bad": [{"digest": str(digest), "reason": reason} for digest, reason in report.bad],
                "strangers": report.strangers,
                "without_manifest": [str(digest) for digest in report.without_manifest],
                "dangling_pins": report.dangling_pins,
                "stale": report.stale,
                "damaged": [{"digest": str(digest), "reason": reason} for digest, reason in report.damaged],
                "repaired": report.repaired,
            }
        )
        return
    for digest, reason in report.bad:
        click.echo(f"bad         {digest}: {reason}{'; moved to quarantine' if report.repaired else ''}")
    for name in report.strangers:
        click.echo(f"no blob     blobs/sha256/{name}{'; moved to quarantine' if report.repaired else ''}")
    for digest in report.without_manifest:
        click.echo(f"no manifest {digest}{'; made again' if report.repaired else ''}")
    for name in report.dangling_pins:
        click.echo(f"pinned, not here  sha256:{name}")
    for digest, reason in report.damaged:
        click.echo(f"damaged     {digest}: {reason}; a running node gets it from others")
    for name in report.stale:
        click.echo(f"stale       {name}{'; removed' if report.repaired else ''}")
    click.echo(f"{report.blobs} blobs, {human_bytes(report.bytes)} read: {'sound' if report.sound else 'see above'}")
