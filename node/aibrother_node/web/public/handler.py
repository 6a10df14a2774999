"""The public plane's requests: from the target to a representation, an answer, and the sender."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, assert_never

from aibrother_node.errors import Gone, NodeError, NotFound
from aibrother_node.store.draining import DrainFlag
from aibrother_node.store.fills import Incomplete
from aibrother_node.store.generation import Generation
from aibrother_node.traffic import PublicTraffic
from aibrother_node.web.accept import prefers_json
from aibrother_node.web.answer import (
    Answer,
    Representation,
    answer,
    blob_representation,
    manifest_representation,
    problem,
)
from aibrother_node.web.cors import cors_headers, preflight
from aibrother_node.web.errors import answer_error, method_not_allowed, retry_after
from aibrother_node.web.public.availability import open_served, refuse_unfinishable
from aibrother_node.web.public.blob_cache import BlobCache, CachedBlob
from aibrother_node.web.public.catalog_files import CatalogFiles
from aibrother_node.web.public.fleet_sight import FleetSight, MirrorSettings
from aibrother_node.web.public.mirrors import Mirrors, only_if_cached, redirection
from aibrother_node.web.public.outgoing import Outgoing
from aibrother_node.web.public.readiness import Check, readiness
from aibrother_node.web.targets import (
    BlobTarget,
    ChunksTarget,
    DocumentTarget,
    EntryTarget,
    HealthTarget,
    MetadataTarget,
    MetalinkTarget,
    MirrorsTarget,
    PartTarget,
    ReadyTarget,
    ServerTarget,
    TufTarget,
    parse_target,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from aibrother_node.content.digest import Digest
    from aibrother_node.store.blobs import BlobReader
    from aibrother_node.store.open_blob import OpenBlob
    from aibrother_node.web.answer import Header
    from aibrother_node.web.public.catalog_files import Part
    from aibrother_node.web.public.request import Request
    from aibrother_node.web.public.sender import Sends
    from aibrother_node.web.targets import Target

_LOG: Final = logging.getLogger(__name__)
_WHILE_DRAINED: Final = (HealthTarget, ReadyTarget, MirrorsTarget, MetalinkTarget, ServerTarget, MetadataTarget)
"""What a drained node answers as ever: how it is, where else to go, and what the fleet follows if it signs."""


@dataclass(slots=True)
class Settings:
    """What a reload can change.

    Attributes:
        cors_origins: who may read from a script.
        max_ranges: ranges in one request.
        max_manifest: bytes above which a blob isn't taken for a manifest.
        mirrors: of the fleet and of clients; `PublicPlane.configure` changes it.
        draining: the process is about to end: not ready, connections are not kept.
    """

    cors_origins: tuple[str, ...] = ("*",)
    max_ranges: int = 16
    max_manifest: int = 64 << 20
    mirrors: MirrorSettings = field(default_factory=MirrorSettings)
    draining: bool = False


@dataclass(slots=True)
class PublicPlane:
    """Answers the public plane's requests of one worker.

    Attributes:
        reader: the blobs.
        sends: the sender.
        settings: what a reload changes, by `configure`.
        checks: what `/readyz` asks.
        report: called after each answer with (request, status, body bytes promised, whether all were sent).
        clock: seconds since 1970.
        touched: called with each blob that is asked for.
        traffic: what is counted; the counts of a worker are shared before it is made.
        cache: open blobs.
        catalog: names, documents and metadata.
        sight: the fleet; it wants a `refresh` each second.
    """

    reader: BlobReader
    sends: Sends
    settings: Settings
    checks: Sequence[Callable[[], Coroutine[None, None, Check]]] = ()
    report: Callable[[Request, int, int, bool], None] | None = None
    clock: Callable[[], float] = time.time
    touched: Callable[[Digest], None] | None = None
    traffic: PublicTraffic = field(default_factory=PublicTraffic)
    cache: BlobCache = field(default_factory=BlobCache)
    catalog: CatalogFiles = field(init=False)
    sight: FleetSight = field(init=False)

    _mirrors: Mirrors = field(init=False)
    _drained: DrainFlag = field(init=False)
    _generation: Generation = field(init=False)
    _seen: bytes = field(init=False)
    _seen_withheld: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.catalog = CatalogFiles(self.reader.layout)
        self.sight = FleetSight(self.reader.layout, self.catalog, self.settings.mirrors, self.clock)
        self._mirrors = Mirrors(self.reader, self.catalog, self.sight)
        self._drained = DrainFlag(self.reader.layout)
        self._generation = Generation(self.reader.layout.generation)
        self._seen = self._generation.now()
        self._seen_withheld = self.sends.withheld.now()

    def configure(self, settings: Settings) -> None:
        """Take over changed settings."""
        self.settings = settings
        self.sight.configure(settings.mirrors)

    def _forget_what_changed(self) -> None:
        """What was looked up under another catalog may be withdrawn by now."""
        now = self._generation.now()
        if now != self._seen:
            self._seen = now
            self.catalog.forget()
            self.cache.close()
        if self.sends.withheld.memory[:8] != self._seen_withheld:
            # a chunk has gone, or has come: a file may be another one, and a fill have other chunks
            self._seen_withheld = self.sends.withheld.now()
            self.cache.close()

    def begin(self, request: Request) -> Outgoing | Coroutine[None, None, Outgoing]:
        """Answer one request: at once where everything is at hand, else by what is returned to be awaited.

        Neither raises, but for cancellation.
        """
        method = request.method
        try:
            if method not in ("GET", "HEAD"):
                return self._outgoing(request, self._other_method(request))
            target = parse_target(request.target)
            self._forget_what_changed()
            if self._drained.is_up() and not isinstance(target, _WHILE_DRAINED):
                return self._later(request, self._elsewhere(request, target))
            match target:
                case BlobTarget():
                    entry = None if self._mirrors.may_send_on(request) else self._at_hand(target.digest)
                    if entry is None:
                        return self._later(request, self._open_blob(request, target))
                    return self._blob(request, target, entry)
                case ChunksTarget():
                    return self._later(request, self._chunks(request, target))
                case PartTarget():
                    return self._part_at_once(request, target) or self._later(request, self._part(request, target))
                case DocumentTarget():
                    accepted = request.headers.get("Accept-Encoding")
                    return self._later(request, self._small(request, lambda: self.catalog.document(target, accepted)))
                case EntryTarget():
                    return self._later(request, self._small(request, lambda: self.catalog.entry(target)))
                case MirrorsTarget():
                    return self._later(request, self._listing(request, target))
                case MetalinkTarget():
                    return self._later(request, self._metalink(request, target))
                case MetadataTarget():
                    return self._later(request, self._small(request, lambda: self.catalog.metadata(target)))
                case TufTarget():
                    return self._later(request, self._tuf(request, target))
                case HealthTarget():
                    return self._outgoing(request, _json_answer(200, {"status": "alive"}, method))
                case ReadyTarget():
                    return self._later(request, self._ready(request))
                case ServerTarget():
                    raise NotFound("only OPTIONS asks for the server as a whole")
                case _:
                    assert_never(target)
        except Exception as error:
            return self._failed(request, error)

    async def _later(self, request: Request, work: Coroutine[None, None, Outgoing]) -> Outgoing:
        try:
            return await work
        except Exception as error:
            return self._failed(request, error)

    def _failed(self, request: Request, error: Exception) -> Outgoing:
        if not isinstance(error, NodeError):
            _LOG.error("%s %s failed", request.method, request.target[:200], exc_info=error)
        return self._outgoing(request, answer_error(error, request.method))

    def _outgoing(
        self,
        request: Request,
        result: Answer,
        *,
        blob: OpenBlob | None = None,
        release: Callable[[], None] | None = None,
        links: tuple[Header, ...] = (),
    ) -> Outgoing:
        """Dress an answer with what every answer of this plane carries."""
        extra = [] if result.status == 204 else cors_headers(request.headers.get("Origin"), self.settings.cors_origins)
        if links and result.status in (200, 206):
            extra += links
        return Outgoing(result, extra, blob, release, self.settings.draining)

    def malformed(self, status: int, title: str) -> Outgoing:
        """Answer what is no HTTP; the connection ends with it."""
        extra = cors_headers(None, self.settings.cors_origins)
        return Outgoing(problem(status, title, "", method="GET"), extra, close=True)

    def _other_method(self, request: Request) -> Answer:
        if request.method == "OPTIONS":
            parse_target(request.target)
            return preflight(request.headers.get("Origin"), self.settings.cors_origins)
        return method_not_allowed(request.method)

    def _blob(self, request: Request, target: BlobTarget, entry: CachedBlob) -> Outgoing:
        """Answer from an open blob, which is marked as in use."""
        representation = entry.representation
        try:
            if target.filename is not None:
                representation = blob_representation(target.digest, entry.blob.size, filename=target.filename)
        except BaseException:
            self.cache.release(entry)
            raise
        return self._from_blob(request, representation, entry)

    def _from_blob(
        self, request: Request, representation: Representation, entry: CachedBlob, links: tuple[Header, ...] = ()
    ) -> Outgoing:
        try:
            result = self._answer(request, representation)
            if not entry.is_sound:
                refuse_unfinishable(self.sends.withheld, entry.blob, result)
        except BaseException:
            self.cache.release(entry)
            raise
        if self.touched is not None:
            self.touched(entry.blob.digest)
        release = partial(self.cache.release, entry)
        return self._outgoing(request, result, blob=entry.blob, release=release, links=links)

    def _at_hand(self, digest: Digest) -> CachedBlob | None:
        """An open blob that is answered from without leaving the loop: one of which nothing is missing."""
        entry = self.cache.get(digest)
        if entry is None or entry.is_sound:
            return entry
        self.cache.release(entry)
        return None

    async def _open_blob(self, request: Request, target: BlobTarget) -> Outgoing:
        try:
            entry = self.cache.get(target.digest) or await self._open_cached(target.digest)
        except Gone:
            raise
        except NotFound as error:
            return await self._absent(request, target.digest, target.filename, error)
        except Incomplete as error:
            return await self._incomplete(request, target.digest, target.filename, error)
        location = await self._sent_on(request, target.digest, target.filename, entry)
        if location is not None:
            return location
        try:
            return self._blob(request, target, entry)
        except Incomplete as error:
            return await self._incomplete(request, target.digest, target.filename, error)

    async def _incomplete(self, request: Request, digest: Digest, filename: str | None, error: Incomplete) -> Outgoing:
        """Answer for bytes of a blob of which only others are here."""
        if only_if_cached(request):
            return self._outgoing(request, problem(504, "Gateway Timeout", str(error), method=request.method))
        location = await self._mirrors.anywhere(request, digest, filename)
        if location is None:
            raise error
        return self._outgoing(request, redirection(location))

    async def _sent_on(
        self, request: Request, digest: Digest, filename: str | None, entry: CachedBlob
    ) -> Outgoing | None:
        """A redirect to a nearer mirror, after which the blob is not in use any more; None where it is served here."""
        try:
            location = await self._mirrors.nearer(request, digest, filename)
        except BaseException:
            self.cache.release(entry)
            raise
        if location is None:
            return None
        self.cache.release(entry)
        return self._outgoing(request, redirection(location))

    async def _absent(
        self, request: Request, digest: Digest, filename: str | None, error: NotFound, part: Part | None = None
    ) -> Outgoing:
        """Answer for a blob that is not here; `part` is what the catalog says, where it was asked by a name."""
        if only_if_cached(request):
            detail = f"{digest} is not here, and only what is here was asked for"
            return self._outgoing(request, problem(504, "Gateway Timeout", detail, method=request.method))
        location = await self._mirrors.anywhere(request, digest, filename)
        if location is not None:
            return self._outgoing(request, redirection(location))
        if request.method != "HEAD":
            raise error
        # wanted, and not here yet: what it will be is known; asking for it starts nothing
        if part is not None:
            return self._outgoing(request, self._answer(request, part.representation))
        size = await asyncio.to_thread(self.catalog.size_in_catalog, digest)
        if size is None:
            raise error
        return self._outgoing(request, self._answer(request, blob_representation(digest, size, filename=filename)))

    async def _open_cached(self, digest: Digest) -> CachedBlob:
        """Open a blob that may be served, and keep it open: only under the catalog that said so."""
        while True:
            before = self._generation.now(), self.sends.withheld.now()
            blob = await asyncio.to_thread(open_served, self.reader, self.catalog, digest)
            is_sound = blob.is_whole and not self.sends.withheld.ranges(digest, blob.inode)
            if (self._generation.now(), self.sends.withheld.now()) == before:
                return self.cache.put(blob, is_sound=is_sound)
            blob.close()  # withdrawn meanwhile, perhaps: in the cache nobody would ask again

    def _part_at_once(self, request: Request, target: PartTarget) -> Outgoing | None:
        """Answer a part that was asked for lately, without leaving the loop; None where that can't be."""
        part = self.catalog.known_part(target)
        if part is None or self._mirrors.may_send_on(request):
            return None
        links = self._mirrors.links_at_once(request, part.digest, target.filename)
        entry = None if links is None else self._at_hand(part.digest)
        return None if links is None or entry is None else self._from_blob(request, part.representation, entry, links)

    async def _part(self, request: Request, target: PartTarget) -> Outgoing:
        part = await asyncio.to_thread(self.catalog.part, target)
        links = await self._mirrors.links(request, part.digest, target.filename)
        self._forget_what_changed()  # while this waited
        try:
            entry = self.cache.get(part.digest) or await self._open_cached(part.digest)
        except Gone:
            raise
        except NotFound as error:
            return await self._absent(request, part.digest, target.filename, error, part)
        except Incomplete as error:
            return await self._incomplete(request, part.digest, target.filename, error)
        location = await self._sent_on(request, part.digest, target.filename, entry)
        if location is not None:
            return location
        try:
            return self._from_blob(request, part.representation, entry, links)
        except Incomplete as error:
            return await self._incomplete(request, part.digest, target.filename, error)

    async def _elsewhere(self, request: Request, target: Target) -> Outgoing:
        if isinstance(target, TufTarget):
            document = await asyncio.to_thread(self.catalog.document_file, target)
            if document is not None:
                return self._from_memory(request, *document)
        return self._outgoing(request, await self._mirrors.instead(request, target))

    @property
    def _is_no_mirror(self) -> bool:
        """Whether clients are to go elsewhere."""
        return self.settings.draining or self._drained.is_up()

    async def _listing(self, request: Request, target: MirrorsTarget) -> Outgoing:
        mirrors = await self._mirrors.listing(request, target.digest, draining=self._is_no_mirror)
        body = {"mirrors": [mirror.to_json() for mirror in mirrors]}
        return self._outgoing(request, _json_answer(200, body, request.method))

    async def _metalink(self, request: Request, target: MetalinkTarget) -> Outgoing:
        settings = self.settings
        made = await self._mirrors.metalink(
            request, target.file, max_manifest=settings.max_manifest, draining=self._is_no_mirror
        )
        return self._from_memory(request, *made)

    async def _tuf(self, request: Request, target: TufTarget) -> Outgoing:
        found = await asyncio.to_thread(self.catalog.document_file, target)
        if found is not None:
            return self._from_memory(request, *found)
        blob = BlobTarget(target.sha256)
        return await self._open_blob(request, blob)

    async def _small(self, request: Request, read: Callable[[], tuple[Representation, bytes]]) -> Outgoing:
        return self._from_memory(request, *await asyncio.to_thread(read))

    def _from_memory(self, request: Request, representation: Representation, data: bytes) -> Outgoing:
        """Answer from bytes at hand: slices are cut from there."""
        result = self._answer(request, representation)
        result.parts = tuple(
            part if isinstance(part, bytes) else data[part.offset : part.offset + part.length] for part in result.parts
        )
        return self._outgoing(request, result)

    async def _chunks(self, request: Request, target: ChunksTarget) -> Outgoing:
        as_json = prefers_json(request.headers.get("Accept"))
        digest, data = await asyncio.to_thread(self._manifest, target, as_json=as_json)
        representation = manifest_representation(
            digest, len(data), immutable=target.manifest is not None, as_json=as_json
        )
        return self._from_memory(request, representation, data)

    def _manifest(self, target: ChunksTarget, *, as_json: bool) -> tuple[Digest, bytes]:
        """The manifest's digest and the bytes of the form that is wanted. Blocks."""
        if target.manifest is not None:
            candidates = [target.manifest]
        else:
            named = self.catalog.manifest_in_catalog(target.digest)
            candidates = [] if named is None else [named]
            candidates += [row.manifest for row in self.reader.manifests_of(target.digest)]
        for digest in candidates:
            try:
                manifest = self.reader.read_manifest(digest, self.settings.max_manifest)
            except NotFound:
                continue
            if manifest.blob != target.digest:
                continue
            return digest, json.dumps(manifest.to_json()).encode() if as_json else manifest.encode()
        raise NotFound(f"no chunk manifest of {target.digest} is here")

    def _answer(self, request: Request, representation: Representation) -> Answer:
        headers = request.headers

        def get(name: str) -> str | None:
            values = headers.getall(name, None)
            return None if values is None else values[0] if len(values) == 1 else ", ".join(values)

        return answer(
            request.method,
            get,
            representation,
            boundary=secrets.token_hex(16) if "," in headers.get("Range", "") else "-",
            max_ranges=self.settings.max_ranges,
        )

    async def _ready(self, request: Request) -> Outgoing:
        why = "about to end" if self.settings.draining else "drained" if self._drained.is_up() else ""
        checks = [Check("draining", not why, why)]
        checks += [await check() for check in self.checks]
        ready, body = readiness(checks)
        result = _json_answer(200 if ready else 503, body, request.method)
        if not ready:
            result.headers.append(retry_after(None))
        return self._outgoing(request, result)


def _json_answer(status: int, body: Mapping[str, object], method: str) -> Answer:
    data = json.dumps(body).encode()
    headers = [
        ("Content-Length", str(len(data))),
        ("Content-Type", "application/json"),
        ("Cache-Control", "no-store"),
    ]
    return Answer(status, headers) if method == "HEAD" else Answer(status, headers, (data,), len(data))
