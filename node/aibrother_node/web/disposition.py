"""Content-Disposition for a name that the requester proposes (RFC 6266, RFC 8187)."""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from urllib.parse import quote

from aibrother_node.errors import InvalidInput

MAX_FILENAME: Final = 255
"""Bytes of UTF-8: what file systems take for a name."""

# Controls (C0, DEL, C1), line and paragraph separators, and the marks that turn the direction of text, with which a
# name can be made to show another extension than it has.
_UNWANTED: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_SEPARATOR: Final = re.compile(r"[/\\]")
_ATTR_CHARS: Final = "!#$&+-.^_`|~"  # beside letters and digits: attr-char of RFC 8187, 3.2.1


def clean_filename(name: str) -> str:
    """Reduce a proposed name to one that is safe to save under: the last path segment, without controls.

    Raises:
        InvalidInput: if nothing usable is left, or it is longer than 255 bytes, or is not Unicode text.
    """
    # Cutting afterwards would cost work on what was never a file name.
    if len(name) > 4 * MAX_FILENAME:
        raise InvalidInput(f"a file name has at most {MAX_FILENAME} bytes")
    cleaned = _UNWANTED.sub("", _SEPARATOR.split(name)[-1]).strip()
    if cleaned in ("", ".", ".."):
        raise InvalidInput("the file name is empty")
    try:
        length = len(cleaned.encode())
    except UnicodeEncodeError as fault:
        raise InvalidInput("the file name is not Unicode text") from fault
    if length > MAX_FILENAME:
        raise InvalidInput(f"a file name has at most {MAX_FILENAME} bytes, not {length}")
    return cleaned


def content_disposition(name: str) -> str:
    """The value of Content-Disposition that makes a client save under `name`.

    `filename*` is added where `filename` alone can't carry the name: text beyond ASCII, and `%` and quotes, which old
    clients read differently (RFC 6266, appendix D).

    Raises:
        InvalidInput: as `clean_filename`.
    """
    cleaned = clean_filename(name)
    # Canonical decomposition only: the compatible one turns single characters into "..", "a/c" or long strings.
    decomposed = unicodedata.normalize("NFD", cleaned)
    letters = (char for char in decomposed if not unicodedata.combining(char))
    fallback = "".join(char if " " <= char <= "~" else "_" for char in letters) or "_"
    escaped = fallback.replace('"', '\\"')
    value = f'attachment; filename="{escaped}"'
    if fallback != cleaned or "%" in cleaned or '"' in cleaned:
        value += f"; filename*=UTF-8''{quote(cleaned, safe=_ATTR_CHARS)}"
    return value
