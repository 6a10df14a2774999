"""What a publisher signs on a machine of its own, besides edits (`Repository.draft`): new keys, and new expiries.

The drafts go to the node that has the keys of snapshot and timestamp (accept.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aibrother_node.catalog.accept import Draft, sign_draft
from aibrother_node.catalog.roles import KEYED_ROLES, ONLINE_ROLES
from aibrother_node.catalog.rotation import rotation, wanted
from aibrother_node.catalog.upkeep import due
from aibrother_node.errors import InvalidInput, NotFound, Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aibrother_node.catalog.commit import Signing
    from aibrother_node.catalog.keys import RingKey
    from aibrother_node.catalog.state import State


def check_role(role: str) -> str:
    """Make sure that a role's keys can be replaced from afar.

    Raises:
        InvalidInput: no such role has keys.
        Refused: its keys are the signing node's own.
    """
    if role not in KEYED_ROLES:
        raise InvalidInput(f"no role {role!r} has keys: it is one of {', '.join(KEYED_ROLES)}")
    if role in ONLINE_ROLES:
        raise Refused(f"the keys of {role} are on the node that signs: run `keys rotate {role}` there")
    return role


def draft_rotation(
    state: State, role: str, keys: Sequence[RingKey], signing: Signing, threshold: int | None = None
) -> Draft:
    """Sign what it takes to give a role new keys.

    Args:
        state: the catalog as it is.
        role: as `check_role` takes it.
        keys: the new keys, which are in the ring.
        signing: its ring also holds the keys of whoever names the role's, and for root and targets the old ones.
        threshold: how many must sign from now on; as before if None.

    Raises:
        InvalidInput: no such role, or fewer keys than must sign.
        Refused: keys that it takes aren't here.
    """
    change = rotation(state, check_role(role), [key.public for key in keys], threshold)
    return sign_draft(state, change, signing, {})


def draft_refresh(state: State, signing: Signing) -> Draft:
    """Sign again what is beyond half its life and has its keys here, but for snapshot and timestamp."""
    change, _ = due(state, signing, online=True)
    change.again.clear()
    return sign_draft(state, change, signing, {})


def keyids(state: State, role: str) -> list[str]:
    """The keys of a role that has keys of its own."""
    return list(wanted(state, role).keyids)


def is_visible(state: State, draft: Draft) -> bool:
    """Whether the catalog has become what a draft says: where an answer was lost, this tells."""
    versions = state.versions()
    try:
        return all(
            role in versions and state.files.read_role(state.files.role(role, versions[role]), role) == data
            for role, data in draft.roles.items()
        )
    except NotFound:
        return False
