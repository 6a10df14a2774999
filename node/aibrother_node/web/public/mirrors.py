"""What clients are told of other nodes: `/v1/mirrors`, the Link fields of parts, Metalinks, and redirects."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from aibrother_node.content.chunks import FIXED_1
from aibrother_node.errors import Gone, NotFound, Temporary
from aibrother_node.fleet.nearest import Mirror, is_strictly_nearer, nearest
from aibrother_node.web.answer import Answer, Representation, entity_tag
from aibrother_node.web.disposition import clean_filename
from aibrother_node.web.metalink import METALINK_TYPE, Source, are_pieces_of, metalink
from aibrother_node.web.public.fleet_sight import Client, FleetSight, remember
from aibrother_node.web.targets import BlobTarget, ChunksTarget, PartTarget, TufTarget, carries_via

if TYPE_CHECKING:
    from aibrother_node.content.chunks import ChunkManifest
    from aibrother_node.content.digest import Digest
    from aibrother_node.store.blobs import BlobReader
    from aibrother_node.web.answer import Header
    from aibrother_node.web.public.catalog_files import CatalogFiles
    from aibrother_node.web.public.fleet_sight import Holders
    from aibrother_node.web.public.request import Request
    from aibrother_node.web.targets import Target

MAX_LINKS: Final = 5
DRAINED_RETRY: Final = 10.0
"""Seconds after which to ask a drained node again: who drained it knows how long that lasts, and hasn't said."""


