"""The local plane: what this machine's commands ask of a running node, over `run/control.sock`.

Only the node's own user can open the socket, so there are no tokens. Bodies are small JSON; content comes through
`incoming/` (store/incoming.py). All changes to the store run on one thread, in the order in which they were asked for.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aiohttp import web

from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput, NodeError, NotFound, Temporary, VerificationFailed
from aibrother_node.store.incoming import Staged
from aibrother_node.web.errors import answer_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aibrother_node.store.blobs import BlobStore, Stored

_LOG: Final = logging.getLogger(__name__)
_ID: Final = re.compile(r"[0-9a-f]{1,64}", re.ASCII)
_BODY_CEILING: Final = 64 << 20  # a batch of thousands of entries; only the node's own user gets here
_Result = TypeVar("_Result")


class StoreThread:
    """The one thread that changes the store of a running node.

    Args:
        open_store: makes the store, on that thread.

    Attributes:
        changes: grows with each change, done or only tried.
    """

    def __init__(self, open_store: Callable[[], BlobStore]) -> None:
        self._open_store = open_store
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._store: BlobStore | None = None
        self.changes = 0

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

    async def close(self) -> None:
        """Finish what is running, and close the store."""
        if self._store is not None:
            await self._run(self._store.close)
            self._store = None
        await asyncio.to_thread(self._executor.shutdown)

    async def _run(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


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


class LocalPlane:
    """The routes of `run/control.sock`.

    Args:
        thread: the store.
        status: what `GET /status` answers.
        edit: carries out an edit of the catalog; what it returns is answered.
        peers: what `GET /peers` answers.
        clock_skew: how far this clock is off the fleet's, in seconds, where that is too far; for workers.
    """

    def __init__(
        self,
        thread: StoreThread,
        status: Callable[[], Awaitable[dict[str, Any]]],
        edit: Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]],
        peers: Callable[[], Awaitable[dict[str, Any]]],
        clock_skew: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._thread = thread
        self._status = status
        self._edit = edit
        self._peers = peers
        self._clock_skew = clock_skew

    def application(self) -> web.Application:
        """The aiohttp application to serve."""
        app = web.Application(client_max_size=_BODY_CEILING, middlewares=[_errors])
        app.add_routes(
            [
                web.get("/alive", self._alive),
                web.get("/status", self._get_status),
                web.get("/peers", self._get_peers),
                web.post("/incoming/{id}", self._take_in),
                web.post("/catalog", self._edit_catalog),
                web.put("/pins/{digest}", self._pin),
                web.delete("/pins/{digest}", self._unpin),
                web.put("/leases/{digest}", self._lease),
            ]
        )
        return app

    async def _alive(self, _: web.Request) -> web.Response:
        """Workers ask: that there is an answer is most of the answer."""
        return web.json_response({"clock_skew": self._clock_skew()})

    async def _get_status(self, _: web.Request) -> web.Response:
        return web.json_response(await self._status())

    async def _get_peers(self, _: web.Request) -> web.Response:
        return web.json_response(await self._peers())

    async def _take_in(self, request: web.Request) -> web.Response:
        """Take in what a command has staged; it holds the folder, which is how we know that it is the one that asks."""
        name = request.match_info["id"]
        if not _ID.fullmatch(name):
            raise InvalidInput(f"no id of staged content: {name[:80]!r}")
        folder = self._thread.store.layout.incoming / name
        if not folder.is_dir():
            raise NotFound(f"nothing is staged as {name}")
        stored = await take_in(self._thread, Staged(folder, -1))
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
        return web.json_response(await self._edit(action))

    async def _pin(self, request: web.Request) -> web.Response:
        digest = Digest.parse(request.match_info["digest"])
        body = await request.json()
        reason = body.get("reason") if isinstance(body, dict) else None
        if not isinstance(reason, str):
            raise InvalidInput("a pin has a reason")
        await self._thread.change(lambda store: store.pin(digest, reason))
        return web.json_response({"digest": str(digest)})

    async def _lease(self, request: web.Request) -> web.Response:
        digest = Digest.parse(request.match_info["digest"])
        body = await request.json()
        holder = body.get("holder") if isinstance(body, dict) else None
        if not isinstance(holder, str):
            raise InvalidInput("a lease has a holder")
        await self._thread.change(lambda store: store.lease([digest], holder))
        return web.json_response({"digest": str(digest)})

    async def _unpin(self, request: web.Request) -> web.Response:
        digest = Digest.parse(request.match_info["digest"])
        await self._thread.change(lambda store: store.unpin(digest))
        return web.json_response({"digest": str(digest)})


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
        result = answer_error(error, request.method, writing=True)
        body = b"".join(part for part in result.parts if isinstance(part, bytes))
        return web.Response(status=result.status, headers=dict(result.headers), body=body)
