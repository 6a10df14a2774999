"""Copies of what was found bad, in `quarantine/`: for whoever wants to know what happened to a disk.

They are bounded: the newest stay, up to a ceiling. What else lies in the folder is nobody's but the operator's.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput

if TYPE_CHECKING:
    from pathlib import Path

    from aibrother_node.store.disk import Disk
    from aibrother_node.store.layout import Layout

CEILING: Final = 1 << 30
"""Bytes of all copies."""
_PREFIX: Final = "chunk-"


def keep(
    layout: Layout,
    disk: Disk,
    digest: Digest,
    *,
    index: int,
    data: bytes,
    facts: dict[str, Any],
    now: float,
    ceiling: int = CEILING,
) -> Path:
    """Keep the bytes of a bad chunk, and why.

    Args:
        layout, disk: where.
        digest: of the blob.
        index: of the chunk.
        data: what was found in its place; empty where it couldn't be read.
        facts: what is known of it; small JSON.
        now: seconds since 1970.
        ceiling: bytes of all copies; older ones go.

    Returns:
        The copy's path.

    Raises:
        DiskFull: there is no room.
    """
    name = f"{_PREFIX}{digest.hex}-{index}-{int(now)}"
    path = layout.quarantine / name
    _make_room(layout, disk, ceiling - len(data))
    disk.write_file(path, data, aside=layout.incoming / "evidence.new", mode=0o600)
    facts = {"name": name, "blob": str(digest), "chunk": index, "found": now, **facts}
    disk.write_file(
        layout.quarantine / f"{name}.json", json.dumps(facts).encode() + b"\n", aside=layout.incoming / "evidence.new"
    )
    return path


def _make_room(layout: Layout, disk: Disk, room: int) -> None:
    """Remove the oldest copies until no more than `room` bytes of them are left."""
    copies = []
    for path in layout.quarantine.iterdir():
        if _is_copy(path.name):
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                copies.append((found.st_mtime, found.st_size, path))
    total = sum(size for _, size, _ in copies)
    for _, size, path in sorted(copies):
        if total <= room:
            return
        disk.unlink(path)
        disk.unlink(path.with_name(f"{path.name}.json"))
        total -= size


def _is_copy(name: str) -> bool:
    if not name.startswith(_PREFIX) or name.endswith(".json"):
        return False
    try:
        Digest.from_hex(name.removeprefix(_PREFIX).partition("-")[0])
    except InvalidInput:
        return False
    return True
