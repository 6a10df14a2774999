"""A disk that remembers every call, and the states that a power loss may leave of them.

What survives a power loss, as POSIX promises it and no more:

- of a file's bytes: what was written before its last fsync; of later writes anything: none of them, all of them, some
  as zeros;
- of a name (made, renamed, removed): what was done before the last fsync of its folder; of later changes any subset.

`states` replays the recorded calls up to each one in turn and lays out what may be left then.
"""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from aibrother_node.store.disk import Disk, DiskFile

_ALL_SUBSETS_UP_TO = 5  # pending changes of names; of more, all prefixes and all with one missing


@dataclass
class _Inode:
    durable: bytes = b""
    current: bytearray = field(default_factory=bytearray)
    written: list[tuple[int, int]] = field(default_factory=list)

    def contents(self) -> list[bytes]:
        """What a power loss may leave of the file; bytes that weren't written since the last fsync stay."""
        now = bytes(self.current)
        if now == self.durable:
            return [now]
        left = sum(stop - start for start, stop in self.written) // 2
        none, half = bytearray(now), bytearray(now)
        for start, stop in self.written:
            none[start:stop] = bytes(len(none[start:stop]))
            kept = min(left, stop - start)
            left -= kept
            half[start + kept : stop] = bytes(len(half[start + kept : stop]))
        return [self.durable, now, bytes(none), bytes(half)]


@dataclass(frozen=True)
class _Link:
    path: str
    inode: int


@dataclass(frozen=True)
class _Rename:
    source: str
    target: str
    inode: int


@dataclass(frozen=True)
class _Unlink:
    path: str


@dataclass(frozen=True)
class _Folder:
    path: str


_Change = _Link | _Rename | _Unlink | _Folder
State = dict[str, bytes | None]
"""Relative paths and their bytes; None is a folder."""


