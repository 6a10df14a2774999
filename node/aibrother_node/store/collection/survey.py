"""What collection decides about: everything that is stored, named, pinned, leased and marked, at one moment.

It reads the index, the database and a few folders, beside whoever changes them: what comes of it is a plan, and every
step of a plan is checked once more when it is done (collecting.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput, Temporary
from aibrother_node.store.collection.gc import Held, Name, Seen
from aibrother_node.store.database import read_only
from aibrother_node.store.leases import Lease

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from aibrother_node.store.layout import Layout

_PIN_CEILING: Final = 64 << 10
_PATIENCE: Final = 5.0


@dataclass(frozen=True)
class Policy:
    """What the operator wants this node to have of the catalog.

    Attributes:
        wants: `all`, `pinned`, or models (`NAME`, `NAME:VARIANT`) and tags.
        channels: of which channels.
        tags: of each (name, variant); needed only where `wants` is a list.
    """

    wants: str | tuple[str, ...] = "all"
    channels: tuple[str, ...] = ("stable",)
    tags: Mapping[tuple[str, str], Collection[str]] | None = None

    def wanted(self, path: str, name: str | None, variant: str | None) -> bool:
        """Whether it wants what a target names."""
        channel = "staging" if path.startswith("staging/") else "stable"
        if channel not in self.channels or self.wants == "pinned":
            return False
        if self.wants == "all" or name is None or variant is None:
            return True
        tags = (self.tags or {}).get((name, variant), ())
        return any(want in (name, f"{name}:{variant}") or want in tags for want in self.wants)


@dataclass(frozen=True)
class Survey:
    """What was seen, and which catalog the index held (None for none)."""

    seen: Seen
    state: str | None


def survey(layout: Layout, policy: Policy, free: int, accessed: Callable[[Digest], float], now: float) -> Survey:
    """Look at everything. Blocks.

    Args:
        layout: of the data directory.
        policy: what is wanted.
        free: bytes free on the file system.
        accessed: when a blob was last asked for.
        now: the time, in seconds since 1970.

    Raises:
        Temporary: the index can't be read now.
    """
    fills = dict(_fills(layout))
    try:
        with contextlib.closing(read_only(layout.index, _PATIENCE)) as db:
            db.execute("BEGIN")
            state = db.execute("SELECT state FROM catalog").fetchone()
            names, manifests = _targets(db, policy)
            for blob, manifest in db.execute("SELECT blob, manifest FROM manifests"):
                manifests.setdefault(Digest(blob), set()).add(Digest(manifest))
            leases = db.execute(
                "SELECT digest, holder, max(until) FROM leases WHERE until > ? GROUP BY digest", (now,)
            ).fetchall()
            blobs = {
                Digest(row[0]): Held(row[1], row[2]) for row in db.execute("SELECT digest, size, added FROM blobs")
            }
            marks = {Digest(row[0]): float(row[1]) for row in db.execute("SELECT digest, since FROM marks")}
    except sqlite3.Error as error:
        raise Temporary(f"the index can't be read now: {error}") from error
    seen = Seen(
        blobs,
        names,
        manifests,
        dict(_pins(layout)),
        {Digest(raw): Lease(holder, until) for raw, holder, until in leases},
        marks,
        frozenset(fills),
        sum(fills.values()),
        free,
        accessed,
    )
    return Survey(seen, None if state is None else str(state[0]))


def counts(layout: Layout, now: float) -> tuple[int, int] | None:
    """How many leases and marks there are; None where they can't be read now. Blocks."""
    try:
        with contextlib.closing(read_only(layout.index, _PATIENCE)) as db:
            (leases,) = db.execute("SELECT count(*) FROM leases WHERE until > ?", (now,)).fetchone()
            (marks,) = db.execute("SELECT count(*) FROM marks").fetchone()
    except sqlite3.Error:
        return None
    return int(leases), int(marks)


def fill_bytes(layout: Layout) -> int:
    """What fills take of the disk."""
    return sum(size for _, size in _fills(layout))


def _targets(db: sqlite3.Connection, policy: Policy) -> tuple[dict[Digest, Name], dict[Digest, set[Digest]]]:
    names: dict[Digest, Name] = {}
    shown: dict[Digest, tuple[bool, bool]] = {}
    manifests: dict[Digest, set[Digest]] = {}
    query = "SELECT path, sha256, name, version, variant, manifest FROM targets ORDER BY path"
    for path, raw, name, version, variant, manifest in db.execute(query):
        digest = Digest(raw)
        if manifest is not None:
            manifests.setdefault(digest, set()).add(Digest(manifest))
        moving = version is not None and f"-{version}-{variant}" not in path  # and means the newest
        wanted = policy.wanted(path, name, variant)
        old = names.get(digest, Name(path, wanted=False, newest=False))
        rank = wanted, not moving
        best = max(shown.get(digest, rank), rank)
        if shown.get(digest) != best:
            shown[digest] = best
            old = Name(path, old.wanted, old.newest)
        names[digest] = Name(old.path, old.wanted or wanted, old.newest or moving or version is None)
    return names, manifests


def _pins(layout: Layout) -> Iterator[tuple[Digest, str]]:
    with os.scandir(layout.pins) as entries:
        for entry in entries:
            try:
                digest = Digest.from_hex(entry.name)
            except InvalidInput:
                continue
            yield digest, _reason(entry.path)


def _reason(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return str(json.loads(file.read(_PIN_CEILING))["reason"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "unknown"  # a damaged pin still protects


def _fills(layout: Layout) -> Iterator[tuple[Digest, int]]:
    with os.scandir(layout.fills) as entries:
        for entry in entries:
            try:
                found = os.stat(os.path.join(entry.path, "data"))
                yield Digest.from_hex(entry.name), found.st_blocks * 512
            except (OSError, InvalidInput):
                continue
