"""The signing node's desk: an edit of the catalog from what was asked to what workers serve.

    read what is signed now → decide (editing.py) → sign and write (repository.py) → index → tell the workers

Whoever sits here holds the data directory's lock: a command on a stopped node, or the control process. The index and
the workers follow the files (indexing.py).
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.catalog import editing, fleet_editing
from aibrother_node.catalog.entries import CHANNELS, Channel, Entry
from aibrother_node.catalog.indexing import follow, release_columns, state_name, tell_workers, yanked_rows
from aibrother_node.catalog.keys import KeyRing
from aibrother_node.catalog.names import parse_reference
from aibrother_node.catalog.reading import content_of, fleet
from aibrother_node.catalog.repository import Repository
from aibrother_node.content.gguf import GgufError, read_header
from aibrother_node.errors import DiskFull, InvalidInput, NodeError, NotFound, Refused, VerificationFailed
from aibrother_node.store.incoming import read_at
from aibrother_node.store.index import TargetRow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from tuf.api.metadata import TargetFile

    from aibrother_node.content.digest import Digest
    from aibrother_node.store.blobs import BlobStore
    from aibrother_node.store.disk import Disk

_MAX_KEYS: Final = 16  # of one role
NOT_HERE: Final = (
    "this node doesn't sign the catalog, it follows one that is signed elsewhere: run this command on the node that"
    " signs, or make this one the signer with `aibrother-node keys takeover`"
)


@dataclass(frozen=True, slots=True)
class Signing:
    """What signing takes, from the configuration.

    Attributes:
        keys: the folder of keys.
        passphrase: of the private keys, where they have one.
        expiries: how long each role's metadata is valid.
        follows: whether this node follows the catalog, signed elsewhere: to edit it here would make two of it.
    """

    keys: Path
    passphrase: str | None = field(repr=False)
    expiries: Mapping[str, timedelta]
    follows: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """What an edit came to.

    Attributes:
        entries: the releases that it was about, as they are now.
        targets: by path: `new`, `changed` or `removed`.
        versions: what was signed; empty where nothing changed.
        fleet: of an edit of the fleet: its version, and the node that it was about, as they are now.
    """

    entries: tuple[Entry, ...]
    targets: Mapping[str, str]
    versions: Mapping[str, int]
    fleet: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """As the local plane answers."""
        return {
            "entries": [entry.to_json() for entry in self.entries],
            "targets": dict(self.targets),
            "versions": dict(self.versions),
            **({} if self.fleet is None else {"fleet": dict(self.fleet)}),
        }


class Desk:
    """Edits the catalog of one data directory.

    Args:
        store: opened by whoever holds the lock.
        signing: keys and lifetimes.
        disk: the file system.
    """

    def __init__(self, store: BlobStore, signing: Signing, disk: Disk) -> None:
        self._store = store
        self._signing = signing
        self._disk = disk

    def run(self, action: Mapping[str, Any], now: datetime) -> Done:
        """Carry out an edit as the local plane has it: `do` says what, the other keys are its arguments.

        Raises:
            InvalidInput: there is no such edit, or an argument is wrong.
            Refused: this node doesn't sign the catalog.
            and as the edit.
        """
        if self._signing.follows and action.get("do") != "takeover":
            raise Refused(NOT_HERE)
        try:
            match action["do"]:
                case "publish":
                    entries = [Entry.from_json(entry) for entry in action["entries"]]
                    if action["channel"] not in CHANNELS:
                        raise InvalidInput(f"no channel {action['channel']!r:.40}")
                    done = self.publish(entries, action["channel"], now)
                    self._release(action.get("lease"))
                    return done
                case "promote":
                    return self.promote(action["references"], now)
                case "yank":
                    return self._simple(editing.yank, action, now, action["reason"])
                case "unyank":
                    return self._simple(editing.unyank, action, now)
                case "retire":
                    return self._simple(editing.retire, action, now, action["keep"])
                case "edit":
                    return self._simple(editing.edit_metadata, action, now, action["changes"])
                case "rotate":
                    return self.rotate(
                        action["role"],
                        now,
                        beside=_folders(action),
                        keys=action.get("keys"),
                        threshold=action.get("threshold"),
                        lost=bool(action.get("lost")),
                    )
                case "takeover":
                    return self.take_over(now, beside=_folders(action))
                case "admit":
                    return self._fleet(fleet_editing.admit, now, action["id"], action["key"], action["said"])
                case "revoke":
                    return self._fleet(fleet_editing.revoke, now, action["id"])
                case "refresh":
                    return self.refresh(now, beside=_folders(action))
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"not an edit of the catalog: {error}") from error
        raise InvalidInput("not an edit of the catalog")

    def publish(self, entries: list[Entry], channel: Channel, now: datetime) -> Done:
        """Publish releases whose files are stored already.

        Raises:
            NotFound: a file isn't stored.
            Refused: a name is in use for other content, or keys are missing.
        """
        for entry in entries:
            for part in entry.files:
                for digest in (part.sha256, part.chunks, part.pieces):
                    if not self._store.layout.blob(digest).exists():
                        raise NotFound(f"{part.filename}: {digest} is not stored here")
        repository = self._open()
        edit = editing.publish(content_of(repository), entries, channel, now)
        return self._commit(repository, edit, now)

    def promote(self, references: list[str], now: datetime) -> Done:
        """Move staged releases to stable, their headers read and checked once more.

        Raises:
            VerificationFailed: a file is no GGUF by today's reader.
        """
        repository = self._open()
        edit = editing.promote(content_of(repository), _references(references), now)
        for entry in edit.entries:
            for part in entry.files:
                self._check_gguf(part.filename, part.sha256, part.size_bytes)
        return self._commit(repository, edit, now)

    def rotate(
        self,
        role: str,
        now: datetime,
        *,
        beside: Sequence[Path] = (),
        keys: int | None = None,
        threshold: int | None = None,
        lost: bool = False,
    ) -> Done:
        """Replace a role's keys.

        Args:
            role: whose.
            now: the time, in UTC.
            beside: folders of other media with private keys.
            keys: how many it gets, 1 to 16; as many as it had by default.
            threshold: how many of them must sign; as many as before by default.
            lost: go on though the old keys aren't anywhere.
        """
        repository, ring = self._open(), self._keyring(beside)
        if keys is not None and not (type(keys) is int and 1 <= keys <= _MAX_KEYS):
            raise InvalidInput(f"a role has 1 to {_MAX_KEYS} keys")
        if threshold is not None and (type(threshold) is not int or threshold < 1):
            raise InvalidInput("a threshold is 1 or more")
        made = None if keys is None else [ring.create_key(role) for _ in range(keys)]
        try:
            versions = repository.rotate(role, ring, now, keys=made, threshold=threshold, lost=lost)
        except NodeError:
            ring.remove(role, [key.keyid for key in made or ()])
            raise
        follow(self._store, self._disk)
        return Done((), {}, versions)

    def take_over(self, now: datetime, *, beside: Sequence[Path] = ()) -> Done:
        """Make this the one node that signs: new keys of timestamp and snapshot, whether the old ones are here or not.

        What the old signer signs from now on, nobody believes. It takes the keys of root.
        """
        versions: dict[str, int] = {}
        for role in ("timestamp", "snapshot"):
            repository, ring = self._open(), self._keyring(beside)
            lost = any(key.missing is not None for key in ring.listed(role))
            versions |= repository.rotate(role, ring, now, lost=lost)
        follow(self._store, self._disk)
        return Done((), {}, versions)

    def refresh(self, now: datetime, *, beside: Sequence[Path] = ()) -> Done:
        """Sign again what is beyond half its life, as far as its keys are here or in the folders `beside`."""
        repository = self._open()
        refreshed = repository.refresh(self._keyring(beside), now)
        if refreshed.versions:
            follow(self._store, self._disk)
        return Done((), {}, refreshed.versions)

    def collect_debris(self, now: datetime, grace: timedelta) -> int:
        """Remove files of the catalog that nobody can be about to ask for any more.

        Args:
            now: the time, in UTC.
            grace: how long a client may take from the timestamp to the last file that it leads to.

        Returns:
            How many there were.
        """
        return len(self._open().collect_debris(now, grace))

    def _release(self, holder: object) -> None:
        """End the leases of what is named now; where that fails, they end by themselves."""
        if isinstance(holder, str):
            with contextlib.suppress(DiskFull, sqlite3.Error):
                self._store.leases.release(holder)

    def _simple(self, decide: Any, action: Mapping[str, Any], now: datetime, *arguments: Any) -> Done:
        repository = self._open()
        edit = decide(content_of(repository), _references(action["references"]), *arguments, now)
        return self._commit(repository, edit, now)

    def _fleet(self, decide: Any, now: datetime, *arguments: Any) -> Done:
        repository = self._open()
        edit: fleet_editing.FleetEdit = decide(fleet(repository), *arguments)
        changes = editing.Edit(edit.documents, edit.targets, content_of(repository))
        done = self._commit(repository, changes, now)
        return replace(done, fleet={"version": edit.fleet.version, "node": edit.node.to_json()})

    def _open(self) -> Repository:
        return Repository.open(self._store.layout.catalog, self._disk, self._signing.expiries)

    def _keyring(self, beside: Sequence[Path] = ()) -> KeyRing:
        try:
            return KeyRing.load(self._signing.keys, self._disk, passphrase=self._signing.passphrase, beside=beside)
        except NotFound as error:
            raise Refused(f"{NOT_HERE} ({error})") from error

    def _commit(self, repository: Repository, edit: editing.Edit, now: datetime) -> Done:
        before = {path: repository.target(path) for path in edit.targets}
        versions = repository.commit(edit, self._keyring(), now)
        if versions:
            changed = [
                TargetRow(path, target.sha256, target.length, *release_columns(target.custom))
                for path, target in edit.targets.items()
                if target is not None
            ]
            removed = [path for path, target in edit.targets.items() if target is None]
            state = state_name(self._store.layout)
            assert state is not None
            self._store.put_catalog(state, changed, yanked_rows(edit.content), removed=removed, whole=False)
            tell_workers(self._store.layout)
        return Done(tuple(edit.entries), _told(edit, before), versions)

    def _check_gguf(self, filename: str, digest: Digest, size: int) -> None:
        blob = self._store.open_blob(digest)
        try:
            if blob.size != size:
                raise VerificationFailed(f"{filename} has {blob.size} bytes, not {size}")
            read_header(read_at(blob.fd), blob.size)
        except GgufError as error:
            raise VerificationFailed(f"{filename} is not promoted: {error}") from error
        finally:
            blob.close()


def utc_now() -> datetime:
    """The time, as everything here takes it."""
    return datetime.now(UTC).replace(microsecond=0)


def _folders(action: Mapping[str, Any]) -> list[Path]:
    return [Path(folder) for folder in action.get("beside", [])]


def _references(texts: list[str]) -> list[Any]:
    return [parse_reference(text) for text in texts]


def _told(edit: editing.Edit, before: Mapping[str, TargetFile | None]) -> dict[str, str]:
    told = {}
    for path, target in edit.targets.items():
        old = before[path]
        told[path] = "removed" if target is None else "new" if old is None else "changed"
    return told
