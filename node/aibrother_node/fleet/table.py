"""The records of a fleet as one node knows them: which of two counts, and who lacks what.

The merge is a join: per node the record that is later in `SignedRecord.order` stays. So it is commutative, associative
and idempotent, and what is known only grows, whatever way records come and however often. In front of it stand the
reasons to refuse one, cheapest first: known by its hash, malformed, no member's, not later, from the future, from one
who forgot to die, and last, since it costs most, a signature that doesn't hold.

A digest is a node's id, incarnation, version and hash in 24 bytes; two tables are compared by the difference of two
sets of them (van Renesse et al., "Efficient Reconciliation and Flow Control for Anti-Entropy Protocols", 2008).
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from aibrother_node.errors import InvalidInput
from aibrother_node.fleet.record import ENTRY_BYTES, NAME_BYTES, SignedRecord, hash_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aibrother_node.fleet.members import Member
    from aibrother_node.fleet.signatures import Signatures

_REFUSED: Final = 4096


class Verdict(StrEnum):
    """What became of a record."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    STALE = "stale"
    MALFORMED = "malformed"
    STRANGER = "not a member"
    FUTURE = "from the future"
    FORGOTTEN = "too old"
    FORGED = "forged"
    OWN = "own key"

    @property
    def refused(self) -> bool:
        """Whether somebody did wrong."""
        return self in (Verdict.MALFORMED, Verdict.FORGED, Verdict.FUTURE)


@dataclass(frozen=True, slots=True)
class TableLimits:
    """Ceilings in time.

    Attributes:
        forget_after: seconds after which a record is too old for anybody but its owner to bring.
        clock_tolerance: seconds that a record may come from the future.
    """

    forget_after: float = 3600.0
    clock_tolerance: float = 300.0


