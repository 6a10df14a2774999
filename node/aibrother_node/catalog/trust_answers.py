"""What a verified catalog answers with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aibrother_node.catalog.trust_rules import Rule, TrustError
from aibrother_node.content.chunks import ChunkManifest
from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput, NotFound

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

    @property
    def chunks(self) -> Digest | None:
        """The digest of the part's chunk manifest; None for what is no part.

        Raises:
            TrustError: `malformed`: the publisher signed something else in its place.
        """
        text = self.custom.get("chunks")
        if text is None:
            return None
        try:
            return Digest.parse(text if isinstance(text, str) else "")
        except InvalidInput as error:
            raise TrustError(f"target {self.path}", Rule.MALFORMED, "a manifest's digest", text) from error

    def manifest(self, data: bytes) -> ChunkManifest:
        """Read `data` as the chunk manifest of this part.

        Raises:
            NotFound: this is no part.
            TrustError: it is another one than the catalog names (`length or hash`), or one of another file
                (`mix-and-match`).
            InvalidInput: the catalog names it, and it is no manifest.
        """
        chunks = self.chunks
        name = f"manifest of {self.path}"
        if chunks is None:
            raise NotFound(f"the catalog has no {name}")
        found = Digest(hashlib.sha256(data).digest())
        if found != chunks:
            raise TrustError(name, Rule.CONTENT, chunks, found)
        manifest = ChunkManifest.decode(data)
        if (manifest.blob, manifest.size) != (self.sha256, self.length):
            expected = f"{self.length} bytes, {self.sha256}"
            raise TrustError(name, Rule.MIX_AND_MATCH, expected, f"{manifest.size} bytes, {manifest.blob}")
        return manifest


@dataclass(frozen=True, slots=True)
class CatalogStatus:
    """Which catalog is believed, and since when.

    Attributes:
        root_version, timestamp_version, snapshot_version, targets_version: of its top-level roles.
        verified_at: when it was last verified against a source (UTC).
        expires: when the first of its roles expires, of those that are here (UTC).
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
    for _ in verified.tree(None, all_of_it=False):
        pass  # so that the answer doesn't depend on what was asked for since the start
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
