"""A small admin API for tests: real tokens, a real audit log, a few operations that show what happens to a request."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from pydantic import Field

from aibrother_node.errors import DiskFull, InvalidInput, Temporary
from aibrother_node.web.control.admin.api import BASE, AdminApi
from aibrother_node.web.control.admin.audit import AuditLog
from aibrother_node.web.control.admin.inputs import DIGEST, Input
from aibrother_node.web.control.admin.operation import Call, Documented, Operation, Reply, Scope
from aibrother_node.web.control.admin.problems import Problem
from aibrother_node.web.control.admin.tokens import Token, TokenTable, make_token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DIGEST_A = "sha256:" + "a" * 64


class Query(Input):
    """Of `look`."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    word: Annotated[str | None, Field(max_length=10)] = None
    flag: bool = False
    share: Annotated[float | None, Field(ge=0, le=1)] = None


class Body(Input):
    """Of `change`."""

    count: Annotated[int, Field(ge=0, le=100)]
    why: Annotated[str, Field(max_length=100)] = ""


class Optional(Input):
    """Of `keep`, which can go without."""

    why: str = "because"


@dataclass
class Handlers:
    """What the operations did."""

    done: list[tuple[str, Any]] = field(default_factory=list)
    watched: asyncio.Event = field(default_factory=asyncio.Event)

    async def look(self, call: Call) -> Reply:
        self.done.append(("look", call.query))
        return Reply({"limit": call.query.limit, "caller": call.caller.token})

    async def change(self, call: Call) -> Reply:
        self.done.append(("change", call.body))
        call.notes["counted"] = call.body.count
        return Reply({"count": call.body.count}, 202)

    async def keep(self, call: Call) -> Reply:
        self.done.append(("keep", call.path["digest"]))
        return Reply({"why": call.body.why})

    async def forget(self, call: Call) -> Reply:
        self.done.append(("forget", call.path["digest"]))
        return Reply(status=204)

    async def fail(self, call: Call) -> Reply:
        match call.path["how"]:
            case "conflict":
                raise Problem(409, "Conflict", "it moved", members={"versions": {"models": 3}})
            case "full":
                raise DiskFull("no room")
            case "later":
                raise Temporary("not now", retry_after=7)
            case "input":
                raise InvalidInput("wrong")
            case _:
                raise RuntimeError("a secret path: /root/x")

    async def upload(self, call: Call) -> Reply:
        data = await call.request.read()
        self.done.append(("upload", data))
        return Reply({"size": len(data)}, 201)

    async def watch(self, call: Call) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(call.request)
        await answer.write(b"begun")
        self.watched.set()
        try:
            while True:
                await answer.write(b".")
                await asyncio.sleep(0.01)
        finally:
            self.done.append(("watch", None))

    async def endless(self, call: Call) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(call.request)
        await answer.write(b"some")
        raise RuntimeError("in the middle")

    def operations(self) -> list[Operation]:
        ok = {200: Documented("fine")}
        how = {"how": {"type": "string", "enum": ["conflict", "full", "later", "input", "bug"]}}
        digest = {"digest": DIGEST}
        return [
            Operation("look", "GET", "/things", Scope.READ, "Look.", self.look, ok, query=Query),
            Operation("change", "POST", "/things", Scope.OPERATE, "Change.", self.change, ok, body=Body, max_body=1000),
            Operation("bulk", "POST", "/bulk", Scope.OPERATE, "A lot.", self.change, ok, body=Body, max_body=1 << 20),
            Operation("keep", "PUT", "/things/{digest}", Scope.OPERATE, "Keep.", self.keep, ok, digest, body=Optional),
            Operation("forget", "DELETE", "/things/{digest}", Scope.OPERATE, "Forget.", self.forget, ok, digest),
            Operation("fail", "POST", "/fail/{how}", Scope.OPERATE, "Fail.", self.fail, ok, how),
            Operation("watch", "GET", "/watch", Scope.READ, "Watch.", self.watch, ok),
            Operation("endless", "GET", "/endless", Scope.READ, "Break off.", self.endless, ok),
            Operation(
                *("upload", "PUT", "/uploads/{digest}", Scope.PUBLISH, "Upload.", self.upload, ok, digest),
                raw_body="application/octet-stream",
            ),
        ]


@dataclass
class Api:
    """A running admin API, and what it is made of."""

    api: AdminApi
    client: TestClient[web.Request, web.Application]
    local: TestClient[web.Request, web.Application]
    handlers: Handlers
    audit: AuditLog
    tokens: TokenTable
    secrets: dict[str, str]
    kept: dict[str, Token]

    async def ask(self, method: str, path: str, who: str | None = "operate", **how: Any) -> tuple[int, Any, Any]:
        """Ask as the bearer of a token; returns status, header fields and JSON (or bytes)."""
        headers = dict(how.pop("headers", {}))
        if who is not None:
            headers["Authorization"] = f"Bearer {self.secrets.get(who, who)}"
        async with self.client.request(method, f"{BASE}{path}", headers=headers, **how) as answer:
            is_json = answer.content_type.endswith("json") and method != "HEAD"
            return answer.status, answer.headers, await (answer.json(content_type=None) if is_json else answer.read())

    def rows(self, **how: Any) -> list[dict[str, Any]]:
        """The audit log, the oldest first."""
        return self.audit.page(limit=1000, **how)[::-1]


@asynccontextmanager
async def running(
    folder: Path, *, wrong_tokens: int = 30, in_memory: int = 1 << 20, audit: AuditLog | None = None
) -> AsyncIterator[Api]:
    """Run one, with a token of each scope."""
    made = {scope.value: make_token([scope], "", time.time(), None) for scope in Scope}
    made["expired"] = make_token([Scope.OPERATE], "", 0, 1)
    tokens = TokenTable(token for _, token in made.values())
    log = audit or AuditLog(folder / "index.sqlite3")
    handlers = Handlers()
    api = AdminApi(handlers.operations(), tokens, log, version="1.2.3", wrong_tokens=wrong_tokens, in_memory=in_memory)
    outer, inner = web.Application(), web.Application()
    outer.add_subapp(BASE, api.guarded())
    inner.add_subapp(BASE, api.local())
    try:
        async with TestClient(TestServer(outer)) as client, TestClient(TestServer(inner)) as local:
            secrets = {name: secret for name, (secret, _) in made.items()}
            kept = {name: token for name, (_, token) in made.items()}
            yield Api(api, client, local, handlers, log, tokens, secrets, kept)
    finally:
        await log.close()
