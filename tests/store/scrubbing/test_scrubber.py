"""Blobs that decay, and what becomes of them: over real files, with others' copies at hand."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from aibrother_node.content.chunks import Chunk, ChunkManifest, chunk_hashes, fixed_lengths
from aibrother_node.content.digest import Digest
from aibrother_node.errors import DiskFull, NotFound
from aibrother_node.store.blobs import BlobStore
from aibrother_node.store.disk import Disk, DiskFile
from aibrother_node.store.fills import open_fill
from aibrother_node.store.layout import DirectoryLock, Layout
from aibrother_node.store.scrubbing.repair import NoSource
from aibrother_node.store.scrubbing.scrubber import Outcome, Scrubber
from aibrother_node.store.verify import verify_store
from aibrother_node.store.withheld import WHOLE, Withheld
from aibrother_node.web.control.local import StoreThread
from store.helpers import CEILING, add, digest_of, new_layout


@dataclass
class Peers:
    """Others that have these blobs; `asked` counts."""

    blobs: dict[Digest, bytes] = field(default_factory=dict)
    asked: int = 0

    def give(self, data: bytes) -> None:
        self.blobs[digest_of(data)] = data

    async def chunk(self, blob: Digest, chunk: Chunk, size: int) -> bytes:
        self.asked += 1
        if blob not in self.blobs:
            raise NotFound("no other node is known to have it")
        assert len(self.blobs[blob]) == size
        return self.blobs[blob][chunk.offset : chunk.offset + chunk.length]

    async def whole(self, blob: Digest, most: int) -> bytes:
        self.asked += 1
        if blob not in self.blobs:
            raise NotFound("no other node is known to have it")
        return self.blobs[blob]


@dataclass
class Counts:
    bytes: int = 0
    chunks: int = 0
    mended: int = 0
    now: int = 0
    ended: float | None = None

    def checked(self, size: int) -> None:
        self.bytes += size

    def bad(self, count: int) -> None:
        self.chunks += count

    def repaired(self) -> None:
        self.mended += 1

    def damaged(self, count: int) -> None:
        self.now = count

    def completed(self, at: float) -> None:
        self.ended = at


@dataclass
class World:
    layout: Layout
    thread: StoreThread
    peers: Peers
    counts: Counts
    scrubber: Scrubber
    table: Withheld

    async def add(self, data: bytes) -> Digest:
        path = self.layout.root.parent / "source"
        path.write_bytes(data)
        return (await self.thread.change(lambda store: add(store, path))).digest

    def decay(self, digest: Digest, *offsets: int) -> None:
        path = self.layout.blob(digest)
        path.chmod(0o600)
        with path.open("r+b") as file:
            for offset in offsets:
                file.seek(offset)
                (byte,) = file.read(1)
                file.seek(offset)
                file.write(bytes([byte ^ 4]))

    async def check(self, digest: Digest) -> Outcome:
        async def at_once(_: int = 0) -> None:
            await asyncio.sleep(0)

        return await self.scrubber.check(digest, pace=at_once, breathe=at_once, checked=lambda _: None)

    def ranges(self, digest: Digest) -> list[tuple[int, int]]:
        """What of the blob's file is withheld."""
        path = self.layout.blob(digest)
        path = path if path.exists() else self.layout.fill(digest) / "data"
        return list(self.table.ranges(digest, path.stat().st_ino))

    async def is_sound(self) -> None:
        report = await self.thread.change(lambda store: verify_store(store, Disk(), repair=False))
        assert report.sound, report
        assert report.stale == []


@asynccontextmanager
async def world(folder: Path, disk: Disk | None = None) -> AsyncIterator[World]:
    layout = Layout(folder / "data") if (folder / "data").exists() else new_layout(folder / "data")
    with DirectoryLock.take(layout.root, 5.0) as lock:
        thread = StoreThread(lambda: BlobStore.open(layout, lock, manifest_ceiling=CEILING, disk=disk))
        await thread.start()
        peers, counts = Peers(), Counts()
        scrubber = Scrubber(layout, thread.change, peers, counts, 86_400.0, CEILING)
        await scrubber.start()
        table = Withheld(layout.withheld)
        try:
            yield World(layout, thread, peers, counts, scrubber, table)
        finally:
            table.close()
            await scrubber.close()
            await thread.close()


