"""What a node measures, as Prometheus reads it: names, types and labels in one place.

Each set of metrics has a registry of its own, so that two nodes in one process (tests, simulations) don't count
together. Label values that others can choose are few: beyond a ceiling they are all counted as "other".
"""

from __future__ import annotations

import math
import time
from collections import Counter as Tally
from typing import TYPE_CHECKING, Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from aibrother_node.fleet.table import Verdict
from aibrother_node.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from aibrother_node.fleet.engine import Counts
    from aibrother_node.fleet.peering import PeerState

STATES: Final = ("alive", "draining", "leaving", "suspect", "dead", "unknown")
"""What a peer can be."""
MAX_REASONS: Final = 40
"""Label values of one metric that come from messages of others."""
_SHOWN: Final = 12  # digits of a node id
_BYTES: Final = (128, 512, 2048, 8192, 16384, 32768, 65536)
_AGES: Final = (0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 13, 20, 30, 60, 120, 300, 3600)


class FleetMetrics:
    """The metrics of one node's control process: catalog, fleet, gossip and store.

    Args:
        clock: seconds since 1970; what counts down is computed when it is asked for.

    Attributes:
        registry: what `/metrics` shows.
        traffic: the requests of control's own planes.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.registry = registry = CollectorRegistry()
        self.traffic = Traffic(registry)
        self._clock = clock
        self._expires: float | None = None
        self._behind_since: float | None = None
        self._catalog_version = Gauge(
            "aibrother_catalog_version", "Version of the stable catalog that this node serves.", registry=registry
        )
        Gauge(
            "aibrother_catalog_expires_seconds",
            "Seconds until the first role of the catalog expires, negative afterwards; NaN without a catalog.",
            registry=registry,
        ).set_function(self._expires_in)
        Gauge(
            "aibrother_catalog_behind_seconds",
            "Seconds since when a peer has told of a newer catalog than this node's; 0 while there is none.",
            registry=registry,
        ).set_function(self._behind_for)
        self._catalog_refused = _Reasons(
            Counter(
                "aibrother_catalog_refused", "Catalogs of others that were not taken.", ["reason"], registry=registry
            )
        )
        self._refused_catalog_peers = Gauge(
            "aibrother_peers_with_refused_catalog",
            "Peers that tell of a catalog which can't be believed.",
            registry=registry,
        )
        self._members = Gauge(
            "aibrother_fleet_members", "Members of the fleet by the catalog, with this node.", registry=registry
        )
        self._peers = Gauge("aibrother_fleet_peers", "Other members by state.", ["state"], registry=registry)
        for state in STATES:
            self._peers.labels(state)
        self._phi = Gauge(
            "aibrother_gossip_phi", "How surprising a peer's silence is (phi accrual).", ["peer"], registry=registry
        )
        self._phi_of: set[str] = set()
        self._skew = Gauge(
            "aibrother_clock_skew_seconds", "How far the peers' clocks are ahead of ours (median).", registry=registry
        )
        self._gossip = _Gossip(registry)
        self._blobs = Gauge("aibrother_store_blobs", "Whole blobs in the store.", registry=registry)
        self._bytes = Gauge("aibrother_store_bytes", "Bytes of the blobs in the store.", registry=registry)

    def catalog(self, version: int, expires: datetime | None) -> None:
        """Say which catalog is served.

        Args:
            version: of the stable document.
            expires: when the first of its roles does; None without a catalog.
        """
        self._catalog_version.set(version)
        self._expires = None if expires is None else expires.timestamp()

    def catalog_behind(self, behind: bool, now: float) -> None:
        """Say whether somebody tells of a newer catalog, which this node does not have."""
        if not behind:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now

    def catalog_refused(self, reason: str) -> None:
        """Count a catalog that was not taken."""
        self._catalog_refused.add(reason, 1)

    def fleet(self, members: int, peers: Iterable[PeerState]) -> None:
        """Say who is in the fleet and how they are.

        Args:
            members: how many there are, this node among them.
            peers: all but this node.
        """
        states: Tally[str] = Tally()
        phis: dict[str, float] = {}
        refused = 0
        for peer in peers:
            states[peer.state] += 1
            phis[peer.id[:_SHOWN]] = peer.phi
            refused += peer.refused_catalog is not None
        self._members.set(members)
        for state in STATES:
            self._peers.labels(state).set(states[state])
        for gone in self._phi_of - phis.keys():
            self._phi.remove(gone)
        for peer_id, phi in phis.items():
            self._phi.labels(peer_id).set(phi)
        self._phi_of = set(phis)
        self._refused_catalog_peers.set(refused)

    def clock_skew(self, seconds: float) -> None:
        """Say how far the peers' clocks are ahead."""
        self._skew.set(seconds)

    def gossip(self, counts: Counts) -> None:
        """Take over what an engine has counted so far; empties its lists of sizes and lags.

        To be called where the engine is: it reads what the engine writes.
        """
        self._gossip.take(counts)

    def store(self, blobs: int, size: int) -> None:
        """Say what is stored: whole blobs, and their bytes."""
        self._blobs.set(blobs)
        self._bytes.set(size)

    def _expires_in(self) -> float:
        return math.nan if self._expires is None else self._expires - self._clock()

    def _behind_for(self) -> float:
        since = self._behind_since
        return 0.0 if since is None else max(0.0, self._clock() - since)


