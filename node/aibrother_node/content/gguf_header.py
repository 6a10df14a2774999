"""What a GGUF header holds, the ceilings under which it is read, and the error when it can't be."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Literal, TypeAlias

from aibrother_node.errors import InvalidInput


class GgufError(InvalidInput):
    """The bytes are not a GGUF header that this reader accepts.

    Attributes:
        reason: what is wrong, without the place.
        offset: the byte of the file at which the offending field begins.
    """

    def __init__(self, reason: str, offset: int) -> None:
        self.reason = reason
        self.offset = offset
        super().__init__(f"{reason} (at byte {offset})")


class ValueType(IntEnum):
    """`gguf_metadata_value_type` of the format."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


@dataclass(frozen=True, slots=True)
class GgufLimits:
    """Ceilings of the reader; a header beyond one of them is refused, but for the last three.

    Attributes:
        header_bytes: where the tensor table must have ended. Real headers reach about 20 MB.
        key_values, tensors: how many of each.
        name_bytes: length of a key (the format allows 65,535) and of a tensor's name.
        all_names_bytes: all keys and tensor names together.
        strings: in arrays, all together; each has to be visited to find the next.
        inner_arrays: arrays in arrays, all together.
        depth: of arrays in one another; 1 is an array of plain values.
        alignment: the largest `general.alignment` (ggml's own ceiling).
        value_bytes: strings, and arrays of strings, up to this length are kept, longer ones are passed over.
        array_values: arrays of up to so many elements are kept, longer ones are passed over.
        all_values_bytes: of strings and arrays kept, all together; what comes after is passed over.
    """

    header_bytes: int = 256 * 1024 * 1024
    key_values: int = 16_384
    tensors: int = 131_072
    name_bytes: int = 65_535
    all_names_bytes: int = 16 * 1024 * 1024
    strings: int = 4 * 1024 * 1024
    inner_arrays: int = 65_536
    depth: int = 4
    alignment: int = 1024 * 1024
    value_bytes: int = 1024 * 1024
    array_values: int = 1024
    all_values_bytes: int = 4 * 1024 * 1024


DEFAULT_LIMITS: Final = GgufLimits()
"""Part of `gguf/1`: a file beyond them is cut by `fixed/1` (docs/protocol.md)."""

Scalar: TypeAlias = int | float | bool | str | bytes


@dataclass(frozen=True, slots=True)
class ArrayValue:
    """An array among the key-values.

    Attributes:
        element_type: of its elements.
        count: how many.
        values: the elements; None where they were passed over or are arrays themselves.
    """

    element_type: ValueType
    count: int
    values: tuple[Scalar, ...] | None


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key-value and where it stands.

    Attributes:
        key: the key.
        type: of the value.
        offset, length: bytes of the whole record in the file, from the key's length field through the value.
        value: None for a string that was passed over; bytes for one that is not UTF-8.
    """

    key: str
    type: ValueType
    offset: int
    length: int
    value: Scalar | ArrayValue | None


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One row of the tensor table.

    Attributes:
        name: the name.
        dims: elements along each dimension, fastest first; empty for a scalar.
        type_id: ggml's type number.
        offset: bytes from the start of the data section.
        nbytes: bytes of its data; None for a type that `GGML_TYPES` does not hold.
    """

    name: str
    dims: tuple[int, ...]
    type_id: int
    offset: int
    nbytes: int | None


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What stands before the tensor data.

    Attributes:
        version: 2 or 3.
        byte_order: of all numbers in the file.
        alignment: of the data section and of each tensor in it, in bytes.
        kvs: in the order of the file.
        tensors: in the order of the table, which need not be the order of their offsets.
        tensor_table_offset: where the table begins and the key-values end.
        header_end: where the table ends.
        data_offset: `header_end` rounded up to the alignment; where there are no tensors this may lie beyond the end
            of the file, since real tokenizer-only files leave the padding out.
    """

    version: int
    byte_order: Literal["little", "big"]
    alignment: int
    kvs: tuple[KeyValue, ...]
    tensors: tuple[TensorInfo, ...]
    tensor_table_offset: int
    header_end: int
    data_offset: int
    _by_key: dict[str, KeyValue] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_key", {kv.key: kv for kv in self.kvs})

    def value(self, key: str) -> Scalar | ArrayValue | None:
        """Return the value of a key; None if there is no such key or its value was passed over."""
        kv = self._by_key.get(key)
        return None if kv is None else kv.value
