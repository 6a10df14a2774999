"""Children and supervisor that are killed or stopped: who is hurt, who isn't, and what comes back."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from counts import rounds
from e2e.harness import PATIENCE, Node, alive, clients_of, eventually, run
from e2e.load import Load
from e2e.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Content

CLIENTS = rounds(60, 200)
BODY = rounds(1_000_000, 3_000_000)


def downloads(node: Node, large: Content) -> Load:
    """Clients that download slowly for as long as the test goes on."""
    return Load(node.port, large.target, large.path, "steady", CLIENTS, BODY, 0)


def is_ready(node: Node) -> bool:
    reply = node.get("/readyz")
    return reply.status == 200 and reply.json["warnings"] == []


def test_a_killed_worker_takes_only_its_own_connections_along(make_node: Callable[..., Node], large: Content) -> None:
    node = make_node().start(workers=2)
    port = node.port
    children = node.children()
    assert sorted(children) == ["control", "worker-0", "worker-1"]
    with downloads(node, large) as load:
        eventually(
            lambda: sum(len(clients_of(children[f"worker-{n}"], port)) for n in (0, 1)) == CLIENTS, "all clients"
        )
        hit = clients_of(children["worker-0"], port)
        spared = clients_of(children["worker-1"], port)
        assert hit
        assert spared
        os.kill(children["worker-0"], signal.SIGKILL)
        node.successor("worker-0", children["worker-0"])
        eventually(lambda: is_ready(node), "a node that is whole again")
    assert {int(client) for client in load.report.errors} == hit
    assert load.report.requests >= len(spared)
    now = node.children()
    assert {name: pid for name, pid in now.items() if name != "worker-0"} == {
        name: pid for name, pid in children.items() if name != "worker-0"
    }
    for _ in range(20):  # the kernel spreads them over both
        assert node.get(large.target, {"Range": "bytes=0-9"}).body == large.data[:10]
    assert "worker-0 ended with signal SIGKILL" in node.log


def test_clients_in_the_queue_of_a_killed_worker_are_served_by_its_successor(
    make_node: Callable[..., Node], model: Content
) -> None:
    node = make_node().start()
    worker = node.child()
    os.kill(worker, signal.SIGSTOP)
    waiting = [Wire(("127.0.0.1", node.port)) for _ in range(30)]
    for wire in waiting:
        wire.ask(model.target)
    os.kill(worker, signal.SIGKILL)
    for wire in waiting:
        assert wire.answer().body == model.data
        wire.close()
    assert node.child() != worker
    for _ in range(rounds(2, 30)):
        worker = node.child()
        os.kill(worker, signal.SIGKILL)
        assert node.get(model.target).body == model.data
        assert node.child() != worker


def test_a_killed_control_hurts_no_download_and_lets_nobody_else_in(
    make_node: Callable[..., Node], large: Content, tmp_path: Path
) -> None:
    node = make_node().start(workers=2)
    children = node.children()
    new = tmp_path / "new"
    new.write_bytes(b"as soon as control is back")
    with ThreadPoolExecutor(1) as pool, downloads(node, large) as load:
        # it waits a while for the directory, whatever happens to control meanwhile
        second = pool.submit(node.command, "serve", "--port", "0", "--json")
        os.kill(children["control"], signal.SIGKILL)
        [digest] = node.add(new)  # waits for its successor
        assert node.get(f"/v1/blobs/{digest}").body == new.read_bytes()
        assert node.successor("control", children["control"])
        eventually(lambda: is_ready(node), "a control that answers")
        refused = second.result(PATIENCE)
    assert (refused.code, refused.out) == (75, "")
    assert str(node.data) in refused.err
    assert load.report.errors == {}
    assert load.report.requests >= CLIENTS
    assert {name: pid for name, pid in node.children().items() if name != "control"} == {
        name: pid for name, pid in children.items() if name != "control"
    }


def test_a_stopped_control_is_a_warning(make_node: Callable[..., Node], large: Content, tmp_path: Path) -> None:
    node = make_node().start(workers=2)
    control = node.child("control")
    new = tmp_path / "new"
    new.write_bytes(b"later")
    with downloads(node, large) as load:
        assert is_ready(node)
        os.kill(control, signal.SIGSTOP)
        try:
            warned = 0
            until = time.monotonic() + rounds(2, 10)
            while time.monotonic() < until:
                reply = node.get("/readyz")
                assert reply.status == 200
                warned += reply.json["warnings"] == ["control"]
                assert node.get(large.target, {"Range": "bytes=0-9"}).body == large.data[:10]
                time.sleep(0.05)
        finally:
            os.kill(control, signal.SIGCONT)
        eventually(lambda: is_ready(node), "a control that answers")
        [digest] = node.add(new)
        assert node.get(f"/v1/blobs/{digest}").body == b"later"
    assert load.report.errors == {}
    assert node.child("control") == control
    assert warned > 0, "a control that doesn't answer was shown as one that does"


def is_unlocked(node: Node) -> bool:
    lock = os.open(node.data, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def test_a_killed_supervisor_takes_all_along_and_leaves_a_clean_directory(
    make_node: Callable[..., Node], model: Content
) -> None:
    node = make_node().start(workers=2)
    port = node.port
    children = node.children()
    os.kill(children["worker-1"], signal.SIGSTOP)  # it can't see that its parent is gone
    node.send(signal.SIGKILL)
    assert node.end() == -signal.SIGKILL
    eventually(lambda: not any(alive(pid) for pid in children.values()), "the end of all children", 5)
    # of a process with several threads the first can be gone a moment before its descriptors are
    eventually(lambda: is_unlocked(node), "the lock, which control had inherited", 5)
    node.start(workers=2, port=port)
    assert node.get(model.target).body == model.data
    assert node.command("pin", model.digest).code == 0
    node.stop()
    assert node.command("verify").code == 0


def test_a_supervisor_killed_while_it_starts(make_node: Callable[..., Node], model: Content) -> None:
    node = make_node()
    for moment in range(rounds(3, 20)):
        node.launch()
        time.sleep(0.15 * (moment % 10))
        node.send(signal.SIGKILL)
        assert node.end() == -signal.SIGKILL
    node.start()
    assert node.get(model.target).body == model.data


def test_a_port_that_something_listens_on(make_node: Callable[..., Node]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = make_node().command("serve", "--host", "127.0.0.1", "--port", str(port))
        assert (refused.code, refused.out) == (1, "")
        assert f"error: can't listen on 127.0.0.1:{port}: Address already in use" in refused.err


def test_a_port_that_another_node_listens_on(make_node: Callable[..., Node]) -> None:
    """Two nodes on one port would share its clients at random."""
    first, second = make_node().start(), make_node()
    second.launch(port=first.port)
    assert second.end() == 1
    assert f"can't listen on [::]:{first.port}" in second.log or f"can't listen on 0.0.0.0:{first.port}" in second.log
    assert first.get("/healthz").status == 200


def test_an_address_that_is_not_ours(make_node: Callable[..., Node]) -> None:
    refused = make_node().command("serve", "--host", "192.0.2.1", "--port", "0")
    assert (refused.code, refused.out) == (1, "")
    assert "192.0.2.1" in refused.err


def test_no_directory(tmp_path: Path) -> None:
    for data in (tmp_path / "nothing", tmp_path):
        refused = run("--data", data, "serve", "--port", "0")
        assert (refused.code, refused.out) == (4, "")
        assert "aibrother-node init" in refused.err
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_a_newer_version(make_node: Callable[..., Node]) -> None:
    node = make_node()
    (node.data / "VERSION").write_text("2\n")
    refused = node.command("serve", "--port", "0")
    assert refused.code == 1
    assert "layout version 2" in refused.err


def test_a_lost_manifest_of_a_large_blob_keeps_nobody_waiting(
    make_node: Callable[..., Node], model: Content, tmp_path: Path
) -> None:
    """Reading the blob again takes minutes; commands and the end of the node don't wait for it."""
    node = make_node(node__drain_seconds=20)
    large = tmp_path / "large"
    large.touch()
    os.truncate(large, 200 << 30)
    node.put(large, "sha256:" + "a" * 64)
    node.start()
    began = time.monotonic()
    assert node.command("pin", model.digest).code == 0
    assert time.monotonic() - began < 10
    began = time.monotonic()
    node.stop()
    assert time.monotonic() - began < 10


@pytest.mark.soak
@pytest.mark.timeout(120)
def test_a_stopped_worker_is_replaced(make_node: Callable[..., Node], model: Content) -> None:
    node = make_node().start()
    worker = node.child()
    os.kill(worker, signal.SIGSTOP)
    eventually(lambda: node.children().get("worker-0") not in (None, worker), "its replacement", 60)
    assert node.get(model.target).body == model.data
