"""What the supervisor does when it is told something: TERM, INT, HUP."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from typing import TYPE_CHECKING

from e2e.harness import Node, eventually
from e2e.wire import Ended, Wire, fetch

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Content


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_running_download_is_finished(make_node: Callable[..., Node], large: Content) -> None:
    node = make_node(node__drain_seconds=20).start()
    at = ("127.0.0.1", node.port)
    with Wire(at, receive_buffer=1 << 16) as slow, Wire(at) as idle:
        idle.ask("/healthz")
        assert idle.answer().status == 200
        slow.ask(large.target, "Range: bytes=0-4999999")
        assert slow.head()["Content-Range"].startswith("bytes 0-4999999/")
        body = slow.body(100_000)
        node.send(signal.SIGTERM)
        idle.sock.settimeout(5)
        assert idle.at_end(), "an idle connection is closed at once: who writes on it would wait in vain"
        eventually(lambda: refuses(at[1]), "no new connections", 5)
        while len(body) < 2_000_000:
            body += slow.body(100_000)
            time.sleep(0.1)
        assert node.process is not None
        assert node.process.poll() is None
        body += slow.body(5_000_000 - len(body))
        assert body == large.data[:5_000_000]
        assert slow.at_end()
        assert node.end() == 0


def test_an_idle_node_ends_quickly(make_node: Callable[..., Node]) -> None:
    node = make_node(node__drain_seconds=20).start(workers=2)
    held = [Wire(("127.0.0.1", node.port)) for _ in range(20)]
    began = time.monotonic()
    node.stop()
    assert time.monotonic() - began < 4
    for wire in held:
        # whoever was let in only while the node ended is told so
        assert wire.some(1 << 16).split(b"\r\n")[0] in (b"", b"HTTP/1.1 503 Service Unavailable")
        assert wire.at_end()
        wire.close()


def test_what_takes_longer_than_the_drain_is_cut(make_node: Callable[..., Node], large: Content) -> None:
    node = make_node(node__drain_seconds=1).start()
    with Wire(("127.0.0.1", node.port), receive_buffer=1 << 16) as slow:
        slow.ask(large.target)
        slow.head()
        began = time.monotonic()
        node.stop()
        assert 0.9 < time.monotonic() - began < 5
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := slow.some(1 << 20):
                received += len(piece)
        assert received < large.size


def test_a_second_signal_ends_at_once(make_node: Callable[..., Node], large: Content) -> None:
    node = make_node(node__drain_seconds=60).start()
    with Wire(("127.0.0.1", node.port), receive_buffer=1 << 16) as slow:
        slow.ask(large.target)
        slow.head()
        node.send(signal.SIGINT)
        eventually(lambda: refuses(node.port), "the drain's begin", 5)
        began = time.monotonic()
        node.send(signal.SIGINT)
        assert node.end() == 130
        assert time.monotonic() - began < 2


def test_requests_on_their_way_at_the_end_are_answered_or_refused(
    make_node: Callable[..., Node], model: Content
) -> None:
    """Nobody gets half an answer when the node is told to end."""
    node = make_node().start()
    at = ("127.0.0.1", node.port)
    wires = [Wire(at) for _ in range(50)]
    for wire in wires[:25]:
        wire.ask(model.target)
    node.send(signal.SIGTERM)
    for wire in wires[25:]:
        with contextlib.suppress(OSError):
            wire.ask(model.target)
    answered = 0
    for index, wire in enumerate(wires):
        try:
            assert wire.answer().body == model.data
            answered += 1
        except (Ended, ConnectionError):
            assert index >= 25, "a request that came before the signal was dropped"
        wire.close()
    assert answered >= 25
    assert node.end() == 0


def test_reloads(make_node: Callable[..., Node], model: Content, large: Content) -> None:
    """One node through all of them: faults change nothing, limits change at once, the rest waits for a restart."""
    node = make_node().start(workers=2)
    broken_configurations_change_nothing(node, model)
    a_new_limit_takes_effect(node, large)
    what_needs_a_restart_is_said_and_not_done(node, model)


def broken_configurations_change_nothing(node: Node, model: Content) -> None:
    children = node.children()
    at = ("127.0.0.1", node.port)
    faults = [
        ("[limits]\nmax_ranges = 'many'\n", "limits.max_ranges"),
        ("[limits]\nno_such_key = 1\n", "no_such_key"),
        ("this is [not TOML", "node.toml"),
        (None, "node.toml"),
    ]
    for text, named in faults:
        before = len(node.log)
        toml = node.data / "node.toml"
        if text is None:
            toml.unlink()
            toml.mkdir()
        else:
            toml.write_text(text)
        node.send(signal.SIGHUP)
        eventually(lambda: named in node.log[before:], f"a line about {named}", 5)  # noqa: B023
        assert "the node goes on as it was" in node.log[before:]
        assert fetch(at, model.target, "Range: bytes=0-0,2-2").status == 206
    assert node.children() == children
    (node.data / "node.toml").rmdir()


def a_new_limit_takes_effect(node: Node, large: Content) -> None:
    children = node.children()
    at = ("127.0.0.1", node.port)
    with Wire(at, receive_buffer=1 << 16) as running:
        running.ask(large.target)
        running.head()
        assert fetch(at, large.target, "Range: bytes=0-0,2-2").status == 206
        node.configure(limits__max_ranges=1, public__cors_origins=["https://app.example"])
        node.send(signal.SIGHUP)
        eventually(lambda: "limits.max_ranges" in node.log, "a line in the log", 5)

        def strict() -> bool:
            return all(fetch(at, large.target, "Range: bytes=0-0,2-2").status == 416 for _ in range(10))

        eventually(strict, "the new limit on both workers", 5)
        answer = fetch(at, "/healthz", "Origin: https://app.example")
        assert answer["Access-Control-Allow-Origin"] == "https://app.example"
        assert fetch(at, "/healthz", "Origin: https://evil.example").get("Access-Control-Allow-Origin") is None
        assert running.body(large.size) == large.data
    assert node.children() == children


def what_needs_a_restart_is_said_and_not_done(node: Node, model: Content) -> None:
    port = node.port
    node.configure(public__host="127.0.0.2", store__max_manifest="1 MiB")
    node.send(signal.SIGHUP)
    eventually(lambda: "public.host takes effect at the next start" in node.log, "a line in the log", 5)
    assert fetch(("127.0.0.1", port), model.target).status == 200


def test_a_reload_while_it_starts(make_node: Callable[..., Node], model: Content) -> None:
    node = make_node()
    node.launch(workers=2)
    eventually(lambda: len(node.children()) == 3, "all children")
    for _ in range(10):
        node.send(signal.SIGHUP)
        time.sleep(0.05)
    node.wait_ready()
    assert node.get(model.target).status == 200


def test_an_end_while_it_starts(make_node: Callable[..., Node]) -> None:
    node = make_node()
    node.launch(workers=2)
    eventually(lambda: len(node.children()) == 3, "all children")
    began = time.monotonic()
    node.send(signal.SIGTERM)
    assert node.end() == 0
    assert time.monotonic() - began < 10
