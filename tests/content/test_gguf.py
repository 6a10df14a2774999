"""The GGUF header reader: what it reads, what it refuses and why, and how little it asks of the file."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from typing import TYPE_CHECKING, Any

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrother_node.content.ggml_types import GGML_TYPES
from aibrother_node.content.gguf import (
    DEFAULT_LIMITS,
    ArrayValue,
    GgufError,
    GgufHeader,
    GgufLimits,
    ValueType,
    read_header,
)
from aibrother_node.errors import InvalidInput
from content.gguf_files import (
    ARRAY,
    BIG,
    BOOL,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    LITTLE,
    REAL_FILES,
    STRING,
    TYPE_F32,
    TYPE_Q4_0,
    TYPE_Q4_K,
    TYPE_UNKNOWN,
    U8,
    U16,
    U32,
    U64,
    Packer,
    Source,
    SparseSource,
    write_model,
)

if TYPE_CHECKING:
    from pathlib import Path

Q = gguf.GGMLQuantizationType


def read(data: bytes, limits: GgufLimits = DEFAULT_LIMITS) -> GgufHeader:
    return read_header(Source(data), len(data), limits)


def sample(packer: Packer = LITTLE, version: int = 3) -> bytes:
    """A small file with something of everything."""
    p = packer
    return p.file(
        [
            p.kv("general.architecture", STRING, p.string("llama")),
            p.kv("u8", U8, p.number("B", 200)),
            p.kv("i8", I8, p.number("b", -100)),
            p.kv("u16", U16, p.number("H", 60_000)),
            p.kv("i16", I16, p.number("h", -30_000)),
            p.kv("u32", U32, p.number("I", 4_000_000_000)),
            p.kv("i32", I32, p.number("i", -2_000_000_000)),
            p.kv("u64", U64, p.number("Q", 2**64 - 1)),
            p.kv("i64", I64, p.number("q", -(2**63))),
            p.kv("f32", F32, p.number("f", 0.5)),
            p.kv("f64", F64, p.number("d", math.pi)),
            p.kv("yes", BOOL, b"\x01"),
            p.kv("no", BOOL, b"\x00"),
            p.kv("empty", STRING, p.string("")),
            p.kv("tokens", ARRAY, p.strings(["a", "", "日本"])),
            p.kv("scores", ARRAY, p.array(F32, [p.number("f", x) for x in (1.5, -2.0)])),
            p.kv("flags", ARRAY, p.array(BOOL, [b"\0", b"\1"])),
            p.kv("nothing", ARRAY, p.array(U64, [])),
            p.kv("nested", ARRAY, p.array(ARRAY, [p.strings(["x", "y"]), p.array(U8, [b"1", b"2", b"3"])])),
        ],
        [
            p.tensor("second", [4, 3], TYPE_F32, 32),
            p.tensor("first", [32], TYPE_Q4_0, 0),
            p.tensor("scalar", [], TYPE_F32, 96),
        ],
        bytes(100),
        version=version,
    )


# What it reads


@pytest.mark.parametrize(
    ("packer", "version", "byte_order"),
    [(LITTLE, 2, "little"), (LITTLE, 3, "little"), (BIG, 2, "big"), (BIG, 3, "big")],
)
def test_every_value_type_in_both_byte_orders(packer: Packer, version: int, byte_order: str) -> None:
    data = sample(packer, version)
    header = read(data)
    assert (header.version, header.byte_order, header.alignment) == (version, byte_order, 32)
    assert [kv.value for kv in header.kvs] == [
        "llama", 200, -100, 60_000, -30_000, 4_000_000_000, -2_000_000_000, 2**64 - 1, -(2**63),
        0.5, math.pi, True, False, "",
        ArrayValue(ValueType.STRING, 3, ("a", "", "日本")),
        ArrayValue(ValueType.FLOAT32, 2, (1.5, -2.0)),
        ArrayValue(ValueType.BOOL, 2, (False, True)),
        ArrayValue(ValueType.UINT64, 0, ()),
        ArrayValue(ValueType.ARRAY, 2, None),
    ]  # fmt: skip
    assert [(t.name, t.dims, t.type_id, t.offset, t.nbytes) for t in header.tensors] == [
        ("second", (4, 3), TYPE_F32, 32, 48),
        ("first", (32,), TYPE_Q4_0, 0, 18),
        ("scalar", (), TYPE_F32, 96, 4),
    ]
    assert header.value("u8") == 200
    assert header.value("absent") is None
    check_invariants(header, len(data))


def test_records_are_where_it_says() -> None:
    data = sample()
    header = read(data)
    assert data[header.kvs[1].offset :][: header.kvs[1].length] == LITTLE.kv("u8", U8, b"\xc8")
    first_row = LITTLE.tensor("second", [4, 3], TYPE_F32, 32)
    assert data[header.tensor_table_offset :].startswith(first_row)
    assert data[: header.header_end].endswith(LITTLE.tensor("scalar", [], TYPE_F32, 96))
    assert header.data_offset == len(data) - 100


def test_a_string_value_that_is_not_utf8_is_kept_as_bytes() -> None:
    header = read(LITTLE.file([LITTLE.kv("k", STRING, LITTLE.string(b"\xff"))]))
    assert header.value("k") == b"\xff"


def test_a_long_string_is_passed_over_and_what_follows_is_read() -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, value_bytes=10)
    kvs = [LITTLE.kv("a", STRING, LITTLE.string("x" * 11)), LITTLE.kv("b", STRING, LITTLE.string("y" * 10))]
    header = read(LITTLE.file(kvs), limits)
    assert [(kv.key, kv.value, kv.length) for kv in header.kvs] == [("a", None, 32), ("b", "y" * 10, 31)]


@pytest.mark.parametrize(
    ("array", "kept"),
    [
        (LITTLE.array(U32, [LITTLE.number("I", 7)] * 4), True),
        (LITTLE.array(U32, [LITTLE.number("I", 7)] * 5), False),
        (LITTLE.array(BOOL, [b"\1"] * 5), False),
        (LITTLE.strings(["ab"] * 4), True),
        (LITTLE.strings(["ab"] * 5), False),
        (LITTLE.strings(["a" * 60, "b" * 60]), False),
        (LITTLE.strings(["a" * 101]), False),
    ],
)
def test_large_arrays_are_passed_over(array: bytes, kept: bool) -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, array_values=4, value_bytes=100)
    data = LITTLE.file([LITTLE.kv("k", ARRAY, array), LITTLE.kv("next", U8, b"\5")])
    header = read(data, limits)
    value = header.value("k")
    assert isinstance(value, ArrayValue)
    assert (value.values is not None) is kept
    assert header.value("next") == 5


def test_values_beyond_the_sum_of_what_is_kept_are_passed_over() -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, all_values_bytes=40)
    kvs = [LITTLE.kv(key, STRING, LITTLE.string("x" * 20)) for key in "abc"]
    kvs.append(LITTLE.kv("d", ARRAY, LITTLE.array(U64, [LITTLE.number("Q", 1)] * 4)))
    kvs.append(LITTLE.kv("e", U8, b"\5"))
    header = read(LITTLE.file(kvs), limits)
    assert [kv.value for kv in header.kvs] == ["x" * 20, None, None, ArrayValue(ValueType.UINT64, 4, None), 5]


def test_an_unknown_tensor_type_is_read_without_a_size() -> None:
    tensors = [LITTLE.tensor("new", [5], TYPE_UNKNOWN, 0), LITTLE.tensor("after", [8], TYPE_F32, 32)]
    header = read(LITTLE.file(tensors=tensors, data=bytes(64)))
    assert [tensor.nbytes for tensor in header.tensors] == [None, 32]


@pytest.mark.parametrize("alignment", [1, 8, 4096, 1024 * 1024])
def test_the_alignment_key_moves_the_data(alignment: int) -> None:
    kv = LITTLE.kv("general.alignment", U32, LITTLE.number("I", alignment))
    data = LITTLE.file([kv], [LITTLE.tensor("t", [8], TYPE_F32, 0)], bytes(32), alignment=alignment)
    header = read(data)
    assert header.alignment == alignment
    assert header.data_offset == len(data) - 32


def test_without_tensors_the_padding_may_be_missing() -> None:
    data = LITTLE.file([LITTLE.kv("a", U8, b"\5")])
    header = read(data)
    assert header.header_end == len(data) == 38
    assert header.data_offset == 64


# What others read


@pytest.mark.parametrize(
    ("alignment", "big_endian", "kinds"),
    [
        (None, False, [Q.F32, Q.Q8_0, Q.Q4_0, Q.BF16]),
        (64, False, [Q.F16, Q.Q5_1]),
        (None, True, [Q.F32]),
        (None, False, []),
    ],
)
def test_agrees_with_the_gguf_package(
    tmp_path: Path, alignment: int | None, big_endian: bool, kinds: list[Any]
) -> None:
    shapes = [(3, 64), (5, 7, 32), (32,), (2, 2, 2, 96)]
    tensors = [(f"blk.{index}.weight", shapes[index], kind) for index, kind in enumerate(kinds)]
    path = write_model(tmp_path / "m.gguf", tensors=tensors, alignment=alignment, big_endian=big_endian)
    agree_with_the_gguf_package(path)


def test_agrees_with_the_gguf_package_on_a_real_file() -> None:
    path = REAL_FILES / "ggml-vocab-phi-3.gguf"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    agree_with_the_gguf_package(path)


def agree_with_the_gguf_package(path: Path) -> None:
    data = path.read_bytes()
    header = read(data)
    theirs = gguf.GGUFReader(path)
    assert header.data_offset == theirs.data_offset
    assert header.alignment == theirs.alignment
    fields = [field for field in theirs.fields.values() if not field.name.startswith("GGUF.")]
    assert [(kv.key, kv.offset, int(kv.type)) for kv in header.kvs] == [(f.name, f.offset, f.types[0]) for f in fields]
    assert [kv.length for kv in header.kvs] == [sum(int(part.nbytes) for part in field.parts) for field in fields]
    for kv, field in zip(header.kvs, fields, strict=True):
        if isinstance(kv.value, ArrayValue):
            assert (kv.value.count, int(kv.value.element_type)) == (len(field.data), int(field.types[1]))
            if kv.value.values is not None:
                assert list(kv.value.values) == field.contents()
        else:
            assert kv.value == field.contents()
    assert [
        (tensor.name, list(tensor.dims), tensor.type_id, header.data_offset + tensor.offset, tensor.nbytes)
        for tensor in header.tensors
    ] == [(t.name, t.shape.tolist(), t.tensor_type, t.data_offset, t.n_bytes) for t in theirs.tensors]


def test_the_block_sizes_are_those_of_the_gguf_package() -> None:
    theirs = {int(kind): (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in Q}
    ours = {type_id: (kind.name, kind.block, kind.block_bytes) for type_id, kind in GGML_TYPES.items()}
    assert {type_id: theirs.get(type_id) for type_id in ours} == ours


@pytest.mark.parametrize("name", ["phi-3", "gpt-2", "qwen2", "aquila"])
def test_real_files(name: str) -> None:
    path = REAL_FILES / f"ggml-vocab-{name}.gguf"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    data = path.read_bytes()
    source = Source(data)
    header = read_header(source, len(data))
    check_invariants(header, len(data))
    assert source.bytes_asked <= len(data)
    assert header.header_end == len(data)
    vocabulary = header.value("tokenizer.ggml.tokens")
    assert isinstance(vocabulary, ArrayValue)
    assert vocabulary.count > 30_000
    assert vocabulary.values is None


# What it refuses

P = LITTLE
KV = P.kv("k", U8, b"\5")
BIG_NUMBER = 2**63


def with_tensors(*tensors: bytes, room: int = 64, kvs: tuple[bytes, ...] = ()) -> bytes:
    return P.file(kvs, tensors, bytes(room))


def array_of(kind: int, count: int, items: bytes = b"") -> bytes:
    return P.file([P.kv("k", ARRAY, P.number("I", kind) + P.number("Q", count) + items)])


HOSTILE: dict[str, tuple[bytes, str, int]] = {
    "nothing": (b"", "0 bytes are too few for a GGUF header", 0),
    "cut in the fixed part": (P.file()[:-1], "23 bytes are too few for a GGUF header", 0),
    "another magic": (P.file(magic=b"GGML"), "the magic is b'GGML', not b'GGUF'", 0),
    "the magic backwards": (P.file(magic=b"FUGG"), "the magic is b'FUGG', not b'GGUF'", 0),
    "version 0": (P.file(version=0), "version 0 is not known", 4),
    "version 1": (P.file(version=1), "version 1 is not supported, only 2 and 3 are", 4),
    "version 1, big-endian": (BIG.file(version=1), "version 1 is not supported", 4),
    "version 4": (P.file(version=4), "version 4 is not known, only 2 and 3 are", 4),
    "version 4, big-endian": (BIG.file(version=4), "version 4 is not known", 4),
    "key-values that can't fit": (P.file([KV], kv_count=2), "2 key-values can't fit in the file", 16),
    "a negative count of key-values": (P.file([KV], kv_count=2**64 - 1), "key-values can't fit in the file", 16),
    "tensors that can't fit": (P.file([KV], tensor_count=1), "1 tensors can't fit in the file", 8),
    "2**63 tensors": (P.file([KV], tensor_count=BIG_NUMBER), "tensors can't fit in the file", 8),
    "fewer key-values than counted": (
        P.file([KV, P.kv("k2", STRING, P.string("x" * 40))], kv_count=3),
        "the length of a key goes beyond the end of the file",
        24 + 14 + 22 + 40,
    ),
    "a key beyond the end": (
        P.file([P.string("k", 1000) + bytes(20)]),
        "a key goes beyond the end of the file",
        24,
    ),
    "a key of 2**64-1 bytes": (P.file([P.string("k", 2**64 - 1) + bytes(20)]), "a key goes beyond the end", 24),
    "a long key": (P.file([P.kv("k" * 65_536, U8, b"\5")]), "a key has 65536 bytes, more than the 65535 allowed", 24),
    "a key that is not UTF-8": (P.file([P.kv(b"k\xc0\x80", U8, b"\5")]), "a key is not UTF-8", 24),
    "a key with a surrogate": (P.file([P.kv(b"k\xed\xa0\x80", U8, b"\5")]), "a key is not UTF-8", 24),
    "a key twice": (P.file([KV, P.kv("x", U8, b"\5"), KV]), "the key 'k' occurs twice", 24 + 28),
    "an unknown value type": (P.file([P.kv("k", 13, bytes(8))]), "the value of 'k' has the unknown type 13", 33),
    "a negative value type": (P.file([P.kv("k", 2**32 - 1, bytes(8))]), "has the unknown type 4294967295", 33),
    "a value cut short": (P.file([P.kv("k", U64, bytes(7))]), "the value of 'k' goes beyond the end", 37),
    "a string beyond the end": (
        P.file([P.kv("k", STRING, P.string("abc", 4))]),
        "the value of 'k' goes beyond the end of the file",
        37,
    ),
    "a string of 2**64-1 bytes": (
        P.file([P.kv("k", STRING, P.string("abc", 2**64 - 1))]),
        "the value of 'k' goes beyond the end of the file",
        37,
    ),
    "a bool of 2": (P.file([P.kv("k", BOOL, b"\2")]), "holds a bool that is neither 0 nor 1 but 2", 37),
    "a bool of 255 in an array": (array_of(BOOL, 3, b"\0\1\xff"), "a bool that is neither 0 nor 1 but 255", 51),
    "a bool of 9 in a large array": (
        array_of(BOOL, 2000, bytes(1999) + b"\x09"),
        "a bool that is neither 0 nor 1 but 9",
        49 + 1999,
    ),
    "an array of an unknown type": (array_of(13, 0), "the value of 'k' has the unknown type 13", 37),
    "an array of numbers beyond the end": (array_of(U32, 3, bytes(11)), "an array of 3, goes beyond the end", 37),
    "an array of 2**62 numbers": (array_of(U64, 2**62, bytes(80)), "goes beyond the end of the file", 37),
    "an array of 2**61 strings": (array_of(STRING, 2**61, bytes(80)), "goes beyond the end of the file", 37),
    "an array of 2**60 arrays": (array_of(ARRAY, 2**60, bytes(80)), "goes beyond the end of the file", 37),
    "strings in a small array beyond the end": (
        array_of(STRING, 2, P.string("abc") + P.string("abc", 4)),
        "the value of 'k' goes beyond the end of the file",
        49 + 11,
    ),
    "a small array of strings cut in a length": (
        array_of(STRING, 2, P.string("abc" * 3) + bytes(7)),
        "the length of the value of 'k' goes beyond the end of the file",
        49 + 17,
    ),
    "strings in a large array beyond the end": (
        array_of(STRING, 2000, P.string("") * 1999 + P.string("abc", 2**64 - 9)),
        "the value of 'k' goes beyond the end of the file",
        49 + 8 * 1999,
    ),
    "a large array of strings cut in a length": (
        array_of(STRING, 2000, P.string("0123456789") + P.string("") * 1998 + bytes(7)),
        "the value of 'k' goes beyond the end of the file",
        49 + 10 + 8 * 1999,
    ),
    "five arrays in one another": (
        P.file(
            [P.kv("k", ARRAY, P.array(ARRAY, [P.array(ARRAY, [P.array(ARRAY, [P.array(ARRAY, [P.array(U8, [])])])])]))]
        ),
        "the value of 'k' has more than 4 arrays in one another",
        37 + 4 * 12,
    ),
    "an alignment of 0": (P.file([P.kv("general.alignment", U32, bytes(4))]), "general.alignment is 0", 24),
    "an alignment of 48": (
        P.file([KV, P.kv("general.alignment", U32, P.number("I", 48))]),
        "general.alignment is 48, which is not a power of two",
        38,
    ),
    "a large alignment": (
        P.file([P.kv("general.alignment", U32, P.number("I", 2**31))]),
        "general.alignment is 2147483648, more than the 1048576 allowed",
        24,
    ),
    "an alignment as 64 bits": (
        P.file([P.kv("general.alignment", U64, P.number("Q", 32))]),
        "general.alignment is of type UINT64, not UINT32",
        24,
    ),
    "an alignment as text": (
        P.file([P.kv("general.alignment", STRING, P.string("32"))]),
        "general.alignment is of type STRING, not UINT32",
        24,
    ),
    "a tensor twice": (
        with_tensors(P.tensor("t", [8], TYPE_F32, 0), P.tensor("t", [8], TYPE_F32, 32)),
        "the tensor 't' occurs twice",
        24 + 33,
    ),
    "a tensor's name beyond the end": (
        with_tensors(P.string("t", 1000) + bytes(24)),
        "a tensor's name goes beyond the end of the file",
        24,
    ),
    "a tensor's name that is not UTF-8": (
        with_tensors(P.tensor(b"\xff", [8], TYPE_F32, 0)),
        "a tensor's name is not UTF-8",
        24,
    ),
    "a tensor's row cut short": (
        P.file(tensors=[P.tensor("tensor", [1, 2, 3, 4], TYPE_F32, 0)[:-1]]),
        "the tensor 'tensor' goes beyond the end of the file",
        24 + 14 + 4 + 32 + 4,
    ),
    "five dimensions": (
        with_tensors(P.tensor("t", [1] * 5, TYPE_F32, 0)),
        "the tensor 't' has 5 dimensions, more than 4",
        24,
    ),
    "2**32-1 dimensions": (
        with_tensors(P.tensor("t", [1], TYPE_F32, 0, rank=2**32 - 1)),
        "has 4294967295 dimensions, more than 4",
        24,
    ),
    "a dimension of 0": (with_tensors(P.tensor("t", [8, 0], TYPE_F32, 0)), "the tensor 't' has a dimension of 0", 24),
    "a dimension of 2**63": (with_tensors(P.tensor("t", [BIG_NUMBER], TYPE_F32, 0)), "product overflows 63 bits", 24),
    "dimensions that multiply to 2**64": (
        with_tensors(P.tensor("t", [2**32, 2**32], TYPE_F32, 0)),
        "the tensor 't' has dimensions whose product overflows 63 bits",
        24,
    ),
    "dimensions that multiply to 2**63 of an unknown type": (
        with_tensors(P.tensor("t", [2**32, 2**31], TYPE_UNKNOWN, 0)),
        "product overflows 63 bits",
        24,
    ),
    "half a block": (
        with_tensors(P.tensor("t", [48, 2], TYPE_Q4_0, 0)),
        "the tensor 't' has rows of 48, not a multiple of Q4_0's block of 32",
        24,
    ),
    "a scalar of a block type": (with_tensors(P.tensor("t", [], TYPE_Q4_K, 0)), "has rows of 1, not a multiple", 24),
    "a misaligned tensor": (
        with_tensors(P.tensor("t", [8], TYPE_F32, 16)),
        "the tensor 't' begins at 16, not a multiple of the alignment 32",
        24,
    ),
    "data beyond the end": (
        with_tensors(P.tensor("a", [8], TYPE_F32, 0), P.tensor("b", [9], TYPE_F32, 32)),
        "the tensor 'b' ends beyond the end of the file (32 + 36 from byte 96 on)",
        24 + 33,
    ),
    "an offset beyond the end": (
        with_tensors(P.tensor("t", [8], TYPE_F32, 2**40)),
        "the tensor 't' ends beyond the end of the file",
        24,
    ),
    "an offset that wraps around 64 bits": (
        with_tensors(P.tensor("t", [64], TYPE_F32, 2**64 - 32)),
        "the tensor 't' ends beyond the end of the file",
        24,
    ),
    "a size that wraps around 64 bits": (
        with_tensors(P.tensor("t", [2**62 + 8], TYPE_F32, 0)),
        "the tensor 't' ends beyond the end of the file",
        24,
    ),
    "no byte for a tensor of an unknown type": (
        with_tensors(P.tensor("t", [1], TYPE_UNKNOWN, 64)),
        "the tensor 't' ends beyond the end of the file (64 + 1",
        24,
    ),
    "tensors without the padding before them": (
        P.file(tensors=[P.tensor("t", [1], TYPE_F32, 0)]),
        "the tensor 't' ends beyond the end of the file",
        24,
    ),
    "tensors that overlap": (
        with_tensors(P.tensor("a", [9], TYPE_F32, 0), P.tensor("b", [8], TYPE_F32, 32)),
        "the tensor 'b' overlaps 'a'",
        24 + 33,
    ),
    "tensors that overlap, in the other order": (
        with_tensors(P.tensor("b", [8], TYPE_F32, 32), P.tensor("a", [9], TYPE_F32, 0)),
        "the tensor 'b' overlaps 'a'",
        24,
    ),
    "tensors of unknown types in one place": (
        with_tensors(P.tensor("a", [8], TYPE_UNKNOWN, 32), P.tensor("b", [8], TYPE_UNKNOWN, 32)),
        "the tensor 'b' overlaps 'a'",
        24 + 33,
    ),
}


@pytest.mark.parametrize(("data", "reason", "offset"), HOSTILE.values(), ids=HOSTILE)
def test_refuses(data: bytes, reason: str, offset: int) -> None:
    source = Source(data)
    with pytest.raises(GgufError, match=re.escape(reason)) as caught:
        read_header(source, len(data))
    assert caught.value.offset == offset
    assert source.bytes_asked <= len(data)


TWO_KEYS = P.file([KV, P.kv("s", STRING, P.string("x" * 200))])
LIMITED: dict[str, tuple[GgufLimits, bytes, str]] = {
    "header_bytes": (GgufLimits(header_bytes=200), TWO_KEYS, "beyond the 200 bytes that a header may have"),
    "key_values": (GgufLimits(key_values=1), TWO_KEYS, "2 key-values are more than the 1 allowed"),
    "tensors": (GgufLimits(tensors=2), sample(), "3 tensors are more than the 2 allowed"),
    "name_bytes": (GgufLimits(name_bytes=4), sample(), "a key has 20 bytes, more than the 4 allowed"),
    "all_names_bytes": (GgufLimits(all_names_bytes=1), TWO_KEYS, "keys and tensor names exceed the 1 bytes allowed"),
    "strings": (GgufLimits(strings=4), sample(), "arrays hold more than the 4 strings allowed"),
    "inner_arrays": (GgufLimits(inner_arrays=1), sample(), "arrays hold more than the 1 arrays allowed"),
    "depth": (GgufLimits(depth=1), sample(), "more than 1 arrays in one another"),
}


@pytest.mark.parametrize(("limits", "data", "reason"), LIMITED.values(), ids=LIMITED)
def test_refuses_beyond_a_limit(limits: GgufLimits, data: bytes, reason: str) -> None:
    read(data)
    with pytest.raises(GgufError, match=re.escape(reason)):
        read(data, limits)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_source_that_breaks_its_word_is_not_the_format_s_fault(change: int) -> None:
    data = sample()
    with pytest.raises(InvalidInput, match=f"asked for {len(data)} bytes at 0, got {len(data) + change}") as caught:
        read_header(lambda offset, length: bytes(length + change), len(data))
    assert not isinstance(caught.value, GgufError)


# How much it does


def test_tensor_data_is_not_read() -> None:
    head = P.file([KV], [P.tensor("t", [2**30], TYPE_F32, 0)])
    source = SparseSource(head, 5 * 2**30)
    assert read_header(source, source.size).tensors[0].nbytes == 2**32
    assert source.asked == [(0, 256 * 1024)]


def test_arrays_of_numbers_are_not_read() -> None:
    head = P.file([P.kv("scores", ARRAY, P.array(F32, [], count=50_000_000))])
    source = SparseSource(head, len(head) + 200_000_000)
    (kv,) = read_header(source, source.size).kvs
    assert kv.length == source.size - 24
    assert source.bytes_asked == 256 * 1024


def test_reading_ends_at_the_header_s_ceiling() -> None:
    limits = GgufLimits(header_bytes=3_000_000)
    head = P.file([P.kv("tokens", ARRAY, P.array(STRING, [], count=1_000_000))])
    source = SparseSource(head, 2**40)
    with pytest.raises(GgufError, match="beyond the 3000000 bytes that a header may have"):
        read_header(source, source.size, limits)
    assert source.bytes_asked <= 3_000_000


def test_many_strings_are_read_once_in_few_steps() -> None:
    strings = P.strings([f"token {index}" for index in range(150_000)])
    data = P.file([P.kv("tokens", ARRAY, strings), KV])
    source = Source(data)
    assert read_header(source, len(data)).value("k") == 5
    assert source.bytes_asked <= len(data)
    assert len(source.asked) <= 5
    assert all(length <= 1024 * 1024 for _, length in source.asked)


@given(st.lists(st.integers(0, 400_000), max_size=8), st.integers(0, 3))
def test_strings_may_end_anywhere_in_a_window(lengths: list[int], array_values: int) -> None:
    texts = [b"x" * length for length in lengths]
    data = P.file([P.kv("a", ARRAY, P.strings(texts)), KV])
    source = Source(data)
    header = read_header(source, len(data), GgufLimits(array_values=array_values))
    check_invariants(header, len(data))
    assert source.bytes_asked <= len(data)
    assert header.value("k") == 5


# Laws


def check_invariants(header: GgufHeader, size: int) -> None:
    """What holds of every header that was read, whatever the bytes were."""
    at = 24
    for kv in header.kvs:
        assert kv.offset == at
        at += kv.length
    assert at == header.tensor_table_offset <= header.header_end <= size
    assert 0 <= header.data_offset - header.header_end < header.alignment
    assert header.data_offset % header.alignment == 0
    assert len({kv.key for kv in header.kvs}) == len(header.kvs)
    assert len({tensor.name for tensor in header.tensors}) == len(header.tensors)
    end = header.data_offset
    for tensor in sorted(header.tensors, key=lambda tensor: tensor.offset):
        start = header.data_offset + tensor.offset
        assert end <= start < size
        assert tensor.offset % header.alignment == 0
        end = start + (tensor.nbytes or 1)
        assert end <= size


def read_or_refuse(data: bytes) -> None:
    source = Source(data)
    with contextlib.suppress(GgufError):
        check_invariants(read_header(source, len(data)), len(data))
    assert source.bytes_asked <= len(data)


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    read_or_refuse(data)


@given(st.sampled_from([LITTLE, BIG]), st.integers(0, 4), st.integers(0, 4), st.binary(max_size=400))
def test_any_bytes_after_a_good_start_are_read_or_refused(packer: Packer, kvs: int, tensors: int, rest: bytes) -> None:
    read_or_refuse(packer.file(kv_count=kvs, tensor_count=tensors) + rest)


SAMPLES = [sample(LITTLE, 3), sample(BIG, 3), sample(LITTLE, 2)]


@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(1, 255)), min_size=1, max_size=4),
)
def test_a_file_with_flipped_bits_is_read_or_refused(data: bytes, flips: list[tuple[int, int]]) -> None:
    changed = bytearray(data)
    for at, mask in flips:
        changed[at % len(data)] ^= mask
    read_or_refuse(bytes(changed))


@given(st.sampled_from(SAMPLES), st.integers(0, 2**16), st.integers(0, 2**64 - 1), st.sampled_from([4, 8]))
def test_a_file_with_a_changed_number_is_read_or_refused(data: bytes, at: int, number: int, width: int) -> None:
    at %= len(data) - width
    raw = (number % 256**width).to_bytes(width, "little")
    read_or_refuse(data[:at] + raw + data[at + width :])


@pytest.mark.parametrize("data", SAMPLES)
def test_a_file_cut_anywhere_is_refused(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(GgufError):
            read(data[:length])
