"""Uploads: blobs come in resumably, by digest; see docs/adr/0013 for why it looks like this.

    HEAD   how far it is: Upload-Offset, Upload-Length, Upload-Complete (a structured boolean), and Range
    PUT    what comes next, with Content-Range; or the whole; or nothing (`bytes */total`), to finish what has come
    DELETE drops it

A PUT that ends early keeps what came. 201 when the blob is stored (and leased, so that it is still there when it is
published), 200 when it was already, 202 in between. One that doesn't go on where the upload is: 409. One that comes
while another one writes: 423; but one that has been silent for a while is cut then, since it is likely that its client
has gone, and this is the same client that tries again. What turns out to be something else: 422, and nothing is kept.

What has come is written by threads, a block at a time: the event loop never waits, and memory stays flat.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aiohttp import web
from pydantic import BaseModel

from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput, NotFound, VerificationFailed
from aibrother_node.store.uploads import OtherTotal, Position
from aibrother_node.web.control.admin.content_range import Piece
from aibrother_node.web.control.admin.expectation import proceed
from aibrother_node.web.control.admin.finishing import Finishing
from aibrother_node.web.control.admin.inputs import DIGEST
from aibrother_node.web.control.admin.operation import Documented, Operation, Reply, Scope
from aibrother_node.web.control.admin.problems import Problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from aibrother_node.store.blobs import Stored
    from aibrother_node.store.disk import Disk
    from aibrother_node.store.uploads import Upload, Uploads
    from aibrother_node.web.control.admin.operation import Call
    from aibrother_node.web.control.local import StoreThread

_LOG: Final = logging.getLogger(__name__)
_BLOCK: Final = 1 << 20  # bytes written at a time
_PATIENCE: Final = 20.0  # seconds to wait for a blob to be made; connections are cut after longer silence
_SILENT: Final = 5.0  # seconds after which a writer that sends nothing makes way for another one
_MAKING_WAY: Final = 5.0
_SWEEP: Final = 600.0
_BODY: Final = "application/octet-stream"


class StoredBlob(BaseModel):
    """A blob that is stored, with the manifests that its entry names."""

    digest: str
    size: int
    manifest: str | None = None
    pieces: str | None = None


@dataclass(eq=False)
class _Writer:
    """A request that writes to an upload.

    Attributes:
        request: it.
        heard: when something came of it, on the event loop's clock.
        gone: set when it writes no more.
    """

    request: web.Request
    heard: float
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class UploadRoutes:
    """The operations of uploads.

    Args:
        thread: the store.
        uploads: what is in progress.
        disk: the file system.
    """

    def __init__(self, thread: StoreThread, uploads: Uploads, disk: Disk) -> None:
        self._uploads = uploads
        self._finishing = Finishing(thread, uploads, disk)
        self._writers: dict[Digest, _Writer] = {}
        self._sweeper: asyncio.Task[None] | None = None

    def operations(self) -> list[Operation]:
        """All of them."""
        parameters = {"digest": DIGEST}
        stored = Documented("it is stored", StoredBlob)
        return [
            Operation(
                "put_upload",
                "PUT",
                "/uploads/{digest}",
                Scope.PUBLISH,
                "Add to an upload, by Content-Range, or upload the whole.",
                self._put,
                {
                    200: Documented("it was stored already; the body was not read", StoredBlob),
                    201: stored,
                    202: Documented("more is to come, or it is being checked: ask again with `bytes */total`"),
                    409: Documented("the upload is elsewhere: see Upload-Offset"),
                    422: Documented("what has come is something else; nothing of it was kept"),
                    423: Documented("another request writes to it"),
                    503: Documented("too many uploads are in progress"),
                    507: Documented("there is no room"),
                },
                parameters=parameters,
                raw_body=_BODY,
            ),
            Operation(
                "get_upload",
                "HEAD",
                "/uploads/{digest}",
                Scope.PUBLISH,
                "Tell how far an upload is.",
                self._head,
                {200: Documented("see Upload-Offset, Upload-Length and Upload-Complete")},
                parameters=parameters,
            ),
            Operation(
                "delete_upload",
                "DELETE",
                "/uploads/{digest}",
                Scope.PUBLISH,
                "Drop an upload.",
                self._delete,
                {204: Documented("it is gone"), 423: Documented("a request writes to it")},
                parameters=parameters,
            ),
        ]

    def start(self) -> None:
        """Begin to drop what is given up."""
        self._sweeper = asyncio.create_task(self._sweep(), name="uploads")

    async def close(self) -> None:
        """Stop; requests that still write are the server's to end, before."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        await self._finishing.close()

    # -- routes

    async def _head(self, call: Call) -> Reply:
        digest = Digest.parse(call.path["digest"])
        whole = await self._finishing.whole(digest)
        if whole is not None:
            return Reply(headers=_fields(Position(whole[0], whole[0]), complete=whole[1]))
        position = await asyncio.to_thread(self._uploads.position, digest)
        if position is None:
            raise NotFound(f"{digest} is neither stored nor being uploaded")
        return Reply(headers=_fields(position))

    async def _delete(self, call: Call) -> Reply:
        digest = Digest.parse(call.path["digest"])
        async with self._writing(digest, call.request):
            if self._finishing.running(digest):
                raise _locked(digest)
            if await asyncio.to_thread(self._uploads.position, digest) is None:
                raise NotFound(f"no upload of {digest} is in progress")
            await asyncio.to_thread(self._uploads.discard, digest)
        return Reply(status=204)

    async def _put(self, call: Call) -> Reply:
        request = call.request
        digest = Digest.parse(call.path["digest"])
        piece = Piece.of(request.headers.get("Content-Range"), request.content_length)
        async with self._writing(digest, request) as writer:
            whole = await self._finishing.whole(digest)
            if whole is not None:
                return await self._stored_already(digest, *whole, piece)
            if self._finishing.running(digest):
                position = Position(piece.total, piece.total)
            else:
                position = await self._receive(digest, piece, writer)
        if position.offset < position.total:
            return Reply(status=202, headers=_fields(position))
        return await self._finish(digest, position.total, created=True)

    # -- inside

    async def _stored_already(self, digest: Digest, size: int, complete: bool, piece: Piece) -> Reply:
        if piece.total != size:
            raise _elsewhere(f"{digest} is stored, with {size} bytes", Position(size, size), complete=complete)
        if not complete:
            return await self._finish(digest, size, created=False)
        return Reply(StoredBlob(digest=str(digest), size=size).model_dump(), 200, _fields(Position(size, size), True))

    async def _finish(self, digest: Digest, total: int, *, created: bool) -> Reply:
        try:
            stored = await self._finishing.finish(digest, total, _PATIENCE)
        except VerificationFailed as error:
            raise Problem(422, "Unprocessable Content", f"{error}; nothing of it was kept") from None
        if stored is None:
            return Reply(status=202, headers={**_fields(Position(total, total)), "Retry-After": "1"})
        return Reply(_document(stored), 201 if created else 200, _fields(Position(total, total), True))

    async def _receive(self, digest: Digest, piece: Piece, writer: _Writer) -> Position:
        """Write what a request brings; whatever ends it, what has come is kept."""
        known = await asyncio.to_thread(self._uploads.position, digest)
        offset = 0 if known is None else known.offset
        if known is not None and known.total != piece.total:
            raise _elsewhere(f"the upload of {digest} was begun with {known.total} bytes in all", known)
        if piece.finishing and offset == piece.total and known is not None:
            return known
        if piece.start != offset:
            raise _elsewhere(
                f"{offset} bytes of {digest} have come, and this begins at {piece.start}",
                known or Position(0, piece.total),
            )
        try:
            upload = await asyncio.to_thread(self._uploads.open, digest, piece.total, time.time())
        except OtherTotal as error:
            raise _elsewhere(str(error), error.position) from None
        try:
            await proceed(writer.request)
            await self._copy(writer, upload, piece.stop)
            return Position(upload.offset, upload.total)
        finally:
            upload.close()

    async def _copy(self, writer: _Writer, upload: Upload, stop: int) -> None:
        body = writer.request.content
        block = bytearray()
        clock = asyncio.get_running_loop().time
        try:
            while piece := await body.readany():
                writer.heard = clock()
                block += piece
                if upload.offset + len(block) > stop:
                    del block[max(0, stop - upload.offset) :]
                    raise InvalidInput(f"more comes than was said: {stop} is the end")
                if len(block) >= _BLOCK:
                    await _write(upload, block)
        except (web.RequestPayloadError, ConnectionError, asyncio.IncompleteReadError) as error:
            raise InvalidInput(f"the body ended early; {upload.offset + len(block)} bytes have come") from error
        finally:
            await _write(upload, block)
        if upload.offset != stop:
            raise InvalidInput(f"the body ended early; {upload.offset} bytes have come, {stop} is the end")

    @contextlib.asynccontextmanager
    async def _writing(self, digest: Digest, request: web.Request) -> AsyncIterator[_Writer]:
        """Be the one request that writes to an upload; one that has been silent for a while makes way.

        Raises:
            Problem: 423, another one writes.
        """
        clock = asyncio.get_running_loop().time
        other = self._writers.get(digest)
        if other is not None:
            if clock() - other.heard < _SILENT or other.request.transport is None:
                raise _locked(digest)
            other.request.transport.abort()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_MAKING_WAY):
                    await other.gone.wait()
            if digest in self._writers:
                raise _locked(digest)
        writer = self._writers[digest] = _Writer(request, clock())
        try:
            yield writer
        finally:
            del self._writers[digest]
            writer.gone.set()

    async def _sweep(self) -> None:
        while True:
            try:
                for name in await asyncio.to_thread(self._uploads.sweep, time.time()):
                    _LOG.info("dropped the upload of %s, which was given up, or is stored by now", name)
            except OSError as error:
                _LOG.error("uploads that were given up can't be dropped: %s", error)
            await asyncio.sleep(_SWEEP)


