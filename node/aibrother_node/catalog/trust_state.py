"""What a follower remembers of a catalog between runs: verified files by digest, and one small file that names them.

    <folder>/objects/<sha256>   metadata and documents, each once, never changed
    <folder>/state.json         which of them were seen last, and which make up the last good catalog

Objects are durable before `state.json`, which is replaced atomically, names them. So whatever instant a machine stops
at, the old state or the new one is there, whole. Nothing here is believed because it is here: metadata is verified
again from the first root whenever it is read, and an object that isn't what its name says is treated as missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from aibrother_node.store.disk import Disk

_SCHEMA: Final = "aibrother.trust/1"
_MAX_STATE_BYTES: Final = 16 << 20
_NEVER: Final = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True)
class Known:
    """Verified files of one catalog.

    Attributes:
        roots: the roots after the first one, in order.
        roles: role name → its file, for every other role.
        documents: target name → its file.
    """

    roots: tuple[Digest, ...] = ()
    roles: Mapping[str, Digest] = field(default_factory=dict)
    documents: Mapping[str, Digest] = field(default_factory=dict)

    def digests(self) -> set[Digest]:
        """All that is named here."""
        return {*self.roots, *self.roles.values(), *self.documents.values()}


@dataclass(frozen=True)
class State:
    """All that is remembered.

    Attributes:
        seen: the newest verified file of each role, whether or not a whole catalog could be had with it: what new
            metadata must not fall behind.
        good: the last catalog that was verified as a whole, or None.
        good_at: when it was (UTC).
    """

    seen: Known = Known()
    good: Known | None = None
    good_at: datetime = _NEVER


class TrustFolder:
    """One state folder. Processes may share it; who changes it holds `locked`.

    Args:
        folder: made if it is missing, and its parents.
        disk: how it is written.
        max_object_bytes: a larger file is not looked at.
    """

    def __init__(self, folder: Path, disk: Disk, max_object_bytes: int) -> None:
        self.folder = folder
        self._objects = folder / "objects"
        self._state = folder / "state.json"
        self._disk = disk
        self._max_object_bytes = max_object_bytes
        self._unsynced = False
        missing = [path for path in (self._objects, *self._objects.parents) if not path.is_dir()]
        for path in reversed(missing):
            with suppress(FileExistsError):
                disk.make_folder(path)
            disk.sync_folder(path.parent)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Wait until no other process changes this folder, and keep others from it."""
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def load(self) -> State:
        """Read what is remembered; a state that can't be read is an empty one, which trusts the first root alone."""
        try:
            with self._state.open("rb") as file:
                data = file.read(_MAX_STATE_BYTES + 1)
        except FileNotFoundError:
            return State()
        try:
            return _decode(data)
        except (InvalidInput, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return State()

    def get(self, digest: Digest) -> bytes | None:
        """The object's bytes, or None if it is missing or damaged."""
        try:
            with (self._objects / digest.hex).open("rb") as file:
                data = file.read(self._max_object_bytes + 1)
        except FileNotFoundError:
            return None
        return data if hashlib.sha256(data).digest() == digest.raw else None

    def put(self, data: bytes) -> Digest:
        """Keep verified bytes. They are found again after a crash once `commit` has returned.

        Raises:
            DiskFull: there is no room; nothing is changed.
        """
        digest = Digest(hashlib.sha256(data).digest())
        if self.get(digest) is None:
            aside = self._objects / f"{digest.hex}.new"
            self._disk.unlink(aside)
            with self._disk.create(aside, 0o644) as file:
                file.write_at(data, 0)
                file.fsync()
            self._disk.rename(aside, self._objects / digest.hex)
            self._unsynced = True
        return digest

    def commit(self, state: State) -> None:
        """Remember this from now on, and remove every object that it doesn't name."""
        if self._unsynced:
            self._disk.sync_folder(self._objects)
            self._unsynced = False
        self._disk.write_file(self._state, _encode(state), aside=self.folder / "state.json.new")
        kept = {digest.hex for known in (state.seen, state.good) if known is not None for digest in known.digests()}
        for path in self._objects.iterdir():
            if path.name not in kept:
                self._disk.unlink(path)


def _encode(state: State) -> bytes:
    document: dict[str, Any] = {"schema": _SCHEMA, "seen": _known_to_json(state.seen), "good": None}
    if state.good is not None:
        document["good"] = {"at": state.good_at.isoformat(), **_known_to_json(state.good)}
    return json.dumps(document, separators=(",", ":")).encode()


def _decode(data: bytes) -> State:
    document = json.loads(data)
    if document["schema"] != _SCHEMA:
        raise InvalidInput(f"not {_SCHEMA}")
    seen = _known_from_json(document["seen"])
    good = document["good"]
    if good is None:
        return State(seen)
    at = datetime.fromisoformat(good["at"])
    if at.tzinfo is None:
        raise InvalidInput("a time without a zone")
    return State(seen, _known_from_json(good), at)


def _known_to_json(known: Known) -> dict[str, Any]:
    return {
        "roots": [digest.hex for digest in known.roots],
        "roles": {name: digest.hex for name, digest in known.roles.items()},
        "documents": {name: digest.hex for name, digest in known.documents.items()},
    }


def _known_from_json(value: Any) -> Known:
    return Known(
        tuple(Digest.from_hex(text) for text in value["roots"]),
        {name: Digest.from_hex(text) for name, text in value["roles"].items()},
        {name: Digest.from_hex(text) for name, text in value["documents"].items()},
    )
