"""Uploads over the admin API: pieces, cuts, others at the same time, and all that doesn't fit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput
from aibrother_node.store.blobs import BlobStore
from aibrother_node.store.disk import Disk
from aibrother_node.store.incoming import Options, stage
from aibrother_node.store.uploads import Uploads
from aibrother_node.web.control.admin import uploads as routes
from aibrother_node.web.control.admin.content_range import Piece
from aibrother_node.web.control.admin.finishing import lease_holder
from store.helpers import digest_of
from web.control.admin.publishing import Publishing, running

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 300_000
DATA = os.urandom(SIZE)
DIGEST = digest_of(DATA)


async def position(node: Publishing, digest: Digest = DIGEST) -> tuple[int, str | None, str | None, str | None]:
    """Status, and what HEAD says."""
    status, headers, _ = await node.ask("HEAD", f"/uploads/{digest}")
    return status, *(headers.get(name) for name in ("Upload-Offset", "Upload-Length", "Upload-Complete"))


async def leased(node: Publishing, digest: Digest) -> str | None:
    found = await node.thread.change(lambda store: store.leases.of([digest], time.time()))
    return found[digest].holder if digest in found else None


async def test_in_pieces(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        assert (await position(node))[0] == 404
        status, headers, _ = await node.put(DIGEST, DATA[:1000], f"bytes 0-999/{SIZE}")
        assert (status, headers["Upload-Offset"], headers["Range"]) == (202, "1000", "bytes=0-999")
        assert await position(node) == (200, "1000", str(SIZE), "?0")
        status, headers, document = await node.put(DIGEST, DATA[1000:], f"bytes 1000-{SIZE - 1}/{SIZE}")
        assert (status, headers["Upload-Complete"], document["digest"]) == (201, "?1", str(DIGEST))
        assert node.layout.blob(DIGEST).read_bytes() == DATA
        for name in ("manifest", "pieces"):
            assert node.layout.blob(Digest.parse(document[name])).exists()
            assert await leased(node, Digest.parse(document[name])) == lease_holder(DIGEST)
        assert await leased(node, DIGEST) == lease_holder(DIGEST)
        assert await position(node) == (200, str(SIZE), str(SIZE), "?1")
        assert list(node.layout.incoming.iterdir()) == []


@pytest.mark.parametrize("data", [DATA, b""])
async def test_the_whole_at_once_and_again(tmp_path: Path, data: bytes) -> None:
    digest = digest_of(data)
    async with running(tmp_path) as node:
        status, _, document = await node.put(digest, data)
        assert (status, document["size"]) == (201, len(data))
        status, headers, document = await node.put(digest, data)
        assert (status, headers["Upload-Complete"], document["size"]) == (200, "?1", len(data))
        assert (await node.put(digest, b"x"))[0] == 409, "it has another size"


async def test_what_does_not_go_on_where_it_is(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        status, headers, document = await node.put(DIGEST, DATA[5:10], f"bytes 5-9/{SIZE}")
        assert (status, headers["Upload-Offset"]) == (409, "0")
        assert (document["offset"], document["total"]) == (0, SIZE)
        await node.put(DIGEST, DATA[:100], f"bytes 0-99/{SIZE}")
        for start in (0, 99, 101):
            status, headers, _ = await node.put(DIGEST, b"x" * 10, f"bytes {start}-{start + 9}/{SIZE}")
            assert (status, headers["Upload-Offset"]) == (409, "100"), start
        assert (await node.put(DIGEST, b"x", f"bytes 100-100/{SIZE + 1}"))[0] == 409, "another total"
        assert (await node.put(DIGEST, DATA))[0] == 409, "the whole, and some is here"
        assert (await node.put(DIGEST, b"", f"bytes */{SIZE}"))[0] == 409, "there is nothing to finish yet"
        assert await position(node) == (200, "100", str(SIZE), "?0")


@pytest.mark.parametrize(
    ("content_range", "length"),
    [
        ("bytes 0-9", 10),
        ("bytes 0-9/*", 10),
        ("bytes 9-0/10", 10),
        ("bytes 0-10/10", 11),
        ("bytes 0-8/10", 10),
        ("bytes */10", 10),
        ("octets 0-9/10", 10),
        ("bytes 0-9/10, bytes 0-9/10", 10),
        ("bytes ٠-٩/10", 10),
        ("bytes 0-9/9999999999999999999999", 10),
    ],
)
def test_what_is_no_content_range(content_range: str, length: int) -> None:
    with pytest.raises(InvalidInput):
        Piece.of(content_range, length)


def test_content_ranges() -> None:
    assert Piece.of("bytes 0-9/10", 10) == Piece(0, 10, 10)
    assert Piece.of("bytes 3-3/10", None) == Piece(3, 4, 10)
    assert Piece.of("bytes */10", None) == Piece(10, 10, 10, finishing=True)
    assert Piece.of(None, 7) == Piece(0, 7, 7)
    with pytest.raises(InvalidInput, match="how long"):
        Piece.of(None, None)


async def test_wrong_bytes(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        await node.put(DIGEST, DATA[:100], f"bytes 0-99/{SIZE}")
        status, _, document = await node.put(DIGEST, bytes(SIZE - 100), f"bytes 100-{SIZE - 1}/{SIZE}")
        assert (status, document["title"]) == (422, "Unprocessable Content")
        assert (await position(node))[0] == 404
        assert list(node.layout.blobs.iterdir()) == list(node.layout.incoming.iterdir()) == []
        assert list(node.layout.quarantine.iterdir()) == []
        assert (await node.put(DIGEST, DATA))[0] == 201, "it can be tried again"


async def until(node: Publishing, offset: int) -> None:
    """Wait until so many bytes have come."""
    async with asyncio.timeout(10):
        while (await position(node))[1] != str(offset):
            await asyncio.sleep(0.01)


async def test_a_cut_keeps_what_came(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        _, writer = await node.connect()
        writer.write(node.head(DIGEST, f"Content-Length: {SIZE}") + DATA[:150_000])
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()
        await until(node, 150_000)
        reader, writer = await node.connect()  # chunked, and it ends before the end
        body = b"2\r\n" + DATA[150_000:150_002] + b"\r\n0\r\n\r\n"
        fields = (f"Content-Range: bytes 150000-{SIZE - 1}/{SIZE}", "Transfer-Encoding: chunked", "Connection: close")
        writer.write(node.head(DIGEST, *fields) + body)
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()
        await until(node, 150_002)
        status, _, _ = await node.put(DIGEST, DATA[150_002:], f"bytes 150002-{SIZE - 1}/{SIZE}")
        assert status == 201


async def test_more_than_was_said(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        reader, writer = await node.connect()
        fields = (f"Content-Range: bytes 0-9/{SIZE}", "Transfer-Encoding: chunked", "Connection: close")
        writer.write(node.head(DIGEST, *fields) + b"14\r\n" + DATA[:20] + b"\r\n0\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()
        assert await position(node) == (200, "10", str(SIZE), "?0"), "not a byte beyond"


async def test_who_waits_to_be_asked(tmp_path: Path) -> None:
    """Expect: 100-continue: a body that needn't come is never asked for."""
    async with running(tmp_path) as node:
        fields = (f"Content-Length: {SIZE}", "Expect: 100-continue", "Connection: close")
        reader, writer = await node.connect()
        writer.write(node.head(DIGEST, *fields))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(DATA)
        assert (await reader.read()).startswith(b"HTTP/1.1 201 ")
        writer.close()
        reader, writer = await node.connect()
        writer.write(node.head(DIGEST, *fields))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.close()
        reader, writer = await node.connect()
        writer.write(node.head(digest_of(b"other"), "Content-Range: bytes 5-9/10", "Content-Length: 5", *fields[1:]))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 409 ")
        writer.close()


