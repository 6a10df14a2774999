"""One HTTP source: what is taken from it, and what is not, each over a real socket."""

from __future__ import annotations

import hashlib
import random
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from aibrother_node.content.chunks import MAX_MANIFEST_BYTES
from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput
from aibrother_replicator.http_body import parse_retry_after
from aibrother_replicator.http_source import HttpConnection, HttpSource, SourceError, Timeouts
from aibrother_replicator.schedule import Fault
from replicator.sources import Behaviour, Server, certificate, serving, wait_until

if TYPE_CHECKING:
    from pathlib import Path

DATA = random.Random(1).randbytes(3_000_000)
DIGEST = Digest(hashlib.sha256(DATA).digest())
QUICK = Timeouts(connect=2.0, stall=0.3)


def fetch(line: HttpConnection, start: int, stop: int, *, total: int = len(DATA), pieces: int = 1 << 20) -> bytes:
    memory = memoryview(bytearray(stop - start))
    with line.open_range(DIGEST, start, stop - start, total) as body:
        for position in range(0, len(memory), pieces):
            body.fill(memory[position : position + pieces])
    return bytes(memory)


def failing(behaviour: Behaviour, start: int = 1000, stop: int = 2_000_000, **more: Any) -> SourceError:
    """The error that a range from such a source ends in; it names the URL."""
    with serving(behaviour) as [server], HttpSource(server.url, timeouts=QUICK).connect() as line:
        with pytest.raises(SourceError) as caught:
            fetch(line, start, stop, **more)
        assert str(caught.value).startswith(f"{server.url}/")
        return caught.value


# What is taken


@pytest.mark.parametrize("pieces", [1 << 20, 100_000, 8192, 8191, 1000])
def test_ranges_are_exact_over_one_connection(pieces: int) -> None:
    spans = [
        (0, len(DATA)),
        (5, 6),
        (100, 8292),
        (0, 16384),
        (0, 16385),
        (1_000_000, 1_700_001),
        (len(DATA) - 1, len(DATA)),
    ]
    with serving(Behaviour(DATA)) as [server], HttpSource(server.url).connect() as line:
        for start, stop in spans:
            if (stop - start) // pieces < 1000:
                assert fetch(line, start, stop, pieces=pieces) == DATA[start:stop]
        assert server.connections == 1
        assert b"Accept-Encoding: identity" in server.heads[0]
        assert b"User-Agent: aibrother-node/" in server.heads[0]


def test_pieces_of_any_size_make_the_range() -> None:
    rng = random.Random(2)
    with serving(Behaviour(DATA)) as [server], HttpSource(server.url).connect() as line:
        for _ in range(30):
            memory = memoryview(bytearray(len(DATA)))
            position = 0
            with line.open_range(DIGEST, 0, len(DATA), len(DATA)) as body:
                while position < len(DATA):
                    count = min(rng.choice([1, 100, 8191, 8192, 8193, 20_000, 500_000]), len(DATA) - position)
                    body.fill(memory[position : position + count])
                    position += count
                    if rng.random() < 0.02:
                        break
            assert memory[:position] == DATA[:position]


def test_the_whole_may_come_as_200() -> None:
    with serving(Behaviour(DATA, ignore_range=True)) as [server], HttpSource(server.url).connect() as line:
        assert fetch(line, 0, len(DATA)) == DATA


def test_a_base_may_have_a_prefix_and_a_slash() -> None:
    with serving(Behaviour(DATA)) as [server], HttpSource(f"{server.url}/some/prefix/").connect() as line:
        assert fetch(line, 3, 9) == DATA[3:9]
        assert server.requests == [(f"/some/prefix/v1/blobs/{DIGEST}", (3, 9))]


def test_ipv6_literals() -> None:
    with Server(Behaviour(DATA), host="::1") as server, HttpSource(server.url).connect() as line:
        assert fetch(line, 3, 9) == DATA[3:9]
        assert f"Host: [::1]:{server.port}".encode() in server.heads[0]


def test_a_connection_that_was_closed_meanwhile_is_made_again() -> None:
    with serving(Behaviour(DATA)) as [server], HttpSource(server.url).connect() as line:
        assert fetch(line, 0, 10) == DATA[:10]
        server.behaviour.reset_heads = 1
        assert fetch(line, 10, 20) == DATA[10:20]
        assert server.connections == 2


