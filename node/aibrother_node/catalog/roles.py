"""The catalog's TUF roles: what they are called, how long they live, how large a file of theirs may be.

    root ── timestamp, snapshot, targets
    targets ── models (models/*) ── models-0 … models-f (hash bins, TAP 15)
            ├─ staging (staging/*)
            └─ fleet (fleet.json)

All delegations are terminating: one path is one role's business. Words as in the TUF specification, 1.0.31.
"""

from __future__ import annotations

import re
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from tuf.api.metadata import DelegatedRole, Delegations, SuccinctRoles

from aibrother_node.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from securesystemslib.signer import Key

TOP_LEVEL: Final = ("root", "timestamp", "snapshot", "targets")
DELEGATED: Final = ("models", "staging", "fleet")
KEYED_ROLES: Final = (*TOP_LEVEL, *DELEGATED)
"""The roles that have keys of their own, in the order in which people read them; bins share those of `models`."""

OFFLINE_ROLES: Final = ("root", "targets")
"""Whose keys belong on no machine that is reached from outside."""

ONLINE_ROLES: Final = ("snapshot", "timestamp")
"""Whose keys are on the node that makes edits visible."""

_PATHS: Final = {"models": ["models/*"], "staging": ["staging/*"], "fleet": ["fleet.json"]}
_BIN_BITS: Final = 4
_BIN_PREFIX: Final = "models"
_BIN: Final = re.compile(r"models-[0-9a-f]+", re.ASCII)

EXPIRIES: Final[Mapping[str, timedelta]] = MappingProxyType(
    {
        "root": timedelta(days=365),
        "timestamp": timedelta(days=7),
        "snapshot": timedelta(days=14),
        **dict.fromkeys(("targets", *DELEGATED), timedelta(days=180)),
    }
)
"""How long what a role signs stays valid, by default."""

_CEILINGS: Final = {"root": 512_000, "timestamp": 16_384, "snapshot": 2_000_000}
_TARGETS_CEILING: Final = 5_000_000

_SEGMENT: Final = re.compile(r"[a-z0-9][a-z0-9._+-]{0,254}", re.ASCII)


def ceiling(role: str) -> int:
    """The largest file of a role, in bytes, that python-tuf's client takes with its default configuration."""
    return _CEILINGS.get(role, _TARGETS_CEILING)


def keyed_role(role: str) -> str:
    """The role whose keys and expiry a role uses: a bin's are those of `models`."""
    return "models" if _BIN.fullmatch(role) else role


def check_target_path(path: str) -> str:
    """Make sure that a file may lie at this target path: one or two plain segments.

    Raises:
        InvalidInput: for anything else: "..", empty segments, NUL, backslashes, capital letters.
    """
    segments = path.split("/")
    if len(segments) > 2 or any(not _SEGMENT.fullmatch(one) or ".." in one for one in segments):
        raise InvalidInput(f"not a target path: {path[:80]!r}")
    return path


def top_delegations(keys: Mapping[str, Sequence[Key]], thresholds: Mapping[str, int]) -> Delegations:
    """What `targets` delegates, in the order in which clients ask."""
    return Delegations(
        keys={key.keyid: key for role in DELEGATED for key in keys[role]},
        roles={
            role: DelegatedRole(
                role, [key.keyid for key in keys[role]], thresholds.get(role, 1), terminating=True, paths=_PATHS[role]
            )
            for role in DELEGATED
        },
    )


def bin_delegations(keys: Sequence[Key], threshold: int) -> Delegations:
    """What `models` delegates: sixteen bins by the hash of the path, signed with its own keys."""
    return Delegations(
        keys={key.keyid: key for key in keys},
        succinct_roles=SuccinctRoles([key.keyid for key in keys], threshold, _BIN_BITS, _BIN_PREFIX),
    )


def delegator_of(role: str) -> str:
    """Which role names the keys of this one."""
    if role in TOP_LEVEL:
        return "root"
    return "targets" if role in DELEGATED else keyed_role(role)
