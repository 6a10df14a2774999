"""The blob store: whole, verified, read-only files named by their SHA-256.

Invariant 1: nothing is ever visible under `blobs/` whose SHA-256 is not its name and that is not on stable storage.
Invariant 2: the file system is the truth; the index can be lost.

The order in which one blob comes in, each step durable before the next: data and manifest aside (`incoming.py`) → its
manifest's name → its pin → its own name → the index. So a blob that can be seen has its manifest, and whatever an
interruption leaves is either complete, and taken in at the next start, or debris that nobody sees.

`BlobStore` is for the one process that holds the directory's lock, and for one thread of it at a time.
`BlobReader` is for everybody else; it needs no lock, because what it can see never changes.
"""

from __future__ import annotations

import json
import os
import stat
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Self

from aibrother_node.content import chunks
from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput, NotFound, VerificationFailed
from aibrother_node.store.disk import Disk
from aibrother_node.store.hashing import hash_file
from aibrother_node.store.incoming import UPLOAD_PREFIX, Cut, Request, Staged, build, read_at, write_manifests
from aibrother_node.store.index import Index, IndexReader, ManifestRow
from aibrother_node.store.leases import LONGEST, Leases
from aibrother_node.store.open_blob import OpenBlob

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

    from aibrother_node.store.index import TargetRow, YankedRow
    from aibrother_node.store.layout import DirectoryLock, Layout

_PREFIX: Final = chunks.ChunkManifest(Digest(bytes(32)), 0, "fixed/1", (), b"", b"").encode()[:11]
_PIN_CEILING: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Stored:
    """A blob that the store has taken in.

    Attributes:
        digest, size: what it is.
        manifest: the digest of its chunk manifest.
        pieces: the digest of its `fixed/1` manifest, where one was asked for.
        was_there: its content had been stored before.
    """

    digest: Digest
    size: int
    manifest: Digest
    pieces: Digest | None
    was_there: bool


