"""Commands that ask a control plane elsewhere: with `--to` and `--token-file`, and what can go wrong on the way."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pytest

from aibrother_node.errors import InvalidInput, NodeError, NotFound, Refused, Temporary, VerificationFailed
from aibrother_tools.cli import run
from aibrother_tools.remote import Remote
from aibrother_tools.remote_client import remote_admin
from e2e.certificates import make_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN: Final = "aib_" + "t" * 43
PEERS = {
    "self": {"id": "0" * 64, "region": None, "url": None, "state": "up", "catalog_version": 1, "alarm": None},
    "peers": [],
}


def answer(status: int, document: object = None, kind: str = "application/json", *fields: str) -> bytes:
    """An answer as bytes."""
    body = b"" if document is None else document if isinstance(document, bytes) else json.dumps(document).encode()
    head = [f"HTTP/1.1 {status} Reason", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*head, "Connection: close", "", ""]).encode() + body


def problem(status: int, detail: str = "why") -> bytes:
    return answer(status, {"status": status, "detail": detail}, "application/problem+json")


@dataclass
class Server:
    """Answers each connection with the next answer, once the request's head has come, or the whole of it."""

    url: str
    port: int
    requests: list[bytes] = field(default_factory=list)


@contextmanager
def serving(*answers: bytes, context: ssl.SSLContext | None = None, read_body: bool = True) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = Server(f"{'http' if context is None else 'https'}://127.0.0.1:{port}", port)

        def serve() -> None:
            for one in answers:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                with plain:
                    try:
                        connection = plain if context is None else context.wrap_socket(plain, server_side=True)
                    except OSError:
                        continue
                    connection.settimeout(10)
                    data = b""
                    while b"\r\n\r\n" not in data and (piece := connection.recv(65_536)):
                        data += piece
                    head = data.partition(b"\r\n\r\n")[0]
                    for line in head.split(b"\r\n"):
                        if read_body and line.lower().startswith(b"content-length:"):
                            while len(data) < len(head) + 4 + int(line.partition(b":")[2]):
                                data += connection.recv(65_536)
                    server.requests.append(data)
                    connection.sendall(one)
                    if context is not None:
                        connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(15)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(f"{TOKEN}\n# of the laptop\n")
    return path


