"""The store: what comes in, what is seen, what is recognised, what is rebuilt."""

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from aibrother_node.content.chunks import build_manifest
from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput, NotFound, Unsupported, VerificationFailed
from aibrother_node.store.blobs import BlobReader
from aibrother_node.store.disk import Disk
from aibrother_node.store.incoming import Request, Staged, digest_only, stage
from aibrother_node.store.layout import DirectoryLock, Layout
from store.helpers import add, assert_visible_is_right, digest_of, new_layout, open_store, options


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return new_layout(tmp_path / "data")


def _file(tmp_path: Path, data: bytes, name: str = "file") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def test_an_added_file_is_visible_read_only_pinned_and_has_its_manifest(layout: Layout, tmp_path: Path) -> None:
    data = os.urandom(100_000)
    with open_store(layout) as store:
        stored = add(store, _file(tmp_path, data), pin="because")
        assert stored.digest == digest_of(data)
        assert not stored.was_there
        assert store.pin_reason(stored.digest) == "because"
        assert [row.manifest for row in store.manifests_of(stored.digest)] == [stored.manifest]
        manifest = store.read_manifest(stored.manifest, 1 << 20)
        assert manifest == build_manifest(lambda offset, length: data[offset : offset + length], len(data))
        assert store.totals() == (2, len(data) + len(manifest.encode()))
    path = layout.blob(stored.digest)
    assert path.read_bytes() == data
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert list(layout.incoming.iterdir()) == []
    assert_visible_is_right(layout)


def test_the_same_content_again_is_recognised(layout: Layout, tmp_path: Path) -> None:
    with open_store(layout) as store:
        first = add(store, _file(tmp_path, b"same"), pin=None)
        inode = layout.blob(first.digest).stat().st_ino
        second = add(store, _file(tmp_path, b"same", "other"), pin="now pinned")
        assert second.was_there
        assert store.pin_reason(first.digest) == "now pinned"
    assert layout.blob(first.digest).stat().st_ino == inode
    assert list(layout.incoming.iterdir()) == []


def test_an_empty_file_is_a_blob_too(layout: Layout, tmp_path: Path) -> None:
    with open_store(layout) as store:
        stored = add(store, _file(tmp_path, b""))
        assert store.read_manifest(stored.manifest, 1 << 20).lengths == ()


def test_move_renames_where_nobody_can_write(layout: Layout, tmp_path: Path) -> None:
    path = _file(tmp_path, b"moved" * 1000)
    inode = path.stat().st_ino
    with open_store(layout) as store:
        stored = add(store, path, how="move")
    assert not path.exists()
    assert layout.blob(stored.digest).stat().st_ino == inode


def test_move_copies_what_another_name_could_change(layout: Layout, tmp_path: Path) -> None:
    path = _file(tmp_path, b"linked" * 1000)
    (tmp_path / "second name").hardlink_to(path)
    with open_store(layout) as store:
        stored = add(store, path, how="move")
    assert layout.blob(stored.digest).stat().st_ino != (tmp_path / "second name").stat().st_ino


def test_move_copies_what_is_open_for_writing(layout: Layout, tmp_path: Path) -> None:
    path = _file(tmp_path, b"open" * 1000)
    with path.open("r+b") as writer, open_store(layout) as store:
        stored = add(store, path, how="move")
        writer.write(b"EVIL")
        writer.flush()
    assert_visible_is_right(layout)
    assert layout.blob(stored.digest).read_bytes() == b"open" * 1000


def test_link_shares_blocks_or_says_that_it_can_not(layout: Layout, tmp_path: Path) -> None:
    path = _file(tmp_path, b"reflink" * 1000)
    with open_store(layout) as store:
        if not _reflinks(tmp_path):
            with pytest.raises(Unsupported, match="reflink"):
                add(store, path, how="link")
            assert list(layout.incoming.iterdir()) == []
            assert path.read_bytes() == b"reflink" * 1000
            return
        stored = add(store, path, how="link")
    path.write_bytes(b"changed")
    assert layout.blob(stored.digest).read_bytes() == b"reflink" * 1000


