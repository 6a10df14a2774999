"""The catalog's paths on the wire: status, header fields, codings, lifetimes, as the contract has them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from importlib.resources import files
from typing import TYPE_CHECKING

import pytest
import zstandard
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

import aibrother_tools
from e2e.publishing import client_of, done, publish, publish_all, sha256_of, signing_node, write_gguf, write_shards
from e2e.wire import fetch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.harness import Node, Reply

IMMUTABLE = "public, max-age=31536000, immutable, no-transform"
DOCUMENTS = {
    "/v1/catalog.json": "models/catalog.json",
    "/models/catalog.json": "models/catalog.json",
    "/catalog.json": "models/catalog.json",
    "/staging/catalog.json": "staging/catalog.json",
    "/models/web.releases.json": "models/web.releases.json",
    "/fleet.json": "fleet.json",
}
"""Paths, and the targets whose bytes they show."""


class Published:
    """A running node, and what was published on it."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.node = node
        self.old = write_gguf(folder / "1.gguf", "web 1")
        self.new = write_gguf(folder / "2.gguf", "web 2")
        releases = {"web:f32@1": self.old, "web:f32@2": self.new, "bad:f32@1": write_gguf(folder / "4.gguf", "bad")}
        self.first, self.second, _ = publish_all(node, releases, "--description", "Größe " * 50)
        publish(node, write_gguf(folder / "3.gguf", "web 3"), "web:f32@3", "--channel", "staging")
        done(node, "yank", "bad", "--reason", "broken")
        node.start()
        client = client_of(node, folder / "client")
        targets = sorted(set(DOCUMENTS.values()))
        self.signed = dict(zip(targets, client.get(*targets), strict=True))


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("web")
    node = signing_node(folder / "node")
    try:
        yield Published(node, folder)
        node.stop()
    finally:
        node.discard()


def repr_digest(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def decoded(reply: Reply) -> bytes:
    coding = reply.headers["Content-Encoding"]
    if coding == "gzip":
        return gzip.decompress(reply.body)
    return reply.body if coding is None else zstandard.ZstdDecompressor().decompressobj().decompress(reply.body)


@pytest.mark.parametrize("path", DOCUMENTS)
def test_documents_as_they_were_signed(web: Published, path: str) -> None:
    data = web.signed[DOCUMENTS[path]]
    reply = web.node.get(path)
    assert (reply.status, reply.body) == (200, data)
    expected = {
        "Content-Type": "application/json",
        "Content-Length": str(len(data)),
        "Cache-Control": "public, max-age=60",
        "ETag": f'"sha256:{hashlib.sha256(data).hexdigest()}"',
        "Repr-Digest": repr_digest(data),
        "Vary": "Accept-Encoding",
        "Accept-Ranges": "bytes",
        "Content-Encoding": None,
    }
    assert {name: reply.headers[name] for name in expected} == expected
    head = web.node.get(path, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert {name: head.headers[name] for name in expected} == expected


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
@pytest.mark.parametrize("path", ["/v1/catalog.json", "/models/web.releases.json", "/staging/catalog.json"])
def test_codings_of_documents(web: Published, path: str, coding: str) -> None:
    data = web.signed[DOCUMENTS[path]]
    tag = f'"sha256:{hashlib.sha256(data).hexdigest()}'
    reply = web.node.get(path, {"Accept-Encoding": coding})
    assert (reply.status, decoded(reply)) == (200, data)
    expected = {
        "Content-Encoding": coding,
        "ETag": f'{tag};{coding}"',
        "Vary": "Accept-Encoding",
        "Cache-Control": "public, max-age=60",
        "Content-Length": str(len(reply.body)),
        "Repr-Digest": None,
    }
    assert {name: reply.headers[name] for name in expected} == expected
    assert len(reply.body) < len(data)
    head = web.node.get(path, {"Accept-Encoding": coding}, "HEAD")
    assert {name: head.headers[name] for name in expected} == expected
    # each coding knows its own tag, and no other
    asked = {"Accept-Encoding": coding, "If-None-Match": f'"x", {tag};{coding}"'}
    known = web.node.get(path, asked)
    assert (known.status, known.body, known.headers["ETag"]) == (304, b"", f'{tag};{coding}"')
    assert (known.headers["Vary"], known.headers["Cache-Control"]) == ("Accept-Encoding", "public, max-age=60")
    assert web.node.get(path, {"If-None-Match": f'{tag}"'}).status == 304
    assert web.node.get(path, {"If-None-Match": f'{tag};{coding}"'}).status == 200
    assert web.node.get(path, {"Accept-Encoding": coding, "If-None-Match": f'{tag}"'}).status == 200
    # and has no ranges
    assert web.node.get(path, {"Accept-Encoding": coding, "Range": "bytes=0-9"}).status == 200


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip, zstd", "zstd"),
        ("zstd;q=0.5, gzip", "gzip"),
        ("*", "zstd"),
        ("br, deflate", None),
        ("identity", None),
        ("gzip;q=0", None),
        ("gzip;q=0, zstd;q=0, *;q=0", None),
        ("GZIP", "gzip"),
        (",,;;q=what", None),
    ],
)
def test_which_coding(web: Published, accepted: str, coding: str | None) -> None:
    reply = web.node.get("/catalog.json", {"Accept-Encoding": accepted})
    assert (reply.status, reply.headers["Content-Encoding"]) == (200, coding)
    assert decoded(reply) == web.signed["models/catalog.json"]


