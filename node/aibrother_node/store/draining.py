"""Whether an operator has taken this node out of service: a file that stays, and a byte that every process looks at.

`<data>/drained` is what counts; it holds over restarts until somebody takes it back. `run/draining` says the same in
one byte of mapped memory, so that workers can look at it before each answer without a system call: when `drain` or
`undrain` returns, what a worker answers from then on is what was asked for. Each start writes that byte again.
"""

from __future__ import annotations

import json
import mmap
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.store.mapped import open_whole

if TYPE_CHECKING:
    from aibrother_node.store.disk import Disk
    from aibrother_node.store.layout import Layout

MAX_REASON: Final = 500
"""Characters of the reason that an operator may give."""
_CEILING: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class Drained:
    """Since when a node is drained, and why.

    Attributes:
        since: as RFC 3339 writes it; empty where the file doesn't say.
        reason: an operator's words; may be empty.
    """

    since: str
    reason: str

    def to_json(self) -> dict[str, str]:
        """The content of the file, and what reports show."""
        return {"since": self.since, "reason": self.reason}


def drained(layout: Layout) -> Drained | None:
    """Whether the node on this directory is drained, by the file.

    A file that can't be understood counts: what an operator has taken out of service comes back by their word only.
    """
    try:
        with layout.drained.open("rb") as file:
            data = file.read(_CEILING)
    except FileNotFoundError:
        return None
    try:
        said: Any = json.loads(data)
    except ValueError:
        said = None
    found = said if isinstance(said, dict) else {}
    since, reason = found.get("since"), found.get("reason")
    return Drained(since if isinstance(since, str) else "", reason[:MAX_REASON] if isinstance(reason, str) else "")


def drain(layout: Layout, disk: Disk, now: str, reason: str = "") -> Drained:
    """Take the node out of service; again, it only changes the reason, where one is given. Blocks.

    Args:
        layout: its directory.
        disk: changes the file system.
        now: as RFC 3339 writes it.
        reason: for whoever reads `status` later.

    Raises:
        DiskFull: nothing has changed.
    """
    before = drained(layout)
    state = Drained(now, reason[:MAX_REASON])
    if before is not None:
        state = Drained(before.since or now, state.reason or before.reason)
    if state != before:
        data = json.dumps(state.to_json()).encode()
        disk.write_file(layout.drained, data, aside=layout.incoming / "drained.new")
    set_flag(layout, up=True)
    return state


def undrain(layout: Layout, disk: Disk) -> bool:
    """Put the node back into service. Blocks.

    Returns:
        Whether it was out of it.
    """
    was = drained(layout) is not None
    if was:
        disk.unlink(layout.drained)
        disk.sync_folder(layout.root)
    set_flag(layout, up=False)
    return was


def restore(layout: Layout) -> bool:
    """Have the byte in memory say what the file says; at a start, before any worker looks.

    Returns:
        Whether the node is drained.
    """
    is_drained = drained(layout) is not None
    set_flag(layout, up=is_drained)
    return is_drained


def set_flag(layout: Layout, *, up: bool) -> None:
    """Write the byte that workers look at."""
    wanted = b"\1" if up else b"\0"
    fd = open_whole(layout.drain_flag, 1)
    try:
        # by a write, not by memory: on a full disk that is an error, where a page that can't be had is a signal
        if os.pread(fd, 1, 0) != wanted:
            os.pwrite(fd, wanted, 0)
    finally:
        os.close(fd)


class DrainFlag:
    """The byte, as a process that only looks sees it.

    Args:
        layout: the directory.
    """

    def __init__(self, layout: Layout) -> None:
        if not layout.drain_flag.exists():
            restore(layout)
        fd = open_whole(layout.drain_flag, 1)
        try:
            self._map = mmap.mmap(fd, 1, prot=mmap.PROT_READ)
        finally:
            os.close(fd)

    def is_up(self) -> bool:
        """Whether the node is drained now."""
        return self._map[0] != 0

    def close(self) -> None:
        """Let go of the memory."""
        self._map.close()
