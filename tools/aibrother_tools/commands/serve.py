"""`serve`: run the node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aibrother_tools.app import App, data_option, json_option, pass_app, warn

if TYPE_CHECKING:
    from aibrother_node.config import NodeConfig


@click.command()
@data_option
@click.option("--host", multiple=True, metavar="H", help="Address to listen on; may be repeated.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the public plane; 0: any, on all planes.")
@click.option("--workers", type=click.IntRange(1, 1024), help="Processes of the public plane.")
@json_option
@pass_app
def serve(app: App, host: tuple[str, ...], port: int | None, workers: int | None, as_json: bool) -> int:
    """Run the node until SIGTERM or Ctrl-C; SIGHUP reloads.

    Prints one line when it is ready, with its URLs.
    """
    from aibrother_node.errors import ConfigurationError
    from aibrother_tools.catalog_client import keys_to_take_offline
    from aibrother_tools.serve.run import serve as run

    overrides: dict[str, Any] = {}
    if host:
        overrides["public.host"] = list(host)
    if port is not None:
        overrides["public.port"] = port
    if workers is not None:
        overrides["public.workers"] = workers
    loaded = app.load(overrides)
    click.echo(f"configuration: {loaded.source}", err=True)
    warnings = list(loaded.warnings)
    if loaded.config.node.public_url:
        warnings += keys_to_take_offline(loaded.config)
    for warning in warnings:
        warn(warning)

    origins = dict(loaded.origins)

    def reload() -> NodeConfig:
        again = app.load(overrides)
        if again.path != loaded.path:  # its file is gone, and another one or none at all is not what was meant
            reason = f"no configuration is there any more; what would be used is {again.source}"
            raise ConfigurationError([f"{loaded.source}: {reason}, and a restart is what changes that"])
        origins.clear()
        origins.update(again.origins)
        return again.config

    return run(loaded.config, origins=origins, reload=reload, say=_say, as_json=as_json)


def _say(line: str) -> None:
    click.echo(line)
