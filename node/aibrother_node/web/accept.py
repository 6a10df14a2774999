"""Which of two forms of an answer an Accept header asks for (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re
from typing import Final

from aibrother_node.web.answer import CHUNKS_TYPE

MAX_ACCEPT: Final = 4096
"""Characters of an Accept header above which it is ignored."""

_RANGE: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)/([!#$%&'*+.^_`|~0-9A-Za-z-]+)")
_WEIGHT: Final = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")


def prefers_json(accept: str | None) -> bool:
    """Whether to answer with JSON, the form for people, and not with msgpack, the form for programs.

    The manifest's own bytes are msgpack, so they win unless the client says otherwise. It does so by giving a JSON type
    a higher weight than it gives msgpack by name or wildcard, by naming HTML without msgpack as browsers do, or by
    refusing msgpack with `q=0` while a wildcard lets JSON in. Nothing is ever answered with 406.
    """
    if not accept or len(accept) > MAX_ACCEPT:
        return False
    weights = _weights(accept)
    json = max((q for name, q in weights.items() if _is_json(name)), default=None)
    wildcard = weights.get("application/*", weights.get("*/*", 0))
    msgpack = weights.get(CHUNKS_TYPE, wildcard)
    if json is not None:
        browses = CHUNKS_TYPE not in weights and weights.get("text/html", 0) > 0
        return json > msgpack or (json > 0 and browses)
    if CHUNKS_TYPE in weights:
        return msgpack == 0 and wildcard > 0
    return weights.get("text/html", 0) > 0


def prefers_openmetrics(accept: str | None) -> bool:
    """Whether to answer with OpenMetrics and not with Prometheus' older text: where it is named and no less welcome."""
    if not accept or len(accept) > MAX_ACCEPT:
        return False
    weights = _weights(accept)
    return weights.get("application/openmetrics-text", 0) >= max(1, weights.get("text/plain", 0))


def _is_json(name: str) -> bool:
    return name == "application/json" or name.endswith("+json")


def _weights(accept: str) -> dict[str, int]:
    """The media ranges in lower case with their weights in thousandths; the highest where one is repeated.

    Elements that are not media ranges, or whose weight is none, are skipped.
    """
    weights: dict[str, int] = {}
    for element in accept.split(","):
        name, *parameters = (piece.strip(" \t").lower() for piece in element.split(";"))
        if not _RANGE.fullmatch(name):
            continue
        weight = next((value[2:] for value in parameters if value.startswith("q=")), "1")
        if _WEIGHT.fullmatch(weight):
            thousandths = int(weight.replace(".", "").ljust(4, "0"))
            weights[name] = max(thousandths, weights.get(name, 0))
    return weights
