"""`scrub`: is what the disk holds still what its name says?"""

from __future__ import annotations

import click

from aibrother_tools.app import App, data_option, json_option, pass_app, print_json
from aibrother_tools.digests import DIGEST
from aibrother_tools.remote import Remote, remote_options


@click.command()
@click.option("--rate", help='Read so much a second at most, such as "100 MB/s"; by default store.scrub_rate.')
@click.option(
    "--digest", "digests", type=DIGEST, multiple=True, metavar="D", help="Check this blob only; may be given again."
)
@click.option("--watch", is_flag=True, help="Go on showing it until it has ended: exit code 0 done, 1 anything else.")
@data_option
@remote_options
@json_option
@pass_app
def scrub(
    app: App, rate: str | None, digests: tuple[str, ...], watch: bool, as_json: bool, remote: Remote | None
) -> int:
    """Start a job on a running node that reads all blobs, and repairs from other nodes what is damaged.

    Good chunks of a damaged blob go on being served. The job fails where something stays damaged.
    """
    from aibrother_node.units import parse_rate
    from aibrother_tools.admin_client import admin_of
    from aibrother_tools.job_watching import watch_job

    body: dict[str, object] = {}
    if rate is not None:
        try:
            body["rate"] = parse_rate(rate)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--rate") from error
        if not body["rate"]:
            raise click.BadParameter("nothing would be read", param_hint="--rate")
    if digests:
        body["digests"] = list(digests)
    node = admin_of(app, remote)
    started = node.ask("POST", "/scrub", body)
    if watch:
        return watch_job(node, started["job"], as_json=as_json)
    if as_json:
        print_json(started)
    else:
        click.echo(f"{started['job']}: watch it with `aibrother-node jobs {started['job']} --watch`")
    return 0
