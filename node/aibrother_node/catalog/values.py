"""Checks of single values in documents: each returns the value, or says in words what is wrong with it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final, TypeVar
from urllib.parse import urlsplit

from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput

MAX_INTEGER: Final = 2**53 - 1
"""What every JSON reader holds exactly (RFC 8259, section 6)."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_CONTROL_BUT_LINES: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII)
_URL: Final = re.compile(r"https?://[!-~]+", re.ASCII)
_BASE_URL: Final = re.compile(r"https?://[\w.~:%\[\]-]+(?:/[\w.~:/@!$&'()*+,;=%-]*)?", re.ASCII)

T = TypeVar("T")


def text(value: object, what: str, longest: int, *, shortest: int = 0, lines: bool = False) -> str:
    """Return a string of `shortest` to `longest` characters, none of them control characters.

    `lines` allows tab and line feed.

    Raises:
        InvalidInput: it is none.
    """
    if type(value) is not str:
        raise InvalidInput(f"{what} is {_shown(value)}, not a string")
    if not shortest <= len(value) <= longest:
        raise InvalidInput(f"{what} has {len(value)} characters, not {shortest} to {longest}")
    if not (value.isascii() and value.isprintable()) and (_CONTROL_BUT_LINES if lines else _CONTROL).search(value):
        raise InvalidInput(f"{what} holds control characters: {_shown(value)}")
    return value


def integer(value: object, what: str, least: int = 0, most: int = MAX_INTEGER) -> int:
    """Return an integer of that range; a boolean is none.

    Raises:
        InvalidInput: it is none.
    """
    if type(value) is not int:
        raise InvalidInput(f"{what} is {_shown(value)}, not an integer")
    if not least <= value <= most:
        raise InvalidInput(f"{what} is {value!r:.40}, not {least} to {most}")
    return value


def digest(value: object, what: str) -> Digest:
    """Return the digest that is written as `sha256:<hex>`.

    Raises:
        InvalidInput: it is none.
    """
    if type(value) is not str:
        raise InvalidInput(f"{what} is {_shown(value)}, not a digest")
    try:
        return Digest.parse(value)
    except InvalidInput as error:
        raise InvalidInput(f"{what}: {error}") from None


def sha256(value: object, what: str) -> Digest:
    """Return the digest that is written as 64 hex digits alone.

    Raises:
        InvalidInput: it is none.
    """
    if type(value) is not str:
        raise InvalidInput(f"{what} is {_shown(value)}, not 64 hex digits")
    try:
        return Digest.from_hex(value)
    except InvalidInput as error:
        raise InvalidInput(f"{what}: {error}") from None


def url(value: object, what: str) -> str:
    """Return an absolute http(s) URL of at most 2,048 characters, all of them visible ASCII.

    Raises:
        InvalidInput: it is none.
    """
    if not _URL.fullmatch(text(value, what, 2048)):
        raise InvalidInput(f"{what} is {_shown(value)}, not an absolute http(s) URL")
    assert isinstance(value, str)
    return value


def base_url(value: object, what: str) -> str:
    """Return a URL that something can be put after: host, perhaps a port and a path; no user, query or fragment.

    It can be connected to as it stands, and written between the angle brackets of a Link field.

    Raises:
        InvalidInput: it is none.
    """
    found = url(value, what)
    try:
        parts = urlsplit(found)
        usable = _BASE_URL.fullmatch(found) is not None and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port beyond 65,535, brackets around what is no address
        usable = False
    if not usable:
        raise InvalidInput(f"{what} is {_shown(value)}, not a URL of a host, a port and a path")
    return found


def time(value: object, what: str) -> str:
    """Return a time as documents write it: RFC 3339, UTC, whole seconds, `2026-11-24T03:40:00Z`.

    Raises:
        InvalidInput: it is none.
    """
    if type(value) is not str or not _TIME.fullmatch(value):
        raise InvalidInput(f"{what} is {_shown(value)}, not a time such as 2026-11-24T03:40:00Z")
    try:
        datetime.fromisoformat(value)
    except ValueError as error:
        raise InvalidInput(f"{what} is {_shown(value)}: {error}") from None
    return value


def time_text(now: datetime) -> str:
    """Write a time as documents do; fractions of a second are dropped.

    Raises:
        ValueError: it has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError("a time without a zone")
    return now.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def sequence(value: object, what: str, most: int) -> list[object]:
    """Return a JSON array of at most so many.

    Raises:
        InvalidInput: it is none.
    """
    if type(value) is not list:
        raise InvalidInput(f"{what} is {_shown(value)}, not an array")
    if len(value) > most:
        raise InvalidInput(f"{what} has {len(value)} elements, more than the {most} allowed")
    return value


def mapping(value: object, what: str) -> dict[str, object]:
    """Return a JSON object.

    Raises:
        InvalidInput: it is none.
    """
    if type(value) is not dict:
        raise InvalidInput(f"{what} is {_shown(value)}, not an object")
    return value


def member(of: dict[str, object], key: str, what: str) -> object:
    """Return a member that must be there.

    Raises:
        InvalidInput: it isn't.
    """
    try:
        return of[key]
    except KeyError:
        raise InvalidInput(f"{what} has no {key!r}") from None


def _shown(value: object) -> str:
    if isinstance(value, list | dict | tuple):
        return f"of the type {type(value).__name__}"
    return repr(value)[:80] if isinstance(value, str | int | float | None) else type(value).__name__
