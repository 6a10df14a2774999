"""A fleet under a virtual clock, on a network that loses, doubles, delays, reorders and cuts.

Nodes are engines as they run everywhere. Every message goes as bytes; an answer finds its question by the connection,
as with HTTP, and a question that isn't answered in time fails. All is driven by a heap of events, so within one round
every node acts on what it knew when the round began. Up to 10 nodes sign with Ed25519; above that a keyed hash stands
for it (fleet/parts.py), since a thousand nodes check a million records.

Each world is made from one number; assertion messages name it, and `SIM_SEED=<number>` runs that world again.
"""

from __future__ import annotations

import heapq
import os
import random
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from aibrother_node.errors import InvalidInput, Refused
from aibrother_node.fleet.engine import Engine, EngineSettings
from aibrother_node.fleet.messages import decode, sender_of
from aibrother_node.fleet.record import Description
from fleet.parts import NOW, KeyedHash, id_of, members, real_key, url_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aibrother_node.fleet.engine import Contact
    from aibrother_node.fleet.record import Order, SignedRecord
    from aibrother_node.fleet.signatures import Signatures

    Answer: TypeAlias = Callable[[bytes | None], None]

_Kind = TypeVar("_Kind", bound="SimNode")

PATIENCE = 2.0
"""Seconds that an answer is waited for."""


def seeds(how_many: int) -> list[int]:
    """The seeds of a test's worlds; the one of `SIM_SEED` if that is set."""
    one = os.environ.get("SIM_SEED")
    return [int(one)] if one else list(range(1, how_many + 1))


@dataclass
class Network:
    """What happens to frames on their way, in either direction.

    Attributes:
        loss, duplication: shares of frames; a frame that is doubled arrives twice, at different times.
        latency: the least and the most, in seconds; frames overtake each other in between.
        cuts: pairs (from, to) of ids between which nothing passes in that direction.
        islands: sets of ids; nothing passes from one to another. Who is in none is in one with all others like it.
    """

    loss: float = 0.0
    duplication: float = 0.0
    latency: tuple[float, float] = (0.01, 0.2)
    cuts: set[tuple[str, str]] = field(default_factory=set)
    islands: list[set[str]] = field(default_factory=list)

    def passes(self, source: str, target: str) -> bool:
        if (source, target) in self.cuts:
            return False
        return all((source in island) == (target in island) for island in self.islands)


class SimNode:
    """One node: what survives a restart (its key), and an engine that doesn't."""

    def __init__(self, world: World, signatures: Signatures, offset: float) -> None:
        self.world = world
        self.signatures = signatures
        self.id = id_of(signatures)
        self.url = url_of(signatures)
        self.offset = offset
        self.honest = True
        self.up = False
        self.rng = random.Random(world.rng.random())
        self.says = Description(gossip_url=self.url, region="eu")
        self.seen: dict[str, Order] = {}
        self.engine: Engine

    @property
    def clock(self) -> float:
        """What its own clock shows."""
        return self.world.time + self.offset

    def start(self, *, incarnation_behind: float = 0.0) -> None:
        """Start, or start again with all state lost."""
        self.engine = Engine(
            self.signatures, self.id, self.world.settings, self.rng, max(0.0, self.clock - incarnation_behind)
        )
        self.engine.set_members(self.world.members)
        self.engine.set_seeds(self.world.seed_urls)
        self.seen = {}
        self.up = True
        self.describe(self.says)

    def stop(self) -> None:
        """End without a word."""
        self.up = False

    def describe(self, says: Description) -> None:
        self.says = says
        self.engine.describe(says, self.clock)
        self.note()

    def tick(self) -> list[Contact]:
        contacts = self.engine.tick(self.clock)
        self.note()
        return contacts

    def receive(self, frame: bytes) -> bytes | None:
        """The answer; None for 400 and 401."""
        try:
            return self.engine.receive(frame, self.clock)
        except (InvalidInput, Refused):
            return None
        finally:
            self.note()

    def answered(self, contact: Contact, frame: bytes | None) -> Contact | None:
        if frame is None:
            self.engine.failed(contact, self.clock)
            return None
        try:
            return self.engine.answered(contact, frame, self.clock)
        except (InvalidInput, Refused):
            return None
        finally:
            self.note()

    def note(self) -> None:
        """Remember what was signed with this key, whatever becomes of it."""
        own = self.engine.own_record()
        if own is not None:
            self.world.signed.setdefault(self.id, set()).add(own.raw)


class Twin(SimNode):
    """A second engine with somebody's key."""


