"""Loading: the file, then the environment over it, then the command line over both; every fault named at once.

Why not pydantic-settings: docs/adr/0003-configuration.md. The loader reads one file and nothing else of the machine:
environment and current folder are passed in.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from aibrother_node.config.effect import not_yet
from aibrother_node.config.environment import apply_environment
from aibrother_node.config.explain import explain
from aibrother_node.config.layers import Layers
from aibrother_node.config.schema import ControlSection, FleetSection, NodeConfig, PublicSection
from aibrother_node.config.values import hosts_overlap
from aibrother_node.errors import ConfigurationError
from aibrother_node.proxies import is_loopback

MAX_FILE: Final = 1024**2
"""A configuration file has at most so many bytes; more is some other file named by mistake."""

BUILT_IN: Final = "built-in defaults"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checked configuration and where it came from.

    Attributes:
        config: the configuration; its paths are absolute.
        source: the file as it was named, or "built-in defaults".
        path: that file, absolute; None for the defaults.
        warnings: one line each, for people; nothing in them stops the node.
        origins: for each key that someone set ("public.port"), the file, variable or option that set it.
    """

    config: NodeConfig
    source: str
    path: Path | None
    warnings: list[str] = field(default_factory=list)
    origins: Mapping[str, str] = field(default_factory=dict)


def load_config(
    *,
    config: Path | None,
    data: Path | None,
    environ: Mapping[str, str],
    cwd: Path,
    overrides: Mapping[str, Any] | None = None,
) -> Loaded:
    """Load and check the configuration.

    `config` and `data` are the options of those names; `overrides` are other options, by key ("public.port": 0), and
    win over everything. The file is `config`, else $AIBROTHER_CONFIG, else `<data>/node.toml`, else `./node.toml`,
    else none; one that was named must exist. Relative paths are relative to the file's folder, in the environment, on
    the command line and in the defaults to `cwd`. Raises ConfigurationError with all faults.
    """
    layers = Layers(cwd)
    faults: list[str] = []
    shown, path = _find(config, data, environ, cwd, faults)
    if path is not None:
        layers.add_file(_read(path, shown, faults), shown, path.parent)
    apply_environment(layers, environ, faults)
    for key, value in (overrides or {}).items():
        layers.set(tuple(key.split(".")), value, _option(key))
    if data is not None:
        layers.set(("node", "data"), str(data), "--data")
    layers.resolve_paths(environ, faults)
    checked: NodeConfig | None = None
    try:
        checked = NodeConfig.model_validate(layers.tree)
    except ValidationError as error:
        faults += explain(error, layers)
    else:
        faults += _port_faults(checked, layers)
    if faults or checked is None:
        raise ConfigurationError(list(dict.fromkeys(faults)))
    origins = layers.origins_by_key()
    return Loaded(checked, shown, path, [*not_yet(origins), *_exposed(checked)], origins)


def _find(
    config: Path | None, data: Path | None, environ: Mapping[str, str], cwd: Path, faults: list[str]
) -> tuple[str, Path | None]:
    """Return the file to read as people named it and as an absolute path."""
    # An empty variable is how a shell or a compose file says "not set".
    named = config or (Path(environ["AIBROTHER_CONFIG"]) if environ.get("AIBROTHER_CONFIG") else None)
    if named is not None:
        path = cwd / named
        if not path.exists():
            by = "--config" if config else "AIBROTHER_CONFIG"
            faults.append(f"{named}: there is no such file ({by})")
            return str(named), None
        return str(named), path
    implied = [Path("node.toml")] if data is None else [data / "node.toml", Path("node.toml")]
    for candidate in implied:
        if (cwd / candidate).exists():
            return str(candidate), cwd / candidate
    return BUILT_IN, None


def _port_faults(config: NodeConfig, layers: Layers) -> Iterator[str]:
    """Name planes that were given the same port.

    A port that nobody chose is no contradiction: in a version or set-up where that plane is not served, its default
    number is free to use, and where it is served, binding says so. (The models can't tell the two apart once a
    configuration has been handed to another process.)
    """
    planes: tuple[tuple[str, PublicSection | ControlSection | FleetSection], ...] = (
        ("public", config.public),
        ("control", config.control),
        ("fleet", config.fleet),
    )
    chosen = [(name, plane) for name, plane in planes if plane.port and layers.was_set((name, "port"))]
    for (one, earlier), (other, later) in combinations(chosen, 2):
        if later.port == earlier.port and hosts_overlap(later.host, earlier.host):
            yield f"{layers.label_of((other, 'port'))}: {other}.port: {later.port} is taken by {one}.port"


def _exposed(config: NodeConfig) -> Iterator[str]:
    """Warn of a control plane that others reach: it speaks plain HTTP."""
    hosts = [host for host in config.control.host if not is_loopback(host)]
    if hosts:
        yield (
            f"control.host: {', '.join(hosts)}: tokens go over plain HTTP there and can be read on the way; "
            "listen on loopback, behind an ssh tunnel or a TLS proxy"
        )


def _option(key: str) -> str:
    """Name the option that sets a key: `--port` for the public plane, `--log-level` and the like for the others."""
    return "--" + key.removeprefix("public.").replace(".", "-").replace("_", "-")


def _read(path: Path, shown: str, faults: list[str]) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        faults.append(f"{shown}: can't be read: {error.strerror or error}")
        return {}
    if len(content) > MAX_FILE:
        faults.append(f"{shown}: has more than {MAX_FILE} bytes, so it is no configuration")
        return {}
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        faults.append(f"{shown}:{line}:{column}: is not UTF-8")
    except tomllib.TOMLDecodeError as error:
        faults.append(_syntax_fault(shown, str(error), content.decode()))
    return {}


def _syntax_fault(shown: str, message: str, text: str) -> str:
    # Until Python 3.14 the position stands only in the message: "… (at line 3, column 7)" or "… (at end of document)".
    reason, _, place = message.rpartition(" (at ")
    numbers = [int(word) for word in place.rstrip(")").replace(",", "").split() if word.isdigit()]
    if len(numbers) == 2:
        line, column = numbers
    else:
        lines = text.split("\n")
        line, column = len(lines), len(lines[-1]) + 1
    return f"{shown}:{line}:{column}: {reason or message}"
