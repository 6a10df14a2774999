"""Routes about the node itself: status, peers, audit, configuration, pins."""

from __future__ import annotations

import asyncio
import contextlib
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import Field

from aibrother_node.catalog.values import time_text
from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput
from aibrother_node.web.control.admin.inputs import DIGEST, Input
from aibrother_node.web.control.admin.node_answers import (
    AuditPage,
    ConfigAnswer,
    PeersAnswer,
    PinAnswer,
    PinsPage,
    StatusAnswer,
)
from aibrother_node.web.control.admin.operation import Documented, Operation, Reply, Scope

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pydantic.config import JsonDict

    from aibrother_node.store.blobs import BlobStore
    from aibrother_node.web.control.admin.audit import AuditLog
    from aibrother_node.web.control.admin.operation import Call

MAX_REASON = 1000
MAX_PAGE = 1000
_TIME: JsonDict = {"format": "date-time"}


class AuditQuery(Input):
    """Which entries of the audit log."""

    before: Annotated[int | None, Field(ge=1, le=1 << 53, description="entries older than this one")] = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 100
    action: Annotated[str | None, Field(max_length=100, description="an operation's name")] = None
    caller: Annotated[str | None, Field(max_length=100, description="a token's id, or local")] = None
    since: Annotated[
        str | None,
        Field(
            max_length=40,
            description="RFC 3339, such as 2026-11-24T03:40:00Z",
            json_schema_extra=_TIME,
        ),
    ] = None


class PinsQuery(Input):
    """Which pins."""

    after: Annotated[str | None, Field(pattern=r"^sha256:[0-9a-f]{64}$", description="those behind this digest")] = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 100


class PinBody(Input):
    """Why a blob is kept."""

    reason: Annotated[str, Field(min_length=1, max_length=MAX_REASON)] = "pinned over the admin API"


class ChangesStore(Protocol):
    """The one thread that changes the store (web/control/local.py)."""

    @property
    def store(self) -> BlobStore:
        """The store, for what any thread may do."""

    async def change(self, work: Callable[[BlobStore], None]) -> None:
        """Run something that changes the store."""


class NodeRoutes:
    """The routes, and what they need of the node.

    Args:
        status, peers, config: what these answer.
        audit: the log to read.
        store: where pins are.
    """

    def __init__(
        self,
        *,
        status: Callable[[], Awaitable[dict[str, Any]]],
        peers: Callable[[], Awaitable[dict[str, Any]]],
        config: Callable[[], Awaitable[dict[str, Any]]],
        audit: AuditLog,
        store: ChangesStore,
    ) -> None:
        self._status = status
        self._peers = peers
        self._config = config
        self._audit = audit
        self._store = store

    def operations(self) -> list[Operation]:
        """The declarations."""
        return [
            Operation(
                "get_status",
                "GET",
                "/status",
                Scope.READ,
                "How the node is.",
                self._get_status,
                {200: Documented("as `status --json`", StatusAnswer)},
            ),
            Operation(
                "get_peers",
                "GET",
                "/peers",
                Scope.READ,
                "The nodes of the fleet as this one sees them.",
                self._get_peers,
                {200: Documented("as `peers --json`", PeersAnswer)},
            ),
            Operation(
                "get_config",
                "GET",
                "/config",
                Scope.READ,
                "The configuration as it is used, secrets masked.",
                self._get_config,
                {200: Documented("sections as in node.toml, and where each key was set", ConfigAnswer)},
            ),
            Operation(
                "get_audit",
                "GET",
                "/audit",
                Scope.READ,
                "The audit log, the newest entry first.",
                self._get_audit,
                {200: Documented("a page; `next` is the next one's `before`", AuditPage)},
                query=AuditQuery,
            ),
            Operation(
                "list_pins",
                "GET",
                "/pins",
                Scope.READ,
                "The pinned blobs, in order of their digests.",
                self._list_pins,
                {200: Documented("a page; `next` is the next one's `after`", PinsPage)},
                query=PinsQuery,
            ),
            Operation(
                "pin",
                "PUT",
                "/pins/{digest}",
                Scope.OPERATE,
                "Keep a blob whatever the policy says.",
                self._pin,
                {200: Documented("it is kept", PinAnswer)},
                parameters={"digest": DIGEST},
                body=PinBody,
            ),
            Operation(
                "unpin",
                "DELETE",
                "/pins/{digest}",
                Scope.OPERATE,
                "Take a pin away; the blob stays until collection finds that nothing names it.",
                self._unpin,
                {200: Documented("it isn't pinned any more", PinAnswer)},
                parameters={"digest": DIGEST},
            ),
        ]

    async def _get_status(self, _: Call) -> Reply:
        return Reply(await self._status())

    async def _get_peers(self, _: Call) -> Reply:
        return Reply(await self._peers())

    async def _get_config(self, _: Call) -> Reply:
        return Reply(await self._config())

    async def _get_audit(self, call: Call) -> Reply:
        query: AuditQuery = call.query
        rows = await asyncio.to_thread(
            self._audit.page,
            before=query.before,
            limit=query.limit,
            action=query.action,
            caller=query.caller,
            since=None if query.since is None else _unix(query.since),
        )
        for row in rows:
            for name in ("at", "last"):
                row[name] = time_text(datetime.fromtimestamp(row[name], UTC))
        return Reply({"entries": rows, "next": rows[-1]["id"] if len(rows) == query.limit else None})

    async def _list_pins(self, call: Call) -> Reply:
        query: PinsQuery = call.query
        after = None if query.after is None else Digest.parse(query.after)
        page = await asyncio.to_thread(_pins, self._store.store, after, query.limit)
        return Reply({"pins": page, "next": page[-1]["digest"] if len(page) == query.limit else None})

    async def _pin(self, call: Call) -> Reply:
        digest = Digest.parse(call.path["digest"])
        reason: str = call.body.reason
        await self._store.change(lambda store: store.pin(digest, reason))
        return Reply({"digest": str(digest), "pinned": True})

    async def _unpin(self, call: Call) -> Reply:
        digest = Digest.parse(call.path["digest"])
        await self._store.change(lambda store: store.unpin(digest))
        return Reply({"digest": str(digest), "pinned": False})


def _pins(store: BlobStore, after: Digest | None, limit: int) -> list[dict[str, str]]:
    digests = []
    for name in os.listdir(store.layout.pins):
        with contextlib.suppress(InvalidInput):
            digests.append(Digest.from_hex(name))
    wanted = sorted(digest for digest in digests if after is None or digest > after)[:limit]
    reasons = [(digest, store.pin_reason(digest)) for digest in wanted]
    return [{"digest": str(digest), "reason": reason} for digest, reason in reasons if reason is not None]


def _unix(text: str) -> float:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise InvalidInput(f"query since: {text[:40]!r} is not a time such as 2026-11-24T03:40:00Z")
    return found.timestamp()
