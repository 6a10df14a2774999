"""What one worker sees of the fleet and of its clients: where they are, and which nodes have a blob.

The fleet view is a file that control writes. It is looked at in threads: whether there are peers at all once a second,
by `refresh`, and who has a blob when that is asked for the first time since it changed, which eight bytes of memory
tell. What was found is remembered here, on the event loop, so that a request costs no look at any file.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from aibrother_node.fleet.nearest import Place
from aibrother_node.fleet.place import client_address, client_country, locate
from aibrother_node.fleet.view import FleetView, PeerView
from aibrother_node.store.generation import Generation

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Network, IPv6Network

    from aibrother_node.catalog.entries import FleetNode
    from aibrother_node.content.digest import Digest
    from aibrother_node.fleet.place import Address, PlaceDatabase
    from aibrother_node.fleet.view import Have
    from aibrother_node.store.layout import Layout
    from aibrother_node.web.public.catalog_files import CatalogFiles
    from aibrother_node.web.public.request import Request

    Holders = list[tuple[PeerView, Have]]
    Who = tuple[Address | None, str | None]

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_REMEMBERED: Final = 4096
_HOST: Final = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_URL: Final = re.compile(r"https?://[A-Za-z0-9\[][!#-;=?-~]{0,2000}")  # without quotes, < and >, which end a Link
_COUNTRY: Final = re.compile(r"[A-Z]{2}")


@dataclass(frozen=True, slots=True)
class MirrorSettings:
    """What the configuration says of mirrors.

    Attributes:
        node_id: this node's.
        public_url: of this node; "" where the Host of a request tells it.
        place: this node's, as configured; what is missing is taken from the fleet document.
        trusted_proxies: whose word on clients is taken.
        database: of places.
        on_miss: what a request for a blob does that is not here.
        redirect: whether clients are sent to a nearer mirror.
    """

    node_id: str = ""
    public_url: str = ""
    place: Place = field(default_factory=Place)
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    database: PlaceDatabase | None = None
    on_miss: Literal["fill", "redirect", "404"] = "fill"
    redirect: Literal["never", "nearest"] = "never"


@dataclass(frozen=True, slots=True)
class Client:
    """A client, as far as mirrors are ordered for it.

    Attributes:
        place: where it is.
        key: one of 256, made of its network: by it, the clients of one place are shared among mirrors that are alike.
    """

    place: Place
    key: bytes


class FleetSight:
    """Who has what, as one worker knows it; to be used on its event loop.

    A worker without a fleet view, or with one that names no peer, sees nobody.

    Args:
        layout: of the data directory.
        catalog: says what the fleet document knows of this node.
        settings: from the configuration.
        clock: seconds since 1970.

    Attributes:
        settings: as they are now.
        has_peers: whether there is anybody to send clients to.
        own: this node, as others would see it.
        era: another number whenever something may have changed.
    """

    def __init__(
        self,
        layout: Layout,
        catalog: CatalogFiles,
        settings: MirrorSettings,
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.has_peers = False
        self.own = _own(settings, None)
        self.era = 0
        self._catalog = catalog
        self._clock = clock
        self._view = FleetView(layout.fleet_view)
        self._generation = Generation(layout.generation)
        self._seen: tuple[int, bytes] | None = None
        self._clients: dict[Who, Client] = {}
        self._holders: dict[Digest, Holders] = {}

    def configure(self, settings: MirrorSettings) -> None:
        """Take over a changed configuration. The database of places that it replaces is closed."""
        if self.settings.database is not settings.database:
            self.close()
        self.settings = settings
        self.own = _own(settings, None)
        self._seen = None
        self._forget()

    def close(self) -> None:
        """Let go of the database of places; clients are not located any more."""
        if self.settings.database is not None:
            self.settings.database.close()

    async def refresh(self) -> None:
        """See what has changed; call it once a second."""
        settings, before = self.settings, self._seen
        generation = self._generation.now()
        version, has_peers = await asyncio.to_thread(self._look)
        own = self.own
        if before is None or before[1] != generation:
            own = _own(settings, await asyncio.to_thread(self._catalog.fleet_node, settings.node_id))
        if settings is not self.settings:
            return  # a reload came between; the next look is in a second
        if (version, generation) != before or has_peers != self.has_peers:
            self._seen, self.has_peers, self.own = (version, generation), has_peers, own
            self._forget()

    def _notice(self) -> None:
        """Forget what a change of the view has made old: nobody is sent to a node that was revoked a moment ago."""
        seen = self._seen
        if seen is not None and (version := self._view.version()) != seen[0]:
            self._seen = version, seen[1]
            self._forget()

    def _look(self) -> tuple[int, bool]:
        return self._view.version(), bool(self._view.peers(self._clock()))

    def _forget(self) -> None:
        self.era += 1
        self._clients.clear()
        self._holders.clear()

    def known_client(self, request: Request) -> Client | None:
        """Who asks, where that was found out lately."""
        return self._clients.get(self._who(request))

    async def client(self, request: Request) -> Client:
        """Who asks; a database of places is asked in a thread."""
        who = self._who(request)
        client = self._clients.get(who)
        if client is None:
            era, database, own = self.era, self.settings.database, self.own
            found = locate(*who, None) if database is None else await asyncio.to_thread(locate, *who, database)
            if found is None:
                found = Place(own.country, own.latitude, own.longitude, own.region, assumed=True)
            client = Client(found, _network_key(who[0]))
            if era == self.era:
                remember(self._clients, who, client)
        return client

    def _who(self, request: Request) -> Who:
        remote, headers, proxies = request.remote, request.headers, self.settings.trusted_proxies
        country = client_country(remote, headers, proxies) if proxies else None
        return client_address(remote, headers, proxies), country

    def known_holders(self, digest: Digest) -> Holders | None:
        """The other nodes that have a blob, where that was asked lately and nothing has changed since."""
        self._notice()
        return self._holders.get(digest)

    async def holders(self, digest: Digest) -> Holders:
        """The other nodes that have a blob, or a part of it."""
        if not self.has_peers:
            return []
        self._notice()
        holders = self._holders.get(digest)
        if holders is None:
            era = self.era
            found = await asyncio.to_thread(self._view.holders, digest, self._clock())
            holders = [(peer, have) for peer, have in found if self._is_other(peer)]
            if era == self.era:
                remember(self._holders, digest, holders)
        return holders

    def _is_other(self, peer: PeerView) -> bool:
        return peer.id != self.settings.node_id and peer.url != self.settings.public_url and _is_sane(peer)

    def own_for(self, request: Request) -> PeerView | None:
        """This node under the URL that this client reaches it by; None where nobody has said that sanely."""
        if self.settings.public_url:
            return self.own
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            return None
        return replace(self.own, url=f"{'https' if request.secure else 'http'}://{hosts[0]}")


def remember(cache: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    """Keep a value; a cache that is full begins anew."""
    if len(cache) >= _REMEMBERED:
        cache.clear()
    cache[key] = value


def _own(settings: MirrorSettings, known: FleetNode | None) -> PeerView:
    place = settings.place
    latitude, longitude = place.latitude, place.longitude
    if latitude is None and known is not None:
        latitude, longitude = known.latitude, known.longitude
    return PeerView(
        settings.node_id,
        settings.public_url,
        place.region or (None if known is None else known.region),
        None if known is None else known.country,
        latitude,
        longitude,
    )


def _is_sane(peer: PeerView) -> bool:
    """Whether what a peer says of itself can be written into header fields and reckoned with."""
    return (
        _URL.fullmatch(peer.url) is not None
        and (peer.country is None or _COUNTRY.fullmatch(peer.country) is not None)
        and (peer.latitude is None or -90 <= peer.latitude <= 90)
        and (peer.longitude is None or -180 <= peer.longitude <= 180)
    )


def _network_key(address: Address | None) -> bytes:
    if address is None:
        return b""
    network = address.packed[:3] if address.version == 4 else address.packed[:6]
    return hashlib.sha256(network).digest()[:1]
