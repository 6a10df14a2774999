"""Fixtures that all tests may use: nodes in processes of their own, and content for them."""

from __future__ import annotations

import hashlib
import os
import random
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import hypothesis
import pytest

from e2e.harness import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start, also where a shell began this in the background and had it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # how long an example takes says more of what else the machine does
    hypothesis.settings.register_profile("tests", deadline=None)
    hypothesis.settings.load_profile("tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the full counts to `make soak`: deselected, not skipped, since the same tests run here with small ones."""
    if os.environ.get("SOAK_TESTS") == "1":
        return
    full = [item for item in items if item.get_closest_marker("soak")]
    if full:
        config.hook.pytest_deselected(items=full)
        items[:] = [item for item in items if item not in full]


@pytest.fixture(scope="session")
def soaking() -> bool:
    """Whether this is the long run."""
    return os.environ.get("SOAK_TESTS") == "1"


@dataclass(frozen=True)
class Content:
    """A file, and what is known of it."""

    path: Path
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    @property
    def target(self) -> str:
        return f"/v1/blobs/{self.digest}"


@pytest.fixture(scope="session")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Content]:
    """Files of several sizes; `model` is a real GGUF file, `large` has 64 MiB, more than any socket's buffers hold."""
    import gguf

    from content.gguf_files import write_model

    folder = tmp_path_factory.mktemp("contents")
    quantization = gguf.GGMLQuantizationType.Q8_0
    write_model(folder / "model", tensors=[(f"blk.{n}.w", (256, 256), quantization) for n in range(8)], vocabulary=500)
    made = random.Random(20)
    for name, size in (("empty", 0), ("byte", 1), ("medium", 3_000_001), ("large", 64 << 20)):
        (folder / name).write_bytes(made.randbytes(size))
    return {path.name: Content(path, path.read_bytes()) for path in folder.iterdir()}


@pytest.fixture(scope="session")
def model(contents: dict[str, Content]) -> Content:
    """A real GGUF file of half a megabyte."""
    return contents["model"]


@pytest.fixture(scope="session")
def large(contents: dict[str, Content]) -> Content:
    """64 MiB that no compressor makes smaller."""
    return contents["large"]


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory, contents: dict[str, Content]) -> Node:
    """A stopped node that has all contents: to be copied, never to be started."""
    node = Node(tmp_path_factory.mktemp("filled")).init()
    assert sorted(node.add(*(one.path for one in contents.values()))) == sorted(one.digest for one in contents.values())
    return node


@pytest.fixture
def make_node(tmp_path: Path, filled: Node) -> Iterator[Callable[..., Node]]:
    """Make nodes, filled by default; settings are given as `limits__max_ranges=4`.

    What still runs at the end of the test is ended by SIGTERM and must end cleanly.
    """
    made: list[Node] = []

    def make(*, empty: bool = False, **settings: object) -> Node:
        folder = tmp_path / f"node-{len(made)}"
        folder.mkdir()
        node = Node(folder)
        made.append(node)
        if empty:
            node.init()
        else:
            node.like(filled)
        node.configure(**{"node__drain_seconds": 5, **settings})
        return node

    try:
        yield make
        for node in made:
            if node.process is not None:
                node.stop()
    finally:
        for node in made:
            node.discard()


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory, filled: Node) -> Iterator[Node]:
    """A running node with two workers and all contents, for tests that only read from it."""
    shared = Node(tmp_path_factory.mktemp("shared")).like(filled)
    shared.configure(node__drain_seconds=5)
    try:
        yield shared.start(workers=2)
        shared.stop()
    finally:
        shared.discard()
