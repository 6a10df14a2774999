"""A node that doesn't sign follows the catalog: it verifies as any client does, and then serves what it has verified.

    sources → TrustedCatalog (trust/state) decides what is believed → its documents → catalog/, `timestamp.json` last

Metadata decides alone which catalog is the newest, from the first root downwards. Its documents are named there by hash
and length, so any source may bring them: one that withholds them, or lies, stops no other.

What this node serves is a copy in the folder `catalog/`, laid out as on the signer. Nothing there is replaced before
all that it leads to is durable, and nothing by something older, in the order of (root version, timestamp version). An
interruption leaves the old catalog or the new one. Where it leaves the old one though the new one was verified already,
the next `refresh` goes on, whether or not a source answers.

Order of the files: documents and roles, then roots and the timestamp. Where the new timestamp holds under all roots
from the one that was served until now, it goes before them, for then clients on either side can follow at any instant.
Where it doesn't (several rotations were missed), it comes after them; in the moment between, a client has to ask again.
The same holds where another signer took over from a backup, and gave a number that was seen here to another file.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from aibrother_node.catalog.files import CatalogFiles
from aibrother_node.catalog.repository import Repository
from aibrother_node.catalog.state import check_signed, parse
from aibrother_node.catalog.trust import Rule, TrustedCatalog, TrustError, TrustLimits
from aibrother_node.errors import DiskFull, InvalidInput, NodeError, NotFound, Refused, Temporary, VerificationFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime, timedelta
    from pathlib import Path

    from aibrother_node.catalog.trust import CatalogStatus, Fetch, TargetInfo
    from aibrother_node.store.disk import Disk
    from aibrother_node.store.layout import Layout

Order = tuple[int, int]
Source = tuple[str, "Fetch"]
NOTHING: Final[Order] = (0, 0)
_BY_ROOT: Final[Mapping[str, type[Timestamp | Snapshot | Targets]]] = {
    "timestamp": Timestamp,
    "snapshot": Snapshot,
    "targets": Targets,
}


@dataclass(frozen=True, slots=True)
class Followed:
    """What a refresh came to.

    Attributes:
        status: (root version, timestamp version) of the catalog that this node serves now; (0, 0) where it has none.
        changed: whether it is another one than before: the index has to follow.
        refused: source → why it was not believed (`TrustError`, with the rule), or not reached (`Temporary`).
        published: target paths of the documents that were written.
        incomplete: why the newest verified catalog is not served yet, if it isn't: nobody had one of its documents.
        alarms: what was not refused, and yet never happens in a sound catalog.
    """

    status: Order
    changed: bool
    refused: Mapping[str, NodeError] = field(default_factory=dict)
    published: tuple[str, ...] = ()
    incomplete: NodeError | None = None
    alarms: tuple[TrustError, ...] = ()


@dataclass(frozen=True, slots=True)
class _Known:
    """The catalog that is believed: its timestamp's bytes, and what is in it."""

    timestamp: bytes
    status: CatalogStatus


def trust_state(layout: Layout) -> Path:
    """The folder of what a node that follows has verified; only such nodes have it."""
    return layout.trust / "state"