class RecordTable:
    """The newest record of each member.

    Args:
        signatures: checks them.
        limits: ceilings.
    """

    def __init__(self, signatures: Signatures, limits: TableLimits) -> None:
        self._signatures = signatures
        self._limits = limits
        self._records: dict[str, SignedRecord] = {}
        self._members: Mapping[str, Member] = {}
        self._names: dict[bytes, str] = {}
        self._hashes: set[bytes] = set()
        self._refused: OrderedDict[bytes, Verdict] = OrderedDict()
        # the digest, kept in order and as a set, since every exchange needs all of it and a record changes one entry
        self._entries: list[bytes] = []
        self._entry_set: set[bytes] = set()
        self._joined: bytes | None = None
        self._oldest = math.inf  # no record was issued before

    def __len__(self) -> int:
        return len(self._records)

    def get(self, node: str) -> SignedRecord | None:
        """A member's record."""
        return self._records.get(node)

    def records(self) -> Mapping[str, SignedRecord]:
        """All of them, by id."""
        return self._records

    def set_members(self, members: Mapping[str, Member]) -> list[str]:
        """Take over who is in the fleet; records of others go. Returns whose went."""
        self._members = members
        self._names = {bytes.fromhex(node)[:NAME_BYTES]: node for node in members}
        self._refused.clear()  # what was a stranger's may be a member's now
        gone = [node for node in self._records if node not in members]
        for node in gone:
            self.drop(node)
        return gone

    def drop(self, node: str) -> None:
        """Forget a node's record."""
        record = self._records.pop(node, None)
        if record is not None:
            self._leave_out(record)

    def put_own(self, record: SignedRecord) -> None:
        """Put this node's own record, just signed."""
        self._put(record)

    def merge(self, raw: bytes, sender: str, own: str, now: float) -> tuple[Verdict, SignedRecord | None]:
        """Take in a record if it is later than what is known.

        Args:
            raw: its bytes.
            sender: the id of the member that sent them.
            own: this node's id: its own records are returned with the verdict `OWN`, and not taken in.
            now: seconds since 1970.
        """
        found = hash_of(raw)
        if found in self._hashes:
            return Verdict.DUPLICATE, None
        if found in self._refused:
            self._refused.move_to_end(found)
            return self._refused[found], None
        try:
            record = SignedRecord.parse(raw)
        except InvalidInput:
            return self._refuse(found, Verdict.MALFORMED), None
        member = self._members.get(record.id)
        if member is None or member.key != record.record.key:
            return self._refuse(found, Verdict.STRANGER), None
        known = self._records.get(record.id)
        if known is not None and record.order <= known.order:
            return Verdict.STALE, None
        age = now - record.record.issued
        if age < -self._limits.clock_tolerance:
            return Verdict.FUTURE, None  # in time it may be right, so this verdict isn't kept
        if age > self._limits.forget_after and sender != record.id:
            return Verdict.FORGOTTEN, None  # not kept: its owner may bring it
        if not record.verify(self._signatures):
            return self._refuse(found, Verdict.FORGED), None
        if record.id == own:
            return Verdict.OWN, record
        self._put(record)
        return Verdict.ACCEPTED, record

    def digest(self, start: int, most: int) -> tuple[bytes, bytes, bytes]:
        """A digest of records from one of them on.

        Args:
            start: position of the first, in the order of their entries.
            most: how many at most.

        Returns:
            The lowest name it speaks of, the first one beyond, and the entries. It speaks of everything (`""` and
            `""`) where all fit; a part speaks of the names between its bounds, at the ends to either side.
        """
        entries = self._entries
        if len(entries) <= most:
            return b"", b"", self.state()
        start %= len(entries)
        part = entries[start : start + most]
        lowest = b"" if start == 0 else part[0][:NAME_BYTES]
        beyond = entries[start + most][:NAME_BYTES] if start + most < len(entries) else b""
        return lowest, beyond, b"".join(part)

    def compare(self, lowest: bytes, beyond: bytes, digest: bytes) -> tuple[list[SignedRecord], bytes]:
        """Compare with another's digest.

        Returns:
            The records that it lacks, in no order; and the names of those that it has later (8 bytes each).

        Raises:
            InvalidInput: this is no digest.
        """
        mine = self._entry_set
        if not lowest and not beyond:
            if digest == self.state():
                return [], b""
        else:
            first = bisect_left(self._entries, lowest)
            mine = set(self._entries[first : bisect_left(self._entries, beyond) if beyond else None])
        theirs = _split(digest)
        their_orders = {entry[:NAME_BYTES]: entry[NAME_BYTES:] for entry in theirs - mine}
        my_orders = {entry[:NAME_BYTES]: entry[NAME_BYTES:] for entry in mine - theirs}
        lacking = [
            self._records[self._names[name]]
            for name, order in my_orders.items()
            if name in self._names and order > their_orders.get(name, b"")
        ]
        wanted = [
            name for name, order in their_orders.items() if name in self._names and order > my_orders.get(name, b"")
        ]
        return lacking, b"".join(wanted)

    def named(self, names: bytes) -> list[SignedRecord]:
        """The records of some names, of 8 bytes each; those that aren't here are left out."""
        nodes = (self._names.get(names[i : i + NAME_BYTES]) for i in range(0, len(names), NAME_BYTES))
        return [self._records[node] for node in nodes if node in self._records]

    def state(self) -> bytes:
        """The whole digest: equal on two nodes that know the same."""
        if self._joined is None:
            self._joined = b"".join(self._entries)
        return self._joined

    def forget(self, now: float, spare: Iterable[str]) -> list[str]:
        """Drop what is too old to be passed on. Returns whose records went."""
        if now - self._oldest <= self._limits.forget_after:
            return []
        spared = set(spare)
        old = [
            node
            for node, record in self._records.items()
            if node not in spared and now - record.record.issued > self._limits.forget_after
        ]
        for node in old:
            self.drop(node)
        self._oldest = min((record.record.issued for record in self._records.values()), default=math.inf)
        return old

    def _put(self, record: SignedRecord) -> None:
        known = self._records.get(record.id)
        if known is not None:
            self._leave_out(known)
        self._records[record.id] = record
        self._hashes.add(record.hash)
        insort(self._entries, record.entry)
        self._entry_set.add(record.entry)
        self._joined = None
        self._oldest = min(self._oldest, record.record.issued)

    def _leave_out(self, record: SignedRecord) -> None:
        self._hashes.discard(record.hash)
        del self._entries[bisect_left(self._entries, record.entry)]
        self._entry_set.discard(record.entry)
        self._joined = None

    def _refuse(self, found: bytes, verdict: Verdict) -> Verdict:
        self._refused[found] = verdict
        while len(self._refused) > _REFUSED:
            self._refused.popitem(last=False)
        return verdict


def _split(digest: bytes) -> set[bytes]:
    if len(digest) % ENTRY_BYTES:
        raise InvalidInput(f"a digest of {len(digest)} bytes")
    return {digest[i : i + ENTRY_BYTES] for i in range(0, len(digest), ENTRY_BYTES)}
