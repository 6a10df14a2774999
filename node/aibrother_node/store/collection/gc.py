"""Which blobs stay and which go, and why: pure, from what was seen a moment ago.

A blob stays that a channel names, that is pinned or leased, and a manifest for as long as a blob stays that it
describes, or a channel names that blob. What nothing names is marked, and goes once the mark is as old as the grace.

Where room is needed (the store is over `max_size`, or the file system's free space below the reserve), blobs that are
named may be evicted as well: first what the policy doesn't want, then old versions, then what was asked for the
longest time ago. What is proposed here is only done for a blob that others confirm to have (copies.py), and each
removal is checked once more when it is done (collecting.py): this is a plan, not a permission.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from aibrother_node.store.leases import LONGEST

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from aibrother_node.content.digest import Digest
    from aibrother_node.store.leases import Lease

_SHOWN: Final = 12  # digits of a node id


class Verdict(StrEnum):
    """What becomes of a blob."""

    KEPT = "kept"
    MARKED = "marked"
    REMOVED = "removed"
    EVICTED = "evicted"


@dataclass(frozen=True, slots=True)
class Held:
    """A blob that is stored: its bytes, and since when (seconds since 1970)."""

    size: int
    added: float


@dataclass(frozen=True, slots=True)
class Name:
    """What a channel calls a blob.

    Attributes:
        path: one of the targets that name it, the fixed name of the newest release where there are several.
        wanted: this node's policy wants one of them.
        newest: one of them is of the newest version.
    """

    path: str
    wanted: bool = True
    newest: bool = True


@dataclass(frozen=True)
class Seen:
    """What there is.

    Attributes:
        blobs: all that is stored, manifests too.
        names: blobs that channels name, stored here or not.
        manifests: of blobs, stored here or not, the manifests that describe them.
        pins: their reasons.
        leases: those that last.
        marks: since when nothing names a blob.
        fills: blobs of which a part is here: damaged ones, and those that are being fetched.
        fill_bytes: what fills take.
        free: bytes that may be written on the file system.
        accessed: when a blob was last asked for.
    """

    blobs: Mapping[Digest, Held]
    names: Mapping[Digest, Name] = field(default_factory=dict)
    manifests: Mapping[Digest, Collection[Digest]] = field(default_factory=dict)
    pins: Mapping[Digest, str] = field(default_factory=dict)
    leases: Mapping[Digest, Lease] = field(default_factory=dict)
    marks: Mapping[Digest, float] = field(default_factory=dict)
    fills: AbstractSet[Digest] = frozenset()
    fill_bytes: int = 0
    free: int = 0
    accessed: Callable[[Digest], float] = lambda _: 0.0


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator wants.

    Attributes:
        now: the time, in seconds since 1970.
        grace: seconds that a mark must be old.
        max_size: bytes that blobs and fills may take; None for what the file system has.
        reserve: bytes of the file system to keep free.
    """

    now: float
    grace: float
    max_size: int | None = None
    reserve: int = 0

    def due(self, since: float, *, short: bool) -> float:
        """When what is marked since then goes; sooner where room is needed, but never before every lease has ended."""
        return since + (min(self.grace, LONGEST) if short else self.grace)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one blob.

    Attributes:
        digest, size: which.
        verdict: what becomes of it.
        reason: why, for people.
        since: of what nothing names: since when.
    """

    digest: Digest
    size: int
    verdict: Verdict
    reason: str
    since: float | None = None

    def __str__(self) -> str:
        return f"{self.verdict}: {self.reason}"


@dataclass
class Plan:
    """All decisions, and what may be evicted besides.

    Attributes:
        decisions: by blob.
        used: bytes that blobs and fills take now.
        need: bytes that have to be evicted, over what is removed.
        short: room is needed, whatever is removed.
        why_short: what is not held by removing alone: `max_size` or `the reserve`; empty where that is enough.
        candidates: blobs that may be evicted, in the order in which they go; those that a node must keep among them.
    """

    decisions: dict[Digest, Decision]
    used: int = 0
    need: int = 0
    short: bool = False
    why_short: str = ""
    candidates: list[Digest] = field(default_factory=list)

    def of(self, *verdicts: Verdict) -> list[Decision]:
        """The decisions that come to one of these, manifests after what they describe."""
        return [decision for decision in self.decisions.values() if decision.verdict in verdicts]

    def evict(self, digest: Digest, holders: Sequence[str]) -> Decision:
        """Decide that a candidate goes: these nodes confirm that they keep it."""
        old = self.decisions[digest]
        reason = f"over {self.why_short}; also on {_nodes(holders)}"
        self.decisions[digest] = decision = replace(old, verdict=Verdict.EVICTED, reason=reason)
        return decision

    def keep(self, digest: Digest, reason: str) -> Decision:
        """Decide that a candidate stays, though room is needed."""
        old = self.decisions[digest]
        self.decisions[digest] = decision = replace(old, reason=f"over {self.why_short}, but {reason}")
        return decision

    def sums(self) -> dict[str, dict[str, int]]:
        """Blobs and bytes by verdict."""
        found = {str(verdict): {"blobs": 0, "bytes": 0} for verdict in Verdict}
        for decision in self.decisions.values():
            found[decision.verdict]["blobs"] += 1
            found[decision.verdict]["bytes"] += decision.size
        return found


def plan(seen: Seen, rules: Rules) -> Plan:
    """Decide about every blob that is stored."""
    kept = _kept(seen)
    used = sum(blob.size for blob in seen.blobs.values()) + seen.fill_bytes
    over = {
        "max_size": 0 if rules.max_size is None else used - rules.max_size,
        "the reserve": rules.reserve - seen.free,
    }
    short = max(over.values()) > 0
    # manifests last: what is interrupted in between leaves a manifest without its blob, and not the other way round
    manifests = {manifest for found in seen.manifests.values() for manifest in found}
    decisions: dict[Digest, Decision] = {}
    removed = 0
    for digest in sorted(seen.blobs, key=lambda digest: (digest in manifests, digest.raw)):
        blob = seen.blobs[digest]
        reason = kept.get(digest)
        if reason is not None:
            decisions[digest] = Decision(digest, blob.size, Verdict.KEPT, reason)
            continue
        decision = _unnamed(digest, blob, seen.marks.get(digest, rules.now), rules, short=short)
        decisions[digest] = decision
        removed += blob.size if decision.verdict is Verdict.REMOVED else 0
    why_short, most = max(over.items(), key=lambda item: item[1])
    need = max(0, most - removed)
    found = Plan(decisions, used, need, short, why_short if need else "")
    if need:
        found.candidates = sorted(
            (
                digest
                for digest in seen.names
                if digest in seen.blobs
                and digest not in seen.pins
                and digest not in seen.leases
                and digest not in manifests
            ),
            key=lambda digest: _order(seen, digest),
        )
    return found


def room_for(candidates: Iterator[Digest], sizes: Callable[[Digest], int], need: int, most: int) -> list[Digest]:
    """The next candidates, as many as it takes to free `need` bytes, and at most so many."""
    found: list[Digest] = []
    while need > 0 and len(found) < most and (digest := next(candidates, None)) is not None:
        found.append(digest)
        need -= sizes(digest)
    return found


def _kept(seen: Seen) -> dict[Digest, str]:
    """Why each blob stays that stays; also of blobs that aren't here, for what describes them."""
    kept: dict[Digest, str] = {}
    for digest, name in seen.names.items():
        kept[digest] = f"{name.path} names it" + (
            "" if name.wanted else "; the policy doesn't want it, so it goes first where room is needed"
        )
    for digest, lease in seen.leases.items():
        kept[digest] = f"leased by {lease.holder} until {when(lease.until)}"
    for digest, reason in seen.pins.items():
        kept[digest] = f'pinned ("{reason}")'
    for digest in seen.fills:
        kept.setdefault(digest, "a part of it is here")
    waiting = list(kept)
    while waiting:
        blob = waiting.pop()
        for manifest in seen.manifests.get(blob, ()):
            if manifest not in kept:
                kept[manifest] = f"describes {blob}, which stays: {kept[blob]}"
                waiting.append(manifest)
    return kept


def _unnamed(digest: Digest, blob: Held, since: float, rules: Rules, *, short: bool) -> Decision:
    since = min(since, rules.now)  # a clock that was set back makes nothing wait for ever
    due = rules.due(since, short=short)
    if rules.now >= due:
        return Decision(digest, blob.size, Verdict.REMOVED, "nothing names it", since)
    reason = f"nothing names it since {when(since)}, removed after {when(due)}"
    return Decision(digest, blob.size, Verdict.MARKED, reason, since)


def _order(seen: Seen, digest: Digest) -> tuple[bool, bool, float, bytes]:
    name = seen.names[digest]
    return name.wanted, name.newest, max(seen.accessed(digest), seen.blobs[digest].added), digest.raw


def when(seconds: float) -> str:
    """A time for people, RFC 3339 in UTC; one that no calendar has is said to be far away."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "a far time"


def _nodes(holders: Sequence[str]) -> str:
    return ", ".join(holder[:_SHOWN] for holder in holders)
