"""Which chunks from which source next: a plain object that decides, without IO and without a clock.

The law:

- A *run* is a stretch of neighbouring chunks, asked for in one request, so that small chunks don't cost a round trip
  each. Runs are handed out from the front of the blob: whoever hashes the whole can follow.
- A source gets work in proportion to what it was measured to deliver. One that was never measured gets one run first.
- A chunk that was wrong at one source is asked of another as long as there is one; of the same one only a few times.
- A source that fails waits, longer each time; one that fails too often, or is wrong too often, is dropped for good.
- When nothing is left to hand out, a run that takes too long is handed out a second time (a *hedge*), once.
- Of two runs that deliver the same chunk only the first may write it (`received` says which).
- It ends complete, or failed when a chunk is left that no source will deliver.

`now` is in seconds of any clock that only goes forward. Nothing here is thread-safe; callers hold a lock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from itertools import accumulate
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MISSING: Final = 0
_OUT: Final = 1
_WRITING: Final = 2
_DONE: Final = 3
_SMOOTHING: Final = 0.3


class Fault(Enum):
    """How a source failed, by what follows from it."""

    GONE = "gone"
    """It hasn't got the blob (404, 410): dropped at once."""
    REFUSED = "refused"
    """It wants rights that we haven't got (401, 403): dropped at once."""
    BUSY = "busy"
    """It asks to come back later (429, 503)."""
    UNREACHABLE = "unreachable"
    """No connection, a cut or stalled body, a server error: tried again, later each time."""
    WRONG = "wrong"
    """It answers, but not what was asked: counted like a wrong chunk."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the scheduler goes by.

    Attributes:
        run_bytes: a run of several chunks has at most this many.
        min_run_bytes: below which no run is kept for the sake of the next two rules.
        run_seconds: and no more than its source delivers in this time, so that little is lost when it breaks off. (The
            other is that towards the end all connections have work.)
        backoff, backoff_limit: seconds that a failed source waits, doubled with each failure in a row, at most.
        patience: a source that asks to be left alone for longer than this many seconds is dropped.
        max_errors: failures in a row after which a source is dropped.
        max_wrong: wrong chunks or answers after which a source is dropped.
        max_tries: times that one source may deliver one chunk wrong before it isn't asked for it again.
        hedge_after: seconds that a run must be out before it is hedged.
    """

    run_bytes: int = 8 << 20
    min_run_bytes: int = 256 << 10
    run_seconds: float = 5.0
    backoff: float = 0.5
    backoff_limit: float = 15.0
    patience: float = 60.0
    max_errors: int = 6
    max_wrong: int = 4
    max_tries: int = 2
    hedge_after: float = 1.0


