"""Programs that people download with."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from e2e.harness import PATIENCE, Node
from e2e.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Content


def client(name: str) -> str:
    """The path of a program, or skip."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def call(*words: str | Path) -> str:
    """Run a client; it must succeed."""
    done = subprocess.run(
        [str(word) for word in words], check=False, capture_output=True, text=True, timeout=PATIENCE * 2
    )
    assert done.returncode == 0, done
    return done.stdout


def test_curl_resumes(node: Node, large: Content, tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    target.write_bytes(large.data[:1_234_567])
    call(client("curl"), "-sSf", "-C", "-", "-o", target, node.url + large.target)
    assert target.read_bytes() == large.data


def test_curl_saves_by_the_name_in_the_address(node: Node, model: Content, tmp_path: Path) -> None:
    # fmt: off
    call(client("curl"), "-sSf", "-OJ", "--output-dir", tmp_path, f"{node.url}{model.target}?filename=phi.gguf")
    # fmt: on
    assert (tmp_path / "phi.gguf").read_bytes() == model.data


def test_curl_ranges_and_no_coding_ever(node: Node, model: Content, tmp_path: Path) -> None:
    curl = client("curl")
    head, body = tmp_path / "head", tmp_path / "body"
    call(curl, "-sSf", "-r", "100-199", "-o", body, node.url + model.target)
    assert body.read_bytes() == model.data[100:200]
    call(curl, "-sSf", "--compressed", "-D", head, "-o", body, node.url + model.target)
    assert body.read_bytes() == model.data
    assert "content-encoding" not in head.read_text().lower()
    call(curl, "-sSf", "--http2", "-o", body, node.url + model.target, node.url + model.target, "-o", body)
    assert body.read_bytes() == model.data


def test_curl_asks_twice_and_downloads_once(node: Node, model: Content, tmp_path: Path) -> None:
    etag, body = tmp_path / "etag", tmp_path / "body"
    again = (client("curl"), "-sSf", "--etag-save", etag, "--etag-compare", etag, "-w", "%{http_code}", "-o", body)
    assert call(*again, node.url + model.target) == "200"
    assert call(*again, node.url + model.target) == "304"
    assert body.read_bytes() == model.data


def test_curl_by_ipv6(node: Node, model: Content, tmp_path: Path) -> None:
    url = next((url for url in node.urls if "[" in url), None)
    if url is None:
        pytest.skip("this machine has no IPv6")
    call(client("curl"), "-sSfg", "-o", tmp_path / "body", url + model.target)
    assert (tmp_path / "body").read_bytes() == model.data


def test_aria2_with_sixteen_connections(node: Node, large: Content, tmp_path: Path) -> None:
    url = node.url + large.target
    # fmt: off
    call(client("aria2c"), "--no-conf", "-q", "-x16", "-s16", "-k1M", "-d", tmp_path, "-o", "out", url)
    # fmt: on
    assert (tmp_path / "out").read_bytes() == large.data


def test_wget_resumes(node: Node, large: Content, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(large.data[:5_000_000])
    call(client("wget"), "-q", "-c", "-O", target, node.url + large.target)
    assert target.read_bytes() == large.data


def test_huggingface_gguf_reads_in_steps(node: Node, large: Content) -> None:
    """Two million bytes at a time from the start, on one connection (@huggingface/gguf)."""
    with Wire(("127.0.0.1", node.port)) as wire:
        for first in range(0, 10_000_000, 2_000_000):
            wire.ask(large.target, f"Range: bytes={first}-{first + 1_999_999}")
            answer = wire.answer()
            assert (answer.status, answer.body) == (206, large.data[first : first + 2_000_000])


def test_a_client_that_leaves_after_the_head_is_nothing_to_log(node: Node, large: Content) -> None:
    """node-llama-cpp asks for everything, reads the head, leaves, and then asks for ranges."""
    before = node.log
    for leave in (Wire.close, Wire.reset):
        for _ in range(20):
            wire = Wire(("127.0.0.1", node.port))
            wire.ask(large.target)
            assert wire.head().status == 200
            leave(wire)
    with Wire(("127.0.0.1", node.port)) as wire:
        wire.ask(large.target, "Range: bytes=10-19")
        assert wire.answer().body == large.data[10:20]
    assert node.log == before
