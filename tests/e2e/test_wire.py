"""What the public plane answers, to the byte and over real connections: ranges, conditions, methods, errors, CORS."""

from __future__ import annotations

import json
import re
from contextlib import closing
from hashlib import sha256
from typing import TYPE_CHECKING

import msgpack
import pytest

from e2e.wire import Answer, Ended, Wire, fetch, request

if TYPE_CHECKING:
    from conftest import Content
    from e2e.harness import Node

ABSENT = "sha256:" + "0" * 64


@pytest.fixture(params=["127.0.0.1", "::1"])
def address(request: pytest.FixtureRequest, node: Node) -> tuple[str, int]:
    """The node, by IPv4 and by IPv6."""
    host: str = request.param
    if not any((":" in host) == ("[" in url) for url in node.urls):
        pytest.skip("this machine has no IPv6")
    return host, node.port


@pytest.fixture
def v4(node: Node) -> tuple[str, int]:
    return "127.0.0.1", node.port


def test_the_ready_line_names_both_families_on_one_port(node: Node) -> None:
    assert node.urls == sorted(node.urls, key=lambda url: "[" in url)
    assert {url.rpartition(":")[2] for url in node.urls} == {str(node.port)}
    assert re.fullmatch(r"[0-9a-f]{64}", node.ready["node"])


# -- ranges

N = 3_000_001
WHOLE = [(0, N)]
RANGES: list[tuple[str, int, list[tuple[int, int]]]] = [
    # Range, status, slices as (first, stop)
    ("bytes=0-0", 206, [(0, 1)]),
    ("bytes=0-", 206, WHOLE),
    ("bytes=1-", 206, [(1, N)]),
    (f"bytes={N - 1}-", 206, [(N - 1, N)]),
    (f"bytes={N - 1}-{N - 1}", 206, [(N - 1, N)]),
    (f"bytes=0-{N * 9}", 206, WHOLE),
    ("bytes=1000000-2999999", 206, [(1_000_000, 3_000_000)]),
    ("bytes=-1", 206, [(N - 1, N)]),
    ("bytes=-262145", 206, [(N - 262_145, N)]),
    (f"bytes=-{N * 2}", 206, WHOLE),
    ("bytes=0-1999999", 206, [(0, 2_000_000)]),  # what @huggingface/gguf asks for first
    ("BYTES=5-6", 206, [(5, 7)]),
    ("bytes= 5-6", 206, [(5, 7)]),
    ("bytes=0-0,-1", 206, [(0, 1), (N - 1, N)]),
    ("bytes=10-19, 5-6 ,, 2000000-", 206, [(10, 20), (5, 7), (2_000_000, N)]),
    ("bytes=0-99,50-149", 206, [(0, 100), (50, 150)]),
    (f"bytes=0-1,{N}-", 206, [(0, 2)]),  # of several one is left: a plain 206
    (
        "bytes=" + ",".join(f"{n * 1000}-{n * 1000 + 300}" for n in range(16)),
        206,
        [(n * 1000, n * 1000 + 301) for n in range(16)],
    ),
    ("bytes=" + ",".join(f"{n}-{n}" for n in range(0, 34, 2)), 416, []),
    ("bytes=0-9,5-14,10-19", 416, []),
    (f"bytes={N}-", 416, []),
    ("bytes=-0", 416, []),
    ("bytes=99999999999999999999999-", 416, []),
    ("bytes=2-1", 200, WHOLE),
    ("bytes=a-b", 200, WHOLE),
    ("bytes=", 200, WHOLE),
    ("bytes=1", 200, WHOLE),
    ("bytes=0-1,2-1", 200, WHOLE),
    ("lines=0-1", 200, WHOLE),
    ("bytes=--1", 200, WHOLE),
]


