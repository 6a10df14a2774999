"""Bringing back what a damaged blob has lost, from whoever still has it.

The source is another floor's matter (`RepairSource`). What it brings is verified here, written, read again from the
disk, and only then taken for good; the whole SHA-256 is checked before the blob gets its name back (invariant 1).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from aibrother_node.content import chunks
from aibrother_node.content.digest import Digest
from aibrother_node.errors import NodeError, NotFound, Temporary, VerificationFailed
from aibrother_node.store.fills import open_fill
from aibrother_node.store.hashing import hash_file
from aibrother_node.store.incoming import build, read_at
from aibrother_node.store.scrubbing import damage
from aibrother_node.store.scrubbing.check import bad_chunks, whole_digest
from aibrother_node.store.scrubbing.direct import DirectFile

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from pathlib import Path
    from typing import TypeVar

    from aibrother_node.content.chunks import Chunk, ChunkManifest
    from aibrother_node.store.blobs import BlobStore
    from aibrother_node.store.fills import OpenFill
    from aibrother_node.store.layout import Layout
    from aibrother_node.store.scrubbing.check import Step
    from aibrother_node.store.withheld import WithheldWriter

    _Result = TypeVar("_Result")

_LOG: Final = logging.getLogger(__name__)
_ROUNDS: Final = 3  # of fetching what is missing, where the whole turns out wrong after that


class RepairSource(Protocol):
    """Somebody else who has blobs. Any method may take a while, bounded by the source itself."""

    async def chunk(self, blob: Digest, chunk: Chunk, size: int) -> bytes:
        """A chunk's bytes, which hash to its SHA-256.

        Args:
            blob: it is of.
            chunk: where it is and what it hashes to.
            size: the blob's, in bytes.

        Raises:
            NotFound: nobody is known to have it.
            NodeError: whoever has it doesn't give it, or something else.
        """

    async def whole(self, blob: Digest, most: int) -> bytes:
        """All of a small blob, whose bytes hash to its name.

        Args:
            blob: which.
            most: bytes above which it isn't fetched.

        Raises:
            NotFound, NodeError: as `chunk`.
        """


class NoSource:
    """Nobody: of a node that is alone."""

    async def chunk(self, blob: Digest, chunk: Chunk, size: int) -> bytes:  # noqa: ARG002 - the protocol's
        raise NotFound("no other node is known to have it")

    async def whole(self, blob: Digest, most: int) -> bytes:  # noqa: ARG002 - the protocol's
        raise NotFound("no other node is known to have it")


@dataclass(frozen=True, slots=True)
class Hands:
    """What a repair works with.

    Attributes:
        layout: of the data directory.
        change: runs something on the store's thread.
        withheld: the table that workers read.
        source: where good bytes come from.
        repaired: called for each chunk that is good again.
        breathe: awaited between two steps.
    """

    layout: Layout
    change: Callable[[Callable[[BlobStore], _Result]], Awaitable[_Result]]
    withheld: WithheldWriter
    source: RepairSource
    repaired: Callable[[], None]
    breathe: Callable[[], Awaitable[None]]


async def repair(hands: Hands, digest: Digest) -> None:
    """Make a damaged blob whole again; one repair of a blob at a time.

    Nothing is lost where it fails: what could be brought stays, and the rest is brought the next time.

    Raises:
        NotFound: there is no such fill, or nobody has what is missing.
        NodeError: it can't be brought, or written.
    """
    fill = await asyncio.to_thread(open_fill, hands.layout, digest)
    fill.close()
    if not fill.state.certain:
        await _replace(hands, fill)
        return
    for _ in range(_ROUNDS):
        if not await asyncio.to_thread(_has_its_size, hands.layout, fill):
            await hands.change(lambda store: damage.trim(store, digest))
        for index in list(fill.have.missing()):
            fill = await _bring(hands, fill, fill.manifest.chunk(index))
            await hands.breathe()
        whole, fault = await _run(hands, hands.layout.fill(digest) / "data", whole_digest)
        if whole == digest.raw:
            inode = fill.inode
            await hands.change(lambda store, inode=inode: damage.promote(store, digest, inode))  # type: ignore[misc]
            hands.withheld.withhold(digest, fill.inode, ())
            _LOG.info("%s is whole again", digest)
            return
        _LOG.warning("%s isn't whole yet, though no chunk is known to be bad: %s", digest, fault or "its SHA-256")
        fill = await _look_for_more(hands, fill)
        if next(fill.have.missing(), None) is None:
            state = replace(fill.state, served=False)
            await hands.change(lambda store, state=state: damage.clear(store, digest, (), state=state))  # type: ignore[misc]
            hands.withheld.withhold(digest, fill.inode, [(0, fill.size)])
            raise VerificationFailed("its manifest calls each chunk right, and its SHA-256 is wrong")
    raise Temporary("chunks go on being bad, as fast as they are repaired: the disk?")


async def _bring(hands: Hands, fill: OpenFill, chunk: Chunk) -> OpenFill:
    """Have one chunk be right, and take it for good."""
    digest = fill.digest
    if await asyncio.to_thread(_is_right, hands.layout, fill, chunk):
        # a disk that only couldn't be read for a while, or a crash between a chunk and its bit
        fill = await hands.change(lambda store: damage.admit(store, digest, [chunk.index]))
        hands.withheld.withhold(digest, fill.inode, fill.missing())
        hands.repaired()
        return fill
    data = await hands.source.chunk(digest, chunk, fill.size)
    # on the store's thread: nobody ends this fill meanwhile, since its blob was stored anew
    try:
        fill = await hands.change(lambda store: damage.put(store, digest, chunk.index, data))
    except OSError as error:
        raise Temporary(f"the disk doesn't take chunk {chunk.index}: {error.strerror}") from error
    if not await asyncio.to_thread(_is_right, hands.layout, fill, chunk):
        await hands.change(lambda store: damage.clear(store, digest, [chunk.index]))
        raise Temporary(f"the disk doesn't keep chunk {chunk.index}: it reads back as something else")
    hands.withheld.withhold(digest, fill.inode, fill.missing())
    hands.repaired()
    return fill


async def _look_for_more(hands: Hands, fill: OpenFill) -> OpenFill:
    """Find the chunks that are bad by their SHA-256, and clear their bits."""

    def look(file: DirectFile) -> Generator[Step, None, list[int]]:
        return bad_chunks(file, fill.manifest)

    bad = await _run(hands, hands.layout.fill(fill.digest) / "data", look)
    if bad:
        offsets, lengths = fill.manifest.offsets, fill.manifest.lengths
        hands.withheld.also_withhold(fill.digest, fill.inode, [(offsets[n], offsets[n] + lengths[n]) for n in bad])
        await hands.change(lambda store: damage.clear(store, fill.digest, bad))
    fill = await asyncio.to_thread(open_fill, hands.layout, fill.digest)
    fill.close()
    return fill


async def _replace(hands: Hands, fill: OpenFill) -> None:
    """Bring all of a small blob, as another file: a manifest is made again from its blob, where that is whole."""
    digest = fill.digest
    data = None
    if fill.state.described is not None:
        described = Digest.parse(fill.state.described)
        data = await asyncio.to_thread(_remade, hands.layout, described, digest)
    if data is None:
        data = await hands.source.whole(digest, chunks.MAX_MANIFEST_BYTES)
    bytes_ = data
    await hands.change(lambda store: damage.replace_blob(store, digest, bytes_))
    hands.repaired()
    _LOG.info("%s is whole again", digest)


def _remade(layout: Layout, blob: Digest, wanted: Digest) -> bytes | None:
    """The bytes of a blob's manifest, made from the blob; None where that can't be done, or gives another. Blocks."""
    try:
        with layout.blob(blob).open("rb") as file:
            fd = file.fileno()
            size = file.seek(0, 2)
            chunker, lengths = chunks.cut(read_at(fd), size)
            also = None if chunker == chunks.FIXED_1 else chunks.fixed_lengths(size)
            hashes = hash_file(fd, size, lengths, also=also)
    except (OSError, NodeError):
        return None
    if hashes.whole != blob:
        return None
    made: list[ChunkManifest] = [build(hashes, size, chunker, lengths)]
    if also is not None and hashes.also is not None:
        sha256, xxh3 = hashes.also
        made.append(chunks.ChunkManifest(blob, size, chunks.FIXED_1, tuple(also), sha256, xxh3))
    return next((data for one in made if hashlib.sha256(data := one.encode()).digest() == wanted.raw), None)


async def _run(hands: Hands, path: Path, work: Callable[[DirectFile], Generator[Step, None, _Result]]) -> _Result:
    """Run a generator that reads a file, a step at a time, in threads."""
    file = await asyncio.to_thread(DirectFile, path)
    steps = work(file)
    try:
        while True:
            step, end = await advance(steps)
            if step is None:
                return end[0]
            await hands.breathe()
    finally:
        file.close()


async def advance(steps: Generator[Step, None, _Result]) -> tuple[Step | None, tuple[_Result, ...]]:
    """One step of a generator, in a thread: what it did, or None and what it says at its end.

    Cancelled, it waits for the step's end: the file is still being read.
    """

    def take() -> tuple[Step | None, tuple[_Result, ...]]:
        try:
            return next(steps), ()
        except StopIteration as end:
            return None, (end.value,)

    return await in_thread(take)


async def in_thread(work: Callable[[], _Result]) -> _Result:
    """Do something in a thread; cancelled, it waits for its end."""
    doing = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.wait([doing])
        raise


def _is_right(layout: Layout, fill: OpenFill, chunk: Chunk) -> bool:
    """Whether the disk gives a chunk back as it was written. Blocks."""
    try:
        with DirectFile(layout.fill(fill.digest) / "data") as file, file.read(chunk.offset, chunk.length) as view:
            return hashlib.sha256(view).digest() == chunk.sha256.raw
    except OSError:
        return False


def _has_its_size(layout: Layout, fill: OpenFill) -> bool:
    return (layout.fill(fill.digest) / "data").stat().st_size <= fill.size
