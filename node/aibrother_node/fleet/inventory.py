"""What a node has, page by page: complete blobs and those of which a part is there.

An inventory is a set of digests, each complete or partial, and a log: every change has a number, and a page is what
changed after a number. A *cursor* names that number together with the run of the node that counts (the epoch). Who
comes with a cursor of another epoch, or of a time whose removals are not remembered any more, gets everything from the
start, and is told so (`reset`).

Inventories are compared by a hash of the set that can be kept up to date entry by entry: the XOR of the SHA-256 of each
entry. Somebody who chooses entries could make two sets collide; but it is its owner alone who says what an inventory
is, and it would fool nobody but itself. That hash, not the pages, says whether a copy is right.

Nothing here does IO.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import msgpack

from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aibrother_node.fleet.view import Have

PAGE: Final = 1000
"""Entries of a page, unless asked otherwise."""
MAX_ENTRIES: Final = 10_000
"""The most entries that a page may have, and that is read."""
MAX_PAGE: Final = 32 * MAX_ENTRIES + 2048
"""The longest page in bytes that is read."""
MAX_CURSOR: Final = 128
"""Characters of a cursor."""
MAX_HELD: Final = 200_000
"""Entries of a peer that are kept in mind."""
REMEMBERED: Final = 10_000
"""Removals that are remembered."""

_CURSOR: Final = re.compile(r"([0-9a-f]{2,64})\.([0-9]{1,18})(?:\.([0-9]{1,18}))?", re.ASCII)
_COMPACT: Final = 1000  # superseded entries of the log that are worth the work
_MARK: Final[Mapping[Have, bytes]] = {"complete": b"\x01", "partial": b"\x02"}
_NOTHING: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class Page:
    """What changed after a cursor.

    Attributes:
        cursor: what to ask with next.
        changes: what became of each blob; None where it is gone. In the order of the changes.
        digest: of the whole inventory when the page was made: a copy has it once there are no `more`.
        reset: forget all that was said before.
        more: there are pages after this one now.
    """

    cursor: str
    changes: Mapping[Digest, Have | None]
    digest: bytes
    reset: bool = False
    more: bool = False


class Inventory:
    """What this node has.

    Args:
        epoch: 1 to 32 bytes that no other run of this node had, such as random ones.
        remembered: how many removals are kept for those who come back.
    """

    def __init__(self, epoch: bytes, *, remembered: int = REMEMBERED) -> None:
        if not 1 <= len(epoch) <= 32:
            raise ValueError("an epoch has 1 to 32 bytes")
        self._epoch = epoch.hex()
        self._live: dict[Digest, Have] = {}
        self._hash = _SetHash()
        self._number = 0
        # the log in the order of its numbers; an entry counts while it is the last that was said of its blob
        self._log: list[tuple[int, Digest]] = []
        self._last: dict[Digest, int] = {}
        self._removals: deque[tuple[int, Digest]] = deque()
        self._remembered = remembered
        self._forgotten = 0  # the number of the latest removal that is remembered no more

    @property
    def digest(self) -> bytes:
        """32 bytes that say what is in it, whatever the order it came in."""
        return self._hash.value

    def __len__(self) -> int:
        return len(self._live)

    def update(self, complete: Iterable[Digest], partial: Iterable[Digest]) -> bool:
        """Say what is here now.

        Args:
            complete: whole blobs.
            partial: blobs of which verified chunks are here; one that is complete as well counts as complete.

        Returns:
            Whether that changed anything.
        """
        now: dict[Digest, Have] = {}
        for digest in partial:
            now[digest] = "partial"
        for digest in complete:
            now[digest] = "complete"
        # sorted, so that the same updates make the same pages in every process
        changed = sorted((digest for digest, have in now.items() if self._live.get(digest) != have), key=_raw)
        gone = sorted(self._live.keys() - now.keys(), key=_raw)
        for digest in changed:
            self._enter(digest, now[digest])
        for digest in gone:
            self._enter(digest, None)
        while len(self._removals) > self._remembered:
            number, digest = self._removals.popleft()
            if self._last.get(digest) == number:  # else the blob came back, and the log says so
                del self._last[digest]
                self._forgotten = number
        if len(self._log) > 2 * len(self._last) + _COMPACT:
            self._log = [(number, digest) for number, digest in self._log if self._last.get(digest) == number]
        return bool(changed or gone)

    def _enter(self, digest: Digest, have: Have | None) -> None:
        self._hash.change(digest, self._live.pop(digest, None), have)
        self._number += 1
        self._log.append((self._number, digest))
        self._last[digest] = self._number
        if have is None:
            self._removals.append((self._number, digest))
        else:
            self._live[digest] = have

    def page(self, since: str | None = None, limit: int = PAGE) -> Page:
        """What changed since a cursor.

        Args:
            since: a cursor of an earlier page; with None, and with anything that isn't one of this run's, the listing
                begins from the start.
            limit: the most entries, 1 to `MAX_ENTRIES`; what is beyond is taken for the nearest.
        """
        limit = min(max(limit, 1), MAX_ENTRIES)
        place = self._place(since)
        # of a listing from the start: what was removed before it began was never in it
        at, began = (0, self._number) if place is None else place
        changes: dict[Digest, Have | None] = {}
        reached = self._number
        more = False
        for i in range(bisect_right(self._log, at, key=_number), len(self._log)):
            number, digest = self._log[i]
            have = self._live.get(digest)
            if self._last.get(digest) != number or (have is None and number <= began):
                continue
            if len(changes) == limit:
                more = True
                break
            changes[digest] = have
            reached = number
        if not more:
            reached = self._number
        cursor = f"{self._epoch}.{reached}" + (f".{began}" if reached < began else "")
        return Page(cursor, changes, self.digest, reset=place is None, more=more)

    def _place(self, since: str | None) -> tuple[int, int] | None:
        """Where a cursor stands, and where its listing began; None where it can't be gone on from."""
        found = _CURSOR.fullmatch(since) if since is not None else None
        if found is None or found[1] != self._epoch:
            return None
        at = int(found[2])
        began = int(found[3] or at)
        if max(at, began) > self._number or max(at, began) < self._forgotten:
            return None
        return at, began


