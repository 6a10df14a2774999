"""Roles that are signed elsewhere: a publisher drafts them, the signing node checks them and makes them visible.

What is checked is what clients check, and what keeps this catalog in one piece: signatures by the delegations that will
hold afterwards, the version it was built on, paths that the role is responsible for, files that are really there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tuf.api.metadata import Root, Targets

from aibrother_node.catalog import bounded_json
from aibrother_node.catalog.commit import Change, RoleFile, Signing, sign_role, sign_root
from aibrother_node.catalog.names import is_fixed
from aibrother_node.catalog.roles import ceiling, check_target_path, delegator_of
from aibrother_node.catalog.state import State, check_signed, parse, role_for
from aibrother_node.content.digest import Digest
from aibrother_node.errors import Conflict, InvalidInput, Refused, VerificationFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from pathlib import Path

    from tuf.api.metadata import Delegations, Role, TargetFile

    from aibrother_node.catalog.files import CatalogFiles

_DEPTH: Final = 32  # metadata has 7 levels, and what a target's `custom` holds


class Moved(Conflict):
    """The catalog has moved on since the roles were signed: read it again, apply the edit again.

    Attributes:
        versions: the current version of each role.
        free: for each role that was sent, the lowest version that it may have.
    """

    def __init__(self, message: str, versions: dict[str, int], free: dict[str, int]) -> None:
        self.versions = versions
        self.free = free
        super().__init__(message)


@dataclass(frozen=True)
class Draft:
    """Roles that are signed and not yet visible.

    Attributes:
        roles: their files, by role.
        base: the version of each that it was built on.
        documents: the documents that they name, by target path.
    """

    roles: dict[str, bytes] = field(default_factory=dict)
    base: dict[str, int] = field(default_factory=dict)
    documents: dict[str, bytes] = field(default_factory=dict)


def sign_draft(state: State, change: Change, signing: Signing, numbers: Mapping[str, int]) -> Draft:
    """Sign the root and the targets roles of a change; nothing is written.

    Args:
        state: the catalog that it is built on.
        change: its root and payloads are signed.
        signing: keys, time, expiries.
        numbers: the version that a role gets; one above the current one where it doesn't say, or says less.

    Raises:
        Refused: keys that it takes aren't here.
    """
    versions = state.versions()
    draft = Draft()
    payloads = dict(change.payloads)
    roots = [state.root]
    if change.root is not None:
        new_root = sign_root(state, change, signing)
        assert new_root is not None
        draft.roles["root"], draft.base["root"] = new_root.data, state.root.version
        roots.append(new_root.payload)
        if new_root.payload.roles["targets"] != state.root.roles["targets"] and "targets" not in payloads:
            old = state.role("targets")
            payloads["targets"] = Targets(targets=old.targets, delegations=old.delegations)
    for role, payload in payloads.items():
        payload.version = max(numbers.get(role, 0), versions[role] + 1)
        payload.expires = signing.until(role)
        delegator = delegator_of(role)
        naming = roots if delegator == "root" else [payloads.get(delegator) or state.role(delegator)]
        draft.roles[role] = sign_role(role, payload, naming, signing.keyring)
        draft.base[role] = versions[role]
    return draft


def new_targets(state: State, draft: Draft) -> dict[str, TargetFile | None]:
    """What roles that were signed elsewhere change; None where a target goes. Nothing of it is verified.

    Raises:
        VerificationFailed: a role can't be read.
        InvalidInput: there is no such role.
    """
    changes: dict[str, TargetFile | None] = {}
    for role, data in draft.roles.items():
        if role != "root":
            _check_size(role, data)
            after, before = parse(data, Targets, role).signed.targets, state.role(role).targets
            changes.update({path: None for path in before if path not in after})
            changes.update({path: target for path, target in after.items() if before.get(path) != target})
    return changes


def accepted(
    state: State,
    draft: Draft,
    now: datetime,
    is_stored: Callable[[Digest], bool] | None,
) -> Change:
    """Check roles that were signed elsewhere, as one change.

    Args:
        state: the catalog as it is.
        draft: the roles, what they were built on, and documents that aren't here yet.
        now: the time, in UTC.
        is_stored: tells whether a blob is in the store; without it, parts are not looked for.

    Raises:
        Moved: the catalog has moved on.
        VerificationFailed: signatures, expiry or paths break the rules.
        Refused: files that are named aren't here, a name would change its meaning, or roles are missing in the draft.
        InvalidInput: there are no such roles.
    """
    _check_versions(state, draft)
    new_root = _given_root(state, draft)
    roots = [state.root, new_root.payload] if new_root else [state.root]
    given = {
        role: RoleFile(parse(data, Targets, role).signed, data) for role, data in draft.roles.items() if role != "root"
    }

    def get(role: str) -> Targets:
        return given[role].payload if role in given else state.role(role)

    for role, file in given.items():
        delegator = delegator_of(role)
        delegators = roots if delegator == "root" else [get(delegator)]
        check_signed(role, parse(file.data, Targets, role), delegators)
        _check_number(state, draft, role, file.payload.version, state.files.role(role, file.payload.version))
        if file.payload.is_expired(now):
            raise VerificationFailed(f"{role} expired at {file.payload.expires}")
        _check_delegations(state, role, file.payload.delegations, draft)
    documents: dict[Path, bytes] = {}
    for role, file in given.items():
        old = state.role(role).targets
        for path, target in file.payload.targets.items():
            if target != old.get(path):
                _check_target(role, path, target, old.get(path), get)
                documents |= _files_of(path, target, draft, state.files, is_stored)
    return Change(documents=documents, given=given, given_root=new_root)


def _check_versions(state: State, draft: Draft) -> None:
    current = state.versions()
    for role, data in draft.roles.items():
        if role in {"snapshot", "timestamp"} or role not in current:
            raise InvalidInput(f"{role!r} is no role that is signed elsewhere")
        _check_size(role, data)
        _check_json(role, data)
        if draft.base.get(role) != current[role]:
            built = draft.base.get(role)
            raise _conflict(state, draft, f"{role} is at version {current[role]} now, and this was built on {built}")


def _check_size(role: str, data: bytes) -> None:
    if len(data) > ceiling(role):
        raise InvalidInput(f"{role} has {len(data)} bytes, clients take at most {ceiling(role)}")


def _check_json(role: str, data: bytes) -> None:
    """Make sure that all parsers read the same: what is signed is what ours reads, whatever others do."""
    try:
        bounded_json.loads(data, role, len(data), _DEPTH)
    except InvalidInput as error:
        raise VerificationFailed(f"{role} is malformed: {error}") from None


def _check_number(state: State, draft: Draft, role: str, version: int, path: Path) -> None:
    """The next number, or the next that is free: an interrupted change may have used up some."""
    if not state.versions()[role] < version <= _free(state, draft)[role]:
        raise _conflict(state, draft, f"{role} can't be version {version} next")
    if path.exists() and state.files.read_role(path, role) != draft.roles[role]:
        raise _conflict(state, draft, f"another {role} version {version} was signed before")


def _conflict(state: State, draft: Draft, message: str) -> Moved:
    return Moved(message, state.versions(), _free(state, draft))


def _free(state: State, draft: Draft) -> dict[str, int]:
    taken = state.files.highest()
    return {role: taken.get(role, 0) + 1 for role in draft.roles}


def _given_root(state: State, draft: Draft) -> RoleFile[Root] | None:
    data = draft.roles.get("root")
    if data is None:
        return None
    metadata = parse(data, Root, "root")
    root = metadata.signed
    if root.version != state.root.version + 1:
        raise _conflict(state, draft, f"the next root is version {state.root.version + 1}, not {root.version}")
    check_signed("root", metadata, [state.root, root])
    if not root.consistent_snapshot:
        raise Refused("this root gives up consistent snapshots")
    return RoleFile(root, data)


def _check_delegations(state: State, role: str, new: Delegations | None, draft: Draft) -> None:
    """Roles and paths stay as they are; a role whose keys change comes along, signed with the new ones."""
    old = state.role(role).delegations
    if _shape(old) != _shape(new):
        raise VerificationFailed(f"{role} delegates to other roles or paths than before")
    if old is None or new is None:
        return
    pairs: list[tuple[str, Role, Role]]
    if old.succinct_roles is not None and new.succinct_roles is not None:
        pairs = [(name, old.succinct_roles, new.succinct_roles) for name in old.succinct_roles.get_roles()]
    else:
        pairs = [(name, entry, (new.roles or {})[name]) for name, entry in (old.roles or {}).items()]
    for name, before, after in pairs:
        same = (before.keyids, before.threshold) == (after.keyids, after.threshold)
        if name not in draft.roles and not (same and all(old.keys[k] == new.keys.get(k) for k in before.keyids)):
            raise Refused(f"{role} changes the keys of {name}, and {name} isn't signed with them here")


def _shape(delegations: Delegations | None) -> Any:
    """What of delegations isn't keys."""
    if delegations is None:
        return None
    if (bins := delegations.succinct_roles) is not None:
        return bins.bit_length, bins.name_prefix
    return [
        (one.name, one.terminating, one.paths, one.path_hash_prefixes) for one in (delegations.roles or {}).values()
    ]