def parts_of(answer: Answer) -> list[tuple[int, int, bytes]]:
    """Read a multipart/byteranges body back as (first, stop, bytes)."""
    found = re.fullmatch(r"multipart/byteranges; boundary=([A-Za-z0-9_-]+)", answer["Content-Type"])
    assert found
    boundary = found[1].encode()
    rest = answer.body
    parts = []
    delimiter = b"--" + boundary
    while not rest.startswith(delimiter + b"--"):
        assert rest.startswith(delimiter + b"\r\n")
        head, _, rest = rest[len(delimiter) + 2 :].partition(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n"))
        assert fields[b"Content-Type"] == b"application/octet-stream"
        span = re.fullmatch(rb"bytes (\d+)-(\d+)/%d" % N, fields[b"Content-Range"])
        assert span
        first, stop = int(span[1]), int(span[2]) + 1
        parts.append((first, stop, rest[: stop - first]))
        rest = rest[stop - first :]
        assert rest.startswith(b"\r\n")
        rest = rest[2:]
    assert rest == delimiter + b"--\r\n"
    return parts


@pytest.mark.parametrize(("value", "status", "slices"), RANGES, ids=[row[0][:40] for row in RANGES])
def test_range_over_the_wire(
    v4: tuple[str, int], contents: dict[str, Content], value: str, status: int, slices: list[tuple[int, int]]
) -> None:
    blob = contents["medium"]
    assert blob.size == N
    with Wire(v4) as wire:
        wire.ask(blob.target, f"Range: {value}")
        answer = wire.answer()
        wire.ask("/healthz")  # the connection goes on where the answer said that it ended
        assert wire.answer().status == 200
    assert answer.status == status
    if status == 416:
        assert answer["Content-Range"] == f"bytes */{N}"
        answer.problem()
        return
    assert answer["Accept-Ranges"] == "bytes"
    assert answer["ETag"] == f'"{blob.digest}"'
    assert answer["Cache-Control"] == "public, max-age=31536000, immutable, no-transform"
    assert answer["Repr-Digest"].startswith("sha-256=:")
    if len(slices) > 1:
        assert answer.get("Content-Range") is None
        assert parts_of(answer) == [(first, stop, blob.data[first:stop]) for first, stop in slices]
        return
    [(first, stop)] = slices
    assert answer["Content-Type"] == "application/octet-stream"
    assert answer.get("Content-Range") == (f"bytes {first}-{stop - 1}/{N}" if status == 206 else None)
    assert answer.body == blob.data[first:stop]


def test_every_content_whole(address: tuple[str, int], contents: dict[str, Content]) -> None:
    with Wire(address) as wire:
        for blob in contents.values():
            wire.ask(blob.target)
            answer = wire.answer()
            assert (answer.version, answer.status, answer["Content-Length"]) == ("HTTP/1.1", 200, str(blob.size))
            assert answer.body == blob.data
            assert "Connection" not in dict(answer.fields)


def test_an_empty_blob_has_no_ranges(v4: tuple[str, int], contents: dict[str, Content]) -> None:
    empty = contents["empty"]
    answer = fetch(v4, empty.target, "Range: bytes=0-")
    assert (answer.status, answer["Content-Range"]) == (416, "bytes */0")
    assert fetch(v4, empty.target, "Range: bytes=-5").status == 200
    assert fetch(v4, empty.target, method="HEAD")["Content-Length"] == "0"


def test_the_two_spellings_of_a_blob(v4: tuple[str, int], model: Content) -> None:
    slashed = f"/v1/blobs/sha256/{model.digest.removeprefix('sha256:')}"
    absolute = f"http://node.test{model.target}"
    escaped = model.target.replace("sha256:", "sha256%3A")
    for target in (model.target, slashed, absolute, escaped, f"{model.target}?utm_source=x"):
        answer = fetch(v4, target, "Range: bytes=7-9")
        assert (answer.status, answer.body, answer["ETag"]) == (206, model.data[7:10], f'"{model.digest}"'), target


# -- conditions

CONDITIONS = [
    (["If-None-Match: {tag}"], 304),
    (["If-None-Match: W/{tag}"], 304),
    (["If-None-Match: {hex}"], 304),
    (['If-None-Match: "other", {tag}'], 304),
    (["If-None-Match: *"], 304),
    (['If-None-Match: "other"'], 200),
    (["If-None-Match: {tag}", "Range: bytes=0-1"], 304),
    (["If-Match: {tag}"], 200),
    (["If-Match: {hex}"], 200),
    (["If-Match: *"], 200),
    (['If-Match: "other"'], 412),
    (["If-Match: W/{tag}"], 412),
    (['If-Match: "other"', "If-Match: {tag}"], 200),
    (["If-Range: {tag}", "Range: bytes=0-1"], 206),
    (["If-Range: {hex}", "Range: bytes=0-1"], 206),
    (["If-Range: W/{tag}", "Range: bytes=0-1"], 200),
    (['If-Range: "other"', "Range: bytes=0-1"], 200),
    (["If-Range: Tue, 15 Nov 1994 12:45:26 GMT", "Range: bytes=0-1"], 200),
    (["If-Modified-Since: Tue, 15 Nov 2044 12:45:26 GMT"], 200),
]


@pytest.mark.parametrize(("fields", "status"), CONDITIONS)
def test_conditions_over_the_wire(v4: tuple[str, int], model: Content, fields: list[str], status: int) -> None:
    tag, hex_tag = f'"{model.digest}"', f'"{model.digest.removeprefix("sha256:")}"'
    fields = [field.format(tag=tag, hex=hex_tag) for field in fields]
    with Wire(v4) as wire:
        for method in ("GET", "HEAD"):
            wire.ask(model.target, *fields, method=method)
            answer = wire.answer(method)
            # a Range means something in a GET only
            assert answer.status == (200 if method == "HEAD" and status == 206 else status)
            if status == 304:
                assert (answer["ETag"], answer.get("Content-Length")) == (tag, None)
            elif method == "GET":
                assert status == 412 or answer.body == model.data[: 2 if status == 206 else None]


# -- connections


def test_pipelined_requests_are_answered_in_order(address: tuple[str, int], contents: dict[str, Content]) -> None:
    medium, model = contents["medium"], contents["model"]
    asked = [
        (medium.target, ["Range: bytes=100-199"], 206, medium.data[100:200]),
        (medium.target, [], 200, medium.data),
        ("/nothing", [], 404, None),
        (model.target, [], 200, model.data),
        (medium.target, ["If-None-Match: *"], 304, b""),
        (f"/v1/blobs/{ABSENT}", [], 404, None),
        (medium.target, ["Range: bytes=2000000-"], 206, medium.data[2_000_000:]),
        ("/healthz", [], 200, b'{"status": "alive"}'),
    ] * 6
    with Wire(address) as wire:
        wire.send(b"".join(request(target, *fields) for target, fields, _, _ in asked))
        for target, _, status, body in asked:
            answer = wire.answer()
            assert answer.status == status, target
            assert body is None or answer.body == body


def test_a_connection_goes_on_after_every_kind_of_answer(v4: tuple[str, int], model: Content) -> None:
    with Wire(v4) as wire:
        for target, fields, method, status in [
            (model.target, ["Range: bytes=5-5"], "GET", 206),
            (model.target, ["If-None-Match: *"], "GET", 304),
            ("/v1/nothing", [], "GET", 404),
            ("/v1/blobs/sha256:12", [], "GET", 400),
            (model.target, [], "HEAD", 200),
            (model.target, ["Range: bytes=99999999-"], "GET", 416),
            (model.target, ['If-Match: "x"'], "GET", 412),
            (model.target, [], "DELETE", 405),
            (model.target, [], "OPTIONS", 204),
            (model.target, [], "GET", 200),
        ]:
            wire.ask(target, *fields, method=method)
            assert wire.answer(method).status == status
        wire.ask(model.target, "Connection: close", "Range: bytes=0-0")
        answer = wire.answer()
        assert (answer.body, answer["Connection"]) == (model.data[:1], "close")
        assert wire.at_end()


def test_http_1_0(v4: tuple[str, int], model: Content) -> None:
    with Wire(v4) as wire:
        wire.send(f"GET {model.target} HTTP/1.0\r\n\r\n")
        answer = wire.answer()
        assert (answer.status, answer.body, answer["Connection"]) == (200, model.data, "close")
        assert wire.at_end()
    with Wire(v4) as wire:
        for _ in range(3):
            wire.ask(model.target, "Connection: keep-alive", "Range: bytes=1-2", version="1.0")
            answer = wire.answer()
            assert (answer.status, answer.body, answer["Connection"].lower()) == (206, model.data[1:3], "keep-alive")


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "TLS/1.0", "x"])
def test_an_offer_to_upgrade_is_passed_over(v4: tuple[str, int], model: Content, protocol: str) -> None:
    """`curl --http2` asks like this (RFC 9110, 7.8: a server may ignore it).

    A request behind it is answered too, or the answer says that the connection ends: it is never lost without a word.
    """
    with Wire(v4, timeout=5) as wire:
        wire.send(request(model.target, "Connection: Upgrade", f"Upgrade: {protocol}") + request("/healthz"))
        first = wire.answer()
        assert (first.status, first.body) == (200, model.data)
        if first.get("Connection") == "close":
            assert wire.at_end()
            return
        assert wire.answer().status == 200
        wire.ask("/healthz")
        assert wire.answer().status == 200


