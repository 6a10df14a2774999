"""One pass over one blob, chunk by chunk: is what the disk holds still what its name says?

XXH3-128 finds decay, and costs little. What it finds is read a second time, and counts only if the SHA-256 says so too.
Every few passes the SHA-256 of the whole is checked instead, which also finds what XXH3 can't.

A manifest that the catalog doesn't name is only somebody's word (invariant 4). So that one that lies can't take a good
blob out of service, what it calls bad is believed once the whole SHA-256 has turned out wrong; where it is right, the
manifest is the one that goes.

`check` is a generator: each step reads one chunk at most, in whatever thread takes it, and says what it found.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import xxhash

from aibrother_node.content.chunks import MAX_CHUNK

if TYPE_CHECKING:
    from collections.abc import Collection, Generator
    from typing import TypeVar

    from aibrother_node.content.chunks import Chunk, ChunkManifest
    from aibrother_node.content.digest import Digest
    from aibrother_node.store.scrubbing.direct import DirectFile

    _Result = TypeVar("_Result")

SHA_EVERY: Final = 4
"""Passes, or scrub intervals, after which a blob's whole SHA-256 is checked again."""


@dataclass(frozen=True, slots=True)
class BadChunk:
    """A chunk that isn't what it was.

    Attributes:
        index: in the manifest.
        offset, length: in bytes of the blob.
        reason: what was found, for people.
    """

    index: int
    offset: int
    length: int
    reason: str


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did.

    Attributes:
        size: bytes of the blob that are checked now and weren't before.
        read: bytes that were read.
        bad: chunks that are certainly bad, to be acted upon at once.
        urgent: something is wrong, and is being made sure of: don't wait.
    """

    size: int
    read: int
    bad: tuple[BadChunk, ...] = ()
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """How a blob is, at the end of a pass.

    Attributes:
        verdict: `sound`; `damaged`: its bad chunks were told of, and there may be none where bytes follow its end or
            no manifest says where it is bad; `lied`: the blob is whole, and its manifest isn't one of it.
        sha: the whole SHA-256 was found right.
        reason: for people.
    """

    verdict: Literal["sound", "damaged", "lied"]
    sha: bool = False
    reason: str = ""


def check(
    file: DirectFile,
    digest: Digest,
    manifest: ChunkManifest | None,
    *,
    sha: bool,
    named: bool,
    missing: Collection[int] = (),
) -> Generator[Step, None, Finding]:
    """Check a blob, or what there is of it.

    Args:
        file: its bytes.
        digest: its name.
        manifest: what it should consist of; None where there is none, and its whole SHA-256 is all there is.
        sha: check the whole SHA-256 too.
        named: the manifest is to be believed: the catalog names it.
        missing: chunks of a fill that are not there, and are not looked at.
    """
    if manifest is None:
        whole, reason = yield from _whole(file, urgent=False, counts=True)
        if whole == digest.raw and not reason:
            return Finding("sound", sha=True)
        return Finding("damaged", reason=reason or f"its {file.size} bytes have another SHA-256")
    running = hashlib.sha256() if sha and not missing else None
    suspects: list[BadChunk] = []
    found = 0
    for chunk in manifest:
        if chunk.index in missing:
            continue
        fault, certain = _fault(file, chunk, running)
        if fault is None:
            yield Step(chunk.length, chunk.length, urgent=bool(suspects))
            continue
        bad = BadChunk(chunk.index, chunk.offset, chunk.length, fault)
        if certain or named or found:
            running = running if not certain else None
            found += 1 + len(suspects)
            yield Step(chunk.length, chunk.length, bad=(*suspects, bad), urgent=True)
            suspects = []
            continue
        suspects.append(bad)
        yield Step(chunk.length, chunk.length, urgent=True)
        if running is None:
            whole, _ = yield from _whole(file, urgent=True, counts=False)
            if whole == digest.raw:
                return Finding("lied", sha=True, reason=f"calls chunk {bad.index} bad, and the blob is whole")
            found += 1
            yield Step(0, 0, bad=tuple(suspects), urgent=True)
            suspects = []
    if found:
        return Finding("damaged")
    if missing:
        return Finding("sound")
    fits = file.size == manifest.size
    if fits and not suspects and (running is None or running.digest() == digest.raw):
        return Finding("sound", sha=running is not None)
    if not (fits and named and running is None):
        whole, _ = yield from _whole(file, urgent=True, counts=False)
        if whole == digest.raw:
            lie = "" if fits and not suspects else "describes another blob than it says"
            return Finding("lied" if lie else "sound", sha=True, reason=lie)
    if suspects:
        yield Step(0, 0, bad=tuple(suspects), urgent=True)
        return Finding("damaged")
    if not fits:
        return Finding("damaged", reason=f"{file.size - manifest.size} bytes follow its end")
    return (yield from _search(file, manifest))


def _search(file: DirectFile, manifest: ChunkManifest) -> Generator[Step, None, Finding]:
    """The whole SHA-256 is wrong, and XXH3 says nothing: look for the chunk by its SHA-256."""
    found = 0
    for chunk in manifest:
        bad = None
        with file.read(chunk.offset, chunk.length) as view:
            if hashlib.sha256(view).digest() != chunk.sha256.raw:
                bad = BadChunk(chunk.index, chunk.offset, chunk.length, "its SHA-256 is wrong, and its XXH3 right")
        found += bad is not None
        yield Step(0, chunk.length, bad=() if bad is None else (bad,), urgent=True)
    reason = "" if found else "its SHA-256 is wrong, and its manifest calls each chunk right"
    return Finding("damaged", reason=reason)


def _fault(file: DirectFile, chunk: Chunk, running: hashlib._Hash | None) -> tuple[str | None, bool]:
    """What is wrong with a chunk, and whether that is certain whatever the manifest is worth."""
    fault: str | None = None
    for attempt in range(2):
        try:
            with file.read(chunk.offset, chunk.length) as view:
                if len(view) < chunk.length:
                    return f"the file ends {chunk.length - len(view)} bytes before its end", False
                # of the two, SHA-256 is what its name rests on
                right = xxhash.xxh3_128_digest(view) == chunk.xxh3 or hashlib.sha256(view).digest() == chunk.sha256.raw
                if running is not None and (right or attempt):
                    running.update(view)
                if right:
                    return None, False
                fault = "its SHA-256 is wrong"
        except OSError as error:
            fault = f"it can't be read: {error.strerror}"
            if attempt:
                return fault, True
    return fault, False


def _whole(file: DirectFile, *, urgent: bool, counts: bool) -> Generator[Step, None, tuple[bytes, str]]:
    """The SHA-256 of all bytes, and what kept them from being read."""
    whole = hashlib.sha256()
    offset = 0
    while offset < file.size:
        length = min(MAX_CHUNK, file.size - offset)
        try:
            with file.read(offset, length) as view:
                whole.update(view)
        except OSError as error:
            return b"", f"bytes {offset} to {offset + length - 1} can't be read: {error.strerror}"
        offset += length
        yield Step(length if counts else 0, length, urgent=urgent)
    return whole.digest(), ""


def whole_digest(file: DirectFile) -> Generator[Step, None, tuple[bytes, str]]:
    """The SHA-256 of a file, in steps, and what kept it from being read: for what was repaired."""
    return _whole(file, urgent=True, counts=False)


def bad_chunks(file: DirectFile, manifest: ChunkManifest) -> Generator[Step, None, list[int]]:
    """The chunks whose SHA-256 isn't what the manifest says, or that can't be read; in steps."""
    bad = []
    for chunk in manifest:
        try:
            with file.read(chunk.offset, chunk.length) as view:
                if hashlib.sha256(view).digest() != chunk.sha256.raw:
                    bad.append(chunk.index)
        except OSError:
            bad.append(chunk.index)
        yield Step(0, chunk.length, urgent=True)
    return bad


def drain(steps: Generator[Step, None, _Result]) -> _Result:
    """Take all steps at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return] # typeshed says Any
