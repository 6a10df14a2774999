"""A full disk under load: reads never fail, writes say so, and all goes on by itself when there is room again."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import pytest

from e2e.harness import Node, eventually
from e2e.publishing import done, names, publish, signing_node, write_gguf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
FULL = 75


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A running node whose data directory is on a file system of 32 MiB."""
    folder = tmp_path_factory.mktemp("small")
    small = folder / "data"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(small)], check=False).returncode != 0:
        pytest.skip("a tmpfs can't be mounted here")
    node = Node(folder)
    try:
        node = signing_node(folder, **{"store.reserve": "1 MiB", "store.gc_grace": "0s"})
        yield node.start()
        node.stop()
    finally:
        node.discard()
        subprocess.run(["umount", "-l", str(small)], check=False)


def fill(path: Path) -> None:
    """Take all the room that is left."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    os.write(fd, b"\0" * size)
    finally:
        os.close(fd)


class Reading:
    """Reads a blob again and again, in the background, and notes what went wrong."""

    def __init__(self, node: Node, digest: str) -> None:
        self.count = 0
        self.faults: list[str] = []
        self._ended = threading.Event()
        self._node, self._digest = node, digest
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._ended.is_set():
            reply = self._node.get(f"/v1/blobs/{self._digest}")
            found = hashlib.sha256(reply.body).hexdigest()
            if reply.status != 200 or f"sha256:{found}" != self._digest:
                self.faults.append(f"{reply.status} {found}")
            self.count += 1


def ask(node: Node, token: str, method: str, path: str, body: bytes = b"") -> int:
    """The status that the control plane answers with."""
    url = urlsplit(node.ready["urls"]["control"][0])
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=30)
    try:
        headers = {"Authorization": f"Bearer {token}"}
        if body.startswith(b"{"):
            headers["Content-Type"] = "application/json"
        connection.request(method, f"/admin/v1{path}", body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_full_disk_under_load(node: Node, tmp_path: Path) -> None:
    entry = publish(node, write_gguf(tmp_path / "a.gguf", "a", rows=1024), "a:f32@1")
    digest = f"sha256:{entry['sha256']}"
    write_gguf(tmp_path / "b.gguf", "b", rows=64)
    tokens = [
        done(node, "token", "create", "--scope", scope, "--json").json["token"] for scope in ("operate", "publish")
    ]
    operate, publisher = tokens
    control, filler = node.child("control"), node.data / "filler"
    upload = os.urandom(100_000)
    target = f"/uploads/sha256:{hashlib.sha256(upload).hexdigest()}"
    with Reading(node, digest) as reading:
        fill(filler)
        until = time.monotonic() + 2
        refused: dict[str, set[int]] = {}
        while time.monotonic() < until:
            fill(filler)  # what others give up is taken as well
            for what, status in {
                "upload": ask(node, publisher, "PUT", target, upload),
                "pin": ask(node, operate, "PUT", f"/pins/{digest}", b'{"reason": "mine"}'),
                "gc": ask(node, operate, "POST", "/gc", b"{}"),
                "scrub": ask(node, operate, "POST", "/scrub", b"{}"),
                "status": ask(node, operate, "GET", "/status"),
            }.items():
                refused.setdefault(what, set()).add(status)
        told = {
            command[0]: node.command(*command)
            for command in (
                ("add", tmp_path / "b.gguf"),
                ("pin", digest),
                ("publish", tmp_path / "b.gguf", "--name", "b", "--version", "1", "--variant", "f32"),
                ("yank", "a", "--reason", "none"),
                ("token", "create", "--scope", "read"),
            )
        }
        reads = {"status": {200}}
        assert refused == {what: {507} for what in ("upload", "pin", "gc", "scrub")} | reads
        assert {name: result.code for name, result in told.items()} == dict.fromkeys(told, FULL), told
        assert node.child("control") == control, "no crash loop"
        os.kill(control, signal.SIGKILL)
        after = node.successor("control", control)
        eventually(lambda: ask(node, operate, "GET", "/status") == 200, "it comes back on the full disk, too")
        assert node.child("control") == after
        filler.unlink()
        publish(node, tmp_path / "b.gguf", "b:f32@1")
        assert names(node) == ["a:f32@1", "b:f32@1"]
        eventually(lambda: ask(node, publisher, "PUT", target, upload) == 201, "uploads go on")
        assert node.command("gc", "--watch").code == 0
        read = reading.count
        eventually(lambda: reading.count > read, "it is still read")
    assert not reading.faults
    assert reading.count > 20
