"""Opening stores and checking what is visible in them."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aibrother_node.content.digest import Digest
from aibrother_node.store.blobs import BlobStore, Stored
from aibrother_node.store.disk import Disk
from aibrother_node.store.incoming import Options, stage
from aibrother_node.store.layout import DirectoryLock, Layout

CEILING = 1 << 20


def new_layout(root: Path, disk: Disk | None = None) -> Layout:
    layout = Layout(root)
    layout.create(disk or Disk())
    return layout


@contextmanager
def open_store(layout: Layout, disk: Disk | None = None) -> Iterator[BlobStore]:
    with DirectoryLock.take(layout.root, 5.0) as lock:
        store = BlobStore.open(layout, lock, manifest_ceiling=CEILING, disk=disk)
        try:
            yield store
        finally:
            store.close()


def options(how: str = "copy", pin: str | None = "test", reserve: int = 0) -> Options:
    return Options(how=how, pin=pin, reserve=reserve)


def add(store: BlobStore, path: Path, how: str = "copy", pin: str | None = "test", disk: Disk | None = None) -> Stored:
    """What `add` does on a stopped node."""
    staged, request = stage(store.layout, disk or Disk(), path, options(how, pin))
    with staged:
        return store.take_in(staged, request, verify=False)


def digest_of(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).digest())


def assert_visible_is_right(layout: Layout) -> None:
    """Invariant 1, by an independent look at the folder."""
    if not layout.blobs.is_dir():
        return
    for path in layout.blobs.iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name, f"{path.name} is visible and wrong"
