"""Tokens of a running node: as commands change them, and as somebody changes their files by hand."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from aibrother_node.errors import InvalidInput, NotFound
from aibrother_node.store.disk import Disk
from aibrother_node.web.control.admin.api import BASE
from aibrother_node.web.control.admin.operation import Scope
from aibrother_node.web.control.admin.tokens import TokenFiles, make_token
from aibrother_tools.serve import admin_service
from aibrother_tools.serve.admin_service import AdminService
from store.helpers import new_layout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aibrother_node.store.layout import Layout

Running = tuple[AdminService, "Layout", "TestClient[web.Request, web.Application]"]


@pytest_asyncio.fixture
async def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setattr(admin_service, "_LOOK", 0.02)
    layout = new_layout(tmp_path)
    service = AdminService(layout)
    await service.start([])
    app = web.Application()
    app.add_subapp(BASE, service.guarded)
    try:
        async with TestClient(TestServer(app)) as client:
            yield service, layout, client
    finally:
        await service.close()


async def status(running: Running, secret: str) -> int:
    """404 for a good token: there is no operation."""
    async with running[2].get(f"{BASE}/x", headers={"Authorization": f"Bearer {secret}"}) as answer:
        return answer.status


async def becomes(running: Running, secret: str, wanted: int) -> None:
    async with asyncio.timeout(20):
        while await status(running, secret) != wanted:
            await asyncio.sleep(0.02)


async def test_commands_keep_and_revoke(running: Running) -> None:
    service, layout, _ = running
    secret, token = make_token([Scope.READ], "", time.time(), None)
    assert await status(running, secret) == 401
    for _ in range(2):  # asked twice
        assert await service.keep_token(token.model_dump(mode="json")) == {"id": token.id}
    assert await status(running, secret) == 404
    assert [path.name for path in layout.tokens.iterdir()] == [f"{token.id}.json"]
    assert await service.revoke_token(token.id) == {"id": token.id}
    assert await status(running, secret) == 401
    with pytest.raises(NotFound):
        await service.revoke_token(token.id)
    wrongs: list[object] = [{}, {"id": "../x"}, [], None, token.model_dump(mode="json") | {"scopes": "read"}]
    for wrong in wrongs:
        with pytest.raises(InvalidInput, match="no token"):
            await service.keep_token(wrong)


async def test_files_that_come_and_go_by_hand(running: Running) -> None:
    _, layout, _ = running
    secret, token = make_token([Scope.READ], "", time.time(), None)
    TokenFiles(layout.tokens, Disk()).write(token)
    await becomes(running, secret, 404)
    path = layout.tokens / f"{token.id}.json"
    for expires, wanted in ((1, 401), (None, 404)):
        path.write_text(json.dumps({**json.loads(path.read_text()), "expires": expires}))
        await becomes(running, secret, wanted)
    path.unlink()
    await becomes(running, secret, 401)


async def test_a_file_that_cannot_be_removed_leaves_the_token_as_it_was(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, _, _ = running
    secret, token = make_token([Scope.READ], "", time.time(), None)
    await service.keep_token(token.model_dump(mode="json"))

    def fail(*_: object) -> None:
        raise PermissionError("read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(TokenFiles, "remove", fail)
        with pytest.raises(PermissionError):
            await service.revoke_token(token.id)
    assert await status(running, secret) == 404, "the command said that it failed"


async def test_a_token_expires_while_the_node_runs(running: Running) -> None:
    service, _, _ = running
    secret, token = make_token([Scope.READ], "", time.time(), 2)
    await service.keep_token(token.model_dump(mode="json"))
    assert await status(running, secret) == 404
    await becomes(running, secret, 401)