@pytest.mark.parametrize("target", ["/catalog.json", "/models/web-2-f32.gguf", "/models/web-f32.gguf"])
def test_ranges(web: Published, target: str) -> None:
    data = web.signed["models/catalog.json"] if target == "/catalog.json" else web.new.read_bytes()
    size = len(data)
    whole = web.node.get(target)
    for asked, first, last in (
        ("0-9", 0, 9),
        ("-10", size - 10, size - 1),
        (f"{size - 5}-{size + 5}", size - 5, size - 1),
    ):
        part = web.node.get(target, {"Range": f"bytes={asked}"})
        assert (part.status, part.body) == (206, data[first : last + 1])
        assert part.headers["Content-Range"] == f"bytes {first}-{last}/{size}"
        assert part.headers["ETag"] == whole.headers["ETag"]
    beyond = web.node.get(target, {"Range": f"bytes={size}-"})
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{size}")
    several = web.node.get(target, {"Range": "bytes=0-1,4-5"})
    assert several.status == 206
    assert several.headers["Content-Type"].startswith("multipart/byteranges; boundary=")
    resumed = {"Range": "bytes=4-", "If-Range": whole.headers["ETag"]}
    assert web.node.get(target, resumed).body == data[4:]
    assert web.node.get(target, {**resumed, "If-Range": '"other"'}).body == data
    assert web.node.get(target, {"If-Match": '"other"'}).status == 412
    assert web.node.get(target, {"If-None-Match": whole.headers["ETag"]}).status == 304


def test_parts_by_name(web: Published) -> None:
    digest = sha256_of(web.new)
    blob = web.node.get(f"/v1/blobs/sha256:{digest}")
    names = {
        "/models/web-2-f32.gguf": IMMUTABLE,
        "/models/web-f32.gguf": "public, max-age=300",
    }
    for path, lifetime in names.items():
        for method in ("GET", "HEAD"):
            reply = web.node.get(path, {"Accept-Encoding": "gzip, zstd"}, method)
            assert (reply.status, reply.body) == (200, web.new.read_bytes() if method == "GET" else b"")
            expected = {
                "Cache-Control": lifetime,
                "ETag": f'"sha256:{digest}"',
                "Repr-Digest": repr_digest(web.new.read_bytes()),
                "Content-Type": blob.headers["Content-Type"],
                "Content-Length": str(web.new.stat().st_size),
                "Accept-Ranges": "bytes",
                "Content-Encoding": None,
            }
            assert {name: reply.headers[name] for name in expected} == expected
            assert f'filename="{path.rpartition("/")[2]}"' in reply.headers["Content-Disposition"]
    assert web.node.get("/models/web-1-f32.gguf").body == web.old.read_bytes()
    staged = web.node.get("/staging/web-3-f32.gguf")
    assert (staged.status, staged.headers["Cache-Control"]) == (200, IMMUTABLE)
    assert web.node.get("/models/web-3-f32.gguf").status == 404