def test_a_body_that_is_left_early_does_not_spoil_the_next() -> None:
    with serving(Behaviour(DATA)) as [server], HttpSource(server.url).connect() as line:
        with line.open_range(DIGEST, 0, len(DATA), len(DATA)) as body:
            body.fill(memoryview(bytearray(100_000)))
        assert fetch(line, 10, 20) == DATA[10:20]


def test_size() -> None:
    with serving(Behaviour(DATA), Behaviour(b""), Behaviour(b"x")) as servers:
        for server, size in zip(servers, (len(DATA), 0, 1), strict=True):
            with HttpSource(server.url).connect() as line:
                assert line.size(DIGEST) == size


def test_manifest() -> None:
    with serving(Behaviour(DATA, manifest=b"m" * 100_000)) as [server], HttpSource(server.url).connect() as line:
        assert line.manifest(DIGEST) == b"m" * 100_000
        assert line.manifest(DIGEST) == b"m" * 100_000
        assert server.connections == 1


def test_redirects_are_followed_and_both_connections_kept() -> None:
    with serving(Behaviour(DATA)) as [server], serving(Behaviour(DATA, redirect=server.url)) as [front]:
        with HttpSource(front.url).connect() as line:
            assert fetch(line, 0, 100_000) == DATA[:100_000]
            assert fetch(line, 5, 50) == DATA[5:50]
        assert (front.connections, server.connections) == (1, 1)


def test_https_with_a_private_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, trusted = certificate(tmp_path)
    with Server(Behaviour(DATA), tls=context) as server:
        with HttpSource(server.url, timeouts=QUICK).connect() as line, pytest.raises(SourceError) as caught:
            fetch(line, 0, 100)
        assert caught.value.fault is Fault.REFUSED
        with HttpSource(server.url, context=ssl.create_default_context(cafile=trusted)).connect() as line:
            assert fetch(line, 0, len(DATA)) == DATA
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        with HttpSource(server.url).connect() as line:
            assert fetch(line, 7, 1_000_007, pieces=3333) == DATA[7:1_000_007]


# What is not taken


def test_the_whole_instead_of_a_range() -> None:
    error = failing(Behaviour(DATA, ignore_range=True))
    assert error.fault is Fault.WRONG
    assert "expected 206 with bytes 1000-1999999/3000000, got 200" in str(error)


def test_a_page_instead_of_a_range() -> None:
    error = failing(Behaviour(DATA, html=True))
    assert error.fault is Fault.WRONG
    assert "text/html" in str(error)
    assert failing(Behaviour(DATA, html=True), 0, len(DATA)).fault is Fault.WRONG


@pytest.mark.parametrize(
    "behaviour", [Behaviour(DATA, shift=1), Behaviour(DATA, total=len(DATA) + 1), Behaviour(DATA, coding="gzip")]
)
def test_another_range_size_or_coding(behaviour: Behaviour) -> None:
    assert failing(behaviour).fault is Fault.WRONG


def test_a_body_that_is_cut() -> None:
    error = failing(Behaviour(DATA, truncate=1000))
    assert error.fault is Fault.UNREACHABLE
    assert "cut 1000 bytes before its end" in str(error)


def test_a_body_without_end() -> None:
    error = failing(Behaviour(DATA, endless=True))
    assert error.fault is Fault.WRONG
    assert "longer" in str(error)


def test_a_body_that_stalls() -> None:
    before = time.monotonic()
    error = failing(Behaviour(DATA, stall_at=1_000_000))
    assert error.fault is Fault.UNREACHABLE
    assert "in time" in str(error)
    assert time.monotonic() - before < 3


def test_a_body_that_drips() -> None:
    before = time.monotonic()
    error = failing(Behaviour(DATA, drip=0.05))
    assert error.fault is Fault.UNREACHABLE
    assert "stalled" in str(error)
    assert time.monotonic() - before < 3


def test_a_head_that_drips_is_cut_by_the_watchdog() -> None:
    with serving(Behaviour(DATA, drip_head=0.05)) as [server], HttpSource(server.url, timeouts=QUICK).connect() as line:
        errors: list[SourceError] = []

        def run() -> None:
            try:
                fetch(line, 0, 10)
            except SourceError as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()

        def cut() -> bool:
            line.cut_overdue(time.monotonic())
            return bool(errors)

        wait_until(cut, 5.0)
        thread.join()
        assert errors[0].fault is Fault.UNREACHABLE


