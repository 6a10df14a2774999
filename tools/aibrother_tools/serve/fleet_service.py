"""The fleet's part of control: gossip, inventories, the catalog that is followed, and what workers see of it.

Composition only. What is decided is decided in `aibrother_node.fleet`; here it gets its clock, its sockets and its
files. A round goes: what this node says of itself is brought up to date, gossip, then what came of it is acted upon.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import sqlite3
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.catalog.indexing import state_name
from aibrother_node.errors import NodeError, NotFound, Temporary
from aibrother_node.fleet.catalog_now import CatalogNow, catalog_now
from aibrother_node.fleet.client import FleetClient
from aibrother_node.fleet.engine import Engine, EngineSettings
from aibrother_node.fleet.evicting import Evictions
from aibrother_node.fleet.have import MAX_ANSWER, have_of
from aibrother_node.fleet.have import Have as HaveOf
from aibrother_node.fleet.identity import NodeKey
from aibrother_node.fleet.inventory import Inventory, encode_page
from aibrother_node.fleet.keepers import mirrors_of
from aibrother_node.fleet.loop import GossipLoop
from aibrother_node.fleet.peer_inventories import PeerInventories
from aibrother_node.fleet.record import Description
from aibrother_node.fleet.requests import sign_request, verify_request
from aibrother_node.fleet.signatures import Ed25519Signatures
from aibrother_node.fleet.view import PeerView
from aibrother_node.fleet.vouching import Vouch
from aibrother_node.fleet.vouching import target as question
from aibrother_node.store.disk import Disk
from aibrother_node.store.draining import drained
from aibrother_node.store.fills import fills_of
from aibrother_node.store.generation import Generation
from aibrother_node.store.index import IndexReader
from aibrother_node.web.bounded import BoundedServer
from aibrother_node.web.fleet.listener import FleetListener
from aibrother_tools.reports import program_version
from aibrother_tools.serve.catalog_following import CatalogFollowing
from aibrother_tools.serve.fleet_reports import peers_report, update_metrics
from aibrother_tools.serve.sockets import BACKLOG
from aibrother_tools.serve.view_keeper import ViewKeeper

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from datetime import timedelta

    from aibrother_node.config import NodeConfig
    from aibrother_node.content.digest import Digest
    from aibrother_node.fleet.evicting import Attempt
    from aibrother_node.fleet.keepers import Mirrors
    from aibrother_node.fleet.members import Member
    from aibrother_node.fleet.peering import PeerState
    from aibrother_node.fleet.view import Have
    from aibrother_node.metrics import FleetMetrics
    from aibrother_node.store.layout import Layout
    from aibrother_node.web.control.local import StoreThread

_LOG: Final = logging.getLogger(__name__)
REFRESH_ROUNDS: Final = 30
"""Rounds after which a record is signed again: phi, and with it how soon the dead are noticed, is scaled to that."""
MAX_SKEW: Final = 60.0
"""Seconds that this clock may be off the fleet's median before this node signs nothing any more."""
_INVENTORY_PAUSE: Final = 5.0
_LEAVING: Final = 1.0
_CONNECTIONS: Final = 512  # of the fleet listener, at a time
_LOADS: Final = 10


