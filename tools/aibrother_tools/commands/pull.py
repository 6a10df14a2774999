"""`pull`: download a blob, verified, resumable."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aibrother_tools.app import human_bytes, print_json, warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aibrother_replicator.download import Event


class _Rate(click.ParamType[int]):
    """A rate such as `10 MB/s` or `80 Mbit/s`, in bytes a second."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from aibrother_node.units import parse_rate

        try:
            rate = parse_rate(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if rate == 0:
            self.fail("a rate of 0 never ends", param, ctx)
        return rate


@click.command()
@click.argument("name", metavar="DIGEST")
@click.option("--from", "sources", multiple=True, metavar="URL", help="Where from: a node's base URL; may be repeated.")
@click.option("--only", is_flag=True, help="Use no other sources than those given.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The file, or the folder for it; by default sha256-<hex> here.",
)
@click.option("--connections", type=click.IntRange(1, 64), default=8, show_default=True, metavar="N", help="At once.")
@click.option("--limit", type=_Rate(), metavar="RATE", help='At most so fast, such as "10 MB/s".')
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where partial data stands; by default beside the output.",
)
@click.option("--dry-run", is_flag=True, help="Only tell what there is to fetch.")
@click.option("--json", "as_json", is_flag=True, help="One JSON event a line on stdout.")
def pull(
    name: str,
    sources: tuple[str, ...],
    only: bool,  # noqa: ARG001 - without a catalog there are no others
    output: Path | None,
    connections: int,
    limit: int | None,
    state: Path | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Download the blob DIGEST (sha256:<64 hex digits>).

    Every chunk is verified as it arrives, and the whole before the file appears under its name. What breaks off is
    carried on with by the same command.
    """
    from aibrother_node.content.digest import Digest
    from aibrother_node.errors import InvalidInput
    from aibrother_replicator.download import Options, download, plan

    if not name.startswith("sha256:"):
        raise click.UsageError(f"names need a catalog, which this version hasn't got yet; give a digest, not {name!r}")
    if not sources:
        raise click.UsageError("say where from: --from URL")
    try:
        digest = Digest.parse(name)
    except InvalidInput as error:
        raise click.UsageError(str(error)) from error
    target = output if output is not None else Path(f"sha256-{digest.hex}")
    if target.is_dir():
        target /= f"sha256-{digest.hex}"
    options = Options(connections=connections, limit_rate=limit, state=state)
    if dry_run:
        planned = plan(digest, sources, target, options)
        document = {
            "event": "plan",
            "path": str(target),
            "sha256": digest.hex,
            "size": planned.size,
            "fetch": planned.fetch,
            "disk": planned.disk,
        }
        if as_json:
            print_json(document)
        else:
            click.echo(f"{human_bytes(planned.fetch)} of {human_bytes(planned.size)} to fetch into {target}")
            click.echo(f"{human_bytes(planned.disk)} of disk needed")
        return 0
    with _reporter(as_json=as_json) as report:
        result = download(digest, sources, target, options, report)
    if as_json:
        print_json(
            {
                "event": "done",
                "path": str(result.path),
                "sha256": result.sha256.hex,
                "size": result.size,
                "fetched": result.fetched,
                "reused": result.reused,
                "sources": [{"url": one.url, "bytes": one.bytes, "errors": one.errors} for one in result.sources],
            }
        )
    else:
        click.echo(
            f"{result.sha256}  {result.path}  {human_bytes(result.size)}, verified"
            f" (fetched {human_bytes(result.fetched)}, reused {human_bytes(result.reused)})"
        )
    return 0


@contextmanager
def _reporter(*, as_json: bool) -> Iterator[Callable[[Event], None]]:
    """What is done with events: JSON lines on stdout, a bar on a terminal, plain lines on stderr otherwise."""
    if as_json:
        yield print_json
    elif sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        yield _plain


def _plain(event: Event) -> None:
    line = _sentence(event)
    if line is not None:
        warn(line)


@contextmanager
def _bar() -> Iterator[Callable[[Event], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("pull", total=None)

        def report(event: Event) -> None:
            if event["event"] == "start":
                progress.update(task, total=event["size"], completed=event["reused"])
            elif event["event"] == "progress":
                progress.update(task, completed=event["done"])
            elif (line := _sentence(event)) is not None:
                progress.console.print(f"warning: {line}", markup=False, highlight=False)

        yield report


def _sentence(event: Event) -> str | None:
    """What an event says to people; None for those that only move a bar."""
    kind = event["event"]
    if kind == "corrupt":
        return (
            f"chunk {event['chunk']} from {event['url']} is {event['actual']}, expected {event['expected']};"
            " it is fetched again"
        )
    if kind == "source_error":
        return str(event["error"])
    if kind == "source_dropped":
        return f"{event['url']} is not asked any more ({event['reason']})"
    if kind == "manifest_rejected":
        return f"the chunk manifest from {event['url']} is not used: {event['reason']}"
    if kind == "warning":
        return str(event["message"])
    return None
