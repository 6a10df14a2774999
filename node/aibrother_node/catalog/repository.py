"""The signer's side of the catalog: its TUF repository, as files below one folder.

Whoever changes it holds the data directory's lock; readers need none. A `Repository` is for one thread at a time.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Protocol

from tuf.api.metadata import Role, Root, Snapshot, TargetFile, Targets, Timestamp

from aibrother_node.catalog.accept import Draft, accepted, sign_draft
from aibrother_node.catalog.commit import Change, Prepared, Signing, prepare, sign_role
from aibrother_node.catalog.files import CatalogFiles
from aibrother_node.catalog.roles import (
    DELEGATED,
    EXPIRIES,
    KEYED_ROLES,
    TOP_LEVEL,
    bin_delegations,
    check_target_path,
    top_delegations,
)
from aibrother_node.catalog.rotation import rotation, wanted
from aibrother_node.catalog.state import State, parse, role_for
from aibrother_node.catalog.upkeep import Refreshed, debris, due, expiries
from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput, NotFound, Refused, VerificationFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime, timedelta
    from pathlib import Path

    from aibrother_node.catalog.keys import KeyRing, RingKey
    from aibrother_node.store.disk import Disk


class TargetChange(Protocol):
    """What a target path is to mean: content by digest and length (bytes), and the few custom fields of a part."""

    @property
    def sha256(self) -> Digest: ...
    @property
    def length(self) -> int: ...
    @property
    def custom(self) -> Mapping[str, Any] | None: ...


class Edit(Protocol):
    """One change of what the catalog says, as `editing` makes it; None takes a document or target away.

    Documents are targets too: each that is in `documents` is also in `targets`, with the hash and length of its bytes.
    """

    @property
    def documents(self) -> Mapping[str, bytes | None]: ...
    @property
    def targets(self) -> Mapping[str, TargetChange | None]: ...


class Repository:
    """A catalog whose timestamp and snapshot are signed here."""

    def __init__(self, state: State, expiries: Mapping[str, timedelta]) -> None:
        """Args: as `open` makes them, which is what callers want."""
        self._files = state.files
        self._expiries = {**EXPIRIES, **expiries}
        self._current: State | None = state

    @classmethod
    def create(
        cls,
        folder: Path,
        keyring: KeyRing,
        expiries: Mapping[str, timedelta],
        now: datetime,
        disk: Disk,
        *,
        content: Edit | None = None,
        thresholds: Mapping[str, int] | None = None,
    ) -> Repository:
        """Make a new catalog: root version 1 and all roles, signed with every key in the ring.

        Interrupted anywhere, it can be called again with the same ring: a catalog is there once its timestamp is.

        Args:
            folder: made if it is missing; its parent must exist.
            keyring: at least one key for each role.
            expiries: lifetimes that differ from `roles.EXPIRIES`.
            now: the time, in UTC.
            disk: how files are written.
            content: the first documents and targets.
            thresholds: how many of a role's keys must sign; 1 where it doesn't say.

        Raises:
            Refused: there is a catalog already, or an unfinished one of other keys.
        """
        files = CatalogFiles(folder, disk)
        if files.timestamp.exists():
            raise Refused(f"{folder} holds a catalog already")
        files.make()
        signers = thresholds or {}
        signing = Signing(keyring, now, {**EXPIRIES, **expiries})
        keys = {role: [key.public for key in keyring.listed(role)] for role in (*TOP_LEVEL, *DELEGATED)}
        root = Root(
            version=1,
            expires=signing.until("root"),
            keys={key.keyid: key for role in TOP_LEVEL for key in keys[role]},
            roles={role: Role([key.keyid for key in keys[role]], signers.get(role, 1)) for role in TOP_LEVEL},
        )
        path = files.role("root", 1)
        if path.exists():  # an interrupted run came so far: its root stays, nobody makes a second one of a version
            found = parse(files.read_role(path, "root"), Root, path.name).signed
            if (found.keys, found.roles) != (root.keys, root.roles):
                raise Refused(f"{folder} holds an unfinished catalog of other keys: remove it first")
            root = found
        else:
            files.write([(path, sign_role("root", root, [root], keyring))])
        state = State(files, root, (), Timestamp(expires=now), Snapshot(expires=now, meta={}))
        payloads = {
            "targets": Targets(delegations=top_delegations(keys, signers)),
            "models": Targets(delegations=bin_delegations(keys["models"], signers.get("models", 1))),
            "staging": Targets(),
            "fleet": Targets(),
        }
        succinct = payloads["models"].delegations
        assert succinct is not None
        assert succinct.succinct_roles is not None
        payloads |= {name: Targets() for name in succinct.succinct_roles.get_roles()}
        change = Change(payloads=payloads, first=True)
        if content is not None:
            change = _change(content, files, payloads.__getitem__)
            change.first = True
            change.payloads = payloads | change.payloads
        prepared = prepare(state, change, signing)
        prepared.write()
        return cls(prepared.state, expiries)

    @classmethod
    def open(cls, folder: Path, disk: Disk, expiries: Mapping[str, timedelta] | None = None) -> Repository:
        """Read what the newest timestamp reaches, verified by our own roots; expired metadata is accepted.

        Hash bins are read when they are needed.

        Raises:
            NotFound: there is no catalog here.
            VerificationFailed: its files don't fit together.
        """
        return cls(State.load(CatalogFiles(folder, disk)), expiries or {})

    @property
    def versions(self) -> dict[str, int]:
        """The current version of every role."""
        return self.state.versions()

    def root_bytes(self, version: int | None = None) -> bytes:
        """A root's file, the newest by default: what clients are given once, to start from.

        Raises:
            NotFound: there is no such version.
        """
        number = self.state.root.version if version is None else version
        return self._files.read_role(self._files.role("root", number), "root")

    def target(self, path: str) -> TargetFile | None:
        """What is signed about a target path; None if nothing is."""
        try:
            role = role_for(check_target_path(path), self.state.role)
        except InvalidInput:
            return None
        return self.state.role(role).targets.get(path)

    def targets(self) -> Iterator[tuple[str, TargetFile]]:
        """Everything that is signed: target paths, and what they name. Reads all roles."""
        for file in self.state.snapshot.meta:
            yield from self.state.role(file.removesuffix(".json")).targets.items()

    def document(self, path: str) -> bytes | None:
        """A document's bytes, verified; None if there is none, or if the path is a part's.

        Raises:
            VerificationFailed: its file is not what was signed, or is missing.
        """
        target = self.target(path)
        if target is None or target.custom is not None:
            return None
        digest = Digest.from_hex(target.hashes["sha256"])
        file = self._files.document(path, digest)
        try:
            data = self._files.read(file, target.length)
        except (NotFound, InvalidInput) as error:
            raise VerificationFailed(f"document {path}: {error}") from None
        if len(data) != target.length or _digest(data) != digest:
            raise VerificationFailed(f"document {path}: {file} is not what was signed", expected=str(digest))
        return data

    def commit(self, edit: Edit, keyring: KeyRing, now: datetime) -> dict[str, int]:
        """Make an edit visible: sign the roles it touches, then snapshot and timestamp.

        Interrupted at any instant, the catalog is the old one or the new one, whole.

        Args:
            edit: what changes; an edit of nothing writes nothing.
            keyring: keys of every role that it touches.
            now: the time, in UTC.

        Returns:
            The new version of each role that was signed; empty if nothing changed.

        Raises:
            InvalidInput: a path that no role signs, or a document without its target.
            Refused: keys that it takes aren't here.
            DiskFull: there is no room; nothing has changed.
        """
        change = _change(edit, self._files, self.state.role)
        return self._apply(change, Signing(keyring, now, self._expiries))

    def draft(self, edit: Edit, keyring: KeyRing, now: datetime, *, numbers: Mapping[str, int] | None = None) -> Draft:
        """Sign the roles that an edit touches for the node that has snapshot and timestamp keys; writes nothing.

        Args:
            edit, keyring, now: as for `commit`.
            numbers: versions to use, as a `Moved` gave them in `free`.

        Raises: as `commit`.
        """
        change = _change(edit, self._files, self.state.role)
        draft = sign_draft(self.state, change, Signing(keyring, now, self._expiries), numbers or {})
        draft.documents.update({path: data for path, data in edit.documents.items() if data is not None})
        return draft

    def accept(
        self,
        roles: Mapping[str, bytes],
        base: Mapping[str, int],
        keyring: KeyRing,
        now: datetime,
        *,
        documents: Mapping[str, bytes] | None = None,
        is_stored: Callable[[Digest], bool] | None = None,
    ) -> dict[str, int]:
        """Make roles visible that were signed elsewhere: all of them in one step, under a new snapshot and timestamp.

        Args:
            roles: signed metadata by role: `targets`, delegated roles and bins, or the next `root`.
            base: for each of them, the version that it was built on.
            keyring: snapshot and timestamp keys.
            now: the time, in UTC.
            documents: those that the roles name and that aren't here yet, by target path.
            is_stored: tells whether a blob is in the store; without it, parts are not looked for.

        Returns:
            The new version of each role that changed.

        Raises:
            Moved: the catalog has moved on; nothing has changed. It carries the current versions.
            VerificationFailed: signatures, expiry or paths break the rules.
            Refused: files that are named aren't here, or keys.
            InvalidInput: there are no such roles.
        """
        sent = Draft(dict(roles), dict(base), dict(documents or {}))
        return self._apply(accepted(self.state, sent, now, is_stored), Signing(keyring, now, self._expiries))

    def check(self, draft: Draft, now: datetime, is_stored: Callable[[Digest], bool] | None = None) -> Change:
        """Check roles that were signed elsewhere as `accept` does; nothing becomes visible."""
        return accepted(self.state, draft, now, is_stored)

    def rotate(
        self,
        role: str,
        keyring: KeyRing,
        now: datetime,
        *,
        keys: Sequence[RingKey] | None = None,
        threshold: int | None = None,
        lost: bool = False,
    ) -> dict[str, int]:
        """Give a role new keys, and forget the old ones.

        The keyring must hold the keys of whoever names the role's: root's for top-level roles, targets' for the others;
        and, for a top-level role, its old ones, so that clients on either side of the new root can follow.

        Args:
            role: one that has keys of its own.
            keyring: gets the new keys, and loses the old ones once the new ones are in force.
            now: the time, in UTC.
            keys: new keys that are in the ring already; as many as the role had are made if None.
            threshold: how many must sign from now on; as before if None.
            lost: go on without the old keys; a client that asks in that very moment has to ask again.

        Returns:
            The new version of each role that was signed.

        Raises:
            InvalidInput: no such role, or fewer keys than must sign.
            Refused: keys that it takes aren't here; nothing has changed.
        """
        if role not in KEYED_ROLES:
            raise InvalidInput(f"no role {role!r} has keys: it is one of {', '.join(KEYED_ROLES)}")
        old = list(wanted(self.state, role).keyids)
        made = [keyring.create_key(role) for _ in old] if keys is None else []
        new = made if keys is None else keys
        try:
            change = rotation(self.state, role, [key.public for key in new], threshold)
            change.lost = lost
            prepared = prepare(self.state, change, Signing(keyring, now, self._expiries))
        except Exception:
            keyring.remove(role, [key.keyid for key in made])
            raise
        versions = self._write(prepared)
        keyring.remove(role, set(old) - {key.keyid for key in new})
        return versions

    def refresh(self, keyring: KeyRing, now: datetime) -> Refreshed:
        """Sign again whatever is beyond half its life and has its keys here. Called again at once, it does nothing."""
        signing = Signing(keyring, now, self._expiries)
        change, left = due(self.state, signing)
        return Refreshed(self._apply(change, signing), left)

    def expiry(self) -> dict[str, datetime]:
        """When each role's metadata expires. Reads all hash bins the first time."""
        return dict(expiries(self.state))

    def collect_debris(self, now: datetime, grace: timedelta) -> list[Path]:
        """Remove files that no client can still be about to ask for; see `upkeep.debris`. Returns which."""
        paths = debris(self.state, now, grace)
        self._files.remove(paths)
        return paths

    @property
    def state(self) -> State:
        """The current state, not to be changed; read again after a write that failed."""
        if self._current is None:
            self._current = State.load(self._files)
        return self._current

    def _apply(self, change: Change, signing: Signing) -> dict[str, int]:
        if change.is_empty() and not self.state.resign:
            return {}
        return self._write(prepare(self.state, change, signing))

    def _write(self, prepared: Prepared) -> dict[str, int]:
        self._current = None
        prepared.write()
        self._current = prepared.state
        return prepared.versions


