"""Looks after the blobs of a running node: checks them, takes bad chunks out of service at once, has them repaired.

When a bad chunk is found, in this order: its bytes are withheld, in memory, before anything waits for a disk → a copy
of them is kept as evidence → the blob is demoted to a fill → the chunk is fetched → when all is there and the whole
SHA-256 is right, it is a blob again. What nobody else has stays bad; it is tried again for as long as the node lives.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol

from aibrother_node.errors import DiskFull, NodeError, NotFound, Temporary
from aibrother_node.store.blobs import BlobReader
from aibrother_node.store.fills import fills_of, open_fill
from aibrother_node.store.index import IndexReader
from aibrother_node.store.scrubbing.book import ScrubBook, Sound, is_sha_due
from aibrother_node.store.scrubbing.check import SHA_EVERY, check
from aibrother_node.store.scrubbing.direct import DirectFile
from aibrother_node.store.scrubbing.out_of_service import RETIRED, Known, OutOfService, manifest_of
from aibrother_node.store.scrubbing.repair import Hands, advance, in_thread, repair
from aibrother_node.store.scrubbing.small import look
from aibrother_node.store.withheld import WHOLE, WithheldWriter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import TypeVar

    from aibrother_node.content.digest import Digest
    from aibrother_node.store.blobs import BlobStore
    from aibrother_node.store.fills import OpenFill
    from aibrother_node.store.layout import Layout
    from aibrother_node.store.scrubbing.book import Checked
    from aibrother_node.store.scrubbing.check import Finding
    from aibrother_node.store.scrubbing.repair import RepairSource
    from aibrother_node.store.scrubbing.small import Looked

    _Result = TypeVar("_Result")

_LOG: Final = logging.getLogger(__name__)
_UNWRITTEN: Final = 100  # blobs whose checks are not written down yet
_FIRST_RETRY: Final = 5.0
_LONGEST_RETRY: Final = 1800.0


class Measures(Protocol):
    """What is counted."""

    def checked(self, size: int) -> None:
        """Bytes were read."""

    def bad(self, count: int) -> None:
        """Chunks were found bad."""

    def repaired(self) -> None:
        """A chunk is good again."""

    def damaged(self, count: int) -> None:
        """So many blobs are damaged now."""

    def completed(self, at: float) -> None:
        """A pass over all blobs ended."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of checking one blob.

    Attributes:
        verdict: `sound`; `repaired`: it was damaged and isn't any more; `damaged`: it still is; `gone`: it isn't here.
        bad: chunks that were found bad.
        reason: why it still is damaged.
    """

    verdict: Literal["sound", "repaired", "damaged", "gone"]
    bad: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Planned:
    """A blob to check.

    Attributes:
        order: what comes later has a larger one.
        digest, size: of the blob.
    """

    order: tuple[int, str]
    digest: Digest
    size: int


@dataclass(slots=True)
class _Retry:
    pause: float = _FIRST_RETRY
    not_before: float = 0.0


@dataclass(slots=True)
class Scrubber:
    """See above; belongs to the event loop of control.

    Attributes:
        layout: of the data directory.
        change: runs something on the store's thread.
        source: whoever else has blobs.
        measures: what is counted.
        interval: seconds between two passes.
        max_manifest: bytes above which a blob isn't taken for a manifest.
        clock: seconds since 1970.
    """

    layout: Layout
    change: Callable[[Callable[[BlobStore], _Result]], Awaitable[_Result]]
    source: RepairSource
    measures: Measures
    interval: float
    max_manifest: int
    clock: Callable[[], float] = time.time
    withheld: WithheldWriter = field(init=False)
    _index: IndexReader = field(init=False)
    _away: OutOfService = field(init=False)
    _book: ScrubBook | None = None
    _completed: float | None = None
    _repairing: defaultdict[Digest, asyncio.Lock] = field(init=False)
    _retries: dict[Digest, _Retry] = field(init=False)
    _sound: list[Sound] = field(default_factory=list)

    async def start(self) -> None:
        """Withhold what is known to be bad; before the first check."""
        self.withheld = WithheldWriter(self.layout.withheld)
        self._index = IndexReader(self.layout.index)
        self._away = OutOfService(self.layout, self._index, self.change, self.withheld, self.measures, self.clock)
        self._repairing = defaultdict(asyncio.Lock)
        self._retries = {}
        await self.change(self._begin)
        damaged = await asyncio.to_thread(self._damaged)
        self.withheld.withhold_all((fill.digest, fill.inode, _withheld_of(fill)) for fill in damaged)
        self.withheld.retire_others(((fill.digest, fill.inode) for fill in damaged), time.monotonic() + RETIRED)
        self.measures.damaged(len(damaged))

    def _begin(self, store: BlobStore) -> None:
        store.fill_ended = self._fill_ended

    async def _in_book(self, work: Callable[[ScrubBook], _Result]) -> _Result:
        """Read or write in the book, which is opened when it is needed first.

        Raises:
            Temporary: the disk is full.
        """

        def do(_: BlobStore) -> _Result:
            if self._book is None:
                self._book = ScrubBook.open(self.layout.index)
            return work(self._book)

        return await self.change(do)

    async def close(self) -> None:
        """Let go of everything; nothing may be under way."""

        await self.flush()

        def end(store: BlobStore) -> None:
            store.fill_ended = None
            if self._book is not None:
                self._book.close()

        await self.change(end)
        self.withheld.close()

    # -- checking

    async def plan(self) -> list[Planned]:
        """All that there is to check, in order: manifests first, since without them nobody knows what is bad."""
        return await asyncio.to_thread(self._plan)

    def _plan(self) -> list[Planned]:
        found = self._index.sizes()
        if found is None:
            paths = ((digest, self.layout.blob(digest)) for digest in BlobReader(self.layout).digests())
            found = [(digest, path.stat().st_size, False) for digest, path in paths]
        planned = {
            digest: Planned((0 if is_manifest else 1, digest.hex), digest, size) for digest, size, is_manifest in found
        }
        for fill in self._damaged():
            planned.setdefault(fill.digest, Planned((1, fill.digest.hex), fill.digest, fill.size))
        return sorted(planned.values(), key=lambda one: one.order)

    async def check(
        self,
        digest: Digest,
        *,
        pace: Callable[[int], Awaitable[None]],
        breathe: Callable[[], Awaitable[None]],
        checked: Callable[[int], None],
    ) -> Outcome:
        """Check one blob, or what there is of it, and have it repaired where it is damaged.

        Args:
            digest: which.
            pace: awaited after each step with the bytes that it read.
            breathe: awaited between steps that don't wait.
            checked: told of bytes that are done.
        """
        found = 0
        try:
            file = await asyncio.to_thread(DirectFile, self.layout.blob(digest))
        except FileNotFoundError:
            try:
                file, fill = await asyncio.to_thread(self._open_fill, digest)
            except (NotFound, FileNotFoundError):
                return Outcome("gone")
            known = Known(fill.manifest, named=True, served=fill.state.served)
            missing = frozenset(fill.have.missing())
            sha = False
        except OSError as error:  # the others are to be checked all the same
            _LOG.error("%s can't be opened: %s", digest, error.strerror)
            self.measures.bad(1)
            return Outcome("damaged", 1, f"it can't be opened: {error.strerror}")
        else:
            at = await self._last(digest)
            known = await asyncio.to_thread(
                manifest_of, self.layout, self._index, self.max_manifest, digest, None if at is None else at.manifest
            )
            missing = frozenset()
            sha = is_sha_due(at, self.clock(), self.interval, SHA_EVERY)
        try:
            steps = check(file, digest, known.manifest, sha=sha, named=known.named, missing=missing)
            while True:
                step, end = await advance(steps)
                if step is None:
                    break
                if step.bad:
                    found += len(step.bad)
                    await self._away.found(digest, known, file, step.bad)
                self.measures.checked(step.read)
                checked(step.size)
                await (breathe() if step.urgent else pace(step.read))
            finding = end[0]
            if finding.verdict == "damaged" and not found and not missing:
                await self._away.damaged_somewhere(digest, known, file, finding)
                found += 1
        except NotFound:  # it was collected meanwhile
            self.withheld.retire(digest, file.inode, time.monotonic() + RETIRED)
            return Outcome("gone")
        except DiskFull as error:  # nothing can be done now; it stays withheld, and the next pass finds it again
            return Outcome("damaged", found, f"it isn't sent, and can't be repaired: {error}")
        finally:
            file.close()
        if finding.verdict == "lied" and known.manifest is not None:
            await self._away.disown(known.manifest, finding.reason)
        if found or missing:
            return await self._mend(digest, found, breathe)
        await self._is_sound(digest, finding, known)
        return Outcome("sound")

    async def check_small(self, planned: Sequence[Planned]) -> Looked:
        """Check some small blobs in one step. What isn't found sound is for `check`, which finds out what it has.

        Args:
            planned: as `small_ones` picks them.
        """
        looked = await in_thread(lambda: look(self.layout, planned, self.max_manifest))
        self.measures.checked(looked.read)
        now = self.clock()
        self._sound += [Sound(digest, now, manifest, sha=True) for digest, manifest in looked.sound.items()]
        await self._flush_many()
        return looked

    async def completed(self, there: Sequence[Digest]) -> None:
        """A pass over all blobs has ended."""
        await self.flush()
        self._completed = now = self.clock()
        self.measures.completed(now)
        try:
            await self._in_book(lambda book: book.completed(now, there))
        except Temporary as error:
            _LOG.warning("that a pass has ended can't be written down: %s", error)

    async def last_completed(self) -> float | None:
        """When the last pass ended, in seconds since 1970.

        Raises:
            Temporary: the disk is full, and nobody knows.
        """
        if self._completed is None:
            self._completed = await self._in_book(lambda book: book.last_completed())
        return self._completed

    # -- repairing

    async def repair(self, digest: Digest, breathe: Callable[[], Awaitable[None]]) -> None:
        """Make a damaged blob whole again.

        Raises:
            NotFound, NodeError: as `repair.repair`.
        """
        async with self._repairing[digest]:
            if self.layout.blob(digest).exists():
                return  # somebody was faster
            try:
                await repair(
                    Hands(self.layout, self.change, self.withheld, self.source, self.measures.repaired, breathe), digest
                )
            finally:
                self.measures.damaged(len(await asyncio.to_thread(self._damaged)))
        self._retries.pop(digest, None)

    async def retry(self) -> None:
        """Try again what is still damaged, each blob more and more seldom; to be called again and again."""
        now = time.monotonic()
        self.withheld.forget_retired(now)
        damaged = [fill.digest for fill in await asyncio.to_thread(self._damaged)]
        for digest in self._retries.keys() - set(damaged):
            del self._retries[digest]
        for digest in damaged:
            one = self._retries.setdefault(digest, _Retry())
            if now < one.not_before or self._repairing[digest].locked():
                continue
            try:
                await self.repair(digest, _at_once)
            except (NodeError, OSError) as error:
                _LOG.log(
                    logging.WARNING if one.pause == _FIRST_RETRY else logging.DEBUG,
                    "%s stays damaged for now: %s",
                    digest,
                    error,
                )
                one.not_before = time.monotonic() + one.pause
                one.pause = min(2 * one.pause, _LONGEST_RETRY)

    # -- inside

    def _damaged(self) -> list[OpenFill]:
        """All damaged blobs, closed. Blocks."""
        found = []
        for digest in fills_of(self.layout):
            try:
                fill = open_fill(self.layout, digest)
            except NotFound as error:
                _LOG.error("%s", error)
                continue
            fill.close()
            if fill.state.why == "damaged":
                found.append(fill)
        return found

    def _open_fill(self, digest: Digest) -> tuple[DirectFile, OpenFill]:
        fill = open_fill(self.layout, digest)
        fill.close()
        if fill.state.why != "damaged":
            raise NotFound(f"{digest} is being fetched")
        return DirectFile(self.layout.fill(digest) / "data"), fill

    async def _mend(self, digest: Digest, found: int, breathe: Callable[[], Awaitable[None]]) -> Outcome:
        try:
            await self.repair(digest, breathe)
        except (NodeError, OSError) as error:
            return Outcome("damaged", found, str(error) or type(error).__name__)
        return Outcome("repaired", found)

    async def _is_sound(self, digest: Digest, finding: Finding, known: Known) -> None:
        manifest = known.manifest if finding.verdict == "sound" else None
        described = None if manifest is None else await asyncio.to_thread(manifest.digest)
        self._sound.append(Sound(digest, self.clock(), described, finding.sha))
        await self._flush_many()

    async def _flush_many(self) -> None:
        if len(self._sound) >= _UNWRITTEN:
            await self.flush()

    async def flush(self) -> None:
        """Write down what was found sound; what can't be, since the disk is full, is checked again some day."""
        sound, self._sound = self._sound, []
        if not sound:
            return
        try:
            await self._in_book(lambda book: book.put(sound))
        except Temporary as error:
            _LOG.warning("when %d blobs were checked can't be written down: %s", len(sound), error)

    async def _last(self, digest: Digest) -> Checked | None:
        """When a blob was checked last; None where nobody knows."""
        try:
            return await self._in_book(lambda book: book.get(digest))
        except Temporary:
            return None

    def _fill_ended(self, digest: Digest, inode: int) -> None:
        """On the store's thread: a damaged blob was stored anew, as another file."""
        self.withheld.retire(digest, inode, time.monotonic() + RETIRED)
        self.withheld.changed()


async def _at_once() -> None:
    await asyncio.sleep(0)


def _withheld_of(fill: OpenFill) -> list[tuple[int, int]]:
    return fill.missing() if fill.state.served else [(0, WHOLE)]
