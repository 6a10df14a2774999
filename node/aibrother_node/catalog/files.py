"""The catalog's files on disk: where they lie, which numbers are taken, how a batch of them is made durable."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from aibrother_node.catalog.roles import ceiling, check_target_path
from aibrother_node.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from aibrother_node.content.digest import Digest
    from aibrother_node.store.disk import Disk

_VERSIONED: Final = re.compile(r"([1-9][0-9]{0,14})\.([a-z0-9-]+)\.json", re.ASCII)
_DOCUMENT: Final = re.compile(r"([0-9a-f]{64})\.(.+)", re.ASCII)
_DOCUMENT_FOLDERS: Final = ("models", "staging")


class CatalogFiles:
    """One catalog's folder.

    Attributes:
        folder: holds `metadata/` and `targets/`, which are served, and `aside/`, which nobody looks at.
    """

    def __init__(self, folder: Path, disk: Disk) -> None:
        self.folder = folder
        self.metadata = folder / "metadata"
        self.targets = folder / "targets"
        self._aside = folder / "aside"
        self._disk = disk

    def make(self) -> None:
        """Make what is missing of the folders; they are durable when this returns."""
        for folder in (self.folder, self.metadata, self.targets, self._aside):
            if not folder.is_dir():
                self._disk.make_folder(folder)
        for name in _DOCUMENT_FOLDERS:
            if not (self.targets / name).is_dir():
                self._disk.make_folder(self.targets / name)
        for folder in (self.targets, self.folder, self.folder.parent):
            self._disk.sync_folder(folder)

    def role(self, role: str, version: int) -> Path:
        """Where a role's metadata of one version lies."""
        return self.metadata / f"{version}.{role}.json"

    @property
    def timestamp(self) -> Path:
        """The only file that is ever replaced."""
        return self.metadata / "timestamp.json"

    def document(self, path: str, digest: Digest) -> Path:
        """Where a document target lies: its name prefixed with its hash, as clients of consistent snapshots ask.

        Raises:
            InvalidInput: no file may lie at such a path.
        """
        parent, slash, name = check_target_path(path).rpartition("/")
        if slash and parent not in _DOCUMENT_FOLDERS:
            raise InvalidInput(f"there are no documents under {parent!r}")
        return self.targets / parent / f"{digest.hex}.{name}"

    def read_role(self, path: Path, role: str) -> bytes:
        """Read a role's file, which is at most as large as clients allow.

        Raises:
            NotFound: there is none.
            InvalidInput: it is too large.
        """
        return self.read(path, ceiling(role))

    def read(self, path: Path, limit: int) -> bytes:
        """Read a file of at most `limit` bytes; errors as in `read_role`."""
        try:
            with path.open("rb") as file:
                data = file.read(limit + 1)
        except FileNotFoundError:
            raise NotFound(f"no file {path}") from None
        if len(data) > limit:
            raise InvalidInput(f"{path} is larger than {limit} bytes")
        return data

    def numbered(self) -> Iterator[tuple[str, int, Path]]:
        """Every versioned metadata file: role, version, path; in no order."""
        for path in self.metadata.iterdir():
            if found := _VERSIONED.fullmatch(path.name):
                yield found[2], int(found[1]), path

    def highest(self) -> dict[str, int]:
        """The highest version of each role that a file has, reached from the timestamp or not."""
        taken: dict[str, int] = {}
        for role, version, _ in self.numbered():
            taken[role] = max(version, taken.get(role, 0))
        return taken

    def documents(self) -> Iterator[tuple[str, str, Path]]:
        """Every document file: target path, hex digits of its hash, path; in no order."""
        for parent in ("", *_DOCUMENT_FOLDERS):
            for path in (self.targets / parent).iterdir():
                if found := _DOCUMENT.fullmatch(path.name):
                    yield f"{parent}/{found[2]}" if parent else found[2], found[1], path

    def write(self, files: Iterable[tuple[Path, bytes]], *, replace: bool = False) -> None:
        """Put files in place, in this order; all of them are durable when this returns.

        All are written and synchronised aside before the first gets its name. A file that is there with the same bytes
        is only made durable: an interrupted run may have left it before it came to that.

        Args:
            files: paths and bytes.
            replace: let a versioned file have other bytes than it had. Who signs never does; who follows takes what the
                signer says now, though an old signer gave the same number to something else.

        Raises:
            InvalidInput: a versioned file has this name and other bytes; nothing was renamed.
        """
        if not self._aside.is_dir():
            self._disk.make_folder(self._aside)
        for left in self._aside.iterdir():
            self._disk.unlink(left)
        folders: dict[Path, None] = {}
        renames: list[tuple[Path, Path]] = []
        for number, (path, data) in enumerate(files):
            folders[path.parent] = None
            if path != self.timestamp and path.exists():
                if path.stat().st_size == len(data) and path.read_bytes() == data:
                    continue
                if not replace:
                    raise InvalidInput(f"{path} is there already, with other bytes")
            aside = self._aside / f"{number}-{path.name}"
            with self._disk.create(aside, 0o644) as file:
                file.write_at(data, 0)
                file.fsync()
            renames.append((aside, path))
        for aside, path in renames:
            self._disk.rename(aside, path)
        for folder in folders:
            self._disk.sync_folder(folder)

    def remove(self, paths: Iterable[Path]) -> None:
        """Remove files that nobody needs; what a crash leaves of them is removed the next time."""
        for path in paths:
            self._disk.unlink(path)
