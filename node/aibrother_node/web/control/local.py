"""The local plane: what this machine's commands ask of a running node, over `run/control.sock`.

Only the node's own user can open the socket, so there are no tokens. Bodies are small JSON; content comes through
`incoming/` (store/incoming.py). All changes to the store run on one thread, in the order in which they were asked for.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from aiohttp import web

from aibrother_node.errors import InvalidInput, NodeError, NotFound, Temporary, VerificationFailed
from aibrother_node.store.database import named
from aibrother_node.store.incoming import Staged
from aibrother_node.web.control.admin.api import BASE
from aibrother_node.web.control.admin.audit import LOCAL
from aibrother_node.web.errors import answer_error
from aibrother_node.web.responses import response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aibrother_node.store.blobs import BlobStore, Stored
    from aibrother_node.web.control.admin.audit import AuditLog

_LOG: Final = logging.getLogger(__name__)
_ID: Final = re.compile(r"[0-9a-f]{1,64}", re.ASCII)
_HASHING: Final = 2  # threads that read whole blobs; more would take turns at the disk, and leave none for other things
_TOLD_ENTRIES: Final = 20  # of an edit, in the audit log
_BODY_CEILING: Final = 64 << 20  # a batch of thousands of entries; only the node's own user gets here
_Result = TypeVar("_Result")


class StoreThread:
    """The one thread that changes the store of a running node.

    Args:
        open_store: makes the store, on that thread.

    Attributes:
        changes: grows with each change, done or only tried.
        hashing: held by whoever reads whole blobs beside this thread, of whom there are few at a time.
    """

    def __init__(self, open_store: Callable[[], BlobStore]) -> None:
        self._open_store = open_store
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._store: BlobStore | None = None
        self.changes = 0
        self.hashing = asyncio.Semaphore(_HASHING)

    async def start(self) -> None:
        """Open the store."""
        self._store = await self._run(self._open_store)

    @property
    def store(self) -> BlobStore:
        """The store, for what any thread may do."""
        if self._store is None:
            raise Temporary("the store is being opened", retry_after=1)
        return self._store

    async def change(self, work: Callable[[BlobStore], _Result]) -> _Result:
        """Run something that changes the store."""
        store = self.store
        try:
            return await self._run(lambda: work(store))
        finally:
            self.changes += 1

    async def look(self, work: Callable[[BlobStore], _Result]) -> _Result:
        """Run something that changes nothing, between two changes."""
        store = self.store
        return await self._run(lambda: work(store))

    async def close(self) -> None:
        """Finish what is running, and close the store."""
        if self._store is not None:
            await self._run(self._store.close)
            self._store = None
        await asyncio.to_thread(self._executor.shutdown)

    async def _run(self, work: Callable[[], _Result]) -> _Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except sqlite3.Error as error:
            raise named(error) from error  # a full disk is told as one, whatever it was that filled it


async def take_in(thread: StoreThread, staged: Staged) -> Stored:
    """Check staged content, off the store's thread, then have it taken in.

    Raises:
        NotFound: the folder is incomplete.
        VerificationFailed: its content is not what it says; it lies in quarantine now.
    """
    request = staged.request()
    if request is None or not staged.data.exists():
        raise NotFound(f"nothing complete in {staged.id}")
    store = thread.store
    try:
        async with thread.hashing:
            verified = await asyncio.to_thread(store.verify_staged, staged, request)
    except VerificationFailed as error:
        reason = str(error)
        await thread.change(lambda store: store.discard(staged, reason))
        raise
    return await thread.change(lambda store: store.take_in(staged, verified, verify=False))


async def tidy_up(thread: StoreThread) -> None:
    """Finish at start what an interruption left: complete content is taken in, debris removed, manifests made again."""
    taken = await thread.change(lambda store: store.take_in_all())
    for stored in taken:
        _LOG.info("took in %s, which an interrupted command had left complete", stored.digest)
    stop = threading.Event()

    def go_on(_: int) -> None:
        if stop.is_set():
            raise Temporary("the node ends")

    try:
        for digest in await thread.change(lambda store: store.without_manifest()):
            try:
                # reading a large blob takes minutes: not on the thread for which commands wait
                manifest = await asyncio.to_thread(thread.store.read_again, digest, go_on)
                await thread.change(lambda store, manifest=manifest: store.put_manifest(manifest))  # type: ignore[misc]
            except (NodeError, OSError) as error:
                _LOG.error("no manifest for %s: %s", digest, error)
            else:
                _LOG.info("made the manifest of %s again: %s", digest, manifest.digest())
    finally:
        stop.set()


class KeepsTokens(Protocol):
    """Who keeps the admin API's tokens."""

    async def keep_token(self, document: Any) -> dict[str, Any]:
        """Take in a token that a command has made."""

    async def revoke_token(self, token_id: str) -> dict[str, Any]:
        """Forget a token; `NotFound` for one that isn't there."""


