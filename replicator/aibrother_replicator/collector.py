"""The collector: plans what goes, asks others for what is evicted, and has it removed step by step.

What is decided is decided in store/collection/gc.py and fleet/evicting.py, what is removed is removed in
store/collection/collecting.py; here is the order in which they are called. The store's thread is held for short pieces.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from aibrother_node.errors import NodeError, Refused, Temporary
from aibrother_node.fleet.vouching import NONCE_BYTES
from aibrother_node.store.collection import gc
from aibrother_node.store.collection.gc import Plan, Rules, Verdict
from aibrother_node.store.collection.survey import survey

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

    from aibrother_node.content.digest import Digest
    from aibrother_node.fleet.evicting import Attempt, Evictions
    from aibrother_node.fleet.keepers import Mirrors
    from aibrother_node.fleet.vouching import Vouch
    from aibrother_node.metrics import CollectionMetrics
    from aibrother_node.store.blobs import BlobStore
    from aibrother_node.store.collection.collecting import Collecting, Gone
    from aibrother_node.store.collection.survey import Policy
    from aibrother_node.store.last_access import LastAccess
    from aibrother_node.store.layout import Layout

_PIECE: Final = 64  # blobs that are removed in one piece
_MARKS: Final = 5000  # marks that are written in one piece
_AT_ONCE: Final = 16  # blobs that others are asked about at a time
_LOOKED_THROUGH: Final = 500  # candidates between two looks at the fleet, where none of them can go
_ASKED: Final = 500  # candidates that a dry run asks about
_Result = TypeVar("_Result")


class Change(Protocol):
    """Runs something on the thread that changes the store."""

    async def __call__(self, work: Callable[[BlobStore], _Result]) -> _Result: ...


class Others(Protocol):
    """The fleet, as eviction needs it."""

    evictions: Evictions

    async def mirrors(self) -> Mirrors:
        """Who may be a keeper, as of now."""

    async def ask_keeper(self, attempt: Attempt, node: str) -> Vouch | None:
        """Ask a node whether it keeps a blob; None where it says no. `Temporary` where it says nothing."""


class Copies(Protocol):
    """Upstreams, as eviction needs them: what has a blob and never evicts it."""

    async def confirm(self, digest: Digest) -> Sequence[str]:
        """The names of those that say, now, that they have a blob."""


@dataclass(frozen=True)
class Wishes:
    """What the operator configured, and what the file system has now.

    Attributes:
        grace, max_size, reserve: as `Rules`.
        policy: what is wanted.
        free: bytes free.
    """

    grace: float
    max_size: int | None
    reserve: int
    policy: Policy
    free: int


@dataclass
class Planned:
    """A plan, and what it was made from."""

    plan: Plan
    rules: Rules
    sizes: dict[Digest, int]
    add: list[tuple[Digest, float]]
    unmark: list[Digest]
    short: bool


@dataclass
class _Walk:
    """How far the candidates of a plan were looked at.

    Attributes:
        candidates: those that weren't.
        ready: those that others are to be asked about next.
        silent: nodes that didn't answer.
    """

    candidates: Iterator[Digest]
    ready: deque[Digest] = field(default_factory=deque)
    silent: set[str] = field(default_factory=set)

    def pop(self) -> Iterator[Digest]:
        """Those that are ready, taken out."""
        while self.ready:
            yield self.ready.popleft()


class Collector:
    """Collects and evicts blobs of a running node.

    Args:
        layout: of the data directory.
        change: runs what changes the store.
        collecting: removes; on the store's thread.
        wishes: what the operator wants; blocks.
        access: when blobs were asked for.
        others: the fleet; None where there is none, now.
        metrics: counts.
        removed: called, on the store's thread, after blobs were removed.
        upstreams: what may be asked as well.
    """

    def __init__(
        self,
        layout: Layout,
        change: Change,
        collecting: Collecting,
        wishes: Callable[[], Wishes],
        access: LastAccess | None,
        others: Callable[[], Others | None],
        metrics: CollectionMetrics,
        removed: Callable[[], None],
        upstreams: Copies | None = None,
    ) -> None:
        self._layout = layout
        self._change = change
        self._collecting = collecting
        self._wishes = wishes
        self._access = access
        self._others = others
        self._metrics = metrics
        self._removed = removed
        self._upstreams = upstreams

    async def plan(self) -> Planned:
        """Look at everything and decide; nothing is changed, and nobody asked.

        Raises:
            Temporary: the index can't be read now, or doesn't hold the newest catalog.
        """
        await self._change(lambda _: self._collecting.state())
        return await asyncio.to_thread(self._plan, time.time())

    def _plan(self, now: float) -> Planned:
        wishes = self._wishes()
        accessed = (lambda _: now) if self._access is None else self._access.last
        seen = survey(self._layout, wishes.policy, wishes.free, accessed, now).seen
        rules = Rules(now, wishes.grace, wishes.max_size, wishes.reserve)
        found = gc.plan(seen, rules)
        unnamed = {one.digest: one.since or now for one in found.of(Verdict.MARKED, Verdict.REMOVED)}
        return Planned(
            found,
            rules,
            {digest: blob.size for digest, blob in seen.blobs.items()},
            [(digest, since) for digest, since in unnamed.items() if not seen.marks.get(digest, math.inf) <= now],
            # one that was set by a clock that was ahead is set again
            [digest for digest, since in seen.marks.items() if digest not in unnamed or since > now],
            found.short,
        )

    async def mark(self, planned: Planned) -> None:
        """Mark what nothing names, durably, and take marks from what is named.

        Raises:
            DiskFull: there is no room for the marks.
        """
        add, unmark = planned.add, planned.unmark
        while add or unmark:
            now_add, add = add[:_MARKS], add[_MARKS:]
            now_unmark, unmark = unmark[:_MARKS], unmark[_MARKS:]
            await self._change(lambda _, a=now_add, u=now_unmark: self._collecting.mark(a, u))  # type: ignore[misc]

    async def remove(self, planned: Planned) -> AsyncGenerator[tuple[str, list[Gone]]]:
        """Carry out a plan whose marks are written: yields what went, step by step, with why.

        Raises:
            Temporary: the catalog is changing; what went is gone, the rest stays.
        """
        due = [decision.digest for decision in planned.plan.of(Verdict.REMOVED)]
        for start in range(0, len(due), _PIECE):
            piece = due[start : start + _PIECE]
            gone = await self._change(lambda _, piece=piece: self._remove(piece, planned))  # type: ignore[misc]
            yield "unnamed", self._counted("unnamed", gone)
        async for one in self._evict(planned):
            yield "evicted", self._counted("evicted", [one])

    def _remove(self, digests: list[Digest], planned: Planned) -> list[Gone]:
        # the time of the plan, not of now: what is due by it was told so
        gone = self._collecting.remove(digests, planned.rules, short=planned.short)
        if gone:
            self._removed()
        return gone

    def _counted(self, why: str, gone: list[Gone]) -> list[Gone]:
        self._metrics.removed(why, len(gone), sum(one.size for one in gone))
        return gone

    async def _evict(self, planned: Planned) -> AsyncGenerator[Gone]:
        plan, need = planned.plan, planned.plan.need
        walk = _Walk(iter(plan.candidates))
        while need > 0 and (batch := await self._next(planned, walk, need)):
            for gone in await asyncio.gather(*(self._try(planned, digest, walk.silent) for digest in batch)):
                if gone is not None:
                    need -= gone.size
                    yield gone

    async def may_evict(self, planned: Planned) -> bool:
        """Whether there is anything about which others are worth asking, where room is needed."""
        walk = _Walk(iter(planned.plan.candidates))
        return planned.plan.need > 0 and bool(await self._next(planned, walk, 1))

    async def ask_about(self, planned: Planned) -> None:
        """For a dry run: ask about what would be evicted, and evict nothing."""
        plan, need = planned.plan, planned.plan.need
        walk = _Walk(iter(plan.candidates[:_ASKED]))
        while need > 0 and (batch := await self._next(planned, walk, need)):
            others = self._others()
            assert others is not None
            mirrors = await others.mirrors()
            for digest, holders in await asyncio.gather(
                *(self._would_hold(others, mirrors, digest, walk.silent) for digest in batch)
            ):
                if isinstance(holders, str):
                    plan.keep(digest, holders)
                else:
                    plan.evict(digest, holders)
                    need -= planned.sizes[digest]

    async def _would_hold(
        self, others: Others, mirrors: Mirrors, digest: Digest, silent: set[str]
    ) -> tuple[Digest, str | tuple[str, ...]]:
        # an object of its own: nothing is marked, and nothing follows from what is answered
        evictions = others.evictions.apart()
        try:
            attempt = evictions.begin(digest, mirrors, secrets.token_bytes(NONCE_BYTES), time.monotonic())
            await self._ask(others, evictions, attempt, silent)
            return digest, evictions.permit(attempt, mirrors, attempt.began)
        except Refused as error:
            return digest, str(error)

    async def _next(self, planned: Planned, walk: _Walk, need: int) -> list[Digest]:
        """The next candidates that are worth asking about; why others stay is noted."""
        others = self._others()
        while not walk.ready and (some := list(islice(walk.candidates, _LOOKED_THROUGH))):
            if others is None:
                reasons: list[str | None] = ["this is the last copy known: this node has no fleet"] * len(some)
            else:
                mirrors = await others.mirrors()
                reasons = await asyncio.to_thread(_refusals, others.evictions, mirrors, some, walk.silent)
            for digest, reason in zip(some, reasons, strict=True):
                if reason is None:
                    walk.ready.append(digest)
                else:
                    planned.plan.keep(digest, reason)
        return gc.room_for(walk.pop(), lambda digest: planned.sizes[digest], need, _AT_ONCE)

    async def _try(self, planned: Planned, digest: Digest, silent: set[str]) -> Gone | None:
        """Mark one blob, ask, look again, remove."""
        others = self._others()
        if others is None:
            return None
        evictions, mirrors = others.evictions, await others.mirrors()
        nonce = secrets.token_bytes(NONCE_BYTES)
        try:
            attempt = await self._change(lambda _: evictions.begin(digest, mirrors, nonce, time.monotonic()))
        except Refused as error:
            planned.plan.keep(digest, str(error))
            return None
        try:
            await self._ask(others, evictions, attempt, silent)
            seen = await others.mirrors()

            def remove(_: BlobStore) -> tuple[tuple[str, ...], Gone | None]:
                holders = evictions.permit(attempt, seen, time.monotonic())
                gone = self._collecting.evict(digest, seen.state, time.time())
                if gone is not None:
                    self._removed()
                return holders, gone

            holders, gone = await self._change(remove)
        except (Refused, Temporary) as error:
            planned.plan.keep(digest, str(error))
            return None
        finally:
            await self._change(lambda _: evictions.end(attempt))
        if gone is None:
            planned.plan.keep(digest, "it was pinned, leased or withdrawn meanwhile")
        else:
            planned.plan.evict(digest, holders)
        return gone

    async def _ask(self, others: Others, evictions: Evictions, attempt: Attempt, silent: set[str]) -> None:
        async def ask(node: str) -> None:
            try:
                evictions.hear(attempt, node, await others.ask_keeper(attempt, node))
            except Temporary:
                silent.add(node)  # of a node that is away, no more is asked in this run
            except NodeError:
                return

        await asyncio.gather(*(ask(node) for node in attempt.keepers if node not in silent))
        if self._upstreams is not None:
            attempt.upstreams.update(await self._upstreams.confirm(attempt.digest))

    def to_json(self, planned: Planned) -> dict[str, Any]:
        """What a plan comes to."""
        rules, plan = planned.rules, planned.plan
        return {
            "used": plan.used,
            "max_size": rules.max_size,
            "reserve": rules.reserve,
            "to_evict": plan.need,
            "sums": plan.sums(),
        }


def _refusals(evictions: Evictions, mirrors: Mirrors, digests: Sequence[Digest], silent: set[str]) -> list[str | None]:
    found: list[str | None] = []
    for digest in digests:
        reason = evictions.refusal(digest, mirrors)
        if reason is None:
            away = [node[:12] for node in mirrors.keepers(digest, evictions.copies) if node in silent]
            reason = f"{', '.join(away)} keeps it and doesn't answer" if away else None
        found.append(reason)
    return found
