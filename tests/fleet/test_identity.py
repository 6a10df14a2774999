"""The node's key: who a node is."""

import hashlib
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from aibrother_node.errors import InvalidInput, NotFound
from aibrother_node.fleet.identity import NodeKey
from aibrother_node.store.disk import Disk


def test_a_key_is_kept_and_its_id_is_the_hash_of_its_public_half(tmp_path: Path) -> None:
    key = NodeKey.generate()
    key.save(tmp_path / "node.key", Disk(), aside=tmp_path / "aside")
    assert stat.S_IMODE((tmp_path / "node.key").stat().st_mode) == 0o600
    again = NodeKey.load(tmp_path / "node.key")
    assert again.id == key.id == hashlib.sha256(again.public).hexdigest()
    assert len(again.public) == 32
    assert NodeKey.generate().id != key.id


def test_what_is_no_node_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    with pytest.raises(NotFound, match="init"):
        NodeKey.load(path)
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for content in (b"", b"\xff" * 100_000, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", other):
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=r"is no (node|Ed25519) key"):
            NodeKey.load(path)
