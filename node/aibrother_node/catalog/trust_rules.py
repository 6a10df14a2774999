"""What a catalog's metadata may be, and in which words it is refused.

python-tuf decides what is valid. This module bounds what reaches its parser, and turns its exceptions into a
`TrustError` that names role, rule and both values: the only place that knows python-tuf's exceptions.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from tuf.api import exceptions as tuf
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError, SerializationError

from aibrother_node.catalog.names import is_fixed
from aibrother_node.errors import InvalidInput, VerificationFailed

if TYPE_CHECKING:
    from datetime import datetime

    from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

_STRINGS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS: Final = bytes(sorted(set(range(256)) - set(b"[]{}")))
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MAX_TARGET_PATH: Final = 1024
_MAX_ROLE_NAME: Final = 200


class Rule(StrEnum):
    """The rule of the TUF client workflow, or of this project, that metadata broke."""

    EXPIRED = "expired"
    ROLLBACK = "rollback"
    ROOT_SEQUENCE = "root sequence"
    SIGNATURES = "signature threshold"
    MIX_AND_MATCH = "mix-and-match"
    CONTENT = "length or hash"
    TOO_LARGE = "too large"
    MALFORMED = "malformed"
    TWO_CONTENTS = "two contents of one version"


class TrustError(VerificationFailed):
    """Metadata or a target file that must not be believed; the last good catalog stays what it was.

    Attributes:
        role: the role whose file it is (`root`, `timestamp`, …), or `target` for target files.
        rule: the rule that was broken.
        expected, actual: both values, as text.
    """

    expected: str
    actual: str

    def __init__(self, role: str, rule: Rule, expected: object, actual: object) -> None:
        self.role = role
        self.rule = rule
        values = clipped(str(expected)), clipped(str(actual))
        super().__init__(
            f"{clipped(role)}: {rule}: expected {values[0]}, found {values[1]}", expected=values[0], actual=values[1]
        )


@dataclass(frozen=True, slots=True)
class TrustLimits:
    """Ceilings; the defaults are those of python-tuf's `UpdaterConfig`, so that no client takes less than another.

    Attributes:
        root_rotations: roots taken in one refresh; the next refresh goes on from there.
        delegations: roles visited in one search.
        roles: roles in the whole tree of delegations, for who wants all of them.
        root_bytes, timestamp_bytes, snapshot_bytes, targets_bytes: of one file; the last for delegated roles too.
        depth: of brackets in JSON.
        document_bytes: of one document among the target files.
    """

    root_rotations: int = 256
    delegations: int = 32
    roles: int = 1024
    root_bytes: int = 512_000
    timestamp_bytes: int = 16_384
    snapshot_bytes: int = 2_000_000
    targets_bytes: int = 5_000_000
    depth: int = 64
    document_bytes: int = 64 << 20

    def bytes_of(self, role: str) -> int:
        """The ceiling of this role's file, in bytes."""
        own = {Root.type: self.root_bytes, Timestamp.type: self.timestamp_bytes, Snapshot.type: self.snapshot_bytes}
        return own.get(role, self.targets_bytes)


def clipped(text: str) -> str:
    """Foreign text for a message: one line, no control characters, at most 200 characters."""
    return _CONTROL.sub("?", text[:200])


def check_target_path(path: str) -> str:
    """Return the name of a target file, checked: relative, and nothing in it that a file system or a URL would resolve.

    Raises:
        InvalidInput: for an empty or too long name, a leading slash, an empty, `.` or `..` segment, a backslash, NUL or
            another control character, half of a surrogate pair.
    """
    wrong = None
    if not path or len(path) > _MAX_TARGET_PATH:
        wrong = f"has 1 to {_MAX_TARGET_PATH} characters"
    elif _CONTROL.search(path) or any("\ud800" <= character <= "\udfff" for character in path):
        wrong = "has no control characters"
    elif "\\" in path:
        wrong = "has no backslash"
    elif any(segment in {"", ".", ".."} for segment in path.split("/")):
        wrong = "has no leading slash and no empty, '.' or '..' segment"
    if wrong:
        raise InvalidInput(f"a target name {wrong}: {clipped(path)!r}")
    return path


