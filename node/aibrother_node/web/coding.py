"""Content codings of documents: which one an Accept-Encoding asks for (RFC 9110, 12.5.3), and how it is made."""

from __future__ import annotations

import gzip
import re
from typing import Final, Literal, TypeAlias

import zstandard

Coding: TypeAlias = Literal["zstd", "gzip"]

CODINGS: Final[tuple[Coding, ...]] = ("zstd", "gzip")
"""Best first, where the client weighs them alike."""

WORTH_CODING: Final = 512
"""Bytes below which a document goes out as it is."""

_MAX_HEADER: Final = 2048
_ELEMENT: Final = re.compile(r"([a-z0-9*_-]+)(?:[ \t]*;[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?")
_ZSTD_LEVEL: Final = 9
_GZIP_LEVEL: Final = 6


def choose_coding(accept_encoding: str | None) -> Coding | None:
    """The coding to answer with; None for none.

    Nobody is refused for want of a coding: whoever forbids `identity` gets one of ours or the document itself.
    """
    if not accept_encoding or len(accept_encoding) > _MAX_HEADER:
        return None
    weights: dict[str, float] = {}
    for element in accept_encoding.lower().split(","):
        found = _ELEMENT.fullmatch(element.strip(" \t"))
        if found is not None:
            weights[found[1]] = float(found[2] or 1)
    anything = weights.get("*", 0.0)
    identity = weights.get("identity", 0.0)
    best = max(CODINGS, key=lambda coding: weights.get(coding, weights.get(f"x-{coding}", anything)))
    weight = weights.get(best, weights.get(f"x-{best}", anything))
    return best if weight > 0 and weight >= identity else None


def encode(data: bytes, coding: Coding) -> bytes:
    """Apply a coding; the same bytes give the same result with the same library."""
    if coding == "gzip":
        return gzip.compress(data, _GZIP_LEVEL, mtime=0)
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(data)