class JobMetrics:
    """The metrics of jobs.

    Args:
        registry: what `/metrics` shows.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._jobs = Gauge(
            "aibrother_jobs", "Jobs that have not ended, by kind and state.", ["kind", "state"], registry=registry
        )
        self._ended = Counter(
            "aibrother_jobs_ended", "Jobs that have ended, by kind and how.", ["kind", "state"], registry=registry
        )

    def now(self, tally: Mapping[tuple[str, str], int]) -> None:
        """Say how many jobs there are of each kind in each state."""
        self._jobs.clear()
        for (kind, state), count in tally.items():
            self._jobs.labels(kind, state).set(count)
            for ended in ("done", "failed", "cancelled"):
                self._ended.labels(kind, ended)  # from 0 on, so that the first one shows as a rise

    def ended(self, kind: str, state: str) -> None:
        """Count a job that has ended."""
        self._ended.labels(kind, state).inc()


class ScrubMetrics:
    """The metrics of scrub and repair.

    Args:
        registry: what `/metrics` shows.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._bad = Counter(
            "aibrother_scrub_bad_chunks",
            "Chunks that were found to be something else than they were.",
            registry=registry,
        )
        self._checked = Counter(
            "aibrother_scrub_checked_bytes", "Bytes that were read to be checked.", registry=registry
        )
        self._completed = Gauge(
            "aibrother_scrub_last_completed_timestamp_seconds",
            "When the last pass over all blobs ended, in seconds since 1970; NaN before the first.",
            registry=registry,
        )
        self._completed.set(math.nan)
        self._damaged = Gauge(
            "aibrother_damaged_blobs", "Blobs of which a chunk is bad, and not repaired yet.", registry=registry
        )
        self._repaired = Counter("aibrother_repaired_chunks", "Bad chunks that are good again.", registry=registry)
        self._lied = Counter(
            "aibrother_repair_wrong_answers",
            "Answers of peers that were other bytes than asked for.",
            registry=registry,
        )

    def checked(self, size: int) -> None:
        """Count bytes that were read."""
        self._checked.inc(size)

    def bad(self, count: int) -> None:
        """Count chunks that were found bad."""
        self._bad.inc(count)

    def repaired(self) -> None:
        """Count a chunk that is good again."""
        self._repaired.inc()

    def damaged(self, count: int) -> None:
        """Say how many blobs are damaged."""
        self._damaged.set(count)

    def completed(self, at: float) -> None:
        """Say when the last pass over all blobs ended."""
        self._completed.set(at)

    def lied(self) -> None:
        """Count an answer that was something else."""
        self._lied.inc()


