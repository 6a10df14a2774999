"""How blobs are removed: each step in one piece on the thread that changes the store, all reasons looked at again.

Publishing runs on the same thread, so that the two can't cross: a blob that was named, pinned or leased a moment ago is
seen to be. A step goes: check → unlink → sync the folder → forget in the index. A crash in between leaves a row too
many, which the next start takes away. Whoever reads a blob that goes has it open, and finishes.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aibrother_node.errors import Temporary
from aibrother_node.store.database import named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aibrother_node.content.digest import Digest
    from aibrother_node.store.blobs import BlobStore
    from aibrother_node.store.collection.gc import Rules
    from aibrother_node.store.collection.marks import Marks


@dataclass(frozen=True, slots=True)
class Gone:
    """A blob that was removed, and its bytes."""

    digest: Digest
    size: int


class Collecting:
    """Removes blobs of one store; confined to its thread.

    Args:
        store: open for writing.
        marks: its marks.
        state: names the catalog that the files hold; what the index holds has to be the same.
        follows: this node has a catalog, or is to have one: without it nobody knows what is named.
    """

    def __init__(
        self, store: BlobStore, marks: Marks, state: Callable[[], str | None], follows: Callable[[], bool]
    ) -> None:
        self._store = store
        self.marks = marks
        self._state = state
        self._follows = follows

    def state(self) -> str | None:
        """Names the catalog by which may be collected now; None on a node that has none.

        Raises:
            Temporary: the index doesn't say what the files do, or the catalog isn't here yet.
        """
        found = self._state()
        if found != self._store.catalog_state():
            raise Temporary("the index doesn't hold the newest catalog yet: nothing is removed", retry_after=10)
        if found is None and self._follows():
            raise Temporary("the catalog isn't here yet: what it names isn't known, and nothing is removed")
        return found

    def protected(self, digest: Digest, now: float) -> str | None:
        """Why a blob is not to be collected; None where nothing speaks for it."""
        layout, rows = self._store.layout, self._store.rows
        own = self._protected_itself(digest, now)
        if own is not None:
            return own
        for blob in rows.described_by(digest):
            if layout.blob(blob).exists() or (layout.fill(blob) / "data").exists():
                return f"describes {blob}"
            other = self._protected_itself(blob, now)
            if other is not None:
                return f"describes {blob}, {other}"
        return None

    def _protected_itself(self, digest: Digest, now: float) -> str | None:
        if self._store.layout.pin(digest).exists():
            return "pinned"
        lease = self._store.leases.of([digest], now).get(digest)
        if lease is not None:
            return f"leased by {lease.holder}"
        path = self._store.rows.name_of(digest)
        return None if path is None else f"{path} names it"

    def mark(self, add: Iterable[tuple[Digest, float]], remove: Iterable[Digest]) -> None:
        """Mark what nothing names, and take marks from what is named again.

        Raises:
            DiskFull: there is no room.
        """
        self.marks.change(add, remove)

    def remove(self, digests: Sequence[Digest], rules: Rules, *, short: bool) -> list[Gone]:
        """Remove those of some blobs that nothing names, and whose marks are old enough.

        Args:
            digests: what describes others after them.
            rules: with the time.
            short: room is needed.

        Raises:
            Temporary: as `state`.
        """
        self.state()
        gone: list[Gone] = []
        missing: list[Digest] = []
        again: list[Digest] = []
        for digest in digests:
            since = self.marks.since(digest)
            if since is None or rules.now < rules.due(min(since, rules.now), short=short):
                continue
            if self.protected(digest, rules.now) is not None:
                again.append(digest)
            elif (size := self._unlink(digest)) is not None:
                gone.append(Gone(digest, size))
            else:  # removed before, when the index couldn't be told
                missing.append(digest)
        self._forget([*(one.digest for one in gone), *missing], again)
        return gone

    def evict(self, digest: Digest, state: str | None, now: float) -> Gone | None:
        """Remove a named blob that others keep; the permission was given in this same piece.

        Args:
            digest: of the blob.
            state: names the catalog under which it was given.
            now: the time.

        Returns:
            What went; None where something speaks for the blob now, or nothing names it any more.

        Raises:
            Temporary: as `state`, or it is another catalog.
        """
        if self.state() != state:
            raise Temporary("the catalog has changed meanwhile")
        pinned = self._store.layout.pin(digest).exists()
        if pinned or self._store.leases.of([digest], now) or self._store.rows.name_of(digest) is None:
            return None
        size = self._unlink(digest)
        self._forget([digest], ())
        return None if size is None else Gone(digest, size)

    def keeps(self, digest: Digest, state: str | None) -> tuple[bool, bool] | None:
        """Whether this node's catalog names a blob that is whole here, and whether it is pinned.

        None where it isn't whole, or the catalog isn't the one of that name.
        """
        try:
            if self.state() != state or not self._store.layout.blob(digest).exists():
                return None
        except Temporary:
            return None
        return self._store.rows.names(digest), self._store.layout.pin(digest).exists()

    def _unlink(self, digest: Digest) -> int | None:
        path = self._store.layout.blob(digest)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return None
        self._store.disk.unlink(path)
        return size

    def _forget(self, gone: Sequence[Digest], unmarked: Sequence[Digest]) -> None:
        """Make removals durable, and forget what was removed."""
        if gone:
            self._store.disk.sync_folder(self._store.layout.blobs)
        try:
            self._store.rows.remove_blobs(gone)
        except sqlite3.Error as error:
            raise named(error) from error
        if gone or unmarked:
            self.marks.change((), [*gone, *unmarked])
