"""Invariant 1 under power loss: each state that a file system may leave behind, after each call of the store."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from aibrother_node.content.digest import Digest
from aibrother_node.store.blobs import BlobStore
from aibrother_node.store.disk import Disk, DiskFile
from aibrother_node.store.layout import Layout
from aibrother_node.store.verify import verify_store
from store.helpers import add, assert_visible_is_right, digest_of, new_layout, open_store
from store.power_loss import RecordingDisk, lay_out, snapshot, states

Step = Callable[[BlobStore, RecordingDisk], None]


def _replay(tmp_path: Path, steps: list[Step], promised: list[tuple[int, Digest]]) -> int:
    """Run the steps on a recording disk; then open what each power loss may leave. Returns how many states there were.

    `promised` says of each step that ended which blob must be there, whole and pinned, from then on.
    """
    layout = new_layout(tmp_path / "data")
    base = snapshot(layout.root)
    disk = RecordingDisk(layout.root)
    ends = []
    with open_store(layout, disk) as store:
        for step in steps:
            step(store, disk)
            ends.append(len(disk.calls))
    count = 0
    for done, state in states(disk.calls, base):
        count += 1
        root = tmp_path / "after"
        lay_out(state, root)
        after = Layout(root)
        assert_visible_is_right(after)
        with open_store(after) as store:
            store.take_in_all()
            assert_visible_is_right(after)
            report = verify_store(store, Disk(), repair=False)
            assert not report.bad, f"after call {done}: {report.bad}"
            assert not report.without_manifest, f"after call {done}: a blob without its manifest"
            for position, digest in promised:
                if done >= ends[position]:
                    assert after.blob(digest).exists(), f"after call {done}: {digest} was added and is gone"
                    assert store.pin_reason(digest) == "test", f"after call {done}: {digest} lost its pin"
        assert list(after.incoming.iterdir()) == [], f"after call {done}: debris stays"
        shutil.rmtree(root)
    return count


def test_add_and_add_again(tmp_path: Path) -> None:
    first, second = os.urandom(3000), os.urandom(70_000)
    (tmp_path / "first").write_bytes(first)
    (tmp_path / "second").write_bytes(second)

    def add_first(store: BlobStore, disk: RecordingDisk) -> None:
        add(store, tmp_path / "first", disk=disk)

    def add_second(store: BlobStore, disk: RecordingDisk) -> None:
        add(store, tmp_path / "second", disk=disk)

    count = _replay(
        tmp_path,
        [add_first, add_second, add_first],
        [(0, digest_of(first)), (1, digest_of(second)), (2, digest_of(first))],
    )
    print(f"{count} states")
    assert count > 100, "the recording disk saw too little for this to mean anything"


def test_move_loses_the_file_at_neither_end(tmp_path: Path) -> None:
    data = os.urandom(5000)
    (tmp_path / "source").write_bytes(data)

    def move(store: BlobStore, disk: RecordingDisk) -> None:
        add(store, tmp_path / "source", how="move", disk=disk)

    assert _replay(tmp_path, [move], [(0, digest_of(data))]) > 30


def test_a_rebuilt_manifest(tmp_path: Path) -> None:
    data = os.urandom(5000)
    (tmp_path / "source").write_bytes(data)

    def add_and_lose(store: BlobStore, disk: RecordingDisk) -> None:
        stored = add(store, tmp_path / "source", disk=disk)
        store.rebuild_manifest(stored.digest)

    assert _replay(tmp_path, [add_and_lose], [(0, digest_of(data))]) > 30


class _NoFsync(RecordingDisk):
    """A disk that forgets: to show that the replay finds a store that doesn't wait for the disk."""

    def create(self, path: Path, mode: int = 0o600) -> DiskFile:
        file = super().create(path, mode)
        file.fsync = lambda: None  # type: ignore[method-assign] # the fault that this disk is for
        return file


class _NoFolderSync(RecordingDisk):
    def sync_folder(self, path: Path) -> None:
        Disk.sync_folder(self, path)


@pytest.mark.parametrize("kind", [_NoFsync, _NoFolderSync])
def test_the_replay_finds_a_store_that_does_not_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[RecordingDisk]
) -> None:
    data = os.urandom(3000)
    (tmp_path / "source").write_bytes(data)
    monkeypatch.setattr("store.test_power_loss.RecordingDisk", kind)

    def add_it(store: BlobStore, disk: RecordingDisk) -> None:
        add(store, tmp_path / "source", disk=disk)

    with pytest.raises(AssertionError):
        _replay(tmp_path, [add_it], [(0, digest_of(data))])
