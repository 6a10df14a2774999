"""Uploads in progress: blobs that come from afar, in order, over as many connections as it takes.

`incoming/upload-<hex>/` holds `data`, which is as long as what has come, and `state.json`: the total, and how much of
`data` was on stable storage, under which boot of the machine. After a kill what the file system has is taken for what
has come; after a power loss only what is known to be durable. Either way nothing is believed: the whole is hashed
before it becomes a blob (`BlobStore.verify_staged`), so that a wrong byte costs an upload, and never more.

An upload is debris once nothing came for `IDLE`; until then it is no business of `BlobStore.take_in_all`. Its room is
taken at the beginning, so that a full disk shows before the work.

Whoever writes to an upload holds its folder (`Staged`); all of this blocks, and is for threads.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from aibrother_node.content.digest import Digest
from aibrother_node.errors import DiskFull, InvalidInput, Refused, Temporary
from aibrother_node.store.incoming import UPLOAD_PREFIX, Staged
from aibrother_node.store.room import check_max_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from aibrother_node.store.disk import Disk, DiskFile
    from aibrother_node.store.layout import Layout

IDLE: Final = 86_400.0
"""Seconds after which an upload is given up to which nothing was added."""
MOST: Final = 64
"""Uploads at a time."""
MAKES_WAY: Final = 3600.0
"""Seconds after which one makes way for another where there are too many."""
_BUSY_RETRY: Final = 60.0
_CHECKPOINT: Final = 256 << 20  # bytes after which what has come is made durable
_WRITEBACK: Final = 32 << 20
_STATE: Final = "state.json"
_STATE_CEILING: Final = 4096
_LARGEST: Final = 1 << 60


@dataclass(frozen=True, slots=True)
class Position:
    """How far an upload is: bytes that have come, and bytes in all."""

    offset: int
    total: int


@dataclass(frozen=True, slots=True)
class _State:
    """What `state.json` says: bytes in all, and how many of them were durable under which boot."""

    total: int
    durable: int
    boot: str

    def encode(self) -> bytes:
        return json.dumps({"total": self.total, "durable": self.durable, "boot": self.boot}).encode()

    @classmethod
    def read(cls, path: Path) -> _State | None:
        try:
            with path.open("rb") as file:
                fields = json.loads(file.read(_STATE_CEILING))
            total, durable, boot = fields["total"], fields["durable"], fields["boot"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        if type(total) is not int or type(durable) is not int or not 0 <= durable <= total <= _LARGEST:
            return None
        return cls(total, durable, str(boot))


class OtherTotal(Refused):
    """The upload was begun with another total.

    Attributes:
        position: how far it is.
    """

    def __init__(self, digest: Digest, position: Position) -> None:
        self.position = position
        super().__init__(f"the upload of {digest} was begun with {position.total} bytes in all")


class Upload:
    """One upload, held and open for writing; for one thread at a time.

    Attributes:
        staged: its folder.
        offset: bytes that have come.
        total: bytes in all.
    """

    def __init__(self, staged: Staged, file: DiskFile, position: Position, disk: Disk, boot: str) -> None:
        self.staged = staged
        self.offset = position.offset
        self.total = position.total
        self._file = file
        self._disk = disk
        self._boot = boot
        self._durable = self._written_back = self.offset

    @property
    def complete(self) -> bool:
        """Whether all of it has come."""
        return self.offset == self.total

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add what comes next.

        Raises:
            InvalidInput: that is more than there is to come; none of it was added.
            DiskFull: there is no room after all; what fitted was added.
        """
        if self.offset + len(data) > self.total:
            raise InvalidInput(f"{len(data)} bytes after {self.offset} are beyond the total of {self.total}")
        try:
            self._file.write_at(memoryview(data), self.offset)
        except DiskFull:
            self.offset = os.fstat(self._file.fd).st_size
            raise
        self.offset += len(data)
        if self.offset - self._written_back >= _WRITEBACK:
            self._file.start_writeback(self._written_back, self.offset - self._written_back)
            self._written_back = self.offset
        if self.offset - self._durable >= _CHECKPOINT:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Make durable what has come."""
        self._file.fsync()
        _write_state(self._disk, self.staged, _State(self.total, self.offset, self._boot))
        self._durable = self.offset

    def close(self) -> None:
        """Let go of it, as it is."""
        self._file.close()
        self.staged.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Uploads:
    """All uploads of a data directory; any thread may call, for one upload one at a time.

    Args:
        layout: of the data directory.
        disk: the file system.
        boot: names this boot of the machine.
        reserve: bytes of the file system that are to stay free.
        max_size: bytes that blobs and fills may take in all; None for what the file system has.
        most: uploads at a time.
        idle: seconds after which one is given up.
    """

    def __init__(
        self,
        layout: Layout,
        disk: Disk,
        boot: str,
        *,
        reserve: Callable[[], int] = lambda: 0,
        max_size: Callable[[], int | None] = lambda: None,
        most: int = MOST,
        idle: float = IDLE,
    ) -> None:
        self._layout = layout
        self._disk = disk
        self._boot = boot
        self._reserve = reserve
        self._max_size = max_size
        self._most = most
        self._idle = idle
        self._beginning = threading.Lock()

    def position(self, digest: Digest) -> Position | None:
        """How far an upload is; None where none was begun."""
        return self._position(self._folder(digest))

    def open(self, digest: Digest, total: int, now: float) -> Upload:
        """Go on with an upload, or begin one.

        Args:
            digest: what it shall become.
            total: bytes in all.
            now: seconds since 1970.

        Raises:
            OtherTotal: it was begun with another total.
            DiskFull: there is no room for it beside the reserve.
            Temporary: too many are in progress, or somebody else writes to this one.
            InvalidInput: no file is that long.
        """
        if not 0 <= total <= _LARGEST:
            raise InvalidInput(f"no blob has {total} bytes")
        folder = self._folder(digest)
        with self._beginning:
            held = Staged.try_hold(folder)
            if held is None and folder.exists():
                raise Temporary(f"the upload of {digest} is being written to", retry_after=1)
            position = self._position(folder)
            if held is not None and position is None:  # an interruption right at the beginning, or damage
                self._disk.remove_tree(folder)
                held.close()
            if held is None or position is None:
                return self._begin(folder, total, now)
        try:
            if position.total != total:
                raise OtherTotal(digest, position)
            return self._go_on(held, position)
        except BaseException:
            held.close()
            raise

    def discard(self, digest: Digest) -> None:
        """Drop an upload, if there is one; whoever calls holds it, or knows that nobody does."""
        self._disk.remove_tree(self._folder(digest))

    def sweep(self, now: float, idle: float | None = None, most: int | None = None) -> list[str]:
        """Drop uploads to which nothing was added for too long, or whose blob is here by now.

        Args:
            now: seconds since 1970.
            idle: seconds that are too long.
            most: how many, those first to which nothing was added for the longest time; all by default.

        Returns:
            The digests' hex digits.
        """
        gone: list[str] = []
        for folder in sorted(self._folders(), key=_last_change):
            if len(gone) == most:
                break
            held = Staged.try_hold(folder)
            if held is None:
                continue
            with held:
                name = folder.name.removeprefix(UPLOAD_PREFIX)
                if held.request_path.exists() and held.data.exists():
                    continue  # complete: `take_in_all` sees to it
                if not held.data.exists() or self._is_idle(held.data, now, idle) or self._is_stored(name):
                    self._disk.remove_tree(folder)
                    gone.append(name)
        return gone

    def _is_idle(self, data: Path, now: float, idle: float | None) -> bool:
        return now - data.stat().st_mtime > (self._idle if idle is None else idle)

    def _begin(self, folder: Path, total: int, now: float) -> Upload:
        if len(list(self._folders())) >= self._most:
            self.sweep(now)
        folders = list(self._folders())
        if len(folders) >= self._most and self.sweep(now, min(MAKES_WAY, self._idle), len(folders) - self._most + 1):
            folders = list(self._folders())
        if len(folders) >= self._most:
            raise Temporary(f"{len(folders)} uploads are in progress, and more are not taken", retry_after=_BUSY_RETRY)
        self._check_room(folders, total)
        self._disk.make_folder(folder, 0o700)
        staged = Staged.try_hold(folder)
        if staged is None:
            raise Temporary(f"{folder} was taken by another process", retry_after=1)
        try:
            file = self._disk.create(staged.data)
            try:
                file.keep_room(total)
                _write_state(self._disk, staged, _State(total, 0, self._boot))
                self._disk.sync_folder(folder.parent)
            except BaseException:
                file.close()
                raise
        except BaseException:
            self._disk.remove_tree(folder)
            staged.close()
            raise
        return Upload(staged, file, Position(0, total), self._disk, self._boot)

    def _go_on(self, staged: Staged, position: Position) -> Upload:
        file = self._disk.reopen(staged.data)
        try:
            if os.fstat(file.fd).st_size > position.offset:  # written under another boot, and perhaps not all of it
                file.truncate(position.offset)
            upload = Upload(staged, file, position, self._disk, self._boot)
            state = _State.read(staged.folder / _STATE)
            if state is None or state.boot != self._boot:
                upload.checkpoint()
            file.keep_room(position.total)
        except BaseException:
            file.close()
            raise
        return upload

    def _check_room(self, folders: list[Path], total: int) -> None:
        """Make sure that an upload fits, and those that were begun too, where the file system couldn't keep room."""
        promised = begun = 0
        for folder in folders:
            state = _State.read(folder / _STATE)
            try:
                taken = (folder / "data").stat().st_blocks * 512
            except FileNotFoundError:
                continue
            promised += 0 if state is None else max(0, state.total - taken)
            begun += 0 if state is None else state.total
        check_max_size(self._layout, "what is uploaded", total + begun, self._max_size())
        free = self._disk.free_bytes(self._layout.incoming)
        reserve = self._reserve()
        if total + promised + reserve > free:
            raise DiskFull(
                f"{total} bytes are to come, and {promised} of other uploads; {free} are free, of which {reserve}"
                " are kept in reserve",
                retry_after=_BUSY_RETRY,
            )

    def _position(self, folder: Path) -> Position | None:
        state = _State.read(folder / _STATE)
        if state is None:
            return None
        try:
            there = (folder / "data").stat().st_size
        except FileNotFoundError:
            return None
        # another boot: pages that were written, and not synchronised, may be gone, and read as zeros
        offset = there if state.boot == self._boot else min(there, state.durable)
        return None if offset > state.total else Position(offset, state.total)

    def _folder(self, digest: Digest) -> Path:
        return self._layout.incoming / f"{UPLOAD_PREFIX}{digest.hex}"

    def _folders(self) -> Iterator[Path]:
        return self._layout.incoming.glob(f"{UPLOAD_PREFIX}*")

    def _is_stored(self, name: str) -> bool:
        try:
            return self._layout.blob(Digest.from_hex(name)).exists()
        except InvalidInput:
            return True  # nobody's: it may go


def boot_id() -> str:
    """Names this boot of the machine (random(4))."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _write_state(disk: Disk, staged: Staged, state: _State) -> None:
    disk.write_file(staged.folder / _STATE, state.encode(), aside=staged.folder / "state.new", mode=0o600)


def _last_change(folder: Path) -> float:
    try:
        return (folder / "data").stat().st_mtime
    except FileNotFoundError:
        return 0.0
