"""kill -9 at a random instant of `add`: nothing wrong is ever visible, the next start is clean, nothing is lost."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aibrother_node.store.disk import Disk
from aibrother_node.store.layout import Layout
from aibrother_node.store.verify import verify_store
from counts import rounds
from store.helpers import assert_visible_is_right, digest_of, open_store

_SIZE = 48 << 20
_PROGRAM = [sys.executable, "-m", "aibrother_tools"]


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*_PROGRAM, *map(str, arguments)], check=True, capture_output=True, text=True)


@pytest.mark.parametrize("how", ["copy", "move"])
def test_kill_9_of_add(tmp_path: Path, how: str) -> None:
    data_dir = tmp_path / "data"
    _run("init", "--no-catalog", "--data", data_dir)
    layout = Layout(data_dir)
    content = os.urandom(_SIZE)
    digest = digest_of(content)
    source = tmp_path / "model.gguf"
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    command = [*_PROGRAM, "add", "--data", str(data_dir), str(source), *(["--move"] if how == "move" else [])]

    source.write_bytes(content)
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    whole = time.monotonic() - started
    landed = 0
    for _ in range(rounds(5, 50)):
        _forget(layout)
        source.write_bytes(content)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(rng.uniform(0, whole * 1.1))
            process.kill()
        assert_visible_is_right(layout)
        with open_store(layout) as store:
            store.take_in_all()
            assert list(layout.incoming.iterdir()) == []
            assert verify_store(store, Disk(), repair=False).sound
            assert source.exists() or layout.blob(digest).exists(), "the file is gone from both places"
            if layout.blob(digest).exists():
                landed += 1
                assert store.pin_reason(digest) is not None, "visible without its pin"
    print(f"{landed} of {rounds(5, 50)} had landed")
    source.write_bytes(content)
    subprocess.run(command, check=True, capture_output=True)
    assert layout.blob(digest).read_bytes() == content


def _forget(layout: Layout) -> None:
    """Empty the store, so that the next round begins as the first."""
    for folder in (layout.blobs, layout.pins, layout.quarantine):
        for path in folder.iterdir():
            path.unlink()
