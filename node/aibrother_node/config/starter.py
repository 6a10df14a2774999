"""The short node.toml that `init` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

# The short escapes of TOML; other control characters take the long form.
_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}

_TEMPLATE: Final = """\
# Configuration of this node. Every key, its meaning and its default: conf/node.toml of aibrother-node.
# Paths are relative to this file's folder. Check changes with `aibrother-node --config FILE check-config`.

[node]
data = {data}
"""

_SIGNER: Final = """
[catalog]
# This node holds the snapshot and timestamp keys: it makes edits visible, and signs again in time.
signer = true
"""

_SEEDS: Final = """
[fleet]
# Where this node asks for the catalog and for other nodes, whoever else it knows of.
seeds = [{seeds}]
"""


def starter_toml(
    *,
    data: str = ".",
    region: str = "",
    public_url: str = "",
    gossip_url: str = "",
    signer: bool = False,
    seeds: Sequence[str] = (),
) -> str:
    """Render a short node.toml; what is "" is left out, so that it keeps its default."""
    text = _TEMPLATE.format(data=toml_string(data))
    for key, value in (("region", region), ("public_url", public_url), ("gossip_url", gossip_url)):
        if value:
            text += f"{key} = {toml_string(value)}\n"
    if signer:
        text += _SIGNER
    if seeds:
        text += _SEEDS.format(seeds=", ".join(map(toml_string, seeds)))
    return text


def toml_string(text: str) -> str:
    """Write a TOML basic string."""
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(char: str) -> str:
    if char < " " or char == "\x7f":
        return _ESCAPES.get(char) or f"\\u{ord(char):04X}"
    return _ESCAPES.get(char, char)
