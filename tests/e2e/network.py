"""Several hosts on one machine: network namespaces on one bridge, with nothing but each other to talk to.

Needs root and iproute2. Cuts are blackhole routes, so that packets vanish, as they do on a network; nobody is told.
"""

from __future__ import annotations

import ctypes
import http.client
import itertools
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from e2e.harness import PATIENCE, PROGRAM, Node, Reply, Result, complaints, environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Self

_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
_NUMBERS: Final = itertools.count()
PUBLIC_PORT: Final = 8080
FLEET_PORT: Final = 8082


def unavailable() -> str | None:
    """Why there can be no namespaces here; None where there can."""
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    name = f"abn{os.getpid()}probe"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True)
    subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
    return None if made.returncode == 0 else f"no network namespaces: {made.stderr.decode().strip()}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=PATIENCE)


@dataclass
class Host:
    """One host.

    Attributes:
        namespace: its name.
        address: IPv4.
    """

    namespace: str
    address: str
    _thread: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, initializer=_enter, initargs=(self.namespace,))

    @property
    def prefix(self) -> tuple[str, ...]:
        """What a command line begins with to run here."""
        return ("ip", "netns", "exec", self.namespace)

    @property
    def url(self) -> str:
        """Of a node's public plane here."""
        return f"http://{self.address}:{PUBLIC_PORT}"

    @property
    def gossip_url(self) -> str:
        """Of a node's fleet listener here."""
        return f"http://{self.address}:{FLEET_PORT}"

    def run(self, *arguments: str | Path) -> Result:
        """Run one of the program's commands here."""
        done = subprocess.run(
            [*self.prefix, PROGRAM, *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            env=environment(),
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE * 4,
        )
        result = Result(done.returncode, done.stdout, done.stderr)
        assert not complaints(result.err), result
        return result

    def request(
        self, url: str, headers: Mapping[str, str] | None = None, method: str = "GET", body: bytes | None = None
    ) -> Reply:
        """One HTTP request from here, redirects not followed."""

        def ask() -> Reply:
            parts = urlsplit(url)
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
            try:
                target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                connection.request(method, target, body, dict(headers or {}))
                response = connection.getresponse()
                return Reply(response.status, response.headers, response.read())
            finally:
                connection.close()

        return self._thread.submit(ask).result(PATIENCE)

    def init(self, folder: Path, region: str, *how: str | Path, **settings: object) -> Node:
        """Make a data directory whose node is to run here."""
        folder.mkdir(parents=True)
        node = Node(folder)
        urls = ("--public-url", self.url, "--gossip-url", self.gossip_url)
        result = self.run("init", "--data", node.data, "--region", region, *urls, *how)
        assert result.code == 0, result
        written = {"node.region": region, "node.public_url": self.url, "node.gossip_url": self.gossip_url}
        node.configure(**{**written, "node__drain_seconds": 2, **settings})
        return node

    def start(self, node: Node) -> Node:
        """Start a node here."""
        return node.start(port=PUBLIC_PORT, prefix=self.prefix)

    def close(self) -> None:
        self._thread.shutdown()


class Network:
    """Hosts on one bridge; to be used as a context manager.

    Args:
        names: of the hosts.
    """

    def __init__(self, *names: str) -> None:
        self._stem = f"abn{os.getpid()}x{next(_NUMBERS)}"
        self._hub = f"{self._stem}hub"
        self.hosts: dict[str, Host] = {}
        self._names = names

    def __enter__(self) -> Self:
        try:
            _ip("netns", "add", self._hub)
            _ip("-n", self._hub, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._hub, "link", "set", "bridge", "up")
            for number, name in enumerate(self._names, 1):
                self._add(number, name)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts.values():
            host.close()
        self._remove()

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def cut(self, one: str, other: str, *, one_way: bool = False) -> None:
        """Let packets between two hosts vanish; `one_way` only those from the first to the second."""
        self._route("replace", one, other)
        if not one_way:
            self._route("replace", other, one)

    def heal(self, one: str, other: str) -> None:
        """Undo a cut."""
        for here, there in ((one, other), (other, one)):
            subprocess.run(
                ["ip", "-n", self[here].namespace, "route", "del", "blackhole", f"{self[there].address}/32"],
                check=False,
                capture_output=True,
            )

    def isolate(self, name: str) -> None:
        """Cut a host off all others."""
        for other in self.hosts:
            if other != name:
                self.cut(name, other)

    def rejoin(self, name: str) -> None:
        """Undo `isolate`."""
        for other in self.hosts:
            if other != name:
                self.heal(name, other)

    def _route(self, verb: str, here: str, there: str) -> None:
        _ip("-n", self[here].namespace, "route", verb, "blackhole", f"{self[there].address}/32")

    def _add(self, number: int, name: str) -> None:
        namespace = f"{self._stem}{name}"
        inside, outside = f"e{number}", f"p{number}"
        _ip("netns", "add", namespace)
        self.hosts[name] = Host(namespace, f"10.77.0.{number}")
        _ip("-n", self._hub, "link", "add", outside, "type", "veth", "peer", "name", inside, "netns", namespace)
        _ip("-n", self._hub, "link", "set", outside, "master", "bridge", "up")
        _ip("-n", namespace, "address", "add", f"10.77.0.{number}/24", "dev", inside)
        _ip("-n", namespace, "link", "set", inside, "up")
        _ip("-n", namespace, "link", "set", "lo", "up")

    def _remove(self) -> None:
        for name in (*(f"{self._stem}{name}" for name in self._names), self._hub):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _enter(namespace: str) -> None:
    """Bring the calling thread, and no other, into a namespace (setns(2))."""
    fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(fd, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(fd)
