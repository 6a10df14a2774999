"""A node in processes of its own: made, filled, started, watched, ended."""

from __future__ import annotations

import http.client
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

PROGRAM: Final = str(Path(sys.executable).with_name("aibrother-node"))
PATIENCE: Final = 30.0
"""Seconds for what takes one: the machine is shared."""
_SPEAKS_OF_BUGS: Final = ("Traceback", "never retrieved", "was never awaited", "Exception ignored", "Warning:")
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return our environment without what would configure a node, and with warnings shown."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("AIBROTHER_", "NOTIFY_", "LISTEN_"))
    }
    return {**kept, "PYTHONWARNINGS": "default", "COLUMNS": "100", **(extra or {})}


def run(*arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Result:
    """Run one command to its end."""
    done = subprocess.run(
        [PROGRAM, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        cwd=cwd,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE * 4,
    )
    result = Result(done.returncode, done.stdout, done.stderr)
    assert not complaints(result.err), result
    return result


def complaints(log: str) -> list[str]:
    """Return the lines of a log that speak of bugs."""
    return [line for line in log.splitlines() if any(word in line for word in _SPEAKS_OF_BUGS)]


def eventually(probe: Callable[[], _Value | None], what: str, patience: float = PATIENCE) -> _Value:
    """Poll until `probe` returns something true."""
    deadline = time.monotonic() + patience
    while not (value := probe()):
        assert time.monotonic() < deadline, f"not within {patience:g} s: {what}"
        time.sleep(0.02)
    return value


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def memory(pid: int, what: str = "VmRSS") -> int:
    """Bytes of a process's memory; `VmHWM` is its peak."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"{what} is not in the status of {pid}")


def forget_peak(pid: int) -> None:
    """Begin to count the peak from now (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def clients_of(pid: int, port: int) -> set[int]:
    """The remote ports of a process's established IPv4 connections on `port`."""
    inodes = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[9] in inodes and int(fields[1].partition(":")[2], 16) == port and fields[3] == "01":
            found.add(int(fields[2].partition(":")[2], 16))
    return found


def toml(settings: Mapping[str, Any]) -> str:
    """Write `section.key` settings as a configuration file."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        section, _, key = name.partition(".")
        sections.setdefault(section, {})[key] = value
    # JSON's texts, numbers, booleans and lists are TOML's
    return "".join(
        f"[{section}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
        for section, keys in sections.items()
    )


@dataclass
class Node:
    """One data directory, and the node on it.

    Attributes:
        folder: `data/` and the log of each start lie in it.
        settings: `section.key` → value, written to node.toml.
        may_complain: set where a test makes the node log what otherwise would be a bug.
    """

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    may_complain: bool = False
    process: subprocess.Popen[bytes] | None = None
    ready: dict[str, Any] = field(default_factory=dict)
    _starts: int = 0

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def init(self, *, catalog: bool = False) -> Node:
        """Make the data directory."""
        result = run("init", *(() if catalog else ("--no-catalog",)), "--data", self.data)
        assert result.code == 0, result
        return self

    def like(self, template: Node) -> Node:
        """Make the data directory as another one is; blobs are shared, for nothing ever changes them."""
        shutil.copytree(template.data, self.data, copy_function=_link_blobs)
        return self

    def configure(self, **settings: Any) -> None:
        """Change settings; `limits__max_ranges` stands for `limits.max_ranges`."""
        self.settings |= {name.replace("__", "."): value for name, value in settings.items()}
        aside = self.data / "node.toml.new"
        aside.write_text(toml({"node.data": str(self.data), **self.settings}))
        aside.replace(self.data / "node.toml")

    def command(self, *arguments: str | Path) -> Result:
        """Run a command on this data directory."""
        return run("--data", self.data, *arguments)

    def add(self, *arguments: str | Path) -> list[str]:
        """Add files; returns their digests."""
        result = self.command("add", "--json", *arguments)
        assert result.code == 0, result
        return [added["digest"] for added in result.json]

    def put(self, source: Path, digest: str) -> None:
        """Slip a file into the store behind the node's back; when it starts, it reads what has no manifest."""
        source.rename(self.data / "blobs/sha256" / digest.removeprefix("sha256:"))

    # -- running

    def launch(
        self,
        *,
        workers: int = 1,
        port: int | None = 0,
        env: Mapping[str, str] | None = None,
        arguments: Iterable[str | Path] = (),
        prefix: Iterable[str] = (),
        pass_fds: Iterable[int] = (),
    ) -> None:
        """Start it, and don't wait.

        Args:
            port: of the public plane. With 0 all planes that the settings say nothing of get free ones, with another
                they get free ones where the defaults are in use; None leaves it to the settings.
        """
        assert self.process is None, "it runs already"
        self._starts += 1
        self.ready = {}
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *prefix,
                    *(PROGRAM, "--data", str(self.data), "serve", "--json"),
                    *(() if port is None else ("--port", str(port))),
                    *("--workers", str(workers)),
                    *map(str, arguments),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(env),
                pass_fds=tuple(pass_fds),
            )

    def wait_ready(self, patience: float = PATIENCE * 2) -> Node:
        """Wait for the ready line."""
        assert self.process is not None
        assert self.process.stdout is not None
        out = self.process.stdout
        line = b""
        deadline = time.monotonic() + patience
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                left = deadline - time.monotonic()
                assert left > 0, f"not ready within {patience:g} s: {self.log}"
                if selector.select(left):
                    piece = os.read(out.fileno(), 4096)
                    assert piece, f"ended with {self.process.wait(10)} before it was ready: {self.log}"
                    line += piece
        self.ready = json.loads(line)
        assert self.ready["event"] == "ready"
        assert self.ready["pid"] == self.process.pid
        return self

    def start(self, **how: Any) -> Node:
        """Start it and wait until it is ready."""
        self.launch(**how)
        return self.wait_ready()

    @property
    def log_path(self) -> Path:
        return self.folder / f"log-{self._starts}"

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def urls(self) -> list[str]:
        urls: list[str] = self.ready["urls"]["public"]
        return urls

    @property
    def url(self) -> str:
        return self.urls[0]

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def children(self) -> dict[str, int]:
        """The running children: name → process id."""
        return children_of(self.pid)

    def child(self, name: str = "worker-0") -> int:
        """The process id of one child."""
        return eventually(lambda: self.children().get(name), f"a process {name}")

    def successor(self, name: str, of: int) -> int:
        """The process id of the child that took the place of another."""

        def probe() -> int | None:
            pid = self.children().get(name)
            return pid if pid != of else None

        return eventually(probe, f"a successor of {name}")

    def connect(self, timeout: float = PATIENCE) -> http.client.HTTPConnection:
        """A connection of http.client, by IPv4."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def get(self, target: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Reply:
        """One request on a connection of its own."""
        connection = self.connect()
        try:
            connection.request(method, target, headers=dict(headers or {}))
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    # -- ending

    def send(self, number: int) -> None:
        """Send the supervisor a signal."""
        os.kill(self.pid, number)

    def end(self, patience: float = PATIENCE) -> int:
        """Wait for the end that something else brings about; returns the exit code, negative for a signal."""
        assert self.process is not None
        assert self.process.stdout is not None
        children = self.children()
        code = self.process.wait(patience)
        self.process.stdout.close()
        self.process = None
        eventually(lambda: not any(alive(pid) for pid in children.values()), f"the end of {children}", 10)
        if not self.may_complain:
            assert not complaints(self.log), self.log
        return code

    def stop(self, number: int = signal.SIGTERM, code: int = 0) -> None:
        """End it; anything but the expected exit code and a clean log is an error."""
        self.send(number)
        found = self.end()
        assert found == code, f"exit code {found}: {self.log}"

    def discard(self) -> None:
        """Leave nothing running, whatever happened."""
        if self.process is not None:
            children = self.children()
            self.process.kill()
            self.process.wait(10)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None
            for pid in children.values():
                eventually(lambda pid=pid: not alive(pid), f"the end of {pid}", 10)  # type: ignore[misc]


@dataclass(frozen=True)
class Reply:
    """An answer, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def problem(self) -> dict[str, Any]:
        """The problem document that it is."""
        assert self.headers["Content-Type"] == "application/problem+json"
        document: dict[str, Any] = self.json
        assert document["status"] == self.status
        return document


def children_of(parent: int) -> dict[str, int]:
    """The running children of a supervisor by name, from their command lines."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "--parent" in words and words[words.index("--parent") + 1] == str(parent) and alive(int(entry)):
            found[words[words.index("--name") + 1]] = int(entry)
    return found


def _link_blobs(source: str, target: str) -> str:
    if "/blobs/" in source:
        os.link(source, target)
        return target
    return shutil.copy2(source, target)
