"""The end of an upload: all of it has come, is hashed, and becomes a blob that is leased to whoever publishes it.

Hashing a large blob takes longer than a connection should be kept waiting, so it goes on by itself: who asks waits for
a while, is told that it isn't done, and asks again.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Final

from aibrother_node.content import chunks
from aibrother_node.errors import NotFound, Temporary, VerificationFailed
from aibrother_node.store.blobs import Stored
from aibrother_node.store.hashing import hash_file
from aibrother_node.store.incoming import Cut, Request, announce, build, read_at

if TYPE_CHECKING:
    from aibrother_node.content.chunks import ChunkManifest
    from aibrother_node.content.digest import Digest
    from aibrother_node.store.blobs import BlobStore
    from aibrother_node.store.disk import Disk
    from aibrother_node.store.uploads import Uploads
    from aibrother_node.web.control.local import StoreThread

_MOST_KNOWN: Final = 256  # results that nobody asked for yet


def lease_holder(digest: Digest) -> str:
    """Who holds the lease on a blob that was uploaded, and on its manifests, until it is published."""
    return f"upload {digest}"


class Finishing:
    """Makes blobs of uploads that have come, each in a task of its own.

    Args:
        thread: the store.
        uploads: where they are.
        disk: the file system.
    """

    def __init__(self, thread: StoreThread, uploads: Uploads, disk: Disk) -> None:
        self._thread = thread
        self._uploads = uploads
        self._disk = disk
        self._tasks: dict[Digest, asyncio.Task[Stored]] = {}
        self._stop = threading.Event()

    def running(self, digest: Digest) -> bool:
        """Whether a blob is being made, or has just been and nobody was told."""
        return digest in self._tasks

    async def finish(self, digest: Digest, total: int, patience: float) -> Stored | None:
        """Begin to make a blob, or go on to wait for it.

        Args:
            digest: of an upload that is complete, or of a blob that is here and lacks a manifest.
            total: its bytes.
            patience: seconds to wait.

        Returns:
            The blob; None where it isn't done yet.

        Raises:
            VerificationFailed: what has come is something else; nothing of it was kept.
            NodeError: it could not be made now.
        """
        task = self._tasks.get(digest)
        if task is None:
            task = self._tasks[digest] = asyncio.create_task(self._make(digest, total), name=f"finish {digest}")
            self._forget_old()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await asyncio.wait([task])
        if not task.done():
            return None
        self._tasks.pop(digest, None)
        return task.result()

    async def whole(self, digest: Digest) -> tuple[int, bool] | None:
        """Look whether a blob is here already, and lease it then.

        Returns:
            Its size, and whether all that publishing needs is here too: its manifests. None where it isn't here.
        """
        chunkers = await asyncio.to_thread(_chunkers, self._thread.store, digest)
        if chunkers is None:
            return None
        return await self._thread.change(lambda store: _leased(store, digest, chunkers))

    async def close(self) -> None:
        """Stop; what isn't done is done when it is asked for again."""
        self._stop.set()
        tasks = list(self._tasks.values())
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()

    async def _make(self, digest: Digest, total: int) -> Stored:
        store = self._thread.store
        if await asyncio.to_thread(store.layout.blob(digest).exists):
            async with self._thread.hashing:
                manifests = await asyncio.to_thread(self._manifests_again, store, digest)
            return await self._thread.change(lambda store: _put_manifests(store, digest, manifests))
        upload = await asyncio.to_thread(self._uploads.open, digest, total, time.time())
        with upload:
            if not upload.complete:
                raise Temporary(f"{upload.offset} of {total} bytes have come", retry_after=1)
            asked = Request(digest, total, digest, pin=None, pieces=digest, lease=lease_holder(digest))
            await asyncio.to_thread(upload.checkpoint)
            try:
                async with self._thread.hashing:
                    request = await asyncio.to_thread(store.verify_staged, upload.staged, asked, self._go_on)
            except VerificationFailed:
                await asyncio.to_thread(self._uploads.discard, digest)
                raise
            await asyncio.to_thread(announce, upload.staged, self._disk, request)
            return await self._thread.change(lambda store: store.take_in(upload.staged, request, verify=False))

    def _manifests_again(self, store: BlobStore, digest: Digest) -> list[ChunkManifest]:
        """Make both manifests of a blob that came by another way, which may have needed but one."""
        blob = store.open_blob(digest)
        try:
            cut = Cut.of(blob.fd, blob.size, pieces=True)
            hashes = hash_file(blob.fd, blob.size, cut.lengths, also=cut.also, progress=self._go_on)
        finally:
            blob.close()
        if hashes.whole != digest:
            raise Temporary(f"what is stored as {digest} is damaged: scrub the node, then try again")
        made = [build(hashes, cut.size, cut.chunker, cut.lengths)]
        if cut.also is not None and hashes.also is not None:
            made.append(chunks.ChunkManifest(digest, cut.size, chunks.FIXED_1, tuple(cut.also), *hashes.also))
        return made

    def _go_on(self, _: int) -> None:
        if self._stop.is_set():
            raise Temporary("the node ends", retry_after=1)

    def _forget_old(self) -> None:
        """Bound what nobody asks for."""
        done = [digest for digest, task in self._tasks.items() if task.done()]
        for digest in done[: max(0, len(self._tasks) - _MOST_KNOWN)]:
            _forget(self._tasks.pop(digest))


def _forget(task: asyncio.Task[Stored]) -> None:
    if not task.cancelled():
        task.exception()


def _chunkers(store: BlobStore, digest: Digest) -> set[str] | None:
    """Of which kinds of manifests publishing needs one; None where the blob isn't here. For any thread: it reads."""
    try:
        blob = store.open_blob(digest)
    except NotFound:
        return None
    try:
        return {chunks.FIXED_1, chunks.cut(read_at(blob.fd), blob.size)[0]}
    finally:
        blob.close()


def _leased(store: BlobStore, digest: Digest, chunkers: set[str]) -> tuple[int, bool] | None:
    """On the store's thread, so that collection comes before or after."""
    try:
        size = store.layout.blob(digest).stat().st_size
    except FileNotFoundError:
        return None
    rows = store.manifests_of(digest)
    store.lease([digest, *(row.manifest for row in rows)], lease_holder(digest))
    return size, chunkers <= {row.chunker for row in rows if store.layout.blob(row.manifest).exists()}


def _put_manifests(store: BlobStore, digest: Digest, manifests: list[ChunkManifest]) -> Stored:
    named = [manifest.digest() for manifest in manifests]
    store.lease([digest, *named], lease_holder(digest))
    for manifest in manifests:
        if not store.layout.blob(manifest.digest()).exists():
            store.put_manifest(manifest)
    blob = store.open_blob(digest)
    blob.close()
    return Stored(digest, blob.size, named[0], named[-1], was_there=True)