# -- other paths, methods and errors


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/v1/blobs/sha256:" + "a" * 63, 400),
        ("/v1/blobs/sha256:" + "A" * 64, 400),
        ("/v1/blobs/sha256/" + "g" * 64, 400),
        ("/v1/blobs/md5:" + "a" * 32, 400),
        ("/v1/blobs/sha256:" + "%61" * 63 + "%zz", 400),
        ("/v1/chunks/x", 400),
        (f"/v1/blobs/{ABSENT}", 404),
        (f"/v1/chunks/{ABSENT}", 404),
        ("/v1/blobs/", 404),
        ("/v1/blobs", 404),
        ("/v2/", 404),
        ("/v1/blobs/../../node.key", 404),
        ("/v1/blobs/sha256/..%2f..%2f..%2fnode.key", 400),
        ("//etc/passwd", 404),
        ("/.git/config", 404),
    ],
)
def test_errors_are_problem_documents(v4: tuple[str, int], target: str, status: int) -> None:
    with Wire(v4) as wire:
        wire.ask(target, "Origin: https://app.example")
        answer = wire.answer()
        assert answer.status == status
        answer.problem()
        assert answer["Cache-Control"] == "no-store"
        assert answer["Access-Control-Allow-Origin"] == "*"
        wire.ask(target, method="HEAD")
        head = wire.answer("HEAD")
        assert (head.status, head["Content-Type"]) == (status, "application/problem+json")
        wire.ask("/healthz")
        assert wire.answer().status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "M-SEARCH"])