class Mirrors:
    """Mirrors of one worker's blobs; to be used on its event loop.

    Args:
        reader: the blobs that are here.
        catalog: the names.
        sight: the fleet.
    """

    def __init__(self, reader: BlobReader, catalog: CatalogFiles, sight: FleetSight) -> None:
        self._reader = reader
        self._catalog = catalog
        self._sight = sight
        self._era = sight.era
        self._links: dict[tuple[Digest, str, Client], tuple[Header, ...]] = {}

    # Link fields of parts

    def links_at_once(self, request: Request, digest: Digest, filename: str) -> tuple[Header, ...] | None:
        """The Link fields of a part for a client (RFC 6249), without leaving the loop; None where that can't be."""
        if not self._sight.has_peers:
            return ()
        client, holders = self._sight.known_client(request), self._sight.known_holders(digest)
        return None if client is None or holders is None else self._links_for(client, holders, digest, filename)

    async def links(self, request: Request, digest: Digest, filename: str) -> tuple[Header, ...]:
        """The same; where something has to be looked up, in threads."""
        if not self._sight.has_peers:
            return ()
        client = await self._sight.client(request)
        return self._links_for(client, await self._sight.holders(digest), digest, filename)

    def _links_for(self, client: Client, holders: Holders, digest: Digest, filename: str) -> tuple[Header, ...]:
        if self._era != self._sight.era:
            self._era = self._sight.era
            self._links.clear()
        key = digest, filename, client
        links = self._links.get(key)
        if links is None:
            mirrors = nearest(_complete(holders), client.place, client.key)[:MAX_LINKS]
            links = tuple(_link(mirror, digest, filename, pri) for pri, mirror in enumerate(mirrors, 1))
            if self._sight.known_holders(digest) is holders:  # else they are of an era that has ended meanwhile
                remember(self._links, key, links)
        return links

    # Redirects

    def may_send_on(self, request: Request) -> bool:
        """Whether a client of a blob that is here may be sent to a nearer mirror."""
        sight = self._sight
        return sight.settings.redirect == "nearest" and sight.has_peers and _can_be_sent(request)

    async def nearer(self, request: Request, digest: Digest, filename: str | None) -> str | None:
        """Where to send a client of a blob that is here, since a complete mirror is strictly nearer; None: nowhere."""
        if not self.may_send_on(request):
            return None
        client = await self._sight.client(request)
        if client.place.assumed:
            return None
        best = _best(client, await self._sight.holders(digest))
        (here,) = nearest([(self._sight.own, "complete")], client.place, client.key)
        if best is None or not is_strictly_nearer(best, here, client.place):
            return None
        return self._location(best, digest, filename)

    async def anywhere(self, request: Request, digest: Digest, filename: str | None) -> str | None:
        """Where to send a client of a blob that is not here; None where it is to be told so."""
        if self._sight.settings.on_miss != "redirect":
            return None
        best = await self._any(request, digest)
        return None if best is None else self._location(best, digest, filename)

    async def instead(self, request: Request, target: Target) -> Answer:
        """Send a client of a drained node to any mirror, where it may be sent on at all and one is known.

        Raises:
            Temporary: it is to come back, or to look elsewhere itself.
            Gone: it was withdrawn.
            NotFound: no such name.
        """
        settings = self._sight.settings
        if settings.on_miss == "redirect" or settings.redirect == "nearest":
            match target:
                case BlobTarget(digest, filename):
                    await asyncio.to_thread(self._refuse_withdrawn, digest)
                case PartTarget():
                    part = await asyncio.to_thread(self._catalog.part, target)
                    digest, filename = part.digest, target.filename
                case ChunksTarget():
                    digest, filename = target.digest, None
                case TufTarget():
                    digest, filename = target.sha256, None
                case _:
                    raise _drained()
            best = await self._any(request, digest)
            if best is not None and isinstance(target, ChunksTarget):
                return redirection(self._chunks_location(best, target))
            if best is not None:
                return redirection(self._location(best, digest, filename))
        raise _drained()

    async def _any(self, request: Request, digest: Digest) -> Mirror | None:
        sight = self._sight
        if not sight.has_peers or not _can_be_sent(request):
            return None
        return _best(await sight.client(request), await sight.holders(digest))

    def _location(self, mirror: Mirror, digest: Digest, filename: str | None) -> str:
        url = _blob_url(mirror.url, digest, filename)
        return f"{url}{'&' if filename is not None else '?'}{self._via}"

    def _chunks_location(self, mirror: Mirror, target: ChunksTarget) -> str:
        wanted = "" if target.manifest is None else f"manifest={target.manifest}&"
        return f"{mirror.url}/v1/chunks/{target.digest}?{wanted}{self._via}"

    @property
    def _via(self) -> str:
        return f"via={quote(self._sight.settings.node_id, safe='')}"

    # /v1/mirrors

    async def listing(self, request: Request, digest: Digest, *, draining: bool) -> list[Mirror]:
        """All mirrors of a blob for a client, best first; this node is one of them where it has it and doesn't drain.

        Raises:
            Gone: it was withdrawn.
            NotFound: nobody has it, and the catalog doesn't name it.
        """
        here, named = await asyncio.to_thread(self._presence, digest)
        mirrors = await self._ordered(request, digest, here=here and not draining)
        if not mirrors and not here and not named:
            raise NotFound(f"{digest} is not here, at no peer, and not in the catalog")
        return mirrors

    async def _ordered(self, request: Request, digest: Digest, *, here: bool) -> list[Mirror]:
        client = await self._sight.client(request)
        holders = list(await self._sight.holders(digest))
        own = self._sight.own_for(request) if here else None
        if own is not None:
            holders.append((own, "complete"))
        return nearest(holders, client.place, client.key)

    def _presence(self, digest: Digest) -> tuple[bool, bool]:
        """Whether a blob is here, and whether the catalog names it. Blocks."""
        self._refuse_withdrawn(digest)
        return self._reader.layout.blob(digest).exists(), self._catalog.size_in_catalog(digest) is not None

    def _refuse_withdrawn(self, digest: Digest) -> None:
        reason = self._catalog.withdrawn(digest)
        if reason is not None:
            raise Gone(reason)

    # Metalinks

    async def metalink(
        self, request: Request, target: PartTarget | BlobTarget, *, max_manifest: int, draining: bool
    ) -> tuple[Representation, bytes]:
        """The Metalink of a file for a client, with all complete mirrors.

        Args:
            request: the client's.
            target: the file.
            max_manifest: bytes above which a blob isn't taken for a manifest.
            draining: this node is no mirror any more.

        Raises:
            Gone: it was withdrawn.
            NotFound: nobody has it, or there is no such name.
        """
        found = await asyncio.to_thread(self._described, target, max_manifest)
        mirrors = await self._ordered(request, found.digest, here=found.here and not draining)
        sources = [
            Source(_blob_url(mirror.url, found.digest, found.filename), mirror.country)
            for mirror in mirrors
            if mirror.have == "complete"
        ]
        if not sources:
            raise NotFound(f"nobody is known to have all of {found.digest} now")
        data = await asyncio.to_thread(metalink, found.filename, found.digest, found.size, sources, found.pieces)
        tag = entity_tag(found.digest, f"meta4;{hashlib.sha256(data).hexdigest()[:16]}")
        return Representation(len(data), tag, content_type=METALINK_TYPE, cache_control="no-store"), data

    def _described(self, target: PartTarget | BlobTarget, max_manifest: int) -> _Described:
        """What a Metalink says of a file, but for its sources. Blocks."""
        if isinstance(target, PartTarget):
            digest, filename = self._catalog.part(target).digest, target.filename
        else:
            digest = target.digest
            filename = clean_filename(target.filename or self._catalog.filename_in_catalog(digest) or digest.hex)
        self._refuse_withdrawn(digest)
        here = True
        try:
            size: int | None = self._reader.layout.blob(digest).stat().st_size
        except OSError:
            size, here = self._catalog.size_in_catalog(digest), False
        return _Described(digest, filename, size, here, self._pieces(digest, size, max_manifest))

    def _pieces(self, digest: Digest, size: int | None, max_manifest: int) -> ChunkManifest | None:
        """A file's `fixed/1` manifest, where it is here: the catalog's, else one that the store made. Blocks."""
        try:
            named = self._catalog.pieces_in_catalog(digest)
        except NotFound:
            named = None
        stored = [row.manifest for row in self._reader.manifests_of(digest) if row.chunker == FIXED_1]
        for candidate in stored if named is None else [named]:
            try:
                manifest = self._reader.read_manifest(candidate, max_manifest)
            except NotFound:
                continue
            if are_pieces_of(manifest, digest, size):
                return manifest
        return None