def test_entries(web: Published) -> None:
    for path, entry in (("web-1-f32", web.first), ("web-2-f32", web.second), ("web-f32", web.second)):
        reply = web.node.get(f"/models/{path}.gguf.json")
        assert (reply.status, reply.json) == (200, entry)
        assert (reply.headers["Content-Type"], reply.headers["Cache-Control"]) == (
            "application/json",
            "public, max-age=60",
        )
        assert reply.headers["Repr-Digest"] == repr_digest(reply.body)
        assert web.node.get(f"/models/{path}.gguf.json", {"If-None-Match": reply.headers["ETag"]}).status == 304
    assert web.node.get("/models/nothing-f32.gguf.json").status == 404
    assert web.node.get("/models/bad-1-f32.gguf.json").status == 410


def test_documents_hold_to_their_schemas(web: Published) -> None:
    folder = files(aibrother_tools) / "data/schemas"
    schemas = [json.loads(path.read_text()) for path in folder.iterdir() if path.name.endswith(".schema.json")]
    registry = Registry().with_resources((schema["$id"], Resource.from_contents(schema)) for schema in schemas)
    for target, name in (
        ("models/catalog.json", "catalog"),
        ("staging/catalog.json", "catalog"),
        ("models/web.releases.json", "releases"),
        ("fleet.json", "fleet"),
    ):
        document = json.loads(web.signed[target])
        assert document["schema"] == f"aibrother.{name}/1"
        (schema,) = [schema for schema in schemas if schema["$id"] == f"urn:aibrother:{name}:1"]
        Draft202012Validator(schema, registry=registry).validate(document)


def test_manifests_are_the_catalogs(web: Published) -> None:
    digest = f"sha256:{web.second['sha256']}"
    chunks = web.node.get(f"/v1/chunks/{digest}")
    assert f"sha256:{hashlib.sha256(chunks.body).hexdigest()}" == web.second["chunks"]
    pieces = web.node.get(f"/v1/chunks/{digest}?manifest={web.second['pieces']}")
    assert f"sha256:{hashlib.sha256(pieces.body).hexdigest()}" == web.second["pieces"]
    seen = web.node.get(f"/v1/chunks/{digest}?manifest={web.second['pieces']}", {"Accept": "application/json"}).json
    assert (seen["blob"], seen["chunker"]) == (digest, "fixed/1")


def test_metadata(web: Published) -> None:
    folder = web.node.data / "catalog/metadata"
    for path in folder.iterdir():
        reply = web.node.get(f"/metadata/{path.name}", {"Accept-Encoding": "gzip, zstd"})
        data = path.read_bytes()
        assert (reply.status, reply.body) == (200, data), path.name
        lifetime = "public, max-age=10" if path.name == "timestamp.json" else IMMUTABLE
        expected = {
            "Cache-Control": lifetime,
            "Content-Encoding": None,
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            "ETag": f'"sha256:{hashlib.sha256(data).hexdigest()}"',
        }
        assert {name: reply.headers[name] for name in expected} == expected, path.name
    tag = web.node.get("/metadata/timestamp.json").headers["ETag"]
    assert web.node.get("/metadata/timestamp.json", {"If-None-Match": tag}).status == 304


@pytest.mark.parametrize(
    "path",
    [
        "/metadata/2.root.json",
        "/metadata/root.json",
        "/metadata/01.root.json",
        "/metadata/",
        "/metadata",
        "/metadata/1.nothing.json",
        "/metadata/../metadata/1.root.json",
        "/metadata/%2e%2e/%2e%2e/node.key",
        "/metadata/..%2f..%2fnode.key",
        "/targets/models/" + "0" * 64 + ".catalog.json",
        "/targets/models/catalog.json",
        "/targets/fleet.json",
        "/targets/../keys/keys.json",
        "/models/",
        "/models/nothing-f32.gguf",
        "/models/nothing.releases.json",
        "/staging/web-f32.gguf.json.json",
        "/staging/nothing.releases.json",
    ],
)
def test_what_there_is_not(web: Published, path: str) -> None:
    answer = fetch(("127.0.0.1", web.node.port), path, "Origin: https://app.example")
    assert answer.status == 404
    assert answer.problem()["title"] == "Not Found"
    assert answer["Cache-Control"] == "no-store"
    assert answer["Access-Control-Allow-Origin"] == "*"


