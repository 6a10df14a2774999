"""Evictions by nodes that see different fleets and catalogs: the last copy of what the catalog names is never lost.

Nodes are what decides and vouches in a real one (`Evictions`); around them is a world in which messages are late, lost
and answered twice, catalogs arrive at different times, processes die between any two steps, nodes change between
mirror and cache, and everybody wants to evict everything at once. Worlds with one rule left out lose blobs: so the
worlds are hostile enough.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

import counts
from aibrother_node.content.digest import Digest
from aibrother_node.errors import Refused
from aibrother_node.fleet.evicting import Attempt, Evictions
from aibrother_node.fleet.keepers import Mirrors
from aibrother_node.fleet.vouching import Vouch
from fleet.parts import KeyedHash, id_of
from sim.world import seeds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STEPS = 3000
BLOBS = [Digest(bytes([number]) * 32) for number in range(1, 4)]


class Lost(AssertionError):
    """Nobody has a blob any more that the catalog names."""


@dataclass(frozen=True)
class Catalog:
    """What is published: the names, and who is in the fleet."""

    version: int
    names: frozenset[Digest]
    fleet: frozenset[str]


@dataclass
class Vouched:
    """A vouch on its way, and the blob that it speaks of."""

    by: str
    to: str
    digest: Digest
    vouch: Vouch | None


@dataclass
class Node:
    """What one node has, sees, and is about to do."""

    keys: KeyedHash
    make: Callable[[str, KeyedHash, int], Evictions]
    copies: int
    catalog: Catalog
    mirror: bool = True
    blobs: set[Digest] = field(default_factory=set)
    pins: set[Digest] = field(default_factory=set)
    modes: dict[str, bool] = field(default_factory=dict)
    attempts: dict[Digest, Attempt] = field(default_factory=dict)
    life: int = 0

    def __post_init__(self) -> None:
        self.id = id_of(self.keys)
        self.evictions = self.make(self.id, self.keys, self.copies)

    def mirrors(self, keys: dict[str, bytes]) -> Mirrors:
        ids = {one for one in self.catalog.fleet if (self.mirror if one == self.id else self.modes.get(one, True))}
        version = self.catalog.version
        return Mirrors(self.id, str(version), (1, version), frozenset(ids), {one: keys[one] for one in ids})


class World:
    """A fleet, its catalogs, and everything that can happen to it."""

    def __init__(self, seed: int, make: Callable[[str, KeyedHash, int], Evictions], kind: str = "") -> None:
        self.rng = rng = random.Random(seed)
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = 0
        how_many = rng.choice((2, 2, 3, 4))
        copies = rng.choice((1, 1, 1, 2))
        self.kind = kind or rng.choice(("all", "modes", "catalogs", "pins"))
        self.calm = rng.choice((0.5, 0.9, 0.99))
        self.known = BLOBS[: rng.choice((1, 3))]
        keys = [KeyedHash(f"{seed} {number}") for number in range(how_many)]
        ids = frozenset(map(id_of, keys))
        self.newest = Catalog(1, frozenset(self.known), ids)
        self.nodes = {
            id_of(one): Node(one, make, copies, self.newest, rng.random() < 0.8, set(self.known)) for one in keys
        }
        self.signer = next(iter(self.nodes.values()))
        self.keys = {node.id: node.keys.public for node in self.nodes.values()}
        self.removed = 0

    def later(self, seconds: float, event: Callable[[], None]) -> None:
        self.numbers += 1
        heapq.heappush(self.events, (self.now + seconds, self.numbers, event))

    def run(self) -> None:
        """Let something happen again and again; raises `Lost`."""
        rng = self.rng
        # of what goes wrong, some worlds see all, others one kind again and again
        kinds: dict[str, Sequence[Callable[[Node], None]]] = {
            "all": (
                *(self.learn,) * 2,
                *(self.hear_of_modes,) * 3,
                *(self.crash, self.publish, self.collect, self.pin, self.change_mode),
            ),
            "modes": (*(self.hear_of_modes,) * 6, self.change_mode, self.change_mode),
            "catalogs": (*(self.learn,) * 4, self.publish, self.publish, self.collect, self.collect),
            "pins": (*(self.pin,) * 4, self.learn, self.learn, self.publish, self.collect),
        }
        happenings = (*(self.evict,) * 6, self.fetch, *kinds[self.kind])
        for _ in range(STEPS):
            self.now += rng.expovariate(8.0)
            while self.events and self.events[0][0] <= self.now:
                heapq.heappop(self.events)[2]()
                self.check()
            rng.choice(happenings)(rng.choice(list(self.nodes.values())))
            self.check()

    def check(self) -> None:
        for digest in self.newest.names:
            if not any(digest in node.blobs for node in self.nodes.values()):
                raise Lost(f"{digest} is gone at {self.now:.1f} s")

    # -- what happens

    def evict(self, node: Node) -> None:
        """It is over its size: it marks a blob and asks."""
        digest = self.rng.choice(self.known)
        if digest not in node.blobs or digest in node.pins or digest not in node.catalog.names:
            return
        if digest in node.attempts:
            return
        try:
            attempt = node.evictions.begin(digest, node.mirrors(self.keys), self.rng.randbytes(16), self.now)
        except Refused:
            return
        node.attempts[digest] = attempt
        life = node.life
        node.modes |= {one.id: one.mirror for one in self.nodes.values() if self.rng.random() < 0.1}
        for keeper in attempt.keepers:
            self.send(lambda keeper=keeper: self.asked(self.nodes[keeper], node, attempt))  # type: ignore[misc]
        patience = self.rng.choice((1, 9)) if self.kind == "modes" else self.rng.choice((2, 5, 12)) * self.rng.random()
        self.later(patience, lambda: self.settle(node, attempt, life))

    def send(self, arrive: Callable[[], None]) -> None:
        for _ in range(self.rng.choice((0, 1, 1, 1, 1, 1, 2))):
            late = (0.05, 0.2) if self.kind == "modes" else (0.05, 0.2, 0.5, 2, 20)
            self.later(self.rng.choice(late) * self.rng.random(), arrive)

    def asked(self, node: Node, asker: Node, attempt: Attempt) -> None:
        digest, vouch = attempt.digest, None
        whole, named, pinned = digest in node.blobs, digest in node.catalog.names, digest in node.pins
        if whole and node.evictions.keeps(digest, node.mirrors(self.keys), named=named, pinned=pinned):
            vouch = Vouch.give(node.keys, asker.id, digest, attempt.nonce, (1, node.catalog.version))
        self.send(lambda: self.answered(Vouched(node.id, asker.id, digest, vouch)))

    def answered(self, told: Vouched) -> None:
        """An answer comes, perhaps to an earlier question, perhaps to an earlier life of the asker."""
        asker = self.nodes[told.to]
        attempt = asker.attempts.get(told.digest)
        if attempt is not None:
            asker.evictions.hear(attempt, told.by, told.vouch)

    def settle(self, node: Node, attempt: Attempt, life: int) -> None:
        """Remove the blob, if that is permitted; all in one piece, as on a store's thread."""
        if node.life != life:
            return
        node.attempts.pop(attempt.digest, None)
        digest = attempt.digest
        try:
            node.evictions.permit(attempt, node.mirrors(self.keys), self.now)
        except Refused:
            pass
        else:
            if digest in node.catalog.names and digest not in node.pins and self.rng.random() < 0.95:
                node.blobs.discard(digest)
                self.removed += 1
        node.evictions.end(attempt)

    def learn(self, node: Node) -> None:
        """It verifies the newest catalog."""
        node.catalog = self.newest

    def publish(self, _: Node) -> None:
        """The signer withdraws a blob, publishes one that it has, admits a node or revokes one."""
        if self.rng.random() < self.calm:
            return
        signer, newest = self.signer, self.newest
        names, fleet = set(newest.names), set(newest.fleet)
        digest, node = self.rng.choice(self.known), self.rng.choice(list(self.nodes))
        if self.rng.random() < 0.6:
            if digest in names:
                names.discard(digest)
            else:  # brought once more, if need be: what isn't stored where it is signed isn't published
                signer.blobs.add(digest)
                names.add(digest)
        elif node in fleet and len(fleet) > 1:
            fleet.discard(node)
        else:
            fleet.add(node)
        self.newest = signer.catalog = Catalog(newest.version + 1, frozenset(names), frozenset(fleet))

    def collect(self, node: Node) -> None:
        """What its catalog doesn't name goes, without a grace and without asking."""
        node.blobs = {digest for digest in node.blobs if digest in node.catalog.names or digest in node.pins}

    def crash(self, node: Node) -> None:
        """Its process ends, and another one begins: what was in memory is gone."""
        if self.rng.random() < 0.7:
            return
        node.life += 1
        node.attempts.clear()
        node.evictions = node.make(node.id, node.keys, node.copies)

    def change_mode(self, node: Node) -> None:
        """It is started again in the other mode."""
        node.mirror = not node.mirror
        node.life += 1
        node.attempts.clear()
        node.evictions = node.make(node.id, node.keys, node.copies)

    def hear_of_modes(self, node: Node) -> None:
        """Gossip tells it how another one is, now."""
        other = self.rng.choice(list(self.nodes.values()))
        node.modes[other.id] = other.mirror

    def pin(self, node: Node) -> None:
        digest = self.rng.choice(self.known)
        if digest in node.pins:
            node.pins.discard(digest)
        elif digest in node.blobs and self.rng.random() < 0.3:
            node.pins.add(digest)

    def fetch(self, node: Node) -> None:
        """It fetches a blob again that another one has."""
        digest = self.rng.choice(self.known)
        if digest in node.catalog.names and any(digest in other.blobs for other in self.nodes.values()):
            node.blobs.add(digest)