class FleetService:
    """One node's part in its fleet.

    Args:
        config: the configuration.
        layout: of the data directory.
        thread: the store.
        metrics: what is counted.
        changes: a number that grows with each change of the store.

    Attributes:
        clock_skew: how far the fleet's clocks are ahead of this one, in seconds, where that is too far; else None.
        evictions: what this node is about to evict; used on the store's thread.
        keeps: whether this node may vouch for a blob now; None while nobody can say.
    """

    def __init__(
        self,
        config: NodeConfig,
        layout: Layout,
        thread: StoreThread,
        metrics: FleetMetrics,
        changes: Callable[[], int],
    ) -> None:
        self._config = config
        self._layout = layout
        self._thread = thread
        self._metrics = metrics
        self._changes = changes
        key = NodeKey.load(layout.node_key)
        self._signatures = Ed25519Signatures(key)
        self._node = key.id
        self._rng = random.Random(secrets.randbits(64))  # noqa: S311  # whom to ask, nonces among them; no secrets
        self._catalog = CatalogNow()
        self._catalog_state: str | None = None
        self.evictions = Evictions(self._node, self._signatures, config.store.copies)
        self.keeps: Callable[[Digest, Mirrors], Awaitable[bool]] | None = None
        self._generation = Generation(layout.generation)
        self._seen_generation = b""
        self._inventory = Inventory(secrets.token_bytes(8))
        self._inventory_lock = asyncio.Lock()
        self._inventory_at = -_INVENTORY_PAUSE
        self._inventory_changes = -1
        self._holds = Description()  # of it, what is said of the store
        self._load = 0
        self._state = "up" if drained(layout) is None else "draining"
        self._software = program_version()
        self._index = IndexReader(layout.index)
        self._tasks: list[asyncio.Task[None]] = []
        self._exit = contextlib.AsyncExitStack()
        self._client: FleetClient
        self._gossip: GossipLoop
        self._inventories = PeerInventories(self._ask_peer, self._write_holdings, self._forget_holdings)
        self._view = ViewKeeper(layout.fleet_view, self._inventories.begin_anew)
        self._following: CatalogFollowing
        self.clock_skew: float | None = None

    async def start(self, sockets: Sequence[socket.socket], context: ssl.SSLContext | None) -> None:
        """Listen and begin to gossip.

        Args:
            sockets: bound for the fleet listener.
            context: its TLS settings; None for plain HTTP.
        """
        config = self._config.fleet
        settings = EngineSettings(
            interval=config.gossip_interval,
            fanout=config.fanout,
            refresh=config.gossip_interval * REFRESH_ROUNDS,
            forget_after=max(config.forget_after, 2 * config.gossip_interval * REFRESH_ROUNDS),
        )
        engine = Engine(self._signatures, self._node, settings, self._rng, time.time())
        engine.set_seeds(config.seeds)
        self._client = await self._exit.enter_async_context(FleetClient(agent=f"aibrother-node/{self._software}"))
        self._gossip = GossipLoop(
            engine,
            self._client,
            config.gossip_interval,
            random.Random(secrets.randbits(64)),  # noqa: S311  # spreads rounds
            before_round=lambda now: self._describe(engine, now),
        )
        await self._view.start()
        await self._look_at_catalog()
        await self._look_at_store()
        self._following = await CatalogFollowing.begin(
            self._config, self._layout, self._thread, self._metrics, self._gossip, self.catalog_changed
        )
        count = self._metrics.traffic.count_for("fleet")
        server = BoundedServer(FleetListener(self).application(), most=_CONNECTIONS, idle=60.0, count=count)
        self._exit.push_async_callback(server.close)
        await server.start(sockets, context, BACKLOG)
        self._tasks = [
            asyncio.create_task(self._gossip.run(), name="gossip"),
            asyncio.create_task(self._again_and_again(self._once), name="fleet"),
            asyncio.create_task(self._again_and_again(self._follow_gossip), name="follow"),
            asyncio.create_task(self._following.ask_around(lambda: self._catalog.members), name="catalog"),
        ]

    async def tell(self, state: str) -> None:
        """Tell the fleet that this node is `up`, `draining` or `leaving`; waits a moment for it to be heard."""
        self._state = state
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVING):
                await self._gossip.round(wait=True)

    async def close(self) -> None:
        """End all of it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._inventories.close()
        await self._exit.aclose()
        await self._gossip.close()
        await self._view.close()

    # -- what the fleet listener asks ------------------------------------------------------------------------------

    async def receive(self, frame: bytes) -> bytes:
        """Answer a frame of gossip."""
        return await self._gossip.receive(frame)

    async def caller(self, method: str, target: str, header: Callable[[str], str | None]) -> Member:
        """Who of the fleet signed a request."""
        return await self._gossip.call(
            lambda engine, now: verify_request(
                method,
                target,
                header,
                own=self._node,
                members=engine.members,
                signatures=self._signatures,
                now=now,
            )
        )

    async def inventory(self, since: str | None) -> bytes:
        """A page of this node's inventory."""
        async with self._inventory_lock:
            return await asyncio.to_thread(lambda: encode_page(self._inventory.page(since)))

    async def have(self, digest: Digest, asker: Member, nonce: bytes | None) -> bytes:
        """What there is of a blob here; for a nonce, with a vouch where this node keeps it."""
        found = await asyncio.to_thread(have_of, self._layout, digest)
        if nonce is not None and found.complete and self.keeps is not None:
            mirrors = await self.mirrors()
            if await self.keeps(digest, mirrors):
                vouch = await asyncio.to_thread(Vouch.give, self._signatures, asker.id, digest, nonce, mirrors.catalog)
                found = replace(found, vouch=vouch)
        return found.encode()

    # -- what eviction asks ----------------------------------------------------------------------------------------

    async def mirrors(self) -> Mirrors:
        """Who may keep blobs, by this node's catalog and by what the others say of themselves."""

        def see(engine: Engine, now: float) -> Mirrors:
            if self._catalog_state != state_name(self._layout):
                self._read_catalog(engine)
            mode, peers = self._config.store.mode, engine.peers(now)
            return mirrors_of(self._node, mode, self._catalog, peers, self._catalog_state)

        return await self._gossip.call(see)

    async def ask_keeper(self, attempt: Attempt, node: str) -> Vouch | None:
        """Ask a node whether it keeps a blob.

        Raises:
            Temporary: it doesn't answer.
        """
        target, error = question(attempt.digest, attempt.nonce), None
        for url in attempt.mirrors.gossip_urls.get(node, ()):
            try:
                return HaveOf.decode(await self._ask_peer(node, url, target, MAX_ANSWER)).vouch
            except NotFound:
                return None
            except NodeError as failure:
                error = failure
        raise Temporary(f"{node[:12]} doesn't answer: {error or 'nobody knows where it is'}")

    # -- what control asks -----------------------------------------------------------------------------------------

    async def peers(self) -> dict[str, Any]:
        """The answer of `peers`."""
        states, own, skew, alarm = await self._gossip.call(
            lambda engine, now: (engine.peers(now), engine.own_record(), engine.skew(), engine.alarm(now))
        )
        return peers_report(self._node, self._says(), own, self._catalog, states, skew, alarm)

    def check_clock(self) -> None:
        """Refuse to sign while this clock is off.

        Raises:
            Temporary: it differs too much from what the fleet's clocks say.
        """
        if self.clock_skew is not None:
            raise Temporary(
                f"this clock is {-self.clock_skew:+.0f} s off those of the fleet: nothing is signed until it is set"
            )

    @property
    def writing_catalog(self) -> asyncio.Lock:
        """To be held while the catalog's files are written by anybody else than the follower."""
        return self._following.writing

    async def collect_debris(self, grace: timedelta) -> int:
        """Where a catalog is followed: remove what nobody can be asking for of former ones."""
        return await self._following.collect_debris(grace)

    async def catalog_changed(self) -> None:
        """What is published has changed here: act upon it before whoever changed it is answered, and tell of it."""
        await self._look_at_catalog()
        try:
            await self._show(await self._gossip.call(lambda engine, now: engine.peers(now)))
        except (sqlite3.Error, OSError) as error:  # the change itself is done
            _LOG.error("workers can't be told of it yet: %s", error)
        self._gossip.hurry()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _describe(self, engine: Engine, now: float) -> None:
        """On the gossip thread, before each round."""
        if self._catalog_stale():
            self._read_catalog(engine)
        engine.describe(self._says(), now)

    def _says(self) -> Description:
        """What this node says of itself now; each part of it has one writer."""
        node, catalog = self._config.node, self._catalog
        return replace(
            self._holds,
            url=node.public_url or None,
            gossip_url=node.gossip_url or None,
            region=node.region or None,
            state=self._state,
            catalog=catalog.version,
            published=catalog.published,
            load=self._load,
            software=self._software,
            mode=self._config.store.mode,
        )

    def _catalog_stale(self) -> bool:
        return self._generation.now() != self._seen_generation

    def _read_catalog(self, engine: Engine) -> None:
        seen, state = self._generation.now(), state_name(self._layout)
        if state is not None and state == self._catalog_state:
            self._seen_generation = seen  # blobs went, and nothing else changed
            return
        self._catalog = found = catalog_now(self._layout)
        # what changed while it was read has no name, and is read again by who needs one
        self._catalog_state = state if state == state_name(self._layout) else None
        self._seen_generation = seen
        engine.set_members(found.members)

    async def _look_at_catalog(self) -> None:
        await self._gossip.call(lambda engine, _: self._read_catalog(engine))

    async def _look_at_store(self) -> None:
        """Bring the inventory up to date where the store has changed, at most so often."""
        now = asyncio.get_running_loop().time()
        changes = self._changes()
        if changes == self._inventory_changes or now - self._inventory_at < _INVENTORY_PAUSE:
            return
        self._inventory_at = now
        digests, free = await asyncio.to_thread(lambda: (self._index.digests(), Disk().free_bytes(self._layout.root)))
        if digests is None:
            return  # no index to ask just now
        begun = set(await asyncio.to_thread(fills_of, self._layout)) - digests
        async with self._inventory_lock:
            # hashing a hundred thousand digests takes a while
            await asyncio.to_thread(self._inventory.update, digests, begun)
            inventory = self._inventory.digest
        free = 0 if free <= 0 else 1 << (free.bit_length() - 1)
        self._inventory_changes = changes
        self._holds = Description(inventory=inventory, blobs=len(digests), free=free)

    def _look_at_load(self) -> None:
        load = min(_LOADS, round(os.getloadavg()[0] / (os.cpu_count() or 1) * _LOADS / 2))
        if abs(load - self._load) >= 2:  # what wavers by a tenth isn't worth a record
            self._load = load

    async def _again_and_again(self, work: Callable[[], Awaitable[None]]) -> None:
        """Act upon what gossip brings, once a round."""
        said = ""
        while True:
            try:
                await work()
                said = ""
            except (NodeError, sqlite3.Error, OSError) as error:
                if said != str(error):  # a disk that is full is so for longer than a round
                    said = str(error)
                    _LOG.error("what gossip brought can't be acted upon now; it will be tried again: %s", error)
            except Exception:
                _LOG.exception("what gossip brought could not be acted upon; it will be tried again")
            await asyncio.sleep(min(self._config.fleet.gossip_interval, 1.0))

    async def _follow_gossip(self) -> None:
        await self._following.follow_gossip(self._catalog.version)  # a source that is slow keeps nothing else waiting

    async def _once(self) -> None:
        await self._look_at_store()
        self._look_at_load()
        now = time.time()
        states = await self._gossip.call(lambda engine, at: engine.peers(at))
        await self._show(states)
        await self._inventories.look(states, now)
        await self._gossip.call(lambda engine, _: update_metrics(self._metrics, engine, states, self._catalog))
        skew, heard = await self._gossip.call(lambda engine, _: engine.skew())
        # of two clocks nobody can say which one is wrong
        self.clock_skew = skew if heard > 1 and abs(skew) > MAX_SKEW else None

    async def _show(self, states: Sequence[PeerState]) -> None:
        """Let workers see which peers clients may be sent to."""
        seen = [view for state in states if (view := _view_of(state)) is not None]
        await self._view.change(lambda view: view.put_peers(seen, time.time()))

    async def _ask_peer(self, node: str, url: str, target: str, most: int) -> bytes:
        headers = sign_request(self._signatures, self._node, node, "GET", target, time.time())
        return await self._client.get(url + target, headers, most)

    async def _write_holdings(self, node: str, changes: Mapping[Digest, Have | None], reset: bool) -> None:
        await self._view.change(lambda view: view.change_holdings(node, changes, reset=reset))

    async def _forget_holdings(self, nodes: Iterable[str]) -> None:
        await self._view.change(lambda view: view.forget(nodes))


def _view_of(state: PeerState) -> PeerView | None:
    """A peer as clients may be sent there; None where they may not."""
    if state.state != "alive" or state.record is None or state.url is None:
        return None
    member, says = state.member, state.record.record.says
    return PeerView(
        state.id,
        state.url.rstrip("/"),
        member.region or says.region,
        member.country,
        member.latitude,
        member.longitude,
        says.load / _LOADS,
    )
