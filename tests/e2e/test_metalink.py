"""aria2 downloads a published model from several nodes by its Metalink, whatever becomes of some of them.

The nodes are real; who else has the model is written into the first one's fleet view by the test, in the place of its
control process, which is held still meanwhile: what is tested here is what workers make of it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import pytest

from aibrother_node.content.digest import Digest
from aibrother_node.fleet.view import FleetViewWriter, PeerView
from aibrother_node.store.layout import Layout
from e2e.harness import PATIENCE, Node, clients_of, eventually
from e2e.publishing import done, publish, sha256_of, signing_node, write_gguf
from e2e.test_clients import call, client

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

NS = "{urn:ietf:params:xml:ns:metalink}"
BERLIN = {"node__latitude": 52.52, "node__longitude": 13.405, "node__region": "eu"}
SIZE_KIB = 48 << 10


@dataclass(frozen=True)
class Template:
    """Two stopped nodes with one model of 48 MiB; the first one has it in its catalog."""

    model: Path
    publisher: Node
    mirror: Node


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    folder = tmp_path_factory.mktemp("template")
    model = write_gguf(folder / "model.gguf", "metalink", rows=SIZE_KIB)
    publisher = signing_node(folder / "publisher")
    publish(publisher, model, "meta:f32@1")
    mirror = Node(folder / "mirror")
    mirror.folder.mkdir()
    done(mirror.init(), "add", model)
    return Template(model, publisher, mirror)


class Fleet:
    """Three nodes that have the model; the first one has the catalog.

    Attributes:
        nodes: to be started.
        model: the file.
        path: of the part, on the first node.
    """

    def __init__(self, folder: Path, template: Template) -> None:
        self.model = template.model
        self.digest = Digest.from_hex(sha256_of(self.model))
        self.path = "/models/meta-1-f32.gguf"
        self.nodes: list[Node] = []
        for number in range(3):
            node = Node(folder / f"node-{number}")
            node.folder.mkdir()
            if number == 0:
                node.like(template.publisher).configure(catalog__signer=True, **BERLIN)
            else:
                node.like(template.mirror)
            node.configure(node__drain_seconds=3, log__access_log=str(folder / f"access-{number}"))
            self.nodes.append(node)

    def access(self, number: int) -> str:
        """What a node has been asked."""
        path = self.nodes[0].folder.parent / f"access-{number}"
        return path.read_text() if path.exists() else ""

    @contextmanager
    def known_as(self, *urls: str) -> Iterator[None]:
        """Have the first node's workers know who else has the model, nearer ones first."""
        node = self.nodes[0]
        control = node.child("control")
        os.kill(control, signal.SIGSTOP)
        try:
            writer = FleetViewWriter(Layout(node.data).fleet_view)
            peers = [
                PeerView(f"{number:064x}", url, "eu", "DE", 52.52 + number, 13.405)
                for number, url in enumerate(urls, 1)
            ]
            writer.put_peers(peers, time.time())
            for peer in peers:
                writer.change_holdings(peer.id, {self.digest: "complete"})
            eventually(
                lambda: len(node.get(self.path, {"Range": "bytes=0-0"}).headers.get_all("Link", [])) == len(urls),
                "the workers' look at the fleet view",
            )
            yield
            writer.close()
        finally:
            with contextlib.suppress(ProcessLookupError):  # the test may have ended the node
                os.kill(control, signal.SIGCONT)


@pytest.fixture
def fleet(tmp_path: Path, template: Template) -> Iterator[Fleet]:
    made = Fleet(tmp_path, template)
    try:
        for node in made.nodes:
            node.start()
        yield made
        for node in made.nodes:
            if node.process is not None:
                node.stop()
    finally:
        for node in made.nodes:
            node.discard()


@contextmanager
def liar(data: bytes) -> Iterator[tuple[str, list[int]]]:
    """A mirror whose every byte is wrong, with ranges; its URL, and how many bytes it sent each time."""
    sent: list[int] = []
    flipped = bytes(byte ^ 0xFF for byte in data)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            first = int(found[1]) if found else 0
            stop = int(found[2]) + 1 if found and found[2] else len(flipped)
            self.send_response(206 if found else 200)
            if found:
                self.send_header("Content-Range", f"bytes {first}-{stop - 1}/{len(flipped)}")
            self.send_header("Content-Length", str(stop - first))
            self.end_headers()
            try:
                self.wfile.write(flipped[first:stop])
                sent.append(stop - first)
            except OSError:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", sent
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def metalink_of(fleet: Fleet, folder: Path) -> Path:
    """Fetch the Metalink from the first node."""
    reply = fleet.nodes[0].get(f"{fleet.path}.meta4")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/metalink4+xml")
    path = folder / "x.meta4"
    path.write_bytes(reply.body)
    return path


