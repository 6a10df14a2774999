"""Sources on real sockets for tests of downloading: honest by default, and every way of not being so, one by one."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import ipaddress
import re
import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aibrother_node.content.chunks import ChunkManifest
from aibrother_node.content.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

_RANGE: Final = re.compile(rb"(?i)\r\nrange: bytes=([0-9]+)-([0-9]+)\r\n")
_SLICE: Final = 64 << 10


def manifest_of(data: bytes, lengths: Sequence[int], *, blob: Digest | None = None) -> ChunkManifest:
    """A manifest of `data` cut at these lengths; under another blob's name it lies."""
    digests, offset = [], 0
    for length in lengths:
        digests.append(hashlib.sha256(data[offset : offset + length]).digest())
        offset += length
    assert offset == len(data)
    name = blob or Digest(hashlib.sha256(data).digest())
    return ChunkManifest(name, len(data), "fixed/1", tuple(lengths), b"".join(digests), bytes(16 * len(lengths)))


def even_lengths(size: int, length: int) -> list[int]:
    """Chunks of one length, the last what is left."""
    whole, rest = divmod(size, length)
    return [length] * whole + ([rest] if rest else [])


@dataclass
class Behaviour:
    """What a source does; all of it honest unless said otherwise.

    Attributes:
        data: the blob's bytes as it serves them, under whatever digest is asked for.
        manifest: bytes of the chunk manifest; None is a 404.
        flip: offsets of bytes that are served wrong, each so many times.
        status: answer every blob request with this instead of serving it.
        statuses: answer the first blob requests with these instead.
        retry_after: value of that field on a 429 or 503.
        total: lie about the blob's size in Content-Range.
        shift: lie about the range's start in Content-Range.
        ignore_range: answer 200 with the whole.
        html: answer 200 with a page.
        coding: value of a Content-Encoding field.
        truncate: send this many bytes less than promised, then close.
        reset_after: reset the connection after so many bytes of all bodies together; further connections too.
        reset_heads: reset this many requests before their answer.
        endless: chunked coding, without an end.
        drip: seconds between single bytes of the body.
        drip_head: seconds between single bytes of the head.
        redirect: Location of a 307 for every request; "self" for a loop.
        rate: bytes a second for each connection.
        stall_at: stop sending for good in any body that reaches this offset, the first `stalls` times.
    """

    data: bytes
    manifest: bytes | None = None
    flip: dict[int, int] = field(default_factory=dict)
    status: int | None = None
    statuses: list[int] = field(default_factory=list)
    retry_after: str | None = None
    total: int | None = None
    shift: int = 0
    ignore_range: bool = False
    html: bool = False
    coding: str | None = None
    truncate: int = 0
    reset_after: int | None = None
    reset_heads: int = 0
    endless: bool = False
    drip: float = 0.0
    drip_head: float = 0.0
    redirect: str | None = None
    rate: float | None = None
    stall_at: int | None = None
    stalls: int = 1