class RecordingDisk(Disk):
    """The real file system, with a record of what was asked of it.

    Args:
        root: the directory that counts; calls elsewhere are only carried out.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[tuple[str, object]] = []
        self._numbers = itertools.count()
        self.inodes: dict[str, int] = {}

    def _name(self, path: Path) -> str | None:
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else None

    def create(self, path: Path, mode: int = 0o600) -> DiskFile:
        real = super().create(path, mode)
        name = self._name(path)
        assert name is not None
        number = next(self._numbers)
        self.inodes[name] = number
        self.calls.append(("change", _Link(name, number)))
        return _RecordingFile(path, real.fd, self, number)

    def reopen(self, path: Path) -> DiskFile:
        return _RecordingFile(path, super().reopen(path).fd, self, self.inodes[self._name(path) or ""])

    def make_folder(self, path: Path, mode: int = 0o755) -> None:
        super().make_folder(path, mode)
        self.calls.append(("change", _Folder(self._name(path) or "")))

    def rename(self, source: Path, target: Path) -> None:
        name, new_name = self._name(source), self._name(target)
        assert new_name is not None
        if name is None:  # a file of the user's, moved in: it was durable before we came
            number = next(self._numbers)
            self.calls.append(("given", (number, source.read_bytes())))
            self.calls.append(("change", _Link(new_name, number)))
        else:
            number = self.inodes.pop(name)
            self.calls.append(("change", _Rename(name, new_name, number)))
        self.inodes[new_name] = number
        super().rename(source, target)

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self.calls.append(("sync folder", self._name(path) or "."))

    def unlink(self, path: Path) -> None:
        if path.exists():
            self.inodes.pop(self._name(path) or "", None)
            self.calls.append(("change", _Unlink(self._name(path) or "")))
        super().unlink(path)

    def remove_tree(self, path: Path) -> None:
        for below in sorted(path.rglob("*"), reverse=True):
            self.calls.append(("change", _Unlink(self._name(below) or "")))
        self.calls.append(("change", _Unlink(self._name(path) or "")))
        super().remove_tree(path)


class _RecordingFile(DiskFile):
    def __init__(self, path: Path, fd: int, disk: RecordingDisk, number: int) -> None:
        super().__init__(path, fd)
        self._disk = disk
        self._number = number

    def write_at(self, data: bytes | memoryview, offset: int) -> None:
        super().write_at(data, offset)
        self._disk.calls.append(("write", (self._number, offset, bytes(data))))

    def write_out_at(self, data: bytes | memoryview, offset: int) -> None:
        self.write_at(data, offset)  # durable no sooner than that

    def allocate(self, size: int) -> None:
        super().allocate(size)
        self._disk.calls.append(("write", (self._number, 0, bytes(size))))

    def truncate(self, size: int) -> None:
        super().truncate(size)
        self._disk.calls.append(("truncate", (self._number, size)))

    def fsync(self) -> None:
        super().fsync()
        self._disk.calls.append(("fsync", self._number))


def states(calls: list[tuple[str, object]], base: State) -> Iterator[tuple[int, State]]:
    """Everything that a power loss after each of the calls may leave, each state once.

    Args:
        calls: as recorded.
        base: what was there and durable before.

    Yields:
        How many calls had been made, and the state.
    """
    inodes: dict[int, _Inode] = {}
    durable: list[_Change] = []
    pending: list[_Change] = []
    seen: set[int] = set()
    for done, (kind, detail) in enumerate([("nothing", None), *calls]):
        match kind, detail:
            case "change", change:
                assert isinstance(change, _Change)
                if isinstance(change, _Link):
                    inodes.setdefault(change.inode, _Inode())
                pending.append(change)
            case "given", (int(number), bytes(data)):
                inodes[number] = _Inode(data, bytearray(data))
            case "write", (int(number), int(offset), bytes(data)):
                current = inodes[number].current
                current.extend(bytes(max(0, offset + len(data) - len(current))))
                current[offset : offset + len(data)] = data
                inodes[number].written.append((offset, offset + len(data)))
            case "truncate", (int(number), int(size)):
                current = inodes[number].current
                current[:] = current[:size].ljust(size, b"\0")
            case "fsync", int(number):
                inodes[number].durable = bytes(inodes[number].current)
                inodes[number].written.clear()
            case "sync folder", str(folder):
                synced = [change for change in pending if _touches(change, folder)]
                durable += synced
                pending = [change for change in pending if change not in synced]
        for survivors in _survivors(pending):
            for state in _layouts([*durable, *survivors], inodes, base):
                mark = hash(tuple(sorted(state.items(), key=lambda item: item[0])))
                if mark not in seen:
                    seen.add(mark)
                    yield done, state


def _touches(change: _Change, folder: str) -> bool:
    paths = [change.source, change.target] if isinstance(change, _Rename) else [change.path]
    return any((os.path.dirname(path) or ".") == folder for path in paths)


def _survivors(pending: list[_Change]) -> Iterator[list[_Change]]:
    if len(pending) <= _ALL_SUBSETS_UP_TO:
        for size in range(len(pending) + 1):
            yield from (list(chosen) for chosen in itertools.combinations(pending, size))
        return
    for length in range(len(pending) + 1):
        yield pending[:length]
    for missing in range(len(pending)):
        yield pending[:missing] + pending[missing + 1 :]


def _layouts(changes: list[_Change], inodes: dict[int, _Inode], base: State) -> Iterator[State]:
    names: dict[str, bytes | int | None] = dict(base)
    for change in changes:
        match change:
            case _Link(path, inode):
                names[path] = inode
            case _Rename(source, target, inode):
                names.pop(source, None)
                names[target] = inode
            case _Unlink(path):
                names.pop(path, None)
            case _Folder(path):
                names[path] = None
    names = {path: what for path, what in names.items() if _has_parents(path, names)}
    unsure = sorted({what for what in names.values() if isinstance(what, int)})
    for contents in itertools.product(*(inodes[number].contents() for number in unsure)):
        chosen = dict(zip(unsure, contents, strict=True))
        yield {path: chosen[what] if isinstance(what, int) else what for path, what in names.items()}


def _has_parents(path: str, names: dict[str, bytes | int | None]) -> bool:
    parent = os.path.dirname(path)
    return not parent or (parent in names and names[parent] is None and _has_parents(parent, names))


def snapshot(root: Path) -> State:
    """What stands below a folder."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_dir() or path.is_file()
    }


def lay_out(state: State, root: Path) -> None:
    """Make a state real."""
    root.mkdir()
    for path, data in sorted(state.items()):
        if data is None:
            (root / path).mkdir(parents=True, exist_ok=True)
        else:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
