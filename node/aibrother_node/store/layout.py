"""The data directory: its folders, its version, and the lock that makes one process its only writer."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from aibrother_node.errors import InvalidInput, NotFound, Temporary

if TYPE_CHECKING:
    from pathlib import Path

    from aibrother_node.content.digest import Digest
    from aibrother_node.store.disk import Disk

LAYOUT_VERSION: Final = 1
_FOLDERS: Final = (
    "blobs",
    "blobs/sha256",
    "fills",
    "fills/sha256",
    "incoming",
    "pins",
    "quarantine",
    "run",
    "tokens",
    "trust",
)
_PRIVATE: Final = frozenset({"incoming", "run", "quarantine", "tokens"})


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies below one data directory. Paths are only ever built from checked values."""

    root: Path

    @property
    def version(self) -> Path:
        return self.root / "VERSION"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs" / "sha256"

    @property
    def fills(self) -> Path:
        return self.root / "fills" / "sha256"

    @property
    def incoming(self) -> Path:
        return self.root / "incoming"

    @property
    def pins(self) -> Path:
        return self.root / "pins"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def catalog(self) -> Path:
        return self.root / "catalog"

    @property
    def trust(self) -> Path:
        return self.root / "trust"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def generation(self) -> Path:
        return self.run / "generation"

    @property
    def last_access(self) -> Path:
        return self.run / "last-access"

    @property
    def withheld(self) -> Path:
        return self.run / "withheld"

    @property
    def drained(self) -> Path:
        return self.root / "drained"

    @property
    def drain_flag(self) -> Path:
        return self.run / "draining"

    @property
    def metrics(self) -> Path:
        return self.run / "metrics"

    @property
    def fleet_view(self) -> Path:
        return self.run / "fleet.sqlite3"

    @property
    def fleet_generation(self) -> Path:
        return self.run / "fleet.generation"

    @property
    def tokens(self) -> Path:
        return self.root / "tokens"

    @property
    def index(self) -> Path:
        return self.root / "index.sqlite3"

    @property
    def node_key(self) -> Path:
        return self.root / "node.key"

    @property
    def record(self) -> Path:
        return self.root / "record.json"

    @property
    def node_toml(self) -> Path:
        return self.root / "node.toml"

    def blob(self, digest: Digest) -> Path:
        """The path of a whole blob."""
        return self.blobs / digest.hex

    def fill(self, digest: Digest) -> Path:
        """The folder of a blob of which only some chunks are here."""
        return self.fills / digest.hex

    def pin(self, digest: Digest) -> Path:
        """The path of a blob's pin."""
        return self.pins / digest.hex

    def create(self, disk: Disk) -> None:
        """Make what is missing of the folders and, last, the version file.

        Safe to run again after an interruption at any point: a directory without a VERSION counts as not yet made.
        """
        if not self.root.is_dir():
            self.root.mkdir(parents=True)
        for name in _FOLDERS:
            folder = self.root / name
            if not folder.is_dir():
                disk.make_folder(folder, 0o700 if name in _PRIVATE else 0o755)
        for folder in (self.root / "blobs", self.root / "fills", self.root):
            disk.sync_folder(folder)
        if not self.version.exists():
            disk.write_file(self.version, f"{LAYOUT_VERSION}\n".encode(), aside=self.incoming / "VERSION.new")

    def check_version(self) -> None:
        """Make sure that this program understands the directory.

        Raises:
            NotFound: there is no data directory here.
            InvalidInput: it was written by a newer program, or its version can't be read.
        """
        try:
            with self.version.open("rb") as file:
                text = file.read(64)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"no data directory at {self.root}: make one with `aibrother-node init`") from None
        try:
            version = int(text.decode("ascii"))
        except ValueError:
            raise InvalidInput(f"{self.version} holds no layout version: {text[:20]!r}") from None
        if version > LAYOUT_VERSION:
            raise InvalidInput(
                f"{self.root} has layout version {version}; this program knows {LAYOUT_VERSION}: use a newer one"
            )
        if version < 1:
            raise InvalidInput(f"{self.version}: there is no layout version {version}")


class DirectoryLock:
    """The right to change a data directory: an flock on the directory itself.

    It is held by this open file description, so it also lives in children that inherit the descriptor, ends with the
    last of them however they die, and leaves no file behind that could go stale.
    """

    def __init__(self, root: Path, fd: int) -> None:
        self.root = root
        self.fd = fd

    @classmethod
    def try_take(cls, root: Path) -> DirectoryLock | None:
        """Take the lock, or return None at once when another process has it.

        Raises:
            NotFound: there is no such directory.
        """
        try:
            fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"no data directory at {root}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno in {errno.EAGAIN, errno.EACCES}:
                return None
            raise
        return cls(root, fd)

    @classmethod
    def take(cls, root: Path, patience: float) -> DirectoryLock:
        """Take the lock, waiting at most `patience` seconds for another process to finish.

        Raises:
            Temporary: another process still has it.
        """
        deadline = time.monotonic() + patience
        while (lock := cls.try_take(root)) is None:
            if time.monotonic() >= deadline:
                raise Temporary(f"{root} is in use by another process (a running node or a command)")
            time.sleep(0.05)
        return lock

    @classmethod
    def inherit(cls, root: Path, fd: int) -> DirectoryLock:
        """Hold on to a lock whose descriptor came from the parent process."""
        os.set_inheritable(fd, False)
        return cls(root, fd)

    def release(self) -> None:
        """Let go; the lock ends when no other process inherited it."""
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
