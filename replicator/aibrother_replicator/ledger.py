"""The book of one transfer, kept by all its threads: the scheduler under its lock, counts, events, and the end.

Nothing here touches the network. Threads ask for runs and report about them; one thread takes the events out.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from aibrother_replicator.schedule import Complete, Failed, Run, Schedule, Wait

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aibrother_replicator.http_source import SourceError
    from aibrother_replicator.schedule import Policy

Event: TypeAlias = dict[str, Any]
"""What happened, under "event", and its particulars; fit for JSON. `download.download` lists them."""


@dataclass(slots=True)
class Tally:
    """What one source delivered.

    Attributes:
        url: its base.
        bytes: received of blobs, right or wrong.
        errors: failures of any kind, wrong chunks included.
        last_error: the last one, for people.
    """

    url: str
    bytes: int = 0
    errors: int = 0
    last_error: str | None = None

    def note(self, error: str) -> None:
        """Count a failure."""
        self.errors += 1
        self.last_error = error


class Limiter:
    """Holds several threads together to a rate, by telling each how long to pause.

    Args:
        rate: bytes a second.

    Attributes:
        piece: bytes to take at once, so that the flow is even.
    """

    def __init__(self, rate: int) -> None:
        self.piece = max(min(1 << 20, rate // 20), 4096)
        self._rate = rate
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, count: int) -> float:
        """Take `count` bytes; returns the seconds to pause before they may be had."""
        with self._lock:
            now = time.monotonic()
            start = max(self._free_at, now)
            self._free_at = start + count / self._rate
            return start - now


class Ledger:
    """Who does what, what is done, and whether it is over.

    Args:
        lengths: of the chunks, in bytes.
        hashes: their SHA-256, 32 bytes each; None where nobody vouches for them.
        have: chunks that are in the file already.
        tallies: one a source.
        workers: how many threads ask for runs.
        policy: of the scheduler.

    Attributes:
        lengths, hashes, tallies: as given.
        changed: guards everything; notified when a waiting thread should look again.
        stopping: no more work is to be begun, and what is under way is to end.
        failure: what a thread died of.
        failed: why the scheduler gave up.
        done, received: bytes stored and right, bytes received.
        unsynced: bytes stored that no `sync` has covered.
        contributors: sources that stored chunks came from.
        same_wrong: some chunk came with the same wrong hash from two sources: doubt falls on the manifest.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        hashes: bytes | None,
        have: Sequence[int],
        tallies: Sequence[Tally],
        *,
        workers: int,
        policy: Policy,
    ) -> None:
        self.lengths = lengths
        self.hashes = hashes
        self.tallies = tallies
        self.schedule = Schedule(lengths, have, sources=len(tallies), workers=workers, policy=policy)
        self.changed = threading.Condition()
        self.stopping = False
        self.failure: BaseException | None = None
        self.failed: Failed | None = None
        self.done = sum(lengths[index] for index in have)
        self.received = 0
        self.unsynced = 0
        self.contributors: set[int] = set()
        self.same_wrong = False
        self._wrong: dict[tuple[int, bytes], int] = {}
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def next_run(self) -> Run | None:
        """Wait for something to do; None when it is over."""
        with self.changed:
            while not self.stopping:
                now = time.monotonic()
                step = self.schedule.next(now)
                if isinstance(step, Run):
                    return step
                if isinstance(step, Wait):
                    self.changed.wait(max(step.until - now, 0.001))
                    continue
                if isinstance(step, Failed):
                    self.failed = step
                else:
                    assert isinstance(step, Complete)
                self.stop()
            return None

    def claim(self, run: Run, indices: Iterable[int]) -> set[int]:
        """Which of these right chunks the caller is to write; the others are in the file from elsewhere."""
        with self.changed:
            return set(self.schedule.received(run.id, indices))

    def stored(self, run: Run, indices: Sequence[int], sync_at: int) -> None:
        """Chunks that were claimed are in the file; from `sync_at` bytes on, whoever syncs is woken."""
        if not indices:
            return
        with self.changed:
            self.schedule.stored(indices)
            self.contributors.add(run.source)
            size = sum(self.lengths[index] for index in indices)
            self.done += size
            self.unsynced += size
            if self.unsynced >= sync_at or self.schedule.complete:
                self.changed.notify_all()

    def wrong(self, run: Run, index: int, expected: bytes, actual: bytes) -> None:
        """A chunk came with another hash than its own."""
        tally = self.tallies[run.source]
        with self.changed:
            self.schedule.wrong(run.id, index)
            tally.note(f"chunk {index} from {tally.url} is sha256:{actual.hex()}, expected sha256:{expected.hex()}")
            self.same_wrong |= self._wrong.setdefault((index, actual), run.source) != run.source
        self.tell(
            {
                "event": "corrupt",
                "chunk": index,
                "url": tally.url,
                "expected": f"sha256:{expected.hex()}",
                "actual": f"sha256:{actual.hex()}",
                "offset": self.schedule.offset(index),
                "length": self.lengths[index],
            }
        )

    def ended(self, run: Run, count: int, error: SourceError | None) -> None:
        """A run is over after `count` bytes."""
        tally = self.tallies[run.source]
        source = self.schedule.sources[run.source]
        with self.changed:
            if self.stopping:
                error = None  # we cut it ourselves
            before = source.dropped
            if error is None:
                self.schedule.ended(run.id, time.monotonic(), count)
            else:
                self.schedule.ended(run.id, time.monotonic(), count, error.fault, error.retry_after)
                tally.note(str(error))
            tally.bytes += count
            dropped = source.dropped if before is None else None
            self.changed.notify_all()
        if error is not None:
            fault = error.fault.value
            self.tell({"event": "source_error", "url": tally.url, "error": str(error), "fault": fault})
        if dropped is not None:
            self.tell({"event": "source_dropped", "url": tally.url, "reason": dropped.value})

    def pause(self, seconds: float) -> None:
        """Wait, unless it is over."""
        if seconds > 0:
            with self.changed:
                self.changed.wait_for(lambda: self.stopping, timeout=seconds)

    def wait_to_sync(self, seconds: float, enough: int) -> int | None:
        """Wait until there are `enough` bytes to sync or time has passed; returns how many, None when it is over."""
        with self.changed:
            self.changed.wait_for(lambda: self.stopping or self.unsynced >= enough, timeout=seconds)
            if self.stopping:
                return None
            count, self.unsynced = self.unsynced, 0
            return count

    def stop(self) -> None:
        """Begin the end."""
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
        self.tell({})

    def fail(self, error: BaseException) -> None:
        """A thread died of this: begin the end."""
        self.failure = self.failure or error
        self.stop()

    def tell(self, event: Event) -> None:
        """Queue an event; an empty one only wakes whoever waits."""
        self._events.put(event)

    def next_event(self, patience: float) -> Event | None:
        """Wait for an event; None when none came in time."""
        try:
            return self._events.get(timeout=patience)
        except queue.Empty:
            return None
