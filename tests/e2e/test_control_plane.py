"""The control plane of a running node: metrics, and sockets that outlive its process."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from e2e.harness import PATIENCE, Node, eventually
from e2e.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from conftest import Content


def ask(url: str, path: str = "/metrics", headers: Mapping[str, str] | None = None) -> tuple[int, str, bytes]:
    """One request; returns status, content type and body."""
    place = urlsplit(url)
    assert place.hostname is not None
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read()
    finally:
        connection.close()


def values(text: bytes) -> dict[str, float]:
    """The samples without labels."""
    families = text_string_to_metric_families(text.decode())
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


def control_url(node: Node) -> str:
    url: str = node.ready["urls"]["control"][0]
    return url


def test_metrics_of_a_running_node(make_node: Callable[..., Node], contents: dict[str, Content]) -> None:
    node = make_node().start()
    urls = node.ready["urls"]
    assert [urlsplit(url).hostname for url in urls["control"]] == ["127.0.0.1"]
    assert urls["fleet"] == [], "it has no catalog and follows none"
    status, content_type, text = ask(control_url(node))
    assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    found = values(text)
    assert found["aibrother_store_blobs"] >= len(contents)
    assert found["aibrother_store_bytes"] >= sum(one.size for one in contents.values())
    _, content_type, text = ask(control_url(node), headers={"Accept": "application/openmetrics-text"})
    assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert text.endswith(b"# EOF\n")
    for path in ("/", "/v1/status", "/admin"):
        status, content_type, body = ask(control_url(node), path)
        assert (status, content_type, json.loads(body)["status"]) == (404, "application/problem+json", 404)
    assert node.get("/metrics").status == 404, "not for the public"
    node.stop()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_linter_finds_nothing(make_node: Callable[..., Node]) -> None:
    node = make_node().start()
    text = ask(control_url(node))[2]
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_metrics_on_an_address_of_their_own(make_node: Callable[..., Node]) -> None:
    node = make_node()
    node.configure(metrics__listen="127.0.0.1:0")
    node.start()
    [url] = node.ready["urls"]["metrics"]
    assert url != control_url(node)
    assert values(ask(url)[2]).keys() == values(ask(control_url(node))[2]).keys()
    assert ask(url, "/")[0] == 404


def test_who_asks_while_control_is_away_is_answered_by_its_successor(make_node: Callable[..., Node]) -> None:
    node = make_node().start()
    control = node.child("control")
    os.kill(control, signal.SIGSTOP)
    place = urlsplit(control_url(node))
    with Wire((str(place.hostname), place.port or 0)) as waiting:
        waiting.ask("/metrics")
        os.kill(control, signal.SIGKILL)
        assert waiting.answer().status == 200
    assert node.child("control") != control


def test_control_answers_while_workers_drain_and_nobody_hangs_afterwards(
    make_node: Callable[..., Node], large: Content
) -> None:
    node = make_node()
    node.configure(node__drain_seconds=20)
    node.start()
    url = control_url(node)
    with Wire(("127.0.0.1", node.port), receive_buffer=1 << 16) as slow:
        slow.ask(large.target)
        slow.head()
        node.send(signal.SIGTERM)
        public = ("127.0.0.1", node.port)
        eventually(lambda: refused(public), "a closed public plane")
        assert ask(url)[0] == 200
    assert node.end() == 0
    assert refused(("127.0.0.1", urlsplit(url).port or 0))


def refused(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_two_nodes_need_no_configuration_of_planes_that_nobody_looks_for(make_node: Callable[..., Node]) -> None:
    """The second one finds the default ports of control taken, whoever has them."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        free = sock.getsockname()[1]
    first, second = make_node(), make_node()
    for node in (first, second):
        node.configure(public__host=["127.0.0.1"], public__port=0)
        _launch_as_configured(node)
    ports = {urlsplit(control_url(node)).port for node in (first, second)}
    assert len(ports) == 2
    for node in (first, second):
        port = urlsplit(control_url(node)).port
        assert port == 8081 or f"control.port: 8081 is in use and nobody chose it; listening on {port}" in node.log
        node.stop()
    first.configure(control__port=free)
    second.configure(control__port=free)
    _launch_as_configured(first)
    assert urlsplit(control_url(first)).port == free
    refused = second.command("serve", "--port", "0")
    assert refused.code == 1
    assert f"can't listen on 127.0.0.1:{free}: Address already in use" in refused.err


def _launch_as_configured(node: Node, **how: Any) -> None:
    node.launch(port=None, **how)
    node.wait_ready()