@dataclass(frozen=True, slots=True)
class _Described:
    digest: Digest
    filename: str
    size: int | None
    here: bool
    pieces: ChunkManifest | None


def redirection(location: str) -> Answer:
    """Send a client elsewhere, this once (RFC 9110, 15.4.8)."""
    return Answer(307, [("Content-Length", "0"), ("Location", location), ("Cache-Control", "no-store")])


def _drained() -> Temporary:
    return Temporary("this node is taken out of service for a while", retry_after=DRAINED_RETRY)


def only_if_cached(request: Request) -> bool:
    """Whether a client wants what is here, and nothing to be fetched or to be sent on (RFC 9111, 5.2.1.7)."""
    lines = request.headers.getall("Cache-Control", [])
    return any(word.strip().lower() == "only-if-cached" for line in lines for word in line.split(","))


def _can_be_sent(request: Request) -> bool:
    return not carries_via(request.target) and not only_if_cached(request)


def _complete(holders: Holders) -> Holders:
    return [(peer, have) for peer, have in holders if have == "complete"]


def _best(client: Client, holders: Holders) -> Mirror | None:
    return next(iter(nearest(_complete(holders), client.place, client.key)), None)


def _blob_url(base: str, digest: Digest, filename: str | None) -> str:
    url = f"{base}/v1/blobs/{digest}"
    return url if filename is None else f"{url}?filename={quote(clean_filename(filename), safe='')}"


def _link(mirror: Mirror, digest: Digest, filename: str, pri: int) -> Header:
    geo = "" if mirror.country is None else f"; geo={mirror.country.lower()}"
    return "Link", f"<{_blob_url(mirror.url, digest, filename)}>; rel=duplicate; pri={pri}{geo}"
