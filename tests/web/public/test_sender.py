"""The sender over real sockets: every byte, in order, whatever the client does; stalled bodies are cut."""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aibrother_node.content.digest import Digest
from aibrother_node.store.open_blob import OpenBlob
from aibrother_node.store.withheld import Withheld, WithheldWriter
from aibrother_node.web.public.body_cut import BodyCut
from aibrother_node.web.public.page_cache import PageCache
from aibrother_node.web.public.sender import SLICE, Send, Sends
from aibrother_node.web.ranges import Slice
from e2e.certificates import make_certificate

DIGEST = Digest(bytes(32))


class _Wire(asyncio.Protocol):
    """A connection with as much of the server as the sender needs."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.writable = asyncio.Event()
        self.writable.set()
        self.sending: Send | None = None
        self.received = b""
        self._out: socket.socket | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: BaseException | None) -> None:
        self.transport = None
        self.writable.set()
        if self.sending is not None:
            self.sending.cut("lost")
        if self._out is not None:
            self._out.close()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def out(self) -> socket.socket:
        if self._out is None:
            assert self.transport is not None
            self._out = socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno()))
            self._out.setblocking(False)
        return self._out


async def send(sends: Sends, wire: _Wire, parts: Sequence[bytes | Slice], blob: OpenBlob | None) -> None:
    """Send an answer, and return or raise as it ended."""
    over: asyncio.Future[BodyCut | None] = asyncio.get_running_loop().create_future()
    if not sends.start(wire, parts, blob, over.set_result) and (reason := await over) is not None:
        raise reason


@asynccontextmanager
async def _connected(
    certificate: tuple[Path, Path] | None = None,
) -> AsyncIterator[tuple[_Wire, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection and its client, over TLS with a certificate."""
    loop = asyncio.get_running_loop()
    theirs, ours = None, None
    if certificate is not None:
        ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        ours.load_cert_chain(*certificate)
        theirs = ssl.create_default_context(cafile=certificate[0])
    wires: list[_Wire] = []

    def make() -> _Wire:
        wires.append(_Wire())
        return wires[-1]

    server = await loop.create_server(make, "127.0.0.1", 0, ssl=ours)
    address = server.sockets[0].getsockname()[:2]
    reader, writer = await asyncio.open_connection(*address, limit=1 << 20, ssl=theirs)
    while not wires or wires[0].transport is None:
        await asyncio.sleep(0)
    try:
        yield wires[0], reader, writer
    finally:
        writer.close()
        if wires[0].transport is not None:
            wires[0].transport.abort()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.01)


@pytest.fixture
def content(tmp_path: Path) -> Iterator[tuple[OpenBlob, bytes]]:
    data = os.urandom(1 << 20) * 12
    (tmp_path / "blob").write_bytes(data)
    fd = os.open(tmp_path / "blob", os.O_RDONLY)
    blob = OpenBlob(DIGEST, fd, len(data), os.fstat(fd).st_ino)
    yield blob, data
    blob.close()


@pytest.fixture
def withheld(tmp_path: Path) -> Iterator[Withheld]:
    table = Withheld(tmp_path / "withheld")
    yield table
    table.close()


@pytest.mark.parametrize(
    "parts",
    [
        [b"head"],
        [b"head", b"", b"tail"],
        [b"head", Slice(0, 1)],
        [b"head", Slice(5, SLICE)],
        [b"head", Slice(0, SLICE + 1), b"--", Slice(100, 3 * SLICE), b"--end"],
        [b"head", Slice(0, 12 << 20)],
        [b"x" * (4 << 20), Slice((12 << 20) - 1, 1)],
    ],
)
async def test_every_byte_in_order(
    content: tuple[OpenBlob, bytes], withheld: Withheld, parts: Sequence[bytes | Slice]
) -> None:
    blob, data = content
    expected = b"".join(
        part if isinstance(part, bytes) else data[part.offset : part.offset + part.length] for part in parts
    )
    sends = Sends(60, withheld)
    async with _connected() as (wire, reader, _):
        sending = asyncio.create_task(send(sends, wire, parts, blob))
        assert await reader.readexactly(len(expected)) == expected
        await sending
        # the connection is as it was: the next answer goes the same way
        await send(sends, wire, [b"next"], None)
        assert await reader.readexactly(4) == b"next"
    assert len(sends) == 0
    assert sends.bytes_sent == len(expected) - len(parts[0]), "the head is none of the body"