def test_other_methods(v4: tuple[str, int], model: Content, method: str) -> None:
    answer = fetch(v4, model.target, "Content-Length: 0", method=method)
    assert answer.status == 405
    assert answer["Allow"] == "GET, HEAD, OPTIONS"
    answer.problem()


def test_connect_is_no_way_in(v4: tuple[str, int]) -> None:
    assert fetch(v4, "example.com:443", method="CONNECT").status in (400, 405)


def test_options(v4: tuple[str, int], model: Content) -> None:
    with Wire(v4) as wire:
        for target in (model.target, "/healthz", "*"):
            fields = ("Origin: https://app.example", "Access-Control-Request-Method: GET")
            wire.ask(target, *fields, "Access-Control-Request-Headers: range", method="OPTIONS")
            answer = wire.answer("OPTIONS")
            assert answer.status == 204
            assert answer["Allow"] == "GET, HEAD, OPTIONS"
            assert answer["Access-Control-Allow-Origin"] == "*"
            assert answer["Access-Control-Allow-Methods"] == "GET, HEAD"
            assert "If-Range" in answer["Access-Control-Allow-Headers"]
            assert answer["Access-Control-Max-Age"] == "3600"
            assert len(answer.all("Access-Control-Allow-Origin")) == 1


@pytest.mark.parametrize("target", ["{blob}", "/healthz", "/readyz", "{chunks}", "/v1/x", "/v1/blobs/sha256:0"])
def test_scripts_may_read_every_answer(v4: tuple[str, int], model: Content, target: str) -> None:
    answer = fetch(
        v4, target.format(blob=model.target, chunks=f"/v1/chunks/{model.digest}"), "Origin: https://a.example"
    )
    assert answer.all("Access-Control-Allow-Origin") == ["*"]
    exposed = answer["Access-Control-Expose-Headers"].split(", ")
    assert {"Content-Range", "ETag", "Repr-Digest", "Content-Length", "Retry-After"} <= set(exposed)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("phi.gguf", 'attachment; filename="phi.gguf"'),
        ("a%20b.gguf", 'attachment; filename="a b.gguf"'),
    ],
)
def test_a_file_name(v4: tuple[str, int], model: Content, name: str, value: str) -> None:
    answer = fetch(v4, f"{model.target}?filename={name}", method="HEAD")
    assert (answer.status, answer["Content-Disposition"]) == (200, value)
    assert fetch(v4, model.target, method="HEAD").get("Content-Disposition") is None


@pytest.mark.parametrize("name", ["x%0d%0aSet-Cookie:%20a=b", "%00", "..%2f..%2fx", "&filename=y"])
def test_a_bad_file_name_breaks_nothing(v4: tuple[str, int], model: Content, name: str) -> None:
    answer = fetch(v4, f"{model.target}?filename={name}", "Range: bytes=0-0")
    assert answer.status in (206, 400)
    assert answer.get("Set-Cookie") is None
    assert "/" not in (answer.get("Content-Disposition") or "")