def aria2(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Begin to download with aria2; its log is `folder/aria2.log`."""
    return subprocess.Popen(
        [client("aria2c"), "--no-conf", "-d", str(folder), f"--log={folder / 'aria2.log'}", "--log-level=info", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> str:
    """Wait for the end; it must be a success."""
    out, _ = process.communicate(timeout=PATIENCE * 4)
    assert process.returncode == 0, out
    return out


def urls_of(metalink: Path) -> Sequence[str]:
    (file,) = ET.fromstring(metalink.read_bytes())
    return [url.text or "" for url in file.findall(f"{NS}url")]


OPTIONS = ("--check-integrity=true", "-s4", "-x4", "-k1M")


def test_from_all_three(fleet: Fleet, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with fleet.known_as(fleet.nodes[1].url, fleet.nodes[2].url):
        metalink = metalink_of(fleet, tmp_path)
        (file,) = ET.fromstring(metalink.read_bytes())
        pieces = file.find(f"{NS}pieces")
        assert pieces is not None
        assert len(pieces) == -(-fleet.model.stat().st_size // (8 << 20))
        assert [urlsplit(url).port for url in urls_of(metalink)] == [node.port for node in fleet.nodes]
        finished(aria2(out, f"--metalink-file={metalink}", *OPTIONS))
    assert (out / "meta-1-f32.gguf").read_bytes() == fleet.model.read_bytes()
    for number in range(3):
        eventually(lambda number=number: str(fleet.digest) in fleet.access(number), f"{number} was asked")  # type: ignore[misc]


def test_while_one_dies_and_one_lies(fleet: Fleet, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    dying = fleet.nodes[2]
    dying.may_complain = True
    with liar(fleet.model.read_bytes()) as (bad, sent):
        with fleet.known_as(bad, fleet.nodes[1].url, dying.url):
            metalink = metalink_of(fleet, tmp_path)
            assert len(urls_of(metalink)) == 4
            limit = "--max-overall-download-limit=12M"
            process = aria2(out, f"--metalink-file={metalink}", *OPTIONS, limit, "--retry-wait=1", "--max-tries=3")
            try:
                eventually(lambda: connected(dying), "a connection to the node that is to die")
                dying.discard()
                assert process.poll() is None, "aria2 was done before the node died"
                finished(process)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.communicate()
        assert (out / "meta-1-f32.gguf").read_bytes() == fleet.model.read_bytes()
        assert sum(sent) > 0, "the liar was never asked"
        assert "Chunk checksum validation failed" in (out / "aria2.log").read_text()


def connected(node: Node) -> bool:
    """Whether somebody is being sent something."""
    return bool(clients_of(node.child("worker-0"), node.port))


def test_link_fields_alone_lead_aria2_on_when_the_first_node_dies(fleet: Fleet, tmp_path: Path) -> None:
    """RFC 6249: no Metalink file, only the URL of the part on the first node."""
    out = tmp_path / "out"
    out.mkdir()
    first = fleet.nodes[0]
    with fleet.known_as(fleet.nodes[1].url):
        process = aria2(out, "-s2", "-k1M", "--max-overall-download-limit=12M", "--max-tries=3", first.url + fleet.path)
        try:
            eventually(lambda: connected(first) and (out / "meta-1-f32.gguf").exists(), "a download")
            first.discard()
            assert process.poll() is None, "aria2 was done before the node died"
            finished(process)
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
    assert (out / "meta-1-f32.gguf").read_bytes() == fleet.model.read_bytes()
    eventually(lambda: str(fleet.digest) in fleet.access(1), "the second node was asked")


def test_curl_follows_a_redirect_of_a_miss(fleet: Fleet, tmp_path: Path) -> None:
    first = fleet.nodes[0]
    first.configure(public__on_miss="redirect")
    first.send(signal.SIGHUP)
    with fleet.known_as(fleet.nodes[1].url):
        (first.data / "blobs/sha256" / fleet.digest.hex).unlink()
        eventually(lambda: first.get(fleet.path, method="HEAD").status == 307, "the look for removed blobs")
        target = tmp_path / "from-1000"
        call(client("curl"), "-sSfL", "-r", "1000-", "-o", target, first.url + fleet.path)
        assert target.read_bytes() == fleet.model.read_bytes()[1000:]
    eventually(lambda: f"via={first.ready['node']}" in fleet.access(1), "a line in the second node's log")
