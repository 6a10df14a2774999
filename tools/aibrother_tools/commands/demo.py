"""`demo`: the main job, end to end, on a model made on the spot."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.command()
@click.option("--gguf", type=click.Path(path_type=Path), help="Use this file instead of making one.", metavar="FILE")
@click.option(
    "--folder", type=click.Path(path_type=Path), default=Path(".demo"), show_default=True, help="Where all of it goes."
)
@click.option("--once", is_flag=True, help="End after the pull (also with DEMO_ONCE=1).")
def demo(gguf: Path | None, folder: Path, once: bool) -> int:
    """Make a model, publish it, serve it, pull it by name, prove it byte for byte; then go on serving until Ctrl-C."""
    from aibrother_tools.demo import run_demo

    return run_demo(folder, gguf, once=once or os.environ.get("DEMO_ONCE") == "1", say=click.echo)