class LocalPlane:
    """The routes of `run/control.sock` that the admin API doesn't have; it is served there too, without tokens.

    Args:
        thread: the store.
        edit: carries out an edit of the catalog; what it returns is answered.
        tokens: who keeps tokens.
        audit: where each change is entered.
        clock_skew: how far this clock is off the fleet's, in seconds, where that is too far; for workers.
    """

    def __init__(
        self,
        thread: StoreThread,
        edit: Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]],
        tokens: KeepsTokens,
        audit: AuditLog,
        clock_skew: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._thread = thread
        self._edit = edit
        self._tokens = tokens
        self._audit = audit
        self._clock_skew = clock_skew

    def application(self, admin: web.Application) -> web.Application:
        """The aiohttp application to serve.

        Args:
            admin: the admin API without tokens, which goes below `/admin/v1`.
        """
        app = web.Application(client_max_size=_BODY_CEILING, middlewares=[_errors])
        app.add_subapp(BASE, admin)
        app.add_routes(
            [
                web.get("/alive", self._alive),
                web.post("/incoming/{id}", self._take_in),
                web.post("/catalog", self._edit_catalog),
                web.put("/tokens", self._keep_token),
                web.delete("/tokens/{id}", self._revoke_token),
            ]
        )
        return app

    async def _alive(self, _: web.Request) -> web.Response:
        """Workers ask: that there is an answer is most of the answer."""
        return web.json_response({"clock_skew": self._clock_skew()})

    async def _keep_token(self, request: web.Request) -> web.Response:
        document = await request.json()
        if not isinstance(document, dict):
            raise InvalidInput("a token is an object")
        told = {name: document.get(name) for name in ("name", "scopes", "expires")}
        async with self._audit.action(LOCAL, "create_token", {"id": document.get("id")}, told):
            return web.json_response(await self._tokens.keep_token(document))

    async def _revoke_token(self, request: web.Request) -> web.Response:
        token_id = request.match_info["id"]
        async with self._audit.action(LOCAL, "revoke_token", {"id": token_id}):
            return web.json_response(await self._tokens.revoke_token(token_id))

    async def _take_in(self, request: web.Request) -> web.Response:
        """Take in what a command has staged; it holds the folder, which is how we know that it is the one that asks."""
        name = request.match_info["id"]
        if not _ID.fullmatch(name):
            raise InvalidInput(f"no id of staged content: {name[:80]!r}")
        folder = self._thread.store.layout.incoming / name
        if not folder.is_dir():
            raise NotFound(f"nothing is staged as {name}")
        async with self._audit.action(LOCAL, "take_in", {"id": name}) as entry:
            stored = await take_in(self._thread, Staged(folder, -1))
            entry.notes |= {"digest": str(stored.digest), "size": stored.size}
        return web.json_response(
            {
                "digest": str(stored.digest),
                "size": stored.size,
                "manifest": str(stored.manifest),
                "pieces": None if stored.pieces is None else str(stored.pieces),
                "was_there": stored.was_there,
            }
        )

    async def _edit_catalog(self, request: web.Request) -> web.Response:
        action = await request.json()
        if not isinstance(action, dict):
            raise InvalidInput("an edit of the catalog is an object")
        async with self._audit.action(LOCAL, "edit_catalog", *_told(action)) as entry:
            done = await self._edit(action)
            entry.notes["versions"] = done.get("versions")
        return web.json_response(done)


def _told(action: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the audit log says of an edit: what it does, and to what; of entries only their names."""
    entries = action.get("entries")
    listed = entries if isinstance(entries, list) else []
    names = [f"{one.get('name')}:{one.get('variant')}@{one.get('version')}" for one in listed if isinstance(one, dict)]
    target = {"releases": names[:_TOLD_ENTRIES], "entries": len(names)} if names else {}
    target |= {name: action[name] for name in ("references", "id", "role") if name in action}
    how = ("do", "channel", "reason", "keep", "changes", "lost", "threshold")
    return target, {name: action[name] for name in how if name in action}


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException:
        raise
    except Exception as error:
        if not isinstance(error, NodeError | ValueError):
            _LOG.exception("%s %s failed", request.method, request.path)
        if isinstance(error, ValueError) and not isinstance(error, NodeError):
            error = InvalidInput(f"not JSON: {error}")
        return response(answer_error(error, request.method, writing=True))
