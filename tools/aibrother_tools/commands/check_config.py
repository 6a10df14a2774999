"""`check-config`: is the configuration right?"""

from __future__ import annotations

import click

from aibrother_tools.app import App, data_option, json_option, pass_app, print_json, warn


@click.command("check-config")
@data_option
@json_option
@pass_app
def check_config(app: App, as_json: bool) -> int:
    """Check the configuration; name file, key and reason of each fault."""
    from aibrother_node.errors import ConfigurationError
    from aibrother_tools.serve.places import check_places
    from aibrother_tools.serve.tls import make_context

    try:
        loaded = app.load()
        make_context(loaded.config.public)
        check_places(loaded.config.public)
    except ConfigurationError as error:
        if not as_json:
            raise
        print_json({"source": None, "faults": error.faults, "warnings": []})
        return 2
    warnings = list(loaded.warnings)
    if loaded.config.node.public_url:
        from aibrother_tools.catalog_client import keys_to_take_offline

        warnings += keys_to_take_offline(loaded.config)
    if as_json:
        print_json({"source": loaded.source, "faults": [], "warnings": warnings})
        return 0
    for warning in warnings:
        warn(warning)
    click.echo(f"{loaded.source}: right")
    return 0
