"""`aibrother-node`: the command line. Commands live in `commands/`, one module each, loaded when they are called.

This module is the one place that maps errors to exit codes: 0 done, 1 failed, 2 wrong usage or configuration,
3 verification failed, 4 not found, 5 refused, 75 temporary failure (EX_TEMPFAIL of sysexits.h), 130 Ctrl-C.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from aibrother_node.errors import (
    ConfigurationError,
    NodeError,
    NotFound,
    Refused,
    Temporary,
    VerificationFailed,
)
from aibrother_tools.app import App

_COMMANDS: Final = {
    "add": "Store files as pinned blobs.",
    "backup": "Save keys, configuration, trust and catalog.",
    "check-config": "Check the configuration and name every fault.",
    "demo": "Run the main job end to end on a model made on the spot.",
    "drain": "Take the running node out of service.",
    "edit": "Change what the catalog says of releases.",
    "fleet": "The fleet: which nodes the catalog admits.",
    "gc": "Remove what nothing names any more, and say why the rest stays.",
    "init": "Make a data directory, the node's key and a catalog.",
    "jobs": "List, show, watch and change the jobs of a running node.",
    "keys": "The catalog's keys.",
    "list": "List the releases of the verified catalog.",
    "peers": "List the nodes of the fleet as this node sees them.",
    "pin": "Keep a blob whatever the policy says.",
    "promote": "Move staged releases to stable.",
    "publish": "Check, store and sign releases.",
    "pull": "Download a model or a blob, verified chunk by chunk, resumable.",
    "restore": "Make a data directory from a backup.",
    "retire": "Let old versions of a model go.",
    "scrub": "Check what a running node stores, and repair it.",
    "serve": "Run the node.",
    "show": "Show what the catalog says of releases.",
    "status": "Tell how the node is, running or not.",
    "token": "Tokens of the control plane.",
    "undrain": "Put the running node back into service.",
    "unpin": "Take a pin away.",
    "unyank": "Restore withdrawn releases.",
    "verify": "Check the whole data directory offline.",
    "yank": "Withdraw releases at once.",
}
_BUILT_IN: Final = frozenset({"list"})  # names of Python's own, which the function doesn't hide
_EXIT_CODES: Final[tuple[tuple[type[NodeError], int], ...]] = (
    (ConfigurationError, 2),
    (VerificationFailed, 3),
    (NotFound, 4),
    (Refused, 5),
    (Temporary, 75),
)
INTERRUPTED: Final = 130


class _LazyGroup(click.Group):
    """A group that imports a command's module only when the command is wanted: `--help` needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in _COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        module = import_module(f"aibrother_tools.commands.{name}")
        command = getattr(module, f"{name}_" if name in _BUILT_IN else name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--config", type=click.Path(path_type=Path), help="Configuration file.", metavar="FILE")
@click.option("--data", type=click.Path(path_type=Path), help="Data directory.", metavar="DIR")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error", "critical"]), help="How much to log."
)
@click.version_option(package_name="aibrother-node", prog_name="aibrother-node")
@click.pass_context
def cli(ctx: click.Context, config: Path | None, data: Path | None, log_level: str | None) -> None:
    """A verified mirror node for GGUF model files.

    Begin with `aibrother-node init`, `publish` a model, `serve`.
    """
    ctx.obj = App(config=config, data=data, log_level=log_level)


def exit_code(error: NodeError) -> int:
    """The exit code that stands for an error."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)


def run(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: after the program's name; those of this process by default.

    Returns:
        The exit code.
    """
    try:
        result: Any = cli.main(arguments, prog_name="aibrother-node", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    except ConfigurationError as error:
        for fault in error.faults:
            print(f"error: {fault}", file=sys.stderr)  # noqa: T201
        return 2
    except NodeError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return exit_code(error)
    except BrokenPipeError:
        return 1
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return result if isinstance(result, int) else 0


def main() -> NoReturn:
    """Entry point of the program."""
    sys.exit(run())