def test_tuf_targets(web: Published) -> None:
    for target, data in web.signed.items():
        folder, slash, name = target.rpartition("/")
        digest = hashlib.sha256(data).hexdigest()
        reply = web.node.get(f"/targets/{folder}{slash}{digest}.{name}", {"Accept-Encoding": "gzip"})
        assert (reply.status, reply.body) == (200, data)
        assert reply.headers["Cache-Control"] == IMMUTABLE
        assert reply.headers["Content-Encoding"] is None
        assert reply.headers["ETag"] == f'"sha256:{digest}"'
    part = web.node.get(f"/targets/models/{sha256_of(web.new)}.web-f32.gguf", {"Accept-Encoding": "gzip"})
    assert (part.status, part.body) == (200, web.new.read_bytes())
    assert (part.headers["Cache-Control"], part.headers["Content-Encoding"]) == (IMMUTABLE, None)
    # what a client that refreshed a moment ago still asks for is there: earlier documents under their hashes
    for path in (web.node.data / "catalog/targets/models").iterdir():
        assert web.node.get(f"/targets/models/{path.name}").body == path.read_bytes()


def test_withdrawn(web: Published) -> None:
    for method in ("GET", "HEAD"):
        reply = web.node.get("/models/bad-f32.gguf", {"Origin": "https://app.example"}, method)
        assert (reply.status, reply.headers["Cache-Control"]) == (410, "public, max-age=60")
        assert reply.headers["Access-Control-Allow-Origin"] == "*"
        if method == "GET":
            assert reply.problem()["detail"] == "broken"


@pytest.mark.parametrize(
    "path",
    ["/catalog.json", "/models/web-f32.gguf", "/models/web-f32.gguf.json", "/metadata/timestamp.json", "/fleet.json"],
)
def test_scripts_of_other_origins_and_other_methods(web: Published, path: str) -> None:
    reply = web.node.get(path, {"Origin": "https://app.example"})
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    exposed = {name.strip().lower() for name in reply.headers["Access-Control-Expose-Headers"].split(",")}
    assert exposed >= {"content-length", "content-range", "etag", "repr-digest", "link", "retry-after"}
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
    preflight = web.node.get(path, asked, "OPTIONS")
    assert (preflight.status, preflight.headers["Access-Control-Max-Age"]) == (204, "3600")
    assert "HEAD" in preflight.headers["Access-Control-Allow-Methods"]
    assert "if-none-match" in preflight.headers["Access-Control-Allow-Headers"].lower()
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        refused = web.node.get(path, method=method)
        assert refused.status == 405
        assert "GET" in refused.headers["Allow"]


def test_shards_and_projectors_by_name(web: Published, tmp_path: Path) -> None:
    """And what is published while the node runs is there with all its names."""
    shards = write_shards(tmp_path, "web", 2)
    projector = write_gguf(tmp_path / "mmproj.gguf", "web projector")
    what = ("--name", "wide", "--variant", "f32", "--version", "1", "--projector", projector)
    (entry,) = done(web.node, "publish", "--json", *shards, *what).json["entries"]
    files = dict(zip([part["filename"] for part in entry["parts"]], shards, strict=True))
    files[entry["projector"]["filename"]] = projector
    for name, file in files.items():
        reply = web.node.get(f"/models/{name}")
        assert (reply.body, reply.headers["Cache-Control"]) == (file.read_bytes(), IMMUTABLE)
        assert web.node.get(f"/models/{name}.json").json == entry
        moving = name.replace("-1-f32", "-f32")
        assert web.node.get(f"/models/{moving}").headers["Cache-Control"] == "public, max-age=300", moving