@dataclass(frozen=True, slots=True)
class Run:
    """Chunks `first` up to, not including, `stop`, to be fetched from source number `source`.

    Attributes:
        id: names it in the calls that report about it.
        offset, length: in bytes of the blob.
        hedge: it duplicates a run that is still out.
    """

    id: int
    source: int
    first: int
    stop: int
    offset: int
    length: int
    hedge: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before this time, unless something is reported."""

    until: float


@dataclass(frozen=True, slots=True)
class Complete:
    """Every chunk is stored."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Some chunk can't be had.

    Attributes:
        chunk: the first such chunk.
        wrong: that chunk was delivered, and wrong every time.
    """

    chunk: int
    wrong: bool


Step: TypeAlias = Run | Wait | Complete | Failed


@dataclass(slots=True)
class SourceState:
    """What is known of one source.

    Attributes:
        in_flight: runs out at it now.
        rate: bytes a second over all its connections, smoothed; None until measured.
        errors: failures in a row.
        wrong: wrong chunks and answers in all.
        ready_at: not asked before this time.
        dropped: why it is out for good, or None.
        failed_at: when its last failure was counted.
        busy_since: when it began to say that it is busy, unless it has delivered since.
        retry_after: the pause it asked for last, in seconds.
    """

    in_flight: int = 0
    rate: float | None = None
    errors: int = 0
    wrong: int = 0
    ready_at: float = 0.0
    dropped: Fault | None = None
    failed_at: float = float("-inf")
    busy_since: float | None = None
    retry_after: float | None = None


@dataclass(slots=True)
class _Out:
    run: Run
    started: float
    hedged: bool
    left: set[int] = field(default_factory=set)


class Schedule:
    """The state of one download's scheduling.

    Args:
        lengths: of the chunks, in bytes.
        have: chunks that are stored already.
        sources: how many there are; they are named by number, preferred in that order while nothing is measured.
        workers: how many runs are out at once; towards the end, runs get shorter so that all have work.
        policy: what it goes by.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        have: Iterable[int] = (),
        *,
        sources: int,
        workers: int = 8,
        policy: Policy | None = None,
    ) -> None:
        self._policy = policy or Policy()
        self._lengths = lengths
        self._offsets = list(accumulate(lengths, initial=0))
        self._state = bytearray(len(lengths))
        self._left = len(lengths)
        self._bytes_missing = self._offsets[-1]
        self._cursor = 0
        self._prefix = 0
        self._workers = workers
        self._out: dict[int, _Out] = {}
        self._wrong_at: dict[int, dict[int, int]] = {}
        self._next_id = 0
        self.sources = [SourceState() for _ in range(sources)]
        for index in have:
            self._finish(index)
            self._bytes_missing -= lengths[index]
        self._advance()

    @property
    def complete(self) -> bool:
        """Whether every chunk is stored."""
        return self._left == 0

    @property
    def prefix(self) -> int:
        """Bytes from the start of the blob that are stored without a gap."""
        return self._offsets[self._prefix]

    def offset(self, index: int) -> int:
        """Where a chunk begins, in bytes of the blob."""
        return self._offsets[index]

    def next(self, now: float) -> Step:
        """Decide what one idle worker does."""
        if self.complete:
            return Complete()
        soonest: float | None = None
        index = self._state.find(_MISSING, self._cursor)
        if index >= 0:
            self._cursor = index
        while index >= 0:
            choice = self._source_for(index, now)
            if isinstance(choice, int):
                return self._hand_out(index, choice, now)
            if choice is None:
                return Failed(index, wrong=index in self._wrong_at)
            soonest = choice if soonest is None else min(soonest, choice)
            # only a chunk with a history can have fewer sources than the rest; look past those, not past all
            if index not in self._wrong_at:
                break
            index = self._state.find(_MISSING, index + 1)
        return self._hedge(now, soonest)

    def received(self, run_id: int, indices: Iterable[int]) -> list[int]:
        """Take note of right chunks of a run that is still out; returns those that its worker is to store now."""
        out = self._out[run_id]
        mine = []
        for index in indices:
            out.left.discard(index)
            if self._state[index] < _WRITING:
                if self._state[index] == _MISSING:
                    self._bytes_missing -= self._lengths[index]
                self._state[index] = _WRITING
                mine.append(index)
        return mine

    def stored(self, indices: Iterable[int]) -> None:
        """Take note that chunks which `received` named are in the file."""
        for index in indices:
            self._finish(index)
        self._advance()

    def wrong(self, run_id: int, index: int) -> None:
        """Take note that a chunk came with another hash than its own."""
        out = self._out[run_id]
        out.left.discard(index)
        tries = self._wrong_at.setdefault(index, {})
        tries[out.run.source] = tries.get(out.run.source, 0) + 1
        self._give_back(index)
        self._count_wrong(self.sources[out.run.source])

    def ended(
        self, run_id: int, now: float, received_bytes: int, fault: Fault | None = None, retry_after: float | None = None
    ) -> None:
        """Take note that a run is over; chunks that it did not deliver are to be had again.

        Args:
            run_id: of the run.
            now: the time.
            received_bytes: of its body, right or wrong.
            fault: why it broke off, if it did.
            retry_after: seconds for which the source asked not to be asked.
        """
        out = self._out.pop(run_id)
        source = self.sources[out.run.source]
        self._measure(source, received_bytes, now - out.started)
        source.in_flight -= 1
        for index in out.left:
            self._give_back(index)
        if fault is None:
            source.errors = 0
            source.busy_since = None
        elif fault in (Fault.GONE, Fault.REFUSED):
            source.dropped = source.dropped or fault
        elif out.started >= source.failed_at:
            # runs that were out together when a source broke down are one failure
            source.failed_at = now
            self._punish(source, fault, now, retry_after)

    def superseded(self, run_id: int) -> bool:
        """Whether all that a run has yet to deliver is stored, or being stored, by another."""
        return all(self._state[index] >= _WRITING for index in self._out[run_id].left)

    def _finish(self, index: int) -> None:
        if self._state[index] != _DONE:
            self._state[index] = _DONE
            self._left -= 1

    def _advance(self) -> None:
        state, end = self._state, len(self._state)
        while self._prefix < end and state[self._prefix] == _DONE:
            self._prefix += 1

    def _give_back(self, index: int) -> None:
        hedged = any(index in out.left for out in self._out.values())
        if self._state[index] == _OUT and not hedged:
            self._state[index] = _MISSING
            self._bytes_missing += self._lengths[index]
            self._cursor = min(self._cursor, index)

    def _source_for(self, index: int, now: float) -> int | float | None:
        """The source to ask for a chunk, else the time from which there may be one, else None."""
        tries = self._wrong_at.get(index, {})
        alive = [number for number, source in enumerate(self.sources) if source.dropped is None]
        least = min((tries.get(number, 0) for number in alive), default=self._policy.max_tries)
        if least >= self._policy.max_tries:
            return None
        fit = [number for number in alive if tries.get(number, 0) == least]
        ready = [number for number in fit if self.sources[number].ready_at <= now]
        if not ready:
            return min(self.sources[number].ready_at for number in fit)
        return min(ready, key=self._cost)

    def _cost(self, number: int) -> tuple[float, int]:
        """Seconds a byte that one more run at this source would take; an unmeasured one is free, then average."""
        source = self.sources[number]
        rate = source.rate
        if rate is None:
            if source.in_flight == 0:
                return 0.0, number
            known = [other.rate for other in self.sources if other.rate is not None]
            rate = sum(known) / len(known) if known else 1.0
        return (source.in_flight + 1) / max(rate, 1.0), number

    def _hand_out(self, first: int, source: int, now: float) -> Run:
        limit = self._bytes_missing // (2 * self._workers)
        state = self.sources[source]
        if state.rate is not None:
            limit = min(limit, int(state.rate / max(state.in_flight, 1) * self._policy.run_seconds))
        limit = min(max(limit, self._policy.min_run_bytes), self._policy.run_bytes)
        stop, length = first + 1, self._lengths[first]
        if first not in self._wrong_at:
            while (
                stop < len(self._lengths)
                and self._state[stop] == _MISSING
                and stop not in self._wrong_at
                and length + self._lengths[stop] <= limit
            ):
                length += self._lengths[stop]
                stop += 1
        for index in range(first, stop):
            self._state[index] = _OUT
        self._bytes_missing -= length
        if first == self._cursor:
            self._cursor = stop
        return self._start(first, stop, source, now, hedge=False)

    def _start(self, first: int, stop: int, source: int, now: float, *, hedge: bool) -> Run:
        offset = self._offsets[first]
        run = Run(self._next_id, source, first, stop, offset, self._offsets[stop] - offset, hedge)
        self._next_id += 1
        left = {index for index in range(first, stop) if self._state[index] == _OUT}
        self._out[run.id] = _Out(run, now, hedge, left)
        self.sources[source].in_flight += 1
        return run

    def _hedge(self, now: float, soonest: float | None) -> Wait | Run:
        """Duplicate the oldest run that is overdue, or say when to look again."""
        if self._state.find(_MISSING, self._cursor) < 0:
            open_runs = [out for out in self._out.values() if not out.hedged and not self.superseded(out.run.id)]
            for out in sorted(open_runs, key=lambda out: out.started):
                due = out.started + self._policy.hedge_after
                if due > now:
                    soonest = due if soonest is None else min(soonest, due)
                    break
                source = self._hedge_source(out, now)
                if source is not None:
                    out.hedged = True
                    wanted = [index for index in out.left if self._state[index] == _OUT]
                    return self._start(min(wanted), max(wanted) + 1, source, now, hedge=True)
        return Wait(now + 1.0 if soonest is None else max(soonest, now))

    def _hedge_source(self, out: _Out, now: float) -> int | None:
        ready = [
            number
            for number, source in enumerate(self.sources)
            if source.dropped is None
            and source.ready_at <= now
            and not any(number in self._wrong_at.get(index, {}) for index in out.left)
        ]
        # another source if there is one; the same one over another connection helps against a stalled one
        return min(ready, key=lambda number: (number == out.run.source, self._cost(number)), default=None)

    def _measure(self, source: SourceState, received_bytes: int, seconds: float) -> None:
        if received_bytes == 0 or seconds <= 0:
            return
        rate = received_bytes / seconds * source.in_flight
        source.rate = rate if source.rate is None else source.rate + _SMOOTHING * (rate - source.rate)

    def _count_wrong(self, source: SourceState) -> None:
        source.wrong += 1
        if source.wrong >= self._policy.max_wrong:
            source.dropped = source.dropped or Fault.WRONG

    def _punish(self, source: SourceState, fault: Fault, now: float, retry_after: float | None) -> None:
        pause = retry_after or 0.0
        source.retry_after = retry_after
        if fault is Fault.BUSY and retry_after is not None:
            if source.busy_since is None:
                source.busy_since = now
            hopeless = now + pause - source.busy_since > self._policy.patience
        else:
            source.errors += 1
            pause = max(pause, min(self._policy.backoff * 2.0 ** (source.errors - 1), self._policy.backoff_limit))
            hopeless = source.errors >= self._policy.max_errors or pause > self._policy.patience
        if fault is Fault.WRONG:
            self._count_wrong(source)
        if hopeless:
            source.dropped = source.dropped or fault
        source.ready_at = max(source.ready_at, now + pause)