def check_role_name(role: str) -> str:
    """Return a delegated role's name if it is short enough to be asked for.

    Raises:
        TrustError: `malformed`.
    """
    if not role or len(role) > _MAX_ROLE_NAME:
        raise TrustError("targets", Rule.MALFORMED, f"a role name of 1 to {_MAX_ROLE_NAME} characters", len(role))
    return role


def check_shape(role: str, data: bytes, limits: TrustLimits, ceiling: int | None = None) -> bytes:
    """Return `data` if its length and the depth of its brackets are within bounds; nothing is parsed.

    Args:
        role: whose file it is.
        data: the file's bytes.
        limits: the bounds.
        ceiling: a smaller length, where signed metadata gives it; bytes.

    Raises:
        TrustError: `too large` or `malformed`.
    """
    most = limits.bytes_of(role) if ceiling is None else min(ceiling, limits.bytes_of(role))
    if len(data) > most:
        raise TrustError(role, Rule.TOO_LARGE, f"at most {most} bytes", f"{len(data)} or more")
    depth = 0
    for bracket in _STRINGS.sub(b"", data).translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > limits.depth:
            raise TrustError(role, Rule.MALFORMED, f"JSON at most {limits.depth} deep", "more")
    return data


def explain(
    error: Exception, role: str, data: bytes, trusted: TrustedMetadataSet, delegator: str = "root"
) -> Exception:
    """Put python-tuf's refusal of `data` as the file of `role` into words.

    Args:
        error: what python-tuf raised.
        role: whose file `data` was offered as.
        data: the file's bytes.
        trusted: the metadata it was checked against.
        delegator: the role that names this role's keys.

    Returns:
        A `TrustError`. What isn't about metadata (a fault of ours, an operating system error) comes back as it is.
    """
    match error:
        case DeserializationError() | SerializationError():
            return TrustError(role, Rule.MALFORMED, "TUF metadata", _cause(error))
        case tuf.ExpiredMetadataError():
            return _expired(role, data, trusted)
        case tuf.UnsignedMetadataError():
            return _unsigned(role, data, trusted, delegator)
        case tuf.BadVersionNumberError():
            return _version(role, data, trusted)
        case tuf.LengthOrHashMismatchError():
            return _mismatch(role, data, trusted, delegator)
        case tuf.RepositoryError():
            return _other(error, role, data, trusted)
        case ValueError() | TypeError() | KeyError() | AttributeError() | OverflowError() | RecursionError():
            return TrustError(role, Rule.MALFORMED, "TUF metadata", _cause(error))
        case _:
            return error


def explain_first_root(error: Exception) -> TrustError:
    """Say why the root that is to be trusted from the start can't be."""
    if isinstance(error, tuf.UnsignedMetadataError):
        return TrustError(Root.type, Rule.SIGNATURES, "a first root with its own threshold of signatures", error)
    return TrustError(Root.type, Rule.MALFORMED, "a first root", _cause(error))


def expiry(signed_expires: datetime, now: datetime, role: str) -> TrustError:
    """The error that says this role expired."""
    return TrustError(role, Rule.EXPIRED, f"expiry after {_instant(now)}", _instant(signed_expires))


def _expired(role: str, data: bytes, trusted: TrustedMetadataSet) -> TrustError:
    # The final check of a role is made while its successor is loaded, so the first expired one in order is meant.
    now: datetime = trusted.reference_time
    for earlier in (Root.type, Timestamp.type, Snapshot.type):
        known = trusted.get(earlier)
        if known is not None and known.is_expired(now):
            return expiry(known.expires, now, earlier)
    return expiry(_signed(data).expires, now, role)


def _unsigned(role: str, data: bytes, trusted: TrustedMetadataSet, delegator: str) -> TrustError:
    metadata: Metadata[Any] = Metadata.from_bytes(data)
    verifiers: list[Any] = [trusted[delegator]]
    if isinstance(metadata.signed, Root):
        verifiers.append(metadata.signed)  # a new root is to be signed by the old keys, and by its own
    for verifier in verifiers:
        result = verifier.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        if not result:
            known = len(result.signed) + len(result.unsigned)
            by = f"{delegator} v{verifier.version}"
            return TrustError(
                role, Rule.SIGNATURES, f"{result.threshold} of the {known} keys that {by} names", len(result.signed)
            )
    return TrustError(role, Rule.SIGNATURES, "a threshold of valid signatures", "fewer")


