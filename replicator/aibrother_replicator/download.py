"""Downloading one blob by its digest from several sources into a file: verified by chunk and as a whole, resumable.

The law (invariant 4): a chunk manifest that nobody signed is advice. It lets a wrong chunk be found and fetched again
while the rest arrives; nothing is called verified, and the target's name is not touched, before the SHA-256 of the
whole is the digest. Where all chunks fit the manifest and the whole does not fit the digest, the manifest lied: it is
dropped, and what is on disk counts only as far as another source's manifest agrees. Where no source has a manifest,
pieces of 8 MiB are fetched that only the whole can vouch for; if they got it wrong together, each is tried alone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from aibrother_node.content.cuts import MAX_CHUNK, MAX_CHUNKS, fixed_lengths
from aibrother_node.errors import InvalidInput, NotFound, Refused, Temporary, VerificationFailed
from aibrother_replicator.asking import Asking
from aibrother_replicator.http_source import HttpSource, Timeouts
from aibrother_replicator.ledger import Event, Limiter, Tally
from aibrother_replicator.partial import Partial, sha256_at
from aibrother_replicator.schedule import Fault, Policy
from aibrother_replicator.transfer import Transfer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from aibrother_node.content.chunks import ChunkManifest
    from aibrother_node.content.digest import Digest
    from aibrother_replicator.transfer import Outcome

__all__ = ["Event", "Options", "Plan", "Result", "SourceReport", "download", "plan"]


@dataclass(frozen=True, slots=True)
class Options:
    """How to download.

    Attributes:
        connections: threads; each has at most one connection a source.
        limit_rate: bytes a second over all of them; None for no limit.
        state: folder for the partial file and its state; by default they stand beside the target.
        policy: of the scheduler.
        timeouts: for each source.
        context: TLS settings; by default the system's certificates, or those that SSL_CERT_FILE names.
        manifest: the digest of the blob's chunk manifest, where a verified catalog names it: no other is used.
    """

    connections: int = 8
    limit_rate: int | None = None
    state: Path | None = None
    policy: Policy = field(default_factory=Policy)
    timeouts: Timeouts = field(default_factory=Timeouts)
    context: ssl.SSLContext | None = None
    manifest: Digest | None = None


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What one source did: bytes received from it, failures of any kind."""

    url: str
    bytes: int
    errors: int


