"""One change of the catalog's files: all of it is signed in memory first, then written, `timestamp.json` last.

What makes a change whole at any instant:

- Nothing that a reader may know of is ever overwritten, but for `timestamp.json`, by an atomic rename. Every other file
  gets a number that no file of its role has, or a name that is its hash.
- Documents, roles and the snapshot are durable before the timestamp that leads to them gets its name. They need no
  waiting among themselves: until then nobody can find them.
- Under a new root the top-level metadata is signed by old and new keys, and is there before the root is, so that it
  holds for clients on either side. If the old keys are lost, the root goes first.

Files that no timestamp reaches are debris. Where an interrupted change used up a snapshot's number, the timestamp skips
as many: should it have been seen for an instant and been lost with the power, no other one gets its number.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from aibrother_node.catalog.roles import DELEGATED, ceiling, delegator_of, keyed_role
from aibrother_node.catalog.state import State
from aibrother_node.errors import Refused, Temporary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta
    from pathlib import Path

    from aibrother_node.catalog.keys import KeyRing

_BY_ROOT: Final = ("timestamp", "snapshot", "targets")


P = TypeVar("P")


@dataclass(frozen=True)
class Signing:
    """What signing takes.

    Attributes:
        keyring: the keys.
        now: the time, in UTC.
        expiries: how long what each role signs stays valid; a bin's is that of `models`.
    """

    keyring: KeyRing
    now: datetime
    expiries: Mapping[str, timedelta]

    def until(self, role: str) -> datetime:
        """When what a role signs now expires."""
        return self.now + self.expiries[keyed_role(role)]


@dataclass(frozen=True)
class RoleFile(Generic[P]):
    """A signed role file: what it says, and its bytes."""

    payload: P
    data: bytes


@dataclass
class Change:
    """What is to be changed.

    Attributes:
        documents: files of document targets, by their final paths.
        payloads: targets roles to be signed here; version and expiry are set then.
        given: targets roles that were signed elsewhere, and have been verified.
        root: a root to be signed here, of the next version.
        given_root: a root that was signed elsewhere, and has been verified.
        again: those of `snapshot` and `timestamp` that are to be signed again though nothing below them changed.
        lost: go on though the keys that a new root replaces aren't here.
        first: there is no catalog yet.
    """

    documents: dict[Path, bytes] = field(default_factory=dict)
    payloads: dict[str, Targets] = field(default_factory=dict)
    given: dict[str, RoleFile[Targets]] = field(default_factory=dict)
    root: Root | None = None
    given_root: RoleFile[Root] | None = None
    again: set[str] = field(default_factory=set)
    lost: bool = False
    first: bool = False

    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.payloads or self.given or self.root or self.given_root or self.again)


@dataclass(frozen=True)
class Prepared:
    """A change that is signed, and only has to be written.

    Attributes:
        steps: batches of files; each is durable before the next begins.
        state: what the catalog is afterwards.
        versions: what was signed, by role.
    """

    steps: list[list[tuple[Path, bytes]]]
    state: State
    versions: dict[str, int]

    def write(self) -> None:
        """Write all of it. However this ends, the files are the old catalog or the new one."""
        for step in self.steps:
            self.state.files.write(step)


def prepare(state: State, change: Change, signing: Signing) -> Prepared:
    """Sign a change of a state; nothing is written.

    Raises:
        Refused: keys that it takes aren't here, or a file would be too large for clients.
        Temporary: an HSM or KMS doesn't answer.
    """
    files, keyring = state.files, signing.keyring
    taken = files.highest()
    new_root = sign_root(state, change, signing)
    root = new_root.payload if new_root else state.root
    roots = [state.root, root] if new_root else [root]
    resign = set(state.resign)
    if new_root:
        resign |= {role for role in _BY_ROOT if root.roles[role] != state.root.roles[role]}
    payloads = dict(change.payloads)
    if "targets" in resign and "targets" not in payloads | change.given:
        old = state.role("targets")
        payloads["targets"] = Targets(targets=old.targets, delegations=old.delegations)

    made = dict(change.given)
    bridged = True

    def sign(role: str, payload: Targets | Snapshot | Timestamp) -> bytes:
        nonlocal bridged
        payload.expires = signing.until(role)
        delegator = delegator_of(role)
        if delegator != "root":
            given = made[delegator].payload if delegator in made else None
            return sign_role(role, payload, [payloads.get(delegator) or given or state.role(delegator)], keyring)
        if change.lost and new_root and not can_sign(role, state.root, keyring):
            bridged = False
            return sign_role(role, payload, [root], keyring)
        return sign_role(role, payload, roots, keyring)

    for role, payload in payloads.items():
        payload.version = taken.get(role, 0) + 1
        made[role] = RoleFile(payload, sign(role, payload))

    snapshot, timestamp = state.snapshot, state.timestamp
    top: list[tuple[Path, bytes]] = []
    versions = {role: file.payload.version for role, file in made.items()}
    if made or "snapshot" in resign | change.again:
        listed = {f"{role}.json": _meta(file.payload.version, file.data) for role, file in made.items()}
        snapshot = Snapshot(version=taken.get("snapshot", 0) + 1, meta={**state.snapshot.meta, **listed})
        data = sign("snapshot", snapshot)
        versions["snapshot"] = snapshot.version
        top.append((files.role("snapshot", snapshot.version), data))
        meta = _meta(snapshot.version, data)
    else:
        meta = state.timestamp.snapshot_meta
    last: list[tuple[Path, bytes]] = []
    if snapshot is not state.snapshot or "timestamp" in resign | change.again:
        skipped = max(1, snapshot.version - state.snapshot.version)
        number = snapshot.version if change.first else state.timestamp.version + skipped
        timestamp = Timestamp(version=number, snapshot_meta=meta)
        last.append((files.timestamp, sign("timestamp", timestamp)))
        versions["timestamp"] = timestamp.version

    roles = sorted(made, key=_depth)
    batch = [*change.documents.items(), *((files.role(role, versions[role]), made[role].data) for role in roles), *top]
    steps = [batch, last]
    if new_root:
        versions["root"] = root.version
        steps.insert(2 if bridged else 0, [(files.role("root", root.version), new_root.data)])
    after = State(
        files,
        root,
        [state.root, *state.former_roots] if new_root else state.former_roots,
        timestamp,
        snapshot,
        {**state.loaded, **{role: file.payload for role, file in made.items()}},
    )
    return Prepared([step for step in steps if step], after, versions)


def sign_role(
    role: str,
    payload: Root | Timestamp | Snapshot | Targets,
    delegators: Sequence[Root | Targets],
    keyring: KeyRing,
) -> bytes:
    """Sign a role's metadata with every key that is here, and make sure that it is enough for each delegator.

    Raises:
        Refused: it isn't, or the file would be larger than clients take.
        Temporary: an HSM or KMS doesn't answer.
    """
    metadata: Metadata[Any] = Metadata(payload)
    signed = metadata.signed_bytes
    keyids = [keyid for delegator in delegators for keyid in delegator.get_delegated_role(role).keyids]
    for signer in keyring.signers(keyids):
        try:
            signature = signer.sign(signed)
        except Exception as error:  # signers raise whatever their HSM's or KMS's library raises
            raise Temporary(f"key {signer.public_key.keyid[:8]}… can't sign {role} now: {error}") from error
        metadata.signatures[signature.keyid] = signature
    for delegator in delegators:
        result = delegator.get_verification_result(role, signed, metadata.signatures)
        if not result:
            reasons = "; ".join(keyring.why_missing(keyid) for keyid in result.unsigned)
            have = f"{len(result.signed)} of {result.threshold} keys"
            raise Refused(f"{role} can't be signed here, with {have}: {reasons}")
    data = metadata.to_bytes()
    if len(data) > ceiling(role):
        raise Refused(f"{role} would have {len(data)} bytes, and clients take at most {ceiling(role)}")
    return data


def can_sign(role: str, delegator: Root | Targets, keyring: KeyRing) -> bool:
    """Whether enough of a role's keys are here."""
    wanted = delegator.get_delegated_role(role)
    return len(keyring.signers(wanted.keyids)) >= wanted.threshold


def sign_root(state: State, change: Change, signing: Signing) -> RoleFile[Root] | None:
    """Sign a change's new root, as the old one and itself ask for, or take the one that was given; None for neither.

    Raises:
        Refused, Temporary: as `sign_role`.
    """
    if change.root is None:
        return change.given_root
    change.root.version = state.root.version + 1
    change.root.expires = signing.until("root")
    return RoleFile(change.root, sign_role("root", change.root, [state.root, change.root], signing.keyring))


def _meta(version: int, data: bytes) -> MetaFile:
    return MetaFile(version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})


def _depth(role: str) -> tuple[int, str]:
    """Bins first, then what delegates to them, `targets` last: nothing names what isn't there."""
    return (2 if role == "targets" else 1 if role in DELEGATED else 0, role)