def _version(role: str, data: bytes, trusted: TrustedMetadataSet) -> TrustError:
    new = _signed(data)
    if role == Root.type:
        return TrustError(role, Rule.ROOT_SEQUENCE, f"version {trusted.root.version + 1}", f"version {new.version}")
    if isinstance(new, Timestamp):
        known = trusted.timestamp
        if new.version < known.version:
            return _rolled_back(role, known.version, new.version)
        return _rolled_back(Snapshot.type, known.snapshot_meta.version, new.snapshot_meta.version)
    if isinstance(new, Snapshot):
        # The set holds the new snapshot already if only its own version is wrong, else the one it was compared with.
        for name, meta in trusted.snapshot.meta.items():
            found = new.meta.get(name)
            if found is not None and found.version < meta.version:
                return _rolled_back(name.removesuffix(".json"), meta.version, found.version)
        promised = trusted.timestamp.snapshot_meta.version
        return TrustError(role, Rule.MIX_AND_MATCH, f"version {promised} as timestamp says", f"version {new.version}")
    promised = trusted.snapshot.meta[f"{role}.json"].version
    return TrustError(role, Rule.MIX_AND_MATCH, f"version {promised} as snapshot says", f"version {new.version}")


def _mismatch(role: str, data: bytes, trusted: TrustedMetadataSet, delegator: str) -> TrustError:
    """Another file than was promised: a sound one of another time, or just other bytes."""
    promised = _promised(role, trusted)
    found = f"{len(data)} bytes, sha256:{hashlib.sha256(data).hexdigest()}"
    verifier: Any = trusted[delegator]
    with suppress(tuf.RepositoryError, ValueError, TypeError, KeyError, AttributeError):
        metadata: Metadata[Any] = Metadata.from_bytes(data)
        if verifier.get_verification_result(role, metadata.signed_bytes, metadata.signatures):
            return TrustError(role, Rule.MIX_AND_MATCH, promised, f"version {metadata.signed.version}, {found}")
    return TrustError(role, Rule.CONTENT, promised, found)


def _rolled_back(role: str, known: int, found: int) -> TrustError:
    return TrustError(role, Rule.ROLLBACK, f"version {known} or later", f"version {found}")


def _other(error: Exception, role: str, data: bytes, trusted: TrustedMetadataSet) -> TrustError:
    snapshot = trusted.get(Snapshot.type)
    if role == Snapshot.type and isinstance(snapshot, Snapshot):
        new = _signed(data)
        if isinstance(new, Snapshot):
            for name, meta in snapshot.meta.items():
                if name not in new.meta:
                    return TrustError(name.removesuffix(".json"), Rule.ROLLBACK, f"version {meta.version}", "none")
    return TrustError(role, Rule.MALFORMED, f"metadata of role {role}", _cause(error))


def _promised(role: str, trusted: TrustedMetadataSet) -> str:
    meta = trusted.timestamp.snapshot_meta if role == Snapshot.type else trusted.snapshot.meta[f"{role}.json"]
    hashes = ", ".join(f"{name}:{value}" for name, value in (meta.hashes or {}).items())
    length = "any number of" if meta.length is None else meta.length
    return f"version {meta.version}, {length} bytes, {hashes}"


def changed_content(old: Targets, new: Targets, role: str) -> TrustError | None:
    """What `new` gives other bytes to, though its name says the version, and such a name never means other bytes.

    Names without a version (documents, the moving name of the newest version) are free to change.
    """
    for path, before in old.targets.items():
        after = new.targets.get(path)
        if after is None or not _fixed(path, before.custom):
            continue
        then, now = before.hashes.get("sha256"), after.hashes.get("sha256")
        if then != now:
            return TrustError(role, Rule.TWO_CONTENTS, f"{path} to stay sha256:{then}", f"sha256:{now}")
    return None


def _fixed(path: str, custom: object) -> bool:
    """Whether this is a part's name with its version in it, and not the moving one."""
    return isinstance(custom, dict) and is_fixed(path, *(custom.get(key) for key in ("name", "version", "variant")))


def _signed(data: bytes) -> Any:
    metadata: Metadata[Any] = Metadata.from_bytes(data)
    return metadata.signed


def _cause(error: BaseException) -> str:
    """The innermost reason: python-tuf wraps it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def _instant(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
