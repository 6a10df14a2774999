"""Vouching: a node says, signed and now, that it keeps a blob, so that another one may evict its own copy.

`GET /have/v1/<digest>?vouch=<nonce>` asks for it. The rules that make it safe, whatever catalog each side has, and
however messages are lost, delayed and doubled:

1. Who wants to evict a blob marks it BEFORE it asks, and the mark stays until it has removed the blob or given up.
2. Nobody vouches for what it has marked; nor for what it isn't a keeper of in its own eyes and hasn't pinned, what its
   catalog doesn't name (it could be collected there without asking anybody), or where it is no mirror.
3. A vouch answers one question: it is signed over a nonce that is used once, and counts for `FRESH` seconds. An answer
   to an earlier question may have been given before its giver marked the blob itself.
4. A vouch says under which catalog it was given, and counts only where that is at least as new as the asker's. Else its
   giver might still come to a catalog, old for the asker, that doesn't name the blob.
5. Between the answers and the removal the catalog is looked at again: where it has changed, the asker gives up.

Why that is enough: say that all copies of a blob were evicted, L's the last. L was vouched for by V, after L had
marked it; V evicted later, vouched for by W after V's vouch. L's mark still stood, so W isn't L. W evicted too, vouched
for still later, by somebody who is neither, and so on: there is always one more node, and there are finitely many.

tests/sim/test_eviction.py plays this with stale views, lost and late messages and crashes, and shows that it fails
when a rule is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aibrother_node.errors import InvalidInput

if TYPE_CHECKING:
    from aibrother_node.content.digest import Digest
    from aibrother_node.fleet.record import CatalogVersion
    from aibrother_node.fleet.signatures import Signatures

FRESH: Final = 10.0
"""Seconds from the question for which a vouch counts."""
NONCE_BYTES: Final = 16
_CONTEXT: Final = b"aibrother-vouch/1\0"


def target(digest: Digest, nonce: bytes) -> str:
    """Path and query of the question."""
    return f"/have/v1/{digest}?vouch={nonce.hex()}"


def parse_nonce(text: str) -> bytes:
    """Read the query's parameter.

    Raises:
        InvalidInput: it is no nonce.
    """
    if len(text) != 2 * NONCE_BYTES or not set(text) <= set("0123456789abcdef"):
        raise InvalidInput(f"a nonce has {2 * NONCE_BYTES} lower-case hex digits")
    return bytes.fromhex(text)


@dataclass(frozen=True, slots=True)
class Vouch:
    """What a node says.

    Attributes:
        catalog: the one that it has: (root version, timestamp version).
        signature: of the answer to one question.
    """

    catalog: CatalogVersion
    signature: bytes

    @classmethod
    def give(cls, signatures: Signatures, asker: str, digest: Digest, nonce: bytes, catalog: CatalogVersion) -> Vouch:
        """Say that this node keeps a blob, to the node that asks."""
        return cls(catalog, signatures.sign(_said(asker, digest, nonce, catalog)))

    def counts(
        self, signatures: Signatures, key: bytes, asker: str, digest: Digest, nonce: bytes, catalog: CatalogVersion
    ) -> bool:
        """Whether it is the answer to this question, and given under a catalog that is new enough.

        Args:
            signatures: checks.
            key: of the node that was asked.
            asker: the id of the one that did.
            digest: of the blob.
            nonce: of the question.
            catalog: which one the asker has.
        """
        said = _said(asker, digest, nonce, self.catalog)
        return self.catalog >= catalog and signatures.verify(key, self.signature, said)


def _said(asker: str, digest: Digest, nonce: bytes, catalog: CatalogVersion) -> bytes:
    versions = b"".join(number.to_bytes(6, "big") for number in catalog)
    return _CONTEXT + bytes.fromhex(asker) + digest.raw + nonce + versions
