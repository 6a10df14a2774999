"""A new catalog: all keys on this machine, nothing published, one node admitted."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aibrother_node.catalog.entries import CatalogDocument, FleetDocument, FleetNode, encode
from aibrother_node.catalog.keys import KeyRing
from aibrother_node.catalog.repository import Repository
from aibrother_node.content.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from aibrother_node.catalog.desk import Signing
    from aibrother_node.store.disk import Disk
    from aibrother_node.store.layout import Layout


@dataclass(frozen=True, slots=True)
class _Target:
    sha256: Digest
    length: int
    custom: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class _Content:
    documents: Mapping[str, bytes | None]
    targets: Mapping[str, _Target | None]


def found_catalog(layout: Layout, disk: Disk, signing: Signing, node: FleetNode, now: datetime) -> bytes:
    """Make keys and catalog where they are missing, and trust the first root.

    Safe to run again after an interruption: what is there stays.

    Args:
        layout: of the data directory, whose lock the caller holds.
        disk: the file system.
        signing: where the keys go, and how long each role's metadata is valid.
        node: the first of the fleet.
        now: the time, in UTC.

    Returns:
        The first root's bytes: what every client is given once.
    """
    if (signing.keys / "keys.json").exists():
        keyring = KeyRing.load(signing.keys, disk, passphrase=signing.passphrase)
    else:
        keyring = KeyRing.generate(signing.keys, disk, passphrase=signing.passphrase)
    documents = {
        "models/catalog.json": encode(CatalogDocument.empty("stable", now)),
        "staging/catalog.json": encode(CatalogDocument.empty("staging", now)),
        "fleet.json": encode(FleetDocument(1, (node,))),
    }
    targets = {path: _Target(Digest(hashlib.sha256(data).digest()), len(data)) for path, data in documents.items()}
    if (layout.catalog / "metadata" / "timestamp.json").exists():
        repository = Repository.open(layout.catalog, disk, signing.expiries)
    else:
        content = _Content(documents, targets)
        repository = Repository.create(layout.catalog, keyring, signing.expiries, now, disk, content=content)
    root = repository.root_bytes(1)
    disk.write_file(layout.trust / "root.json", root, aside=layout.incoming / "root.json.new")
    return root