class Follower:
    """Follows the catalog for one data directory whose lock the caller's process holds.

    For one thread at a time. Not for a node that signs.

    Args:
        layout: of the data directory.
        disk: how files are written.
        first_root: the bytes of the root that this node was given.
        limits: ceilings; python-tuf's by default.

    Raises:
        TrustError: these bytes are no root.
        Refused: the folder holds another catalog, one that doesn't begin with this root.
    """

    def __init__(self, layout: Layout, disk: Disk, first_root: bytes, limits: TrustLimits | None = None) -> None:
        self._layout = layout
        self._disk = disk
        self._first_root = first_root
        self._limits = limits or TrustLimits()
        self._files = CatalogFiles(layout.catalog, disk)
        self._known: _Known | None = None
        trusted = self._open()
        self._first = parse(first_root, Root, "the first root").signed.version
        self._damaged = self._first_is_damaged()
        self._remember(trusted)

    def refresh(self, sources: Sequence[Source], now: datetime) -> Followed:
        """Bring the newest valid catalog that any of the sources has, and serve it. Blocks.

        Args:
            sources: (name, fetch) pairs, as `TrustedCatalog` describes `fetch`.
            now: the time, in UTC.

        Raises:
            DiskFull: there is no room; the old catalog is still served.
            OSError: the disk fails.
        """
        if self._damaged:
            self._files.write([(self._files.role("root", self._first), self._first_root)], replace=True)
            self._damaged = False
        served = self._served()
        if served is None and self._drop_broken_older_roots():
            served = self._served()
            if served is not None:
                self._backfill(sources)
        before = served[0] if served else NOTHING
        trusted: TrustedCatalog | None = None
        refused: dict[str, NodeError] = {}
        alarms: list[TrustError] = []
        if served is not None and (self._known is None or self._known.status.order < before):
            trusted = self._learn_from_folder(now)
        for name, fetch in sources:
            try:
                if self._is_known(fetch, now):
                    continue
                trusted = trusted or self._open()
                alarms += trusted.refresh(fetch, now, everything=True).alarms
                self._remember(trusted)
            except DiskFull:
                raise
            except NodeError as error:
                refused[name] = error
        known = self._known
        if known is None or known.status.order < before:
            return Followed(before, changed=False, refused=refused, alarms=tuple(alarms))
        if served == (known.status.order, known.timestamp):
            return Followed(before, changed=False, refused=refused, alarms=tuple(alarms))
        best_first = sorted(sources, key=lambda source: source[0] in refused)
        try:
            published = self._write(trusted or self._open(), _Documents(best_first, refused, self._limits), before)
        except DiskFull:
            raise
        except NodeError as error:
            return Followed(before, changed=False, refused=refused, incomplete=error, alarms=tuple(alarms))
        self._backfill(best_first)
        return Followed(known.status.order, changed=True, refused=refused, published=published, alarms=tuple(alarms))

    def collect_debris(self, now: datetime, grace: timedelta) -> int:
        """Remove files of the catalog that nobody can be about to ask for any more; as `Desk.collect_debris`.

        Returns:
            How many there were.
        """
        try:
            repository = Repository.open(self._layout.catalog, self._disk)
        except (NotFound, VerificationFailed):  # a broken folder is mended by the next refresh
            return 0
        return len(repository.collect_debris(now, grace))

    def _open(self) -> TrustedCatalog:
        return TrustedCatalog.open(trust_state(self._layout), self._first_root, limits=self._limits, disk=self._disk)

    def _remember(self, trusted: TrustedCatalog) -> None:
        """Remember what is believed, if anything is."""
        with suppress(NotFound):
            *_, (_, timestamp) = trusted.metadata()
            self._known = _Known(timestamp, trusted.status())

    def _is_known(self, fetch: Fetch, now: datetime) -> bool:
        """Whether a source has just what is believed already, and it hasn't expired: two small requests tell.

        The root is asked for too: its own keys can be replaced under an unchanged timestamp.
        """
        known = self._known
        if known is None or known.status.stale(now):
            return False
        if fetch("metadata/timestamp.json", self._limits.timestamp_bytes) != known.timestamp:
            return False
        try:
            fetch(f"metadata/{known.status.root_version + 1}.root.json", self._limits.root_bytes)
        except NotFound:
            return True
        return False

    def _served(self) -> tuple[Order, bytes] | None:
        """The catalog in the folder: its order and its timestamp's bytes; None where there is none, or a broken one."""
        try:
            versions = Repository.open(self._layout.catalog, self._disk).versions
            timestamp = self._files.read_role(self._files.timestamp, "timestamp")
        except NodeError:
            return None
        return (versions["root"], versions["timestamp"]), timestamp

    def _learn_from_folder(self, now: datetime) -> TrustedCatalog:
        """Take in what is served here, so that nothing falls behind it: the trust folder is new, or was lost."""
        trusted = self._open()

        def fetch(path: str, max_length: int) -> bytes:
            file = self._layout.catalog / path
            if not file.resolve().is_relative_to(self._layout.catalog.resolve()):
                raise NotFound(path)
            return self._files.read(file, max_length)

        with suppress(TrustError, NotFound):
            trusted.refresh(fetch, now, everything=True)
        self._remember(trusted)
        return trusted

    def _first_is_damaged(self) -> bool:
        """Whether the file of the first root is there, and is no root at all.

        Raises:
            Refused: it is the root of another catalog.
        """
        try:
            found = self._files.read_role(self._files.role("root", self._first), "root")
            root = parse(found, Root, "the root that is served")
            check_signed("root", root, [root.signed])
        except NotFound:
            return False
        except (InvalidInput, VerificationFailed):
            return True
        if found == self._first_root:
            return False
        if root.signed_bytes == parse(self._first_root, Root, "the first root").signed_bytes:
            return True  # what broke is around what was signed
        raise Refused(
            f"{self._layout.catalog} holds another catalog than the one that begins with the root given:"
            " move it away to follow that one"
        )

    def _write(self, trusted: TrustedCatalog, documents: _Documents, before: Order) -> tuple[str, ...]:
        """Make the last good catalog the served one.

        Raises:
            NodeError: a document can't be had; nothing has changed.
        """
        files = self._files
        files.make()
        roots: list[tuple[Path, bytes]] = []
        roles: list[tuple[Path, bytes]] = []
        for name, data in trusted.metadata():
            (roots if name.endswith(".root.json") else roles).append((files.metadata / name, data))
        timestamp = roles.pop()
        written: list[str] = []

        def missing() -> Iterator[tuple[Path, bytes]]:
            for info in trusted.targets():
                if info.custom:
                    continue
                path = files.document(info.path, info.sha256)
                if not _holds(path, info):
                    written.append(info.path)
                    yield path, documents.get(info)
            yield from roles
            yield from (one for one in roots if one[0].exists())

        files.write(missing(), replace=True)
        for folder in {path.parent for _, _, path in files.documents()}:
            self._disk.sync_folder(folder)  # a document that was there may have come from an interrupted run
        new = [one for one in roots if not one[0].exists()]
        last = [[one] for one in new]  # one after the other is durable: a chain with a gap is none
        served = [data for path, data in roots if int(path.name.split(".")[0]) == before[0]]
        bridged = not new or (
            bool(served) and all(_holds_under(data, [*roles, timestamp]) for data in [*served, *(d for _, d in new)])
        )
        for batch in [[timestamp], *last] if bridged else [*last, [timestamp]]:
            files.write(batch, replace=True)
        return tuple(written)

    def _backfill(self, sources: Sequence[Source]) -> None:
        """Bring the roots before our first one, for clients that were given an older one: all roots are kept for ever.

        Best effort: each must be signed by its own keys and sign the next, also with a key by which it was signed
        itself. (Else a liar could make up a root that names its own key beside a true one.)
        """
        numbers = sorted(version for role, version, _ in self._files.numbered() if role == "root")
        number = numbers[0]
        after = self._files.read_role(self._files.role("root", number), "root")
        while number > 1:
            number -= 1
            found = next(filter(None, (self._older_root(fetch, number, after) for _, fetch in sources)), None)
            if found is None:
                return
            self._files.write([(self._files.role("root", number), found)])
            after = found

    def _drop_broken_older_roots(self) -> bool:
        """Remove the roots before our first one that don't lead up to it; whether there were any."""
        if not self._files.metadata.is_dir():
            return False
        found = {version: path for role, version, path in self._files.numbered() if role == "root"}
        number, after = self._first - 1, self._first_root
        with suppress(NodeError):
            while number in found and _leads_to(data := self._files.read_role(found[number], "root"), number, after):
                number, after = number - 1, data
        broken = [path for version, path in found.items() if version <= number]
        self._files.remove(broken)
        return bool(broken)

    def _older_root(self, fetch: Fetch, number: int, after: bytes) -> bytes | None:
        try:
            data = fetch(f"metadata/{number}.root.json", self._limits.root_bytes)
        except NodeError:
            return None
        return data if len(data) <= self._limits.root_bytes and _leads_to(data, number, after) else None


