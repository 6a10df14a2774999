"""Edits of the fleet: pure functions from who is a member to the `fleet.json` that has to be signed.

Laws, which the tests hold all edits to:

- A node's id and key never change: the id is the key's hash.
- Who was revoked stays in the document as a tombstone, so that to admit it again is a conscious act.
- The fleet is never without an admitted node.
- The version rises by one with each change; the same edit again changes nothing.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.catalog.entries import ADMITTED, REVOKED, FleetDocument, FleetNode, encode
from aibrother_node.catalog.targets import FLEET_PATH, TargetEdit, document_target
from aibrother_node.errors import InvalidInput, NotFound, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

SHORTEST_PREFIX: Final = 8
"""Digits of a node id that may stand for all of it."""

CHANGEABLE: Final = ("region", "url", "gossip_url", "country", "latitude", "longitude")
"""What is said of a node beside its identity and its state."""

_PREFIX: Final = re.compile(rf"[0-9a-f]{{{SHORTEST_PREFIX},64}}", re.ASCII)


@dataclass(frozen=True)
class FleetEdit:
    """A difference between two fleets, as `Repository.commit` takes it.

    Attributes:
        documents, targets: `fleet.json`, or empty where nothing changes.
        fleet: the state afterwards.
        node: the node that the edit was about, as it is afterwards.
    """

    documents: Mapping[str, bytes | None]
    targets: Mapping[str, TargetEdit | None]
    fleet: FleetDocument = field(compare=False)
    node: FleetNode = field(compare=False)

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return not self.documents


def admit(fleet: FleetDocument, node_id: str, key: str | None, said: Mapping[str, Any]) -> FleetEdit:
    """Admit a node: a new one, one that was revoked, or a member of whom something else is to be said.

    Args:
        fleet: who is there.
        node_id: the id, 64 hex digits.
        key: the Ed25519 public key, 64 hex digits; None where the fleet knows it.
        said: of `CHANGEABLE`; what is missing or None stays as it is.

    Raises:
        NotFound: the fleet doesn't know the node, and there is no key.
        InvalidInput: a value breaks the rules, or the id is not that of the key.
    """
    if unknown := set(said) - set(CHANGEABLE):
        raise InvalidInput(f"nothing is called {min(unknown)!r:.40} that can be said of a node")
    before = _by_id(fleet).get(node_id)
    if before is None:
        if key is None:
            raise NotFound(f"the fleet doesn't know node {node_id}: its key is needed")
        before = FleetNode(node_id, key)
    elif key not in (None, before.key):
        raise InvalidInput(f"the node id {node_id} is not that of the key {key}")
    changes = {name: value for name, value in said.items() if value is not None}
    return _edit(fleet, dataclasses.replace(before, **changes, state=ADMITTED))


def revoke(fleet: FleetDocument, node_id: str) -> FleetEdit:
    """Take a node's membership away; it stays named as revoked.

    Args:
        fleet: who is there.
        node_id: as `find` takes it.

    Raises:
        NotFound, InvalidInput: as `find`.
        Refused: it is the last one that is admitted.
    """
    node = find(fleet, node_id)
    if node.admitted and sum(one.admitted for one in fleet.nodes) == 1:
        raise Refused(f"{node.id} is the last node of the fleet: admit another one first")
    return _edit(fleet, dataclasses.replace(node, state=REVOKED))


def find(fleet: FleetDocument, prefix: str) -> FleetNode:
    """The node with this id, or the only one whose id begins so.

    Args:
        fleet: who is there.
        prefix: 8 to 64 hex digits.

    Raises:
        InvalidInput: that isn't a node id's beginning, or several ids begin so.
        NotFound: none does.
    """
    if not _PREFIX.fullmatch(prefix):
        raise InvalidInput(f"not a node id, nor {SHORTEST_PREFIX} or more digits of one: {prefix!r:.80}")
    found = [node for node in fleet.nodes if node.id.startswith(prefix)]
    if not found:
        raise NotFound(f"the fleet has no node {prefix}")
    if len(found) > 1:
        raise InvalidInput(f"{prefix} is the beginning of several: {', '.join(node.id for node in found[:8])}")
    return found[0]


def _edit(fleet: FleetDocument, node: FleetNode) -> FleetEdit:
    nodes = _by_id(fleet)
    if nodes.get(node.id) == node:
        return FleetEdit({}, {}, fleet, node)
    after = FleetDocument(fleet.version + 1, tuple({**nodes, node.id: node}.values()))
    data = encode(after)
    return FleetEdit({FLEET_PATH: data}, {FLEET_PATH: document_target(data)}, after, node)


def _by_id(fleet: FleetDocument) -> dict[str, FleetNode]:
    return {node.id: node for node in fleet.nodes}
