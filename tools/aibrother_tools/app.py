"""What all commands share: options, configuration, output."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from aibrother_node.config import Loaded


@dataclass(slots=True)
class App:
    """The options that come before the command.

    Attributes:
        config, data: as given on the command line.
        log_level: the same.
    """

    config: Path | None = None
    data: Path | None = None
    log_level: str | None = None

    def load(self, overrides: Mapping[str, Any] | None = None) -> Loaded:
        """Load the configuration.

        Raises:
            ConfigurationError: with all its faults.
        """
        from aibrother_node.config import load_config

        given = dict(overrides or {})
        if self.log_level is not None:
            given["log.level"] = self.log_level
        return load_config(config=self.config, data=self.data, environ=os.environ, cwd=Path.cwd(), overrides=given)


pass_app = click.make_pass_decorator(App)
"""Hands the `App` to a command."""


def data_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--data DIR` to a command; where given it wins over the one before the command."""

    def remember(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
        if value is not None:
            ctx.ensure_object(App).data = value

    return click.option(
        "--data",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Data directory.",
        expose_value=False,
        callback=remember,
    )(command)


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
"""Adds `--json`."""


def print_json(document: object) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(document, ensure_ascii=False))


def warn(message: str) -> None:
    """A line for people on stderr."""
    click.echo(f"warning: {message}", err=True)


@contextmanager
def byte_progress(description: str, total: int | None, *, show: bool = True) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr where that is a terminal, nothing otherwise.

    Yields:
        A function to call with the bytes done since its last call.
    """
    if not show or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total)
        yield lambda done: progress.advance(task, done)


def human_bytes(size: int) -> str:
    """A size as people read it, in binary units."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