async def test_a_slow_reader_gets_everything_and_holds_up_nobody(
    content: tuple[OpenBlob, bytes], withheld: Withheld
) -> None:
    blob, data = content
    sends = Sends(60, withheld)
    async with _connected() as (slow, slow_reader, _), _connected() as (quick, quick_reader, _):
        sending = asyncio.create_task(send(sends, slow, [Slice(0, len(data))], blob))
        await asyncio.sleep(0.05)
        assert not sending.done()
        for _ in range(20):
            await send(sends, quick, [b"quick", Slice(0, 1000)], blob)
            assert await quick_reader.readexactly(1005) == b"quick" + data[:1000]
        assert not sending.done()
        assert await slow_reader.readexactly(len(data)) == data
        await sending


async def test_what_a_client_says_during_its_answer_disturbs_nothing(
    content: tuple[OpenBlob, bytes], withheld: Withheld
) -> None:
    blob, data = content
    sends = Sends(60, withheld)
    async with _connected() as (wire, reader, writer):
        sending = asyncio.create_task(send(sends, wire, [Slice(0, len(data))], blob))
        await asyncio.sleep(0.02)
        writer.write(b"next request")
        await writer.drain()
        assert await reader.readexactly(len(data)) == data
        await sending
        async with asyncio.timeout(5):
            while wire.received != b"next request":
                await asyncio.sleep(0.01)


async def test_a_body_that_stops_moving_is_cut(content: tuple[OpenBlob, bytes], withheld: Withheld) -> None:
    blob, data = content
    sends = Sends(10, withheld)
    async with _connected() as (wire, _, _):
        sending = asyncio.create_task(send(sends, wire, [Slice(0, len(data))], blob))
        await asyncio.sleep(0.1)
        now = asyncio.get_running_loop().time()
        assert sends.cut_stalled(now) == 0
        assert sends.cut_stalled(now + 11) == 1
        with pytest.raises(BodyCut, match="nothing moved for 10 s"):
            await sending
        assert wire.transport is None or wire.transport.is_closing()


async def test_a_body_goes_on_up_to_what_was_withheld_meanwhile(
    content: tuple[OpenBlob, bytes], withheld: Withheld, tmp_path: Path
) -> None:
    blob, data = content
    sends = Sends(60, withheld)
    writer = WithheldWriter(tmp_path / "withheld")
    async with _connected() as (slow, reader, _), _connected() as (other, other_reader, _):
        whole = asyncio.create_task(send(sends, slow, [b"head", Slice(0, len(data))], blob))
        elsewhere = asyncio.create_task(send(sends, other, [Slice(0, 10 << 20)], blob))
        assert await reader.readexactly(1 << 20)
        bad = 11 << 20
        writer.withhold(DIGEST, blob.inode, [(bad, bad + 100)])
        writer.withhold(Digest(b"x" * 32), blob.inode, [(0, 100 << 20)])  # of others it isn't concerned
        rest = await reader.read(-1)
        assert (1 << 20) + len(rest) == 4 + bad, "it ends right where the bad chunk begins"
        assert rest == data[(1 << 20) - 4 : bad]
        with pytest.raises(BodyCut):
            await whole
        assert await other_reader.readexactly(10 << 20) == data[: 10 << 20]
        await elsewhere
    async with _connected() as (wire, reader, _):
        with pytest.raises(BodyCut):
            await send(sends, wire, [b"head", Slice(bad + 1, 10)], blob)
        assert await reader.read(-1) in (b"head", b""), "none of it, from the first slice on"
    assert len(sends) == 0
    writer.close()


async def test_over_tls_too_a_body_goes_on_up_to_what_was_withheld(
    content: tuple[OpenBlob, bytes], withheld: Withheld, tmp_path: Path
) -> None:
    blob, data = content
    sends = Sends(60, withheld)
    writer = WithheldWriter(tmp_path / "withheld")
    async with _connected(make_certificate(tmp_path)) as (wire, reader, _):
        sending = asyncio.create_task(send(sends, wire, [b"head", Slice(0, len(data))], blob))
        assert await reader.readexactly(1 << 20)
        writer.withhold(DIGEST, blob.inode, [(11 << 20, 12 << 20)])
        sends.cut_withheld()  # far from it: nothing happens
        received = (1 << 20) + len(await _until_cut(reader))
        assert received <= 4 + (11 << 20), "not a byte of what is withheld"
        assert received > 9 << 20, "and of what isn't, all but what an abort throws away in memory"
        with pytest.raises(BodyCut):
            await sending
    await sends.close()
    writer.close()


