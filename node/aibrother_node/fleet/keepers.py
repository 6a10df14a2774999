"""Which nodes keep a blob and never evict it: by rendezvous hashing over the fleet's mirrors, the same on every node.

Of each blob, the `copies` mirrors with the highest hash of (blob, node) are its keepers. A node that joins or leaves
changes the keepers of few blobs, and nobody has to agree on anything: where two nodes see different fleets, each asks
and vouches by what it sees itself, and a vouch is only given by who is a keeper in its own eyes (vouching.py).
"""

from __future__ import annotations

import hashlib
import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from aibrother_node.content.digest import Digest
    from aibrother_node.fleet.catalog_now import CatalogNow
    from aibrother_node.fleet.peering import PeerState
    from aibrother_node.fleet.record import CatalogVersion


@dataclass(frozen=True)
class Mirrors:
    """The nodes that can be keepers, as one node sees them.

    Attributes:
        node: the id of the node that sees them.
        state: names the catalog from which this follows; None for none.
        catalog: its version, (root, timestamp).
        ids: admitted nodes in mode `mirror`, this node perhaps among them.
        keys: of each of them.
        gossip_urls: of each but this node, where its fleet listener may be.
    """

    node: str
    state: str | None = None
    catalog: CatalogVersion = (0, 0)
    ids: frozenset[str] = frozenset()
    keys: Mapping[str, bytes] = field(default_factory=dict)
    gossip_urls: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def keepers(self, digest: Digest, copies: int) -> tuple[str, ...]:
        """Who keeps a blob."""
        return keepers(digest, self.ids, copies)


def keepers(digest: Digest, mirrors: Collection[str], copies: int) -> tuple[str, ...]:
    """The keepers of a blob, the first of them with the highest hash; fewer than `copies` where there are fewer nodes.

    Args:
        digest: of the blob.
        mirrors: ids of all nodes that may be.
        copies: how many there are.
    """
    return tuple(heapq.nlargest(copies, mirrors, key=lambda node: _score(digest, node)))


def mirrors_of(node: str, mode: str, found: CatalogNow, peers: Iterable[PeerState], state: str | None) -> Mirrors:
    """Who may be a keeper: admitted nodes, but for those whose record says that they are caches.

    A member of which nothing is known counts as a mirror, as does one whose release didn't say: it will be asked, and
    what it doesn't confirm isn't evicted.

    Args:
        node: this node's id.
        mode: this node's own.
        found: the catalog, with the fleet.
        peers: what is known of the others.
        state: names that catalog.
    """
    known = {peer.id: peer for peer in peers}
    ids, urls = set(), {}
    for member in found.members.values():
        if member.id == node:
            if mode == "mirror":
                ids.add(node)
            continue
        peer = known.get(member.id)
        if peer is None or peer.record is None or peer.record.record.says.mode == "mirror":
            ids.add(member.id)
            urls[member.id] = tuple(url for url in (member.gossip_url,) if url) if peer is None else peer.gossip_urls
    return Mirrors(node, state, found.version, frozenset(ids), {id_: found.members[id_].key for id_ in ids}, urls)


def _score(digest: Digest, node: str) -> bytes:
    return hashlib.sha256(digest.raw + bytes.fromhex(node)).digest()
