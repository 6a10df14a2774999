"""Filling a partial file from several sources at once: threads that do what the scheduler says.

Each worker receives a run into its own memory, hashes chunk by chunk while the bytes are warm, and writes only what is
right: with a manifest, an unverified byte never reaches the file. The thread that called `run` waits, tells of
progress, cuts answers that don't come to an end, and is where Ctrl-C arrives; another brings data and state to the disk
in batches; a third hashes the whole as it grows.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aibrother_replicator.http_source import SourceError
from aibrother_replicator.ledger import Ledger
from aibrother_replicator.receive import SYNC_BYTES, Receiving
from aibrother_replicator.whole import WholeHash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aibrother_node.content.digest import Digest
    from aibrother_replicator.http_source import HttpConnection, HttpSource
    from aibrother_replicator.ledger import Event, Limiter, Tally
    from aibrother_replicator.partial import Partial
    from aibrother_replicator.schedule import Failed, Fault, Policy, Run

_TICK: Final = 0.2
_SYNC_SECONDS: Final = 5.0
_SPARE_BLOCKS: Final = 2  # of memory, beside those that are being received into: what the whole's hash may lag behind


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a transfer ended.

    Attributes:
        whole: the digest of all bytes; None when some are missing.
        failed: why some are missing.
        dropped: by source, why it is out, or None.
        contributors: sources that at least one stored chunk came from.
        same_wrong: some chunk came with the same wrong hash from two sources: doubt falls on the manifest.
        retry_after: the shortest pause that a source asked for, in seconds.
    """

    whole: Digest | None
    failed: Failed | None
    dropped: tuple[Fault | None, ...]
    contributors: frozenset[int]
    same_wrong: bool
    retry_after: float | None


@dataclass(slots=True)
class _Worker:
    lines: dict[int, HttpConnection] = field(default_factory=dict)


class Transfer:
    """One attempt to fill a partial file.

    Args:
        digest: of the blob.
        lengths: of its chunks, in bytes.
        hashes: their SHA-256, 32 bytes each; None where nobody vouches for them.
        have: chunks that are in the file already, verified.
        partial: the file, laid out.
        sources: where from.
        tallies: one a source, added to.
        connections: threads, each with one connection a source.
        policy: of the scheduler.
        limiter: holds it to a rate.
        emit: called with each event, in the thread that calls `run`.
    """

    def __init__(
        self,
        digest: Digest,
        lengths: Sequence[int],
        hashes: bytes | None,
        have: Sequence[int],
        partial: Partial,
        sources: Sequence[HttpSource],
        tallies: Sequence[Tally],
        *,
        connections: int,
        policy: Policy,
        limiter: Limiter | None,
        emit: Callable[[Event], None],
    ) -> None:
        self._digest = digest
        self._size = sum(lengths)
        self._partial = partial
        self._sources = sources
        self._limiter = limiter
        self._emit = emit
        self._ledger = Ledger(lengths, hashes, have, tallies, workers=connections, policy=policy)
        self._longest = max(max(lengths, default=0), min(policy.run_bytes, self._size))
        self._workers = [_Worker() for _ in range(min(connections, len(lengths) - len(have)))]
        self._told = -1, -1

    def run(self) -> Outcome:
        """Fetch until complete or hopeless.

        Raises:
            DiskFull: there is no room; what is stored stays.
            OSError: the file can't be written or read.
            KeyboardInterrupt: as it arrived; what is stored is recorded.
        """
        ledger = self._ledger
        blocks = len(self._workers) + _SPARE_BLOCKS
        whole = WholeHash(self._partial.fd, self._size, blocks=blocks, block_bytes=self._longest)
        whole.reach(ledger.schedule.prefix)
        threads = [
            threading.Thread(target=self._work, args=(worker, whole), name=f"pull-{number}", daemon=True)
            for number, worker in enumerate(self._workers)
        ]
        threads.append(threading.Thread(target=self._sync, name="pull-sync", daemon=True))
        try:
            for thread in threads:
                thread.start()
            self._watch()
            digest = whole.result() if ledger.failed is None and ledger.failure is None else None
        finally:
            ledger.stop()
            self._hang_up()
            whole.stop()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            self._pass_events_on()
            if not ledger.schedule.complete:
                self._partial.sync()
        if ledger.failure is not None:
            raise ledger.failure
        return self._outcome(digest)

    def _outcome(self, digest: Digest | None) -> Outcome:
        ledger = self._ledger
        pauses = [state.retry_after for state in ledger.schedule.sources if state.retry_after is not None]
        return Outcome(
            digest,
            ledger.failed,
            tuple(state.dropped for state in ledger.schedule.sources),
            frozenset(ledger.contributors),
            ledger.same_wrong,
            min(pauses, default=None),
        )

    def _watch(self) -> None:
        """Stay until it is over, passing on what the threads say."""
        ledger = self._ledger
        if ledger.schedule.complete:
            ledger.stop()
        next_tick = time.monotonic() + _TICK
        while not ledger.stopping:
            event = ledger.next_event(max(next_tick - time.monotonic(), 0.001))
            if event:
                self._emit(event)
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + _TICK
                self._tell_progress()
                for line in self._lines():
                    line.cut_overdue(now)
        self._hang_up()
        self._tell_progress()

    def _pass_events_on(self) -> None:
        while (event := self._ledger.next_event(0.0)) is not None:
            if event:
                self._emit(event)

    def _tell_progress(self) -> None:
        done, received = self._ledger.done, self._ledger.received
        if (done, received) != self._told:
            self._told = done, received
            self._emit({"event": "progress", "done": done, "total": self._size, "fetched": received})

    def _lines(self) -> Iterable[HttpConnection]:
        return [line for worker in self._workers for line in list(worker.lines.values())]

    def _hang_up(self) -> None:
        """Cut what is still under way: it is of no use any more."""
        for line in self._lines():
            line.abort()

    def _work(self, worker: _Worker, whole: WholeHash) -> None:
        try:
            while (memory := whole.borrow()) is not None and (run := self._ledger.next_run()) is not None:
                self._fetch(worker, run, memory, whole)
                whole.reach(self._ledger.schedule.prefix)
        except BaseException as error:
            # carried to the thread that called run
            self._ledger.fail(error)
        finally:
            for line in worker.lines.values():
                line.close()

    def _fetch(self, worker: _Worker, run: Run, memory: memoryview, whole: WholeHash) -> None:
        line = worker.lines.get(run.source)
        if line is None:
            line = worker.lines[run.source] = self._sources[run.source].connect()
            if self._ledger.stopping:
                line.abort()  # whoever hung up may not have seen it
        receiving = Receiving(self._ledger, self._partial, memory, run, self._limiter)
        error: SourceError | None = None
        try:
            with line.open_range(self._digest, run.offset, run.length, self._size) as body:
                receiving.receive(body)
        except SourceError as caught:
            error = caught
        receiving.finish(whole)
        self._ledger.ended(run, receiving.count, error)

    def _sync(self) -> None:
        """Record what is stored, every 256 MiB or 5 seconds."""
        try:
            last = time.monotonic()
            while (count := self._ledger.wait_to_sync(last + _SYNC_SECONDS - time.monotonic(), SYNC_BYTES)) is not None:
                if count:
                    self._partial.sync()
                last = time.monotonic()
        except BaseException as error:
            # carried to the thread that called run
            self._ledger.fail(error)