class World:
    """A fleet and its network.

    Args:
        count: how many nodes; all are members.
        seed: decides everything.
        settings: of all engines.
        offsets: how far clocks are off at most, in seconds, either way.
        lockstep: rounds of all nodes begin at the same instant; else each at its own.
    """

    def __init__(
        self,
        count: int,
        seed: int,
        settings: EngineSettings | None = None,
        *,
        offsets: float = 0.0,
        lockstep: bool = False,
        seed_urls: Iterable[str] = (),
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.settings = settings or EngineSettings()
        self.network = Network()
        self.lockstep = lockstep
        self.now = NOW
        self.held: float | None = None
        self.signed: dict[str, set[bytes]] = {}
        self.captured: deque[tuple[str, bytes]] = deque(maxlen=500)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        keys = [real_key() if count <= 10 else KeyedHash(f"{seed} {number}") for number in range(count)]
        self.members = members(keys)
        self.seed_urls = list(seed_urls)
        self.nodes = [SimNode(self, key, self.rng.uniform(-offsets, offsets)) for key in keys]
        self._by_url: dict[str, list[SimNode]] = {}
        for node in self.nodes:
            self.add(node)

    # -- time --------------------------------------------------------------------------------------------------------

    @property
    def time(self) -> float:
        """What a clock that is right shows."""
        return self.now if self.held is None else self.held

    def after(self, delay: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + delay, self._count, event))

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = until

    def stand_still(self) -> None:
        """From now on all clocks stand while messages still flow: nothing changes, so everybody can agree."""
        self.held = self.now

    # -- nodes -------------------------------------------------------------------------------------------------------

    @property
    def honest(self) -> list[SimNode]:
        """Those that are up and obey the protocol."""
        return [node for node in self.nodes if node.honest and node.up]

    def add(self, node: SimNode) -> None:
        """Give a node its place in the network, and its rounds, which go on while it is down."""
        self._by_url.setdefault(node.url, []).append(node)
        interval = self.settings.interval
        self.after(0.0 if self.lockstep else self.rng.uniform(0, interval), lambda: self._round(node))

    def start(self) -> None:
        for node in self.nodes:
            node.start()

    def replace(self, node: SimNode, make: Callable[[SimNode], _Kind]) -> _Kind:
        """Put another kind of node in the place of one that hasn't started yet."""
        other = make(node)
        self.nodes[self.nodes.index(node)] = other
        self._by_url[node.url] = []
        self.add(other)
        return other

    def clone(self, node: SimNode) -> Twin:
        """Run a second engine with a node's key; who asks it meets either."""
        twin = Twin(self, node.signatures, node.offset)
        twin.honest = False  # whatever it signs is signed by the owner, but it isn't expected to be told everything
        twin.start()
        self.nodes.append(twin)
        self.add(twin)
        return twin

    def _round(self, node: SimNode) -> None:
        if node.up:
            for contact in node.tick():
                self._ask(node, contact)
        interval = self.settings.interval
        self.after(interval if self.lockstep else interval * self.rng.uniform(0.9, 1.1), lambda: self._round(node))

    # -- messages ----------------------------------------------------------------------------------------------------

    def _ask(self, node: SimNode, contact: Contact) -> None:
        engine, waiting = node.engine, True

        def answer(frame: bytes | None) -> None:
            nonlocal waiting
            if not waiting:
                return  # a second answer to one question has no connection to come on
            waiting = False
            if node.up and node.engine is engine:
                following = node.answered(contact, frame)
                if following is not None:
                    self._ask(node, following)

        self.after(PATIENCE, lambda: answer(None))
        self.post(node.id, contact.url, contact.frame, answer)

    def post(self, source: str, url: str, frame: bytes, answer: Answer) -> None:
        """Send a frame to whoever is at a URL; `answer` hears of the answers that arrive, None for 400 and 401."""
        there = self._by_url.get(url)
        if there is None:
            return
        target = there[0] if len(there) == 1 else self.rng.choice(there)
        self.captured.append((url, frame))

        def arrive() -> None:
            if target.up:
                back = target.receive(frame)
                self._carry(target.id, source, lambda: answer(back))

        self._carry(source, target.id, arrive)

    def _carry(self, source: str, target: str, arrive: Callable[[], None]) -> None:
        network = self.network
        if not network.passes(source, target):
            return
        copies = 2 if network.duplication and self.rng.random() < network.duplication else 1
        for _ in range(copies):
            if not network.loss or self.rng.random() >= network.loss:
                self.after(self.rng.uniform(*network.latency), arrive)

    def opened(self, frame: bytes) -> bytes:
        """The nonce of a frame that was sent in this world, for whoever wants to answer it falsely."""
        try:
            sender = self.members[sender_of(frame)]
            return decode(frame, sender.key, self.nodes[0].signatures).nonce
        except (InvalidInput, KeyError):
            return bytes(16)

    # -- what is known -----------------------------------------------------------------------------------------------

    def agree(self) -> bool:
        """Whether all honest nodes know the same records."""
        return len({node.engine.state() for node in self.honest}) == 1

    def knowing(self, record: SignedRecord) -> int:
        """How many honest nodes have a record, or a later one of its node."""
        return sum(known is not None and known.order >= record.order for known in self.records_of(record.id))

    def records_of(self, node: str) -> list[SignedRecord | None]:
        """What each honest node has of a node."""
        return [one.engine._table.get(node) for one in self.honest]

    def believe_all(self) -> None:
        """Let every node know every record at once, as if they had gossiped for long.

        Only for a thousand nodes, where hearing of each other takes a million records; it reaches into the engines.
        """
        from aibrother_node.fleet.detector import PhiDetector

        records = {node.id: node.engine.own_record() for node in self.nodes}
        for node in self.nodes:
            table, peers = node.engine._table, node.engine._peers
            node.engine._lively_until = 0.0
            for other, record in records.items():
                if other != node.id and record is not None:
                    table._put(record)
                    peers[other].detector = PhiDetector(self.settings.refresh, node.clock)
                    peers[other].urgent = record.record.says.urgent
        assert self.agree()
