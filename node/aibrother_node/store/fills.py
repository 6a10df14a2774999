"""Fills: blobs of which only some chunks are here, in `fills/sha256/<hex>/`.

`data`      the blob's bytes, sparse; each where it belongs
`have`      one bit a chunk, the lowest of the first byte first: set once the chunk is verified and on stable storage
`manifest`  the chunk manifest under which the bits count, as its own blob holds it
`state`     why it is here and whether its chunks may be served; small JSON

Two ways lead here. A blob that is being fetched, and a blob that was whole until a bad chunk was found in it: its file
is renamed to `data`, with that bit cleared. A folder without `data` is debris: of a demotion that didn't come to its
rename (the blob is whole then, as far as anybody knows, and the next scrub finds it again), or of a fill that ended.

Whoever reads needs no lock: `data` is one inode for as long as the fill lives, and a bit is only ever set for bytes
that stay as they are. A bit that is cleared is first withheld (withheld.py).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from aibrother_node.content.chunks import ChunkManifest
from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput, NotFound, Temporary, VerificationFailed
from aibrother_node.store.open_blob import OpenBlob

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from aibrother_node.store.disk import Disk
    from aibrother_node.store.layout import Layout

_STATE_CEILING: Final = 64 << 10
_MANIFEST_CEILING: Final = 64 << 20
_HAVE_CEILING: Final = 1 << 20
_YEAR_9999: Final = 253_370_764_800.0
_RETRY_AFTER: Final = 30.0

Why = Literal["damaged", "filling"]


class Incomplete(Temporary):
    """Of this blob, some bytes that were asked for are not here now."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after=_RETRY_AFTER)


@dataclass(frozen=True, slots=True)
class FillState:
    """Why a fill is here.

    Attributes:
        why: `damaged`: it was whole, and bad chunks were found; `filling`: it is being fetched.
        since: seconds since 1970.
        served: whether chunks whose bit is set may be served: the manifest is the catalog's, or the blob was whole here
            under it (invariant 4).
        described: of a manifest that is damaged: the digest of the blob that it describes, from which it can be made.
        reason: what was found, for people.
        certain: whether `manifest` is the blob's; else it was made up, of one chunk, since the blob's name is its hash.
    """

    why: Why
    since: float
    served: bool = True
    described: str | None = None
    reason: str = ""
    certain: bool = True

    def encode(self) -> bytes:
        """As it is written."""
        return json.dumps({"v": 1, **asdict(self)}).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> FillState:
        """Read what was written.

        Raises:
            InvalidInput: it is something else.
        """
        try:
            fields: Any = json.loads(data)
            if not isinstance(fields, dict) or fields.get("v") != 1 or fields.get("why") not in ("damaged", "filling"):
                raise ValueError("not of version 1")
            described, since = fields.get("described"), float(fields["since"])
            if not 0 <= since <= _YEAR_9999:
                raise ValueError("not a time")
            return cls(
                fields["why"],
                since,
                fields.get("served") is True,
                None if described is None else str(Digest.parse(described)),
                str(fields.get("reason", "")),
                fields.get("certain") is not False,
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidInput) as error:
            raise InvalidInput(f"not a fill's state: {error}") from error


