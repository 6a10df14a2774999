"""What a node remembers of one member beside its record: how it can be reached, whether it answers, its clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random

    from aibrother_node.fleet.detector import PhiDetector
    from aibrother_node.fleet.members import Member
    from aibrother_node.fleet.record import CatalogVersion, SignedRecord

_PATIENCE: Final = 3
"""Failures in a row that make a member suspect, before phi has anything to say."""
_LONGEST_PAUSE: Final = 60
"""Gossip intervals between attempts to reach who doesn't answer; they never end."""
_CATALOG_PAUSE: Final = 5.0
_LONGEST_CATALOG_PAUSE: Final = 600.0


@dataclass(slots=True)
class Peering:
    """One member, as this node deals with it.

    Attributes:
        detector: None until a record of it has come.
        failures: attempts in a row that failed, the first of them at `failing_since`.
        next_try: not before then.
        indirect: it was heard of through others while attempts failed: the way is cut, not the node.
        offset: how far its clock is ahead of ours in seconds, by its last message; None before.
        urgent: what its last record said of that kind.
        said_url: where it said that its fleet listener is; kept when its record is forgotten.
        refused_catalog: the version that it told of and that was not to be believed, with the reason.
    """

    detector: PhiDetector | None = None
    failures: int = 0
    failing_since: float = 0.0
    next_try: float = 0.0
    url_number: int = 0
    indirect: bool = False
    offset: float | None = None
    urgent: tuple[object, ...] = ()
    said_url: str | None = None
    refused_catalog: tuple[CatalogVersion, str] | None = None
    _refusals: int = 0
    _catalog_try: float = 0.0

    def failed(self, now: float, interval: float, rng: random.Random) -> None:
        """An attempt failed: another URL the next time, and later each time."""
        if not self.failures:
            self.failing_since = now
        self.failures += 1
        self.url_number += 1
        if self.failures >= _PATIENCE:
            pause = min(2.0 ** min(self.failures - _PATIENCE, 16), _LONGEST_PAUSE)
            self.next_try = now + interval * pause * rng.uniform(0.5, 1.0)

    def answered(self) -> None:
        """An attempt succeeded, or it called by itself."""
        self.failures = 0
        self.next_try = 0.0
        self.indirect = False

    def suspect(self, now: float, interval: float) -> bool:
        """Whether it stopped answering a moment ago, with no sign of life since."""
        return (
            self.failures >= _PATIENCE
            and not self.indirect
            and now - self.failing_since >= _PATIENCE * interval
            and (self.detector is None or self.detector.last <= self.failing_since + interval)
        )

    def refuse_catalog(self, version: CatalogVersion, reason: str, now: float) -> None:
        """It told of a catalog that can't be believed: others are asked first, it more and more seldom."""
        self.refused_catalog = version, reason
        self._catalog_try = now + min(_CATALOG_PAUSE * 2.0 ** min(self._refusals, 16), _LONGEST_CATALOG_PAUSE)
        self._refusals += 1

    def believe_catalog(self) -> None:
        """Its catalog was verified."""
        self.refused_catalog = None
        self._refusals = 0
        self._catalog_try = 0.0

    def may_be_asked(self, now: float) -> bool:
        """Whether a newer catalog that it tells of is worth an attempt."""
        return now >= self._catalog_try


@dataclass(frozen=True, slots=True)
class PeerState:
    """A member as others are told of it.

    Attributes:
        member: what the catalog says of it.
        record: what it says of itself; None where nothing has come.
        state: `alive`, `draining`, `leaving`, `suspect` (doesn't answer), `dead` (silent for too long) or `unknown` (no
            record).
        phi: how surprising its silence is.
        last_seen: when its last record came, in seconds since 1970; None for never.
        offset: its clock less ours, in seconds; None where it hasn't spoken to us.
        refused_catalog: see `Peering`.
    """

    member: Member
    record: SignedRecord | None
    state: str
    phi: float = 0.0
    last_seen: float | None = None
    offset: float | None = None
    refused_catalog: tuple[CatalogVersion, str] | None = None

    @property
    def id(self) -> str:
        """Its node id."""
        return self.member.id

    @property
    def url(self) -> str | None:
        """Where its public plane is: as the catalog says, else as it says itself."""
        return self.member.url or (self.record.record.says.url if self.record else None)

    @property
    def gossip_urls(self) -> tuple[str, ...]:
        """Where its fleet listener may be: what it says itself is newer than what the catalog says."""
        said = self.record.record.says.gossip_url if self.record else None
        return tuple(dict.fromkeys(url for url in (said, self.member.gossip_url) if url))


@dataclass(slots=True)
class SeedAttempts:
    """A URL to begin with, whoever is behind it."""

    peering: Peering = field(default_factory=Peering)
    node: str | None = None
