"""`add`: store files."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from aibrother_tools.app import App, byte_progress, data_option, json_option, pass_app, print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from aibrother_node.config import NodeConfig
    from aibrother_node.store.incoming import Options
    from aibrother_node.store.layout import Layout

_REASON: Final = "added by hand"


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@data_option
@click.option("--link", is_flag=True, help="Share the file's blocks (reflink) or fail; never a hard link.")
@click.option("--move", is_flag=True, help="Rename the file into the store once it is hashed.")
@click.option("--no-pin", is_flag=True, help="Don't pin: collection may remove it when nothing else names it.")
@json_option
@pass_app
def add(app: App, files: tuple[Path, ...], link: bool, move: bool, no_pin: bool, as_json: bool) -> int:
    """Store files as pinned blobs, on a stopped or a running node alike.

    Prints digest, size in bytes and path of each. A file that is stored already is recognised.
    """
    if link and move:
        raise click.UsageError("--link and --move exclude each other")
    import signal

    from aibrother_node.errors import NodeError
    from aibrother_node.store.incoming import Options
    from aibrother_node.store.layout import Layout
    from aibrother_tools.cli import exit_code
    from aibrother_tools.storing import total_bytes

    # the signal by which a lease on a file being moved is broken (fcntl(2)) would kill us; we look at the lease instead
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    config = app.load().config
    layout = Layout(config.node.data)
    layout.check_version()
    options = Options(
        how="link" if link else "move" if move else "copy",
        pin=None if no_pin else _REASON,
        reserve=config.store.reserve_on(total_bytes(layout)),
        max_size=config.store.max_size,
        lease=f"add {secrets.token_hex(8)}" if no_pin else None,
    )
    added: list[dict[str, Any]] = []
    code = 0
    for path in files:
        try:
            size = path.stat().st_size if path.is_file() else None
            with byte_progress(path.name, size, show=not as_json) as progress:
                stored = _add(config, layout, path, options, progress)
        except NodeError as error:
            click.echo(f"error: {error}", err=True)
            code = code or exit_code(error)
            continue
        added.append({**stored, "path": str(path)})
        if not as_json:
            click.echo(f"{stored['digest']}  {stored['size']}  {path}")
    if as_json:
        print_json(added)
    return code


def _add(
    config: NodeConfig, layout: Layout, path: Path, options: Options, progress: Callable[[int], None]
) -> dict[str, Any]:
    """Store one file; returns its digest and size."""
    from aibrother_node.errors import DiskFull
    from aibrother_node.store.incoming import digest_only
    from aibrother_tools.storing import store_file

    try:
        stored = store_file(config, layout, path, options, progress)
    except DiskFull:
        # what is here already needs no room
        digest = digest_only(path)
        if not layout.blob(digest).exists():
            raise
        if options.pin is not None:
            _pin(config, str(digest), options.pin)
        elif options.lease is not None:
            _lease(config, str(digest), options.lease)
        if options.how == "move":
            path.unlink()
        return {"digest": str(digest), "size": layout.blob(digest).stat().st_size}
    return {"digest": str(stored.digest), "size": stored.size}


def _pin(config: NodeConfig, digest: str, reason: str) -> None:
    from aibrother_node.content.digest import Digest
    from aibrother_tools.local_client import change

    change(
        config,
        lambda store: store.pin(Digest.parse(digest), reason),
        lambda node: node.ask("PUT", f"/admin/v1/pins/{digest}", {"reason": reason}),
    )


def _lease(config: NodeConfig, digest: str, holder: str) -> None:
    from aibrother_node.content.digest import Digest
    from aibrother_tools.local_client import change

    change(
        config,
        lambda store: store.lease([Digest.parse(digest)], holder),
        lambda node: node.ask("PUT", f"/leases/{digest}", {"holder": holder}),
    )
