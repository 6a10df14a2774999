"""`--to CONTROL_URL --token-file F`: the options of commands that also ask a remote node."""

from __future__ import annotations

import functools
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click

from aibrother_node.proxies import is_loopback
from aibrother_tools.app import warn

if TYPE_CHECKING:
    from collections.abc import Callable

_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,256}", re.ASCII)
_URL: Final = re.compile(r"[\x21-\x7e]{1,2000}", re.ASCII)
_FIRST_LINE: Final = 4096  # bytes that are looked at


@dataclass(frozen=True, slots=True)
class Remote:
    """A control plane elsewhere.

    Attributes:
        url: `http(s)://host[:port][/prefix]`, without `/admin/v1`.
        token: the secret.
    """

    url: str
    token: str = field(repr=False)


def remote_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--to` and `--token-file`; the command gets `remote`, which is None where they are not given."""

    @click.option("--to", metavar="CONTROL_URL", help="Ask the node with this control plane; with --token-file.")
    @click.option(
        "--token-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="F",
        help="Holds the token, in its first line.",
    )
    @functools.wraps(command)
    def wrapped(*args: Any, to: str | None, token_file: Path | None, **kwargs: Any) -> Any:
        return command(*args, remote=_remote(to, token_file), **kwargs)

    return wrapped


def _remote(to: str | None, token_file: Path | None) -> Remote | None:
    if to is None and token_file is None:
        return None
    if to is None or token_file is None:
        raise click.UsageError("--to and --token-file go together")
    url = _control_url(to)
    token = _token(token_file)
    parts = urlsplit(url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        warn(f"the token goes to {parts.hostname} in clear text; use https or an ssh tunnel")
    return Remote(url, token)


def _control_url(text: str) -> str:
    wrong = click.BadParameter("is no URL such as https://control.example.org:8081", param_hint="--to")
    if _URL.fullmatch(text) is None:
        raise wrong
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise wrong from None
    if not usable or parts.query or parts.fragment or "@" in parts.netloc:
        raise wrong
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/admin/v1')}"


def _token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = path.stat().st_mode
            line = file.readline(_FIRST_LINE)
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}", param_hint="--token-file") from None
    token = line.decode("ascii", "replace").strip()
    if _TOKEN.fullmatch(token) is None:
        raise click.BadParameter(f"{path} holds no token in its first line", param_hint="--token-file")
    if stat.S_ISREG(mode) and mode & 0o077:
        warn(f"{path} can be read by others: chmod 600 {path}")
    return token
