"""Evictions under way: which blobs are marked, who was asked, who vouched, whether one may be removed now.

Pure; the law is that of vouching.py, and each of its rules stands in one place here. Everything is called on the thread
that changes the store, `permit` in one piece with the removal. Marks are kept in memory: a process that ends has not
removed what it had marked, and its vouches count from then on as those of any other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aibrother_node.errors import Refused
from aibrother_node.fleet.vouching import FRESH, Vouch

if TYPE_CHECKING:
    from aibrother_node.content.digest import Digest
    from aibrother_node.fleet.keepers import Mirrors
    from aibrother_node.fleet.signatures import Signatures

_SHOWN = 12  # digits of a node id


@dataclass(eq=False)
class Attempt:
    """One try to evict one blob.

    Attributes:
        digest: of the blob.
        nonce: of the question, used for nothing else.
        mirrors: the fleet as it was seen when the blob was marked.
        keepers: who is asked.
        began: when, in seconds of a clock that is never set.
        vouched: who of them keeps it.
        upstreams: which of those have said just now that they have it; they are never evicted from.
    """

    digest: Digest
    nonce: bytes
    mirrors: Mirrors
    keepers: tuple[str, ...]
    began: float
    vouched: set[str] = field(default_factory=set)
    upstreams: set[str] = field(default_factory=set)


class Evictions:
    """Those of one node.

    Args:
        node: its id.
        signatures: checks those of others.
        copies: how many nodes keep a blob.
        upstreams: there are upstreams to ask as well.
    """

    def __init__(self, node: str, signatures: Signatures, copies: int, *, upstreams: bool = False) -> None:
        self.node = node
        self.copies = copies
        self._upstreams = upstreams
        self._signatures = signatures
        self._marked: dict[Digest, Attempt] = {}

    def apart(self) -> Evictions:
        """A copy in which nothing is marked, to see what others would say."""
        return Evictions(self.node, self._signatures, self.copies, upstreams=self._upstreams)

    def refusal(self, digest: Digest, mirrors: Mirrors) -> str | None:
        """Why a blob isn't evicted here whatever others say; None where they are to be asked."""
        found = mirrors.keepers(digest, self.copies)
        if self.node in found:
            return "this node is one of those that keep it"
        if not found and not self._upstreams:
            return "this is the last copy known: no other node keeps blobs"
        return None

    def begin(self, digest: Digest, mirrors: Mirrors, nonce: bytes, now: float) -> Attempt:
        """Mark a blob, before anybody is asked.

        Raises:
            Refused: it stays; the message says why.
        """
        reason = self.refusal(digest, mirrors)
        if reason is not None:
            raise Refused(reason)
        attempt = Attempt(digest, nonce, mirrors, mirrors.keepers(digest, self.copies), now)
        self._marked[digest] = attempt
        return attempt

    def is_marked(self, digest: Digest) -> bool:
        """Whether this node is about to evict a blob."""
        return digest in self._marked

    def hear(self, attempt: Attempt, node: str, vouch: Vouch | None) -> None:
        """A keeper has answered; what doesn't count is as good as no answer."""
        key = attempt.mirrors.keys.get(node)
        if node not in attempt.keepers or vouch is None or key is None:
            return
        catalog = attempt.mirrors.catalog
        if vouch.counts(self._signatures, key, self.node, attempt.digest, attempt.nonce, catalog):
            attempt.vouched.add(node)

    def permit(self, attempt: Attempt, mirrors: Mirrors, now: float) -> tuple[str, ...]:
        """Say that the blob may be removed in this very moment.

        All of its keepers have to have vouched, not only one: `copies` is how many the operator wants to be sure of.
        A keeper that is away for long is to be revoked; until then what it keeps stays on the others as well.

        Args:
            attempt: the try.
            mirrors: the fleet as it is seen now.
            now: the time, by the same clock.

        Returns:
            Who keeps it.

        Raises:
            Refused: it stays; the message says why.
        """
        if self._marked.get(attempt.digest) is not attempt:
            raise Refused("it was asked about again meanwhile")
        if now - attempt.began > FRESH:
            raise Refused("those that keep it took too long to confirm it")
        if mirrors.state != attempt.mirrors.state or mirrors.catalog != attempt.mirrors.catalog:
            raise Refused("the catalog has changed meanwhile")
        reason = self.refusal(attempt.digest, mirrors)
        if reason is not None:
            raise Refused(reason)
        if attempt.upstreams:
            return tuple(sorted(attempt.upstreams))
        found = mirrors.keepers(attempt.digest, self.copies)
        if not found:
            raise Refused("this is the last copy known: no upstream has it now")
        silent = [node[:_SHOWN] for node in found if node not in attempt.vouched]
        if silent:
            known = "this is the last copy known" if len(silent) == len(found) else "too few copies are known"
            raise Refused(f"{known}: {', '.join(silent)} doesn't confirm to keep it")
        return found

    def end(self, attempt: Attempt) -> None:
        """The blob was removed, or stays: the mark goes."""
        if self._marked.get(attempt.digest) is attempt:
            del self._marked[attempt.digest]

    def keeps(self, digest: Digest, mirrors: Mirrors, *, named: bool, pinned: bool) -> bool:
        """Whether this node may vouch for a blob that is whole here.

        Args:
            digest: of the blob.
            mirrors: the fleet as it is seen now.
            named: whether this node's catalog names the blob. What it doesn't name could be collected without asking,
                pinned or not, as soon as the pin goes.
            pinned: whether it is pinned here.
        """
        if not named or self.is_marked(digest) or self.node not in mirrors.ids:
            return False
        return pinned or self.node in mirrors.keepers(digest, self.copies)