@dataclass(frozen=True, slots=True)
class Result:
    """A finished download.

    Attributes:
        path: the verified file.
        sha256: its digest.
        size, fetched, reused: in bytes: of the blob, received (wrong and double ones too), found on disk and right.
        sources: in the order given.
    """

    path: Path
    sha256: Digest
    size: int
    fetched: int
    reused: int
    sources: tuple[SourceReport, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a download would do.

    Attributes:
        size: of the blob in bytes.
        fetch: bytes to fetch, going by what the state file claims.
        disk: bytes of disk that are still needed.
        manifest: whether a source has a chunk manifest.
    """

    size: int
    fetch: int
    disk: int
    manifest: bool


def download(
    digest: Digest,
    sources: Sequence[str],
    target: Path,
    options: Options | None = None,
    progress: Callable[[Event], None] | None = None,
) -> Result:
    """Download a blob; returns once `target` is the verified whole and on stable storage.

    `progress` is called in this thread with events: `start` (sha256, size, manifest: bool, reused), `progress` (done,
    total, fetched), `corrupt` (chunk, url, expected, actual, offset, length), `manifest_rejected` (url, reason),
    `source_error` (url, error, fault), `source_dropped` (url, reason), `warning` (message).

    Raises:
        VerificationFailed: no source has it right; nothing was kept. Or no source answers as it should, which doesn't
            touch what was verified of it before.
        NotFound: no source has it.
        Refused: whoever may have it wants rights.
        Temporary: the sources can't be reached, or another process downloads the same; what was stored stays.
        DiskFull: there is no room.
        InvalidInput: for a source that is no http(s) URL, or a target that can't be a file.
        KeyboardInterrupt: as it arrived; what was stored stays.
    """
    return _Download(digest, sources, target, options or Options(), progress or _ignore).run()


def plan(digest: Digest, sources: Sequence[str], target: Path, options: Options | None = None) -> Plan:
    """Find out what `download` would do, without writing anything.

    Raises:
        as `download`.
    """
    return _Download(digest, sources, target, options or Options(), _ignore).plan()


def _ignore(event: Event) -> None:
    """Nobody listens."""


class _Download:
    def __init__(
        self, digest: Digest, sources: Sequence[str], target: Path, options: Options, emit: Callable[[Event], None]
    ) -> None:
        if not sources:
            raise InvalidInput("a download needs a source")
        if target.is_dir():
            raise InvalidInput(f"{target} is a folder")
        self._digest = digest
        self._target = target
        self._options = options
        self._emit = emit
        urls = dict.fromkeys(url.rstrip("/") for url in sources)
        self._sources = [HttpSource(url, timeouts=options.timeouts, context=options.context) for url in urls]
        self._tallies = [Tally(source.base) for source in self._sources]
        self._asking = Asking(digest, self._sources, self._tallies, options.policy, emit, options.manifest)
        self._partial = Partial(digest, target, folder=options.state)
        self._limiter = Limiter(options.limit_rate) if options.limit_rate else None
        self._reused: int | None = None

    def run(self) -> Result:
        if (size := self._size_if_right()) is not None:
            return self._result(size, size)
        with self._partial:
            size = self._fetch()
            self._partial.finish(self._is_right)
        return self._result(size, self._reused or 0)

    def plan(self) -> Plan:
        if (size := self._size_if_right()) is not None:
            return Plan(size, 0, 0, manifest=False)
        manifest = next((manifest for _, manifest in self._asking.manifests()), None)
        size = self._known_sizes().popitem()[0] if manifest is None else manifest.size
        lengths = fixed_lengths(size) if manifest is None else manifest.lengths
        try:
            saved = self._partial.saved()
        except InvalidInput:
            saved = None
        have = 0
        if saved is not None and saved.size == size and saved.manifest == (manifest.encode() if manifest else None):
            have = sum(lengths[index] for index in saved.have if index < len(lengths))
        return Plan(size, size - have, max(size - self._partial.allocated(), 0), manifest is not None)

    def _result(self, size: int, reused: int) -> Result:
        reports = tuple(SourceReport(tally.url, tally.bytes, tally.errors) for tally in self._tallies)
        fetched = sum(report.bytes for report in reports)
        return Result(self._target, self._digest, size, fetched, reused, reports)

    def _size_if_right(self) -> int | None:
        """The size of the target if it is there and right."""
        try:
            fd = os.open(self._target, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            return os.fstat(fd).st_size if self._is_right(fd) else None
        finally:
            os.close(fd)

    def _is_right(self, fd: int) -> bool:
        return sha256_at(fd, 0, os.fstat(fd).st_size) == self._digest.raw

    # The attempts, one after the other

    def _fetch(self) -> int:
        """Fill the partial file with the right whole; returns its size."""
        everyone = range(len(self._sources))
        tried = doubtful = False
        suspect: frozenset[int] = frozenset()  # whose bytes made up a whole that was wrong
        for number, manifest in self._asking.manifests():
            tried = True
            outcome = self._attempt(everyone, manifest.size, manifest.lengths, manifest)
            if outcome.whole == self._digest:
                return manifest.size
            if outcome.whole is not None:
                doubtful, suspect = True, outcome.contributors
                self._asking.reject(number, f"all its chunks fit, and the whole is {outcome.whole}")
            else:
                self._raise_unless_wrong(outcome)
                doubtful |= outcome.same_wrong
        if not tried or (doubtful and len(self._sources) > 1):
            for size, numbers in self._known_sizes().items():
                groups = [[number] for number in numbers if suspect != {number}]
                if not tried and len(numbers) > 1:
                    groups.insert(0, numbers)
                if any(self._try_pieces(group, size) for group in groups):
                    return size
        self._partial.discard()
        reasons = self._reasons() or "what they have is something else"
        raise VerificationFailed(
            f"no source has {self._digest} right, nothing was kept: {reasons}", expected=str(self._digest)
        )

    def _try_pieces(self, numbers: Sequence[int], size: int) -> bool:
        """Fetch pieces that only the whole can vouch for; returns whether it did."""
        if size > MAX_CHUNK * MAX_CHUNKS:
            self._emit({"event": "warning", "message": f"a blob of {size} bytes is larger than any that is fetched"})
            return False
        outcome = self._attempt(numbers, size, fixed_lengths(size), None)
        if outcome.whole == self._digest:
            return True
        if outcome.whole is None:
            self._raise_unless_wrong(outcome)
            return False
        for number in numbers:
            self._tallies[number].note(f"the bytes from {self._tallies[number].url} make {outcome.whole}")
        self._emit({"event": "warning", "message": f"the whole is {outcome.whole}; starting over"})
        self._partial.forget()
        return False

    def _attempt(
        self, numbers: Sequence[int], size: int, lengths: Sequence[int], manifest: ChunkManifest | None
    ) -> Outcome:
        have = self._prepare(size, lengths, manifest)
        reused = sum(lengths[index] for index in have)
        if self._reused is None:
            self._reused = reused
        self._emit(
            {
                "event": "start",
                "sha256": self._digest.hex,
                "size": size,
                "manifest": manifest is not None,
                "reused": reused,
            }
        )
        transfer = Transfer(
            self._digest,
            lengths,
            manifest.sha256 if manifest else None,
            have,
            self._partial,
            [self._sources[number] for number in numbers],
            [self._tallies[number] for number in numbers],
            connections=self._options.connections,
            policy=self._options.policy,
            limiter=self._limiter,
            emit=self._emit,
        )
        return transfer.run()

    def _prepare(self, size: int, lengths: Sequence[int], manifest: ChunkManifest | None) -> list[int]:
        """Lay the partial file out; returns the chunks that it already holds, hashed again."""
        try:
            saved = self._partial.saved()
        except InvalidInput as error:
            self._emit({"event": "warning", "message": f"{error}; it is ignored"})
            saved = None
        self._partial.begin(size, lengths, manifest.encode() if manifest else None)
        have = self._partial.recover(lengths, manifest.sha256 if manifest else None, saved)
        self._partial.sync()
        return have

    # How it ends badly

    def _known_sizes(self) -> dict[int, list[int]]:
        sizes, errors = self._asking.sizes()
        if not sizes:
            pauses = [error.retry_after for error in errors if error.retry_after is not None]
            self._raise_for([error.fault for error in errors], min(pauses, default=None))
        return sizes

    def _raise_unless_wrong(self, outcome: Outcome) -> None:
        """Raise for an attempt that broke off, unless every source is known to be wrong."""
        faults = [fault for fault in outcome.dropped if fault is not None]
        away = any(fault in (Fault.UNREACHABLE, Fault.BUSY) for fault in faults)
        wrong = Fault.WRONG in faults or (outcome.failed is not None and outcome.failed.wrong)
        if away or not wrong:
            self._raise_for(faults, outcome.retry_after)

    def _raise_for(self, faults: list[Fault], retry_after: float | None) -> NoReturn:
        reasons = self._reasons()
        kinds = set(faults)
        if kinds == {Fault.GONE}:
            raise NotFound(f"no source has {self._digest}: {reasons}")
        if kinds & {Fault.UNREACHABLE, Fault.BUSY} or not kinds:
            message = f"no source can be reached that has {self._digest}: {reasons}"
            raise Temporary(message, retry_after=retry_after)
        if Fault.WRONG in kinds:
            # a network that answers for others, as in hotels, says nothing about the chunks that are verified
            message = f"no source answers as it should for {self._digest}: {reasons}"
            raise VerificationFailed(message, expected=str(self._digest))
        raise Refused(f"no source gives {self._digest}: {reasons}")

    def _reasons(self) -> str:
        return "; ".join(tally.last_error for tally in self._tallies if tally.last_error)
