"""Content on its way into the store: written aside, hashed, made durable, then handed over.

`incoming/<id>/` holds `data`, `manifest` and, once both are durable and their digests known, `request.json`. A folder
with a request is complete: whoever opens the store next checks it and takes it in. A folder without one is debris, once
its writer is gone (it holds an flock on the folder while it lives).

Staging needs no right to change the store, so that copying 50 GB keeps nobody else waiting; only the hand-over does.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from aibrother_node.content import chunks
from aibrother_node.content.digest import Digest
from aibrother_node.errors import DiskFull, InvalidInput, NotFound, Refused
from aibrother_node.store.hashing import Hashes, hash_file
from aibrother_node.store.room import check_max_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from aibrother_node.store.disk import Disk
    from aibrother_node.store.layout import Layout

UPLOAD_PREFIX: Final = "upload-"
"""How the folders of uploads in progress begin (uploads.py): those are debris only once nothing comes any more."""
_REQUEST_CEILING: Final = 16 << 10


@dataclass(frozen=True, slots=True)
class Request:
    """What `request.json` asks of the store.

    Attributes:
        digest, size: of `data`.
        manifest: digest of `manifest`.
        pin: the reason of the pin that goes with it, or None.
        pieces: digest of the `fixed/1` manifest, where one is wanted: of `pieces`, or of `manifest` if that is one.
        lease: who holds the lease that goes with it, or None.
    """

    digest: Digest
    size: int
    manifest: Digest
    pin: str | None
    pieces: Digest | None = None
    lease: str | None = None

    def encode(self) -> bytes:
        return json.dumps(
            {
                "digest": str(self.digest),
                "size": self.size,
                "manifest": str(self.manifest),
                "pin": self.pin,
                "pieces": None if self.pieces is None else str(self.pieces),
                "lease": self.lease,
            }
        ).encode()

    @classmethod
    def decode(cls, data: bytes) -> Request:
        """Read a request.

        Raises:
            InvalidInput: it is none.
        """
        try:
            fields = json.loads(data)
            pieces = fields.get("pieces")
            request = cls(
                Digest.parse(fields["digest"]),
                fields["size"],
                Digest.parse(fields["manifest"]),
                fields["pin"],
                None if pieces is None else Digest.parse(pieces),
                fields.get("lease"),
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InvalidInput(f"not a request: {error}") from None
        texts = all(isinstance(fields.get(key), str | None) for key in ("pin", "lease"))
        if type(request.size) is not int or request.size < 0 or not texts:
            raise InvalidInput("not a request: wrong types")
        return request


class Staged:
    """One folder below `incoming/`, held by this process until it is closed."""

    def __init__(self, folder: Path, fd: int) -> None:
        self.folder = folder
        self._fd = fd

    @classmethod
    def create(cls, layout: Layout, disk: Disk) -> Staged:
        """Make a new folder and hold it."""
        folder = layout.incoming / secrets.token_hex(8)
        disk.make_folder(folder, 0o700)
        held = cls.try_hold(folder)
        if held is None:
            raise Refused(f"{folder} was taken by another process")
        return held

    @classmethod
    def try_hold(cls, folder: Path) -> Staged | None:
        """Hold an existing folder; None where its writer lives or it is gone."""
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return None
        return cls(folder, fd)

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest"

    @property
    def pieces(self) -> Path:
        return self.folder / "pieces"

    @property
    def request_path(self) -> Path:
        return self.folder / "request.json"

    def request(self) -> Request | None:
        """What the folder asks for; None while it is incomplete.

        Raises:
            InvalidInput: its request can't be read.
        """
        try:
            with self.request_path.open("rb") as file:
                return Request.decode(file.read(_REQUEST_CEILING))
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """Let go of the folder, as it is."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Options:
    """How to take a file in.

    Attributes:
        how: `copy`; `link`, a reflink or nothing; `move`, which renames where that is safe and copies where not.
        pin: the reason of the pin, or None for no pin.
        reserve: bytes of the file system that are to stay free.
        pieces: make a `fixed/1` manifest too, for clients whose pieces all have one length (Metalink).
        lease: who takes a lease on it and on its manifests; None where a pin protects them.
        max_size: bytes that blobs and fills may take in all; None for what the file system has.
    """

    how: str
    pin: str | None
    reserve: int
    pieces: bool = False
    lease: str | None = None
    max_size: int | None = None


def read_at(fd: int) -> Callable[[int, int], bytes]:
    """A reader of `length` bytes at `offset` of an open file, as the pure readers take it; short at the end."""

    def read(offset: int, length: int) -> bytes:
        pieces = []
        while length > 0 and (piece := os.pread(fd, length, offset)):
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return b"".join(pieces)

    return read


def stage(
    layout: Layout, disk: Disk, source: Path, options: Options, progress: Callable[[int], None] | None = None
) -> tuple[Staged, Request]:
    """Bring a regular file to where the store can take it over, durable and hashed.

    The source is never changed but by `move`, and then only once its bytes are known to be right and durable.

    Returns:
        The folder, held, and what it asks for. The caller closes it.

    Raises:
        NotFound: no such file.
        InvalidInput: not a regular file, or it changed while it was read.
        Refused: `link` where the file system can't.
        DiskFull: it would eat into the reserve, or be beyond the largest size.
    """
    fd = _open_source(source)
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise InvalidInput(f"{source} is not a regular file")
        check_max_size(layout, str(source), before.st_size, options.max_size)
        rename = options.how == "move" and _take_lease(fd, before, layout)
        if not rename and options.how != "link":
            _check_room(layout, disk, source, before.st_size, options.reserve)
        staged = Staged.create(layout, disk)
        try:
            request = _fill(staged, disk, fd, before, options, rename=rename, progress=progress)
            _check_unchanged(fd, before, source)
            if rename:
                _check_lease(fd, source)
                announce(staged, disk, request)
                disk.rename(source, staged.data)  # after the request: a crash in between loses neither name
            else:
                announce(staged, disk, request)
        except BaseException:
            if not (rename and staged.data.exists()):
                disk.remove_tree(staged.folder)
            staged.close()
            raise
        return staged, request
    finally:
        os.close(fd)


