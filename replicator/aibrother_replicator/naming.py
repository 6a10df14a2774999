"""From a model's name to digests, by the verified catalog (docs/protocol.md, "The client").

Refresh trust from whichever sources there are, read the model's releases, take the newest that is still a target. What
is returned was signed; the sources only carried it.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aibrother_node.catalog.entries import MAX_RELEASES_BYTES, decode_releases
from aibrother_node.catalog.trust import TrustedCatalog
from aibrother_node.errors import Gone, InvalidInput, NodeError, NotFound, Refused, Temporary, VerificationFailed
from aibrother_replicator.http_source import HttpSource, SourceError
from aibrother_replicator.schedule import Fault

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime, timedelta
    from pathlib import Path

    from aibrother_node.catalog.entries import Entry, Part
    from aibrother_node.catalog.names import Reference
    from aibrother_node.catalog.trust import Fetch
    from aibrother_node.content.digest import Digest

_ERRORS: Final[Mapping[Fault, type[NodeError]]] = {
    Fault.GONE: NotFound,
    Fault.UNREACHABLE: Temporary,
    Fault.BUSY: Temporary,
    Fault.WRONG: VerificationFailed,
}


@dataclass(frozen=True, slots=True)
class NamedPart:
    """One file to download.

    Attributes:
        filename: its fixed name.
        sha256, size: of its bytes.
        chunks: the digest of its manifest, which is thereby trusted.
    """

    filename: str
    sha256: Digest
    size: int
    chunks: Digest


@dataclass(frozen=True, slots=True)
class Named:
    """What a name means now.

    Attributes:
        entry: the release.
        parts: its files, the projector last.
        age: how long ago the catalog was verified; None for just now.
        warnings: for whoever asked.
    """

    entry: Entry
    parts: tuple[NamedPart, ...]
    age: timedelta | None
    warnings: tuple[str, ...] = ()


@contextmanager
def fetcher(url: str, context: ssl.SSLContext | None = None, *, patience: float | None = None) -> Iterator[Fetch]:
    """A node as a source of catalog files, for one thread; its connection ends with the block.

    Args:
        url: of its public plane.
        context: for https.
        patience: seconds from the first request after which the source is given up, however far it has come; None
            leaves it at the time-outs of a single answer.
    """
    with closing(HttpSource(url, context=context).connect()) as line, _cut_after(patience, line.abort) as start:

        def fetch(path: str, max_length: int) -> bytes:
            start()
            try:
                return line.file(path, max_length)
            except SourceError as error:
                raise _ERRORS.get(error.fault, Refused)(str(error)) from error

        yield fetch


@contextmanager
def _cut_after(patience: float | None, cut: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Yield what starts the clock; it runs out once."""
    timer = None if patience is None else threading.Timer(patience, cut)

    def start() -> None:
        if timer is not None and timer.ident is None:
            timer.daemon = True
            timer.start()

    try:
        yield start
    finally:
        if timer is not None:
            timer.cancel()


def resolve(
    reference: Reference,
    sources: Sequence[str],
    root: bytes,
    state: Path,
    now: datetime,
    *,
    allow_stale: bool = False,
    choose: Callable[[Sequence[str]], str] | None = None,
) -> Named:
    """Find out what a name means.

    Args:
        reference: what people write.
        sources: base URLs of nodes.
        root: the bytes of the root that is trusted.
        state: folder of trust states.
        now: the time, in UTC.
        allow_stale: go on with an expired catalog that was verified while it was valid.
        choose: picks one of several variants; without it, several are an error.

    Raises:
        TrustError: no source has a catalog that can be believed; names role, rule and both values.
        NotFound: the catalog has no such release; `Gone` where it was withdrawn.
        InvalidInput: the name means several variants.
        Temporary: no source can be reached.
    """
    catalog = TrustedCatalog.open(state, root)
    with ExitStack() as stack:
        fetchers = [(url, stack.enter_context(fetcher(url))) for url in sources]
        return _resolve(reference, catalog, fetchers, now, allow_stale=allow_stale, choose=choose)


def _resolve(
    reference: Reference,
    catalog: TrustedCatalog,
    fetchers: Sequence[tuple[str, Fetch]],
    now: datetime,
    *,
    allow_stale: bool,
    choose: Callable[[Sequence[str]], str] | None,
) -> Named:
    refreshed = catalog.refresh_any(fetchers, now, allow_stale=allow_stale)
    fetch = _first_that_answers(fetchers)
    path = f"models/{reference.name}.releases.json"
    try:
        document = decode_releases(catalog.document(path, fetch, MAX_RELEASES_BYTES))
    except NotFound:
        raise NotFound(f"the catalog has no model {reference.name}") from None
    named = [
        entry
        for entry in document.releases
        if reference.variant in (None, entry.variant) and reference.version in (None, entry.version)
    ]
    if not named:
        raise NotFound(f"the catalog has no {reference}")
    found: dict[str, tuple[Entry, tuple[NamedPart, ...]]] = {}
    for entry in reversed(named):  # the newest of each variant that was not withdrawn
        if entry.variant not in found:
            try:
                found[entry.variant] = entry, tuple(_part(catalog, part, fetch) for part in entry.files)
            except NotFound:
                continue  # its targets are gone
    if not found:
        raise Gone(f"{reference} was withdrawn")
    variants = sorted(found)
    entry, parts = found[variants[0] if len(variants) == 1 else _chosen(reference, variants, choose)]
    warnings = [f"{url}: {error}" for url, error in refreshed.failures.items()]
    warnings += [str(alarm) for alarm in refreshed.alarms]
    age = None if refreshed.expired is None else refreshed.status.age(now)
    return Named(entry, parts, age, tuple(warnings))


def _chosen(reference: Reference, variants: Sequence[str], choose: Callable[[Sequence[str]], str] | None) -> str:
    if choose is not None:
        return choose(variants)
    shown = ", ".join(f"{reference.name}:{variant}" for variant in variants)
    raise InvalidInput(f"{reference.name} has several variants, say which: {shown}")


def _part(catalog: TrustedCatalog, part: Part, fetch: Fetch) -> NamedPart:
    target = catalog.target(f"models/{part.filename}", fetch)
    signed = target.custom.get("chunks")
    if target.sha256 != part.sha256 or target.length != part.size_bytes or signed != str(part.chunks):
        raise VerificationFailed(
            f"{part.filename}: its entry and its target don't agree",
            expected=str(target.sha256),
            actual=str(part.sha256),
        )
    return NamedPart(part.filename, target.sha256, target.length, part.chunks)


def _first_that_answers(fetchers: Sequence[tuple[str, Fetch]]) -> Fetch:
    """Ask one source after the other; what they answer is verified by whoever asks."""

    def fetch(path: str, max_length: int) -> bytes:
        failure: NodeError = Temporary("there are no sources")
        for _, one in fetchers:
            try:
                return one(path, max_length)
            except NodeError as error:
                failure = error
        raise failure

    return fetch
