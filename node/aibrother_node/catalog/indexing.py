"""The store's index follows the catalog's files, whoever changed them: an edit here, or a node that follows.

What names stand for is looked up in the index by workers. The files are the truth: what an interruption kept from the
index is made up for by `follow`, at the next start.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.catalog.names import part_filename
from aibrother_node.catalog.reading import content_of
from aibrother_node.catalog.repository import Repository
from aibrother_node.content.digest import Digest
from aibrother_node.store.generation import Generation
from aibrother_node.store.index import TargetRow, YankedRow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tuf.api.metadata import TargetFile

    from aibrother_node.catalog.entries import ReleasesDocument
    from aibrother_node.catalog.targets import Content
    from aibrother_node.store.blobs import BlobStore
    from aibrother_node.store.disk import Disk
    from aibrother_node.store.layout import Layout

_MAX_TIMESTAMP: Final = 64 << 10


def state_name(layout: Layout) -> str | None:
    """Names the catalog on disk: the SHA-256 of its timestamp; None where there is none."""
    try:
        return hashlib.sha256((layout.catalog / "metadata" / "timestamp.json").read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def timestamp_expires(layout: Layout) -> datetime | None:
    """When the catalog's timestamp on disk expires, going by what it says; None where there is none."""
    try:
        with (layout.catalog / "metadata" / "timestamp.json").open("rb") as file:
            signed = json.loads(file.read(_MAX_TIMESTAMP))["signed"]
        return datetime.strptime(signed["expires"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def follow(store: BlobStore, disk: Disk) -> bool:
    """Make the index say what the catalog's files say, verified by their own root, and tell the workers.

    Returns:
        Whether it had to be done.
    """
    state = state_name(store.layout)
    if state is None or store.catalog_state() == state:
        return False
    repository = Repository.open(store.layout.catalog, disk)
    rows = [_row(path, target) for path, target in repository.targets()]
    store.put_catalog(state, rows, yanked_rows(content_of(repository)), whole=True)
    tell_workers(store.layout)
    return True


def release_columns(custom: Mapping[str, Any] | None) -> tuple[str | None, str | None, str | None, Digest | None]:
    """Name, version, variant and manifest of a part, from its target's custom fields; all None for a document."""
    if custom is None:
        return None, None, None, None
    return custom["name"], custom["version"], custom["variant"], Digest.parse(custom["chunks"])


def _row(path: str, target: TargetFile) -> TargetRow:
    return TargetRow(path, Digest.from_hex(target.hashes["sha256"]), target.length, *release_columns(target.custom))


def yanked_rows(content: Content) -> Iterator[YankedRow]:
    """The paths that withdrawn releases had; where a moving name among them is a target again, that wins."""
    known: dict[str, ReleasesDocument] = {}
    for stone in content.stable.yanked:
        if stone.name not in known:
            known[stone.name] = content.releases(stone.name)
        for entry in known[stone.name].releases:
            if entry.key == stone.key:
                for part, moving in zip(entry.files, entry.moving_filenames(), strict=True):
                    yield YankedRow(f"models/{part.filename}", part.sha256, stone.reason)
                    yield YankedRow(f"models/{moving}", part.sha256, stone.reason)
    for stone in content.staging.yanked:
        if stone.sha256 is not None:  # the parts of a shard set aren't known any more
            yield YankedRow(f"staging/{part_filename(*stone.key)}", stone.sha256, stone.reason)


def tell_workers(layout: Layout) -> None:
    """Let workers forget what they remembered of the catalog."""
    generation = Generation(layout.generation, writable=True)
    try:
        generation.raise_it()
    finally:
        generation.close()
