"""Hostile, broken and slow clients: each is bounded, and none of them hurts the others."""

from __future__ import annotations

import random
import socket
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from counts import rounds
from e2e.harness import Node, descriptors, eventually, forget_peak, memory
from e2e.wire import Answer, Ended, Wire, fetch, request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Content

HEADER, KEEPALIVE, SEND = 1.0, 2.0, 2.0


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, filled: Node) -> Iterator[Node]:
    """A node with one worker and little patience."""
    node = Node(tmp_path_factory.mktemp("strict")).like(filled)
    node.configure(
        limits__header_timeout=HEADER,
        limits__keepalive_timeout=KEEPALIVE,
        limits__send_timeout=SEND,
        node__drain_seconds=3,
    )
    try:
        yield node.start()
        node.stop()
    finally:
        node.discard()


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    """What is entered here is left at the end, also of a test that fails."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def at(strict: Node) -> tuple[str, int]:
    return "127.0.0.1", strict.port


def seconds_until_end(wire: Wire) -> float:
    began = time.monotonic()
    assert wire.at_end()
    return time.monotonic() - began


# -- time


def test_a_header_that_drips_is_cut(at: tuple[str, int]) -> None:
    began = time.monotonic()
    with Wire(at) as wire:
        with suppress(ConnectionError):
            for byte in request("/healthz", "X-Slow: " + "x" * 4000):
                wire.send(bytes([byte]))
                time.sleep(0.02)
        assert wire.at_end()
    assert HEADER * 0.8 < time.monotonic() - began < HEADER + 3


def test_a_second_header_that_drips_is_cut_too(at: tuple[str, int]) -> None:
    with Wire(at) as wire:
        wire.send(request("/healthz") + b"GET /healthz HT")
        assert wire.answer().status == 200
        began = time.monotonic()
        with suppress(ConnectionError):
            for _ in range(400):
                time.sleep(0.05)
                wire.send(b"x")
        assert time.monotonic() - began < HEADER + 3


def test_a_connection_without_a_request_is_cut(at: tuple[str, int]) -> None:
    with Wire(at) as wire:
        assert HEADER * 0.8 < seconds_until_end(wire) < HEADER + 3


def test_an_idle_connection_is_closed(at: tuple[str, int]) -> None:
    with Wire(at) as wire:
        for _ in range(3):
            time.sleep(HEADER * 0.8)  # patience begins anew with each request
            wire.ask("/healthz")
            assert wire.answer().status == 200
        assert KEEPALIVE * 0.8 < seconds_until_end(wire) < KEEPALIVE + 3


def test_a_body_with_a_get_shortens_nobodys_patience(at: tuple[str, int]) -> None:
    """A body that comes late is no header that began: idle is idle, unless the answer said that the connection ends."""
    with Wire(at) as wire:
        wire.send(request("/healthz", "Content-Length: 4"))
        answer = wire.answer()
        assert answer.status == 200
        if answer.get("Connection") != "close":
            time.sleep(0.1)
            wire.send(b"body")
            assert KEEPALIVE * 0.8 < seconds_until_end(wire) < KEEPALIVE + 3


def test_a_reader_that_stops_is_cut_and_hurts_nobody(
    at: tuple[str, int], strict: Node, large: Content, cleanup: ExitStack
) -> None:
    worker = strict.child()
    open_before = descriptors(worker)
    stalled = [cleanup.enter_context(Wire(at, receive_buffer=1 << 16)) for _ in range(8)]
    forget_peak(worker)
    for wire in stalled:
        wire.ask(large.target)
        assert wire.head()["Content-Length"] == str(large.size)
    began = time.monotonic()
    slowest = 0.0
    with Wire(at) as quick:
        while time.monotonic() - began < SEND + 0.5:
            asked = time.monotonic()
            quick.ask(large.target, "Range: bytes=1000000-1000999")
            assert quick.answer().body == large.data[1_000_000:1_001_000]
            slowest = max(slowest, time.monotonic() - asked)
            time.sleep(0.01)
    assert slowest < 1
    eventually(lambda: descriptors(worker) <= open_before + 2, "all of them cut", 10)
    for wire in stalled:
        received = 0
        try:
            while piece := wire.some(1 << 20):
                received += len(piece)
        except ConnectionResetError:
            pass
        assert received < large.size
    assert memory(worker, "VmHWM") < 150 << 20


def test_a_slow_reader_is_not_a_stalled_one(at: tuple[str, int], large: Content) -> None:
    """As long as something moves within the time, the body goes on."""
    with Wire(at, receive_buffer=1 << 16) as wire:
        wire.ask(large.target, "Range: bytes=0-3999999")
        assert wire.head().status == 206
        body = b""
        until = time.monotonic() + SEND * 2
        while time.monotonic() < until:
            body += wire.body(100_000)
            time.sleep(SEND / 8)
        body += wire.body(4_000_000 - len(body))
        assert body == large.data[:4_000_000]


# -- size and shape

TOO_MUCH = [
    ("a long request line", b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a request line of 1 MiB", b"GET /" + b"x" * (1 << 20) + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a request line without an end", b"GET /" + b"x" * 40_000),
    ("a long field", b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 9000 + b"\r\n\r\n"),
    ("a long field name", b"GET / HTTP/1.1\r\nHost: a\r\n" + b"y" * 9000 + b": 1\r\n\r\n"),
    ("many fields", b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200 + b"\r\n"),
    ("very many fields", b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 50_000 + b"\r\n"),
]
NO_HTTP = [
    ("garbage", bytes(range(128, 256)) * 4),
    ("zeros", bytes(1000)),
    ("a TLS hello", bytes.fromhex("16030100f8010000f40303") + bytes(240)),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("SSH", b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"),
    ("SMB", bytes.fromhex("000000a4ff534d4272000000")),
    ("another version", b"GET /healthz HTTP/9.9\r\nHost: a\r\n\r\n"),
    ("no host", b"GET /healthz HTTP/1.1\r\n\r\n"),
    ("a bare colon", b"GET /healthz HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n"),
    ("a space before a colon", b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length : 0\r\n\r\n"),
    ("a folded field", b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n"),
    ("NUL in a field", b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
    ("a negative length", b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n"),
    ("a signed length", b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n"),
    ("a length beyond 64 bits", b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n"),
    ("two lengths", b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    ("two framings", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("an unknown coding", b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chonked\r\n\r\n"),
]


@pytest.mark.parametrize("data", [data for _, data in TOO_MUCH], ids=[name for name, _ in TOO_MUCH])
def test_too_much_is_refused(at: tuple[str, int], data: bytes) -> None:
    refusal = refused(at, data)
    assert refusal.status in (400, 414, 431)


@pytest.mark.parametrize("data", [data for _, data in NO_HTTP], ids=[name for name, _ in NO_HTTP])
def test_what_is_no_http_is_refused(at: tuple[str, int], data: bytes) -> None:
    assert refused(at, data).status in (400, 405, 501, 505)


def refused(at: tuple[str, int], data: bytes) -> Answer:
    """The problem document with which a connection ends; it arrives whatever else the client still writes."""
    with Wire(at, timeout=HEADER + 5) as wire:
        with suppress(ConnectionError):  # it need not take everything
            wire.send(data)
        answer = wire.answer()
        answer.problem()
        assert answer["Access-Control-Allow-Origin"] == "*"
        assert answer["Connection"] == "close"
        assert wire.at_end()
        return answer


def test_a_bad_request_behind_good_ones(at: tuple[str, int], model: Content) -> None:
    """What was good and came first is answered; the bad one is the last thing that is."""
    with Wire(at) as wire:
        wire.send(request(model.target) + request("/healthz") + b"\x00\x01garbage\r\n\r\n")
        assert wire.answer().body == model.data
        assert wire.answer().body == b'{"status": "alive"}'
        assert wire.answer().status == 400
        assert wire.at_end()


@pytest.mark.parametrize(
    "body",
    [
        b"5\r\nhello\r\n0\r\n\r\n",
        b"zz\r\nhello",
        b"FFFFFFFFFFFFFFFFF\r\n",
        b"5\r\nhel",
        b"-1\r\n",
        b"5;" + b"x" * 20_000,
    ],
)
def test_a_chunked_body_with_a_get(at: tuple[str, int], model: Content, body: bytes) -> None:
    """It is answered or refused, and soon; a request hidden in it is never carried out."""
    with Wire(at, timeout=10) as wire:
        wire.send(request(model.target, "Transfer-Encoding: chunked", "Range: bytes=0-1") + body)
        answer = wire.answer()
        assert answer.status in (206, 400, 431)
        if body.endswith(b"0\r\n\r\n") and answer.get("Connection") != "close":
            wire.ask("/healthz")
            assert wire.answer().status == 200
        else:
            while True:
                try:
                    assert wire.answer().status in (400, 431)
                except (Ended, ConnectionResetError):
                    break


def test_a_body_with_a_get(at: tuple[str, int], model: Content) -> None:
    """It is read over; a request hidden in it is never carried out."""
    hidden = request("/hidden")
    with Wire(at) as wire:
        wire.send(request(model.target, f"Content-Length: {len(hidden)}", "Range: bytes=0-1") + hidden)
        answer = wire.answer()
        assert answer.body == model.data[:2]
        if answer.get("Connection") == "close":
            assert wire.at_end()
            return
        wire.ask("/healthz")
        assert wire.answer().status == 200


def test_a_huge_body_is_not_waited_for(at: tuple[str, int], model: Content) -> None:
    with Wire(at) as wire:
        wire.send(request(model.target, "Content-Length: 9000000000000000000", "Range: bytes=0-1"))
        assert wire.answer().body == model.data[:2]
        assert seconds_until_end(wire) < 5
    with Wire(at) as wire:
        wire.send(request(model.target, "Content-Length: 1000000000", "Expect: 100-continue", method="PUT"))
        answer = wire.answer()
        while answer.status == 100:
            answer = wire.answer()
        assert answer.status == 405
        assert wire.at_end()


def test_an_upload_is_told_no(at: tuple[str, int], model: Content) -> None:
    """Who sends a body that nobody wants can read the answer."""
    with Wire(at) as wire:
        with suppress(ConnectionResetError, BrokenPipeError):
            wire.send(request(model.target, "Content-Length: 300000", method="POST") + bytes(300_000))
        answer = wire.answer()
        assert answer.status == 405
        answer.problem()


def test_thousands_of_ranges_in_one_header(at: tuple[str, int], model: Content) -> None:
    many = ",".join(f"{n}-{n}" for n in range(0, 2600, 2))
    answer = fetch(at, model.target, f"Range: bytes={many[:8000].rpartition(',')[0]}")
    assert answer.status == 416
    assert fetch(at, model.target, "Range: bytes=" + "," * 8000).status == 200
    assert fetch(at, model.target, *["Range: bytes=0-0"] * 90).status in (200, 206, 400, 416)


def test_random_bytes(at: tuple[str, int], soaking: bool) -> None:
    """Requests with a few bytes changed, cut and doubled: an answer or an end, always soon."""
    made = random.Random(7)
    whole = request("/healthz", "Range: bytes=0-0", "Content-Length: 3", "Connection: keep-alive") + b"abc"
    for _ in range(rounds(100, 3000)):
        data = bytearray(whole)
        for _ in range(made.randint(1, 4)):
            at_byte = made.randrange(len(data))
            match made.randrange(3):
                case 0:
                    data[at_byte] = made.randrange(256)
                case 1:
                    del data[at_byte : at_byte + made.randint(1, 9)]
                case 2:
                    data[at_byte:at_byte] = data[at_byte : at_byte + 9]
        with Wire(at, timeout=10) as wire:
            wire.send(bytes(data))
            wire.sock.shutdown(socket.SHUT_WR)
            try:
                while True:
                    assert wire.answer().status < 500
            except (Ended, ConnectionResetError):
                pass


# -- number


def test_too_many_connections(make_node: Callable[..., Node], model: Content, cleanup: ExitStack) -> None:
    node = make_node(limits__max_connections=5).start()
    at = ("127.0.0.1", node.port)
    held = [cleanup.enter_context(Wire(at)) for _ in range(5)]
    for wire in held:
        wire.ask("/healthz")
        assert wire.answer().status == 200
    for _ in range(10):
        answer = fetch(at, model.target)
        assert answer.status == 503
        assert int(answer["Retry-After"]) > 0
        assert answer["Connection"] == "close"
        assert answer["Access-Control-Allow-Origin"] == "*"
    for wire in held:
        wire.ask("/healthz")
        assert wire.answer().status == 200
    held.pop().close()

    def served() -> bool:
        return fetch(at, model.target).status == 200

    eventually(served, "room for one more")


def test_a_flood_of_pipelined_requests(at: tuple[str, int], strict: Node, large: Content) -> None:
    """Whoever asks 10,000 times and reads nothing costs one answer's memory, and is cut."""
    worker = strict.child()
    before = memory(worker)
    forget_peak(worker)
    with Wire(at, receive_buffer=1 << 16) as wire:
        wire.sock.settimeout(SEND)
        flood = request(large.target) * 10_000
        sent = 0
        with suppress(TimeoutError, ConnectionError):
            while sent < len(flood):
                sent += wire.sock.send(flood[sent : sent + (1 << 20)])
        assert fetch(at, "/healthz").status == 200
        eventually(lambda: ended(wire), "its end", 20)
    print(f"flood: RSS {before >> 20} MiB before, {memory(worker, 'VmHWM') >> 20} MiB at its peak")
    assert memory(worker, "VmHWM") < before + (30 << 20)


