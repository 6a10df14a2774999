"""`pull`: download a blob, verified, resumable."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aibrother_tools.app import App, human_bytes, pass_app, print_json, warn
from aibrother_tools.commands._trust import read_root, state_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from aibrother_node.content.digest import Digest
    from aibrother_replicator.download import Event, Options


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
@click.argument("name", metavar="NAME[:VARIANT][@VERSION]|DIGEST")
@click.option("--from", "sources", multiple=True, metavar="URL", help="Where from: a node's base URL; may be repeated.")
@click.option("--only", is_flag=True, help="Use no other sources than those given.")
@click.option("--root", type=click.Path(path_type=Path, dir_okay=False), metavar="ROOT.json", help="The root to trust.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The file, or the folder for it; by default its own name here.",
)
@click.option("--connections", type=click.IntRange(1, 64), default=8, show_default=True, metavar="N", help="At once.")
@click.option("--limit", type=_Rate(), metavar="RATE", help='At most so fast, such as "10 MB/s".')
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where partial data and trust stand; by default beside the output, and in the user's state folder.",
)
@click.option("--allow-stale", is_flag=True, help="Go on with an expired catalog that was verified before.")
@click.option("--dry-run", is_flag=True, help="Only tell what there is to fetch.")
@click.option("--json", "as_json", is_flag=True, help="One JSON event a line on stdout.")
@pass_app
def pull(
    app: App,
    name: str,
    sources: tuple[str, ...],
    only: bool,  # noqa: ARG001 - there are no other sources yet
    root: Path | None,
    output: Path | None,
    connections: int,
    limit: int | None,
    state: Path | None,
    allow_stale: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Download a model by its name in the catalog, or the blob DIGEST (sha256:<64 hex digits>).

    Every chunk is verified as it arrives, and the whole before the file appears under its name. What breaks off is
    carried on with by the same command. A shard set, or a model with a projector, goes to a folder.
    """
    from aibrother_replicator.download import Options

    if not sources:
        raise click.UsageError("say where from: --from URL")
    options = Options(connections=connections, limit_rate=limit, state=state)
    wanted = (
        [_by_digest(name, output, options)]
        if name.startswith("sha256:")
        else _by_name(app, name, sources, root, output, options, allow_stale=allow_stale)
    )
    for one in wanted:
        if dry_run:
            _tell_plan(one, sources, as_json=as_json)
        else:
            _download(one, sources, as_json=as_json)
    return 0


@dataclass(frozen=True, slots=True)
class _Wanted:
    digest: Digest
    target: Path
    options: Options


def _by_digest(name: str, output: Path | None, options: Options) -> _Wanted:
    from aibrother_node.content.digest import Digest
    from aibrother_node.errors import InvalidInput

    try:
        digest = Digest.parse(name)
    except InvalidInput as error:
        raise click.UsageError(str(error)) from error
    target = output if output is not None else Path(f"sha256-{digest.hex}")
    if target.is_dir():
        target /= f"sha256-{digest.hex}"
    return _Wanted(digest, target, options)


def _by_name(
    app: App,
    name: str,
    sources: tuple[str, ...],
    root: Path | None,
    output: Path | None,
    options: Options,
    *,
    allow_stale: bool,
) -> list[_Wanted]:
    from aibrother_node.catalog.desk import utc_now
    from aibrother_node.catalog.names import parse_reference
    from aibrother_node.errors import InvalidInput
    from aibrother_replicator.naming import resolve

    try:
        reference = parse_reference(name)
    except InvalidInput as error:
        raise click.UsageError(str(error)) from error
    data = _read_root(app, root)
    trust = (options.state or state_folder()) / "trust"
    trust.mkdir(parents=True, exist_ok=True)
    named = resolve(
        reference, sources, data, trust, utc_now(), allow_stale=allow_stale, choose=lambda all_: _ask_which(name, all_)
    )
    for warning in named.warnings:
        warn(warning)
    if named.age is not None:
        warn(f"the catalog has expired; what is used of it was verified {named.age} ago")
    if len(named.parts) == 1:
        (part,) = named.parts
        target = output if output is not None else Path(part.filename)
        targets = [target / part.filename if target.is_dir() else target]
    else:
        folder = output if output is not None else Path("-".join(named.entry.key))
        folder.mkdir(parents=True, exist_ok=True)
        targets = [folder / part.filename for part in named.parts]
    return [
        _Wanted(part.sha256, target, replace(options, manifest=part.chunks))
        for part, target in zip(named.parts, targets, strict=True)
    ]


def _ask_which(name: str, variants: Sequence[str]) -> str:
    raise click.UsageError(f"{name} has several variants, say which: " + ", ".join(f"{name}:{one}" for one in variants))


def _read_root(app: App, path: Path | None) -> bytes:
    """The root to trust: the one given, the configured one, or that of the data directory at hand."""
    from aibrother_node.store.layout import Layout

    if path is None:
        config = app.load().config
        path = config.catalog.root or Layout(config.node.data).trust / "root.json"
        if not path.exists():
            raise click.UsageError("names need a root to trust: --root ROOT.json (or a digest instead of the name)")
    return read_root(path)


def _tell_plan(wanted: _Wanted, sources: tuple[str, ...], *, as_json: bool) -> None:
    from aibrother_replicator.download import plan

    planned = plan(wanted.digest, sources, wanted.target, wanted.options)
    if as_json:
        print_json(
            {
                "event": "plan",
                "path": str(wanted.target),
                "sha256": wanted.digest.hex,
                "size": planned.size,
                "fetch": planned.fetch,
                "disk": planned.disk,
            }
        )
        return
    click.echo(f"{human_bytes(planned.fetch)} of {human_bytes(planned.size)} to fetch into {wanted.target}")
    click.echo(f"{human_bytes(planned.disk)} of disk needed")


def _download(wanted: _Wanted, sources: tuple[str, ...], *, as_json: bool) -> None:
    from aibrother_replicator.download import download

    with _reporter(as_json=as_json) as report:
        result = download(wanted.digest, sources, wanted.target, wanted.options, report)
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
        return
    click.echo(
        f"{result.sha256}  {result.path}  {human_bytes(result.size)}, verified"
        f" (fetched {human_bytes(result.fetched)}, reused {human_bytes(result.reused)})"
    )


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
