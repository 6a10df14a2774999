"""A catalog's repository and its mirror in memory, laid out as this project's: real keys, real signatures, real files.

Tests change what is signed through `signed`, publish it, and read through `fetch`, which is an honest source: it knows
paths and bytes, stops at the length it is told, and raises what a real one raises.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)

from aibrother_node.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
LIVES = {"root": 365, "timestamp": 7, "snapshot": 14}  # days; 180 for the others
BINS = [f"models-{number:x}" for number in range(16)]
DELEGATED = ("models", "staging", "fleet")
CATALOG = "models/catalog.json"
PART = "models/phi-1.0-q4_k_m.gguf"


def expires(role: str, now: datetime = NOW) -> datetime:
    return now + timedelta(days=LIVES.get(role, 180))


class Mirror:
    """A source.

    Attributes:
        files: what it serves, by path.
        requests: the paths that were asked for.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.requests: list[str] = []

    def fetch(self, path: str, max_length: int) -> bytes:
        self.requests.append(path)
        try:
            return self.files[path][: max_length + 1]
        except KeyError:
            raise NotFound(f"404 {path}") from None

    def frozen(self) -> Mirror:
        """A source that stays at what this one serves now."""
        return Mirror(self.files.copy())


class Simulator(Mirror):
    """One repository.

    Attributes:
        signed: role → its content, to be changed at will.
        signers: role → the keys it is signed with (bins are signed with those of `models`).
    """

    def __init__(self, new_key: Callable[[], CryptoSigner] = CryptoSigner.generate_ed25519) -> None:
        super().__init__({})
        self._new_key = new_key
        self.signed: dict[str, Any] = {}
        self.signers: dict[str, list[CryptoSigner]] = {}
        root = Root(expires=expires("root"), consistent_snapshot=True)
        targets = Targets(expires=expires("targets"), delegations=Delegations({}, roles={}))
        self.signed = {"root": root, "targets": targets}
        for role in ("root", "timestamp", "snapshot", "targets"):
            self.signers[role] = [self._new_key()]
            root.add_key(self.signers[role][0].public_key, role)
        assert targets.delegations is not None
        assert targets.delegations.roles is not None
        for role in DELEGATED:
            path = "fleet.json" if role == "fleet" else f"{role}/*"
            targets.delegations.roles[role] = DelegatedRole(role, [], 1, terminating=True, paths=[path])
            self.signers[role] = [self._new_key()]
            targets.add_key(self.signers[role][0].public_key, role)
            self.signed[role] = Targets(expires=expires(role))
        bins = SuccinctRoles([], 1, 4, "models")
        models = self.signed["models"]
        models.delegations = Delegations({}, succinct_roles=bins)
        models.add_key(self.signers["models"][0].public_key)
        for name in BINS:
            self.signed[name] = Targets(expires=expires(name))
            self.signers[name] = self.signers["models"]
        self.signed["snapshot"] = Snapshot(expires=expires("snapshot"))
        self.signed["timestamp"] = Timestamp(expires=expires("timestamp"))
        self.signed["snapshot"].meta.clear()
        self.write("root", bump=False)
        for role in ("targets", *DELEGATED, *BINS):
            self.write(role, bump=False)
        self.write("snapshot", bump=False)
        self.write("timestamp", bump=False)

    @property
    def first_root(self) -> bytes:
        return self.files["metadata/1.root.json"]

    def role_of(self, path: str) -> str:
        """The role that a target of this name belongs to."""
        if path.startswith("models/"):
            return str(self.signed["models"].delegations.succinct_roles.get_role_for_target(path))
        return "fleet" if path == "fleet.json" else path.partition("/")[0]

    def put(self, path: str, data: bytes, custom: dict[str, Any] | None = None, role: str | None = None) -> str:
        """Add a target and serve its file; returns its role, which is still to be published."""
        target = TargetFile.from_data(path, data, ["sha256"])
        if custom is not None:
            target.unrecognized_fields["custom"] = custom
        role = role or self.role_of(path)
        self.signed[role].targets[path] = target
        self.files[self.target_file(path, data)] = data
        return role

    @staticmethod
    def target_file(path: str, data: bytes) -> str:
        folder, slash, name = path.rpartition("/")
        return f"targets/{folder}{slash}{hashlib.sha256(data).hexdigest()}.{name}"

    def write(
        self, role: str, *, bump: bool = True, signers: list[CryptoSigner] | None = None, mention: bool = True
    ) -> bytes:
        """Sign a role, serve its file, and let the role above it name it (which is still to be written)."""
        signed = self.signed[role]
        signed.version += bump
        metadata = Metadata(signed)
        for signer in self.signers[role] if signers is None else signers:
            metadata.sign(signer, append=True)
        data = metadata.to_bytes()
        name = "timestamp.json" if role == "timestamp" else f"{signed.version}.{role}.json"
        self.files[f"metadata/{name}"] = data
        meta = MetaFile(signed.version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})
        if mention and role == "snapshot":
            self.signed["timestamp"].snapshot_meta = meta
        elif mention and role not in {"root", "timestamp"}:
            self.signed["snapshot"].meta[f"{role}.json"] = meta
        return data

    def publish(self, *roles: str) -> None:
        """Write these roles, then snapshot and timestamp."""
        for role in (*roles, "snapshot", "timestamp"):
            self.write(role)

    def rotate(self, role: str) -> list[CryptoSigner]:
        """Give a role new keys, in the role that delegates to it (still to be written); returns the old ones."""
        old = self.signers[role]
        new = [self._new_key() for _ in old]
        for delegator, name in self._delegators(role):
            for signer in old:
                delegator.revoke_key(signer.public_key.keyid, name)
            for signer in new:
                delegator.add_key(signer.public_key, name)
        for name in [role, *(BINS if role == "models" else [])]:
            self.signers[name] = new
        return old

    def rotate_in_root(self, *roles: str) -> dict[str, list[CryptoSigner]]:
        """Publish a root that gives top-level roles new keys; returns the old ones."""
        signers = list(self.signers["root"])
        old = {role: self.rotate(role) for role in roles}
        if "root" in roles:
            signers += self.signers["root"]
        self.write("root", signers=signers)
        return old

    def _delegators(self, role: str) -> list[tuple[Any, str | None]]:
        if role in {"root", "timestamp", "snapshot", "targets"}:
            return [(self.signed["root"], role)]
        found: list[tuple[Any, str | None]] = [(self.signed["targets"], role)]
        if role == "models":
            found.append((self.signed["models"], None))
        return found


def with_catalog() -> Simulator:
    """A repository with one document and one part in it: version 2 of what was touched."""
    simulator = Simulator()
    custom = {"name": "phi", "version": "1.0", "variant": "q4_k_m", "chunks": f"sha256:{'1' * 64}"}
    roles = {simulator.put(CATALOG, b'{"catalog":1}\n'), simulator.put(PART, b"GGUF part", custom)}
    simulator.publish(*sorted(roles))
    return simulator