def test_a_reset() -> None:
    assert failing(Behaviour(DATA, reset_heads=5)).fault is Fault.UNREACHABLE
    assert failing(Behaviour(DATA, reset_after=100_000)).fault is Fault.UNREACHABLE


def test_nobody_listens() -> None:
    with serving(Behaviour(DATA)) as [server]:
        url = server.url
    with HttpSource(url, timeouts=QUICK).connect() as line, pytest.raises(SourceError) as caught:
        fetch(line, 0, 1)
    assert caught.value.fault is Fault.UNREACHABLE


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (404, Fault.GONE),
        (410, Fault.GONE),
        (401, Fault.REFUSED),
        (403, Fault.REFUSED),
        (500, Fault.UNREACHABLE),
        (502, Fault.UNREACHABLE),
        (429, Fault.BUSY),
        (503, Fault.BUSY),
        (204, Fault.WRONG),
        (418, Fault.WRONG),
    ],
)
def test_what_a_status_means(status: int, fault: Fault) -> None:
    error = failing(Behaviour(DATA, status=status, retry_after="7"))
    assert error.fault is fault
    assert error.retry_after == (7.0 if fault is Fault.BUSY else None)


def test_redirects_without_end() -> None:
    error = failing(Behaviour(DATA, redirect="self"))
    assert error.fault is Fault.WRONG
    assert "more than 5 times" in str(error)


@pytest.mark.parametrize("where", ["ftp://127.0.0.1", "file:///etc/passwd"])
def test_redirects_to_what_is_not_http(where: str) -> None:
    error = failing(Behaviour(DATA, redirect=where))
    assert error.fault is Fault.WRONG
    assert "no http(s) URL" in str(error)


def test_a_manifest_has_a_ceiling() -> None:
    with (
        serving(Behaviour(DATA, manifest=bytes(MAX_MANIFEST_BYTES + 1))) as [server],
        HttpSource(server.url).connect() as line,
        pytest.raises(SourceError, match="expected at most"),
    ):
        line.manifest(DIGEST)


def test_abort_ends_what_waits_and_what_comes() -> None:
    with serving(Behaviour(DATA, stall_at=0)) as [server], HttpSource(server.url).connect() as line:
        threading.Timer(0.1, line.abort).start()
        before = time.monotonic()
        with pytest.raises(SourceError):
            fetch(line, 0, 1000)
        with pytest.raises(SourceError):
            fetch(line, 0, 1000)
        assert time.monotonic() - before < 3


@pytest.mark.parametrize(
    "base",
    ["", "127.0.0.1:80", "ftp://host", "http://", "http://host:99999", "http://h/?q=1", "http://h/a b", "http://[::1"],
)
def test_bases_that_are_none(base: str) -> None:
    with pytest.raises(InvalidInput):
        HttpSource(base)


# Proxies


def test_a_proxy_is_used_but_not_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Behaviour(DATA), Behaviour(DATA)) as [proxy, server]:
        monkeypatch.setenv("http_proxy", proxy.url.replace("http://", "http://me:secret@"))
        monkeypatch.setenv("no_proxy", "direct.example")
        with HttpSource("http://mirror.example:8080/x").connect() as line:
            assert fetch(line, 3, 9) == DATA[3:9]
        with HttpSource(server.url).connect() as line:
            assert fetch(line, 3, 9) == DATA[3:9]
        assert proxy.requests == [(f"http://mirror.example:8080/x/v1/blobs/{DIGEST}", (3, 9))]
        assert b"Proxy-Authorization: Basic bWU6c2VjcmV0" in proxy.heads[0]
        assert b"Host: mirror.example:8080" in proxy.heads[0]
        assert len(server.requests) == 1
        with HttpSource("http://direct.example:1", timeouts=QUICK).connect() as line, pytest.raises(SourceError):
            fetch(line, 3, 9)
        assert len(proxy.requests) == 1


def test_https_goes_through_a_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Behaviour(DATA)) as [proxy]:
        monkeypatch.setenv("https_proxy", proxy.url)
        with HttpSource("https://mirror.example", timeouts=QUICK).connect() as line, pytest.raises(SourceError):
            fetch(line, 3, 9)
        assert proxy.heads[0].startswith(b"CONNECT mirror.example:443 HTTP/1.")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 60.0),
        ("Wed, 21 Oct 2015 07:26:00 GMT", 0.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1" * 40, None),
        ("１２", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert parse_retry_after(value, 1445412420.0) == seconds
