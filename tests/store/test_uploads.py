"""Uploads in progress: what a connection, a process or a machine that ends in the middle leaves of them."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aibrother_node.content.digest import Digest
from aibrother_node.errors import DiskFull, InvalidInput, Temporary, VerificationFailed
from aibrother_node.store.blobs import BlobStore, Stored
from aibrother_node.store.disk import Disk
from aibrother_node.store.incoming import Request, announce
from aibrother_node.store.layout import Layout
from aibrother_node.store.uploads import IDLE, MAKES_WAY, MOST, OtherTotal, Position, Upload, Uploads, boot_id
from store.helpers import assert_visible_is_right, digest_of, new_layout, open_store
from store.power_loss import RecordingDisk, lay_out, snapshot, states

NOW = 1_800_000_000.0
DATA = os.urandom(100_000)
DIGEST = digest_of(DATA)


class Small(Disk):
    """A file system with a given number of bytes free."""

    def __init__(self, free: int) -> None:
        self.free = free

    def free_bytes(self, path: Path) -> int:
        return self.free


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return new_layout(tmp_path / "data")


def uploads(layout: Layout, disk: Disk | None = None, boot: str = "this boot", most: int = MOST) -> Uploads:
    return Uploads(layout, disk or Disk(), boot, most=most)


def take_in(store: BlobStore, upload: Upload, disk: Disk, digest: Digest = DIGEST) -> Stored:
    """What the node does with an upload that is complete."""
    assert upload.complete
    upload.checkpoint()
    asked = Request(digest, upload.total, digest, pin=None, pieces=digest)
    request = store.verify_staged(upload.staged, asked)
    announce(upload.staged, disk, request)
    return store.take_in(upload.staged, request, verify=False)


def test_begun_continued_taken_in(layout: Layout) -> None:
    all_of = uploads(layout)
    assert all_of.position(DIGEST) is None
    with all_of.open(DIGEST, len(DATA), NOW) as upload:
        upload.write(DATA[:10])
        upload.write(DATA[10:40_000])
    assert all_of.position(DIGEST) == Position(40_000, len(DATA))
    again = uploads(layout)  # of the next process
    with open_store(layout) as store, again.open(DIGEST, len(DATA), NOW) as upload:
        assert upload.offset == 40_000
        upload.write(DATA[40_000:])
        stored = take_in(store, upload, Disk())
        assert layout.blob(DIGEST).read_bytes() == DATA
        assert [row.manifest for row in store.manifests_of(DIGEST)] == [stored.manifest]
    assert again.position(DIGEST) is None
    assert list(layout.incoming.iterdir()) == []


def test_what_does_not_fit(layout: Layout) -> None:
    all_of = uploads(layout)
    with all_of.open(DIGEST, 1000, NOW) as upload:
        upload.write(DATA[:600])
        with pytest.raises(InvalidInput, match="beyond the total"):
            upload.write(DATA[600:1001])
        assert upload.offset == 600
        with pytest.raises(Temporary, match="being written"):
            all_of.open(DIGEST, 1000, NOW)
    with pytest.raises(OtherTotal) as caught:
        all_of.open(DIGEST, 1001, NOW)
    assert caught.value.position == Position(600, 1000)
    with pytest.raises(InvalidInput):
        all_of.open(digest_of(b""), -1, NOW)
    with all_of.open(DIGEST, 1000, NOW) as upload:
        assert upload.offset == 600


def test_wrong_bytes_are_never_visible(layout: Layout) -> None:
    all_of = uploads(layout)
    with open_store(layout) as store, all_of.open(DIGEST, 500, NOW) as upload:
        upload.write(DATA[:500])
        with pytest.raises(VerificationFailed):
            take_in(store, upload, Disk())
        all_of.discard(DIGEST)
        assert list(store.digests()) == []
    assert list(layout.incoming.iterdir()) == []


def test_no_debris_until_nothing_comes_any_more(layout: Layout) -> None:
    all_of = uploads(layout)
    now = time.time()
    with all_of.open(DIGEST, 1000, now) as upload:
        upload.write(DATA[:600])
    other = digest_of(b"other")
    with all_of.open(other, 10, now) as upload:
        os.utime(upload.staged.data, (now - IDLE, now - IDLE))
    with open_store(layout) as store:
        assert store.take_in_all() == []
    assert all_of.position(DIGEST) == Position(600, 1000)
    assert all_of.sweep(now + 1) == [other.hex]
    assert all_of.position(other) is None
    with all_of.open(DIGEST, 1000, now):
        assert all_of.sweep(now + 2 * IDLE) == [], "somebody writes to it"
    layout.blob(DIGEST).write_bytes(b"came by another way")
    assert all_of.sweep(now) == [DIGEST.hex]


def test_what_was_complete_when_the_process_ended_is_taken_in(layout: Layout) -> None:
    disk = Disk()
    with open_store(layout) as store, uploads(layout).open(DIGEST, len(DATA), NOW) as upload:
        upload.write(DATA)
        asked = Request(DIGEST, upload.total, DIGEST, pin=None, pieces=DIGEST)
        announce(upload.staged, disk, store.verify_staged(upload.staged, asked))
    with open_store(layout) as store:
        assert [stored.digest for stored in store.take_in_all()] == [DIGEST]
        assert store.manifests_of(DIGEST)
    assert list(layout.incoming.iterdir()) == []


def test_their_number_is_bounded(layout: Layout) -> None:
    all_of = uploads(layout, most=3)
    digests = [digest_of(bytes([n])) for n in range(4)]
    for digest in digests[:3]:
        with all_of.open(digest, 10, NOW) as upload:
            os.utime(upload.staged.data, (NOW, NOW))
    with pytest.raises(Temporary, match="more are not taken"):
        all_of.open(digests[3], 10, NOW)
    first = layout.incoming / f"upload-{digests[0].hex}" / "data"
    os.utime(first, (NOW - 2 * IDLE, NOW - 2 * IDLE))
    all_of.open(digests[3], 10, NOW).close()
    assert all_of.position(digests[0]) is None


def test_who_was_silent_for_the_longest_makes_way(layout: Layout) -> None:
    all_of = uploads(layout, most=3)
    digests = [digest_of(bytes([n])) for n in range(4)]
    for digest, ago in zip(digests, (100, 2 * MAKES_WAY, 3 * MAKES_WAY), strict=False):
        with all_of.open(digest, 10, NOW) as upload:
            os.utime(upload.staged.data, (NOW - ago, NOW - ago))
    all_of.open(digests[3], 10, NOW).close()
    assert [all_of.position(digest) is None for digest in digests] == [False, False, True, False]


def test_room_is_taken_at_the_beginning(layout: Layout) -> None:
    size = 8 << 20
    before = os.statvfs(layout.root).f_bavail
    with uploads(layout).open(DIGEST, size, NOW) as upload:
        data = upload.staged.data.stat()
        assert data.st_size == 0
        assert data.st_blocks * 512 >= size, f"nothing was reserved; {before} blocks were free"


def test_what_does_not_fit_beside_the_reserve(layout: Layout) -> None:
    disk = Small(1000)
    all_of = uploads(layout, disk)
    with pytest.raises(DiskFull, match="reserve"):
        Uploads(layout, disk, "boot", reserve=lambda: 500).open(DIGEST, 501, NOW)
    Uploads(layout, disk, "boot", reserve=lambda: 500).open(DIGEST, 500, NOW).close()
    (layout.incoming / f"upload-{DIGEST.hex}/data").write_bytes(b"")  # as where the file system can't keep room
    with pytest.raises(DiskFull, match="500 of other uploads"):
        all_of.open(digest_of(b"other"), 501, NOW)
    all_of.open(digest_of(b"other"), 500, NOW).close()


def test_damage_begins_anew(layout: Layout) -> None:
    all_of = uploads(layout)
    for damage in ("", "[]", '{"total": 5, "durable": 9, "boot": ""}', "x" * 9000):
        with all_of.open(DIGEST, len(DATA), NOW) as upload:
            assert upload.offset == 0
            upload.write(DATA[:700])
        (layout.incoming / f"upload-{DIGEST.hex}/state.json").write_text(damage)
        assert all_of.position(DIGEST) is None


def test_after_another_boot_only_what_was_durable_counts(layout: Layout) -> None:
    with uploads(layout).open(DIGEST, len(DATA), NOW) as upload:
        upload.write(DATA[:500])
        upload.checkpoint()
        upload.write(DATA[500:800])
    assert uploads(layout).position(DIGEST) == Position(800, len(DATA))
    later = uploads(layout, boot="the next one")
    assert later.position(DIGEST) == Position(500, len(DATA))
    with later.open(DIGEST, len(DATA), NOW) as upload:
        assert upload.offset == 500
        upload.write(DATA[500:700])
    assert later.position(DIGEST) == Position(700, len(DATA)), "what was cut off doesn't come back"


def _interrupted(layout: Layout, disk: Disk) -> int:
    """Upload in two pieces with a checkpoint between, and have it taken in; returns the step from which it is there."""
    all_of = Uploads(layout, disk, "first boot")
    with open_store(layout, disk) as store, all_of.open(DIGEST, len(DATA), NOW) as upload:
        upload.write(DATA[:30_000])
        upload.checkpoint()
        upload.write(DATA[30_000:])
        take_in(store, upload, disk)
    return len(disk.calls) if isinstance(disk, RecordingDisk) else 0


def test_power_loss_at_every_step(tmp_path: Path, layout: Layout) -> None:
    """Nothing wrong is ever visible, what goes on ends right, and a checkpoint is worth something."""
    base = snapshot(layout.root)
    disk = RecordingDisk(layout.root)
    end = _interrupted(layout, disk)
    offsets = set()
    count = 0
    for done, state in states(disk.calls, base):
        count += 1
        after = Layout(tmp_path / "after")
        lay_out(state, after.root)
        assert_visible_is_right(after)
        with open_store(after) as store:
            store.take_in_all()
            assert_visible_is_right(after)
            if done >= end:
                assert after.blob(DIGEST).exists()
            offsets.add(_go_on(after, store))
            assert_visible_is_right(after)
        Uploads(after, Disk(), "second boot").sweep(NOW)
        assert list(after.incoming.iterdir()) == [], f"after call {done}: debris stays"
        shutil.rmtree(after.root)
    print(f"{count} states; went on from {sorted(offsets)}")
    assert count > 40
    assert 30_000 in offsets


def _go_on(after: Layout, store: BlobStore) -> int:
    """Upload the rest, as a publisher does; returns from where."""
    all_of = Uploads(after, Disk(), "second boot")
    if after.blob(DIGEST).exists():
        return -1
    with all_of.open(DIGEST, len(DATA), NOW) as upload:
        began = upload.offset
        assert began in (0, 30_000, len(DATA))
        upload.write(DATA[began:])
        take_in(store, upload, Disk())  # hashed: so the part before was right
    assert after.blob(DIGEST).read_bytes() == DATA
    return began


def test_the_name_of_this_boot() -> None:
    assert boot_id() == boot_id() != ""


def _chunks(size: int) -> Callable[[bytes], list[bytes]]:
    return lambda data: [data[start : start + size] for start in range(0, len(data), size)]


def test_checkpoints_come_by_themselves(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aibrother_node.store.uploads._CHECKPOINT", 1000)
    monkeypatch.setattr("aibrother_node.store.uploads._WRITEBACK", 300)
    with uploads(layout).open(DIGEST, len(DATA), NOW) as upload:
        for piece in _chunks(400)(DATA[:2900]):
            upload.write(piece)
    position = uploads(layout, boot="the next one").position(DIGEST)
    assert position is not None
    assert 1900 <= position.offset <= 2900
