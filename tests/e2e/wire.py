"""HTTP/1.1 by hand: what is written is exactly what the test says, and answers are read one after another."""

from __future__ import annotations

import json
import re
import socket
import struct
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from e2e.harness import PATIENCE

if TYPE_CHECKING:
    import io


class Ended(Exception):
    """The server closed before an answer began."""


@dataclass(frozen=True)
class Answer:
    """One answer."""

    version: str
    status: int
    fields: list[tuple[str, str]]
    body: bytes

    def __getitem__(self, name: str) -> str:
        return self.all(name)[0]

    def get(self, name: str) -> str | None:
        values = self.all(name)
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        return [value for known, value in self.fields if known.lower() == name.lower()]

    def problem(self) -> dict[str, Any]:
        """The problem document that it is."""
        assert self["Content-Type"] == "application/problem+json"
        document: dict[str, Any] = json.loads(self.body)
        assert document["status"] == self.status
        assert document["title"]
        return document


class Wire:
    """A client's connection.

    Args:
        address: host and port.
        receive_buffer: SO_RCVBUF, for clients that are to be slow.
        wrap: makes the socket a TLS one.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        receive_buffer: int | None = None,
        wrap: Any = None,
        timeout: float = PATIENCE,
    ) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.connect(address)
            self.sock: socket.socket = wrap(sock) if wrap is not None else sock
        except BaseException:
            sock.close()
            raise
        self._in: io.BufferedReader = self.sock.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._in.close()
        self.sock.close()

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def send(self, data: bytes | str) -> None:
        self.sock.sendall(data.encode("latin-1") if isinstance(data, str) else data)

    def ask(self, target: str, *fields: str, method: str = "GET", version: str = "1.1") -> None:
        """Write one request."""
        self.send(request(target, *fields, method=method, version=version))

    def answer(self, method: str = "GET") -> Answer:
        """Read one answer to its end."""
        head = self.head()
        length = head.get("Content-Length")
        if method == "HEAD" or head.status in (204, 304) or head.status < 200:
            return head
        body = self._in.read() if length is None else self.body(int(length))
        return Answer(head.version, head.status, head.fields, body)

    def head(self) -> Answer:
        """Read the head of an answer."""
        line = self._in.readline(65537)
        if not line:
            raise Ended
        found = re.fullmatch(rb"(HTTP/1\.[01]) (\d\d\d) ([ -~]*)\r\n", line)
        assert found, line
        fields = []
        while (line := self._in.readline(65537)) != b"\r\n":
            assert line.endswith(b"\r\n"), line
            name, _, value = line[:-2].decode("ascii").partition(": ")
            fields.append((name, value))
        return Answer(found[1].decode(), int(found[2]), fields, b"")

    def body(self, length: int) -> bytes:
        """Read so many bytes."""
        data = self._in.read(length)
        assert len(data) == length, f"{len(data)} of {length} bytes came"
        return data

    def some(self, length: int = 1 << 16) -> bytes:
        """Read what there is, at most so much."""
        return self._in.read1(length)

    def at_end(self) -> bool:
        """Wait for the server's end of the connection: True for FIN or RST, False for more bytes."""
        try:
            return self._in.read1(1) == b""
        except (ConnectionResetError, BrokenPipeError):
            return True


def request(target: str, *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    """The bytes of a request."""
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: node.test", *fields, "", ""]).encode("latin-1")


def fetch(address: tuple[str, int], target: str, *fields: str, method: str = "GET", **how: Any) -> Answer:
    """One request on a connection of its own."""
    with closing(Wire(address, **how)) as wire:
        wire.ask(target, *fields, method=method)
        return wire.answer(method)
