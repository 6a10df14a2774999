"""What is done about a bad chunk, in the order that keeps it from everybody at once.

Its bytes are withheld, in memory, before anything waits for a disk → a copy of them is kept as evidence → the blob is
demoted to a fill. And about a manifest that calls good chunks bad: nobody looks at it any more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from aibrother_node.errors import DiskFull, NotFound
from aibrother_node.store.blobs import BlobReader
from aibrother_node.store.fills import FillState
from aibrother_node.store.scrubbing import damage, evidence
from aibrother_node.store.scrubbing.check import BadChunk
from aibrother_node.store.withheld import WHOLE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import TypeVar

    from aibrother_node.content.chunks import ChunkManifest
    from aibrother_node.content.digest import Digest
    from aibrother_node.store.blobs import BlobStore
    from aibrother_node.store.index import IndexReader
    from aibrother_node.store.layout import Layout
    from aibrother_node.store.scrubbing.check import Finding
    from aibrother_node.store.scrubbing.direct import DirectFile
    from aibrother_node.store.withheld import WithheldWriter

    _Result = TypeVar("_Result")

_LOG: Final = logging.getLogger(__name__)
RETIRED: Final = 2 * 3600.0
"""Seconds for which a file that another has replaced stays withheld: longer than any body goes without a look."""


@dataclass(frozen=True, slots=True)
class Known:
    """A blob's manifest, and what it is worth.

    Attributes:
        manifest: None where there is none.
        named: the catalog names it.
        served: chunks that it calls good may be served while others are bad (invariant 4).
    """

    manifest: ChunkManifest | None
    named: bool = False
    served: bool = False


def manifest_of(layout: Layout, index: IndexReader, ceiling: int, digest: Digest, agreed: Digest | None) -> Known:
    """A blob's manifest, and what it is worth. Blocks.

    Args:
        layout, index: of the data directory.
        ceiling: bytes above which a blob isn't taken for a manifest.
        digest: of the blob.
        agreed: the manifest that was found to agree with it when it was whole.
    """
    reader = BlobReader(layout)
    target = index.target_of(digest)
    named = None if target is None else target.manifest
    rows = [row.manifest for row in reader.manifests_of(digest)]
    for candidate in ([] if named is None else [named]) + rows:
        try:
            manifest = reader.read_manifest(candidate, ceiling)
        except NotFound:
            continue
        if manifest.blob == digest:
            # the store makes manifests of what it takes in; one that it took in itself has a manifest of its own
            own = candidate == agreed or not reader.manifests_of(candidate)
            return Known(manifest, named=candidate == named, served=candidate == named or own)
    return Known(None)


class CountsBad(Protocol):
    """What is counted."""

    def bad(self, count: int) -> None:
        """Chunks were found bad."""


@dataclass(frozen=True, slots=True)
class OutOfService:
    """Takes what is bad out of service; belongs to the event loop of control.

    Attributes:
        layout, index: of the data directory.
        change: runs something on the store's thread.
        withheld: what nobody may be sent.
        measures: what is counted.
        clock: seconds since 1970.
    """

    layout: Layout
    index: IndexReader
    change: Callable[[Callable[[BlobStore], _Result]], Awaitable[_Result]]
    withheld: WithheldWriter
    measures: CountsBad
    clock: Callable[[], float]

    async def found(self, digest: Digest, known: Known, file: DirectFile, bad: Sequence[BadChunk]) -> None:
        """Chunks are certainly bad."""
        manifest = known.manifest
        assert manifest is not None
        ranges = [(one.offset, one.offset + one.length) for one in bad] if known.served else [(0, WHOLE)]
        self.withheld.also_withhold(digest, file.inode, ranges)
        self.measures.bad(len(bad))
        for one in bad:
            last = one.offset + one.length - 1
            _LOG.error("bad chunk %d of %s (bytes %d to %d): %s", one.index, digest, one.offset, last, one.reason)
        await self._keep_evidence(digest, file, bad)
        reason = "; ".join(f"chunk {one.index}: {one.reason}" for one in bad[:5])
        state = FillState("damaged", self.clock(), known.served, reason=reason)
        await self.change(lambda store: damage.demote(store, manifest, [one.index for one in bad], state))
        self.withheld.changed()  # its file has another place

    async def damaged_somewhere(self, digest: Digest, known: Known, file: DirectFile, finding: Finding) -> None:
        """A blob is bad, and nobody knows where, or bytes follow its end."""
        self.measures.bad(1)
        _LOG.error("%s is damaged: %s", digest, finding.reason)
        if known.manifest is not None and file.size > known.manifest.size:
            manifest, served, certain = known.manifest, known.served, True
        else:
            self.withheld.also_withhold(digest, file.inode, [(0, WHOLE)])
            small = damage.made_up_manifest(digest, file.size) if known.manifest is None else known.manifest
            if small is None:
                await self.change(lambda store: store.withdraw(digest, finding.reason))
                self.withheld.retire(digest, file.inode, time.monotonic() + RETIRED)
                return
            manifest, served, certain = small, False, known.manifest is not None
            if not certain:
                await self._keep_evidence(digest, file, [BadChunk(0, 0, file.size, finding.reason)])
        row = await asyncio.to_thread(self.index.described_by, digest)
        described = None if row is None else str(row.blob)
        state = FillState("damaged", self.clock(), served, described, finding.reason, certain)
        bad = [] if certain else [0]
        await self.change(lambda store: damage.demote(store, manifest, bad, state))
        self.withheld.changed()

    async def disown(self, manifest: ChunkManifest, reason: str) -> None:
        """A manifest lies about a blob that is whole: nobody looks at it any more, and one is made that doesn't."""
        own = await asyncio.to_thread(manifest.digest)
        _LOG.error("the manifest %s of %s is not used any more: it %s", own, manifest.blob, reason)
        await self.change(lambda store: store.disown(own))
        if not await asyncio.to_thread(self.index.manifests_of, manifest.blob):
            store = await self.change(lambda store: store)
            made = await asyncio.to_thread(store.read_again, manifest.blob)
            await self.change(lambda store: store.put_manifest(made))

    async def _keep_evidence(self, digest: Digest, file: DirectFile, bad: Sequence[BadChunk]) -> None:
        for one in bad:
            data = await asyncio.to_thread(_read, file, one)
            facts = {"offset": one.offset, "length": one.length, "reason": one.reason}

            def keep(
                store: BlobStore, one: BadChunk = one, data: bytes = data, facts: dict[str, object] = facts
            ) -> None:
                evidence.keep(
                    self.layout, store.disk, digest, index=one.index, data=data, facts=facts, now=self.clock()
                )

            try:
                await self.change(keep)
            except (DiskFull, OSError) as error:
                _LOG.warning("no copy of the bad chunk %d of %s is kept: %s", one.index, digest, error)


def _read(file: DirectFile, bad: BadChunk) -> bytes:
    """What stands in a bad chunk's place, as far as it can be read. Blocks."""
    try:
        with file.read(bad.offset, bad.length) as view:
            return bytes(view)
    except OSError:
        return b""
