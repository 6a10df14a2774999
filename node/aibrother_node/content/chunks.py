"""Chunks: where a blob is cut, and the manifest that names its pieces (docs/protocol.md).

Two chunkers. `fixed/1` cuts every 8 MiB. `gguf/1` cuts a GGUF file where its meaning changes, so that a new chat
template leaves the tokenizer's and the tensors' chunks as they were. Both are frozen: a changed rule takes a new name.

A manifest has one encoding. `ChunkManifest.decode` accepts nothing else, so that a manifest's digest names its meaning.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

import msgpack
import xxhash

from aibrother_node.content.cuts import FIXED_1, GGUF_1, MAX_CHUNK, MAX_CHUNKS, cut, fixed_lengths, gguf_lengths
from aibrother_node.content.digest import Digest
from aibrother_node.content.gguf import DEFAULT_LIMITS, read_header
from aibrother_node.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aibrother_node.content.gguf import GgufLimits, ReadAt

__all__ = [
    "FIXED_1",
    "GGUF_1",
    "MAX_CHUNK",
    "MAX_CHUNKS",
    "MAX_MANIFEST_BYTES",
    "Chunk",
    "ChunkManifest",
    "ManifestError",
    "build_manifest",
    "chunk_hashes",
    "cut",
    "fixed_lengths",
    "gguf_lengths",
]

MAX_MANIFEST_BYTES: Final = 16 * 1024 * 1024
"""Room for `MAX_CHUNKS` chunks, at most 53 bytes each."""

_KEYS: Final = ("v", "blob", "size", "chunker", "lengths", "sha256", "xxh3")
_SHA256_BYTES: Final = 32
_XXH3_BYTES: Final = 16


class ManifestError(InvalidInput):
    """The bytes or values are not a chunk manifest of version 1 in its one encoding."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk of a blob.

    Attributes:
        index: from 0.
        offset, length: in bytes of the blob.
        sha256: of its bytes; what trust rests on.
        xxh3: XXH3-128 of its bytes, canonical (big-endian), 16 bytes; against decay, not against people.
    """

    index: int
    offset: int
    length: int
    sha256: Digest
    xxh3: bytes


@dataclass(frozen=True, slots=True)
class ChunkManifest:
    """The list of a blob's chunks; it covers the blob exactly, else it can't be made.

    Attributes:
        blob: the blob's digest.
        size: its length in bytes; a blob of 0 bytes has no chunks.
        chunker: "gguf/1" or "fixed/1".
        lengths: of each chunk in bytes, 1 to `MAX_CHUNK`, summing to `size`.
        sha256: 32 bytes a chunk, one after another.
        xxh3: 16 bytes a chunk.
        offsets: where each chunk begins.

    Raises:
        ManifestError: on values that break these rules.
    """

    blob: Digest
    size: int
    chunker: str
    lengths: tuple[int, ...]
    sha256: bytes = field(repr=False)
    xxh3: bytes = field(repr=False)
    offsets: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if type(self.size) is not int or self.size < 0:
            raise ManifestError(f"the size is {self.size!r:.40}, not a count of bytes")
        if self.chunker not in (GGUF_1, FIXED_1):
            raise ManifestError(f"the chunker {self.chunker!r:.40} is not known")
        for length in self.lengths:
            if type(length) is not int or not 0 < length <= MAX_CHUNK:
                raise ManifestError(f"a chunk's length is {length!r:.40}, not 1 to {MAX_CHUNK}")
        offsets = tuple(accumulate(self.lengths, initial=0))
        if offsets[-1] != self.size:
            raise ManifestError(f"the chunks cover {offsets[-1]} bytes, the blob has {self.size}")
        for name, value, width in (("sha256", self.sha256, _SHA256_BYTES), ("xxh3", self.xxh3, _XXH3_BYTES)):
            if type(value) is not bytes or len(value) != width * len(self.lengths):
                raise ManifestError(f"{name} must have {width} bytes for each of the {len(self.lengths)} chunks")
        object.__setattr__(self, "offsets", offsets[:-1])

    def __len__(self) -> int:
        """Return the number of chunks."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks in order."""
        return map(self.chunk, range(len(self.lengths)))

    def chunk(self, index: int) -> Chunk:
        """Return one chunk.

        Raises:
            IndexError: for an index outside 0 to `len(self) - 1`.
        """
        if not 0 <= index < len(self.lengths):
            raise IndexError(f"chunk {index} of {len(self.lengths)}")
        return Chunk(
            index,
            self.offsets[index],
            self.lengths[index],
            Digest(self.sha256[_SHA256_BYTES * index : _SHA256_BYTES * (index + 1)]),
            self.xxh3[_XXH3_BYTES * index : _XXH3_BYTES * (index + 1)],
        )

    def chunks_covering(self, start: int, stop: int) -> range:
        """Return the indices of the chunks that hold any of the bytes from `start` up to, not including, `stop`.

        What lies outside the blob is left out; no bytes are held by no chunk.
        """
        start, stop = max(start, 0), min(stop, self.size)
        if start >= stop:
            return range(0)
        return range(bisect_right(self.offsets, start) - 1, bisect_left(self.offsets, stop))

    def encode(self) -> bytes:
        """Return the one encoding: a msgpack map in shortest form, keys in the order of docs/protocol.md."""
        packed: bytes = msgpack.packb(
            {
                "v": 1,
                "blob": self.blob.raw,
                "size": self.size,
                "chunker": self.chunker,
                "lengths": self.lengths,
                "sha256": self.sha256,
                "xxh3": self.xxh3,
            }
        )
        return packed

    @classmethod
    def decode(cls, data: bytes, *, max_bytes: int = MAX_MANIFEST_BYTES, max_chunks: int = MAX_CHUNKS) -> ChunkManifest:
        """Read a manifest's one encoding.

        Memory stays in proportion to `max_bytes`; nothing but flat values is ever built.

        Raises:
            ManifestError: for anything that `encode` would not have written, and for more than the given bytes or
                chunks.
        """
        if len(data) > max_bytes:
            raise ManifestError(f"a manifest of {len(data)} bytes is larger than the {max_bytes} allowed")
        try:
            fields = _unpack(data, max_chunks)
        except ManifestError:
            raise
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise ManifestError(f"not a chunk manifest: {type(error).__name__} {str(error)[:200]}") from error
        if fields["v"] != 1 or type(fields["v"]) is not int:
            raise ManifestError(f"a manifest of version {fields['v']!r:.40}, only 1 is known")
        if type(fields["blob"]) is not bytes or len(fields["blob"]) != _SHA256_BYTES:
            raise ManifestError("the blob's digest is not 32 bytes")
        manifest = cls(
            Digest(fields["blob"]),
            fields["size"],
            fields["chunker"],
            tuple(fields["lengths"]),
            fields["sha256"],
            fields["xxh3"],
        )
        if manifest.encode() != data:
            raise ManifestError("the manifest is not in its one encoding")
        return manifest

    def digest(self) -> Digest:
        """Return the digest under which the manifest itself is a blob."""
        return Digest(hashlib.sha256(self.encode()).digest())

    def to_json(self) -> dict[str, Any]:
        """Return the view for people, hashes in hex: `{v, blob, size, chunker, chunks}`.

        A chunk is `{offset, length, sha256, xxh3}`.
        """
        return {
            "v": 1,
            "blob": str(self.blob),
            "size": self.size,
            "chunker": self.chunker,
            "chunks": [
                {"offset": chunk.offset, "length": chunk.length, "sha256": chunk.sha256.hex, "xxh3": chunk.xxh3.hex()}
                for chunk in self
            ],
        }