async def _write(upload: Upload, block: bytearray) -> None:
    """Write a block and empty it; not interrupted by a cancellation, which would let go of the file too early."""
    if not block:
        return
    data = bytes(block)
    block.clear()
    writing = asyncio.ensure_future(asyncio.to_thread(upload.write, data))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing])
        raise


def _fields(position: Position, complete: bool = False) -> Mapping[str, str]:
    """How far an upload is: names of the IETF's resumable uploads (draft-ietf-httpbis-resumable-upload)."""
    fields = {
        "Upload-Offset": str(position.offset),
        "Upload-Length": str(position.total),
        "Upload-Complete": "?1" if complete else "?0",
    }
    if position.offset:
        fields["Range"] = f"bytes=0-{position.offset - 1}"
    return fields


def _document(stored: Stored) -> dict[str, object]:
    pieces = None if stored.pieces is None else str(stored.pieces)
    return StoredBlob(
        digest=str(stored.digest), size=stored.size, manifest=str(stored.manifest), pieces=pieces
    ).model_dump()


def _elsewhere(detail: str, position: Position, *, complete: bool = False) -> Problem:
    return Problem(
        409,
        "Conflict",
        detail,
        headers=_fields(position, complete),
        members={"offset": position.offset, "total": position.total},
    )


def _locked(digest: Digest) -> Problem:
    return Problem(423, "Locked", f"another request writes to the upload of {digest}", headers={"Retry-After": "1"})
