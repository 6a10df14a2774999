"""Gossip as a state machine: no sockets, no clock, no tasks.

The law:

1. A node tells of itself in a record, which it signs again when something changes and at least once a refresh interval.
   Records travel as the bytes that were signed (record.py); which of two counts is a join (table.py).
2. Once an interval a node asks a few members, chosen at random, and exchanges with each what one has and the other
   lacks: its digest goes out (`syn`), records and the names of those that are wanted come back (`ack`), and those are
   sent (`push`). So news reaches n nodes in O(log n) rounds, and what is lost is made up for by the next exchange.
   While all is calm, only one is asked: then digests are most of the traffic. What is urgent wakes who hears of it.
3. A frame is bounded. What doesn't fit is said in a later round: newest records first, digests by turns.
4. Only members are listened to, and each is believed about itself alone. Everybody else's records, and records that are
   forged, from the future or too old to be brought by anyone but their owner, are refused; duplicates cost a hash.
5. Silence is judged by phi (detector.py); who doesn't answer us, and isn't heard of otherwise, is suspect before that.
6. Who is dead or unknown, and every seed, is tried for ever, more and more seldom: a node that was alone comes back.
7. A record with our key that is later than ours: somebody restored a backup, or cloned us. We go above it; when that
   happens twice within a minute, it is an alarm.

After van Renesse et al. 2008 (Scuttlebutt) and chitchat. IO is in loop.py. Time is in seconds since 1970.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aibrother_node.errors import InvalidInput, Refused
from aibrother_node.fleet.detector import PhiDetector
from aibrother_node.fleet.gossip import Contact, Counts, EngineSettings, NotAMember
from aibrother_node.fleet.messages import (
    ANYBODY,
    MAX_NAMES,
    Forged,
    Message,
    decode,
    encode,
    fitting,
    sender_of,
)
from aibrother_node.fleet.own_record import OwnRecord
from aibrother_node.fleet.peering import Peering, PeerState, SeedAttempts
from aibrother_node.fleet.record import NAME_BYTES, Description, SignedRecord
from aibrother_node.fleet.replay import ReplayGuard
from aibrother_node.fleet.table import RecordTable, TableLimits, Verdict

__all__ = ["Contact", "Counts", "Engine", "EngineSettings", "NotAMember"]

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Mapping, Sequence

    from aibrother_node.fleet.members import Member
    from aibrother_node.fleet.record import CatalogVersion
    from aibrother_node.fleet.signatures import Signatures

_LIVELY: Final = 10
"""Rounds with all of the fanout after something happened: by then everybody has heard of it."""
_REASONS: Final = ("not for this node", "clock skew", "replayed", "no digest", "unknown kind")


class Engine:
    """One node's part in gossip. Not for several threads at once.

    Args:
        signatures: this node's key.
        node: this node's id.
        settings: how to gossip.
        rng: decides whom to ask, and when.
        now: the time; also this run's incarnation, which is thereby above those of former runs.
    """

    def __init__(
        self, signatures: Signatures, node: str, settings: EngineSettings, rng: random.Random, now: float
    ) -> None:
        self.node = node
        self.counts = Counts()
        self._signatures = signatures
        self._settings = settings
        self._rng = rng
        self._table = RecordTable(signatures, TableLimits(settings.forget_after, settings.clock_tolerance))
        self._replays = ReplayGuard(settings.clock_tolerance)
        self._members: Mapping[str, Member] = {}
        self._peers: dict[str, Peering] = {}
        self._seeds: dict[str, SeedAttempts] = {}
        self._own = OwnRecord(signatures, settings.refresh, rng, now)
        self._lively_until = now + _LIVELY * settings.interval
        self._turn = 0

    # -- what this node is told ------------------------------------------------------------------------------------

    def set_members(self, members: Mapping[str, Member]) -> None:
        """Take over who is in the fleet; whoever isn't is forgotten and refused from now on."""
        self._members = dict(members)
        self._table.set_members(self._members)
        self._peers = {node: self._peers.get(node) or Peering() for node in members if node != self.node}

    def set_seeds(self, urls: Iterable[str]) -> None:
        """Take over the URLs to begin with."""
        self._seeds = {url: self._seeds.get(url) or SeedAttempts() for url in urls}

    def describe(self, says: Description, now: float) -> bool:
        """Take over what this node says of itself; returns whether a new record was signed."""
        if says == self._own.says and not self._own.due(now):
            return False
        if says.urgent != self._own.says.urgent:
            self._wake(now)
        self._table.put_own(self._own.sign(says, now))
        return True

    # -- rounds ----------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Contact]:
        """Begin a round: what is to be sent, to whom."""
        self.counts.rounds += 1
        if self.node not in self._members:
            return []  # nobody would listen
        if self._own.due(now) or self.own_record() is None:  # admitted (again) a moment ago
            self._table.put_own(self._own.sign(self._own.says, now))
        self._table.forget(now, (self.node,))
        live, silent = self._sort(now)
        fanout = self._settings.fanout if now < self._lively_until else 1
        chosen = self._rng.sample(live, min(fanout, len(live)))
        if silent:
            if not live:
                chosen += self._rng.sample(silent, min(self._settings.fanout, len(silent)))
            elif self._rng.random() < len(silent) / (len(live) + 1):
                chosen.append(self._rng.choice(silent))
        contacts = [self._syn(node, url, now) for node in chosen if (url := self._url(node))]
        contacts += self._to_seeds(now)
        return contacts

    def failed(self, contact: Contact, now: float) -> None:
        """A contact was not answered, or not as the protocol has it."""
        seed = self._seeds.get(contact.url)
        if seed is not None:
            seed.peering.failed(now, self._settings.interval, self._rng)
        peer = self._peers.get(contact.node or "")
        if peer is not None:
            if not peer.failures:
                self._wake(now)  # messages get lost, or a node: there is less calm than there seemed
            peer.failed(now, self._settings.interval, self._rng)

    def answered(self, contact: Contact, frame: bytes, now: float) -> Contact | None:
        """Take in an answer.

        Returns:
            What is to be sent after it, if anything.

        Raises:
            NotAMember: it isn't from who was asked.
            InvalidInput, Refused: it is no answer. In either case the contact has failed.
        """
        try:
            message = self._open(frame, now, contact)
        except (InvalidInput, Refused) as error:
            self.counts.refused_messages[_reason(error)] += 1
            self.failed(contact, now)
            raise
        if message.kind == "no":
            told = message.reason if message.reason in _REASONS else "other"  # not as many as it likes
            self.counts.refused_messages[f"told: {told}"] += 1
            self.failed(contact, now)
            raise Refused(f"{message.sender[:12]} says: {message.reason}")
        self._peers[message.sender].answered()
        seed = self._seeds.get(contact.url)
        if seed is not None:
            seed.node = message.sender
            seed.peering.answered()
        if message.kind == "id":
            return self._syn(message.sender, contact.url, now)
        self._take(message, now)
        if message.kind == "ack" and message.names:
            records = self._newest_first(self._table.named(message.names))
            push = self._message("push", message.sender, now, records=fitting(records))
            return self._contact(contact.url, message.sender, push)
        return None

    # -- the other side --------------------------------------------------------------------------------------------

    def receive(self, frame: bytes, now: float) -> bytes:
        """Answer a frame that somebody sent.

        Raises:
            NotAMember: whoever it was gets no answer (401).
            InvalidInput: this is no frame at all (400).
        """
        try:
            message = self._open(frame, now)
        except (InvalidInput, NotAMember) as error:
            self.counts.refused_messages[_reason(error)] += 1
            raise
        except _Unwelcome as error:
            self.counts.refused_messages[error.reason] += 1
            return self._answer(error.message, self._message("no", error.message.sender, now, reason=error.reason))
        self._peers[message.sender].answered()
        match message.kind:
            case "who":
                return self._answer(message, self._message("id", message.sender, now))
            case "syn":
                try:
                    lacking, names = self._table.compare(message.lowest, message.beyond, message.digest)
                except InvalidInput:
                    return self._answer(message, self._message("no", message.sender, now, reason="no digest"))
                records = fitting(self._newest_first(lacking))
                names = names[: MAX_NAMES * NAME_BYTES]
                return self._answer(message, self._message("ack", message.sender, now, records=records, names=names))
            case "push":
                self._take(message, now)
                return self._answer(message, self._message("done", message.sender, now))
        self.counts.refused_messages["unknown kind"] += 1
        return self._answer(message, self._message("no", message.sender, now, reason="unknown kind"))

    # -- what is known ---------------------------------------------------------------------------------------------

    @property
    def members(self) -> Mapping[str, Member]:
        """Who is in the fleet, this node among them if it is."""
        return self._members

    def alarm(self, now: float) -> str | None:
        """What an operator has to be told of at once, if anything."""
        return self._own.alarm(now)

    def own_record(self) -> SignedRecord | None:
        """This node's own record; None before the first."""
        return self._table.get(self.node)

    def peers(self, now: float) -> list[PeerState]:
        """Every other member as it is now, by id."""
        return [self._peer_state(node, now) for node in sorted(self._peers)]

    def state(self) -> bytes:
        """Equal on two nodes that know the same records."""
        return self._table.state()

    def skew(self) -> tuple[float, int]:
        """How far the others' clocks are ahead of ours: the median in seconds, and how many have been heard."""
        offsets = [peer.offset for peer in self._peers.values() if peer.offset is not None]
        return (statistics.median(offsets), len(offsets)) if offsets else (0.0, 0)

    def newer_catalogs(self, mine: CatalogVersion, now: float) -> list[PeerState]:
        """The members that tell of a newer catalog and are worth asking, in no order that they could choose."""
        found = [
            state
            for state in self.peers(now)
            if state.record is not None
            and state.state not in ("dead", "unknown")
            and state.record.record.says.catalog > mine
            and self._peers[state.id].may_be_asked(now)
        ]
        self._rng.shuffle(found)
        return found

    def refuse_catalog(self, node: str, version: CatalogVersion, reason: str, now: float) -> None:
        """Mark a member whose newer catalog can't be believed."""
        if (peer := self._peers.get(node)) is not None:
            peer.refuse_catalog(version, reason, now)

    def believe_catalog(self, node: str) -> None:
        """Take that mark away."""
        if (peer := self._peers.get(node)) is not None:
            peer.believe_catalog()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _wake(self, now: float) -> None:
        self._lively_until = now + _LIVELY * self._settings.interval

    def _sort(self, now: float) -> tuple[list[str], list[str]]:
        """Members that are worth asking: those alive, and those that are silent and may be tried again now."""
        live: list[str] = []
        silent: list[str] = []
        for node, peer in self._peers.items():
            if now < peer.next_try:
                continue
            alive = (
                peer.detector is not None
                and not peer.detector.dead(now, self._settings.phi_threshold)
                and not (peer.failures and peer.suspect(now, self._settings.interval))
            )
            (live if alive else silent).append(node)
        return live, silent

    def _liveness(self, peer: Peering, now: float) -> tuple[str, float]:
        if peer.detector is None:
            return "unknown", 0.0
        phi = peer.detector.phi(now)
        if phi >= self._settings.phi_threshold:
            return "dead", phi
        return ("suspect" if peer.suspect(now, self._settings.interval) else "alive"), phi

    def _peer_state(self, node: str, now: float) -> PeerState:
        peer, record = self._peers[node], self._table.get(node)
        if record is None or peer.detector is None:
            return PeerState(self._members[node], None, "unknown", offset=peer.offset)
        state, phi = self._liveness(peer, now)
        if state == "alive" and record.record.says.state != "up":
            state = record.record.says.state
        return PeerState(self._members[node], record, state, phi, peer.detector.last, peer.offset, peer.refused_catalog)

    def _url(self, node: str) -> str | None:
        record = self._table.get(node)
        urls = list(PeerState(self._members[node], record, "").gossip_urls)
        if (said := self._peers[node].said_url) and said not in urls:
            urls.append(said)
        urls += [url for url, seed in self._seeds.items() if seed.node == node and url not in urls]
        return urls[self._peers[node].url_number % len(urls)] if urls else None

    def _to_seeds(self, now: float) -> list[Contact]:
        if not self._seeds:
            return []
        states = (PeerState(self._members[node], self._table.get(node), "") for node in self._peers)
        known = {url for state in states for url in state.gossip_urls}
        asked = []
        for url, seed in self._seeds.items():
            if url in known or seed.node in self._members or now < seed.peering.next_try:
                continue
            asked.append(self._contact(url, None, self._message("who", ANYBODY.hex(), now)))
            seed.peering.next_try = now + self._settings.interval
        return asked

    def _syn(self, node: str, url: str, now: float) -> Contact:
        lowest, beyond, digest = self._table.digest(self._turn, self._settings.max_entries)
        if lowest or beyond:
            self._turn += self._settings.max_entries
        message = self._message("syn", node, now, digest=digest, lowest=lowest, beyond=beyond)
        return self._contact(url, node, message)

    def _message(
        self,
        kind: str,
        to: str,
        now: float,
        *,
        digest: bytes = b"",
        lowest: bytes = b"",
        beyond: bytes = b"",
        names: bytes = b"",
        records: Sequence[bytes] = (),
        reason: str = "",
    ) -> Message:
        nonce = self._rng.randbytes(16)
        return Message(
            kind, self.node, bytes.fromhex(to), now, nonce, b"", digest, lowest, beyond, names, records, reason
        )

    def _contact(self, url: str, node: str | None, message: Message) -> Contact:
        return Contact(url, self._send(message), node, message.nonce, message.kind)

    def _answer(self, asked: Message, message: Message) -> bytes:
        return self._send(replace(message, re=asked.nonce))

    def _send(self, message: Message) -> bytes:
        frame = encode(message, self._signatures)
        self._count("sent", message.kind, len(frame))
        return frame

    def _count(self, direction: str, kind: str, size: int) -> None:
        self.counts.messages[direction, kind] += 1
        self.counts.bytes[direction] += size
        self.counts.sizes.append((direction, size))

    def _open(self, frame: bytes, now: float, asked: Contact | None = None) -> Message:
        """Check who sent a frame, to whom and when, and that it answers what was asked."""
        sender = sender_of(frame)
        member = self._members.get(sender)
        if member is None or sender == self.node:
            raise NotAMember(f"{sender[:12]} is not in the fleet")
        try:
            message = decode(frame, member.key, self._signatures)
        except Forged as error:
            raise NotAMember(str(error)) from error
        kinds = ("syn", "ack", "push", "done", "who", "id", "no")
        self._count("received", message.kind if message.kind in kinds else "other", len(frame))
        anybody = message.kind == "who" and message.to == ANYBODY
        if not anybody and message.to != bytes.fromhex(self.node):
            raise _Unwelcome(message, "not for this node")
        if asked is not None:
            if message.re != asked.nonce:
                raise InvalidInput("an answer to something else")
            if asked.node is not None and sender != asked.node:
                raise NotAMember(f"{sender[:12]} answered for {asked.node[:12]}")
            # with our nonce it is fresh, however wrong either clock is
            self._peers[sender].offset = message.at - now
        if abs(message.at - now) > self._settings.clock_tolerance:
            raise _Unwelcome(message, "clock skew")
        if not self._replays.first(sender, message.nonce, message.at, now):
            raise _Unwelcome(message, "replayed")
        self._peers[sender].offset = message.at - now
        return message

    def _take(self, message: Message, now: float) -> None:
        for raw in message.records:
            verdict, record = self._table.merge(raw, message.sender, self.node, now)
            self.counts.records[verdict] += 1
            if record is None:
                continue
            if verdict is Verdict.OWN:
                self.counts.own_key += 1
                if (above := self._own.go_above(record, now)) is not None:
                    self._table.put_own(above)
            elif verdict is Verdict.ACCEPTED:
                self._heard(record, message.sender, now)

    def _heard(self, record: SignedRecord, sender: str, now: float) -> None:
        peer = self._peers[record.id]
        if record.record.says.urgent != peer.urgent:
            peer.urgent = record.record.says.urgent
            self._wake(now)
        peer.said_url = record.record.says.gossip_url or peer.said_url
        issued = record.record.issued - (peer.offset or 0.0)
        self.counts.lags.append(max(0.0, now - issued))
        # one that was on its way for long says that its node was alive then, not that it is now; where the node's clock
        # isn't known yet, when it was issued isn't either
        seen = min(now, issued + self._settings.refresh * (1 if peer.offset is not None else 3))
        if peer.detector is None:
            peer.detector = PhiDetector(self._settings.refresh, seen)
        else:
            silent = peer.detector.dead(now, self._settings.phi_threshold)
            peer.detector.heard(seen, after_silence=silent)
        if peer.failures and sender != record.id and issued > peer.failing_since:
            peer.indirect = True

    def _newest_first(self, records: Iterable[SignedRecord]) -> list[bytes]:
        return [one.raw for one in sorted(records, key=lambda one: one.record.issued, reverse=True)]


class _Unwelcome(Refused):
    """A member's message that isn't acted upon; the member is told why."""

    def __init__(self, message: Message, reason: str) -> None:
        self.message = message
        self.reason = reason
        super().__init__(reason)


def _reason(error: Exception) -> str:
    if isinstance(error, _Unwelcome):
        return error.reason
    return "not a member" if isinstance(error, NotAMember) else "malformed"