def test_health_and_readiness(v4: tuple[str, int]) -> None:
    alive = fetch(v4, "/healthz")
    assert (alive.status, alive.body, alive["Cache-Control"]) == (200, b'{"status": "alive"}', "no-store")
    ready = fetch(v4, "/readyz")
    assert (ready.status, ready["Content-Type"]) == (200, "application/json")
    report = json.loads(ready.body)
    assert report["ready"] is True
    assert report["warnings"] == []
    assert {name: check["ok"] for name, check in report["checks"].items()} == {
        "draining": True,
        "store": True,
        "control": True,
        "clock": True,
        "catalog": True,
    }


# -- chunk manifests


def test_the_manifest_that_add_made(v4: tuple[str, int], node: Node, model: Content) -> None:
    target = f"/v1/chunks/{model.digest}"
    answer = fetch(v4, target)
    assert answer["Content-Type"] == "application/vnd.aibrother.chunks+msgpack"
    assert answer["Vary"] == "Accept"
    assert answer["Cache-Control"] == "public, max-age=300"
    digest = sha256(answer.body).hexdigest()
    # the digest that the answer names is the one under which add stored it
    assert (node.data / "blobs/sha256" / digest).read_bytes() == answer.body
    assert answer["ETag"] == f'"sha256:{digest}"'
    manifest = msgpack.loads(answer.body)
    assert list(manifest) == ["v", "blob", "size", "chunker", "lengths", "sha256", "xxh3"]
    assert (manifest["v"], manifest["size"], manifest["chunker"]) == (1, model.size, "gguf/1")
    assert manifest["blob"].hex() == model.digest.removeprefix("sha256:")
    offset = 0
    for index, length in enumerate(manifest["lengths"]):
        chunk = model.data[offset : offset + length]
        assert manifest["sha256"][index * 32 : index * 32 + 32] == sha256(chunk).digest()
        offset += length
    assert offset == model.size
    named = fetch(v4, f"{target}?manifest=sha256:{digest}")
    assert (named.body, named["Cache-Control"]) == (answer.body, "public, max-age=31536000, immutable, no-transform")
    assert fetch(v4, f"/v1/blobs/sha256:{digest}").body == answer.body
    assert fetch(v4, target, f'If-None-Match: "sha256:{digest}"').status == 304
    part = fetch(v4, target, "Range: bytes=3-9")
    assert (part.status, part.body) == (206, answer.body[3:10])


def test_a_manifest_for_people(v4: tuple[str, int], model: Content) -> None:
    target = f"/v1/chunks/{model.digest}"
    for accept in ("application/json", "text/html,application/xhtml+xml,*/*;q=0.8"):
        answer = fetch(v4, target, f"Accept: {accept}")
        assert answer["Content-Type"] == "application/json"
        assert answer.get("Repr-Digest") is None
        assert answer["ETag"] != fetch(v4, target)["ETag"]
        document = json.loads(answer.body)
        assert list(document) == ["v", "blob", "size", "chunker", "chunks"]
        assert document["blob"] == model.digest
        for chunk in document["chunks"]:
            piece = model.data[chunk["offset"] : chunk["offset"] + chunk["length"]]
            assert sha256(piece).hexdigest() == chunk["sha256"]
    assert fetch(v4, target, "Accept: */*")["Content-Type"] == "application/vnd.aibrother.chunks+msgpack"


def test_a_manifest_of_something_else(v4: tuple[str, int], contents: dict[str, Content]) -> None:
    mine, other = contents["model"], contents["medium"]
    digest = sha256(fetch(v4, f"/v1/chunks/{other.digest}").body).hexdigest()
    for wanted in (f"sha256:{digest}", ABSENT, mine.digest, other.digest):
        answer = fetch(v4, f"/v1/chunks/{mine.digest}?manifest={wanted}")
        assert answer.status == 404
        answer.problem()
    assert fetch(v4, f"/v1/chunks/{mine.digest}?manifest=x").status == 400


def test_a_client_that_says_nothing_gets_nothing(v4: tuple[str, int]) -> None:
    with closing(Wire(v4)) as wire:
        wire.sock.shutdown(1)
        with pytest.raises((Ended, ConnectionResetError)):
            wire.answer()
