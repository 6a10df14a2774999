"""Variables: `AIBROTHER_<SECTION>__<KEY>`, and `AIBROTHER_UPSTREAM__<NAME>__<KEY>` for upstreams.

A variable that looks like ours and names nothing is a fault: a misspelt one would otherwise do nothing, silently.
"""

import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final

from aibrother_node.config.base import ListKey
from aibrother_node.config.layers import Key, Layers, marks, model_field
from aibrother_node.config.schema import NodeConfig, keys_of_section
from aibrother_node.config.upstream import UpstreamSection

PREFIX: Final = "AIBROTHER_"

NOT_KEYS: Final = frozenset({"AIBROTHER_CONFIG"})
"""Variables with our prefix that are no keys: $AIBROTHER_CONFIG names the file."""

# Kubernetes gives every container AIBROTHER_NODE_PORT=tcp://10.0.0.1:8080 and its like for a service named
# "aibrother-node"; nobody wrote them and nobody could take them away.
_KUBERNETES: Final = re.compile(
    r"AIBROTHER_\w*?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", re.ASCII
)
_KUBERNETES_URL: Final = re.compile(r"(tcp|udp|sctp)://\S+")

_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})


def apply_environment(layers: Layers, environ: Mapping[str, str], faults: list[str]) -> None:
    """Write the variables over the file's values; faults name the variable, the key and the reason."""
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in NOT_KEYS:
            continue
        value = environ[variable]
        if "__" not in variable and _made_by_kubernetes(variable, value):
            continue
        key = _key(variable, layers, faults)
        if key is not None:
            layers.set(key, _typed(key, value), variable)


def _made_by_kubernetes(variable: str, value: str) -> bool:
    if variable.endswith("_PORT") and _KUBERNETES_URL.fullmatch(value):
        return True
    return _KUBERNETES.fullmatch(variable) is not None


def _key(variable: str, layers: Layers, faults: list[str]) -> Key | None:
    """Find the key that a variable sets, or add the fault."""
    if variable != variable.upper():
        faults.append(f"{variable}: is written in capitals: {variable.upper()}")
        return None
    section, *rest = variable.removeprefix(PREFIX).lower().split("__")
    if section == "upstream" and len(rest) == 2 and all(rest):
        return _upstream_key(variable, rest[0], rest[1], layers, faults)
    if len(rest) == 1 and rest[0] in keys_of_section(section) and section != "upstream":
        return section, rest[0]
    faults.append(f"{variable}: sets nothing{_hint(variable)}")
    return None


def _upstream_key(variable: str, part: str, key: str, layers: Layers, faults: list[str]) -> Key | None:
    # Names have dashes where variables can only have underscores, and never an underscore of their own.
    name = part.replace("_", "-")
    if key == "name":
        faults.append(f"{variable}: the name is part of the variable; it can't be set")
        return None
    if key not in UpstreamSection.model_fields:
        faults.append(f"{variable}: sets nothing{_hint(variable, f'{PREFIX}UPSTREAM__{part.upper()}__')}")
        return None
    upstreams = layers.upstreams()
    if upstreams is None:
        return None
    for position in range(len(upstreams)):
        if layers.upstream_name(position) == name:
            return "upstream", position, key
    return "upstream", layers.add_upstream(name, variable), key


def _hint(variable: str, upstream: str | None = None) -> str:
    if upstream is not None:
        known = [upstream + key.upper() for key in UpstreamSection.model_fields if key != "name"]
    else:
        known = [
            f"{PREFIX}{section}__{key}".upper()
            for section in NodeConfig.model_fields
            if section != "upstream"
            for key in keys_of_section(section)
        ]
        if variable.startswith(f"{PREFIX}UPSTREAM"):
            return f"; for upstreams it is {PREFIX}UPSTREAM__<NAME>__<KEY>"
    close = get_close_matches(variable, known, n=1, cutoff=0.8)
    return f"; did you mean {close[0]}?" if close else ""


def _typed(key: Key, text: str) -> Any:
    """Turn the text into what TOML would have given; what doesn't fit stays text, for the schema to refuse."""
    info = model_field(key)
    assert info is not None
    if any(isinstance(mark, ListKey) for mark in marks(info)):
        return _list(key, text)
    if info.annotation is bool:
        return True if text.lower() in _TRUE else False if text.lower() in _FALSE else text
    if info.annotation is int and re.fullmatch(r"-?\d{1,20}", text, re.ASCII):
        return int(text)
    if key in {("node", "latitude"), ("node", "longitude")} and re.fullmatch(
        r"-?\d{1,20}(\.\d{1,20})?", text, re.ASCII
    ):
        return float(text)
    return text


def _list(key: Key, text: str) -> Any:
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    # "all" and "pinned" are words, not lists of one.
    if key == ("policy", "wants") and "," not in text:
        return text
    return [item.strip() for item in text.split(",") if item.strip()]