def _reflinks(folder: Path) -> bool:
    """Whether this file system shares blocks, by the word of coreutils."""
    (folder / "one").write_bytes(b"x")
    command = ["cp", "--reflink=always", str(folder / "one"), str(folder / "two")]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("make", ["folder", "fifo", "missing", "device"])
def test_what_is_no_regular_file_is_refused(layout: Layout, tmp_path: Path, make: str) -> None:
    path = tmp_path / "source"
    if make == "folder":
        path.mkdir()
    elif make == "fifo":
        os.mkfifo(path)
    elif make == "device":
        path = Path("/dev/zero")
    with open_store(layout) as store, pytest.raises((InvalidInput, NotFound)):
        add(store, path)
    assert list(layout.incoming.iterdir()) == []


def test_a_file_that_changes_while_it_is_read_is_refused(layout: Layout, tmp_path: Path) -> None:
    path = _file(tmp_path, bytes(5 << 20))

    def change(_: int) -> None:
        with path.open("r+b") as file:
            file.write(b"changed")

    with pytest.raises(InvalidInput, match="changed while it was read"):
        stage(layout, Disk(), path, options(), change)
    assert list(layout.incoming.iterdir()) == []


class _SmallDisk(Disk):
    def free_bytes(self, path: Path) -> int:
        return 1000


def test_the_reserve_is_kept(layout: Layout, tmp_path: Path) -> None:
    path = _file(tmp_path, b"x" * 600)
    from aibrother_node.errors import DiskFull

    with pytest.raises(DiskFull, match="600 bytes; 1000 are free, of which 500"):
        stage(layout, _SmallDisk(), path, options(reserve=500))
    assert digest_only(path) == digest_of(b"x" * 600)
    staged, _ = stage(layout, _SmallDisk(), path, options(reserve=400))
    staged.close()


def _staged(layout: Layout, tmp_path: Path, data: bytes, **changes: object) -> Path:
    """A folder as an interrupted command leaves it, with some fields of its request changed."""
    staged, request = stage(layout, Disk(), _file(tmp_path, data), options())
    staged.close()
    fields = json.loads(request.encode()) | changes
    staged.request_path.write_text(json.dumps(fields))
    return staged.folder


def test_complete_staged_content_is_taken_in_at_the_next_opening(layout: Layout, tmp_path: Path) -> None:
    _staged(layout, tmp_path, b"complete")
    with open_store(layout) as store:
        assert [stored.digest for stored in store.take_in_all()] == [digest_of(b"complete")]
    assert list(layout.incoming.iterdir()) == []
    assert_visible_is_right(layout)


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": str(digest_of(b"other"))},
        {"size": 3},
        {"size": "8"},
        {"size": True},
        {"digest": "sha256:../../etc/passwd"},
        {"pin": 7},
    ],
)
def test_staged_content_that_lies_never_becomes_visible(
    layout: Layout, tmp_path: Path, changes: dict[str, object]
) -> None:
    _staged(layout, tmp_path, b"complete", **changes)
    with open_store(layout) as store:
        assert store.take_in_all() == []
        assert list(store.digests()) == []
    assert list(layout.incoming.iterdir()) == []


def test_a_staged_manifest_that_lies_is_made_again(layout: Layout, tmp_path: Path) -> None:
    folder = _staged(layout, tmp_path, b"complete", manifest=str(digest_of(b"other")))
    (folder / "manifest").unlink()
    with open_store(layout) as store:
        (stored,) = store.take_in_all()
        assert (
            stored.manifest == build_manifest(lambda offset, length: b"complete"[offset : offset + length], 8).digest()
        )
        assert store.manifests_of(stored.digest)[0].manifest == stored.manifest


@pytest.mark.parametrize("request_text", ["", "{", "[]", "null", "[" * 100_000, "\xff", "7"])
def test_a_request_that_is_none_is_refused(request_text: str) -> None:
    with pytest.raises(InvalidInput, match="not a request"):
        Request.decode(request_text.encode("latin-1"))


def test_debris_goes_and_what_is_being_written_stays(layout: Layout, tmp_path: Path) -> None:
    (layout.incoming / "deadbeef").mkdir()
    (layout.incoming / "deadbeef" / "data").write_bytes(b"half")
    (layout.incoming / "stray").write_bytes(b"")
    with Staged.create(layout, Disk()) as alive, open_store(layout) as store:
        store.take_in_all()
        assert [path.name for path in layout.incoming.iterdir()] == [alive.id]


