"""Conditional requests: entity tags and the order in which preconditions are looked at.

The law (RFC 9110, section 13.2.2), for GET and HEAD of a representation that exists and has no modification date:

1. If-Match that does not match strongly: 412. (If-Unmodified-Since needs a date, which we don't have: ignored, 13.1.4.)
2. If-None-Match that matches weakly: 304. (If-Modified-Since is ignored likewise: 13.1.3.)
3. Range with If-Range: the Range counts only if the tag matches strongly. A date in If-Range never matches (13.1.5).

What the RFC leaves open is a field that does not fit the grammar. It names no representation, so it matches none:
If-Match fails (nobody gets bytes they excluded), If-None-Match and If-Range give the whole (which costs bytes, never
truth). That is said of the field as a whole, so that the answer does not hang on the order of its elements.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

HeaderGetter: TypeAlias = "Callable[[str], str | None]"
"""Takes a header name in lower case, returns its value or None.

Lines that carry the same name come joined by ", " (RFC 9110, 5.3): a `get` that returns only the first one will not do.
"""

MAX_FIELD: Final = 8192
"""Characters in a list of tags above which it counts as malformed."""

# etagc is %x21 / %x23-7E / obs-text; how a server decodes obs-text differs, so everything from U+0080 is let through.
_ENTITY_TAG: Final = r'(?:W/)?"[\x21\x23-\x7e\x80-\U0010ffff]*+"'
_TAG: Final = re.compile(_ENTITY_TAG)
# Possessive throughout: no input makes the matcher go back, so the cost is linear.
_TAG_LIST: Final = re.compile(rf"(?:[ \t]*+(?:{_ENTITY_TAG})?+[ \t]*+(?:,|\Z))*+")


@dataclass(frozen=True, slots=True)
class TagList:
    """The value of If-Match or If-None-Match.

    Both ways to compare take `accepted`, the strong tags of one representation. Two strong tags are equal exactly if
    their texts are, so nothing needs to be taken apart.

    Attributes:
        anything: it is `*`, which stands for any representation that exists.
        tags: the entity tags listed (RFC 9110, 8.8.3), with quotes, weak ones with their `W/`; none when it is `*`.
    """

    anything: bool
    tags: frozenset[str] = frozenset()

    def matches_strongly(self, accepted: Collection[str]) -> bool:
        """Whether one of the tags is one of `accepted` and not weak (RFC 9110, 8.8.3.2)."""
        return self.anything or not self.tags.isdisjoint(accepted)

    def matches_weakly(self, accepted: Collection[str]) -> bool:
        """Whether one of the tags is one of `accepted`, weak or not (RFC 9110, 8.8.3.2)."""
        return self.matches_strongly(accepted) or any(f"W/{tag}" in self.tags for tag in accepted)


class Verdict(Enum):
    """What the preconditions make of a GET or HEAD."""

    PROCEED = "proceed"
    NOT_MODIFIED = "not modified"
    FAILED = "failed"


def parse_tag_list(text: str) -> TagList | None:
    """Read `"*" / #entity-tag` (RFC 9110, 13.1.1); None if it is malformed or longer than `MAX_FIELD`.

    Empty elements are skipped, as 5.6.1.2 demands, and a list may be empty.
    """
    text = text.strip(" \t")
    if text == "*":
        return TagList(anything=True)
    if len(text) > MAX_FIELD:
        return None
    if not _TAG_LIST.fullmatch(text):
        return None
    return TagList(anything=False, tags=frozenset(_TAG.findall(text)))


def evaluate(headers: HeaderGetter, accepted: Collection[str]) -> Verdict:
    """Look at If-Match, then If-None-Match, for a representation known by the strong tags `accepted`."""
    if_match = headers("if-match")
    if if_match is not None and if_match not in accepted:
        wanted = parse_tag_list(if_match)
        if wanted is None or not wanted.matches_strongly(accepted):
            return Verdict.FAILED
    if_none_match = headers("if-none-match")
    if if_none_match is not None:
        if if_none_match in accepted:
            return Verdict.NOT_MODIFIED
        known = parse_tag_list(if_none_match)
        if known is not None and known.matches_weakly(accepted):
            return Verdict.NOT_MODIFIED
    return Verdict.PROCEED


def if_range_holds(value: str, accepted: Collection[str]) -> bool:
    """Whether an If-Range lets the Range count: it is a strong tag, and one of `accepted` (RFC 9110, 13.1.5)."""
    return value.strip(" \t") in accepted
