"""Fills: their format, their bits, and what a power loss may leave of a blob on its way there and back."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrother_node.content.chunks import FIXED_1, ChunkManifest, chunk_hashes
from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput, NotFound, VerificationFailed
from aibrother_node.store.blobs import BlobStore
from aibrother_node.store.disk import Disk
from aibrother_node.store.fills import FillState, Have, describe_fills, open_fill
from aibrother_node.store.layout import Layout
from aibrother_node.store.scrubbing import damage
from aibrother_node.store.verify import verify_store
from store.helpers import add, digest_of, new_layout, open_store
from store.power_loss import RecordingDisk, lay_out, snapshot, states

_SIZES = (700, 300, 1000, 1)
_DATA = b"".join(bytes([65 + n]) * size for n, size in enumerate(_SIZES))
_STATE = FillState("damaged", 1000.0, reason="for the test")


def small_manifest(data: bytes = _DATA, sizes: tuple[int, ...] = _SIZES) -> ChunkManifest:
    """Of chunks smaller than any chunker makes."""
    hashes, offset = [], 0
    for size in sizes:
        hashes.append(chunk_hashes(data[offset : offset + size]))
        offset += size
    sha256, xxh3 = (b"".join(part) for part in zip(*hashes, strict=True))
    return ChunkManifest(digest_of(data), len(data), FIXED_1, sizes, sha256, xxh3)


def damaged(tmp_path: Path, store: BlobStore, data: bytes = _DATA, disk: Disk | None = None) -> Digest:
    """Add a blob, and flip a bit of its chunk 2 on disk."""
    (tmp_path / "source").write_bytes(data)
    digest = add(store, tmp_path / "source", disk=disk).digest
    path = store.layout.blob(digest)
    store.disk.set_mode(path, 0o600)
    with store.disk.reopen(path) as file:
        file.write_at(bytes([data[1500] ^ 1]), 1500)
        file.fsync()
    return digest


@given(st.integers(0, 70), st.sets(st.integers(0, 69)), st.binary(max_size=12))
def test_bits(count: int, chosen: set[int], data: bytes) -> None:
    have = Have(count, data)
    for index in chosen:
        if index < count:
            have.set(index)
    told = Have(count, have.encode())
    for index in range(-1, 80):
        was = 0 <= index < count and (
            index in chosen or (index < 8 * len(data) and data[index // 8] >> index % 8 & 1 == 1)
        )
        assert (index in told) == was
    assert [*told.missing()] == [index for index in range(count) if index not in told]
    assert len(told.encode()) == (count + 7) // 8
    for index in range(count):
        told.clear(index)
    assert not any(told.encode())
    assert not [*Have.full(count).missing()]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"v": 1, "why": "damaged"}',
        b'{"v": 2, "why": "damaged", "since": 1}',
        b'{"v": 1, "why": "damaged", "since": 1e400}',
        b'{"v": 1, "why": "damaged", "since": 1, "described": "x"}',
    ],
)
def test_a_state_that_is_none(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        FillState.decode(data)


def test_a_state_is_read_as_it_was_written() -> None:
    state = FillState("damaged", 5.5, served=False, described=str(digest_of(b"")), reason="ä", certain=False)
    assert FillState.decode(state.encode()) == state


def test_a_damaged_blob_keeps_its_pin_and_its_good_chunks(tmp_path: Path) -> None:
    layout, manifest = new_layout(tmp_path / "data"), small_manifest()
    with open_store(layout) as store:
        digest = damaged(tmp_path, store)
        damage.demote(store, manifest, [2], _STATE)
        assert not layout.blob(digest).exists()
        assert store.totals()[0] == 1, "its manifest alone is whole"
        store.pin(digest, "again")
        (shown,) = describe_fills(layout)
        assert (shown["digest"], shown["chunks"], shown["missing_chunks"], shown["missing_bytes"]) == (
            *(str(digest), 4),
            *(1, 1000),
        )
    with open_store(layout) as store:
        fill = open_fill(layout, digest)
        assert [*fill.have.missing()] == [2]
        assert fill.missing() == [(1000, 2000)]
        assert fill.holds(0, 1000)
        assert fill.holds(2000, 1)
        assert not fill.holds(999, 2)
        assert not fill.holds(0, len(_DATA))
        fill.close()
        report = verify_store(store, Disk(), repair=True)
        assert (report.stale, report.dangling_pins, report.bad) == ([], [], [])
        assert report.damaged == [(digest, "1 of 4 chunks have to be repaired: 2")]
        assert not report.sound

        with pytest.raises(VerificationFailed):
            damage.put(store, digest, 2, b"Z" * 1000)
        assert [*damage.put(store, digest, 2, _DATA[1000:2000]).have.missing()] == []
        with pytest.raises(NotFound):
            damage.promote(store, digest, inode=1)
        damage.promote(store, digest, fill.inode)
        assert layout.blob(digest).read_bytes() == _DATA
        assert layout.blob(digest).stat().st_mode & 0o777 == 0o444
        assert store.totals()[0] == 2
        assert verify_store(store, Disk(), repair=False).sound
        assert [*layout.fills.iterdir()] == []


def test_verify_finds_further_bad_chunks_and_what_is_good_again(tmp_path: Path) -> None:
    layout, manifest = new_layout(tmp_path / "data"), small_manifest()
    with open_store(layout) as store:
        digest = damaged(tmp_path, store)
        damage.demote(store, manifest, [0], _STATE)
        report = verify_store(store, Disk(), repair=True)
        assert report.damaged == [(digest, "1 of 4 chunks have to be repaired: 2")], "0 is good, 2 isn't"
        damage.put(store, digest, 2, _DATA[1000:2000])
        assert verify_store(store, Disk(), repair=True).damaged == [(digest, "all of its chunks are good")]
        assert verify_store(store, Disk(), repair=False).sound
        assert layout.blob(digest).read_bytes() == _DATA


def test_what_is_stored_anew_ends_its_fill(tmp_path: Path) -> None:
    layout, ended = new_layout(tmp_path / "data"), []
    with open_store(layout) as store:
        store.fill_ended = lambda digest, inode: ended.append((digest, inode))
        digest = damaged(tmp_path, store)
        old = layout.blob(digest).stat().st_ino
        damage.demote(store, small_manifest(), [2], _STATE)
        assert not add(store, tmp_path / "source").was_there
        assert layout.blob(digest).read_bytes() == _DATA
        assert ended == [(digest, old)]
        assert [*layout.fills.iterdir()] == []


def test_debris_goes_when_the_store_opens(tmp_path: Path) -> None:
    layout, manifest = new_layout(tmp_path / "data"), small_manifest()
    with open_store(layout) as store:
        digest = damaged(tmp_path, store)
        for name in (digest.hex, digest_of(b"nothing").hex):
            (layout.fills / name).mkdir()
            (layout.fills / name / "manifest").write_bytes(manifest.encode())
        (layout.fills / digest.hex / "data").write_bytes(_DATA)
    with open_store(layout):
        assert [*layout.fills.iterdir()] == []


def _replay(place: Path, disk: RecordingDisk, base: dict[str, bytes | None], digest: Digest, ends: list[int]) -> int:
    """Look at what each power loss may leave. `ends`: calls after which the blob was added, demoted, mended, whole."""
    manifest = small_manifest()
    count = 0
    root = place / "after"
    for done, state in states(disk.calls, base):
        if done < ends[0]:
            continue
        count += 1
        lay_out(state, root)
        after = Layout(root)
        with open_store(after) as store:
            assert store.pin_reason(digest) == "test"
            at_blobs, where = after.blob(digest).exists(), f"after call {done}"
            if at_blobs:
                assert [*after.fills.iterdir()] == [], where
                data = after.blob(digest).read_bytes()
                assert done < ends[1] or data == _DATA, f"{where}: what was known to be bad is visible"
                assert len(data) == len(_DATA)
            else:
                fill = open_fill(after, digest)
                fill.close()
                data = (after.fill(digest) / "data").read_bytes()
                assert fill.state == _STATE, where
                for chunk in manifest:
                    if chunk.index in fill.have:
                        piece = data[chunk.offset : chunk.offset + chunk.length]
                        assert hashlib.sha256(piece).digest() == chunk.sha256.raw, f"{where}: chunk {chunk.index}"
                assert done < ends[2] or not [*fill.have.missing()], where
            assert done < ends[3] or (at_blobs and data == _DATA), where
        shutil.rmtree(root)
    return count


def _demote_and_repair(tmp_path: Path, disk_kind: type[RecordingDisk]) -> int:
    layout, manifest = new_layout(tmp_path / "data"), small_manifest()
    base = snapshot(layout.root)
    disk = disk_kind(layout.root)
    ends = []
    with open_store(layout, disk) as store:
        digest = damaged(tmp_path, store, disk=disk)
        ends.append(len(disk.calls))
        inode = layout.blob(digest).stat().st_ino
        damage.demote(store, manifest, [2], _STATE)
        ends.append(len(disk.calls))
        damage.put(store, digest, 2, _DATA[1000:2000])
        ends.append(len(disk.calls))
        damage.promote(store, digest, inode)
        ends.append(len(disk.calls))
    memory = Path("/dev/shm")  # where it is there: each state that is looked at costs a few fsyncs of SQLite
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as place:
        return _replay(Path(place), disk, base, digest, ends)


def test_power_loss_at_every_step(tmp_path: Path) -> None:
    count = _demote_and_repair(tmp_path, RecordingDisk)
    print(f"{count} states")
    assert count > 60


class _BitFirst(RecordingDisk):
    """A disk that doesn't wait for data, to show that the replay finds a bit that is set too early."""

    def reopen(self, path: Path):  # type: ignore[no-untyped-def]
        file = super().reopen(path)
        if path.name == "data":
            file.fsync = lambda: None  # type: ignore[method-assign]
        return file


