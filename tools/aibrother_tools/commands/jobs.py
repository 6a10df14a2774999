"""`jobs`: what is the node working at?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aibrother_tools.app import App, data_option, json_option, pass_app, print_json
from aibrother_tools.remote import Remote, remote_options

if TYPE_CHECKING:
    from aibrother_tools.admin_node import AdminNode

_STATES = ("queued", "running", "paused", "stalled", "done", "failed", "cancelled")
_OPEN = _STATES[:4]


@click.command()
@click.argument("job", required=False, metavar="[ID]")
@click.option("--watch", is_flag=True, help="Go on showing it until it has ended: exit code 0 done, 1 anything else.")
@click.option("--cancel", "verb", flag_value="cancel", help="Cancel it.")
@click.option("--pause", "verb", flag_value="pause", help="Hold it; it stays so over restarts.")
@click.option("--resume", "verb", flag_value="resume", help="Let it go on.")
@click.option("--retry", "verb", flag_value="retry", help="Have it do again what failed.")
@click.option("--state", type=click.Choice(_STATES), help="List those in this state.")
@click.option("--kind", help="List those of this kind, such as scrub.")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="List at most so many.")
@data_option
@remote_options
@json_option
@pass_app
def jobs(
    app: App,
    job: str | None,
    watch: bool,
    verb: str | None,
    state: str | None,
    kind: str | None,
    limit: int,
    as_json: bool,
    remote: Remote | None,
) -> int:
    """List the jobs of a running node, newest first, or show, watch or change the one with this ID.

    With --watch and no ID, all that have not ended are watched, one after the other. With --watch and --json, each
    change of the job is a line of its own.
    """
    import re

    from aibrother_node.errors import NotFound
    from aibrother_tools.admin_client import admin_of
    from aibrother_tools.job_watching import watch_job

    node = admin_of(app, remote)
    if job is None:
        if verb is not None:
            raise click.UsageError(f"--{verb} takes the ID of a job")
        if watch:
            return max((watch_job(node, one, as_json=as_json) for one in _open_jobs(node)), default=0)
        query = {"limit": str(limit), **({"state": state} if state else {}), **({"kind": kind} if kind else {})}
        page = node.ask("GET", "/jobs", query=query)
        if as_json:
            print_json(page)
        else:
            _list(page["jobs"])
        return 0
    if re.fullmatch(r"[0-9a-f]{16}", job, re.ASCII) is None:
        raise NotFound(f"there is no job {job!r}")
    if verb is not None:
        changed = node.ask(*(("DELETE", f"/jobs/{job}") if verb == "cancel" else ("POST", f"/jobs/{job}/{verb}")))
        if not watch:
            _show(changed, as_json)
            return 0
    if watch:
        return watch_job(node, job, as_json=as_json)
    _show(node.ask("GET", f"/jobs/{job}"), as_json)
    return 0


def _open_jobs(node: AdminNode) -> list[str]:
    """The ids of all jobs that haven't ended, oldest first."""
    found = []
    for state in _OPEN:
        found += [one["id"] for one in node.ask("GET", "/jobs", query={"state": state, "limit": "200"})["jobs"]]
    return sorted(found)


def _list(found: list[dict[str, Any]]) -> None:
    from aibrother_tools.job_words import counted, paced

    if not found:
        click.echo("no jobs")
    for one in found:
        pace = paced(one)
        state = "cancelling" if one["cancelling"] else one["state"]
        click.echo(
            f"{one['id']}  {one['kind']:<8}  {state:<10}  {one['created']}  {counted(one)}{f'; {pace}' if pace else ''}"
        )


def _show(one: dict[str, Any], as_json: bool) -> None:
    import json

    from aibrother_tools.job_words import counted, paced

    if as_json:
        print_json(one)
        return
    rows = {
        "job": f"{one['id']} ({one['kind']})",
        "state": "cancelling" if one["cancelling"] else one["state"],
        "request": json.dumps(one["request"]),
        "created": one["created"],
        "started": one["started"],
        "ended": one["ended"],
        "progress": counted(one),
        "pace": paced(one) or None,
        "result": None if one["result"] is None else json.dumps(one["result"]),
    }
    for name, value in rows.items():
        if value is not None:
            click.echo(f"{name:<9} {value}")
    for error in one["errors"]:
        click.echo(f"{'error':<9} {error['name'] or 'the job'}: {error['reason']}")
