"""What a catalog needs though nobody edits it: signatures before they expire, and an end of old files."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tuf.api.metadata import Snapshot, Targets

from aibrother_node.catalog.commit import Change, Signing, can_sign
from aibrother_node.catalog.roles import delegator_of, keyed_role
from aibrother_node.catalog.state import parse
from aibrother_node.errors import InvalidInput, NotFound, VerificationFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime, timedelta
    from pathlib import Path

    from aibrother_node.catalog.files import CatalogFiles
    from aibrother_node.catalog.state import State

_MAYBE_REACHED: Final = 2


@dataclass(frozen=True)
class Refreshed:
    """What was signed again.

    Attributes:
        versions: the new version of each role that was.
        left: roles that are beyond half their life and have no keys here, and when they expire.
    """

    versions: dict[str, int]
    left: dict[str, datetime]


def due(state: State, signing: Signing, *, online: bool = False) -> tuple[Change, dict[str, datetime]]:
    """What is beyond half its life: the change that signs it again, and what can't be signed here.

    Args:
        state: the catalog.
        signing: keys, time, expiries.
        online: whether snapshot and timestamp will be signed elsewhere.
    """
    old = [(role, expires) for role, expires in expiries(state) if _is_due(role, expires, signing)]
    change = Change()
    left: dict[str, datetime] = {}
    online = online or all(can_sign(role, state.root, signing.keyring) for role in ("snapshot", "timestamp"))
    for role, expires in old:
        delegator = delegator_of(role)
        naming = state.root if delegator == "root" else state.role(delegator)
        if not can_sign(role, naming, signing.keyring) or not (online or role == "root"):
            left[role] = expires
        elif role == "root":
            change.root = copy.deepcopy(state.root)
        elif role in {"snapshot", "timestamp"}:
            change.again.add(role)
        else:
            payload = state.role(role)
            change.payloads[role] = Targets(targets=payload.targets, delegations=payload.delegations)
    return change, left


def expiries(state: State) -> Iterator[tuple[str, datetime]]:
    """Every role, and when its metadata expires."""
    for one in (state.root, state.timestamp, state.snapshot):
        yield one.type, one.expires
    for name in state.snapshot.meta:
        role = name.removesuffix(".json")
        yield role, state.role(role).expires


def debris(state: State, now: datetime, grace: timedelta) -> list[Path]:
    """Files that no client can still be about to ask for.

    Kept are: all roots; whatever the current snapshot reaches, and every snapshot that was current within the grace;
    whatever is younger than the grace; and metadata with numbers above the current ones, which are used up.

    Args:
        state: the current catalog.
        now: the time, in UTC.
        grace: how long a client may take from reading the timestamp to reading the last file that it leads to.
    """
    files = state.files
    horizon = (now - grace).timestamp()
    current = state.versions()
    roles, documents = _kept(state, horizon)
    gone = [
        path
        for role, version, path in files.numbered()
        if role != "root" and version < current.get(role, 0) and (role, version) not in roles
    ]
    gone += [path for path_of, digest, path in files.documents() if (path_of, digest) not in documents]
    return [path for path in gone if path.stat().st_mtime < horizon]


def _kept(state: State, horizon: float) -> tuple[set[tuple[str, int]], set[tuple[str, str]]]:
    """Role files (role, version) and documents (target path, hex digits of the hash) that are still needed."""
    files = state.files
    numbers = sorted(v for role, v, _ in files.numbered() if role == "snapshot" and v <= state.snapshot.version)
    roles: set[tuple[str, int]] = set()
    for position, number in enumerate(numbers):
        # Until when a snapshot was current is told by the one that came after it. One of the next two may be debris of
        # an interrupted commit, so both are looked at.
        later = numbers[position + 1 : position + 1 + _MAYBE_REACHED]
        if later and all(files.role("snapshot", one).stat().st_mtime < horizon for one in later):
            continue
        roles.add(("snapshot", number))
        roles |= _listed(state, number)
    documents: set[tuple[str, str]] = set()
    current = state.versions()
    for role, version in roles:
        if role != "snapshot":
            targets = state.role(role) if current.get(role) == version else _read_targets(files, role, version)
            documents |= {(path, one.hashes.get("sha256", "")) for path, one in targets.targets.items()}
    return roles, documents


def _listed(state: State, number: int) -> set[tuple[str, int]]:
    """The role files that a snapshot names."""
    if number == state.snapshot.version:
        return {(name.removesuffix(".json"), meta.version) for name, meta in state.snapshot.meta.items()}
    path = state.files.role("snapshot", number)
    try:
        snapshot = parse(state.files.read_role(path, "snapshot"), Snapshot, path.name).signed
    except (InvalidInput, VerificationFailed):  # debris that no client would take either
        return set()
    return {(name.removesuffix(".json"), meta.version) for name, meta in snapshot.meta.items()}


def _read_targets(files: CatalogFiles, role: str, version: int) -> Targets:
    path = files.role(role, version)
    try:
        return parse(files.read_role(path, role), Targets, path.name).signed
    except (NotFound, InvalidInput, VerificationFailed):  # named by debris only
        return Targets()


def _is_due(role: str, expires: datetime, signing: Signing) -> bool:
    return expires - signing.now < signing.expiries[keyed_role(role)] / 2
