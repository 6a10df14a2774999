"""A bounded reader of GGUF headers (ggml, docs/gguf.md), versions 2 and 3, either byte order.

The law of this file: no number from the file is used before it was compared with the bytes that are there. Counts are
checked against the smallest space that so many items could take, lengths and offsets against the end of the file, and
everything that is kept in memory or walked item by item has a ceiling in `GgufLimits`. Large arrays (a tokenizer has
hundreds of thousands of strings) are walked, not built.

Where the format's text and ggml disagree, what llama.cpp loads is accepted: values of type string may hold any bytes
(the text says UTF-8; nothing in llama.cpp minds), a tensor may have no dimensions (a scalar), arrays may hold arrays
(the text allows it, llama.cpp does not read them). Keys and tensor names must be UTF-8, since programs look them up.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import pairwise
from typing import Final, Literal, NoReturn, TypeAlias

from aibrother_node.content.ggml_types import GGML_TYPES
from aibrother_node.content.gguf_header import (
    DEFAULT_LIMITS,
    ArrayValue,
    GgufError,
    GgufHeader,
    GgufLimits,
    KeyValue,
    Scalar,
    TensorInfo,
    ValueType,
)
from aibrother_node.errors import InvalidInput

__all__ = [
    "DEFAULT_LIMITS",
    "ArrayValue",
    "GgufError",
    "GgufHeader",
    "GgufLimits",
    "KeyValue",
    "ReadAt",
    "Scalar",
    "TensorInfo",
    "ValueType",
    "read_header",
]

ReadAt: TypeAlias = Callable[[int, int], bytes]
"""`read_at(offset, length)` returns exactly those bytes of the file."""

MAGIC: Final = b"GGUF"
DEFAULT_ALIGNMENT: Final = 32
MAX_DIMS: Final = 4
"""GGML_MAX_DIMS in ggml.h."""

_FIXED_PART: Final = 24
"""Magic, version, tensor count, key-value count."""
_FIRST_STEP: Final = 256 * 1024
_LARGEST_STEP: Final = 1024 * 1024


_SCALARS: Final[dict[ValueType, str]] = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "B",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}
_LEAST_BYTES: Final[dict[ValueType, int]] = {
    **{kind: struct.calcsize("=" + code) for kind, code in _SCALARS.items()},
    ValueType.STRING: 8,
    ValueType.ARRAY: 12,
}
"""The smallest space that a value of each type takes."""
_LEAST_KEY_VALUE: Final = 8 + 4 + 1
_LEAST_TENSOR: Final = 8 + 4 + 4 + 8


class _Cursor:
    """A window that moves forward over the file and refuses to go beyond its end or the header's ceiling."""

    def __init__(self, read_at: ReadAt, size: int, limits: GgufLimits) -> None:
        self._read_at = read_at
        self._size = size
        self._ceiling = min(size, limits.header_bytes)
        self._window = b""
        self._base = 0  # the window's first byte in the file
        self._at = 0  # where we are in the window
        self._step = _FIRST_STEP
        self._unsigned = {4: struct.Struct("<I"), 8: struct.Struct("<Q")}
        self.order = "<"

    @property
    def offset(self) -> int:
        return self._base + self._at

    def use_byte_order(self, order: str) -> None:
        self.order = order
        self._unsigned = {4: struct.Struct(order + "I"), 8: struct.Struct(order + "Q")}

    def require(self, length: int, what: str, offset: int | None = None) -> None:
        """Refuse if `length` bytes from here are not there; `offset` is where the field that asks for them begins."""
        if self.offset + length > self._ceiling:
            at = self.offset if offset is None else offset
            if self.offset + length > self._size:
                raise GgufError(f"{what} goes beyond the end of the file", at)
            raise GgufError(f"{what} goes beyond the {self._ceiling} bytes that a header may have", at)

    def take(self, length: int, what: str, offset: int | None = None) -> bytes:
        self._load(length, what, offset)
        start = self._at
        self._at += length
        return self._window[start : self._at]

    def skip(self, length: int, what: str, offset: int | None = None) -> None:
        self.require(length, what, offset)
        self._seek(self._at + length)

    def uint(self, width: Literal[4, 8], what: str) -> int:
        self._load(width, what, None)
        (number,) = self._unsigned[width].unpack_from(self._window, self._at)
        self._at += width
        assert isinstance(number, int)
        return number

    def skip_strings(self, count: int, what: str) -> None:
        """Pass over so many strings, each a length of 8 bytes and that many bytes."""
        unpack = self._unsigned[8].unpack_from
        left = count
        while left:
            self._load(8, what, None)
            window, at, last = self._window, self._at, len(self._window) - 8
            start = at
            while left and at <= last:
                start = at
                at += 8 + unpack(window, at)[0]
                left -= 1
            self._at = start
            self.require(at - start, what)  # all before `start` lie in the window
            self._seek(at)

    def _seek(self, at: int) -> None:
        if at <= len(self._window):
            self._at = at
        else:
            self._base += at
            self._window = b""
            self._at = 0

    def _load(self, length: int, what: str, offset: int | None) -> None:
        if self._at + length <= len(self._window):
            return
        self.require(length, what, offset)
        rest = self._window[self._at :]
        begin = self._base + len(self._window)
        missing = max(length - len(rest), min(self._step, self._ceiling - begin))
        fresh = self._read_at(begin, missing)
        if len(fresh) != missing:
            # Not a GgufError: the source broke its word, which says nothing about the file's format.
            raise InvalidInput(f"asked for {missing} bytes at {begin}, got {len(fresh)}")
        self._step = min(self._step * 2, _LARGEST_STEP)
        self._base, self._at, self._window = self.offset, 0, rest + fresh


