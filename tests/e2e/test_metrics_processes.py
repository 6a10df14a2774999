"""One node's metrics are those of all its processes, whichever of them have died."""

from __future__ import annotations

import os
import signal
import urllib.error
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from e2e.harness import Node, eventually
from e2e.wire import Wire, fetch

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Content

SENT, CUT = "aibrother_http_sent_bytes_total", "aibrother_http_bodies_cut_total"
CONNECTIONS = "aibrother_http_connections"


def scrape(node: Node) -> dict[str, float]:
    """All samples; those of requests as `plane code`."""
    with urllib.request.urlopen(f"{node.ready['urls']['control'][0]}/metrics", timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    found = {}
    for family in families:
        for one in family.samples:
            name = f"{one.labels['plane']} {one.labels['code']}" if one.name == "aibrother_http_requests_total" else ""
            found[name or one.name] = one.value
    return found


def test_requests_and_bytes_of_all_workers(make_node: Callable[..., Node], model: Content, large: Content) -> None:
    node = make_node().start(workers=2)
    at = ("127.0.0.1", node.port)
    strange = node.data / "run/metrics/counter_worker-7.db"
    assert scrape(node)["public 200"] == 0
    for _ in range(20):
        assert fetch(at, model.target).status == 200
    assert fetch(at, model.target, "Range: bytes=0-9").status == 206
    missing = fetch(at, "/nothing")
    assert fetch(at, model.target, method="HEAD").status == 200
    with Wire(at) as wire:
        wire.send(b"no HTTP\r\n\r\n")
        malformed = wire.answer()
    sent = 20 * model.size + 10 + len(missing.body) + len(malformed.body)
    first = scrape(node)
    assert [first.get(f"public {code}") for code in (200, 206, 404, 400)] == [21, 1, 1, 1]
    assert (first[SENT], first[CUT]) == (sent, 0)
    eventually(lambda: scrape(node)["aibrother_http_first_byte_seconds_count"] == 24, "they were timed", 10)
    assert first["control 200"] == 1, "the scrape before this one"
    with suppress(urllib.error.HTTPError):
        urllib.request.urlopen(f"{node.ready['urls']['control'][0]}/nothing", timeout=30)
    assert scrape(node)["control 404"] == 1

    # a body that goes on is counted while it goes on; one that is cut, for what went out
    with Wire(at, receive_buffer=1 << 16) as slow:
        slow.ask(large.target)
        slow.head()
        slow.body(1 << 20)
        eventually(lambda: scrape(node)[SENT] >= sent + (1 << 20), "what has been sent so far is counted", 10)
        assert scrape(node)[CONNECTIONS] == 1
        assert scrape(node)["public 200"] == 21, "it isn't over"
    eventually(lambda: scrape(node)[CUT] == 1, "it is counted as cut", 10)
    cut = scrape(node)
    assert cut["public 200"] == 22
    assert sent + (1 << 20) <= cut[SENT] < sent + large.size
    eventually(lambda: scrape(node)[CONNECTIONS] == 0, "no connection is left", 10)

    node.stop()
    strange.write_bytes(b"of another life")
    node.start()
    assert not strange.exists()
    again = scrape(node)
    assert (again["public 200"], again[SENT], again[CUT]) == (0, 0, 0), "a start begins at zero"


def test_nothing_is_lost_with_control_or_a_worker(make_node: Callable[..., Node], model: Content) -> None:
    node = make_node().start(workers=2)
    at = ("127.0.0.1", node.port)
    asked = 0

    def ask(times: int) -> None:
        nonlocal asked
        for _ in range(times):
            assert fetch(at, model.target).status == 200
        asked += times

    ask(10)
    control = node.child("control")
    os.kill(control, signal.SIGKILL)
    ask(30)
    node.successor("control", control)
    # the successor's listener is the same one: who asks now waits for it
    assert scrape(node)["public 200"] == asked

    for _ in range(3):
        for name in ("worker-0", "worker-1"):
            worker = node.child(name)
            os.kill(worker, signal.SIGKILL)
            node.successor(name, worker)
        ask(10)
        found = scrape(node)
        assert (found["public 200"], found[SENT]) == (asked, asked * model.size)
    files = list((node.data / "run/metrics").iterdir())
    assert len(files) == 2 * 3, "as many as workers, however often they die"
