"""Watching jobs of a running node, here or elsewhere: events that go on over restarts of the node, and how they show.

`jobs`, and each command that starts a job, watch alike: `start_job`, `watch_job`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click

from aibrother_node.errors import InvalidInput, NodeError, Temporary
from aibrother_tools.admin_node import Answered
from aibrother_tools.app import print_json
from aibrother_tools.job_display import Lines, display
from aibrother_tools.job_words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aibrother_tools.admin_node import AdminNode

_SILENCE: Final = 45.0  # seconds: the node says that it is still there every 15
_BACKOFF: Final = (0.25, 5.0)
_PATIENCE: Final = 300.0  # seconds for a node to come back
_LINE: Final = 4 << 20
_ENDED: Final = frozenset({"done", "failed", "cancelled"})


def start_job(node: AdminNode, path: str, body: object, *, watch: bool, as_json: bool) -> int:
    """Have a job started, and say which it is, or watch it.

    Args:
        node: whom to ask.
        path: of the operation, such as `/scrub`.
        body: the request.
        watch: until it has ended.
        as_json: one document; with `watch` one job a line, whenever it has changed.

    Returns:
        The exit code.
    """
    started = node.ask("POST", path, body)
    job = str(started["job"])
    if watch:
        return watch_job(node, job, as_json=as_json)
    if as_json:
        print_json(started)
    else:
        click.echo(f"job {job}; see it with `aibrother-node jobs {job} --watch`")
    return 0


def watch_job(node: AdminNode, job: str, *, as_json: bool) -> int:
    """Show a job until it has ended, whatever restarts of the node are between.

    Returns:
        The exit code: 0 where it is done, 1 where it failed or was cancelled.

    Raises:
        NotFound: there is no such job.
        Temporary: no node answers, or none has for minutes.
    """
    last: dict[str, Any] | None = None
    try:
        with _json_lines() if as_json else display() as show:
            for seen in follow_job(node, job, waiting=show.waiting):
                show.job(seen)
                last = seen
    except KeyboardInterrupt:
        click.echo(f"the job goes on: `aibrother-node jobs {job} --cancel` ends it", err=True)
        raise
    assert last is not None, "it ends with a final state, or raises"
    if not as_json:
        click.echo(f"{last['kind']} {last['id']}: {last['state']}, {counted(last)}")
        for error in reversed(last["errors"][:10]):
            click.echo(f"  {error['name'] or 'the job'}: {error['reason']}")
    return 0 if last["state"] == "done" else 1


def follow_job(node: AdminNode, job: str, *, waiting: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """The job whenever it has changed, last as it has ended.

    Args:
        node: whom to ask.
        job: its id.
        waiting: told why, while the node is away.

    Raises:
        NodeError: as `watch_job`.
    """
    away_since: float | None = None
    begun = False
    wait = _BACKOFF[0]
    while True:
        try:
            for seen in _events(node, job):
                begun, away_since, wait = True, None, _BACKOFF[0]
                yield seen
                if seen["state"] in _ENDED:
                    return
            reason = "the node ended the answer"
        except Temporary as error:
            if not begun:
                raise
            reason = str(error)
        now = time.monotonic()
        away_since = now if away_since is None else away_since
        if now - away_since > _PATIENCE:
            raise Temporary(f"the node is away for {_PATIENCE:.0f} s, and the job {job} not at its end: {reason}")
        waiting(reason)
        time.sleep(wait)
        wait = min(2 * wait, _BACKOFF[1])


def _events(node: AdminNode, job: str) -> Iterator[dict[str, Any]]:
    """One connection's events."""
    path = f"/jobs/{job}/events"
    with node.stream("GET", path, headers={"Accept": "text/event-stream"}, timeout=_SILENCE) as response:
        if response.status >= 300:
            raise Answered(response.status, response.headers, response.read(_LINE)).error(f"GET {path}")
        data: list[str] = []
        while line := _line(response):
            text = line.rstrip(b"\r\n").decode("utf-8", "replace")
            if not text:
                if data:
                    yield _job("\n".join(data))
                data = []
            elif text.startswith("data:"):
                data.append(text[5:].removeprefix(" "))


def _line(response: http.client.HTTPResponse) -> bytes:
    """The next line; empty at the end, which a node that dies doesn't announce."""
    try:
        line = response.readline(_LINE)
    except (OSError, http.client.HTTPException):
        return b""
    if len(line) >= _LINE:
        raise InvalidInput("an event has no end")
    return line


def _job(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidInput("an event isn't JSON") from error
    if not isinstance(found, dict) or "state" not in found:
        raise NodeError("an event is no job")
    return found


@contextlib.contextmanager
def _json_lines() -> Iterator[Lines]:
    """One job a line on stdout."""

    class Events(Lines):
        def job(self, seen: dict[str, Any]) -> None:
            print_json(seen)
            sys.stdout.flush()

        def waiting(self, reason: str) -> None:
            click.echo(f"waiting: {reason}", err=True)

    yield Events()
