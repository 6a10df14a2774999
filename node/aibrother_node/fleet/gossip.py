"""What an engine of gossip is set up with, what it wants sent, and what it counts."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aibrother_node.errors import Refused
from aibrother_node.fleet.messages import MAX_ENTRIES

if TYPE_CHECKING:
    from aibrother_node.fleet.table import Verdict

_LAGS: Final = 1000


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How an engine gossips; times in seconds.

    Attributes:
        interval: between rounds.
        fanout: live members that are asked in each.
        refresh: after which a record is signed again though nothing changed.
        forget_after: after which only its owner can bring a record.
        clock_tolerance: that a clock may be off.
        phi_threshold: from which on a silent member counts as dead.
        max_entries: records that one digest speaks of.
    """

    interval: float = 1.0
    fanout: int = 3
    refresh: float = 30.0
    forget_after: float = 3600.0
    clock_tolerance: float = 300.0
    phi_threshold: float = 8.0
    max_entries: int = MAX_ENTRIES


@dataclass(frozen=True, slots=True)
class Contact:
    """A frame to be sent: a POST whose answer is another frame.

    Attributes:
        url: of the fleet listener, without the path.
        frame: the bytes.
        node: who is expected there; None for a seed that hasn't been heard of.
        nonce: what the answer refers to.
        kind: of the message.
    """

    url: str
    frame: bytes
    node: str | None
    nonce: bytes
    kind: str


@dataclass(slots=True)
class Counts:
    """What happened, for metrics.

    Attributes:
        messages: by (direction, kind); sizes in bytes by direction in `bytes`.
        refused_messages: by reason.
        records: by verdict.
        lags: ages in seconds of records when they were accepted, since last asked.
        rounds: how many.
        own_key: times that a later record with our own key was met.
    """

    messages: Counter[tuple[str, str]] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    sizes: deque[tuple[str, int]] = field(default_factory=lambda: deque(maxlen=_LAGS))
    refused_messages: Counter[str] = field(default_factory=Counter)
    records: Counter[Verdict] = field(default_factory=Counter)
    lags: deque[float] = field(default_factory=lambda: deque(maxlen=_LAGS))
    rounds: int = 0
    own_key: int = 0


class NotAMember(Refused):
    """Whoever sent this is not in the fleet, or didn't sign it: 401, and nothing else is said."""
