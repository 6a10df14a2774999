"""Bringing files into the store of this machine's data directory, whether a node runs on it or not."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aibrother_node.content.digest import Digest
from aibrother_node.errors import NotFound
from aibrother_node.store.disk import Disk
from aibrother_node.store.incoming import stage
from aibrother_tools.local_client import LocalNode, change

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aibrother_node.config import NodeConfig
    from aibrother_node.store.blobs import BlobStore
    from aibrother_node.store.incoming import Options
    from aibrother_node.store.layout import Layout


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that the store has taken in.

    Attributes:
        digest, size: what it is.
        manifest: of its chunks.
        pieces: its `fixed/1` manifest, where one was asked for.
        was_there: the store had it before.
    """

    digest: Digest
    size: int
    manifest: Digest
    pieces: Digest | None
    was_there: bool


def store_file(
    config: NodeConfig, layout: Layout, path: Path, options: Options, progress: Callable[[int], None]
) -> StoredFile:
    """Store one file; when this returns, this node serves it.

    Raises:
        as `stage` and `change`.
    """
    staged, request = stage(layout, Disk(), path, options, progress)

    def offline(store: BlobStore) -> StoredFile:
        store.take_in_all()  # what earlier commands left; ours is held, and stays
        stored = store.take_in(staged, request, verify=False)
        return StoredFile(stored.digest, stored.size, stored.manifest, stored.pieces, stored.was_there)

    def online(node: LocalNode) -> StoredFile:
        try:
            answer = node.ask("POST", f"/incoming/{staged.id}", timeout=None)
        except NotFound:
            if not layout.blob(request.digest).exists():
                raise
            # taken in by a node that ended before it could say so
            return StoredFile(request.digest, request.size, request.manifest, request.pieces, was_there=False)
        pieces = answer["pieces"]
        return StoredFile(
            Digest.parse(answer["digest"]),
            answer["size"],
            Digest.parse(answer["manifest"]),
            None if pieces is None else Digest.parse(pieces),
            answer["was_there"],
        )

    with staged:
        stored = change(config, offline, online)
    if options.how == "move":
        path.unlink(missing_ok=True)  # only where it had to be copied
    return stored


def total_bytes(layout: Layout) -> int:
    """The size of the file system that holds the data directory."""
    found = os.statvfs(layout.root)
    return found.f_blocks * found.f_frsize
