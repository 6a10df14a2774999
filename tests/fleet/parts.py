"""Keys, members and engines for tests of gossip."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

from aibrother_node.fleet.engine import Engine, EngineSettings
from aibrother_node.fleet.identity import NodeKey
from aibrother_node.fleet.members import Member
from aibrother_node.fleet.record import Description, SignedRecord
from aibrother_node.fleet.signatures import Ed25519Signatures

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aibrother_node.fleet.signatures import Signatures

NOW = 1_800_000_000.0


class KeyedHash:
    """Stands for Ed25519 where there are many nodes: BLAKE2b under a secret that is told to `verify` alone.

    Whoever has an object of this class can sign for its key and for no other, like the owner of a private key.
    """

    _secrets: dict[bytes, bytes] = {}  # noqa: RUF012 - the same secrets for all, for `verify`

    def __init__(self, name: str) -> None:
        self._secret = hashlib.blake2b(name.encode(), digest_size=32, person=b"secret").digest()
        self.public = hashlib.blake2b(self._secret, digest_size=32, person=b"public").digest()
        self._secrets[self.public] = self._secret
        self.verified = 0

    def sign(self, data: bytes) -> bytes:
        return hashlib.blake2b(data, key=self._secret).digest()

    def verify(self, key: bytes, signature: bytes, data: bytes) -> bool:
        self.verified += 1
        secret = self._secrets.get(key)
        return secret is not None and hashlib.blake2b(data, key=secret).digest() == signature


def real_key() -> Ed25519Signatures:
    return Ed25519Signatures(NodeKey.generate())


def id_of(signatures: Signatures) -> str:
    return hashlib.sha256(signatures.public).hexdigest()


def url_of(signatures: Signatures) -> str:
    return f"http://{id_of(signatures)[:12]}.example"


def member(signatures: Signatures) -> Member:
    return Member(id_of(signatures), signatures.public, gossip_url=url_of(signatures))


def members(keys: Iterable[Signatures]) -> dict[str, Member]:
    return {one.id: one for one in map(member, keys)}


def record(
    signatures: Signatures, version: int = 1, *, incarnation: int = 1, issued: float = NOW, region: str = "eu"
) -> SignedRecord:
    return SignedRecord.make(signatures, incarnation, version, issued, Description(region=region))


def engine(
    signatures: Signatures, settings: EngineSettings | None = None, *, now: float = NOW, seed: int = 0
) -> Engine:
    return Engine(signatures, id_of(signatures), settings or EngineSettings(), random.Random(seed), now)


def fleet(keys: Iterable[Signatures], settings: EngineSettings | None = None, *, now: float = NOW) -> list[Engine]:
    """Engines that know of each other by the catalog alone."""
    keys = list(keys)
    engines = [engine(key, settings, now=now, seed=number) for number, key in enumerate(keys)]
    for one in engines:
        one.set_members(members(keys))
        one.describe(Description(region="eu"), now)
    return engines


def known(engine: Engine, node: str, now: float = NOW) -> SignedRecord | None:
    """The record of another that an engine has."""
    return next(peer for peer in engine.peers(now) if peer.id == node).record


def state(engine: Engine, node: str, now: float = NOW) -> str:
    return next(peer for peer in engine.peers(now) if peer.id == node).state