class _Documents:
    """Where documents are fetched from: every source in turn, those that failed last.

    Args:
        sources: the best first.
        refused: gets the reasons.
        limits: the ceilings.
    """

    def __init__(self, sources: Sequence[Source], refused: dict[str, NodeError], limits: TrustLimits) -> None:
        self._sources = list(sources)
        self._refused = refused
        self._limits = limits

    def get(self, info: TargetInfo) -> bytes:
        """Fetch a document; what is returned is what the catalog names.

        Raises:
            TrustError, NotFound, Temporary: as the first source that failed.
        """
        if info.length > self._limits.document_bytes:
            limit = f"at most {self._limits.document_bytes} bytes"
            raise TrustError(f"target {info.path}", Rule.TOO_LARGE, limit, info.length)
        folder, slash, name = info.path.rpartition("/")
        first: NodeError | None = None
        for source in list(self._sources):
            try:
                return info.check(source[1](f"targets/{folder}{slash}{info.sha256.hex}.{name}", info.length))
            except DiskFull:
                raise
            except NodeError as error:
                first = first or error
                self._refused.setdefault(source[0], error)
                self._sources.remove(source)
                if not isinstance(error, Temporary):  # of one that can't be reached, nothing more is expected now
                    self._sources.append(source)
        raise first or Temporary(f"nobody is left to ask for {info.path}")


def _holds(path: Path, info: TargetInfo) -> bool:
    """Whether a document is there, whole."""
    try:
        if path.stat().st_size != info.length:
            return False
        info.check(path.read_bytes())
    except (FileNotFoundError, TrustError):
        return False
    return True


def _holds_under(root: bytes, roles: Sequence[tuple[Path, bytes]]) -> bool:
    """Whether a root's keys signed the roles that a root delegates to."""
    signed = parse(root, Root, "a root").signed
    try:
        for path, data in roles:
            role = path.name.removesuffix(".json").rpartition(".")[2]
            if role in _BY_ROOT:
                check_signed(role, parse(data, _BY_ROOT[role], path.name), [signed])
    except VerificationFailed:
        return False
    return True


def _leads_to(data: bytes, number: int, after: bytes) -> bool:
    """Whether these bytes are the root of a number, and the one after it follows from it."""
    try:
        root, following = parse(data, Root, "an older root"), parse(after, Root, "a root")
        check_signed("root", root, [root.signed])
        check_signed("root", following, [root.signed])
    except VerificationFailed:
        return False
    vouching = _signers(root.signed, following) & _signers(root.signed, root)
    return root.signed.version == number and bool(vouching)


def _signers(root: Root, metadata: Metadata[Any]) -> set[str]:
    """Which of a root's own root keys signed."""
    return set(root.get_verification_result("root", metadata.signed_bytes, metadata.signatures).signed)
