"""What the catalog's files say, verified from the signer's own root downwards.

A node reads its own files by the rules that clients follow, but for two: it accepts what has expired, since a signer is
here to sign it anew, and right after an interruption it still knows what the roots before allowed: the signer's last
one, or the several that a node which was away for long took over at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from aibrother_node.catalog.roles import delegator_of
from aibrother_node.errors import InvalidInput, NotFound, VerificationFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aibrother_node.catalog.files import CatalogFiles

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


def parse(data: bytes, kind: type[S], what: str) -> Metadata[S]:
    """Read one role's file, without verifying it.

    Args:
        data: its bytes; the caller has bounded them.
        kind: which of the four types it must be.
        what: its name, for errors.

    Raises:
        VerificationFailed: it is no such metadata.
    """
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
    except DeserializationError as error:
        raise VerificationFailed(f"{what} is malformed: {error.__cause__ or error}") from None
    if not isinstance(metadata.signed, kind) or type(metadata.signed.version) is not int:
        raise VerificationFailed(f"{what} is no {kind.type} metadata")
    return metadata


def check_signed(role: str, metadata: Metadata[Any], delegators: Sequence[Root | Targets]) -> None:
    """Make sure that enough keys of each delegator signed a role's metadata (TUF specification, 5.3.4 and on).

    Raises:
        VerificationFailed: too few did.
    """
    try:
        payload = metadata.signed_bytes
        for delegator in delegators:
            delegator.verify_delegate(role, payload, metadata.signatures)
    except (RepositoryError, ValueError) as error:
        raise VerificationFailed(f"signatures of {role} version {metadata.signed.version}: {error}") from None


def role_for(path: str, get: Callable[[str], Targets]) -> str:
    """The role that is responsible for a target path, found as clients find it.

    Raises:
        InvalidInput: no role is.
    """
    role = "targets"
    while (delegations := get(role).delegations) is not None:
        found = next(iter(delegations.get_roles_for_target(path)), None)
        if found is None:
            raise InvalidInput(f"no role of the catalog signs {path!r}")
        role = found[0]
    return role


@dataclass
class State:
    """One verified state of the catalog.

    Attributes:
        files: where it is.
        root: the newest root.
        former_roots: the ones before, newest first.
        timestamp, snapshot: as they are on disk.
        loaded: targets roles that were read so far.
        resign: top-level roles that the newest root no longer accepts as they are: a rotation was interrupted.
    """

    files: CatalogFiles
    root: Root
    former_roots: Sequence[Root]
    timestamp: Timestamp
    snapshot: Snapshot
    loaded: dict[str, Targets] = field(default_factory=dict)
    resign: set[str] = field(default_factory=set)

    @classmethod
    def load(cls, files: CatalogFiles) -> State:
        """Read root chain, timestamp and snapshot.

        Raises:
            NotFound: there is no catalog here.
            VerificationFailed: the files don't fit together.
        """
        resign: set[str] = set()
        root, *former = _root_chain(files)
        timestamp = _top_level(files.read_role(files.timestamp, "timestamp"), Timestamp, root, former, resign)
        meta = timestamp.snapshot_meta
        data = files.read_role(files.role("snapshot", meta.version), "snapshot")
        _check_bytes(data, meta.verify_length_and_hashes, f"{meta.version}.snapshot.json")
        snapshot = _top_level(data, Snapshot, root, former, resign)
        if snapshot.version != meta.version:
            raise VerificationFailed(f"timestamp names snapshot version {meta.version}, found {snapshot.version}")
        state = cls(files, root, former, timestamp, snapshot, resign=resign)
        state.role("targets")
        return state

    def role(self, name: str) -> Targets:
        """A targets role, read and verified when it is first asked for. Not to be changed.

        Raises:
            NotFound: its file is missing.
            InvalidInput: there is no such role.
            VerificationFailed: its file isn't what snapshot and delegator say.
        """
        if name not in self.loaded:
            meta = self.snapshot.meta.get(f"{name}.json")
            if meta is None:
                raise InvalidInput(f"the catalog has no role {name!r}")
            path = self.files.role(name, meta.version)
            data = self.files.read_role(path, name)
            _check_bytes(data, meta.verify_length_and_hashes, path.name)
            delegator = delegator_of(name)
            if delegator == "root":
                payload = _top_level(data, Targets, self.root, self.former_roots, self.resign)
            else:
                metadata = parse(data, Targets, path.name)
                check_signed(name, metadata, [self.role(delegator)])
                payload = metadata.signed
            if payload.version != meta.version:
                raise VerificationFailed(f"snapshot names {name} version {meta.version}, found {payload.version}")
            self.loaded[name] = payload
        return self.loaded[name]

    def versions(self) -> dict[str, int]:
        """The version of every role."""
        below = {name.removesuffix(".json"): meta.version for name, meta in self.snapshot.meta.items()}
        top = {"root": self.root.version, "timestamp": self.timestamp.version, "snapshot": self.snapshot.version}
        return {**top, **below}


def _root_chain(files: CatalogFiles) -> list[Root]:
    """Walk from the oldest root to the newest; each must be signed by the keys of the one before and by its own.

    Returns:
        All of them, newest first.
    """
    numbers = sorted(version for role, version, _ in files.numbered() if role == "root") if _exists(files) else []
    if not numbers:
        raise NotFound(f"no catalog at {files.folder}")
    chain: list[Root] = []
    for number, expected in zip(numbers, range(numbers[0], numbers[-1] + 1), strict=False):
        if number != expected:
            raise VerificationFailed(f"root version {expected} is missing: roots are kept for ever")
        path = files.role("root", number)
        metadata = parse(files.read_role(path, "root"), Root, path.name)
        if metadata.signed.version != number:
            raise VerificationFailed(f"{path.name} holds version {metadata.signed.version}")
        check_signed("root", metadata, [*chain[:1], metadata.signed])
        chain.insert(0, metadata.signed)
    return chain


def _exists(files: CatalogFiles) -> bool:
    return files.metadata.is_dir()


def _top_level(data: bytes, kind: type[S], root: Root, former: Sequence[Root], resign: set[str]) -> S:
    """Read metadata that root delegates; one of the roots before may stand in, and then `resign` is told."""
    metadata = parse(data, kind, f"{kind.type}.json")
    try:
        check_signed(kind.type, metadata, [root])
    except VerificationFailed:
        if not any(_signed_by(kind.type, metadata, one) for one in former):
            raise
        resign.add(kind.type)
    return metadata.signed


def _signed_by(role: str, metadata: Metadata[Any], delegator: Root) -> bool:
    try:
        check_signed(role, metadata, [delegator])
    except VerificationFailed:
        return False
    return True


def _check_bytes(data: bytes, verify: Callable[[bytes], None], name: str) -> None:
    try:
        verify(data)
    except LengthOrHashMismatchError as error:
        raise VerificationFailed(f"{name} is not what was signed: {error}") from None