def ended(wire: Wire) -> bool:
    """Whether the server gave up on a client that doesn't read (TCP_INFO: no longer established)."""
    return wire.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != 1


def test_a_flood_of_small_requests_is_answered_in_order(at: tuple[str, int], strict: Node, model: Content) -> None:
    """The same from a client that reads, but only once it has written everything the connection takes."""
    worker = strict.child()
    before = memory(worker)
    forget_peak(worker)
    count = rounds(2500, 10_000)
    flood = b"".join(request(model.target, f"Range: bytes={n}-{n + 3}") for n in range(count))
    with Wire(at) as wire:
        wire.sock.setblocking(False)
        sent, answers, pieces = 0, 0, [b""]
        deadline = time.monotonic() + 60
        while answers < count and time.monotonic() < deadline:
            with suppress(BlockingIOError):
                while sent < len(flood):
                    sent += wire.sock.send(flood[sent : sent + (1 << 18)])
            try:
                pieces.append(wire.sock.recv(1 << 16))
            except BlockingIOError:
                time.sleep(0.001)
            else:
                # a marker may lie across two pieces
                answers += (pieces[-2][-15:] + pieces[-1]).count(b"HTTP/1.1 206 Pa")
                answers -= pieces[-2][-15:].count(b"HTTP/1.1 206 Pa")
        heads = b"".join(pieces).split(b"HTTP/1.1 206 Partial Content\r\n")[1:]
        assert len(heads) == count
        for n, head in enumerate(heads):
            assert head.rpartition(b"\r\n\r\n")[2] == model.data[n : n + 4]
    assert memory(worker, "VmHWM") < before + (30 << 20)


