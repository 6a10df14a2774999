"""New keys for a role: what has to be signed again so that old clients and new ones follow.

- Keys of top-level roles are named by root: a new root, signed by the old root's keys and its own.
- Keys of delegated roles are named by `targets`; those of `models` also by `models` itself, for all hash bins. They
  change within one snapshot, so clients see either all of the old or all of the new.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from tuf.api.metadata import Role, Targets

from aibrother_node.catalog.commit import Change
from aibrother_node.catalog.roles import TOP_LEVEL
from aibrother_node.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from securesystemslib.signer import Key
    from tuf.api.metadata import Root

    from aibrother_node.catalog.state import State


def rotation(state: State, role: str, keys: Sequence[Key], threshold: int | None) -> Change:
    """What changes when a role gets these keys instead of those that it has.

    Args:
        state: the catalog; not changed.
        role: one that has keys of its own.
        keys: the new ones.
        threshold: how many of them must sign; as before if None.

    Raises:
        InvalidInput: fewer keys than must sign, or a threshold below 1.
    """
    old = wanted(state, role)
    number = old.threshold if threshold is None else threshold
    if not 1 <= number <= len(keys):
        raise InvalidInput(f"{number} keys must sign {role}, and it would have {len(keys)}")
    if role in TOP_LEVEL:
        root = copy.deepcopy(state.root)
        _replace(root, role, root.roles[role], keys, number)
        return Change(root=root)
    targets = _copy(state.role("targets"))
    _replace(targets, role, targets.get_delegated_role(role), keys, number)
    payloads = {"targets": targets, role: _copy(state.role(role))}
    delegations = payloads[role].delegations
    if delegations is not None and (bins := delegations.succinct_roles) is not None:
        _replace(payloads[role], role, bins, keys, number)
        payloads |= {name: _copy(state.role(name)) for name in bins.get_roles()}
    return Change(payloads=payloads)


def wanted(state: State, role: str) -> Role:
    """Which keys sign a role that has keys of its own, and how many of them must."""
    return state.root.roles[role] if role in TOP_LEVEL else state.role("targets").get_delegated_role(role)


def _copy(payload: Targets) -> Targets:
    return Targets(targets=payload.targets, delegations=copy.deepcopy(payload.delegations))


def _replace(delegator: Root | Targets, role: str, entry: Role, keys: Sequence[Key], threshold: int) -> None:
    for keyid in list(entry.keyids):
        delegator.revoke_key(keyid, role)
    for key in keys:
        delegator.add_key(key, role)
    entry.threshold = threshold
