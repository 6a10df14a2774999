"""The offline check of a whole data directory: every byte of every blob, every pin, every leftover.

Checking needs only the lock; with `repair` the directory is right afterwards: bad blobs lie in `quarantine/` with the
reason, lost manifests are made again, fills and leftovers that nothing can continue are gone. A blob that a scrub found
damaged stays a fill: a running node repairs it from others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aibrother_node.content import chunks
from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput, NotFound
from aibrother_node.store.fills import open_fill
from aibrother_node.store.hashing import hash_file
from aibrother_node.store.scrubbing import damage
from aibrother_node.store.scrubbing.check import bad_chunks, drain, whole_digest
from aibrother_node.store.scrubbing.direct import DirectFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from aibrother_node.store.blobs import BlobStore
    from aibrother_node.store.disk import Disk
    from aibrother_node.store.fills import OpenFill

_NAMED_CHUNKS: Final = 5  # of a bad blob, this many bad chunks are named; the rest are counted


@dataclass(slots=True)
class Report:
    """What a check found, and did.

    Attributes:
        blobs, bytes: how much was read and hashed.
        bad: of each damaged blob its digest and what is wrong.
        strangers: files under `blobs/` that are no blobs.
        without_manifest: blobs whose manifest is missing.
        dangling_pins: pins of blobs that are not here.
        stale: fills and leftovers that nothing continues.
        damaged: blobs of which some chunks are known to be bad, kept as fills until they are repaired, and what is bad.
        repaired: whether all of this has been put right.
    """

    blobs: int = 0
    bytes: int = 0
    bad: list[tuple[Digest, str]] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    without_manifest: list[Digest] = field(default_factory=list)
    dangling_pins: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    damaged: list[tuple[Digest, str]] = field(default_factory=list)
    repaired: bool = False

    @property
    def sound(self) -> bool:
        """Nothing is wrong with the content; a leftover alone is no fault."""
        return not (self.bad or self.strangers or self.without_manifest or self.damaged)


def verify_store(
    store: BlobStore, disk: Disk, *, repair: bool, progress: Callable[[Digest, int], None] | None = None
) -> Report:
    """Read and hash everything.

    Args:
        store: open for writing.
        disk: the file system to repair with.
        repair: put right what is wrong.
        progress: called with the blob and the bytes read of it since the last call.
    """
    report = Report(repaired=repair)
    for digest in sorted(store.digests()):
        fault = _check_blob(store, digest, report, progress)
        if fault is not None:
            report.bad.append((digest, fault))
            if repair:
                store.withdraw(digest, fault)
    _check_strangers(store, disk, report, repair=repair)
    if repair:
        store.reconcile()
    bad = {digest for digest, _ in report.bad}
    report.without_manifest = [digest for digest in store.without_manifest() if digest not in bad]
    if repair:
        for digest in report.without_manifest:
            store.rebuild_manifest(digest)
    _check_pins(store, disk, report, repair=repair)
    _check_fills(store, disk, report, repair=repair)
    return report


def _check_blob(
    store: BlobStore, digest: Digest, report: Report, progress: Callable[[Digest, int], None] | None
) -> str | None:
    """What is wrong with a blob, or None."""
    blob = store.open_blob(digest)
    try:
        manifest = _manifest(store, digest)
        if manifest is not None and manifest.size == blob.size:
            lengths = list(manifest.lengths)
        else:
            manifest, lengths = None, chunks.fixed_lengths(blob.size)
        hashes = hash_file(
            blob.fd, blob.size, lengths, progress=None if progress is None else lambda n: progress(digest, n)
        )
    except (OSError, InvalidInput) as error:
        return f"can't be read: {error}"
    finally:
        blob.close()
    report.blobs += 1
    report.bytes += blob.size
    if hashes.whole == digest:
        return None
    fault = f"its {blob.size} bytes have the digest {hashes.whole}"
    if manifest is None:
        return fault
    bad = [c for c in manifest if hashes.sha256[32 * c.index : 32 * c.index + 32] != c.sha256.raw]
    named = ", ".join(f"{c.index} (bytes {c.offset} to {c.offset + c.length - 1})" for c in bad[:_NAMED_CHUNKS])
    return f"{fault}; bad chunks: {named}" + (
        f" and {len(bad) - _NAMED_CHUNKS} more" if len(bad) > _NAMED_CHUNKS else ""
    )


def _manifest(store: BlobStore, digest: Digest) -> chunks.ChunkManifest | None:
    for row in store.manifests_of(digest):
        try:
            return store.read_manifest(row.manifest, store.manifest_ceiling)
        except (NotFound, InvalidInput):
            continue
    return None


def _check_strangers(store: BlobStore, disk: Disk, report: Report, *, repair: bool) -> None:
    for path in sorted(store.layout.blobs.iterdir()):
        try:
            Digest.from_hex(path.name)
            known = path.is_file() and not path.is_symlink()
        except InvalidInput:
            known = False
        if not known:
            report.strangers.append(path.name)
            if repair:
                disk.rename(path, store.layout.quarantine / f"stranger-{path.name}"[:255])
    if repair and report.strangers:
        disk.sync_folder(store.layout.quarantine)
        disk.sync_folder(store.layout.blobs)


def _check_pins(store: BlobStore, disk: Disk, report: Report, *, repair: bool) -> None:
    """A pin without its blob stays: it says what the operator wants here. A file that is no pin goes."""
    for path in sorted(store.layout.pins.iterdir()):
        try:
            digest = Digest.from_hex(path.name)
            if not store.layout.blob(digest).exists() and not (store.layout.fill(digest) / "data").exists():
                report.dangling_pins.append(path.name)
        except InvalidInput:
            report.stale.append(f"pins/{path.name}")
            if repair:
                disk.unlink(path)


def _check_fills(store: BlobStore, disk: Disk, report: Report, *, repair: bool) -> None:
    """A fill whose blob is whole by now, that can't be used, or whose name is none, has nothing to go on with."""
    for path in sorted(store.layout.fills.iterdir()):
        try:
            digest = Digest.from_hex(path.name)
            fill = None if store.layout.blob(digest).exists() else open_fill(store.layout, digest)
        except (InvalidInput, NotFound):
            fill = None
        if fill is None:
            report.stale.append(f"fills/{path.name}")
            if repair:
                disk.remove_tree(path)
            continue
        fill.close()
        if fill.state.why == "damaged":
            _check_fill(store, fill, report, repair=repair)


def _check_fill(store: BlobStore, fill: OpenFill, report: Report, *, repair: bool) -> None:
    """A damaged blob: its good chunks have to be what they were; where none is bad any more, it is a blob again."""
    digest = fill.digest
    with DirectFile(store.layout.fill(digest) / "data") as file:
        bad = drain(bad_chunks(file, fill.manifest))
        whole, _ = (b"", "") if bad else drain(whole_digest(file))
    if repair:
        damage.clear(store, digest, bad)
        damage.admit(store, digest, set(range(len(fill.manifest))) - set(bad))
    if whole == digest.raw:
        if repair:
            damage.promote(store, digest, fill.inode)
        report.damaged.append((digest, "all of its chunks are good"))
        return
    told = ", ".join(map(str, bad[:_NAMED_CHUNKS])) + (" and more" if len(bad) > _NAMED_CHUNKS else "")
    report.damaged.append((digest, f"{len(bad)} of {len(fill.manifest)} chunks have to be repaired: {told}"))
