"""A signing node's remote publishing for tests: a real store, a real catalog, the real admin API with tokens."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from aibrother_node.catalog.desk import Desk, Signing
from aibrother_node.catalog.entries import FleetNode
from aibrother_node.catalog.founding import found_catalog
from aibrother_node.fleet.identity import NodeKey
from aibrother_node.store.blobs import BlobStore
from aibrother_node.store.disk import Disk
from aibrother_node.store.layout import DirectoryLock
from aibrother_node.store.uploads import Uploads
from aibrother_node.web.control.admin.api import BASE, AdminApi
from aibrother_node.web.control.admin.audit import AuditLog
from aibrother_node.web.control.admin.catalog_routes import CatalogRoutes
from aibrother_node.web.control.admin.operation import Scope
from aibrother_node.web.control.admin.tokens import TokenTable, make_token
from aibrother_node.web.control.admin.uploads import UploadRoutes
from aibrother_node.web.control.local import StoreThread
from catalog.signing import NOW
from store.helpers import CEILING, new_layout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from aibrother_node.catalog.accept import Draft
    from aibrother_node.store.layout import Layout


@dataclass
class Publishing:
    """What runs.

    Attributes:
        layout, thread: the store.
        signing: the keys, all of them on this machine.
        secrets: a token for each scope.
        port: of the control plane.
    """

    layout: Layout
    thread: StoreThread
    signing: Signing
    client: TestClient[web.Request, web.Application]
    audit: AuditLog
    secrets: Mapping[str, str]
    port: int
    follows: bool = field(default=False)

    async def ask(self, method: str, path: str, who: str = "publish", **how: Any) -> tuple[int, Any, Any]:
        """Ask as the bearer of a token; returns status, header fields and JSON (or bytes)."""
        headers = {"Authorization": f"Bearer {self.secrets[who]}", **how.pop("headers", {})}
        async with self.client.request(method, f"{BASE}{path}", headers=headers, **how) as answer:
            is_json = answer.content_type.endswith("json") and method != "HEAD"
            return answer.status, answer.headers, await (answer.json(content_type=None) if is_json else answer.read())

    async def put(self, digest: object, data: bytes, content_range: str | None = None) -> tuple[int, Any, Any]:
        """PUT a piece of an upload."""
        headers = {"Content-Type": "application/octet-stream"}
        if content_range is not None:
            headers["Content-Range"] = content_range
        return await self.ask("PUT", f"/uploads/{digest}", data=data, headers=headers)

    def head(self, digest: object, *fields: str) -> bytes:
        """The head of a PUT, for a socket of one's own."""
        lines = [
            f"PUT {BASE}/uploads/{digest} HTTP/1.1",
            "Host: localhost",
            f"Authorization: Bearer {self.secrets['publish']}",
            "Content-Type: application/octet-stream",
            *fields,
        ]
        return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    def desk(self, store: BlobStore) -> Desk:
        signing = Signing(self.signing.keys, None, {}, follows=self.follows)
        return Desk(store, signing, Disk())


@asynccontextmanager
async def running(folder: Path, *, reserve: int = 0, most: int = 64) -> AsyncIterator[Publishing]:
    """Run one."""
    layout = new_layout(folder / "data")
    key = NodeKey.generate()
    signing = Signing(layout.keys, None, {})
    found_catalog(layout, Disk(), signing, FleetNode(key.id, key.public.hex(), region="eu"), NOW)
    made = {scope.value: make_token([scope], "", time.time(), None) for scope in Scope}
    audit = AuditLog(layout.index)
    with DirectoryLock.take(layout.root, 5.0) as lock:
        thread = StoreThread(lambda: BlobStore.open(layout, lock, manifest_ceiling=CEILING))
        await thread.start()
        uploads = UploadRoutes(thread, Uploads(layout, Disk(), "boot", reserve=lambda: reserve, most=most), Disk())
        held: list[Publishing] = []

        async def accept(draft: Draft) -> dict[str, int]:
            await asyncio.to_thread(held[0].desk(thread.store).inspect, draft, NOW)
            return await thread.change(lambda store: held[0].desk(store).accept(draft, NOW))

        catalog = CatalogRoutes(layout, Disk(), lambda: not held[0].follows, accept)
        operations = [*uploads.operations(), *catalog.operations()]
        api = AdminApi(operations, TokenTable(token for _, token in made.values()), audit, version="1")
        outer = web.Application()
        outer.add_subapp(BASE, api.guarded())
        uploads.start()
        try:
            async with TestClient(TestServer(outer)) as client:
                secrets = {name: secret for name, (secret, _) in made.items()}
                port = client.server.port
                assert port is not None
                held.append(Publishing(layout, thread, signing, client, audit, secrets, port))
                yield held[0]
        finally:
            await uploads.close()
            await audit.close()
            await thread.close()