class PeerInventory:
    """What a peer has, as far as it was heard.

    Args:
        ceiling: entries that are kept in mind; a peer that has more is not refused, but what is beyond isn't known.

    Attributes:
        cursor: what to ask with next; None begins from the start.
        full: the peer has more than is kept: its copy never gets in step.
    """

    def __init__(self, *, ceiling: int = MAX_HELD) -> None:
        self.cursor: str | None = None
        self.full = False
        self._ceiling = ceiling
        self._held: dict[bytes, Have] = {}
        self._hash = _SetHash()

    def __len__(self) -> int:
        return len(self._held)

    def apply(self, page: Page) -> tuple[dict[Digest, Have | None], bool]:
        """Take over a page that was asked for with `cursor`.

        Where the last page leaves a copy that is not what the peer says it is, the next question begins from the start.

        Returns:
            What changed, and whether everything from before is to be forgotten, as `FleetViewWriter` takes them.

        Raises:
            InvalidInput: it goes on from something that was never heard; nothing was changed.
        """
        if self.cursor is None and not page.reset:
            raise InvalidInput("the first page of an inventory goes on from something")
        if page.reset:
            self._held = {}
            self._hash = _SetHash()
            self.full = False
        changes: dict[Digest, Have | None] = {}
        for digest, have in page.changes.items():
            before = self._held.get(digest.raw)
            if before == have:
                continue
            if have is None:
                del self._held[digest.raw]
            elif before is None and len(self._held) >= self._ceiling:
                self.full = True
                continue
            else:
                self._held[digest.raw] = have
            self._hash.change(digest, before, have)
            changes[digest] = have
        wrong = not page.more and not self.full and not self.in_step_with(page.digest)
        self.cursor = None if wrong else page.cursor
        return changes, page.reset

    def in_step_with(self, digest: bytes) -> bool:
        """Whether this copy is what the peer says its inventory is."""
        return self._hash.value == digest