class _RenameFirst(RecordingDisk):
    """A disk that forgets the fill's small files."""

    def create(self, path: Path, mode: int = 0o600):  # type: ignore[no-untyped-def]
        file = super().create(path, mode)
        if path.parent.parent.name == "sha256":
            file.fsync = lambda: None  # type: ignore[method-assign]
        return file


@pytest.mark.parametrize("kind", [_BitFirst, _RenameFirst])
def test_the_replay_finds_what_is_not_synced(tmp_path: Path, kind: type[RecordingDisk]) -> None:
    with pytest.raises((AssertionError, NotFound)):
        _demote_and_repair(tmp_path, kind)


def test_hostile_folders(tmp_path: Path) -> None:
    layout = new_layout(tmp_path / "data")
    digest = digest_of(_DATA)
    folder = layout.fill(digest)
    with pytest.raises(NotFound):
        open_fill(layout, digest)
    folder.mkdir()
    os.symlink("/etc/passwd", folder / "data")
    with pytest.raises(NotFound):
        open_fill(layout, digest)
    (folder / "data").unlink()
    (folder / "data").write_bytes(_DATA)
    (folder / "have").write_bytes(b"\xff" * 100)
    (folder / "state").write_bytes(_STATE.encode())
    for manifest in (b"", b"x" * 100, small_manifest(b"other" * 100, (500,)).encode()):
        (folder / "manifest").write_bytes(manifest)
        with pytest.raises(NotFound):
            open_fill(layout, digest)
    (folder / "manifest").write_bytes(small_manifest().encode())
    open_fill(layout, digest).close()
