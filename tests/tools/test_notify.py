"""sd_notify: what a service manager hears, and silence where there is none."""

import socket
import time
from pathlib import Path

import pytest

from aibrother_tools.serve.notify import Notifier


@pytest.mark.parametrize("abstract", [False, True])
def test_messages(tmp_path: Path, abstract: bool) -> None:
    address = f"@aibrother-test-{time.monotonic_ns()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + address[1:] if abstract else address)
        manager.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "10000000"})
        assert notifier.watchdog_interval == 5.0
        notifier.ready("serving")
        assert manager.recv(1000) == b"READY=1\nSTATUS=serving"
        notifier.reloading()
        kind, stamp = manager.recv(1000).decode().split("\n")
        assert kind == "RELOADING=1"
        assert abs(int(stamp.removeprefix("MONOTONIC_USEC=")) - time.monotonic() * 1e6) < 5e6
        notifier.alive()
        assert manager.recv(1000) == b"WATCHDOG=1"
        notifier.stopping()
        assert manager.recv(1000) == b"STOPPING=1"


def test_without_a_manager_nothing_happens(tmp_path: Path) -> None:
    for environ in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone")}, {"WATCHDOG_USEC": "soon"}):
        notifier = Notifier(environ)
        assert notifier.watchdog_interval is None
        notifier.ready("serving")
