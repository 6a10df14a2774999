"""What a service manager gives and expects: sockets, notifications, the watchdog (sd_notify(3), sd_listen_fds(3))."""

from __future__ import annotations

import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

import pytest

from e2e.harness import PATIENCE, Node, eventually
from e2e.wire import Wire, fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Content

# What a parent does between fork and exec: descriptors from 3 on, and its own process id, which exec keeps.
_HAND_OVER = """
import os, sys
fds = [int(fd) for fd in sys.argv[1].split(",")]
kept = [os.dup2(fd, 100 + n) for n, fd in enumerate(fds)]
for n, fd in enumerate(kept):
    os.dup2(fd, 3 + n, inheritable=True)
    os.close(fd)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds))}
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """A service manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(PATIENCE)
        yield sock


def hear(manager: socket.socket, wanted: str) -> list[str]:
    """Read messages until one has a line `wanted`; returns that one's lines."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        lines = manager.recv(4096).decode().splitlines()
        if wanted in lines:
            return lines
    raise AssertionError(f"no {wanted}")


def test_notifications(make_node: Callable[..., Node], manager: socket.socket, large: Content) -> None:
    node = make_node()
    began = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    node.launch(env={"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "500000"})
    hear(manager, "READY=1")
    node.wait_ready(1)
    for _ in range(3):
        heard = time.monotonic()
        hear(manager, "WATCHDOG=1")
        assert time.monotonic() - heard < 1
    node.configure(limits__max_ranges=3)
    for broken in (False, True):
        if broken:
            (node.data / "node.toml").write_text("[nonsense")
        node.send(signal.SIGHUP)
        reloading = hear(manager, "RELOADING=1")
        [stamp] = [int(line.partition("=")[2]) for line in reloading if line.startswith("MONOTONIC_USEC=")]
        assert began < stamp <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        hear(manager, "READY=1")
    with Wire(("127.0.0.1", node.port), receive_buffer=1 << 16) as slow:
        slow.ask(large.target)
        slow.head()
        node.send(signal.SIGTERM)
        hear(manager, "STOPPING=1")
        for _ in range(5):  # who is silent is killed, also while it drains
            heard = time.monotonic()
            hear(manager, "WATCHDOG=1")
            assert time.monotonic() - heard < 1
    assert node.end() == 0


def listening(port: int = 0) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(64)
    return sock


@pytest.mark.parametrize(("sockets", "workers"), [(1, 2), (2, 1)])
def test_sockets_from_a_parent(make_node: Callable[..., Node], model: Content, sockets: int, workers: int) -> None:
    """All of them are served, by however many workers; clients that wait in them are served first."""
    passed = [listening()]
    port = passed[0].getsockname()[1]
    passed += [listening(port) for _ in range(sockets - 1)]
    waiting = [Wire(("127.0.0.1", port)) for _ in range(20)]
    for wire in waiting:
        wire.ask(model.target)
    fds = [sock.fileno() for sock in passed]
    node = make_node()
    prefix = [sys.executable, "-c", _HAND_OVER, ",".join(map(str, fds))]
    try:
        node.start(workers=workers, prefix=prefix, pass_fds=fds)
        assert node.urls == [f"http://127.0.0.1:{port}"]
        for wire in waiting:
            wire.sock.settimeout(5)
            assert wire.answer().body == model.data
        for _ in range(20):
            assert fetch(("127.0.0.1", port), "/healthz", timeout=5).status == 200
        node.stop()
        if (sockets, workers) != (1, 2):
            return
        # the parent still has them: nobody is refused, the next one serves who waits
        with Wire(("127.0.0.1", port)) as late:
            late.ask(model.target)
            node.start(workers=workers, prefix=prefix, pass_fds=fds)
            late.sock.settimeout(5)
            assert late.answer().body == model.data
    finally:
        for wire in waiting:
            wire.close()
        for sock in passed:
            sock.close()


def test_what_is_meant_for_others_or_for_nobody(make_node: Callable[..., Node], tmp_path: Path) -> None:
    """Sockets for another process are left alone, and an absent manager is no trouble."""
    node = make_node()
    node.start(env={"LISTEN_PID": "1", "LISTEN_FDS": "1", "NOTIFY_SOCKET": str(tmp_path / "nobody")})
    assert node.get("/healthz").status == 200


def test_what_is_passed_must_listen(make_node: Callable[..., Node]) -> None:
    with socket.socket() as mute:
        node = make_node()
        prefix = [sys.executable, "-c", _HAND_OVER, str(mute.fileno())]
        node.launch(prefix=prefix, pass_fds=[mute.fileno()])
        node.may_complain = True  # of the descriptor that it leaves as it was
        assert node.end() == 1
        assert "no listening TCP socket" in node.log


def test_a_reader_of_the_ready_line_that_goes_away_stops_nothing(make_node: Callable[..., Node]) -> None:
    node = make_node()
    node.launch()
    assert node.process is not None
    assert node.process.stdout is not None
    node.process.stdout.close()
    eventually(lambda: len(node.children()) == 2, "the children")
    time.sleep(2)
    assert node.process.poll() is None
    node.stop()
