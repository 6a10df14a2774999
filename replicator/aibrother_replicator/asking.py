"""Asking all sources at once for what they know of a blob: its chunk manifest, its size."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Final, TypeVar

from aibrother_node.content.chunks import ChunkManifest
from aibrother_node.errors import InvalidInput
from aibrother_replicator.http_source import SourceError
from aibrother_replicator.schedule import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from aibrother_node.content.digest import Digest
    from aibrother_replicator.http_source import HttpConnection, HttpSource
    from aibrother_replicator.ledger import Event, Tally
    from aibrother_replicator.schedule import Policy

_TRIES: Final = 3
_T = TypeVar("_T")


class Asking:
    """Questions about one blob.

    Args:
        digest: of the blob.
        sources: whom to ask.
        tallies: one a source; failures are noted there.
        policy: how long to wait between tries.
        emit: called with `manifest_rejected` and `source_error` events.
        manifest: the digest of the one manifest that is wanted, where a catalog names it.
    """

    def __init__(
        self,
        digest: Digest,
        sources: Sequence[HttpSource],
        tallies: Sequence[Tally],
        policy: Policy,
        emit: Callable[[Event], None],
        manifest: Digest | None = None,
    ) -> None:
        self._manifest = manifest
        self._digest = digest
        self._sources = sources
        self._tallies = tallies
        self._policy = policy
        self._emit = emit

    def manifests(self) -> Iterator[tuple[int, ChunkManifest]]:
        """Yield each distinct usable manifest with the number of its source, as they arrive."""
        seen: set[bytes] = set()
        for number, answer in self._ask_all(lambda line: line.manifest(self._digest, self._manifest)):
            if isinstance(answer, SourceError):
                if answer.fault is not Fault.GONE:
                    self._note(number, answer)
            elif answer not in seen:
                seen.add(answer)
                try:
                    manifest = ChunkManifest.decode(answer)
                    if manifest.blob != self._digest:
                        raise InvalidInput(f"it is the manifest of {manifest.blob}")
                    if self._manifest not in (None, manifest.digest()):
                        raise InvalidInput(f"it is {manifest.digest()}, the catalog names {self._manifest}")
                except InvalidInput as error:
                    self.reject(number, str(error))
                    continue
                yield number, manifest

    def reject(self, number: int, reason: str) -> None:
        """Note that a source's manifest is of no use."""
        url = self._sources[number].manifest_url(self._digest, self._manifest)
        self._tallies[number].note(f"{url}: {reason}")
        self._emit({"event": "manifest_rejected", "url": url, "reason": reason})

    def sizes(self) -> tuple[dict[int, list[int]], list[SourceError]]:
        """The sizes in bytes that sources give for the blob, each with their numbers in order; and who gives none."""
        answers: dict[int, int] = {}
        errors: list[SourceError] = []
        for number, answer in self._ask_all(lambda line: line.size(self._digest)):
            if isinstance(answer, SourceError):
                errors.append(answer)
                self._note(number, answer)
            else:
                answers[number] = answer
        sizes: dict[int, list[int]] = {}
        for number in sorted(answers):
            sizes.setdefault(answers[number], []).append(number)
        return sizes, errors

    def _ask_all(self, question: Callable[[HttpConnection], _T]) -> Iterator[tuple[int, _T | SourceError]]:
        """Ask all at once; yield (number, answer) as they come in. Who is slow is left behind when nobody listens."""
        answers: queue.SimpleQueue[tuple[int, _T | SourceError]] = queue.SimpleQueue()
        over = threading.Event()

        def work(number: int, line: HttpConnection) -> None:
            with line:
                answers.put((number, self._ask(line, question, over)))

        lines = [source.connect() for source in self._sources]
        threads = [
            threading.Thread(target=work, args=(number, line), name=f"ask-{number}", daemon=True)
            for number, line in enumerate(lines)
        ]
        try:
            for thread in threads:
                thread.start()
            for _ in threads:
                yield answers.get()
        finally:
            over.set()
            for line in lines:
                line.abort()

    def _ask(
        self, line: HttpConnection, question: Callable[[HttpConnection], _T], over: threading.Event
    ) -> _T | SourceError:
        tries = 1
        while True:
            try:
                return question(line)
            except SourceError as error:
                pause = max(error.retry_after or 0.0, self._policy.backoff * tries)
                temporary = error.fault in (Fault.BUSY, Fault.UNREACHABLE) and pause <= self._policy.patience
                if tries == _TRIES or not temporary or over.wait(pause):
                    return error
                tries += 1

    def _note(self, number: int, error: SourceError) -> None:
        tally = self._tallies[number]
        tally.note(str(error))
        self._emit({"event": "source_error", "url": tally.url, "error": str(error), "fault": error.fault.value})