DATA = os.urandom(1 << 20) * 20  # three chunks


async def test_sound_blobs_and_a_pass(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        digest = await it.add(DATA)
        plan = await it.scrubber.plan()
        assert [one.size == len(DATA) for one in plan] == [False, True], "its manifest comes first"
        assert [await it.check(one.digest) for one in plan] == [Outcome("sound"), Outcome("sound")]
        assert it.counts.bytes > len(DATA)
        assert await it.scrubber.last_completed() is None
        await it.scrubber.completed([one.digest for one in plan])
        assert it.counts.ended == await it.scrubber.last_completed()
        assert await it.check(digest_of(b"unknown")) == Outcome("gone")
        await it.check(digest)


async def test_a_bad_chunk_is_withheld_kept_and_repaired(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        digest = await it.add(DATA)
        it.decay(digest, 9 << 20, (9 << 20) + 5)
        inode = it.layout.blob(digest).stat().st_ino
        outcome = await it.check(digest)
        assert (outcome.verdict, outcome.bad) == ("damaged", 1)
        assert it.ranges(digest) == [(8 << 20, 16 << 20)]
        fill = open_fill(it.layout, digest)
        fill.close()
        assert (fill.state.served, list(fill.have.missing())) == (True, [1])
        (evidence,) = (path for path in it.layout.quarantine.iterdir() if path.suffix != ".json")
        assert evidence.stat().st_size == 8 << 20
        assert json.loads(Path(f"{evidence}.json").read_bytes())["blob"] == str(digest)
        assert (it.counts.chunks, it.counts.now, it.counts.mended) == (1, 1, 0)

        await it.scrubber.retry()
        assert it.counts.now == 1
        await it.scrubber.retry()
        assert it.peers.asked == 2, "not at once again"

        it.peers.give(DATA)
        assert await it.check(digest) == Outcome("repaired")
        assert (it.counts.now, it.counts.mended) == (0, 1)
        assert it.ranges(digest) == []
        assert it.layout.blob(digest).stat().st_ino == inode, "written in place: readers of the old file see good bytes"
        assert it.layout.blob(digest).read_bytes() == DATA
        await it.is_sound()


async def test_it_is_withheld_again_after_a_start_and_repaired_by_itself(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        digest = await it.add(DATA)
        it.decay(digest, 3, 18 << 20)
        assert (await it.check(digest)).bad == 2
        it.layout.withheld.write_bytes(bytes(it.layout.withheld.stat().st_size))  # as after a boot
    async with world(tmp_path) as it:
        assert it.ranges(digest) == [(0, 8 << 20), (16 << 20, 20 << 20)]
        assert it.counts.now == 1
        it.peers.give(DATA)
        await it.scrubber.retry()
        assert it.layout.blob(digest).read_bytes() == DATA
        await it.is_sound()


async def test_more_of_a_damaged_blob_decays(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        digest = await it.add(DATA)
        it.decay(digest, 3)
        await it.check(digest)
        with (it.layout.fill(digest) / "data").open("r+b") as file:
            file.seek(17 << 20)
            file.write(b"decay")
        outcome = await it.check(digest)
        assert (outcome.verdict, outcome.bad) == ("damaged", 1)
        assert it.ranges(digest) == [(0, 8 << 20), (16 << 20, 20 << 20)]
        it.peers.give(DATA)
        assert (await it.check(digest)).verdict == "repaired"
        await it.is_sound()


async def test_decay_that_came_after_the_check_is_found_before_the_blob_is_whole(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        digest = await it.add(DATA)
        it.decay(digest, 3)
        await it.check(digest)
        with (it.layout.fill(digest) / "data").open("r+b") as file:
            file.seek(17 << 20)
            file.write(b"decay")
        it.peers.give(DATA)
        await it.scrubber.retry()
        assert it.peers.asked == 3, "one that nobody had, then the two"
        assert it.layout.blob(digest).read_bytes() == DATA
        assert it.ranges(digest) == []


@pytest.mark.parametrize("change", ["shorter", "longer", "emptied"])
async def test_a_file_of_another_length(tmp_path: Path, change: str) -> None:
    async with world(tmp_path) as it:
        digest = await it.add(DATA)
        path = it.layout.blob(digest)
        path.chmod(0o600)
        os.truncate(path, {"shorter": len(DATA) - 5, "longer": len(DATA) + 5, "emptied": 0}[change])
        it.peers.give(DATA)
        outcome = await it.check(digest)
        assert outcome.verdict == "repaired", outcome
        assert path.read_bytes() == DATA
        await it.is_sound()


@pytest.mark.parametrize("instead", ["a link", "a folder"])
async def test_a_file_that_cannot_be_opened(tmp_path: Path, instead: str) -> None:
    async with world(tmp_path) as it:
        digest = await it.add(DATA)
        path = it.layout.blob(digest)
        path.unlink()
        path.symlink_to(path) if instead == "a link" else path.mkdir()
        outcome = await it.check(digest)
        assert (outcome.verdict, outcome.bad, it.counts.chunks) == ("damaged", 1, 1), "a job says so, and goes on"
        assert outcome.reason.startswith("it can't be opened: ")


async def test_a_manifest_that_decayed_is_made_from_its_blob(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        digest = await it.add(DATA)
        (row,) = it.thread.store.manifests_of(digest)
        before = it.layout.blob(row.manifest).read_bytes()
        it.decay(row.manifest, 50)
        assert await it.check(row.manifest) == Outcome("repaired", 1)
        assert it.peers.asked == 0
        assert it.layout.blob(row.manifest).read_bytes() == before
        assert [one.manifest for one in it.thread.store.manifests_of(digest)] == [row.manifest]
        await it.is_sound()


async def test_a_manifest_and_its_blob_decayed(tmp_path: Path) -> None:
    """Nobody can say then which chunks are good; a peer has the manifest."""
    async with world(tmp_path) as it:
        digest = await it.add(DATA)
        (row,) = it.thread.store.manifests_of(digest)
        manifest = it.layout.blob(row.manifest).read_bytes()
        it.decay(row.manifest, 50)
        it.decay(digest, 5)
        assert (await it.check(row.manifest)).verdict == "damaged"
        assert it.ranges(row.manifest) == [(0, WHOLE)]
        assert await it.check(row.manifest) == Outcome("damaged", 0, "no other node is known to have it")
        it.peers.give(manifest)
        it.peers.give(DATA)
        assert (await it.check(row.manifest)).verdict == "repaired"
        assert it.layout.blob(row.manifest).read_bytes() == manifest
        assert (await it.check(digest)).verdict == "repaired"
        await it.is_sound()


async def test_a_manifest_that_lies_goes_and_the_blob_stays(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        digest = await it.add(DATA)
        lengths = tuple(fixed_lengths(len(DATA)))
        sha256, xxh3 = chunk_hashes(b"something else")
        lie = ChunkManifest(digest, len(DATA), "fixed/1", lengths, sha256 * len(lengths), xxh3 * len(lengths))
        (row,) = it.thread.store.manifests_of(digest)
        await it.add(lie.encode())
        it.layout.blob(row.manifest).unlink()
    for path in it.layout.root.glob("index.sqlite3*"):
        path.unlink()  # made again, it holds every blob for a manifest that looks like one
    async with world(tmp_path) as it:
        assert [one.manifest for one in it.thread.store.manifests_of(digest)] == [lie.digest()]
        assert await it.check(digest) == Outcome("sound")
        assert it.layout.blob(digest).exists()
        assert it.ranges(digest) == []
        assert it.layout.blob(lie.digest()).exists(), "as a blob it is whatever somebody wanted to keep"
        assert [one.manifest for one in it.thread.store.manifests_of(digest)] == [row.manifest], "made again"
        await it.is_sound()


async def test_under_a_manifest_of_others_nothing_of_a_bad_blob_is_served(tmp_path: Path) -> None:
    """Invariant 4: who knows which chunks are good."""
    async with world(tmp_path) as it:
        digest = await it.add(DATA)
        (row,) = it.thread.store.manifests_of(digest)
        await it.add(it.layout.blob(row.manifest).read_bytes())  # brought, like any file
        it.decay(digest, 5)
        assert (await it.check(digest)).verdict == "damaged"
        assert it.ranges(digest) == [(0, WHOLE)]
        fill = open_fill(it.layout, digest)
        fill.close()
        assert not fill.holds(16 << 20, 1)
        it.peers.give(DATA)
        assert (await it.check(digest)).verdict == "repaired"
        assert it.ranges(digest) == []


async def test_what_is_stored_anew_leaves_the_old_file_withheld(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        digest = await it.add(DATA)
        old = it.layout.blob(digest).stat().st_ino
        it.decay(digest, 5)
        await it.check(digest)
        number = it.table.now()
        await it.add(DATA)
        assert it.table.now() != number, "workers open it again"
        assert it.ranges(digest) == []
        assert list(it.table.ranges(digest, old)) == [(0, 8 << 20)], "somebody may be sending from it"
        it.scrubber.withheld.forget_retired(float("inf"))
        assert it.table.ranges(digest, old) == ()
        assert it.layout.blob(digest).stat().st_ino != old
        await it.is_sound()


async def test_a_large_blob_that_no_manifest_describes_goes_to_quarantine(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        digest = await it.add(DATA)
        (row,) = it.thread.store.manifests_of(digest)
        it.decay(digest, 5)
        it.layout.blob(row.manifest).unlink()
        await it.thread.change(lambda store: store.reconcile())
        assert (await it.check(digest)).verdict == "damaged"
        assert not it.layout.blob(digest).exists()
        assert (it.layout.quarantine / digest.hex).stat().st_size == len(DATA)


class _FullDisk(Disk):
    """A disk that has no room for a fill's small files."""

    is_full = True

    def create(self, path: Path, mode: int = 0o600) -> DiskFile:
        if self.is_full and ("fills" in path.parts or path.name.startswith("evidence")):
            raise DiskFull("no space left")
        return super().create(path, mode)


async def test_on_a_full_disk_it_is_withheld_at_least(tmp_path: Path) -> None:
    disk = _FullDisk()
    async with world(tmp_path, disk) as it:
        digest = await it.add(DATA)
        it.decay(digest, 5)
        outcome = await it.check(digest)
        assert outcome == Outcome("damaged", 1, "it isn't sent, and can't be repaired: no space left")
        assert it.layout.blob(digest).exists()
        assert it.ranges(digest) == [(0, 8 << 20)]
        disk.is_full = False
        it.peers.give(DATA)
        assert await it.check(digest) == Outcome("repaired", 1)
        assert it.ranges(digest) == []
        await it.is_sound()


async def test_nobody_has_anything() -> None:
    with pytest.raises(NotFound):
        await NoSource().whole(digest_of(b""), 1)


async def test_a_source_that_gives_wrong_bytes_changes_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        digest = await it.add(DATA)
        it.decay(digest, 5)
        it.peers.blobs[digest] = bytes(len(DATA))
        outcome = await it.check(digest)
        assert outcome.verdict == "damaged"
        assert "not chunk 0" in outcome.reason
        assert it.ranges(digest) == [(0, 8 << 20)]
        data = (it.layout.fill(digest) / "data").read_bytes()
        assert data[6:] == DATA[6:]


async def test_an_interrupted_repair_goes_on(tmp_path: Path) -> None:
    """The chunk was written, and its bit was not."""
    async with world(tmp_path) as it:
        digest = await it.add(DATA)
        it.decay(digest, 5)
        await it.check(digest)
        with (it.layout.fill(digest) / "data").open("r+b") as file:
            file.write(DATA[:8])
        asked = it.peers.asked
        assert (await it.check(digest)).verdict == "repaired"
        assert it.peers.asked == asked
