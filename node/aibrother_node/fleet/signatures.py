"""Signing and checking as the fleet's protocols need them: a seam, so that a thousand simulated nodes are quick."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

if TYPE_CHECKING:
    from aibrother_node.fleet.identity import NodeKey

SIGNATURE_BYTES: Final = 64
KEY_BYTES: Final = 32


class Signatures(Protocol):
    """A node's own key, and the check of others'. Signatures have 64 bytes, keys 32."""

    @property
    def public(self) -> bytes:
        """This node's public key."""

    def sign(self, data: bytes) -> bytes:
        """Sign with this node's key."""

    def verify(self, key: bytes, signature: bytes, data: bytes) -> bool:
        """Whether `key` signed `data`."""


class Ed25519Signatures:
    """Ed25519 (RFC 8032)."""

    def __init__(self, key: NodeKey) -> None:
        self._key = key
        self.public = key.public

    def sign(self, data: bytes) -> bytes:
        """Sign with this node's key."""
        return self._key.private.sign(data)

    def verify(self, key: bytes, signature: bytes, data: bytes) -> bool:
        """Whether `key` signed `data`."""
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signature, data)
        except (InvalidSignature, ValueError):
            return False
        return True
