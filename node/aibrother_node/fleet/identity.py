"""Who a node is: an Ed25519 key (RFC 8032), whose public half's SHA-256 is the node's id."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from aibrother_node.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from pathlib import Path

    from aibrother_node.store.disk import Disk

_CEILING: Final = 16 << 10


@dataclass(frozen=True, slots=True)
class NodeKey:
    """A node's key.

    Attributes:
        private: the Ed25519 key.
    """

    private: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> NodeKey:
        """Make a new key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> NodeKey:
        """Read `node.key` (PKCS #8, PEM).

        Raises:
            NotFound: there is none.
            InvalidInput: it is no Ed25519 key.
        """
        try:
            with path.open("rb") as file:
                data = file.read(_CEILING)
        except FileNotFoundError:
            raise NotFound(f"no node key at {path}: make one with `aibrother-node init`") from None
        try:
            key = serialization.load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise InvalidInput(f"{path} is no node key: {error}") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise InvalidInput(f"{path} is no Ed25519 key")
        return cls(key)

    def save(self, path: Path, disk: Disk, *, aside: Path) -> None:
        """Write the key durably, readable by its owner alone."""
        pem = self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        disk.write_file(path, pem, aside=aside, mode=0o600)

    @property
    def public(self) -> bytes:
        """The public key's 32 bytes."""
        return self.private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    @property
    def id(self) -> str:
        """The node id: the SHA-256 of the public key, 64 hex digits."""
        return hashlib.sha256(self.public).hexdigest()

    def sign(self, data: bytes) -> bytes:
        """Sign with this key; 64 bytes."""
        return self.private.sign(data)

    @staticmethod
    def verify(public_key: bytes, signature: bytes, data: bytes) -> bool:
        """Whether the private half of a public key (32 bytes) made this signature (64 bytes) of `data`."""
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, data)
        except (InvalidSignature, ValueError):
            return False
        return True
