"""From a whole blob to a fill and back: what is done on disk about a bad chunk, each step durable before the next.

Demotion: manifest, bits and state in the fill's folder → the file itself, renamed from `blobs/` to `data`. So at each
instant the blob is either whole, as far as anybody knows, or a fill that says which of its chunks are good.

Repair writes into the same file. Another file would have to be copied (50 GB for one chunk), and would leave readers of
the old one with the bad bytes for as long as they hold it. That bytes change under a reader is harmless here: each goes
from what it was to what the blob's name says it is, and until that is durable nobody is sent any of them (withheld.py).
That also holds for a worker that is stopped in the middle, and for pages that wait in a socket.

Everything here is for the store's one thread, and reads nothing but small files.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aibrother_node.content.chunks import FIXED_1, MAX_CHUNK, ChunkManifest
from aibrother_node.errors import NotFound, VerificationFailed
from aibrother_node.store.fills import FillState, Have, open_fill, put_chunks, write_fill, write_have, write_state

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aibrother_node.content.digest import Digest
    from aibrother_node.store.blobs import BlobStore
    from aibrother_node.store.fills import OpenFill

_XXH3_BYTES: Final = 16


def made_up_manifest(digest: Digest, size: int) -> ChunkManifest | None:
    """A manifest for a small blob without one: its name is the hash of its only chunk. None for a larger blob."""
    if not 0 < size <= MAX_CHUNK:
        return None
    return ChunkManifest(digest, size, FIXED_1, (size,), digest.raw, bytes(_XXH3_BYTES))


def demote(store: BlobStore, manifest: ChunkManifest, bad: Iterable[int], state: FillState) -> None:
    """Make a fill of a whole blob; chunks that are found later are added to it.

    Args:
        store: where it is.
        manifest: of the blob.
        bad: the chunks that are.
        state: why.

    Raises:
        NotFound: the blob is neither whole here nor a fill.
        DiskFull: there is no room for a few small files: the blob stays where it is.
    """
    digest = manifest.blob
    path, folder = store.layout.blob(digest), store.layout.fill(digest)
    if not path.exists():
        clear(store, digest, bad)
        return
    have = Have.full(len(manifest))
    for index in bad:
        have.clear(index)
    write_fill(store.disk, folder, manifest, have, state)
    store.disk.rename(path, folder / "data")
    store.disk.sync_folder(folder)
    store.disk.sync_folder(store.layout.blobs)
    store.left(digest)


def clear(store: BlobStore, digest: Digest, bad: Iterable[int], *, state: FillState | None = None) -> None:
    """Take chunks of a fill for bad.

    Raises:
        NotFound: there is no such fill.
    """
    fill = open_fill(store.layout, digest)
    fill.close()
    before = fill.have.encode()
    for index in bad:
        fill.have.clear(index)
    if fill.have.encode() != before:
        write_have(store.disk, store.layout.fill(digest), fill.have)
    if state is not None and state != fill.state:
        write_state(store.disk, store.layout.fill(digest), state)


def put(store: BlobStore, digest: Digest, index: int, data: bytes) -> OpenFill:
    """Put one verified chunk into a fill, durably.

    Returns:
        The fill as it is then; closed.

    Raises:
        NotFound: there is no such fill any more.
        VerificationFailed: these are not the chunk's bytes.
        DiskFull: there is no room.
    """
    fill = open_fill(store.layout, digest)
    try:
        put_chunks(store.disk, fill, store.layout.fill(digest), [(index, data)])
    finally:
        fill.close()
    return fill


def admit(store: BlobStore, digest: Digest, indices: Iterable[int]) -> OpenFill:
    """Take chunks for good whose bytes were found right on the disk itself.

    Returns:
        The fill as it is then; closed.

    Raises:
        NotFound: there is no such fill any more.
    """
    fill = open_fill(store.layout, digest)
    try:
        os.fsync(fill.fd)  # where a write was interrupted, what was read may not have been there to stay
    finally:
        fill.close()
    before = fill.have.encode()
    for index in indices:
        fill.have.set(index)
    if fill.have.encode() != before:
        write_have(store.disk, store.layout.fill(digest), fill.have)
    return fill


def promote(store: BlobStore, digest: Digest, inode: int) -> None:
    """Give a fill that is complete, and whose whole SHA-256 was found right, its name among the blobs.

    Args:
        store: where it is.
        digest: of the blob.
        inode: of the file that was checked.

    Raises:
        NotFound: that file is not the fill's any more.
    """
    folder = store.layout.fill(digest)
    fill = open_fill(store.layout, digest)
    try:
        if fill.inode != inode or any(True for _ in fill.have.missing()):
            raise NotFound(f"the fill of {digest} is another one now")
        if os.fstat(fill.fd).st_size != fill.size:
            raise VerificationFailed(f"the fill of {digest} has another size than the blob")
    finally:
        fill.close()
    store.disk.set_mode(folder / "data", 0o444)
    store.disk.rename(folder / "data", store.layout.blob(digest))
    store.disk.sync_folder(store.layout.blobs)
    store.disk.sync_folder(folder)
    store.disk.remove_tree(folder)
    store.entered(digest)


def trim(store: BlobStore, digest: Digest) -> None:
    """Cut off what follows the blob's own bytes in a fill's file."""
    fill = open_fill(store.layout, digest)
    try:
        longer = os.fstat(fill.fd).st_size > fill.size
    finally:
        fill.close()
    if longer:
        path = store.layout.fill(digest) / "data"
        store.disk.set_mode(path, 0o600)
        with store.disk.reopen(path) as file:
            file.truncate(fill.size)
            file.fsync()


def replace_blob(store: BlobStore, digest: Digest, data: bytes) -> None:
    """Give a small blob all of its bytes anew, as another file; its fill ends, and is retired.

    Raises:
        VerificationFailed: these are not its bytes.
    """
    if hashlib.sha256(data).digest() != digest.raw:
        raise VerificationFailed(f"not the bytes of {digest}")
    store.put_whole(digest, data)


def not_served(state: FillState) -> FillState:
    """The state of a fill whose manifest turned out not to be the blob's."""
    return replace(state, served=False)
