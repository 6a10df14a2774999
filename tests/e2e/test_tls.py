"""The public plane over TLS."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import ssl
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from e2e.certificates import make_certificate
from e2e.harness import PATIENCE, Node, descriptors, eventually, forget_peak, memory
from e2e.wire import Wire, request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Content


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, filled: Node) -> Iterator[Node]:
    """A node that speaks TLS."""
    folder = tmp_path_factory.mktemp("secure")
    certificate, key = make_certificate(folder)
    node = Node(folder).like(filled)
    node.configure(
        public__tls_certificate=str(certificate),
        public__tls_key=str(key),
        limits__header_timeout=2,
        limits__send_timeout=2,
        node__drain_seconds=3,
    )
    try:
        yield node.start()
        node.stop()
    finally:
        node.discard()


def tls(node: Node, **how: int) -> Wire:
    """A TLS connection that trusts the node's certificate and nothing else."""
    context = ssl.create_default_context(cafile=str(node.folder / "cert.pem"))
    return Wire(
        ("127.0.0.1", node.port), wrap=lambda sock: context.wrap_socket(sock, server_hostname="127.0.0.1"), **how
    )


def test_whole_and_ranges(secure: Node, contents: dict[str, Content]) -> None:
    assert secure.url.startswith("https://")
    medium = contents["medium"]
    with tls(secure) as wire:
        for blob in contents.values():
            wire.ask(blob.target)
            assert wire.answer().body == blob.data
        for first, last in [(0, 0), (5, 1_500_000), (2_999_999, 3_000_000), (262_143, 524_289)]:
            wire.ask(medium.target, f"Range: bytes={first}-{last}")
            answer = wire.answer()
            assert (answer.status, answer.body) == (206, medium.data[first : last + 1])
        wire.ask(medium.target, "Range: bytes=0-2,1000000-1999999")
        answer = wire.answer()
        assert answer.status == 206
        assert medium.data[1_000_000:2_000_000] in answer.body
        wire.ask(medium.target, method="HEAD")
        assert wire.answer("HEAD")["Content-Length"] == str(medium.size)
        wire.ask("/nothing")
        assert wire.answer().status == 404
        wire.send(request(medium.target) * 3)
        for _ in range(3):
            assert wire.answer().body == medium.data