def _change(edit: Edit, files: CatalogFiles, get: Callable[[str], Targets]) -> Change:
    """Sort an edit's targets to their roles, leaving out what is so already."""
    by_role: dict[str, dict[str, TargetFile | None]] = {}
    for path, one in edit.targets.items():
        target = None if one is None else _target_file(path, one)
        by_role.setdefault(role_for(check_target_path(path), get), {})[path] = target
    change = Change()
    for role, changes in by_role.items():
        old = get(role)
        targets = {path: target for path, target in {**old.targets, **changes}.items() if target is not None}
        if targets != old.targets:
            change.payloads[role] = Targets(targets=targets, delegations=old.delegations)
    for path, data in edit.documents.items():
        role = role_for(check_target_path(path), get)
        target = by_role.get(role, {}).get(path)
        if data is None:
            if path not in by_role.get(role, {}) or target is not None:
                raise InvalidInput(f"document {path} is taken away, its target isn't")
        elif target is None or (target.length, target.hashes["sha256"]) != (len(data), _digest(data).hex):
            raise InvalidInput(f"document {path} isn't what its target says")
        elif role in change.payloads:
            change.documents[files.document(path, _digest(data))] = data
    return change


def _target_file(path: str, one: TargetChange) -> TargetFile:
    custom = {} if one.custom is None else {"custom": dict(one.custom)}
    return TargetFile(one.length, {"sha256": one.sha256.hex}, path, custom)


def _digest(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).digest())