class BlobReader:
    """Looks at whole blobs; any number of processes and threads may."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._index = IndexReader(layout.index)

    def open_blob(self, digest: Digest) -> OpenBlob:
        """Open a blob.

        Raises:
            NotFound: it is not here.
        """
        try:
            fd = os.open(self.layout.blob(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"{digest} is not here") from None
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            raise NotFound(f"{digest} is not here")
        return OpenBlob(digest, fd, found.st_size, found.st_ino)

    def read_manifest(self, digest: Digest, ceiling: int) -> chunks.ChunkManifest:
        """A stored manifest, checked to be one and to be what its digest says; `encode` gives its bytes again.

        Args:
            digest: the manifest's own.
            ceiling: the size in bytes above which a blob is taken for something else.

        Raises:
            NotFound: there is no manifest of that digest here.
        """
        blob = self.open_blob(digest)
        try:
            if blob.size > ceiling:
                raise NotFound(f"{digest} is no chunk manifest")
            data = read_at(blob.fd)(0, blob.size)
        finally:
            blob.close()
        try:
            manifest = chunks.ChunkManifest.decode(data)
        except InvalidInput:
            raise NotFound(f"{digest} is no chunk manifest") from None
        if manifest.digest() != digest:
            raise NotFound(f"{digest} is damaged")
        return manifest

    def manifests_of(self, blob: Digest) -> list[ManifestRow]:
        """The stored manifests of a blob, best first."""
        return self._index.manifests_of(blob)

    def digests(self) -> Iterator[Digest]:
        """All whole blobs, from the file system, in no order."""
        with os.scandir(self.layout.blobs) as entries:
            for entry in entries:
                try:
                    digest = Digest.from_hex(entry.name)
                except InvalidInput:
                    continue
                if entry.is_file(follow_symlinks=False):
                    yield digest

    def totals(self) -> tuple[int, int]:
        """How many blobs there are, and their bytes in all; from the index, or where it is missing from disk."""
        known = self._index.totals()
        if known is not None:
            return known
        sizes = [self.layout.blob(digest).stat().st_size for digest in self.digests()]
        return len(sizes), sum(sizes)

    def pin_reason(self, digest: Digest) -> str | None:
        """Why a blob is pinned, or None where it is not."""
        try:
            with self.layout.pin(digest).open("rb") as file:
                reason = json.loads(file.read(_PIN_CEILING))["reason"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError):
            return "unknown"  # a damaged pin still protects
        return str(reason)


class BlobStore(BlobReader):
    """The store as its one writer uses it.

    Attributes:
        leases: what is about to be named, and is not collected until then.
        fill_ended: called with a blob and the inode of its fill's data after the blob became whole as another file.
    """

    def __init__(self, layout: Layout, disk: Disk, index: Index, leases: Leases, manifest_ceiling: int) -> None:
        super().__init__(layout)
        self._disk = disk
        self._rows = index
        self.leases = leases
        self.manifest_ceiling = manifest_ceiling
        self.fill_ended: Callable[[Digest, int], None] | None = None

    @classmethod
    def open(cls, layout: Layout, lock: DirectoryLock, *, manifest_ceiling: int, disk: Disk | None = None) -> Self:
        """Open the store for writing; `take_in_all` then finishes what an interruption left under `incoming/`.

        Args:
            layout: where it lies.
            lock: the right to change it, held as long as the store is used.
            manifest_ceiling: size in bytes above which a blob isn't read as a manifest.
            disk: the file system; tests pass one that records.

        Raises:
            InvalidInput, NotFound: no data directory, or one of another layout version.
        """
        if lock.root != layout.root:
            raise InvalidInput(f"the lock is on {lock.root}, not {layout.root}")
        disk = disk or Disk()
        layout.check_version()
        index = Index.open(layout.index, disk)  # first: it puts aside a file that can't be used
        store = cls(layout, disk, index, Leases.open(layout.index), manifest_ceiling)
        # a crash may have come between a rename and the folder's fsync: what we show from now on is durable
        disk.sync_folder(layout.blobs)
        disk.sync_folder(layout.pins)
        store.end_fills()
        store.reconcile()
        return store

    def close(self) -> None:
        """Let go of the index; the lock is the caller's."""
        self.leases.close()
        self._rows.close()

    def take_in(self, staged: Staged, request: Request, *, verify: bool) -> Stored:
        """Make staged content visible, durably, and remove its folder.

        Args:
            staged: the folder, held by the caller or known to be complete.
            request: what it asks for.
            verify: hash it again: always, but where this very process has just hashed it.

        Raises:
            VerificationFailed: `data` is not what the request says; it lies in quarantine now.
        """
        if verify:
            try:
                request = self.verify_staged(staged, request)
            except VerificationFailed as error:
                self.discard(staged, str(error))
                raise
        was_there = self.layout.blob(request.digest).exists()
        manifests = [request.manifest]
        if request.pieces is not None and request.pieces != request.manifest:
            manifests.append(request.pieces)
        if request.lease is not None:
            self.lease([request.digest, *manifests], request.lease)  # as the pin below: before there is anything
        self._publish(staged.manifest, request.manifest)
        if len(manifests) > 1:
            self._publish(staged.pieces, manifests[1])
        if request.pin is not None:
            self._write_pin(request.digest, request.pin)  # before its blob: at no instant is it free to be collected
        self._publish(staged.data, request.digest)
        rows = [
            ManifestRow(request.digest, digest, self.read_manifest(digest, self.manifest_ceiling).chunker)
            for digest in manifests
        ]
        self._enter([*manifests, request.digest], rows)
        self._disk.remove_tree(staged.folder)
        return Stored(request.digest, request.size, request.manifest, request.pieces, was_there)

    def verify_staged(self, staged: Staged, request: Request, progress: Callable[[int], None] | None = None) -> Request:
        """Hash staged content and compare it with its request. Any thread may: the index isn't touched.

        The manifest is made again on the way, so it is right whatever an interruption left of it.

        Args:
            staged, request: as for `take_in`.
            progress: called with the bytes read since its last call; what it raises ends the hashing.

        Returns:
            The request, with the digest of the manifest that now stands beside the data or in the store.

        Raises:
            VerificationFailed: `data` is not what the request says.
        """
        with staged.data.open("rb") as file:
            fd = file.fileno()
            size = os.fstat(fd).st_size
            cut = Cut.of(fd, size, pieces=request.pieces is not None)
            hashes = hash_file(fd, size, cut.lengths, also=cut.also, progress=progress)
            os.fsync(fd)  # its writer says so too, but invariant 1 is ours to keep
        if (hashes.whole, size) != (request.digest, request.size):
            raise VerificationFailed(
                f"{staged.id} holds {size} bytes of {hashes.whole}, not {request.size} of {request.digest}",
                expected=str(request.digest),
                actual=str(hashes.whole),
            )
        manifest, pieces = write_manifests(staged, self._disk, cut, hashes)
        return replace(request, manifest=manifest, pieces=pieces)

    def discard(self, staged: Staged, reason: str) -> None:
        """Take staged content that is not what it says out of the way; it may be the only copy of somebody's file."""
        self._quarantine(staged.data, f"incoming-{staged.id}", reason)
        self._disk.remove_tree(staged.folder)

    def take_in_all(self) -> list[Stored]:
        """Take in what is complete under `incoming/`, remove what is debris, leave what somebody is still writing."""
        stored = []
        for folder in sorted(self.layout.incoming.iterdir()):
            if not folder.is_dir() or folder.is_symlink():
                self._disk.unlink(folder)
                continue
            staged = Staged.try_hold(folder)
            if staged is None:
                continue
            with staged:
                if folder.name.startswith(UPLOAD_PREFIX) and not staged.request_path.exists():
                    continue  # more of it may come: `Uploads` knows when not
                try:
                    request = staged.request()
                    if request is not None and staged.data.exists():
                        stored.append(self.take_in(staged, request, verify=True))
                        continue
                except (InvalidInput, VerificationFailed):
                    pass
                self._disk.remove_tree(folder)
        return stored

    def lease(self, digests: Collection[Digest], holder: str) -> None:
        """Keep blobs, which need not be here, for as long as a lease lasts, or until it is released.

        Raises:
            as `Leases.take`.
        """
        now = time.time()
        self.leases.take(digests, holder, now + LONGEST, now=now)

    def pin(self, digest: Digest, reason: str) -> None:
        """Keep a blob whatever the policy says.

        Raises:
            NotFound: it is not here.
        """
        if not self.layout.blob(digest).exists() and not (self.layout.fill(digest) / "data").exists():
            raise NotFound(f"{digest} is not here")
        self._write_pin(digest, reason)

    def unpin(self, digest: Digest) -> None:
        """Take a pin away.

        Raises:
            NotFound: it is not pinned.
        """
        if not self.layout.pin(digest).exists():
            raise NotFound(f"{digest} is not pinned")
        self._disk.unlink(self.layout.pin(digest))
        self._disk.sync_folder(self.layout.pins)

    @property
    def rows(self) -> Index:
        """The index, on this store's thread."""
        return self._rows

    @property
    def disk(self) -> Disk:
        """How the file system is changed."""
        return self._disk

    def end_fills(self) -> None:
        """Remove what an interruption left under `fills/`: folders without data, and those of blobs that are whole."""
        for folder in self.layout.fills.iterdir():
            try:
                digest = Digest.from_hex(folder.name)
            except InvalidInput:
                continue  # not ours: `verify` says so
            if self.layout.blob(digest).exists() or not (folder / "data").exists():
                self._disk.remove_tree(folder)

    def left(self, digest: Digest) -> None:
        """A blob isn't whole any more: the index forgets it."""
        self._rows.remove_blobs([digest])

    def disown(self, manifest: Digest) -> None:
        """A manifest lies about its blob: it is a blob like any other from now on, as far as the index goes."""
        self._rows.disown(manifest)

    def entered(self, digest: Digest) -> None:
        """A blob is whole, and has its name: the index is told."""
        manifest = self._as_manifest(digest)
        rows = [] if manifest is None else [ManifestRow(manifest.blob, digest, manifest.chunker)]
        self._enter([digest], rows)

    def reconcile(self) -> None:
        """Make the index say what the file system says."""
        there = {digest.raw for digest in self.digests()}
        known = self._rows.digests()
        self._rows.remove_blobs(Digest(raw) for raw in known - there)
        new = [Digest(raw) for raw in there - known]
        rows = []
        for digest in new:
            manifest = self._as_manifest(digest)
            if manifest is not None:
                rows.append(ManifestRow(manifest.blob, digest, manifest.chunker))
        self._enter(new, rows)

    def catalog_state(self) -> str | None:
        """Which catalog the index holds; None for none."""
        return self._rows.catalog_state()

    def put_catalog(
        self,
        state: str,
        targets: Iterable[TargetRow],
        yanked: Iterable[YankedRow],
        *,
        removed: Iterable[str] = (),
        whole: bool,
    ) -> None:
        """Enter a catalog into the index, as `Index.put_catalog`."""
        self._rows.put_catalog(state, targets, yanked, removed=removed, whole=whole)

    def without_manifest(self) -> list[Digest]:
        """Blobs whose manifest was lost."""
        return list(self._rows.without_manifest())

    def rebuild_manifest(self, digest: Digest, progress: Callable[[int], None] | None = None) -> Digest:
        """Read a blob again and store its manifest.

        Returns:
            The manifest's digest.

        Raises:
            VerificationFailed: the blob is not what its name says; it is left alone.
        """
        manifest = self.read_again(digest, progress)
        self.put_manifest(manifest)
        return manifest.digest()

    def read_again(self, digest: Digest, progress: Callable[[int], None] | None = None) -> chunks.ChunkManifest:
        """Make a blob's manifest from its bytes and store nothing; any thread may.

        Raises:
            VerificationFailed: the blob is not what its name says; it is left alone.
        """
        blob = self.open_blob(digest)
        try:
            chunker, lengths = chunks.cut(read_at(blob.fd), blob.size)
            hashes = hash_file(blob.fd, blob.size, lengths, progress=progress)
        finally:
            blob.close()
        if hashes.whole != digest:
            raise VerificationFailed(f"{digest} is damaged", expected=str(digest), actual=str(hashes.whole))
        return build(hashes, blob.size, chunker, lengths)

    def put_manifest(self, manifest: chunks.ChunkManifest) -> None:
        """Store the manifest of a blob that is here."""
        self._disk.write_file(
            self.layout.blob(manifest.digest()),
            manifest.encode(),
            aside=self.layout.incoming / "manifest.new",
            mode=0o444,
        )
        self._end_fill(manifest.digest())
        self._enter([manifest.digest()], [ManifestRow(manifest.blob, manifest.digest(), manifest.chunker)])

    def put_whole(self, digest: Digest, data: bytes) -> None:
        """Store a small blob from memory; whoever calls has made sure that it is what its name says."""
        path = self.layout.blob(digest)
        self._disk.write_file(path, data, aside=self.layout.incoming / "blob.new", mode=0o444)
        self._end_fill(digest)
        self.entered(digest)

    def withdraw(self, digest: Digest, reason: str) -> None:
        """Take a bad blob out of sight and keep it, with the reason, in `quarantine/`."""
        self._quarantine(self.layout.blob(digest), digest.hex, reason)
        self._disk.sync_folder(self.layout.blobs)
        self._rows.remove_blobs([digest])

    def _quarantine(self, path: Path, name: str, reason: str) -> None:
        self._disk.write_file(
            self.layout.quarantine / f"{name}.json",
            json.dumps({"name": name, "reason": reason}).encode() + b"\n",
            aside=self.layout.incoming / "reason.new",
        )
        self._disk.rename(path, self.layout.quarantine / name)
        self._disk.sync_folder(self.layout.quarantine)

    def _publish(self, path: Path, digest: Digest) -> None:
        """Give a durable file its final name; one that has it already stays, with its readers."""
        target = self.layout.blob(digest)
        if target.exists():
            return
        self._disk.set_mode(path, 0o444)
        self._disk.rename(path, target)
        self._disk.sync_folder(self.layout.blobs)
        self._end_fill(digest)

    def _end_fill(self, digest: Digest) -> None:
        """Remove the fill of a blob that is whole now, as another file; its old one may still be read."""
        data = self.layout.fill(digest) / "data"
        if data.parent.exists():
            inode = data.stat().st_ino if data.exists() else 0
            self._disk.remove_tree(data.parent)
            if inode and self.fill_ended is not None:
                self.fill_ended(digest, inode)

    def _write_pin(self, digest: Digest, reason: str) -> None:
        self._disk.write_file(
            self.layout.pin(digest),
            json.dumps({"reason": reason}).encode() + b"\n",
            aside=self.layout.incoming / "pin.new",
        )

    def _as_manifest(self, digest: Digest) -> chunks.ChunkManifest | None:
        with self.layout.blob(digest).open("rb") as file:
            if file.read(len(_PREFIX)) != _PREFIX:
                return None
        try:
            return self.read_manifest(digest, self.manifest_ceiling)
        except NotFound:
            return None

    def _enter(self, digests: list[Digest], manifests: list[ManifestRow]) -> None:
        found = [(digest, self.layout.blob(digest).stat()) for digest in digests]
        self._rows.put_blobs((digest, stat_.st_size, stat_.st_mtime) for digest, stat_ in found)
        self._rows.put_manifests(manifests)