class Server:
    """One source on 127.0.0.1 or ::1, a thread a connection.

    Attributes:
        url: its base URL.
        requests: (path, range or None) of each, as they came.
        heads: the requests' heads.
        connections: how many were accepted.
    """

    def __init__(self, behaviour: Behaviour, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.behaviour = behaviour
        self.requests: list[tuple[str, tuple[int, int] | None]] = []
        self.heads: list[bytes] = []
        self.connections = 0
        self._tls = tls
        self._lock = threading.Lock()
        self._sent = 0
        self._open: set[socket.socket] = set()
        self._closing = threading.Event()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=128)
        self.port: int = self._listener.getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        self.url = f"{'https' if tls else 'http'}://{name}:{self.port}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and cut what is open."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The ranges asked for of the blob, (start, stop), the probe of its size left out."""
        return [span for _, span in self.requests if span is not None and span != (0, 1)]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        sock = plain
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                sock = self._tls.wrap_socket(plain, server_side=True)
                with self._lock:
                    self._open.discard(plain)
                    self._open.add(sock)
            pending = b""
            while not self._closing.is_set():
                while b"\r\n\r\n" not in pending:
                    more = sock.recv(65536)
                    if not more:
                        return
                    pending += more
                head, _, pending = pending.partition(b"\r\n\r\n")
                if not self._answer(sock, head + b"\r\n"):
                    return
        except OSError:
            return
        finally:
            with self._lock:
                self._open.discard(sock)
                self._open.discard(plain)
            sock.close()

    def _answer(self, sock: socket.socket, head: bytes) -> bool:
        does = self.behaviour
        path = head.split(b" ", 2)[1].decode()
        found = _RANGE.search(head)
        span = (int(found[1]), int(found[2]) + 1) if found else None
        with self._lock:
            self.requests.append((path, span))
            self.heads.append(head)
            reset = does.reset_heads > 0
            does.reset_heads -= reset
        if reset:
            _reset(sock)
            return False
        if does.redirect is not None:
            location = self.url + path if does.redirect == "self" else does.redirect + path
            return self._simple(sock, 307, b"", {"Location": location})
        if "/v1/chunks/" in path:
            if does.manifest is None:
                return self._simple(sock, 404, b"no manifest")
            return self._simple(sock, 200, does.manifest)
        return self._blob(sock, span)

    def _blob(self, sock: socket.socket, span: tuple[int, int] | None) -> bool:
        does = self.behaviour
        status = does.status
        with self._lock:
            if does.statuses:
                status = does.statuses.pop(0)
        if status is not None:
            extra = {"Retry-After": does.retry_after} if does.retry_after is not None else {}
            return self._simple(sock, status, b"no", extra)
        if does.html:
            return self._simple(sock, 200, b"<html>log in</html>", {"Content-Type": "text/html"})
        total = len(does.data) if does.total is None else does.total
        if span is not None and span[0] >= len(does.data):
            return self._simple(sock, 416, b"", {"Content-Range": f"bytes */{total}"})
        if span is None or does.ignore_range:
            span, fields = (0, len(does.data)), ["HTTP/1.1 200 OK"]
        else:
            start, last = span[0] + does.shift, span[1] - 1 + does.shift
            fields = ["HTTP/1.1 206 Partial Content", f"Content-Range: bytes {start}-{last}/{total}"]
        if does.coding is not None:
            fields.append(f"Content-Encoding: {does.coding}")
        fields.append("Transfer-Encoding: chunked" if does.endless else f"Content-Length: {span[1] - span[0]}")
        fields.append("Connection: keep-alive\r\n\r\n")
        self._send_head(sock, "\r\n".join(fields).encode())
        if does.endless:
            while not self._closing.is_set():
                sock.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            return False
        return self._body(sock, *span)

    def _body(self, sock: socket.socket, start: int, stop: int) -> bool:
        does = self.behaviour
        step = 1 if does.drip else _SLICE
        end = max(stop - does.truncate, start)
        offset = start
        while offset < end:
            piece = self._piece(offset, min(offset + step, end))
            with self._lock:
                if does.stall_at is not None and does.stalls > 0 and offset + len(piece) > does.stall_at:
                    does.stalls -= 1
                    stalled = True
                else:
                    stalled = False
                if does.reset_after is not None and self._sent >= does.reset_after:
                    _reset(sock)
                    return False
                self._sent += len(piece)
            if stalled:
                self._closing.wait()
                return False
            sock.sendall(piece)
            offset += len(piece)
            pause = does.drip or (len(piece) / does.rate if does.rate else 0.0)
            if pause and self._closing.wait(pause):
                return False
        return does.truncate == 0

    def _piece(self, start: int, stop: int) -> bytes:
        does = self.behaviour
        piece = does.data[start:stop]
        with self._lock:
            wrong = [at for at, times in does.flip.items() if start <= at < stop and times > 0]
            for at in wrong:
                does.flip[at] -= 1
        if wrong:
            changed = bytearray(piece)
            for at in wrong:
                changed[at - start] ^= 0xFF
            piece = bytes(changed)
        return piece

    def _simple(self, sock: socket.socket, status: int, body: bytes, extra: dict[str, str] | None = None) -> bool:
        fields = [f"HTTP/1.1 {status} As Asked", f"Content-Length: {len(body)}"]
        fields += [f"{name}: {value}" for name, value in (extra or {}).items()]
        self._send_head(sock, ("\r\n".join(fields) + "\r\n\r\n").encode() + body)
        return True

    def _send_head(self, sock: socket.socket, head: bytes) -> None:
        if not self.behaviour.drip_head:
            sock.sendall(head)
            return
        for position in range(len(head)):
            sock.sendall(head[position : position + 1])
            if self._closing.wait(self.behaviour.drip_head):
                return


def _reset(sock: socket.socket) -> None:
    """Close with RST (SO_LINGER of no time), as a machine that dies does."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@contextlib.contextmanager
def serving(*behaviours: Behaviour) -> Iterator[list[Server]]:
    """Servers, one for each behaviour."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Server(behaviour)) for behaviour in behaviours]


def urls(servers: Iterable[Server]) -> list[str]:
    """Their base URLs."""
    return [server.url for server in servers]


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A self-signed certificate for 127.0.0.1: the server's context, and the file a client is to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    trusted, secret = folder / "ca.pem", folder / "key.pem"
    trusted.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, secret)
    return context, trusted


def wait_until(condition: object, patience: float = 10.0) -> None:
    """Poll until `condition()` is true."""
    assert callable(condition)
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)