@dataclass(slots=True)
class _SetHash:
    """A hash of a set that entries can be put into and taken out of in any order."""

    value: bytes = field(default=_NOTHING)

    def change(self, digest: Digest, before: Have | None, after: Have | None) -> None:
        number = int.from_bytes(self.value)
        for have in (before, after):
            if have is not None:
                number ^= int.from_bytes(sha256(digest.raw + _MARK[have]).digest())
        self.value = number.to_bytes(32)


def encode_page(page: Page) -> bytes:
    """Write a page as it is sent: a msgpack map, the digests of each kind one after the other in one string."""
    kinds: dict[Have | None, list[bytes]] = {"complete": [], "partial": [], None: []}
    for digest, have in page.changes.items():
        kinds[have].append(digest.raw)
    encoded: bytes = msgpack.packb(
        {
            "cursor": page.cursor,
            "digest": page.digest,
            "reset": page.reset,
            "more": page.more,
            "complete": b"".join(kinds["complete"]),
            "partial": b"".join(kinds["partial"]),
            "gone": b"".join(kinds[None]),
        }
    )
    return encoded


def decode_page(content: bytes) -> Page:
    """Read a page that a peer sent; members that are unknown are ignored.

    Raises:
        InvalidInput: it breaks the format, or one of the ceilings `MAX_PAGE`, `MAX_ENTRIES` and `MAX_CURSOR`.
    """
    if len(content) > MAX_PAGE:
        raise InvalidInput(f"a page of an inventory of more than {MAX_PAGE} bytes")
    try:
        fields = msgpack.unpackb(
            content,
            strict_map_key=True,
            max_str_len=MAX_PAGE,
            max_bin_len=MAX_PAGE,
            max_array_len=64,
            max_map_len=64,
            max_ext_len=0,
        )
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise InvalidInput(f"a page of an inventory can't be read: {str(error)[:80] or type(error).__name__}") from None
    if type(fields) is not dict:
        raise InvalidInput("a page of an inventory is a map")
    cursor, digest, reset, more = (fields.get(name) for name in ("cursor", "digest", "reset", "more"))
    if (
        type(cursor) is not str
        or not 1 <= len(cursor) <= MAX_CURSOR
        or not cursor.isascii()
        or not cursor.isprintable()
    ):
        raise InvalidInput(f"a page's cursor is 1 to {MAX_CURSOR} printable characters of ASCII")
    if type(digest) is not bytes or len(digest) != 32:
        raise InvalidInput("a page's digest has 32 bytes")
    if type(reset) is not bool or type(more) is not bool:
        raise InvalidInput("a page's reset and more are true or false")
    changes: dict[Digest, Have | None] = {}
    kinds: tuple[tuple[str, Have | None], ...] = (("complete", "complete"), ("partial", "partial"), ("gone", None))
    total = 0
    for name, have in kinds:
        joined = fields.get(name, b"")
        if type(joined) is not bytes or len(joined) % 32:
            raise InvalidInput(f"a page's {name} are digests of 32 bytes")
        total += len(joined) // 32
        if total > MAX_ENTRIES:
            raise InvalidInput(f"a page of an inventory of more than {MAX_ENTRIES} entries")
        for i in range(0, len(joined), 32):
            changes[Digest(joined[i : i + 32])] = have
    if len(changes) != total:
        raise InvalidInput("a page names a blob twice")
    if more and not changes:
        raise InvalidInput("a page says nothing, and that there are more")
    return Page(cursor, changes, digest, reset=reset, more=more)


def _raw(digest: Digest) -> bytes:
    return digest.raw


def _number(entry: tuple[int, Digest]) -> int:
    return entry[0]