def test_versions_and_protocols(secure: Node) -> None:
    context = ssl.create_default_context(cafile=str(secure.folder / "cert.pem"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    at = ("127.0.0.1", secure.port)
    with Wire(at, wrap=lambda sock: context.wrap_socket(sock, server_hostname="127.0.0.1")) as wire:
        assert isinstance(wire.sock, ssl.SSLSocket)
        assert wire.sock.version() == "TLSv1.3"
        assert wire.sock.selected_alpn_protocol() == "http/1.1"


def test_curl_with_the_certificate(secure: Node, large: Content, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    trusted = [curl, "-sSf", "--cacert", str(secure.folder / "cert.pem"), "-o", str(tmp_path / "out")]
    subprocess.run([*trusted, secure.url + large.target], check=True, timeout=PATIENCE)
    assert (tmp_path / "out").read_bytes() == large.data
    (tmp_path / "out").write_bytes(large.data[:50_000_000])
    subprocess.run([*trusted, "-C", "-", secure.url + large.target], check=True, timeout=PATIENCE)
    assert (tmp_path / "out").read_bytes() == large.data


def test_a_handshake_that_never_comes_is_cut(secure: Node) -> None:
    log = secure.log
    for first in (b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"):
        with Wire(("127.0.0.1", secure.port)) as wire:
            began = time.monotonic()
            wire.send(first)
            try:
                while wire.some():  # an alert may come
                    pass
            except ConnectionResetError:
                pass
            assert time.monotonic() - began < 6
    assert secure.log == log


def test_a_header_that_never_comes_is_cut(secure: Node) -> None:
    with tls(secure) as wire:
        began = time.monotonic()
        wire.send(b"GET / HT")
        with contextlib.suppress(ConnectionResetError, ssl.SSLError):
            assert wire.some() == b""
        assert 1.5 < time.monotonic() - began < 6


def test_a_slow_reader_gets_all(secure: Node, large: Content) -> None:
    with tls(secure, receive_buffer=1 << 16) as wire:
        wire.ask(large.target, "Range: bytes=0-2999999")
        wire.head()
        body = b""
        while len(body) < 1_500_000:
            body += wire.body(100_000)
            time.sleep(0.25)
        body += wire.body(3_000_000 - len(body))
        assert body == large.data[:3_000_000]


def test_readers_that_stop_are_cut_and_cost_little(secure: Node, large: Content) -> None:
    worker = secure.child()
    open_before = descriptors(worker)
    before = memory(worker)
    forget_peak(worker)
    stalled = [tls(secure, receive_buffer=1 << 16) for _ in range(20)]
    try:
        for wire in stalled:
            wire.ask(large.target)
            wire.head()
        with tls(secure) as quick:
            quick.ask(large.target, "Range: bytes=5-9")
            assert quick.answer().body == large.data[5:10]
        eventually(lambda: descriptors(worker) <= open_before + 1, "the stalled ones cut", 12)
    finally:
        for wire in stalled:
            wire.close()
    growth = memory(worker, "VmHWM") - before
    print(f"20 stalled TLS clients: RSS +{growth / 1e6:.1f} MB at the peak")
    assert growth < 60 << 20


def test_a_running_download_is_finished_at_the_end(
    make_node: Callable[..., Node], large: Content, tmp_path: Path
) -> None:
    """To its last byte: what the worker has encrypted and not yet sent when it is told to end is sent too."""
    node = make_node(node__drain_seconds=10)
    certificate, key = make_certificate(node.folder)
    node.configure(public__tls_certificate=str(certificate), public__tls_key=str(key))
    node.start()
    with tls(node, receive_buffer=1 << 16) as wire:
        wire.ask(large.target, "Range: bytes=0-999999")
        wire.head()
        body = wire.body(300_000)
        node.send(signal.SIGTERM)
        while len(body) < 1_000_000:
            time.sleep(0.1)
            body += wire.body(50_000)
        assert body == large.data[:1_000_000]
        began = time.monotonic()
        assert node.end() == 0
        assert time.monotonic() - began < 5, "a client that keeps its side open is not waited for"


def test_a_new_certificate_by_reload(make_node: Callable[..., Node], large: Content, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "old.test")
    node = make_node(public__tls_certificate=str(certificate), public__tls_key=str(key)).start()
    at = ("127.0.0.1", node.port)
    trust_all = ssl.create_default_context()
    trust_all.check_hostname = False
    trust_all.verify_mode = ssl.CERT_NONE

    def shown() -> bytes:
        with Wire(at, wrap=trust_all.wrap_socket) as wire:
            assert isinstance(wire.sock, ssl.SSLSocket)
            return wire.sock.getpeercert(binary_form=True) or b""

    def of_file() -> bytes:
        return ssl.PEM_cert_to_DER_cert(certificate.read_text())

    with Wire(at, wrap=trust_all.wrap_socket, receive_buffer=1 << 16) as running:
        running.ask(large.target)
        running.head()
        first = running.body(1_000_000)
        old = of_file()
        assert shown() == old
        make_certificate(tmp_path, "new.test")
        new = of_file()
        assert new != old
        node.send(signal.SIGHUP)
        eventually(lambda: shown() == new, "the new certificate", 10)
        # one that can't be used changes nothing
        (tmp_path / "cert.pem").write_text("nonsense")
        node.send(signal.SIGHUP)
        eventually(lambda: "public.tls_certificate" in node.log, "a line in the log", 10)
        assert shown() == new
        assert first + running.body(large.size - 1_000_000) == large.data
    # a worker that is started again has the last good one, or none, but never the broken one's ruin: it waits
    make_certificate(tmp_path, "third.test")
    os.kill(node.child(), signal.SIGKILL)
    eventually(lambda: shown() == of_file(), "the third certificate", 20)


def test_tls_is_not_switched_by_reload(make_node: Callable[..., Node], model: Content, tmp_path: Path) -> None:
    """All workers speak the same, also one that is started again later."""
    certificate, key = make_certificate(tmp_path)
    node = make_node().start()
    node.configure(public__tls_certificate=str(certificate), public__tls_key=str(key))
    node.send(signal.SIGHUP)
    eventually(lambda: "tls" in node.log, "a line in the log", 10)
    assert node.get(model.target).body == model.data
    worker = node.child()
    os.kill(worker, signal.SIGKILL)
    node.successor("worker-0", worker)
    assert node.get(model.target).body == model.data


def test_a_certificate_that_cannot_be_used(make_node: Callable[..., Node], tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    key.write_text("nonsense")
    node = make_node(public__tls_certificate=str(certificate), public__tls_key=str(key))
    for command in ("check-config", "serve"):
        refused = node.command(command)
        assert refused.code == 2
        assert "public.tls_certificate" in refused.err
    node.configure(public__tls_certificate="", public__tls_key=str(key))
    refused = node.command("check-config")
    assert refused.code == 2
    assert "tls_certificate" in refused.err
