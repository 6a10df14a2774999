"""One pass of TUF's client workflow, at one instant.

The order is the law (TUF specification 5.3 to 5.6): every root in turn, then the timestamp, then the snapshot that it
names, then targets, and delegated roles only as the snapshot names them. python-tuf's `TrustedMetadataSet` holds that
order and decides; here is what surrounds it: which file comes next, from the folder or a source, under which ceiling.

Three things are stricter than the specification, none looser: JSON is bounded before it is parsed; a role's file that
differs from another of the same version, signed by keys that still count, is refused; so is one that gives other bytes
to a name with a version in it.
"""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from tuf.api.exceptions import EqualVersionNumberError, RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from aibrother_node.catalog.trust_rules import (
    Rule,
    TrustError,
    TrustLimits,
    changed_content,
    check_role_name,
    check_shape,
    expiry,
    explain,
    explain_first_root,
)
from aibrother_node.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from aibrother_node.catalog.trust_state import Known, TrustFolder
    from aibrother_node.content.digest import Digest

    Fetch = Callable[[str, int], bytes]


class Pass:
    """Verified metadata as of one instant.

    Args:
        first_root: the root that is trusted without a signature of another.
        known: files verified before, in `folder`.
        folder: where they are, and where new ones go.
        limits: the ceilings.
        now: the instant at which nothing may have expired (UTC).

    Attributes:
        roots: the roots after the first one, in order.
        roles: role name → its newest verified file, of every role met in this pass or before.
        alarms: what isn't refused, and yet never happens in a sound catalog.

    Raises:
        TrustError: the first root isn't one.
    """

    def __init__(
        self, first_root: bytes, known: Known, folder: TrustFolder, limits: TrustLimits, now: datetime
    ) -> None:
        check_shape(Root.type, first_root, limits)
        try:
            self.trusted = TrustedMetadataSet(first_root, EnvelopeType.METADATA)
        except (RepositoryError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise explain_first_root(error) from error
        self.trusted.reference_time = now
        self.roots: list[Digest] = []
        self.roles = dict(known.roles)
        self.alarms: list[TrustError] = []
        self._known = known
        self._folder = folder
        self._limits = limits

    def run(self, fetch: Fetch | None) -> None:
        """Take in the four top-level roles; without `fetch` as they are in the folder.

        Raises:
            TrustError: a file must not be believed. What came before it, in the order of the workflow, is taken in.
            NotFound: a file is missing at the source, or in the folder.
        """
        self._roots(fetch)
        self._timestamp(fetch)
        self._snapshot(fetch)
        self.role(Targets.type, Root.type, fetch)

    def role(self, role: str, delegator: str, fetch: Fetch | None) -> Targets:
        """The verified metadata of `targets` or a delegated role, as `delegator` delegates to it.

        Raises:
            TrustError: its file must not be believed.
            NotFound: it is missing at the source; or there is no `fetch`, and the folder doesn't have this version.
        """
        if self.trusted.contains(role, delegator):
            return cast("Targets", self.trusted[role])
        meta = self.trusted.snapshot.meta.get(f"{check_role_name(role)}.json")
        if meta is None:
            known = f"snapshot v{self.trusted.snapshot.version}"
            raise TrustError(
                role, Rule.MIX_AND_MATCH, f"{known} to name it, as {delegator} delegates to it", "no mention"
            )
        local = self._local(role)
        if local is not None:
            try:
                self._accept(role, local, delegator)
                return cast("Targets", self.trusted[role])
            except TrustError as error:
                if fetch is None:
                    raise NotFound(f"the newest metadata of role {role} is not here yet") from error
        if fetch is None:
            raise NotFound(f"the metadata of role {role} is not here yet")
        data = self._fetched(fetch, role, meta.version, meta.length)
        self._accept(role, data, delegator)
        targets = cast("Targets", self.trusted[role])
        if local is not None:
            self._hold_to_its_word(role, delegator, local, targets)
        self.roles[role] = self._folder.put(data)
        return targets

    def search(self, path: str, fetch: Fetch | None) -> TargetFile | None:
        """Find a target as the specification says (5.6.7): preorder, depth first, up to a terminating delegation.

        Raises:
            TrustError, NotFound: as `role`.
        """
        visited: set[str] = set()
        stack = [(Targets.type, Root.type)]
        while stack and len(visited) <= self._limits.delegations:
            role, delegator = stack.pop()
            if role in visited:
                continue
            targets = self.role(role, delegator, fetch)
            found = targets.targets.get(path)
            if found is not None:
                return found
            visited.add(role)
            children: list[tuple[str, str]] = []
            if targets.delegations is not None:
                for name, terminating in targets.delegations.get_roles_for_target(path):
                    children.append((name, role))
                    if terminating:
                        stack.clear()
                        break
            stack.extend(reversed(children))
        return None

    def tree(self, fetch: Fetch | None, *, all_of_it: bool = True) -> Iterator[tuple[str, Targets]]:
        """Every role of the tree of delegations with its verified metadata, `targets` first.

        Args:
            fetch: the source.
            all_of_it: False passes over what isn't here.

        Raises:
            TrustError, NotFound: as `role`; `too large` for more roles than the limit.
        """
        visited: set[str] = set()
        pending = [(Targets.type, Root.type)]
        while pending:
            role, delegator = pending.pop()
            if role in visited:
                continue
            if len(visited) >= self._limits.roles:
                raise TrustError(role, Rule.TOO_LARGE, f"at most {self._limits.roles} roles", "more")
            visited.add(role)
            try:
                targets = self.role(role, delegator, fetch)
            except (NotFound, TrustError):
                if all_of_it:
                    raise
                continue
            yield role, targets
            pending.extend(reversed([(name, role) for name in self._children(targets)]))

    def _children(self, targets: Targets) -> list[str]:
        delegations = targets.delegations
        if delegations is None:
            return []
        names = delegations.roles or {}
        if delegations.succinct_roles is not None:
            return list(itertools.islice(delegations.succinct_roles.get_roles(), self._limits.roles + 1))
        return list(names)

    def _roots(self, fetch: Fetch | None) -> None:
        for digest in self._known.roots:
            data = self._folder.get(digest)
            if data is None:
                break
            try:
                self._accept(Root.type, data)
            except TrustError:
                break
            self.roots.append(digest)
        if fetch is None:
            return
        for _ in range(self._limits.root_rotations):
            try:
                data = self._fetched(fetch, Root.type, self.trusted.root.version + 1, None, versioned=True)
            except NotFound:
                return  # the one we have is the newest
            self._accept(Root.type, data)
            self.roots.append(self._folder.put(data))

    def _timestamp(self, fetch: Fetch | None) -> None:
        local = self._local(Timestamp.type)
        if fetch is None:
            self._accept(Timestamp.type, _present(local, Timestamp.type))
            return
        if local is not None:
            # One that expired still counts against a rollback. One whose keys a new root dropped doesn't: that is how a
            # catalog recovers from a timestamp that was fast-forwarded with a stolen key (5.3.11).
            with suppress(TrustError):
                self._accept(Timestamp.type, local)
        data = self._fetched(fetch, Timestamp.type, None, None)
        try:
            self._accept(Timestamp.type, data)
        except EqualVersionNumberError:
            self._compare_timestamps(data)
        else:
            self.roles[Timestamp.type] = self._folder.put(data)
        timestamp = self.trusted.timestamp
        if timestamp.is_expired(self.trusted.reference_time):
            raise expiry(timestamp.expires, self.trusted.reference_time, Timestamp.type)

    def _compare_timestamps(self, data: bytes) -> None:
        """Two timestamps of one version: the specification (5.4.3.1) keeps the first and is silent; we aren't."""
        other: Metadata[Timestamp] = Metadata.from_bytes(data)
        if other.signed != self.trusted.timestamp:
            known = self.trusted.timestamp
            self.alarms.append(
                TrustError(
                    Timestamp.type,
                    Rule.TWO_CONTENTS,
                    f"v{known.version} to name snapshot v{known.snapshot_meta.version} and expire {known.expires}",
                    f"snapshot v{other.signed.snapshot_meta.version}, {other.signed.expires}",
                )
            )

    def _snapshot(self, fetch: Fetch | None) -> None:
        local = self._local(Snapshot.type)
        if fetch is None:
            self._accept(Snapshot.type, _present(local, Snapshot.type), local=True)
            return
        if local is not None:
            with suppress(TrustError):
                self._accept(Snapshot.type, local, local=True)
                return
        meta = self.trusted.timestamp.snapshot_meta
        data = self._fetched(fetch, Snapshot.type, meta.version, meta.length)
        self._accept(Snapshot.type, data)
        self.roles[Snapshot.type] = self._folder.put(data)

    def _hold_to_its_word(self, role: str, delegator: str, before: bytes, after: Targets) -> None:
        """Compare with the role's file that was believed before.

        Raises:
            TrustError: `two contents of one version`, unless the delegator has dropped the keys that signed the former.
        """
        metadata: Metadata[Targets] = Metadata.from_bytes(before)
        verifier: Any = self.trusted[delegator]
        if not verifier.get_verification_result(role, metadata.signed_bytes, metadata.signatures):
            return
        old = metadata.signed
        if old.version == after.version and old != after:
            raise TrustError(role, Rule.TWO_CONTENTS, f"v{old.version} to stay as it was", "other content")
        changed = changed_content(old, after, role)
        if changed is not None:
            raise changed

    def _local(self, role: str) -> bytes | None:
        digest = self.roles.get(role)
        return None if digest is None else self._folder.get(digest)

    def _fetched(
        self, fetch: Fetch, role: str, version: int | None, length: int | None, *, versioned: bool = False
    ) -> bytes:
        """The source's file of a role, of bounded size and depth; nothing else is known of it."""
        name = f"{quote(role, '')}.json"
        if version is not None and (versioned or self.trusted.root.consistent_snapshot):
            name = f"{version}.{name}"
        ceiling = self._limits.bytes_of(role)
        if length is not None:
            ceiling = min(ceiling, length)
        return check_shape(role, fetch(f"metadata/{name}", ceiling), self._limits, ceiling)

    def _accept(self, role: str, data: bytes, delegator: str = Root.type, *, local: bool = False) -> None:
        try:
            match role:
                case Root.type:
                    self.trusted.update_root(data)
                case Timestamp.type:
                    self.trusted.update_timestamp(data)
                case Snapshot.type:
                    self.trusted.update_snapshot(data, trusted=local)
                case _:
                    self.trusted.update_delegated_targets(data, role, delegator)
        except EqualVersionNumberError:
            raise
        except Exception as error:
            explained = explain(error, role, data, self.trusted, delegator)
            if explained is error:
                raise
            raise explained from error


def _present(data: bytes | None, role: str) -> bytes:
    if data is None:
        raise NotFound(f"the metadata of role {role} is not here")
    return data