def test_what_is_sent(token_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = "sha256:" + "a" * 64
    with serving(answer(200, PEERS), answer(200, {}), answer(200, {})) as server:
        to = ["--to", f"{server.url}/node/admin/v1/", "--token-file", str(token_file)]
        assert run(["peers", *to]) == 0
        assert run(["pin", digest, "--reason", "ä", *to]) == 0
        assert run(["unpin", digest, *to, "--json"]) == 0
    out, err = capsys.readouterr()
    assert (out.splitlines()[1:], err) == ([f"pinned {digest}", f'{{"digest": "{digest}", "pinned": false}}'], "")
    heads = [request.partition(b"\r\n\r\n") for request in server.requests]
    assert [head.split(b"\r\n")[0] for head, _, _ in heads] == [
        b"GET /node/admin/v1/peers HTTP/1.1",
        f"PUT /node/admin/v1/pins/{digest} HTTP/1.1".encode(),
        f"DELETE /node/admin/v1/pins/{digest} HTTP/1.1".encode(),
    ]
    assert all(f"\r\nAuthorization: Bearer {TOKEN}\r\n".encode() in request for request in server.requests)
    assert json.loads(heads[1][2]) == {"reason": "ä"}


@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [
        (problem(401, "the token is unknown"), 5, "the token is unknown"),
        (problem(403, "this takes a token with the scope operate"), 5, "the scope operate"),
        (problem(404, "not here"), 4, "not here"),
        (problem(429), 75, "why"),
        (problem(503), 75, "why"),
        (problem(507), 75, "why"),
        (problem(500), 1, "why"),
        (problem(409), 1, "why"),
        (answer(502, b"<html>", "text/html"), 75, "answered 502"),
        (answer(403, b"<html>", "text/html"), 5, "answered 403"),
        (answer(404, b"<html>", "text/html"), 1, "answered 404"),
        (answer(200, b"<html>", "text/html"), 1, "something else than JSON"),
        (answer(200, b"[" * 100_000), 1, "something else than JSON"),
        (answer(302, b"", "text/html", "Location: https://elsewhere.example/"), 1, "redirected to https://elsewhere"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", 75, "can't be reached"),
        (b"SSH-2.0-OpenSSH\r\n", 75, "can't be reached"),
        (b"", 75, "can't be reached"),
    ],
)
def test_how_it_ends(token_file: Path, capsys: pytest.CaptureFixture[str], sent: bytes, code: int, said: str) -> None:
    with serving(sent) as server:
        assert run(["peers", "--to", server.url, "--token-file", str(token_file)]) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert said in err
    assert TOKEN not in err


def test_a_token_is_never_sent_on(token_file: Path) -> None:
    with serving(answer(200, PEERS)) as other:
        moved = answer(307, b"", "text/html", f"Location: {other.url}/admin/v1/peers")
        with serving(moved) as server:
            assert run(["peers", "--to", server.url, "--token-file", str(token_file)]) == 1
        assert other.requests == []


def test_who_does_not_answer_is_tried_later(token_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert run(["status", "--to", url, "--token-file", str(token_file)]) == 75
    assert "Connection refused" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as silent:
        node = remote_admin(Remote(f"http://127.0.0.1:{silent.getsockname()[1]}", TOKEN))
        with pytest.raises(Temporary, match="did not answer in time"):
            node.ask("GET", "/status", timeout=0.1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "https://a.example"], "go together"),
        (["--token-file", "{token}"], "go together"),
        (["--to", "https://a.example", "--token-file", "{folder}/missing"], "does not exist"),
        (["--to", "https://a.example", "--token-file", "{folder}"], "is a directory"),
        (["--to", "https://a.example", "--token-file", "{empty}"], "holds no token"),
        (["--to", "https://a.example", "--token-file", "{strange}"], "holds no token"),
        (["--to", "a.example:8081", "--token-file", "{token}"], "is no URL"),
        (["--to", "ftp://a.example", "--token-file", "{token}"], "is no URL"),
        (["--to", "https://user:password@a.example", "--token-file", "{token}"], "is no URL"),
        (["--to", "https://a.example/?x=y", "--token-file", "{token}"], "is no URL"),
        (["--to", "https://a.example:99999", "--token-file", "{token}"], "is no URL"),
        (["--to", "https://[::1", "--token-file", "{token}"], "is no URL"),
        (["--to", "https://", "--token-file", "{token}"], "is no URL"),
        (["--to", "https://a.example/\n", "--token-file", "{token}"], "is no URL"),
    ],
)
def test_wrong_usage(
    tmp_path: Path, token_file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    files = {"token": token_file, "folder": tmp_path, "empty": tmp_path / "empty", "strange": tmp_path / "strange"}
    files["empty"].write_text("\naib_x\n")
    files["strange"].write_bytes(b"aib_\xff\0")
    assert run(["status", *(one.format(**files) for one in arguments)]) == 2
    assert said in capsys.readouterr().err


def test_warnings(token_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token_file.chmod(0o644)
    with serving(answer(200, PEERS)) as server:
        assert run(["peers", "--to", server.url, "--token-file", str(token_file)]) == 0
    err = capsys.readouterr().err
    assert f"warning: {token_file} can be read by others: chmod 600 {token_file}\n" == err
    token_file.chmod(0o600)
    assert run(["peers", "--to", "http://control.invalid:1", "--token-file", str(token_file)]) == 75
    assert "warning: the token goes to control.invalid in clear text" in capsys.readouterr().err


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """TLS of a server, and the certificate to trust."""
    certificate, key = make_certificate(tmp_path_factory.mktemp("tls"))
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate, key)
    return made, certificate


def test_over_tls_with_a_certificate_that_is_believed_or_not(
    context: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(answer(200, PEERS), answer(200, PEERS), context=context[0]) as server:
        with pytest.raises(NodeError, match="certificate") as refused:
            remote_admin(Remote(server.url, TOKEN)).ask("GET", "/peers")
        assert not isinstance(refused.value, Temporary)
        assert server.requests == [], "the token was not sent"
        monkeypatch.setenv("SSL_CERT_FILE", str(context[1]))
        assert remote_admin(Remote(server.url, TOKEN)).ask("GET", "/peers") == PEERS


def test_a_proxy_is_used_but_not_for_loopback(
    context: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(context[1]))
    with ExitStack() as stack:
        refusing = b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"
        proxy = stack.enter_context(serving(refusing, answer(200, PEERS)))
        server = stack.enter_context(serving(answer(200, PEERS), context=context[0]))
        at = proxy.url.replace("http://", "http://me:secret@")
        monkeypatch.setenv("https_proxy", at)
        monkeypatch.setenv("http_proxy", at)
        with pytest.raises(Temporary, match="403"):
            remote_admin(Remote("https://node.example", TOKEN)).ask("GET", "/peers")
        assert proxy.requests[0].startswith(b"CONNECT node.example:443 HTTP/1.")
        assert b"Proxy-Authorization: Basic bWU6c2VjcmV0" in proxy.requests[0]
        assert TOKEN.encode() not in proxy.requests[0]
        assert remote_admin(Remote("http://node.example:81/x", TOKEN)).ask("GET", "/peers") == PEERS
        assert proxy.requests[1].startswith(b"GET http://node.example:81/x/admin/v1/peers HTTP/1.1\r\n")
        assert remote_admin(Remote(server.url, TOKEN)).ask("GET", "/peers") == PEERS
        assert len(proxy.requests) == 2


def test_what_is_answered_before_all_of_a_body_was_sent() -> None:
    with serving(problem(413, "too large"), read_body=False) as server:
        node = remote_admin(Remote(server.url, TOKEN))
        size = 64 << 20
        try:
            found = node.exchange("PUT", "/uploads/x", iter([bytes(1 << 20)] * 64), {"Content-Length": str(size)})
        except Temporary:
            return  # what it had said was lost with the connection
        assert found.status == 413


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidInput),
        (401, Refused),
        (403, Refused),
        (404, NotFound),
        (413, InvalidInput),
        (415, InvalidInput),
        (429, Temporary),
        (502, VerificationFailed),
        (503, Temporary),
    ],
)
def test_the_kinds_of_errors(status: int, kind: type[NodeError]) -> None:
    with serving(problem(status)) as server, pytest.raises(kind, match="why"):
        remote_admin(Remote(server.url, TOKEN)).ask("GET", "/status", query={"a": "b c"})
    assert server.requests[0].startswith(b"GET /admin/v1/status?a=b+c HTTP/1.1\r\n")


def test_how_long_to_wait_is_handed_on() -> None:
    document = {"status": 429, "detail": "why"}
    with (
        serving(answer(429, document, "application/problem+json", "Retry-After: 17")) as server,
        pytest.raises(Temporary) as told,
    ):
        remote_admin(Remote(server.url, TOKEN)).ask("GET", "/status")
    assert told.value.retry_after == 17