class CollectionMetrics:
    """The metrics of collection and eviction, and of the room that there is.

    Args:
        registry: what `/metrics` shows.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._blobs = Counter("aibrother_gc_removed_blobs", "Blobs that were removed.", ["why"], registry=registry)
        self._bytes = Counter("aibrother_gc_removed_bytes", "Bytes of them.", ["why"], registry=registry)
        for why in ("unnamed", "evicted"):
            self._blobs.labels(why)
            self._bytes.labels(why)
        self._free = Gauge(
            "aibrother_store_free_bytes", "Bytes that may be written on the store's file system.", registry=registry
        )
        self._reserve = Gauge(
            "aibrother_store_reserve_bytes", "Bytes of them that are kept free (store.reserve).", registry=registry
        )
        self._leases = Gauge("aibrother_store_leases", "Leases on blobs about to be named.", registry=registry)
        self._marked = Gauge(
            "aibrother_store_marked_blobs", "Blobs that nothing names, and that will be removed.", registry=registry
        )

    def removed(self, why: str, blobs: int, size: int) -> None:
        """Count blobs that were removed: `unnamed`, or `evicted`."""
        self._blobs.labels(why).inc(blobs)
        self._bytes.labels(why).inc(size)

    def room(self, free: int, reserve: int) -> None:
        """Say how much room there is, and how much of it is kept."""
        self._free.set(free)
        self._reserve.set(reserve)

    def waiting(self, leases: int, marked: int) -> None:
        """Say how many leases there are, and how many blobs are marked."""
        self._leases.set(leases)
        self._marked.set(marked)


class _Gossip:
    """The counters of gossip, which the engine counts by itself: it is pure, and knows of no metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._messages = _Totals(
            Counter("aibrother_gossip_messages", "Messages of gossip.", ["direction", "type"], registry=registry)
        )
        self._sizes = Histogram(
            "aibrother_gossip_message_bytes",
            "Sizes of messages, as sent.",
            ["direction"],
            buckets=_BYTES,
            registry=registry,
        )
        for direction in ("sent", "received"):
            self._sizes.labels(direction)
        self._rounds = _Totals(Counter("aibrother_gossip_rounds", "Rounds of gossip.", registry=registry))
        self._records = _Totals(
            Counter(
                "aibrother_gossip_records",
                "Records that were received, by what became of them.",
                ["result"],
                registry=registry,
            )
        )
        self._refused_records = _Totals(
            Counter(
                "aibrother_gossip_refused_records",
                "Records by which somebody did wrong.",
                ["reason"],
                registry=registry,
            )
        )
        self._refused_messages = _Reasons(
            Counter(
                "aibrother_gossip_refused_messages",
                "Messages that were not acted upon.",
                ["reason"],
                registry=registry,
            )
        )
        self._told: Tally[str] = Tally()
        self._convergence = Histogram(
            "aibrother_gossip_convergence_seconds",
            "Age of records when they were first accepted here.",
            buckets=_AGES,
            registry=registry,
        )
        self._records.reach({(verdict.value,): 0 for verdict in Verdict})
        self._refused_records.reach({(verdict.value,): 0 for verdict in Verdict if verdict.refused})

    def take(self, counts: Counts) -> None:
        self._messages.reach(counts.messages)
        self._rounds.reach({(): counts.rounds})
        self._records.reach({(verdict.value,): total for verdict, total in counts.records.items()})
        self._refused_records.reach(
            {(verdict.value,): total for verdict, total in counts.records.items() if verdict.refused}
        )
        for reason, total in counts.refused_messages.items():
            # what peers answer is their own words
            self._refused_messages.add(reason.partition(": ")[0], total - self._told[reason])
            self._told[reason] = total
        while counts.sizes:
            direction, size = counts.sizes.popleft()
            self._sizes.labels(direction).observe(size)
        while counts.lags:
            self._convergence.observe(counts.lags.popleft())


_Labels = TypeVar("_Labels", bound=tuple[str, ...])


class _Totals:
    """A counter that is told totals."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._reached: dict[tuple[str, ...], int] = {}

    def reach(self, totals: Mapping[_Labels, int]) -> None:
        """Count up to these totals; what was not named before begins at 0."""
        for labels, total in totals.items():
            series = self._counter.labels(*labels) if labels else self._counter
            series.inc(total - self._reached.get(labels, 0))
            self._reached[labels] = total


class _Reasons:
    """A counter by reason, of which there are few, whatever others think of."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._known: set[str] = set()

    def add(self, reason: str, count: int) -> None:
        """Count a reason."""
        if reason not in self._known:
            if len(self._known) >= MAX_REASONS:
                reason = "other"
            self._known.add(reason)
        self._counter.labels(reason).inc(count)
