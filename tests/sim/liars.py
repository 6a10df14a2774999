"""Members that lie: they have a key that the fleet admits, and do with it whatever it lets them do."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import msgpack
import zstandard

from aibrother_node.fleet.messages import Message, encode
from aibrother_node.fleet.record import Description, SignedRecord, unpack
from aibrother_node.fleet.signatures import SIGNATURE_BYTES
from sim.world import SimNode

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from aibrother_node.fleet.engine import Contact
    from sim.world import World

CLAIM = (2**40, 2**40)
"""A catalog newer than any."""
BOMB = zstandard.ZstdCompressor().compress(bytes(50_000_000))


def forge(raw: bytes, ahead: int = 1000) -> bytes:
    """A later record of somebody, with the signature of the one that it was made from."""
    fields = unpack(raw[SIGNATURE_BYTES:])
    fields.update(version=fields["version"] + ahead, url="http://liar.example", catalog=list(CLAIM))
    return raw[:SIGNATURE_BYTES] + bytes(msgpack.packb(fields))


class Liar(SimNode):
    """A node that gossips like others, so that it is listened to, and lies once a round and in every third answer."""

    def __init__(self, world: World, honest: SimNode) -> None:
        super().__init__(world, honest.signatures, honest.offset)
        self.honest = False
        self.says = Description(gossip_url=self.url, region="eu", catalog=CLAIM)
        self.old: deque[bytes] = deque(maxlen=300)  # records as they were once
        self.lies = 0

    def tick(self) -> list[Contact]:
        self.old.extend(peer.record.raw for peer in self.engine.peers(self.clock) if peer.record is not None)
        for lie in self._lies():
            victim = self.rng.choice(self.world.honest)
            frame = lie(victim)
            if frame is not None:
                self.lies += 1
                self.world.post(self.id, victim.url, frame, lambda _: None)
        return super().tick()

    def receive(self, frame: bytes) -> bytes | None:
        answer = super().receive(frame)
        if answer is None or self.rng.random() > 1 / 3:
            return answer
        sender = frame[4:36]
        asked = self.world.opened(frame)
        kinds: list[Callable[[], bytes | None]] = [
            lambda: None,
            lambda: self.rng.randbytes(70_000),
            lambda: self._frame("ack", sender, re=asked, records=self._forged()),
            lambda: self._frame("ack", sender, re=asked, records=self._stale(), names=self.rng.randbytes(8 * 512)),
            lambda: self._frame("no", sender, re=asked, reason=self.rng.randbytes(20).hex()),
            lambda: self._frame("id", sender, re=asked),
            lambda: self._frame("ack", sender, re=self.rng.randbytes(16), records=self._forged()),
        ]
        return self.rng.choice(kinds)()

    def _lies(self) -> list[Callable[[SimNode], bytes | None]]:
        lies = [
            self._forged_push,
            self._old_push,
            self._replay,
            self._oversized,
            self._bomb,
            self._from_the_future,
            self._garbage_digest,
            self._greedy_digest,
            self._flipped,
        ]
        if self.world.held is None:  # what it signs of itself is its own affair, and ends when all are to agree
            lies += [self._two_at_once, self._own_from_the_future]
        return self.rng.sample(lies, 2)

    def _forged(self) -> list[bytes]:
        return [forge(raw) for raw in self._stale()]

    def _stale(self) -> list[bytes]:
        return self.rng.sample(list(self.old), min(10, len(self.old)))

    def _forged_push(self, victim: SimNode) -> bytes:
        return self._frame("push", bytes.fromhex(victim.id), records=self._forged())

    def _old_push(self, victim: SimNode) -> bytes:
        return self._frame("push", bytes.fromhex(victim.id), records=self._stale())

    def _replay(self, victim: SimNode) -> bytes | None:
        url, frame = self.rng.choice(self.world.captured)
        self.world.post(self.id, url, frame, lambda _: None)  # to whom it was for
        return frame  # and to whom it wasn't

    def _oversized(self, victim: SimNode) -> bytes:
        return self._frame("push", bytes.fromhex(victim.id)) + bytes(70_000)

    def _bomb(self, victim: SimNode) -> bytes:
        frame = self._frame("push", bytes.fromhex(victim.id))
        head = frame[:3] + b"\x01" + frame[4:36]
        return head + self.signatures.sign(head + BOMB) + BOMB

    def _from_the_future(self, victim: SimNode) -> bytes:
        return self._frame("push", bytes.fromhex(victim.id), ahead=1e6, records=self._stale())

    def _own_from_the_future(self, victim: SimNode) -> bytes:
        mine = SignedRecord.make(self.signatures, 2**47, self.rng.randrange(2**47), self.clock + 1e6, self.says)
        return self._frame("push", bytes.fromhex(victim.id), records=[mine.raw])

    def _two_at_once(self, victim: SimNode) -> bytes:
        own = self.engine.own_record()
        assert own is not None
        order = own.record.incarnation, own.record.version + 1
        regions = (f"region {self.rng.random()}" for _ in range(2))
        one, other = (
            SignedRecord.make(self.signatures, *order, self.clock, replace(self.says, region=region))
            for region in regions
        )
        another = self.rng.choice(self.world.honest)
        self.world.post(
            self.id,
            another.url,
            self._frame("push", bytes.fromhex(another.id), records=[other.raw]),
            lambda _: None,
        )
        return self._frame("push", bytes.fromhex(victim.id), records=[one.raw])

    def _garbage_digest(self, victim: SimNode) -> bytes:
        size = self.rng.choice((1, 23, 24, 25, 24 * 40))
        bounds = self.rng.choice(((b"", b""), (self.rng.randbytes(8), self.rng.randbytes(3))))
        digest = self.rng.randbytes(size)
        return self._frame("syn", bytes.fromhex(victim.id), digest=digest, lowest=bounds[0], beyond=bounds[1])

    def _greedy_digest(self, victim: SimNode) -> bytes:
        """Says that it has the latest record of everybody, over and over."""
        names = [bytes.fromhex(node)[:8] for node in self.world.members]
        digest = b"".join(name + b"\xff" * 16 for name in names) * 2
        return self._frame("syn", bytes.fromhex(victim.id), digest=digest)

    def _flipped(self, victim: SimNode) -> bytes:
        _, frame = self.rng.choice(self.world.captured)
        at = self.rng.randrange(len(frame))
        return frame[:at] + bytes((frame[at] ^ (1 << self.rng.randrange(8)),)) + frame[at + 1 :]

    def _frame(
        self,
        kind: str,
        to: bytes,
        *,
        ahead: float = 0.0,
        re: bytes = b"",
        digest: bytes = b"",
        lowest: bytes = b"",
        beyond: bytes = b"",
        names: bytes = b"",
        records: list[bytes] | None = None,
        reason: str = "",
    ) -> bytes:
        nonce = self.rng.randbytes(16)
        at = self.clock + ahead
        message = Message(kind, self.id, to, at, nonce, re, digest, lowest, beyond, names, records or [], reason)
        return encode(message, self.signatures)


def among(world: World, share: float, rng: random.Random) -> list[Liar]:
    """Put liars in the places of some nodes that haven't started yet."""
    count = max(1, round(share * len(world.nodes)))
    return [world.replace(node, lambda node: Liar(world, node)) for node in rng.sample(world.nodes, count)]
