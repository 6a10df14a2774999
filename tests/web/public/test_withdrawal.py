"""What was looked up under one catalog is not kept under the next: an order of events that processes show by chance."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from typing import TYPE_CHECKING

from aibrother_node.config import LimitsSection
from aibrother_node.content.digest import Digest
from aibrother_node.store.blobs import BlobReader
from aibrother_node.store.disk import Disk
from aibrother_node.store.generation import Generation
from aibrother_node.store.index import Index, TargetRow, YankedRow
from aibrother_node.store.layout import Layout
from aibrother_node.store.withheld import Withheld
from aibrother_node.web.public.handler import PublicPlane, Settings
from aibrother_node.web.public.sender import Sends
from aibrother_node.web.public.server import PublicServer

if TYPE_CHECKING:
    from pathlib import Path

    from aibrother_node.store.open_blob import OpenBlob

DATA = b"withdrawn while it is opened"
DIGEST = Digest(hashlib.sha256(DATA).digest())
PATH = "models/m-1-f32.gguf"


class SlowReader(BlobReader):
    """Withdraws the blob once it is open, and hands it out only when the test says so."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self.withdrawn = threading.Event()
        self.go_on = threading.Event()

    def open_blob(self, digest: Digest) -> OpenBlob:
        blob = super().open_blob(digest)
        if not self.withdrawn.is_set():
            index = Index.open(self.layout.index)
            index.put_catalog("2", [], [YankedRow(PATH, DIGEST, "bad")], removed=[PATH], whole=False)
            index.close()
            generation = Generation(self.layout.generation, writable=True)
            generation.raise_it()
            generation.close()
            self.withdrawn.set()
            assert self.go_on.wait(10)
        return blob


async def ask(port: int, target: str) -> int:
    """The status of one answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1])


async def test_a_blob_that_was_being_opened_is_not_kept(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.create(Disk())
    layout.blob(DIGEST).write_bytes(DATA)
    index = Index.open(layout.index)
    index.put_catalog("1", [TargetRow(PATH, DIGEST, len(DATA), "m", "1", "f32", DIGEST)], [], whole=True)
    index.close()
    reader = SlowReader(layout)
    server = PublicServer(PublicPlane(reader, Sends(60, Withheld(layout.withheld)), Settings()), LimitsSection())
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        async with asyncio.timeout(20):
            first = asyncio.create_task(ask(port, f"/v1/blobs/{DIGEST}"))
            await asyncio.to_thread(reader.withdrawn.wait)
            assert await ask(port, "/healthz") == 200  # by which the worker has learnt of the new catalog
            reader.go_on.set()
            assert await first in (200, 410)
            assert await ask(port, f"/v1/blobs/{DIGEST}") == 410
            assert await ask(port, f"/{PATH}") == 410
    finally:
        reader.go_on.set()
        listener.close()
        await server.drain(0)
