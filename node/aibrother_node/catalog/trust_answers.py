"""What a verified catalog answers with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aibrother_node.catalog.trust_rules import Rule, TrustError
from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from tuf.api.metadata import TargetFile

    from aibrother_node.catalog.trust_pass import Pass
    from aibrother_node.errors import NodeError

Fetch = Callable[[str, int], bytes]


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """What the catalog says of one target file.

    Attributes:
        path: its name, checked.
        sha256: of its bytes.
        length: bytes.
        custom: what the publisher added (`name`, `version`, `variant`, `chunks` for a part), or empty.
    """

    path: str
    sha256: Digest
    length: int
    custom: Mapping[str, Any] = field(default_factory=dict)

    def check(self, data: bytes) -> bytes:
        """Return `data` if it is this file.

        Raises:
            TrustError: it is not: `length or hash`.
        """
        if len(data) != self.length or hashlib.sha256(data).digest() != self.sha256.raw:
            found = f"{len(data)} bytes, sha256:{hashlib.sha256(data).hexdigest()}"
            raise TrustError(f"target {self.path}", Rule.CONTENT, f"{self.length} bytes, {self.sha256}", found)
        return data


@dataclass(frozen=True, slots=True)
class CatalogStatus:
    """Which catalog is believed, and since when.

    Attributes:
        root_version, timestamp_version, snapshot_version, targets_version: of its top-level roles.
        verified_at: when it was last verified against a source (UTC).
        expires: when the first of its roles expires, of those that were looked at (UTC).
    """

    root_version: int
    timestamp_version: int
    snapshot_version: int
    targets_version: int
    verified_at: datetime
    expires: datetime

    @property
    def order(self) -> tuple[int, int]:
        """What makes one catalog newer than another: after a root rotation the timestamp may begin anew."""
        return self.root_version, self.timestamp_version

    def age(self, now: datetime) -> timedelta:
        """How long ago it was verified."""
        return now - self.verified_at

    def stale(self, now: datetime) -> bool:
        """Whether it has expired."""
        return now >= self.expires


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh came to.

    Attributes:
        status: the catalog that is believed now.
        changed: whether it is another one than before.
        expired: the error that `allow_stale` forgave, or None.
        alarms: what was not refused, and yet never happens in a sound catalog (two timestamps of one version).
        failures: source → why it wasn't believed or reached.
    """

    status: CatalogStatus
    changed: bool
    expired: TrustError | None = None
    alarms: tuple[TrustError, ...] = ()
    failures: Mapping[str, NodeError] = field(default_factory=dict)


def status_of(verified: Pass) -> CatalogStatus:
    """The versions and times of one pass that took in all four top-level roles."""
    trusted = verified.trusted
    return CatalogStatus(
        root_version=trusted.root.version,
        timestamp_version=trusted.timestamp.version,
        snapshot_version=trusted.snapshot.version,
        targets_version=trusted.targets.version,
        verified_at=trusted.reference_time,
        expires=min(signed.expires for signed in trusted),
    )


def info_of(found: TargetFile) -> TargetInfo:
    """Check what metadata says of a target.

    Raises:
        TrustError: `malformed`: no SHA-256, or a length that is no number.
    """
    sha256 = found.hashes.get("sha256")
    try:
        digest = Digest.from_hex(sha256 or "")
        length = found.length
        if isinstance(length, bool) or not isinstance(length, int):
            raise InvalidInput("a length is a number")
    except InvalidInput as error:
        role = f"target {found.path}"
        raise TrustError(role, Rule.MALFORMED, "a length and a SHA-256", f"{found.length}, {sha256}") from error
    custom = found.custom
    return TargetInfo(found.path, digest, length, custom if isinstance(custom, dict) else {})