def _check_target(
    role: str, path: str, target: TargetFile, old: TargetFile | None, get: Callable[[str], Targets]
) -> None:
    try:
        responsible = role_for(check_target_path(path), get)
        Digest.from_hex(target.hashes["sha256"])
    except (InvalidInput, KeyError) as error:
        raise VerificationFailed(f"{role} names {path[:80]!r}: {error}") from None
    if responsible != role:
        raise VerificationFailed(f"{role} names {path!r}, which is {responsible}'s to sign")
    if old is not None and old.hashes != target.hashes and _is_fixed(path, old.custom):
        raise Refused(f"{path} means {old.hashes['sha256']} for ever, and can't become {target.hashes['sha256']}")


def _is_fixed(path: str, custom: Any) -> bool:
    """Whether a part's path has its version in it, so that it never means other bytes."""
    return isinstance(custom, dict) and is_fixed(path, *(custom.get(key) for key in ("name", "version", "variant")))


def _files_of(
    path: str,
    target: TargetFile,
    draft: Draft,
    files: CatalogFiles,
    is_stored: Callable[[Digest], bool] | None,
) -> dict[Path, bytes]:
    """Make sure that a target's file is here; what is still to be written of it."""
    digest = Digest.from_hex(target.hashes["sha256"])
    if target.custom is not None:
        named = [digest, _manifest(path, target.custom)]
        if is_stored is not None and (missing := [one for one in named if not is_stored(one)]):
            raise Refused(f"{path} names {missing[0]}, which isn't stored here")
        return {}
    place = files.document(path, digest)
    data = draft.documents.get(path)
    if data is None:
        if not place.exists():
            raise Refused(f"the document {path} ({digest}) isn't here")
        data = files.read(place, target.length)
    if target.length != len(data) or digest != Digest(hashlib.sha256(data).digest()):
        raise VerificationFailed(f"the document {path} isn't what was signed", expected=str(digest))
    return {place: data}


def _manifest(path: str, custom: Any) -> Digest:
    """The chunk manifest that a part's custom fields name.

    Raises:
        VerificationFailed: they name none.
    """
    try:
        return Digest.parse(custom["chunks"])
    except (InvalidInput, KeyError, TypeError, AttributeError) as error:
        raise VerificationFailed(f"{path} names no chunk manifest: {error}") from None