async def test_two_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One writes, the other one is told; unless the first one has gone silent: then its line is cut."""
    async with running(tmp_path) as node:
        reader, writer = await node.connect()
        writer.write(node.head(DIGEST, f"Content-Length: {SIZE}") + DATA[:1000])
        async with asyncio.timeout(10):
            while not (node.layout.incoming / f"upload-{DIGEST.hex}").exists():
                await asyncio.sleep(0.01)
        status, headers, _ = await node.put(DIGEST, DATA)
        assert (status, headers["Retry-After"]) == (423, "1")
        assert (await node.ask("DELETE", f"/uploads/{DIGEST}"))[0] == 423
        monkeypatch.setattr(routes, "_SILENT", 0.0)
        status, headers, _ = await node.put(DIGEST, DATA[1000:], f"bytes 1000-{SIZE - 1}/{SIZE}")
        assert status == 201
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b"", "its line was cut"
        writer.close()


async def test_one_that_was_left_complete_is_finished(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        with Uploads(node.layout, Disk(), "boot").open(DIGEST, SIZE, time.time()) as upload:
            upload.write(DATA)
        assert await position(node) == (200, str(SIZE), str(SIZE), "?0")
        assert (await node.put(DIGEST, b"", f"bytes */{SIZE}"))[0] == 201
        assert await position(node) == (200, str(SIZE), str(SIZE), "?1")


async def test_who_asks_while_it_is_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "_PATIENCE", 0.0)
    async with running(tmp_path) as node:
        status, headers, _ = await node.put(DIGEST, DATA)
        assert (status, headers["Upload-Offset"], headers["Upload-Complete"]) == (202, str(SIZE), "?0")
        async with asyncio.timeout(10):
            while (status := (await node.put(DIGEST, b"", f"bytes */{SIZE}"))[0]) == 202:
                await asyncio.sleep(0.01)
        assert status in (200, 201)
        wrong = digest_of(b"something else")
        assert (await node.put(wrong, DATA))[0] == 202
        async with asyncio.timeout(10):
            while (status := (await node.put(wrong, b"", f"bytes */{SIZE}"))[0]) == 202:
                await asyncio.sleep(0.01)
        assert status == 422


async def test_what_was_stored_without_all_manifests(tmp_path: Path) -> None:
    """`add` makes one manifest; publishing needs the pieces too: they are made, nothing is sent again."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + DATA)  # no GGUF: one manifest would do, so there is none at all here
    digest = digest_of(path.read_bytes())
    async with running(tmp_path) as node:

        def add() -> None:
            staged, request = stage(node.layout, Disk(), path, Options("copy", None, 0))
            with staged:
                node.thread.store.take_in(staged, request, verify=False)
            node.layout.blob(request.manifest).unlink()

        await node.thread.change(lambda _: add())
        size = path.stat().st_size
        assert await position(node, digest) == (200, str(size), str(size), "?0")
        status, _, document = await node.put(digest, b"", f"bytes */{size}")
        assert status == 200
        assert node.layout.blob(Digest.parse(document["pieces"])).exists()
        assert await position(node, digest) == (200, str(size), str(size), "?1")


