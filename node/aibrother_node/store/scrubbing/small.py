"""Small blobs, many in one step: which of them are certainly sound. All others are looked at one by one.

To ask about a small blob costs more than to read it, so its whole SHA-256 is checked in each pass, and what is asked
is asked for many at once. A step is as short as that of a large blob: it reads no more, and ends before it lasts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aibrother_node.errors import NotFound
from aibrother_node.store.blobs import BlobReader
from aibrother_node.store.index import IndexReader
from aibrother_node.store.scrubbing.check import check
from aibrother_node.store.scrubbing.direct import DirectFile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aibrother_node.content.chunks import ChunkManifest
    from aibrother_node.content.digest import Digest
    from aibrother_node.store.layout import Layout
    from aibrother_node.store.scrubbing.scrubber import Planned

LARGEST: Final = 64 << 10
"""Bytes of a small blob."""
MOST: Final = 128
"""Blobs in a step: of the largest of them, as many as have the bytes of the largest chunk."""
_SECONDS: Final = 0.1  # that a step may last before it ends early


@dataclass(frozen=True, slots=True)
class Looked:
    """What one step found.

    Attributes:
        count: how many of the blobs were looked at, from the first one on; at least one.
        read: bytes of those that are sound.
        sound: each of those, with its manifest; None where it has none.
    """

    count: int
    read: int
    sound: Mapping[Digest, Digest | None]


def small_ones(plan: Sequence[Planned], start: int) -> Sequence[Planned]:
    """The small blobs that follow one another in a plan, as many as a step takes.

    Manifests and what they describe don't come in one step: a manifest that is bad is repaired first.
    """
    end = start
    while (
        end < min(len(plan), start + MOST) and plan[end].size <= LARGEST and plan[end].order[0] == plan[start].order[0]
    ):
        end += 1
    return plan[start:end]


def look(layout: Layout, planned: Sequence[Planned], max_manifest: int, seconds: float = _SECONDS) -> Looked:
    """Check small blobs. Blocks.

    Args:
        layout: of the data directory.
        planned: at least one.
        max_manifest: bytes above which a blob isn't taken for a manifest.
        seconds: after which no other is begun with.
    """
    until = time.monotonic() + seconds
    reader = BlobReader(layout)
    manifests = IndexReader(layout.index).manifests_to_try([one.digest for one in planned])
    if manifests is None:
        return Looked(len(planned), 0, {})
    sound: dict[Digest, Digest | None] = {}
    read = count = 0
    for one in planned:
        if count and time.monotonic() >= until:
            break
        count += 1
        own, manifest = _manifest(reader, one.digest, manifests[one.digest], max_manifest)
        if _is_sound(layout, one.digest, manifest):
            sound[one.digest] = own
            read += one.size
    return Looked(count, read, sound)


def _manifest(
    reader: BlobReader, digest: Digest, candidates: Sequence[Digest], max_manifest: int
) -> tuple[Digest | None, ChunkManifest | None]:
    for candidate in candidates:
        try:
            manifest = reader.read_manifest(candidate, max_manifest)
        except NotFound:
            continue
        if manifest.blob == digest:
            return candidate, manifest
    return None, None


def _is_sound(layout: Layout, digest: Digest, manifest: ChunkManifest | None) -> bool:
    try:
        with DirectFile(layout.blob(digest)) as file:
            if file.size > LARGEST:
                return False
            steps = check(file, digest, manifest, sha=True, named=False)
            while True:
                if next(steps).urgent:
                    return False
    except StopIteration as end:
        return bool(end.value.verdict == "sound")
    except OSError:
        return False
