"""Uploading files to a node elsewhere, resumably: the node knows how far it is, whatever became of either side.

    read and hash the file → ask how far the upload is → send what is missing, in pieces → until it is stored

What breaks a connection costs what was in flight. A failure after which more has come than before counts for nothing;
without any progress it goes on for `PATIENCE` seconds.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from aibrother_node.content import chunks
from aibrother_node.errors import Conflict, DiskFull, InvalidInput, Refused, Temporary, VerificationFailed
from aibrother_node.store.hashing import hash_file
from aibrother_node.store.incoming import Cut, build
from aibrother_tools.storing import StoredFile

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from aibrother_node.content.digest import Digest
    from aibrother_tools.admin_node import AdminNode, Answered

PIECE: Final = 64 << 20
"""Bytes of a request: what a proxy that buffers requests would lose with a connection."""
PATIENCE: Final = 300.0
"""Seconds without any progress after which it is given up."""
_BLOCK: Final = 1 << 20
_TIMEOUT: Final = 60.0  # seconds for each wait for the node
_SLOWEST: Final = 30.0  # seconds between two tries, at most


class LocalFile:
    """A file that is to be uploaded, read once; open while its context is entered.

    Attributes:
        path: where it is.
        digest, size: what it is.
        manifest, pieces: the digests of its chunk manifests, which its entry names.
    """

    def __init__(self, path: Path, before: os.stat_result, digest: Digest, manifest: Digest, pieces: Digest) -> None:
        """Args: as `read` finds them, which is what callers want."""
        self.path = path
        self.digest = digest
        self.size = before.st_size
        self.manifest = manifest
        self.pieces = pieces
        self._before = before
        self._fd = -1

    @classmethod
    def read(cls, path: Path, progress: Callable[[int], None]) -> Self:
        """Read a file and hash it.

        Args:
            path: of a regular file.
            progress: called with the bytes read since its last call.

        Raises:
            InvalidInput: it isn't a regular file, or it changed meanwhile.
        """
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                raise InvalidInput(f"{path} is not a regular file")
            size = before.st_size
            cut = Cut.of(fd, size, pieces=True)
            hashes = hash_file(fd, size, cut.lengths, also=cut.also, progress=progress)
            after = os.fstat(fd)
        finally:
            os.close(fd)
        manifest = pieces = build(hashes, size, cut.chunker, cut.lengths)
        if cut.also is not None and hashes.also is not None:
            pieces = chunks.ChunkManifest(hashes.whole, size, chunks.FIXED_1, tuple(cut.also), *hashes.also)
        found = cls(path, before, hashes.whole, manifest.digest(), pieces.digest())
        found._compare(after)
        return found

    def read_at(self, length: int, offset: int) -> bytes:
        """Bytes of it, no more than `length`.

        Raises:
            InvalidInput: it became shorter.
        """
        data = os.pread(self._fd, length, offset)
        if length and not data:
            raise InvalidInput(f"{self.path} became shorter while it was published")
        return data

    def check_unchanged(self) -> None:
        """Make sure that it is what was read.

        Raises:
            InvalidInput: it changed.
        """
        self._compare(os.fstat(self._fd))

    def stored(self) -> StoredFile:
        """The file as a store has it."""
        return StoredFile(self.digest, self.size, self.manifest, self.pieces, was_there=False)

    def __enter__(self) -> Self:
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.check_unchanged()
        except InvalidInput:
            os.close(self._fd)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def _compare(self, after: os.stat_result) -> None:
        if any(getattr(after, name) != getattr(self._before, name) for name in ("st_size", "st_mtime_ns", "st_ino")):
            raise InvalidInput(f"{self.path} changed while it was published; nothing was published")


@dataclass(frozen=True, slots=True)
class _Position:
    """How far an upload is.

    Attributes:
        offset: bytes that the node has.
        complete: whether it has made a blob of them.
    """

    offset: int
    complete: bool


class Uploader:
    """Uploads files to one node.

    Args:
        node: its admin API.
        rng: jitter.
        patience: seconds without progress.
        piece: bytes of a request.
    """

    def __init__(self, node: AdminNode, rng: random.Random, *, patience: float = PATIENCE, piece: int = PIECE) -> None:
        self._node = node
        self._rng = rng
        self._patience = patience
        self._piece = piece

    def upload(self, file: LocalFile, progress: Callable[[int], None]) -> bool:
        """Have a file stored and leased there; when this returns, it is.

        Args:
            file: it, open.
            progress: called with the bytes by which it has come further; negative where some were lost on the way.

        Returns:
            Whether it was there already.

        Raises:
            Refused: the token is not good for this.
            VerificationFailed: what has come there is something else; nothing of it was kept.
            DiskFull: there is no room there.
            Temporary: there was no progress for too long.
            InvalidInput: the file changed.
        """
        run = _Run(self._node, file, progress, self._piece)
        furthest, tries = -1, 0
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return run.once()
            except DiskFull:
                raise
            except (Temporary, Conflict) as error:
                if run.acknowledged > furthest:
                    furthest, tries = run.acknowledged, 0
                    deadline = time.monotonic() + self._patience
                if time.monotonic() >= deadline:
                    raise Temporary(f"{file.path.name}: no progress for {self._patience:g} s: {error}") from error
                time.sleep(self._pause(tries, error))
                tries += 1

    def _pause(self, tries: int, error: Exception) -> float:
        pause: float = min(_SLOWEST, 0.5 * 2 ** min(tries, 10)) * self._rng.uniform(0.5, 1.0)
        asked: float | None = getattr(error, "retry_after", None)
        return pause if asked is None else min(max(pause, asked * self._rng.uniform(1.0, 1.2)), _SLOWEST)


class _Run:
    """One upload, over as many connections as it takes.

    Attributes:
        acknowledged: bytes that the node said it has.
    """

    def __init__(self, node: AdminNode, file: LocalFile, progress: Callable[[int], None], piece: int) -> None:
        self._node = node
        self._file = file
        self._progress = progress
        self._piece = piece
        self._path = f"/uploads/{file.digest}"
        self._shown = 0
        self._sent = False
        self.acknowledged = 0

    def once(self) -> bool:
        """Ask how far it is, and go on until it is stored or something fails."""
        position = self._ask()
        while not position.complete:
            position = self._send(position.offset)
        return not self._sent

    def _ask(self) -> _Position:
        answered = self._node.exchange("HEAD", self._path, timeout=_TIMEOUT)
        if answered.status == 404:
            return self._at(0)
        if answered.status in (401, 403):  # the answer to HEAD has no words
            raise Refused("the node refuses uploads with this token: it takes one with the scope publish")
        if answered.status >= 300:
            raise answered.error(f"HEAD {self._path}")
        return self._read(answered)

    def _send(self, offset: int) -> _Position:
        size = self._file.size
        self._file.check_unchanged()
        stop = min(offset + self._piece, size)
        fields = {"Content-Type": "application/octet-stream", "Content-Length": str(stop - offset)}
        fields["Content-Range"] = f"bytes {offset}-{stop - 1}/{size}" if stop > offset else f"bytes */{size}"
        self._sent = True
        answered = self._node.exchange(
            "PUT", self._path, self._body(offset, stop) if stop > offset else None, fields, timeout=_TIMEOUT
        )
        self._file.check_unchanged()
        if answered.status >= 300:
            raise answered.error(f"PUT {self._path}")
        position = self._read(answered)
        if position.offset < stop:
            raise Temporary(f"{stop} bytes were sent, and the node has {position.offset}", retry_after=0)
        if position.complete:
            self._check(answered)
        return position

    def _body(self, start: int, stop: int) -> Iterator[bytes]:
        while start < stop:
            data = self._file.read_at(min(_BLOCK, stop - start), start)
            start += len(data)
            yield data
            self._show(start)

    def _read(self, answered: Answered) -> _Position:
        offset, total = answered.headers.get("Upload-Offset", ""), answered.headers.get("Upload-Length", "")
        if not (offset.isdecimal() and total.isdecimal()):
            raise Temporary("the node doesn't say how far the upload is: is this its control plane?")
        if int(total) != self._file.size or int(offset) > self._file.size:
            # Somebody began it with a total that no file of this digest has: it could only fail.
            self._node.exchange("DELETE", self._path, timeout=_TIMEOUT)
            raise Temporary(f"the upload of {self._file.digest} was begun there with {total} bytes in all")
        self.acknowledged = max(self.acknowledged, int(offset))
        return self._at(int(offset), complete=answered.headers.get("Upload-Complete") == "?1")

    def _at(self, offset: int, *, complete: bool = False) -> _Position:
        self._show(offset)
        return _Position(offset, complete)

    def _show(self, offset: int) -> None:
        self._progress(offset - self._shown)
        self._shown = offset

    def _check(self, answered: Answered) -> None:
        """Make sure that the node has cut the file as we did: its entry names the manifests."""
        document = answered.document
        said = [document.get(name) for name in ("manifest", "pieces")] if isinstance(document, dict) else [None]
        if None not in said and said != [str(self._file.manifest), str(self._file.pieces)]:
            raise VerificationFailed(
                f"the node made other manifests of {self._file.path.name}: {said}",
                expected=str(self._file.manifest),
                actual=str(said[0]),
            )
