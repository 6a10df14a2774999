"""Tell the service manager how the node is (sd_notify(3)); does nothing where there is none."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Notifier:
    """Messages to `$NOTIFY_SOCKET`.

    Args:
        environ: the environment; a `WATCHDOG_USEC` in it says how often the manager wants to hear from us.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # a leading @ stands for the abstract namespace (unix(7))
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_interval = _watchdog(environ)

    def ready(self, status: str) -> None:
        """The node serves."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """A reload has begun; `ready` ends it. The time stamp is what Type=notify-reload asks for."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The node drains and ends."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """A line for people."""
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        """The watchdog's sign of life."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as out:
            with contextlib.suppress(OSError):  # the manager is away: serving matters more
                out.sendto(message.encode(), self._address)


def _watchdog(environ: Mapping[str, str]) -> float | None:
    try:
        return int(environ["WATCHDOG_USEC"]) / 2e6
    except (KeyError, ValueError):
        return None
