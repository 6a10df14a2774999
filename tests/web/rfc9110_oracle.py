"""What RFC 9110 prescribes for a GET or HEAD with conditions and ranges, derived in another way than the node does it.

The grammar is assembled from the RFC's ABNF rule by rule; ranges are sets of byte positions, so that "satisfiable",
"overlap" and "cut to the size" are what sets say and no arithmetic; tags are found by splitting at quotes. Slow, for
representations of some hundred bytes. Where the RFC leaves a choice, the contract's is taken and said so.
"""

from __future__ import annotations

import email
import email.policy
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aibrother_node.web.answer import Answer

# RFC 9110, 5.6.1.2 (lists as a recipient takes them), 5.6.3 (OWS), 8.8.3 (entity tags), 14.1.1 (ranges)
OWS = "[ \t]*"
ENTITY_TAG = '(W/)?"([\x21\x23-\x7e]|[\x80-\U0010ffff])*"'
INT_RANGE = "[0-9]+-[0-9]*"
SUFFIX_RANGE = "-[0-9]+"
RANGE_SPEC = f"({INT_RANGE}|{SUFFIX_RANGE})"


def list_of(element: str) -> re.Pattern[str]:
    return re.compile(f"({element})?({OWS},{OWS}({element})?)*")


TAG_LIST = list_of(ENTITY_TAG)
RANGE_SET = list_of(RANGE_SPEC)


@dataclass(frozen=True)
class Expected:
    """A status and the byte positions of each piece of the body, in order."""

    status: int
    pieces: tuple[tuple[int, ...], ...] = ()


def listed_tags(field: str) -> list[tuple[bool, str]] | None:
    """(weak, opaque with quotes) of each tag; None for a malformed list."""
    if not TAG_LIST.fullmatch(field):
        return None
    pieces = field.split('"')
    return [(pieces[i - 1].endswith("W/"), f'"{pieces[i]}"') for i in range(1, len(pieces), 2)]


def condition_lists_it(field: str, etags: Sequence[str], *, weakly: bool) -> bool:
    """13.1.1 and 13.1.2, without the negation. Contract: a malformed field lists nothing."""
    field = field.strip(" \t")
    if field == "*":
        return True
    tags = listed_tags(field)
    return tags is not None and any(opaque in etags and (weakly or not weak) for weak, opaque in tags)


def wanted_sets(field: str, size: int, max_ranges: int) -> list[set[int]] | None:
    """The positions that each spec of a Range names; None for another unit or an invalid specifier.

    Contract: what follows the first spec too many is not looked at (14.2 allows to ignore and to reject).
    """
    unit, equals, range_set = field.strip(" \t").partition("=")
    if not equals or unit.lower() != "bytes" or not unit.isascii():
        return None
    # Erratum 7306 puts OWS here, as an example in 14.1.2 has it.
    range_set = range_set.lstrip(" \t")
    if not RANGE_SET.fullmatch(range_set):
        return None
    specs = re.findall(RANGE_SPEC, range_set)[: max_ranges + 1]
    sets = []
    for spec in specs:
        first, _, last = spec.partition("-")
        if first and last and int(last) < int(first):
            return None
        if not first:
            sets.append({position for position in range(size) if size - position <= int(last)})
        else:
            sets.append({p for p in range(size) if p >= int(first) and (not last or p <= int(last))})
    return sets or None


def expect(method: str, fields: Mapping[str, str], size: int, etags: Sequence[str], max_ranges: int = 16) -> Expected:
    """The prescribed answer; `fields` has lower-case names, `etags` all strong tags of the representation."""
    if "if-match" in fields and not condition_lists_it(fields["if-match"], etags, weakly=False):
        return Expected(412)
    if "if-none-match" in fields and condition_lists_it(fields["if-none-match"], etags, weakly=True):
        return Expected(304)
    if method == "HEAD":
        return Expected(200)
    whole = Expected(200, (tuple(range(size)),))
    if "range" not in fields:
        return whole
    if "if-range" in fields:
        tags = listed_tags(fields["if-range"].strip(" \t"))
        one = fields["if-range"].count('"') == 2 and "," not in re.sub('".*"', "", fields["if-range"])
        if not (one and tags and not tags[0][0] and tags[0][1] in etags):
            return whole
    sets = wanted_sets(fields["range"], size, max_ranges)
    if sets is None:
        return whole
    satisfiable = [positions for positions in sets if positions]
    in_conflict = [
        index
        for index, positions in enumerate(satisfiable)
        if any(positions & other for place, other in enumerate(satisfiable) if place != index)
    ]
    # Contract: more than 16, or more than two that overlap, are 416 (14.2 allows it).
    if len(sets) > max_ranges or len(in_conflict) > 2:
        return Expected(416)
    if size == 0 and re.search("(^|[=, \t])-0*[1-9]", fields["range"]):
        return whole  # satisfiable by 14.1.2, though no Content-Range can say so
    if not satisfiable:
        return Expected(416)
    return Expected(206, tuple(tuple(sorted(positions)) for positions in satisfiable))


def body_of(answer: Answer, blob: bytes) -> bytes:
    """The body that a sender would put on the wire."""
    pieces = [
        part if isinstance(part, bytes) else blob[part.offset : part.offset + part.length] for part in answer.parts
    ]
    return b"".join(pieces)


def byte_ranges(content_type: str, body: bytes) -> list[tuple[str, str, bytes]]:
    """(Content-Type, Content-Range, bytes) of each part of a multipart body, as Python's MIME parser sees it."""
    head = f"MIME-Version: 1.0\r\nContent-Type: {content_type}\r\n\r\n".encode("ascii")
    message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    assert message.is_multipart()
    assert not message.defects
    assert not message.preamble
    assert not message.epilogue
    found = []
    for part in message.iter_parts():
        assert not part.defects
        assert sorted(name.lower() for name in part) == ["content-range", "content-type"]
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)
        found.append((str(part["Content-Type"]), str(part["Content-Range"]), payload))
    return found