async def test_over_tls_what_waits_in_memory_is_withheld_too(
    content: tuple[OpenBlob, bytes], withheld: Withheld, tmp_path: Path
) -> None:
    blob, data = content
    sends = Sends(60, withheld)
    writer = WithheldWriter(tmp_path / "withheld")
    async with _connected(make_certificate(tmp_path)) as (wire, reader, _):
        sending = asyncio.create_task(send(sends, wire, [Slice(0, len(data))], blob))
        async with asyncio.timeout(10):
            while wire.writable.is_set():  # the client doesn't read: memory fills
                await asyncio.sleep(0.01)
        writer.withhold(DIGEST, blob.inode, [(0, len(data))])
        sends.cut_withheld()
        with pytest.raises(BodyCut):
            await sending
        await _until_cut(reader)
    assert len(sends) == 0
    await sends.close()
    writer.close()


async def _until_cut(reader: asyncio.StreamReader) -> bytes:
    found = bytearray()
    try:
        async with asyncio.timeout(20):
            while piece := await reader.read(1 << 20):
                found += piece
    except (ConnectionError, ssl.SSLError):
        pass
    return bytes(found)


async def test_what_was_withheld_once_stays_so_for_a_body(
    content: tuple[OpenBlob, bytes], withheld: Withheld, tmp_path: Path
) -> None:
    """The blob may have come back as another file; this body is of the old one."""
    blob, data = content
    sends = Sends(60, withheld)
    writer = WithheldWriter(tmp_path / "withheld")
    async with _connected() as (wire, reader, _):
        sending = asyncio.create_task(send(sends, wire, [Slice(0, len(data))], blob))
        assert await reader.readexactly(1 << 20)
        writer.withhold(DIGEST, blob.inode, [(11 << 20, 12 << 20)])
        assert await reader.readexactly(9 << 20)  # more than buffers hold: the sender has looked meanwhile
        writer.withhold(DIGEST, blob.inode, [])
        async with asyncio.timeout(20):
            assert (10 << 20) + len(await reader.read(-1)) == 11 << 20
        with pytest.raises(BodyCut):
            await sending
    writer.close()


async def test_a_client_that_goes_away_ends_its_send(content: tuple[OpenBlob, bytes], withheld: Withheld) -> None:
    blob, data = content
    sends = Sends(60, withheld)
    async with _connected() as (wire, _, writer):
        sending = asyncio.create_task(send(sends, wire, [Slice(0, len(data))], blob))
        await asyncio.sleep(0.05)
        writer.transport.abort()
        async with asyncio.timeout(5):
            with pytest.raises(BodyCut):
                await sending
    assert len(sends) == 0


async def test_a_file_that_got_shorter_cuts_the_body(tmp_path: Path, withheld: Withheld) -> None:
    path = tmp_path / "blob"
    path.write_bytes(bytes(1000))
    fd = os.open(path, os.O_RDONLY)
    sends = Sends(60, withheld)
    async with _connected() as (wire, reader, _):
        with pytest.raises(BodyCut, match="shorter"):
            await send(sends, wire, [b"head", Slice(0, 2000)], OpenBlob(DIGEST, fd, 1000, 0))
        assert len(await reader.read(5000)) < 2004, "never padded"
    os.close(fd)


async def test_what_is_not_in_memory_is_read_by_a_thread(
    content: tuple[OpenBlob, bytes], withheld: Withheld, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob, data = content
    sends = Sends(60, withheld)
    cold = {0, 5 * SLICE}
    warmed: list[int] = []
    real = PageCache.warm

    def has(_: PageCache, __: int, offset: int, ___: int) -> bool:
        return offset not in cold

    def warm(descriptor: int, offset: int, length: int) -> None:
        warmed.append(offset)
        cold.discard(offset)
        real(descriptor, offset, length)

    # the page cache can't be emptied for one file without root, so its answer is made up; the reading is real
    monkeypatch.setattr(PageCache, "has", has)
    monkeypatch.setattr(sends.pages, "warm", warm)
    async with _connected() as (wire, reader, _):
        sending = asyncio.create_task(send(sends, wire, [b"head", Slice(0, len(data))], blob))
        assert await reader.readexactly(len(data) + 4) == b"head" + data
        await sending
    assert warmed[0] == 0


def test_the_page_cache_knows_what_was_just_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(SLICE))
    fd = os.open(path, os.O_RDONLY)
    pages = PageCache()
    assert pages.has(fd, 0, SLICE)
    pages.warm(os.dup(fd), 0, SLICE)
    os.close(fd)