def read_header(read_at: ReadAt, size: int, limits: GgufLimits = DEFAULT_LIMITS) -> GgufHeader:
    """Read the header of a GGUF file of `size` bytes.

    Asks `read_at` for ascending, disjoint ranges of 256 KiB to 1 MiB (less at the end of the file), for at most
    `limits.header_bytes` in all, and for nothing after the range that holds the tensor table's end.

    Raises:
        GgufError: the bytes are not a header that is accepted, with the reason and the offset.
        InvalidInput: `read_at` answered with too few or too many bytes; what it raises itself goes through.
    """
    return _Reader(read_at, size, limits).read()


class _Reader:
    def __init__(self, read_at: ReadAt, size: int, limits: GgufLimits) -> None:
        self._size = size
        self._limits = limits
        self._cursor = _Cursor(read_at, size, limits)
        self._strings = 0
        self._inner_arrays = 0
        self._names_left = limits.all_names_bytes
        self._values_left = limits.all_values_bytes

    def read(self) -> GgufHeader:
        cursor = self._cursor
        version, byte_order = self._version()
        tensor_count = self._count("tensors", self._limits.tensors, _LEAST_TENSOR)
        kv_count = self._count("key-values", self._limits.key_values, _LEAST_KEY_VALUE)
        kvs = self._key_values(kv_count)
        alignment = self._alignment(kvs)
        tensor_table_offset = cursor.offset
        tensors, places = self._tensors(tensor_count)
        header_end = cursor.offset
        data_offset = -(-header_end // alignment) * alignment
        self._check_layout(tensors, places, alignment, data_offset)
        return GgufHeader(
            version, byte_order, alignment, tuple(kvs), tuple(tensors), tensor_table_offset, header_end, data_offset
        )

    def _version(self) -> tuple[int, Literal["little", "big"]]:
        cursor = self._cursor
        if self._size < _FIXED_PART:
            raise GgufError(f"{self._size} bytes are too few for a GGUF header", 0)
        magic = cursor.take(4, "the magic")
        if magic != MAGIC:
            raise GgufError(f"the magic is {magic!r}, not {MAGIC!r}", 0)
        raw = cursor.take(4, "the version")
        # A big-endian file is known only by its version, which makes no sense the other way round.
        byte_order: Literal["little", "big"] = "little"
        version = int.from_bytes(raw, "little")
        if version & 0xFFFF == 0 and version:
            byte_order, version = "big", int.from_bytes(raw, "big")
            cursor.use_byte_order(">")
        if version == 1:
            raise GgufError("GGUF version 1 is not supported, only 2 and 3 are", 4)
        if version not in (2, 3):
            raise GgufError(f"GGUF version {version} is not known, only 2 and 3 are", 4)
        return version, byte_order

    def _count(self, what: str, ceiling: int, least: int) -> int:
        offset = self._cursor.offset
        count = self._cursor.uint(8, f"the count of {what}")
        if count * least > self._size - self._cursor.offset:
            raise GgufError(f"{count} {what} can't fit in the file", offset)
        if count > ceiling:
            raise GgufError(f"{count} {what} are more than the {ceiling} allowed", offset)
        return count

    def _name(self, what: str) -> str:
        cursor = self._cursor
        offset = cursor.offset
        length = cursor.uint(8, f"the length of {what}")
        cursor.require(length, what, offset)
        if length > self._limits.name_bytes:
            raise GgufError(f"{what} has {length} bytes, more than the {self._limits.name_bytes} allowed", offset)
        self._names_left -= length
        if self._names_left < 0:
            raise GgufError(f"keys and tensor names exceed the {self._limits.all_names_bytes} bytes allowed", offset)
        raw = cursor.take(length, what, offset)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise GgufError(f"{what} is not UTF-8", offset) from None

    def _key_values(self, count: int) -> list[KeyValue]:
        cursor = self._cursor
        kvs: list[KeyValue] = []
        seen: set[str] = set()
        for _ in range(count):
            offset = cursor.offset
            key = self._name("a key")
            if key in seen:
                raise GgufError(f"the key {_shown(key)} occurs twice", offset)
            seen.add(key)
            kind = self._value_type(f"the value of {_shown(key)}")
            value = self._value(kind, f"the value of {_shown(key)}")
            kvs.append(KeyValue(key, kind, offset, cursor.offset - offset, value))
        return kvs

    def _value_type(self, what: str) -> ValueType:
        offset = self._cursor.offset
        number = self._cursor.uint(4, f"the type of {what}")
        if number > ValueType.FLOAT64:
            raise GgufError(f"{what} has the unknown type {number}", offset)
        return ValueType(number)

    def _value(self, kind: ValueType, what: str) -> Scalar | ArrayValue | None:
        if kind is ValueType.STRING:
            return self._string(what, self._limits.value_bytes)
        if kind is ValueType.ARRAY:
            return self._array(what, 1)
        return self._scalars(kind, 1, what)[0]

    def _string(self, what: str, ceiling: int) -> str | bytes | None:
        cursor = self._cursor
        offset = cursor.offset
        length = cursor.uint(8, f"the length of {what}")
        if length > min(ceiling, self._values_left):
            cursor.skip(length, what, offset)
            return None
        cursor.require(length, what, offset)
        self._values_left -= 8 + length  # an empty string takes memory too
        raw = cursor.take(length, what, offset)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return raw

    def _scalars(self, kind: ValueType, count: int, what: str) -> tuple[Scalar, ...]:
        offset = self._cursor.offset
        raw = self._cursor.take(count * _LEAST_BYTES[kind], what)
        values: tuple[Scalar, ...] = struct.unpack(f"{self._cursor.order}{count}{_SCALARS[kind]}", raw)
        if kind is ValueType.BOOL:
            _check_booleans(raw, what, offset)
            return tuple(map(bool, values))
        return values

    def _array(self, what: str, depth: int) -> ArrayValue:
        cursor = self._cursor
        offset = cursor.offset
        if depth > self._limits.depth:
            raise GgufError(f"{what} has more than {self._limits.depth} arrays in one another", offset)
        kind = self._value_type(what)
        count = cursor.uint(8, f"the length of {what}")
        cursor.require(count * _LEAST_BYTES[kind], f"{what}, an array of {count},", offset)
        if kind is ValueType.STRING:
            self._strings += count
            if self._strings > self._limits.strings:
                raise GgufError(f"arrays hold more than the {self._limits.strings} strings allowed", offset)
        elif kind is ValueType.ARRAY:
            self._inner_arrays += count
            if self._inner_arrays > self._limits.inner_arrays:
                raise GgufError(f"arrays hold more than the {self._limits.inner_arrays} arrays allowed", offset)
        values: tuple[Scalar, ...] | None = None
        keep = depth == 1 and count <= self._limits.array_values and count * _LEAST_BYTES[kind] <= self._values_left
        if kind is ValueType.ARRAY:
            for _ in range(count):
                self._array(what, depth + 1)
        elif kind is ValueType.STRING:
            if keep:
                values = self._few_strings(count, what)
            else:
                cursor.skip_strings(count, what)
        elif keep:
            self._values_left -= count * _LEAST_BYTES[kind]
            values = self._scalars(kind, count, what)
        elif kind is ValueType.BOOL:
            self._skip_booleans(count, what)
        else:
            cursor.skip(count * _LEAST_BYTES[kind], what)
        return ArrayValue(kind, count, values)

    def _few_strings(self, count: int, what: str) -> tuple[Scalar, ...] | None:
        values: list[Scalar] = []
        start = self._cursor.offset
        for _ in range(count):
            value = self._string(what, self._limits.value_bytes - (self._cursor.offset - start))
            if value is not None:
                values.append(value)
        return tuple(values) if len(values) == count else None

    def _skip_booleans(self, count: int, what: str) -> None:
        left = count
        while left:
            offset = self._cursor.offset
            raw = self._cursor.take(min(left, _FIRST_STEP), what)
            _check_booleans(raw, what, offset)
            left -= len(raw)

    def _alignment(self, kvs: list[KeyValue]) -> int:
        kv = next((kv for kv in kvs if kv.key == "general.alignment"), None)
        if kv is None:
            return DEFAULT_ALIGNMENT
        value = kv.value
        if kv.type is not ValueType.UINT32 or not isinstance(value, int):
            raise GgufError(f"general.alignment is of type {kv.type.name}, not UINT32", kv.offset)
        if value == 0 or value & (value - 1):
            raise GgufError(f"general.alignment is {value}, which is not a power of two", kv.offset)
        if value > self._limits.alignment:
            raise GgufError(f"general.alignment is {value}, more than the {self._limits.alignment} allowed", kv.offset)
        return value

    def _tensors(self, count: int) -> tuple[list[TensorInfo], list[int]]:
        cursor = self._cursor
        tensors: list[TensorInfo] = []
        places: list[int] = []  # where each row begins, to name it in errors
        seen: set[str] = set()
        for _ in range(count):
            place = cursor.offset
            name = self._name("a tensor's name")
            if name in seen:
                raise GgufError(f"the tensor {_shown(name)} occurs twice", place)
            seen.add(name)
            tensors.append(self._tensor(name, place))
            places.append(place)
        return tensors, places

    def _tensor(self, name: str, place: int) -> TensorInfo:
        cursor = self._cursor
        what = f"the tensor {_shown(name)}"
        dim_count = cursor.uint(4, what)
        if dim_count > MAX_DIMS:
            raise GgufError(f"{what} has {dim_count} dimensions, more than {MAX_DIMS}", place)
        dims = tuple(cursor.uint(8, what) for _ in range(dim_count))
        type_id = cursor.uint(4, what)
        offset = cursor.uint(8, what)
        elements = 1
        for dim in dims:
            if dim == 0:
                raise GgufError(f"{what} has a dimension of 0", place)
            elements *= dim
        if elements >= 2**63:
            raise GgufError(f"{what} has dimensions whose product overflows 63 bits", place)
        kind = GGML_TYPES.get(type_id)
        if kind is None:
            return TensorInfo(name, dims, type_id, offset, None)
        row = dims[0] if dims else 1
        if row % kind.block:
            raise GgufError(f"{what} has rows of {row}, not a multiple of {kind.name}'s block of {kind.block}", place)
        return TensorInfo(name, dims, type_id, offset, elements // kind.block * kind.block_bytes)

    def _check_layout(self, tensors: list[TensorInfo], places: list[int], alignment: int, data_offset: int) -> None:
        def refuse(index: int, reason: str) -> NoReturn:
            raise GgufError(f"the tensor {_shown(tensors[index].name)} {reason}", places[index])

        for index, tensor in enumerate(tensors):
            if tensor.offset % alignment:
                refuse(index, f"begins at {tensor.offset}, not a multiple of the alignment {alignment}")
            # Of a type that is not known, at least the first byte must be there.
            length = 1 if tensor.nbytes is None else tensor.nbytes
            if data_offset + tensor.offset + length > self._size:
                refuse(
                    index, f"ends beyond the end of the file ({tensor.offset} + {length} from byte {data_offset} on)"
                )
        by_offset = sorted(range(len(tensors)), key=lambda index: tensors[index].offset)
        for before, after in pairwise(by_offset):
            length = tensors[before].nbytes or 1
            if tensors[before].offset + length > tensors[after].offset:
                refuse(after, f"overlaps {_shown(tensors[before].name)}")


def _check_booleans(raw: bytes, what: str, offset: int) -> None:
    if raw.translate(None, b"\x00\x01"):
        at = next(index for index, byte in enumerate(raw) if byte > 1)
        raise GgufError(f"{what} holds a bool that is neither 0 nor 1 but {raw[at]}", offset + at)


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:80] + "…")