def chunk_hashes(view: bytes | bytearray | memoryview) -> tuple[bytes, bytes]:
    """Return SHA-256 (32 bytes) and XXH3-128 (16 bytes, canonical) of a chunk's bytes."""
    return hashlib.sha256(view).digest(), xxhash.xxh3_128_digest(view)


def build_manifest(
    read_at: ReadAt, size: int, *, chunker: str | None = None, limits: GgufLimits = DEFAULT_LIMITS
) -> ChunkManifest:
    """Cut and hash a whole file chunk by chunk: the reference that faster paths must agree with.

    `chunker` None lets `cut` decide.

    Raises:
        GgufError: `chunker` is "gguf/1" and the file is not one.
        InvalidInput: for another chunker's name, or when `read_at` answers with too few or too many bytes.
    """
    if chunker is None:
        chunker, lengths = cut(read_at, size, limits)
    elif chunker == GGUF_1:
        lengths = gguf_lengths(read_header(read_at, size, limits), size)
    elif chunker == FIXED_1:
        lengths = fixed_lengths(size)
    else:
        raise InvalidInput(f"the chunker {chunker!r} is not known")
    whole = hashlib.sha256()
    hashes: list[tuple[bytes, bytes]] = []
    offset = 0
    for length in lengths:
        piece = read_at(offset, length)
        if len(piece) != length:
            raise InvalidInput(f"asked for {length} bytes at {offset}, got {len(piece)}")
        whole.update(piece)
        hashes.append(chunk_hashes(piece))
        offset += length
    sha256 = b"".join(pair[0] for pair in hashes)
    xxh3 = b"".join(pair[1] for pair in hashes)
    return ChunkManifest(Digest(whole.digest()), size, chunker, tuple(lengths), sha256, xxh3)


def _unpack(data: bytes, max_chunks: int) -> dict[str, Any]:
    """Read the map key by key, so that neither containers in containers nor long values are ever built."""
    unpacker = msgpack.Unpacker(
        max_buffer_size=max(len(data), 1),
        max_str_len=16,
        max_bin_len=_SHA256_BYTES * max(max_chunks, 1),
        max_array_len=0,
        max_map_len=0,
        max_ext_len=0,
    )
    unpacker.feed(data)
    if unpacker.read_map_header() != len(_KEYS):
        raise ManifestError("a manifest has the keys " + ", ".join(_KEYS))
    fields: dict[str, Any] = {}
    for key in _KEYS:
        if unpacker.unpack() != key:
            raise ManifestError(f"the key {key!r} is missing or not in its place")
        if key == "lengths":
            count = unpacker.read_array_header()
            if count > max_chunks:
                raise ManifestError(f"{count} chunks are more than the {max_chunks} allowed")
            unpack = unpacker.unpack
            fields[key] = [unpack() for _ in range(count)]
        else:
            fields[key] = unpacker.unpack()
    if unpacker.tell() != len(data):
        raise ManifestError("bytes follow the manifest")
    return fields