def digest_only(source: Path) -> Digest:
    """The digest of a file, with nothing written: to see whether a file for which there is no room is here already."""
    fd = _open_source(source)
    try:
        size = os.fstat(fd).st_size
        return hash_file(fd, size, chunks.fixed_lengths(size)).whole
    finally:
        os.close(fd)


def _open_source(source: Path) -> int:
    try:
        # non-blocking, so that a FIFO is refused below instead of waiting for its writer
        return os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFound(f"no such file: {source}") from None
    except PermissionError:
        raise Refused(f"not readable: {source}") from None


def _check_room(layout: Layout, disk: Disk, source: Path, size: int, reserve: int) -> None:
    free = disk.free_bytes(layout.incoming)
    if size + reserve > free:
        raise DiskFull(
            f"{source} has {size} bytes; {free} are free, of which {reserve} are kept in reserve: make room first"
        )


def _fill(
    staged: Staged,
    disk: Disk,
    fd: int,
    source: os.stat_result,
    options: Options,
    *,
    rename: bool,
    progress: Callable[[int], None] | None,
) -> Request:
    size = source.st_size
    if rename:
        cut = Cut.of(fd, size, pieces=options.pieces)
        hashes = hash_file(fd, size, cut.lengths, also=cut.also, progress=progress)
        os.fsync(fd)
    elif options.how == "link":
        with disk.clone(fd, staged.data) as file:
            cut = Cut.of(file.fd, size, pieces=options.pieces)
            hashes = hash_file(file.fd, size, cut.lengths, also=cut.also, progress=progress)
            file.fsync()
    else:
        cut = Cut.of(fd, size, pieces=options.pieces)
        with disk.create(staged.data) as file:
            file.allocate(size)
            hashes = hash_file(fd, size, cut.lengths, also=cut.also, copy_to=file, progress=progress)
            file.fsync()
    manifest, pieces = write_manifests(staged, disk, cut, hashes)
    return Request(hashes.whole, size, manifest, options.pin, pieces, options.lease)


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a file is cut.

    Attributes:
        size: of the file in bytes.
        chunker, lengths: by the best chunker for it.
        pieces: whether `fixed/1` is wanted as well.
    """

    size: int
    chunker: str
    lengths: Sequence[int]
    pieces: bool

    @classmethod
    def of(cls, fd: int, size: int, *, pieces: bool) -> Cut:
        """Cut an open file."""
        chunker, lengths = chunks.cut(read_at(fd), size)
        return cls(size, chunker, lengths, pieces)

    @property
    def also(self) -> Sequence[int] | None:
        """The lengths of a second cut; None where there is none, or the first is `fixed/1` already."""
        return chunks.fixed_lengths(self.size) if self.pieces and self.chunker != chunks.FIXED_1 else None


def write_manifests(staged: Staged, disk: Disk, cut: Cut, hashes: Hashes) -> tuple[Digest, Digest | None]:
    """Write the manifests of staged data beside it, durably.

    Returns:
        The digests of the manifest, and of the `fixed/1` manifest where it is wanted.
    """
    manifest = build(hashes, cut.size, cut.chunker, cut.lengths)
    _write_new(disk, staged.manifest, manifest.encode())
    also = cut.also
    if also is None or hashes.also is None:
        return manifest.digest(), manifest.digest() if cut.pieces else None
    pieces = chunks.ChunkManifest(hashes.whole, cut.size, chunks.FIXED_1, tuple(also), *hashes.also)
    _write_new(disk, staged.pieces, pieces.encode())
    return manifest.digest(), pieces.digest()


def _write_new(disk: Disk, path: Path, data: bytes) -> None:
    disk.unlink(path)
    with disk.create(path) as file:
        file.write_at(data, 0)
        file.fsync()


def build(hashes: Hashes, size: int, chunker: str, lengths: Sequence[int]) -> chunks.ChunkManifest:
    """The manifest of what one pass found."""
    return chunks.ChunkManifest(hashes.whole, size, chunker, tuple(lengths), hashes.sha256, hashes.xxh3)


def announce(staged: Staged, disk: Disk, request: Request) -> None:
    """Write the request, durably: from now on the folder is complete."""
    disk.write_file(staged.request_path, request.encode(), aside=staged.folder / "request.new")
    disk.sync_folder(staged.folder.parent)


def _check_unchanged(fd: int, before: os.stat_result, source: Path) -> None:
    after = os.fstat(fd)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise InvalidInput(f"{source} changed while it was read; nothing was stored")


def _take_lease(fd: int, source: os.stat_result, layout: Layout) -> bool:
    """Whether the file may be renamed into the store: nobody can still write to it through what they have open.

    A read lease (fcntl(2), F_SETLEASE) is given only when no descriptor is open for writing, and is broken when one is
    opened; a second hard link or another owner would be a way around it.
    """
    if source.st_nlink != 1 or source.st_uid != os.geteuid() or source.st_dev != layout.incoming.stat().st_dev:
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}:
            return False
        raise
    return True


def _check_lease(fd: int, source: Path) -> None:
    if fcntl.fcntl(fd, fcntl.F_GETLEASE) != fcntl.F_RDLCK:
        raise InvalidInput(f"{source} was opened for writing while it was read; nothing was stored")
