"""Memory doesn't grow with the size of what is served or added."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from e2e.harness import PROGRAM, Node, environment, forget_peak, memory
from e2e.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HUGE, SMALL = 60 << 30, 60 << 20


def sparse(path: Path, size: int) -> Path:
    """A file that is zero but for its ends, and takes no room."""
    with path.open("wb") as file:
        file.write(b"first")
        os.truncate(path, size)
        file.seek(size - 4)
        file.write(b"last")
    return path


def stream(wire: Wire, target: str, first: int, length: int) -> None:
    wire.ask(target, f"Range: bytes={first}-{first + length - 1}")
    head = wire.head()
    assert (head.status, head["Content-Length"]) == (206, str(length))
    left = length
    while left:
        piece = wire.some(min(left, 1 << 20))
        assert piece
        left -= len(piece)


def test_serving_60_gib_takes_no_more_than_serving_60_mib(
    make_node: Callable[..., Node], tmp_path: Path, soaking: bool
) -> None:
    node = make_node(empty=True)
    node.start()
    # put there behind the node's back and never hashed, so any name will do
    huge, small = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
    node.put(sparse(tmp_path / "huge", HUGE), huge)
    node.put(sparse(tmp_path / "small", SMALL), small)
    worker = node.child()
    peaks = {}
    with Wire(("127.0.0.1", node.port)) as wire:
        for digest, size in ((small, SMALL), (huge, HUGE)):
            target = f"/v1/blobs/{digest}"
            forget_peak(worker)
            for _ in range(2):
                wire.ask(target, method="HEAD")
                assert wire.answer("HEAD")["Content-Length"] == str(size)
                wire.ask(target, "Range: bytes=-6")
                answer = wire.answer()
                assert (answer.body, answer["Content-Range"]) == (b"\0\0last", f"bytes {size - 6}-{size - 1}/{size}")
                wire.ask(target, f"Range: bytes=0-5,{size - 4}-,{size // 2}-{size // 2 + 9}")
                assert b"\r\n\r\nlast\r\n" in wire.answer().body
            stream(wire, target, size // 2 - (25 << 20), 50 << 20)
            if size == HUGE:
                for part in range(8 if soaking else 1):
                    stream(wire, target, part * (7 << 30), (1 << 30) if soaking else (512 << 20))
            peaks[digest] = memory(worker, "VmHWM")
    print(f"worker's peak RSS: {peaks[small] / 1e6:.1f} MB serving 60 MiB, {peaks[huge] / 1e6:.1f} MB serving 60 GiB")
    assert peaks[huge] < peaks[small] + (8 << 20)


# A child's peak begins with what its parent had when it forked, so the parent must be small: not this process.
_MEASURE = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, status, usage = os.wait4(pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss)
"""


def peak_of_add(node: Node, path: Path) -> int:
    """The peak RSS of `add`, in bytes."""
    measured = subprocess.run(
        [sys.executable, "-S", "-c", _MEASURE, PROGRAM, "--data", str(node.data), "add", str(path)],
        check=True,
        capture_output=True,
        env=environment(),
    )
    code, kilobytes = map(int, measured.stdout.split())
    assert code == 0, measured.stderr
    return kilobytes << 10


@pytest.mark.parametrize(
    "size", [256 << 20, pytest.param(4 << 30, marks=[pytest.mark.soak, pytest.mark.timeout(600)])], ids=["256M", "4G"]
)
@pytest.mark.parametrize("running", [False, True], ids=["stopped", "running"])
def test_adding_much_takes_no_more_than_adding_little(
    make_node: Callable[..., Node], tmp_path: Path, size: int, running: bool
) -> None:
    node = make_node(empty=True)
    if running:
        node.start()
    little = peak_of_add(node, sparse(tmp_path / "little", 16 << 20))
    control = 0
    if running:
        control = memory(node.child("control"))
        forget_peak(node.child("control"))
    much = peak_of_add(node, sparse(tmp_path / "much", size))
    print(f"add's peak RSS: {little / 1e6:.1f} MB for 16 MiB, {much / 1e6:.1f} MB for {size >> 20} MiB")
    assert much < little + (16 << 20)
    if running:
        growth = memory(node.child("control"), "VmHWM") - control
        print(f"control's RSS grew by {growth / 1e6:.1f} MB")
        assert growth < 32 << 20
