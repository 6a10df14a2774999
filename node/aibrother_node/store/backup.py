"""Backups of what can't be fetched again: keys, configuration, trust, the catalog, pins, tokens, jobs. Never blobs.

A backup is a tar file (POSIX.1-2001) that its owner alone can read: it holds private keys. The catalog's timestamp goes
in first, so that whatever it leads to is in the backup too, even of a node that signs meanwhile. Jobs go in as an
`index.sqlite3` that holds nothing else; the index in it is made at the first start.
"""

from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING, Final

from aibrother_node.errors import InvalidInput, Refused
from aibrother_node.store.database import copy_part

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aibrother_node.store.disk import Disk
    from aibrother_node.store.layout import Layout

FIRST: Final = ("catalog/metadata/timestamp.json",)
WHAT: Final = (
    "node.key",
    "node.toml",
    "keys",
    "trust",
    "catalog/metadata",
    "catalog/targets",
    "pins",
    "tokens",
    "VERSION",
)
"""Files and folders below the data directory."""
JOBS: Final = "jobs"
"""The part of the database that is saved."""

_FOLDERS: Final = frozenset({"keys", "trust", "catalog", "pins", "tokens"})
_PRIVATE: Final = frozenset({"keys", "tokens"})
_FILES: Final = frozenset({"node.key", "node.toml", "VERSION", "index.sqlite3"})
_MAX_FILES: Final = 1_000_000
_MAX_BYTES: Final = 4 << 30


def backup(layout: Layout, target: Path) -> int:
    """Write a backup; an existing file is not touched.

    Returns:
        How many files it holds.

    Raises:
        Refused: there is a file of this name.
    """
    try:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Refused(f"{target} is there already") from None
    count = 0
    try:
        with os.fdopen(fd, "wb") as out:
            with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for path in _files(layout):
                    if _add(tar, layout, path):
                        count += 1
                jobs = copy_part(layout.index, JOBS)
                if jobs is not None:
                    _put(tar, layout.index.name, jobs, 0o600)
                    count += 1
            out.flush()
            os.fsync(out.fileno())
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return count


def restore(layout: Layout, source: Path, disk: Disk) -> int:
    """Make a data directory from a backup; its VERSION comes last, so that half a directory counts as none.

    Args:
        layout: of a directory that is missing or empty, but for what an interrupted restore left.
        source: the backup.
        disk: the file system.

    Returns:
        How many files were restored.

    Raises:
        Refused: a node is there already.
        InvalidInput: it is no backup, or holds what none would.
    """
    if layout.version.exists():
        raise Refused(f"{layout.root} is a data directory already; nothing was changed")
    layout.root.mkdir(parents=True, exist_ok=True)
    folders = {layout.root}
    names = set()
    for name, data, mode in _read(source):
        names.add(name)
        if name == layout.version.name:
            continue
        path = layout.root / name
        for folder in reversed(path.relative_to(layout.root).parents):
            below = layout.root / folder
            if not below.is_dir():
                disk.make_folder(below, 0o700 if folder.name in _PRIVATE else 0o755)
            folders.add(below)
        disk.unlink(path)
        with disk.create(path, mode & 0o777) as file:
            file.write_at(data, 0)
            file.fsync()
    for folder in sorted(folders, reverse=True):
        disk.sync_folder(folder)
    if not {layout.version.name, layout.node_key.name} <= names:
        raise InvalidInput(f"{source} is no backup of a node, or not a whole one")
    layout.create(disk)
    return len(names)


def _files(layout: Layout) -> Iterator[Path]:
    for name in FIRST:
        yield layout.root / name
    for name in WHAT:
        path = layout.root / name
        if path.is_dir():
            yield from (file for file in sorted(path.rglob("*")) if str(file.relative_to(layout.root)) not in FIRST)
        else:
            yield path


def _add(tar: tarfile.TarFile, layout: Layout, path: Path) -> bool:
    """Add one file; False where it is none, or went away meanwhile."""
    if path.is_symlink() or not path.is_file():
        return False
    _put(tar, str(path.relative_to(layout.root)), path.read_bytes(), path.stat().st_mode & 0o777)
    return True


def _put(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    entry.mode = mode
    tar.addfile(entry, io.BytesIO(data))


def _read(source: Path) -> Iterator[tuple[str, bytes, int]]:
    total = 0
    try:
        with tarfile.open(source, mode="r:") as tar:
            for count, entry in enumerate(tar):
                parts = entry.name.split("/")
                known = parts[0] in _FOLDERS if len(parts) > 1 else parts[0] in _FILES
                if not entry.isreg() or not known or any(part in ("", ".", "..") for part in parts):
                    raise InvalidInput(f"{source}: no backup holds {entry.name[:200]!r}")
                total += entry.size
                if count >= _MAX_FILES or total > _MAX_BYTES:
                    raise InvalidInput(f"{source} is larger than any backup")
                file = tar.extractfile(entry)
                assert file is not None
                yield entry.name, file.read(), entry.mode
    except (tarfile.TarError, EOFError) as error:
        raise InvalidInput(f"{source} is no backup: {error}") from error
