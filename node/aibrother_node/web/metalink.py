"""Metalink 4 (RFC 5854): one XML document that says how long a file is, what it hashes to, and who has it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from xml.sax.saxutils import escape, quoteattr

from aibrother_node.content.chunks import FIXED_1, MAX_CHUNK, fixed_lengths
from aibrother_node.errors import InvalidInput
from aibrother_node.web.disposition import clean_filename

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aibrother_node.content.chunks import ChunkManifest
    from aibrother_node.content.digest import Digest

METALINK_TYPE: Final = "application/metalink4+xml"

_NAMESPACE: Final = "urn:ietf:params:xml:ns:metalink"
_MAX_PRIORITY: Final = 999_999  # RFC 5854, 4.2.17.3
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, 2.2


@dataclass(frozen=True, slots=True)
class Source:
    """Where the file can be had.

    Attributes:
        url: absolute, http or https.
        country: where that is, ISO 3166-1 alpha-2; None where it isn't known.
    """

    url: str
    country: str | None = None


def metalink(
    filename: str,
    digest: Digest,
    size: int | None,
    sources: Sequence[Source],
    pieces: ChunkManifest | None = None,
) -> bytes:
    """Write the Metalink of one file.

    Args:
        filename: what clients save it as; reduced to a name without folders.
        digest: of the whole file.
        size: in bytes; None where it isn't known.
        sources: best first; at least one, as RFC 5854, 4.1.2.1 asks.
        pieces: its `fixed/1` manifest, from which piece hashes are taken.

    Raises:
        InvalidInput: for a file name that can't be used, no sources, a URL that isn't absolute, or pieces of another
            file or of several lengths.
    """
    if not sources:
        raise InvalidInput("a Metalink names at least one source")
    if pieces is not None and not are_pieces_of(pieces, digest, size):
        raise InvalidInput(f"these are no {FIXED_1} pieces of {digest}")
    name = _NOT_XML.sub("", clean_filename(filename)) or digest.hex
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<metalink xmlns="{_NAMESPACE}">',
        f"  <file name={quoteattr(name)}>",
        *([] if size is None else [f"    <size>{size}</size>"]),
        f'    <hash type="sha-256">{digest.hex}</hash>',
        *(_pieces(pieces) if pieces is not None and len(pieces) else ()),
        *(_url(source, priority) for priority, source in enumerate(sources, 1)),
        "  </file>",
        "</metalink>",
        "",
    ]
    return "\n".join(lines).encode()


def are_pieces_of(pieces: ChunkManifest, digest: Digest, size: int | None) -> bool:
    """Whether a manifest is this file's `fixed/1`: all of one length but the last, as RFC 5854, 4.2.11 wants pieces."""
    return (
        pieces.chunker == FIXED_1
        and pieces.blob == digest
        and size in (None, pieces.size)
        and list(pieces.lengths) == fixed_lengths(pieces.size)
    )


def _pieces(manifest: ChunkManifest) -> Iterator[str]:
    yield f'    <pieces length="{MAX_CHUNK}" type="sha-256">'
    width = 32
    for offset in range(0, len(manifest.sha256), width):
        yield f"      <hash>{manifest.sha256[offset : offset + width].hex()}</hash>"
    yield "    </pieces>"


def _url(source: Source, priority: int) -> str:
    parts = urlsplit(source.url)
    if parts.scheme not in ("http", "https") or not parts.netloc or _NOT_XML.search(source.url):
        raise InvalidInput(f"{source.url[:200]!r} is no absolute URL")
    location = "" if source.country is None else f" location={quoteattr(source.country.lower())}"
    return f'    <url{location} priority="{min(priority, _MAX_PRIORITY)}">{escape(source.url)}</url>'