async def test_no_room_and_too_many(tmp_path: Path) -> None:
    async with running(tmp_path / "full", reserve=1 << 60) as node:
        status, headers, document = await node.put(DIGEST, DATA)
        assert status == 507
        assert "reserve" in document["detail"]
        assert "Retry-After" in headers
        assert list(node.layout.incoming.iterdir()) == []
    async with running(tmp_path / "busy", most=1) as node:
        assert (await node.put(DIGEST, DATA[:1], f"bytes 0-0/{SIZE}"))[0] == 202
        assert (await node.put(digest_of(b"other"), b"o", "bytes 0-0/5"))[0] == 503
        assert (await node.ask("DELETE", f"/uploads/{DIGEST}"))[0] == 204
        assert (await node.ask("DELETE", f"/uploads/{DIGEST}"))[0] == 404
        assert (await node.put(digest_of(b"other"), b"o", "bytes 0-0/5"))[0] == 202


@pytest.mark.parametrize("who", ["read", "operate"])
async def test_rights(tmp_path: Path, who: str) -> None:
    async with running(tmp_path) as node:
        for method in ("PUT", "HEAD", "DELETE"):
            status, _, _ = await node.ask(method, f"/uploads/{DIGEST}", who=who)
            assert status == 403
        assert list(node.layout.incoming.iterdir()) == []
        assert len([row for row in node.audit.page(limit=10) if row["status"] == 403]) == 3


async def test_many_that_end_at_once_leave_threads_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "_PATIENCE", 0.0)
    go_on = threading.Event()
    verify = BlobStore.verify_staged

    def slowly(*arguments: Any) -> Any:
        assert go_on.wait(60)
        return verify(*arguments)

    monkeypatch.setattr(BlobStore, "verify_staged", slowly)
    many = [os.urandom(100) for _ in range(40)]  # the event loop has up to 32 threads
    async with running(tmp_path) as node:
        try:
            async with asyncio.timeout(30):
                for data in many:
                    assert (await node.put(digest_of(data), data))[0] == 202
                assert await asyncio.to_thread(int) == 0
        finally:
            go_on.set()
        async with asyncio.timeout(30):
            for data in many:
                while (await node.put(digest_of(data), b"", "bytes */100"))[0] != 200:
                    await asyncio.sleep(0.01)