class Have:
    """Which chunks are there, one bit each.

    Args:
        count: of chunks.
        data: the bits as they are written; what is missing of them is not set.
    """

    def __init__(self, count: int, data: bytes = b"") -> None:
        length = (count + 7) // 8
        self.count = count
        self._bits = bytearray(data[:length].ljust(length, b"\0"))
        if count % 8 and length:
            self._bits[-1] &= (1 << count % 8) - 1

    @classmethod
    def full(cls, count: int) -> Have:
        """All of them."""
        return cls(count, b"\xff" * ((count + 7) // 8))

    def __contains__(self, index: int) -> bool:
        """Whether a chunk is there."""
        return 0 <= index < self.count and bool(self._bits[index >> 3] >> (index & 7) & 1)

    def set(self, index: int) -> None:
        """It is there from now on."""
        self._bits[index >> 3] |= 1 << (index & 7)

    def clear(self, index: int) -> None:
        """It isn't any more."""
        self._bits[index >> 3] &= ~(1 << (index & 7))

    def missing(self) -> Iterator[int]:
        """The chunks that are not there, in order."""
        return (index for index in range(self.count) if index not in self)

    def encode(self) -> bytes:
        """As it is written, and told to peers."""
        return bytes(self._bits)


class OpenFill(OpenBlob):
    """An open fill, as a reader sees it.

    Attributes:
        digest, fd, size, inode: as of a whole blob; `size` is that of the blob, whatever the file's.
        manifest: under which the chunks are verified.
        have: the chunks that are there.
        state: why it is a fill.
    """

    __slots__ = ("have", "manifest", "state")

    def __init__(self, fd: int, inode: int, manifest: ChunkManifest, have: Have, state: FillState) -> None:
        super().__init__(manifest.blob, fd, manifest.size, inode)
        self.manifest = manifest
        self.have = have
        self.state = state

    @property
    def is_whole(self) -> bool:
        """It isn't."""
        return False

    def holds(self, offset: int, length: int) -> bool:
        """Whether all of these bytes are here and may be served."""
        if not self.state.served:
            return False
        return all(index in self.have for index in self.manifest.chunks_covering(offset, offset + length))

    def missing(self) -> list[tuple[int, int]]:
        """The bytes that are not here, as (start, stop)."""
        offsets, lengths = self.manifest.offsets, self.manifest.lengths
        return [(offsets[index], offsets[index] + lengths[index]) for index in self.have.missing()]


def open_fill(layout: Layout, digest: Digest) -> OpenFill:
    """Open a fill for reading. Blocks.

    Raises:
        NotFound: there is none, or one that can't be used.
    """
    folder = layout.fill(digest)
    try:
        # the data first: what is read of the other files after that is no older than what the data is
        fd = os.open(folder / "data", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise NotFound(f"nothing of {digest} is here") from None
        raise
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise NotFound(f"nothing of {digest} is here")
        state = FillState.decode(_read(folder / "state", _STATE_CEILING))
        manifest = ChunkManifest.decode(_read(folder / "manifest", _MANIFEST_CEILING), max_bytes=_MANIFEST_CEILING)
        if manifest.blob != digest:
            raise NotFound(f"the fill of {digest} has the manifest of another blob")
        have = Have(len(manifest), _read(folder / "have", _HAVE_CEILING))
        return OpenFill(fd, found.st_ino, manifest, have, state)
    except (InvalidInput, FileNotFoundError, NotADirectoryError) as error:
        os.close(fd)
        raise NotFound(f"the fill of {digest} can't be used: {error}") from error
    except BaseException:
        os.close(fd)
        raise


def fills_of(layout: Layout) -> list[Digest]:
    """All fills that have data, in order. Blocks."""
    found = []
    with os.scandir(layout.fills) as entries:
        for entry in entries:
            try:
                digest = Digest.from_hex(entry.name)
            except InvalidInput:
                continue
            if (layout.fill(digest) / "data").exists():
                found.append(digest)
    return sorted(found)


def describe_fills(layout: Layout) -> list[dict[str, Any]]:
    """The fills as `status` shows them: digest, state, size, and how many of the chunks are there. Blocks."""
    shown = []
    for digest in fills_of(layout):
        try:
            fill = open_fill(layout, digest)
        except NotFound:
            continue  # it has just ended, or `verify` will say what is wrong with it
        fill.close()
        missing = list(fill.have.missing())
        shown.append(
            {
                "digest": str(digest),
                "state": fill.state.why,
                "since": f"{datetime.fromtimestamp(fill.state.since, UTC):%Y-%m-%dT%H:%M:%SZ}",
                "size": fill.size,
                "chunks": len(fill.manifest),
                "missing_chunks": len(missing),
                "missing_bytes": sum(fill.manifest.lengths[index] for index in missing),
                "reason": fill.state.reason,
            }
        )
    return shown


def write_fill(disk: Disk, folder: Path, manifest: ChunkManifest, have: Have, state: FillState) -> None:
    """Make a fill's folder with all but its data, durably; what stands there of an interrupted attempt goes.

    The data comes last, by a rename or by being created: until then the folder is debris.
    """
    disk.remove_tree(folder)
    disk.make_folder(folder)
    for name, data in (("manifest", manifest.encode()), ("have", have.encode()), ("state", state.encode())):
        with disk.create(folder / name, 0o644) as file:
            file.write_at(data, 0)
            file.fsync()
    disk.sync_folder(folder)
    disk.sync_folder(folder.parent)


def write_have(disk: Disk, folder: Path, have: Have) -> None:
    """Make it durable which chunks are there; their data has to be so before."""
    disk.write_file(folder / "have", have.encode(), aside=folder / "have.new")


def write_state(disk: Disk, folder: Path, state: FillState) -> None:
    """Change why it is here."""
    disk.write_file(folder / "state", state.encode(), aside=folder / "state.new")


def put_chunks(disk: Disk, fill: OpenFill, folder: Path, chunks: Iterable[tuple[int, bytes]]) -> None:
    """Write verified chunks into a fill: data, fdatasync, then the bits.

    Args:
        disk: the file system.
        fill: as it is now; its `have` is changed, and written.
        folder: of the fill.
        chunks: (index, bytes) pairs.

    Raises:
        VerificationFailed: bytes are not the chunk's; nothing of them was written.
        DiskFull: there is no room.
    """
    done = []
    disk.set_mode(folder / "data", 0o600)
    with disk.reopen(folder / "data") as file:
        for index, data in chunks:
            chunk = fill.manifest.chunk(index)
            if len(data) != chunk.length or hashlib.sha256(data).digest() != chunk.sha256.raw:
                raise VerificationFailed(f"not chunk {index} of {fill.digest}", expected=str(chunk.sha256))
            file.write_at(data, chunk.offset)
            done.append(index)
        file.fsync()
    for index in done:
        fill.have.set(index)
    write_have(disk, folder, fill.have)


def _read(path: Path, ceiling: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(ceiling + 1)
    if len(data) > ceiling:
        raise InvalidInput(f"{path.name} is larger than any")
    return data