def test_the_last_copy_of_what_the_catalog_names_is_never_lost() -> None:
    removed = 0
    for seed in seeds(counts.rounds(150, 5000)):
        world = World(seed, Evictions)
        try:
            world.run()
        except Lost as error:
            raise AssertionError(f"world {seed}: {error}") from error
        removed += world.removed
    assert removed > 1000, "it does evict"


class VouchesForWhatItEvicts(Evictions):
    """Rule 2 left out: it vouches for what it is about to evict."""

    def is_marked(self, digest: Digest) -> bool:
        del digest
        return False


class TakesAnyAnswer(Evictions):
    """Rule 3 left out: an answer to an earlier question counts too."""

    def hear(self, attempt: Attempt, node: str, vouch: Vouch | None) -> None:
        if node in attempt.keepers and vouch is not None:
            attempt.vouched.add(node)


class TakesOldCatalogs(Evictions):
    """Rule 4 left out: a vouch under an older catalog counts."""

    def hear(self, attempt: Attempt, node: str, vouch: Vouch | None) -> None:
        if vouch is not None and vouch.catalog < attempt.mirrors.catalog:
            attempt.vouched.add(node)
        super().hear(attempt, node, vouch)


class TakesItsTime(Evictions):
    """Rule 5 left out, and freshness: it removes whatever it has learnt since it asked."""

    def permit(self, attempt: Attempt, mirrors: Mirrors, now: float) -> tuple[str, ...]:
        del mirrors
        return super().permit(attempt, attempt.mirrors, min(now, attempt.began))


@pytest.mark.parametrize(
    ("broken", "kind", "first"),  # shortly before the first world that shows it: it takes a coincidence
    [
        (VouchesForWhatItEvicts, "modes", 500),
        (TakesAnyAnswer, "catalogs", 1),
        (TakesOldCatalogs, "catalogs", 1),
        (TakesItsTime, "catalogs", 1),
    ],
)
def test_a_rule_that_is_left_out_loses_blobs(broken: type[Evictions], kind: str, first: int) -> None:
    for seed in range(first, 5000):
        try:
            World(seed, broken, kind).run()
        except Lost:
            return
    raise AssertionError("no world was hostile enough")
