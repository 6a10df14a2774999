"""The signing node's desk: an edit of the catalog from what was asked to what workers serve.

    read what is signed now → decide (editing.py) → sign and write (repository.py) → index → tell the workers

Whoever sits here holds the data directory's lock: a command on a stopped node, or the control process. The index and
the workers follow the files (indexing.py).
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.catalog.accept import new_targets
from aibrother_node.catalog.deciding import DECIDED, Decision, Done, decide
from aibrother_node.catalog.indexing import follow, release_columns, state_name, tell_workers, yanked_rows
from aibrother_node.catalog.keys import KeyRing
from aibrother_node.catalog.reading import content_of
from aibrother_node.catalog.repository import Repository
from aibrother_node.catalog.review import review
from aibrother_node.catalog.targets import TargetEdit
from aibrother_node.content.chunks import FIXED_1
from aibrother_node.content.digest import Digest
from aibrother_node.content.gguf import GgufError, read_header
from aibrother_node.errors import DiskFull, InvalidInput, NodeError, NotFound, Refused, VerificationFailed
from aibrother_node.store.incoming import read_at
from aibrother_node.store.index import TargetRow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from tuf.api.metadata import TargetFile

    from aibrother_node.catalog.accept import Draft
    from aibrother_node.catalog.entries import Part
    from aibrother_node.catalog.targets import Content
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
        do = action.get("do")
        if do != "takeover":
            self._refuse_to_follow()
        if isinstance(do, str) and do in DECIDED:
            return self._edit(action, now)
        try:
            match do:
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
                case "refresh":
                    return self.refresh(now, beside=_folders(action))
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"not an edit of the catalog: {error}") from error
        raise InvalidInput("not an edit of the catalog")

    def _edit(self, action: Mapping[str, Any], now: datetime) -> Done:
        """Edit what is published, or the fleet.

        Raises:
            NotFound: a file that is to be published, or restored, isn't stored.
            VerificationFailed: one that is to be promoted is no GGUF by today's reader.
            and as `decide` and `Repository.commit`.
        """
        repository = self._open()
        decision = decide(action, repository, now)
        if action["do"] in ("publish", "unyank"):  # what was withdrawn for a while may have been collected
            restored = decision.edit.entries if action["do"] == "unyank" else ()
            for part in (*decision.files, *(part for entry in restored for part in entry.files)):
                for digest in (part.sha256, part.chunks, part.pieces):
                    if not self._store.layout.blob(digest).exists():
                        raise NotFound(f"{part.filename}: {digest} is not stored here")
        elif action["do"] == "promote":
            for part in decision.files:
                self._check_gguf(part.filename, part.sha256, part.size_bytes)
        done = self._commit(repository, decision, now)
        self._release(action.get("lease"))
        return done

    def inspect(self, draft: Draft, now: datetime) -> None:
        """Look at roles that were signed elsewhere, before `accept`: whether they are an edit, and of sound files.

        It reads a lot and changes nothing, so any thread may.

        Raises:
            Moved: the catalog has moved on since they were signed.
            Refused: a file isn't stored, or this node doesn't sign the catalog.
            VerificationFailed: signatures or a law of editing are broken; a file is no GGUF by today's reader, or a
                manifest is that of something else.
            and as `Repository.accept`.
        """
        self._refuse_to_follow()
        repository = self._open()
        for part in review(repository.state, repository.check(draft, now, self._is_stored)):
            try:
                self._check_gguf(part.filename, part.sha256, part.size_bytes)
                for digest, chunker in ((part.chunks, None), (part.pieces, FIXED_1)):
                    self._check_manifest(part, digest, chunker)
            except NotFound as error:
                raise Refused(f"{part.filename}: {error}") from error

    def accept(self, draft: Draft, now: datetime) -> dict[str, int]:
        """Make roles visible that were signed elsewhere, whose files are stored here.

        Returns:
            The new version of each role that changed.

        Raises:
            Moved: the catalog has moved on since they were signed.
            Refused: this node doesn't sign the catalog, or a blob isn't stored.
            and as `Repository.accept`.
        """
        self._refuse_to_follow()
        repository = self._open()
        changed = new_targets(repository.state, draft)
        versions = repository.accept(
            draft.roles,
            draft.base,
            self._keyring(),
            now,
            documents=draft.documents,
            is_stored=self._is_stored,
        )
        self._index(content_of(repository), {path: _target_edit(target) for path, target in changed.items()})
        for target in changed.values():
            if target is not None and target.custom is not None:
                self._release(f"upload {Digest.from_hex(target.hashes['sha256'])}")
        return versions

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

    def _open(self) -> Repository:
        return Repository.open(self._store.layout.catalog, self._disk, self._signing.expiries)

    def _keyring(self, beside: Sequence[Path] = ()) -> KeyRing:
        try:
            return KeyRing.load(self._signing.keys, self._disk, passphrase=self._signing.passphrase, beside=beside)
        except NotFound as error:
            raise Refused(f"{NOT_HERE} ({error})") from error

    def _refuse_to_follow(self) -> None:
        if self._signing.follows:
            raise Refused(NOT_HERE)

    def _commit(self, repository: Repository, decision: Decision, now: datetime) -> Done:
        edit = decision.edit
        before = {path: repository.target(path) for path in edit.targets}
        versions = repository.commit(edit, self._keyring(), now)
        if versions:
            self._index(edit.content, edit.targets)
        return decision.done(before, versions)

    def _is_stored(self, digest: Digest) -> bool:
        return self._store.layout.blob(digest).exists()

    def _index(self, content: Content, targets: Mapping[str, TargetEdit | None]) -> None:
        """Enter what changed into the index, and let the workers know."""
        changed = [
            TargetRow(path, target.sha256, target.length, *release_columns(target.custom))
            for path, target in targets.items()
            if target is not None
        ]
        removed = [path for path, target in targets.items() if target is None]
        state = state_name(self._store.layout)
        assert state is not None
        self._store.put_catalog(state, changed, yanked_rows(content), removed=removed, whole=False)
        tell_workers(self._store.layout)

    def _check_manifest(self, part: Part, digest: Digest, chunker: str | None) -> None:
        found = self._store.read_manifest(digest, self._store.manifest_ceiling)
        if (found.blob, found.size) != (part.sha256, part.size_bytes) or chunker not in (None, found.chunker):
            raise VerificationFailed(f"{part.filename} names {digest}, which isn't a manifest of it")

    def _check_gguf(self, filename: str, digest: Digest, size: int) -> None:
        blob = self._store.open_blob(digest)
        try:
            if blob.size != size:
                raise VerificationFailed(f"{filename} has {blob.size} bytes, not {size}")
            read_header(read_at(blob.fd), blob.size)
        except GgufError as error:
            raise VerificationFailed(f"{filename} is no sound GGUF: {error}") from error
        finally:
            blob.close()


def utc_now() -> datetime:
    """The time, as everything here takes it."""
    return datetime.now(UTC).replace(microsecond=0)


def _target_edit(target: TargetFile | None) -> TargetEdit | None:
    return (
        None if target is None else TargetEdit(Digest.from_hex(target.hashes["sha256"]), target.length, target.custom)
    )


def _folders(action: Mapping[str, Any]) -> list[Path]:
    return [Path(folder) for folder in action.get("beside", [])]
