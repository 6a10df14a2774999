"""`--link` on a file system that can: XFS in a loop device, made and mounted here."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.helpers import add, new_layout, open_store

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mkfs.xfs") is None, reason="mounting an XFS image needs root and xfsprogs"
)


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    image, folder = tmp_path / "image", tmp_path / "xfs"
    image.touch()
    os.truncate(image, 320 << 20)
    folder.mkdir()
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, folder], check=False, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no loop device to mount an XFS image with: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_blocks_are_shared_until_one_side_changes(xfs: Path) -> None:
    content = os.urandom(1 << 20) * 32
    source = xfs / "model.gguf"
    source.write_bytes(content)
    os.sync()
    layout = new_layout(xfs / "data")
    free = os.statvfs(xfs).f_bavail
    with open_store(layout) as store:
        stored = add(store, source, how="link")
    used = (free - os.statvfs(xfs).f_bavail) * os.statvfs(xfs).f_frsize
    assert used < len(content) / 4, "the blocks were copied"
    with source.open("r+b") as file:
        file.write(b"changed afterwards")
    assert layout.blob(stored.digest).read_bytes() == content
