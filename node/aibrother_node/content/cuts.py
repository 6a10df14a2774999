"""The two chunkers as rules on positions: `fixed/1` and `gguf/1`, frozen in docs/protocol.md.

`gguf/1` looks at where things stand, not at what they hold. The one size that it takes from a type is the last
tensor's, to tell its data from bytes that follow it, and for that the set of types is frozen with the rule: a type that
ggml adds later is never sized here, lest the same file be cut in two ways by two releases.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from aibrother_node.content.gguf import DEFAULT_LIMITS, GgufError, read_header

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aibrother_node.content.gguf import GgufHeader, GgufLimits, KeyValue, ReadAt

FIXED_1: Final = "fixed/1"
GGUF_1: Final = "gguf/1"

MAX_CHUNK: Final = 8 * 1024 * 1024
MAX_CHUNKS: Final = 262_144
"""More chunks than this no manifest holds by default: 2 TiB in chunks of 8 MiB."""
LARGE_KEY_VALUE: Final = 64 * 1024
LARGE_TENSOR: Final = 1024 * 1024

SIZED_TYPES: Final = frozenset({0, 1, 2, 3, *range(6, 31), 34, 35, 39, 40, 41})
"""The tensor types whose size `gguf/1` knows. Frozen: never add to it."""


def fixed_lengths(size: int) -> list[int]:
    """Return the chunk lengths of `fixed/1`: 8 MiB each, the last what is left; none for 0 bytes."""
    return list(_split(size))


def gguf_lengths(header: GgufHeader, size: int) -> list[int]:
    """Return the chunk lengths of `gguf/1` for a file of `size` bytes that has this header."""
    lengths: list[int] = []
    for piece in _pieces(header, size):
        lengths.extend(_split(piece))
    return lengths


def cut(read_at: ReadAt, size: int, limits: GgufLimits = DEFAULT_LIMITS) -> tuple[str, list[int]]:
    """Return chunker and chunk lengths: `gguf/1` for a GGUF file that the reader accepts, else `fixed/1`.

    A GGUF file that would have more than `MAX_CHUNKS` chunks gets `fixed/1` as well.

    Raises:
        InvalidInput: `read_at` answers with too few or too many bytes; what it raises itself goes through.
    """
    try:
        header = read_header(read_at, size, limits)
    except GgufError:
        return FIXED_1, fixed_lengths(size)
    lengths = gguf_lengths(header, size)
    if len(lengths) > MAX_CHUNKS:
        return FIXED_1, fixed_lengths(size)
    return GGUF_1, lengths


def _split(length: int) -> Iterator[int]:
    whole, rest = divmod(length, MAX_CHUNK)
    yield from (MAX_CHUNK for _ in range(whole))
    if rest:
        yield rest


def _pieces(header: GgufHeader, size: int) -> Iterator[int]:
    """Yield the lengths of the pieces before they are split; they sum to `size`."""
    data_offset = min(header.data_offset, size)
    yield from _key_value_runs(header.kvs, header.tensor_table_offset)
    yield data_offset - header.tensor_table_offset
    data_length = _data_length(header, size - data_offset)
    starts = sorted({0, data_length, *(tensor.offset for tensor in header.tensors)})
    yield from _tensor_runs(after - before for before, after in pairwise(starts))
    yield size - data_offset - data_length


def _key_value_runs(kvs: Iterable[KeyValue], end: int) -> Iterator[int]:
    start = 0  # the run begins with magic, version and counts
    for kv in kvs:
        if kv.length >= LARGE_KEY_VALUE:
            yield kv.offset - start
            yield kv.length
            start = kv.offset + kv.length
    yield end - start


def _tensor_runs(extents: Iterable[int]) -> Iterator[int]:
    run = 0
    for extent in extents:
        if run + extent > LARGE_TENSOR or extent >= LARGE_TENSOR:
            yield run
            run = 0
        if extent >= LARGE_TENSOR:
            yield extent
        else:
            run += extent
    yield run


def _data_length(header: GgufHeader, room: int) -> int:
    """Return where the last tensor ends, its padding included, in bytes of the data section."""
    if not header.tensors:
        return 0
    last = max(header.tensors, key=lambda tensor: tensor.offset)
    if last.nbytes is None or last.type_id not in SIZED_TYPES:
        return room
    end = last.offset + last.nbytes
    return min(room, -(-end // header.alignment) * header.alignment)
