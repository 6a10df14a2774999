"""How a running node that doesn't sign keeps its catalog up to date: at once by gossip, and by asking around."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Self

from aibrother_node.catalog.desk import utc_now
from aibrother_node.catalog.following import Follower
from aibrother_node.catalog.indexing import follow
from aibrother_node.catalog.trust import Rule
from aibrother_node.errors import InvalidInput, NodeError
from aibrother_node.store.disk import Disk
from aibrother_replicator.naming import fetcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from datetime import timedelta

    from aibrother_node.catalog.following import Followed, Source
    from aibrother_node.config import NodeConfig
    from aibrother_node.fleet.engine import Engine
    from aibrother_node.fleet.loop import GossipLoop
    from aibrother_node.fleet.members import Member
    from aibrother_node.fleet.peering import PeerState
    from aibrother_node.fleet.record import CatalogVersion
    from aibrother_node.metrics import FleetMetrics
    from aibrother_node.store.layout import Layout
    from aibrother_node.web.control.local import StoreThread

_LOG: Final = logging.getLogger(__name__)
_ASKED_AT_ONCE: Final = 2  # peers that are asked for one newer catalog
_ASKED_IN_ANY_CASE: Final = 3  # besides the seeds, each refresh_interval
_SAY_AGAIN: Final = 600.0
_OWN_FAILURE: Final = 10.0  # seconds to wait where the disk is full, or fails
SOURCE_PATIENCE: Final = 30.0
"""Seconds that one source may take in all, however slowly it goes on."""


class CatalogFollowing:
    """Follows the catalog; one refresh at a time. On a node that signs it only tells whether others are ahead.

    Args:
        follower: verifies and writes; None on a node that signs, or has no root to trust.
        config: how often to ask.
        thread: the store, whose index has to say the same.
        metrics: counts what was refused.
        gossip: tells who is ahead, and is told who lied.
        changed: awaited when this node serves a newer catalog.
    """

    def __init__(
        self,
        follower: Follower | None,
        config: NodeConfig,
        thread: StoreThread,
        metrics: FleetMetrics,
        gossip: GossipLoop,
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        self._follower = follower
        self._config = config
        self._thread = thread
        self._metrics = metrics
        self._gossip = gossip
        self._changed = changed
        self._rng = random.Random()  # noqa: S311  # whom to ask, and when
        self._lock = asyncio.Lock()
        self._complained: dict[str, str] = {}
        self._ahead_said = -_SAY_AGAIN
        self._not_before = 0.0

    @classmethod
    async def begin(
        cls,
        config: NodeConfig,
        layout: Layout,
        thread: StoreThread,
        metrics: FleetMetrics,
        gossip: GossipLoop,
        changed: Callable[[], Awaitable[None]],
    ) -> Self:
        """Begin with the root that this node trusts; where it can't be used, that is logged and nothing is followed."""
        follower = None
        if not config.catalog.signer:
            path = config.catalog.root or layout.trust / "root.json"
            try:
                root = await asyncio.to_thread(path.read_bytes)
                follower = await asyncio.to_thread(Follower, layout, Disk(), root)
            except (OSError, NodeError) as error:
                _LOG.error("no catalog is followed: %s: %s", path, error)
        return cls(follower, config, thread, metrics, gossip, changed)

    async def ask_around(self, members: Callable[[], Mapping[str, Member]]) -> None:
        """Look for a newer catalog in any case, until cancelled: who isn't admitted hears no gossip, and it can be cut.

        Args:
            members: who is in the fleet now.
        """
        while self._follower is not None:
            urls = [one.url for one in members().values() if one.url and one.url != self._config.node.public_url]
            chosen = self._rng.sample(urls, min(_ASKED_IN_ANY_CASE, len(urls)))
            try:
                await self.refresh([(url, url) for url in dict.fromkeys([*self._config.fleet.seeds, *chosen])])
            except Exception:
                _LOG.exception("the catalog could not be followed; it will be tried again")
            await asyncio.sleep(self._config.catalog.refresh_interval * self._rng.uniform(0.8, 1.0))

    async def follow_gossip(self, mine: CatalogVersion) -> None:
        """Ask for a newer catalog whoever tells of one, and mark who doesn't have it.

        Args:
            mine: which catalog is served here.
        """
        ahead = await self._gossip.call(lambda engine, now: engine.newer_catalogs(mine, now))
        self._metrics.catalog_behind(bool(ahead), time.time())
        if self._follower is None:
            self._warn(ahead, mine)
            return
        asked = [state for state in ahead if state.url][:_ASKED_AT_ONCE]
        if not asked or self._lock.locked() or time.monotonic() < self._not_before:
            return
        followed = await self.refresh([(state.id, state.url) for state in asked if state.url])
        if followed is None:  # a failure of this node is nobody else's
            self._not_before = time.monotonic() + _OWN_FAILURE
            return

        def judge(engine: Engine, now: float) -> None:
            for state in asked:
                claim = _claim(state)
                if state.id in followed.refused:
                    engine.refuse_catalog(state.id, claim, str(followed.refused[state.id])[:200], now)
                elif followed.status >= claim:
                    engine.believe_catalog(state.id)
                else:
                    engine.refuse_catalog(state.id, claim, "tells of a catalog that it doesn't serve", now)

        await self._gossip.call(judge)

    def _warn(self, ahead: Sequence[PeerState], mine: CatalogVersion) -> None:
        now = time.monotonic()
        if ahead and self._config.catalog.signer and now - self._ahead_said >= _SAY_AGAIN:
            self._ahead_said = now
            _LOG.warning(
                "%s tells of catalog %s, and this node, which signs, has %s: is there another signer, or was this node"
                " restored from a backup?",
                ahead[0].id[:12],
                _claim(ahead[0]),
                mine,
            )

    async def refresh(self, sources: Sequence[tuple[str, str]]) -> Followed | None:
        """Bring the newest valid catalog that any of these has.

        Args:
            sources: (name, base URL of a public plane) pairs.

        Returns:
            What came of it; None where nothing could be done at all, which is logged.
        """
        assert self._follower is not None
        async with self._lock:
            try:
                followed = await asyncio.to_thread(self._refresh, self._follower, sources)
                # also where nothing changed: an index that could not follow the last time does so now
                await self._thread.change(lambda store: follow(store, Disk()))
            except (NodeError, OSError) as error:
                _LOG.error("the catalog can't be followed: %s", error)
                return None
        for name, reason in followed.refused.items():
            self._complain(name, reason)
        if followed.incomplete is not None:
            _LOG.warning("a newer catalog is verified, and not served yet: %s", followed.incomplete)
        for alarm in followed.alarms:
            _LOG.error("ALARM: two signers, or a stolen key: %s", alarm)
        if followed.changed:
            _LOG.info("serving catalog %s", ".".join(map(str, followed.status)))
            await self._changed()
        return followed

    @staticmethod
    def _refresh(follower: Follower, sources: Sequence[tuple[str, str]]) -> Followed:
        fetchers: list[Source] = []
        unusable: dict[str, NodeError] = {}
        with ExitStack() as stack:
            for name, url in sources:
                try:
                    fetchers.append((name, stack.enter_context(fetcher(url, patience=SOURCE_PATIENCE))))
                except InvalidInput as error:  # a URL that somebody says is theirs; the others are asked all the same
                    unusable[name] = error
            followed = follower.refresh(fetchers, utc_now())
        return replace(followed, refused={**followed.refused, **unusable})

    @property
    def writing(self) -> asyncio.Lock:
        """To be held by whoever else writes the catalog's files: commands, where this node takes over the signing."""
        return self._lock

    async def collect_debris(self, grace: timedelta) -> int:
        """Remove files of former catalogs that nobody can be asking for any more; how many there were."""
        if self._follower is None:
            return 0
        async with self._lock:
            return await asyncio.to_thread(self._follower.collect_debris, utc_now(), grace)

    def _complain(self, name: str, error: NodeError) -> None:
        """Log what is wrong with a source once, not every minute."""
        self._metrics.catalog_refused(reason_of(error))
        if getattr(error, "rule", None) is Rule.ROLLBACK:
            _LOG.debug("the catalog of %s is not the newest: %s", name, error)
            return
        text = str(error)
        if self._complained.get(name) != text:
            self._complained[name] = text
            _LOG.warning("the catalog of %s is not taken: %s", name, text)


def reason_of(error: NodeError) -> str:
    """A short reason for metrics: the rule that was broken, or the kind of failure."""
    rule = getattr(error, "rule", None)
    return str(rule.value) if rule is not None else type(error).__name__


def _claim(state: PeerState) -> CatalogVersion:
    return (0, 0) if state.record is None else state.record.record.says.catalog