# -- ends


@pytest.mark.parametrize("target", ["{blob}", "/healthz", "/readyz", "{blob}?filename=a.gguf", "{chunks}", "/nothing"])
def test_a_half_closed_client_gets_its_answer(at: tuple[str, int], model: Content, target: str) -> None:
    target = target.format(blob=model.target, chunks=f"/v1/chunks/{model.digest}")
    expected = fetch(at, target)
    for _ in range(5):
        with Wire(at) as wire:
            wire.ask(target)
            wire.sock.shutdown(socket.SHUT_WR)
            answer = wire.answer()
            assert (answer.status, answer.body) == (expected.status, expected.body)
            assert seconds_until_end(wire) < 1.5


def test_a_half_closed_client_gets_a_large_answer(at: tuple[str, int], large: Content) -> None:
    with Wire(at) as wire:
        wire.ask(large.target)
        wire.sock.shutdown(socket.SHUT_WR)
        assert wire.answer().body == large.data
        assert wire.at_end()


def test_a_half_closed_client_gets_all_its_answers(at: tuple[str, int], contents: dict[str, Content]) -> None:
    asked = [contents["medium"], contents["model"], contents["byte"]] * 4
    with Wire(at) as wire:
        wire.send(b"".join(request(blob.target) for blob in asked))
        wire.sock.shutdown(socket.SHUT_WR)
        for blob in asked:
            assert wire.answer().body == blob.data
        assert wire.at_end()


def test_clients_that_reset_in_the_middle_leave_nothing_behind(
    at: tuple[str, int], strict: Node, large: Content
) -> None:
    worker = strict.child()
    before = descriptors(worker)
    log = strict.log
    for n in range(rounds(80, 5000)):
        wire = Wire(at, receive_buffer=1 << 16)
        wire.ask(large.target, f"Range: bytes={n * 1000}-" + (",0-0" if n % 3 == 0 else ""))
        if n % 4:
            wire.head()
        if n % 8 > 3:
            wire.body(100)
        wire.reset()
    eventually(lambda: descriptors(worker) <= before + 2, "descriptors given back", 10)
    assert strict.log == log
    assert fetch(at, large.target, "Range: bytes=0-0").status == 206