def test_a_lost_or_broken_index_is_rebuilt_from_disk(layout: Layout, tmp_path: Path) -> None:
    with open_store(layout) as store:
        stored = add(store, _file(tmp_path, os.urandom(5000)))
        before = store.totals()
    for damage in (layout.index.unlink, lambda: layout.index.write_bytes(b"not a database" * 1000)):
        damage()
        with open_store(layout) as store:
            assert store.totals() == before
            assert [row.manifest for row in store.manifests_of(stored.digest)] == [stored.manifest]
            assert store.pin_reason(stored.digest) == "test"


def test_the_index_follows_what_others_did_to_the_folder(layout: Layout, tmp_path: Path) -> None:
    with open_store(layout) as store:
        stored = add(store, _file(tmp_path, b"removed by hand"))
    layout.blob(stored.digest).unlink()
    layout.blob(digest_of(b"put there")).write_bytes(b"put there")
    with open_store(layout) as store:
        assert store.totals()[0] == 2
        assert store.without_manifest() == [digest_of(b"put there")]


def test_a_lost_manifest_is_made_again(layout: Layout, tmp_path: Path) -> None:
    with open_store(layout) as store:
        stored = add(store, _file(tmp_path, b"m" * 3000))
    layout.blob(stored.manifest).unlink()
    with open_store(layout) as store:
        assert store.without_manifest() == [stored.digest]
        assert store.rebuild_manifest(stored.digest) == stored.manifest
        assert store.without_manifest() == []


def test_no_manifest_is_made_of_a_damaged_blob(layout: Layout, tmp_path: Path) -> None:
    with open_store(layout) as store:
        stored = add(store, _file(tmp_path, b"good"))
        layout.blob(stored.digest).chmod(0o644)
        layout.blob(stored.digest).write_bytes(b"evil")
        with pytest.raises(VerificationFailed, match="damaged"):
            store.rebuild_manifest(stored.digest)


def test_pins(layout: Layout, tmp_path: Path) -> None:
    with open_store(layout) as store:
        stored = add(store, _file(tmp_path, b"pinned"), pin=None)
        assert store.pin_reason(stored.digest) is None
        with pytest.raises(NotFound, match="not pinned"):
            store.unpin(stored.digest)
        store.pin(stored.digest, "wanted")
        assert store.pin_reason(stored.digest) == "wanted"
        layout.pin(stored.digest).write_bytes(b"\xff damaged")
        assert store.pin_reason(stored.digest) == "unknown"
        store.unpin(stored.digest)
        with pytest.raises(NotFound, match="not here"):
            store.pin(digest_of(b"absent"), "wanted")


def test_readers_see_only_regular_files_with_the_right_names(layout: Layout) -> None:
    reader = BlobReader(layout)
    target = layout.blob(digest_of(b"target"))
    target.symlink_to("/etc/hostname")
    (layout.blobs / ("0" * 64)).mkdir()
    (layout.blobs / "README").touch()
    assert list(reader.digests()) == []
    for digest in (digest_of(b"target"), Digest(bytes(32)), digest_of(b"absent")):
        with pytest.raises((NotFound, OSError)):
            reader.open_blob(digest).close()


def test_a_blob_is_no_manifest_just_because_someone_asks(layout: Layout, tmp_path: Path) -> None:
    with open_store(layout) as store:
        stored = add(store, _file(tmp_path, b"plain"))
        with pytest.raises(NotFound, match="no chunk manifest"):
            store.read_manifest(stored.digest, 1 << 20)
        with pytest.raises(NotFound, match="no chunk manifest"):
            store.read_manifest(stored.manifest, 10)


def test_the_lock_must_be_this_directorys(layout: Layout, tmp_path: Path) -> None:
    from aibrother_node.store.blobs import BlobStore

    with DirectoryLock.take(tmp_path, 0) as lock, pytest.raises(InvalidInput, match="the lock is on"):
        BlobStore.open(layout, lock, manifest_ceiling=1 << 20)
