"""Chunkers and manifests: every byte in exactly one chunk, one encoding, and an edit that costs what it changes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import gguf
import msgpack
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from aibrother_node.content.chunks import (
    FIXED_1,
    GGUF_1,
    MAX_CHUNK,
    MAX_CHUNKS,
    MAX_MANIFEST_BYTES,
    Chunk,
    ChunkManifest,
    ManifestError,
    build_manifest,
    chunk_hashes,
    cut,
    fixed_lengths,
    gguf_lengths,
)
from aibrother_node.content.cuts import SIZED_TYPES
from aibrother_node.content.digest import Digest
from aibrother_node.content.ggml_types import GGML_TYPES
from aibrother_node.content.gguf import GgufError, GgufHeader, read_header
from aibrother_node.errors import InvalidInput
from content.gguf_files import (
    BIG,
    LITTLE,
    REAL_FILES,
    STRING,
    TYPE_F32,
    Source,
    SparseSource,
    header_with,
    replace_string,
    write_model,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

MIB = 1024 * 1024
KIB = 1024


# Where fixed/1 cuts


@pytest.mark.parametrize(
    ("size", "lengths"),
    [
        (0, []),
        (1, [1]),
        (8 * MIB - 1, [8 * MIB - 1]),
        (8 * MIB, [8 * MIB]),
        (8 * MIB + 1, [8 * MIB, 1]),
        (24 * MIB, [8 * MIB] * 3),
    ],
)
def test_fixed_lengths(size: int, lengths: list[int]) -> None:
    assert fixed_lengths(size) == lengths


# Where gguf/1 cuts: case by case in docs/vectors/cuts.json, here what holds of all


@st.composite
def headers(draw: st.DrawFn) -> tuple[GgufHeader, int]:
    """Any header that the reader could return, with the size of its file."""
    near = st.sampled_from([64 * KIB, MIB, 8 * MIB]).flatmap(lambda edge: st.integers(edge - 40, edge + 40))
    lengths = st.one_of(st.integers(14, 2000), near, st.integers(14, 20 * MIB))
    alignment = draw(st.sampled_from([1, 32, 4096]))
    tensors: list[tuple[int, int | None]] = []
    at = draw(st.sampled_from([0, 0, 0, 50, 3 * MIB])) // alignment * alignment
    for length in draw(st.lists(lengths, max_size=12)):
        tensors.append((at, draw(st.sampled_from([length, length, None]))))
        at = -(-(at + length) // alignment) * alignment
    kvs, table = draw(st.lists(lengths, max_size=8)), draw(lengths) if tensors else 0
    head = header_with(kvs, table, draw(st.permutations(tensors)), alignment=alignment)
    if not tensors:
        return head, head.header_end + draw(st.sampled_from([0, 1, 31, 5000, 9 * MIB]))
    last, nbytes = tensors[-1]
    return head, head.data_offset + last + (nbytes or 1) + draw(st.sampled_from([0, 1, 31, 5000, 9 * MIB]))


@given(headers())
def test_every_byte_is_in_exactly_one_chunk(case: tuple[GgufHeader, int]) -> None:
    head, size = case
    lengths = gguf_lengths(head, size)
    assert sum(lengths) == size
    assert all(1 <= length <= MAX_CHUNK for length in lengths)


@given(headers())
def test_cuts_fall_where_the_meaning_changes(case: tuple[GgufHeader, int]) -> None:
    head, size = case
    cuts = {0}
    for length in gguf_lengths(head, size):
        cuts.add(max(cuts) + length)
    for kv in head.kvs:
        if kv.length >= 64 * KIB:
            assert {kv.offset, kv.offset + kv.length} <= cuts
    assert {head.tensor_table_offset, min(head.data_offset, size)} <= cuts
    by_offset = sorted(tensor.offset for tensor in head.tensors)
    for index, offset in enumerate(by_offset[:-1]):
        if by_offset[index + 1] - offset >= MIB:
            assert {head.data_offset + offset, head.data_offset + by_offset[index + 1]} <= cuts


def test_the_types_that_the_chunker_sizes_never_change() -> None:
    """gguf/1 is frozen: a type that joins GGML_TYPES stays out of the chunker's list."""
    assert sorted(SIZED_TYPES) == [0, 1, 2, 3, *range(6, 31), 34, 35, 39, 40, 41]
    assert set(GGML_TYPES) >= SIZED_TYPES


# Which chunker


def test_cut_takes_fixed_for_what_is_not_gguf() -> None:
    data = b"not a model"
    assert cut(Source(data), len(data)) == (FIXED_1, [len(data)])


def test_cut_takes_fixed_for_nothing() -> None:
    assert cut(Source(b""), 0) == (FIXED_1, [])


def test_cut_takes_fixed_for_a_header_that_lies() -> None:
    data = LITTLE.file([], [LITTLE.tensor("t", [1000], TYPE_F32, 0)], bytes(100))
    assert cut(Source(data), len(data)) == (FIXED_1, [len(data)])


@pytest.mark.parametrize("packer", [LITTLE, BIG])
def test_cut_takes_gguf(packer: Any) -> None:
    data = packer.file([packer.kv("k", STRING, packer.string("v"))], [packer.tensor("t", [5], TYPE_F32, 0)], bytes(32))
    chunker, lengths = cut(Source(data), len(data))
    assert chunker == GGUF_1
    assert lengths == [46, len(data) - 46 - 32, 32]


def test_cut_reads_no_tensor_data() -> None:
    size = 30 * 2**30
    source = SparseSource(LITTLE.file([], [LITTLE.tensor("t", [2**32], TYPE_F32, 0)]), size)
    chunker, lengths = cut(source, size)
    assert (chunker, sum(lengths)) == (GGUF_1, size)
    assert source.bytes_asked == 256 * KIB


def test_cut_takes_fixed_where_gguf_would_have_too_many_chunks() -> None:
    size = 8 * MIB * MAX_CHUNKS
    source = SparseSource(LITTLE.file([], [LITTLE.tensor("t", [2**34], TYPE_F32, 0)]), size)
    chunker, lengths = cut(source, size)
    assert (chunker, len(lengths)) == (FIXED_1, MAX_CHUNKS)


def test_a_source_that_breaks_its_word_is_not_taken_for_another_format() -> None:
    with pytest.raises(InvalidInput, match="asked for 100 bytes at 0, got 0"):
        cut(lambda _offset, _length: b"", 100)


# What an edit costs


def changed_bytes(before: bytes, after: bytes) -> tuple[int, int]:
    """Return the bytes in chunks of `after` that `before` does not have, cut by gguf/1 and by fixed/1."""

    def new(chunker: str) -> int:
        have = {chunk.sha256 for chunk in build_manifest(Source(before), len(before), chunker=chunker)}
        manifest = build_manifest(Source(after), len(after), chunker=chunker)
        return sum(chunk.length for chunk in manifest if chunk.sha256 not in have)

    return new(GGUF_1), new(FIXED_1)


def fix_template(template: str) -> str:
    return template.replace("{%", "{%- ", 1) + "{# said more clearly, and therefore longer #}"


def test_a_new_chat_template_of_a_large_model_changes_little(tmp_path: Path) -> None:
    """150,000 tokens and as many merges, as in the tokenizers of 2025, then tensors small and large."""
    q8 = gguf.GGMLQuantizationType.Q8_0
    f32 = gguf.GGMLQuantizationType.F32
    tensors: list[tuple[str, tuple[int, ...], Any]] = [("token_embd.weight", (2048, 1024), q8)]
    for block in range(4):
        tensors.append((f"blk.{block}.attn_norm.weight", (1024,), f32))
        tensors.append((f"blk.{block}.ffn_up.weight", (512, 1024), q8))
    template = "{% for message in messages %}{{ message.content }}{% endfor %}" * 60

    def write(name: str, chat_template: str) -> bytes:
        path = tmp_path / name
        write_model(path, tensors=tensors, chat_template=chat_template, vocabulary=150_000, merges=150_000)
        return path.read_bytes()

    before, after = write("before.gguf", template), write("after.gguf", fix_template(template))
    by_meaning, fixed = changed_bytes(before, after)
    print(f"{len(after)} bytes: gguf/1 {by_meaning}, fixed/1 {fixed} changed")
    assert 0 < by_meaning < 64 * KIB
    assert fixed == len(after)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("phi-3", "tokenizer.chat_template"),
        ("qwen2", "tokenizer.chat_template"),
        ("gpt-2", "general.name"),
        ("aquila", "general.name"),
    ],
)
def test_an_edited_text_of_a_real_file_changes_little(name: str, key: str) -> None:
    path = REAL_FILES / f"ggml-vocab-{name}.gguf"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    before = path.read_bytes()
    kvs = read_header(Source(before), len(before)).kvs
    after = replace_string(before, kvs, key, fix_template)
    by_meaning, fixed = changed_bytes(before, after)
    print(f"{path.name}, {key}: {len(after)} bytes: gguf/1 {by_meaning}, fixed/1 {fixed} changed")
    assert 0 < by_meaning < 64 * KIB


# Manifests


def make(lengths: Sequence[int] = (3, 2), chunker: str = FIXED_1) -> ChunkManifest:
    hashes = [chunk_hashes(bytes([index % 256])) for index in range(len(lengths))]
    return ChunkManifest(
        Digest(bytes(32)),
        sum(lengths),
        chunker,
        tuple(lengths),
        b"".join(sha256 for sha256, _ in hashes),
        b"".join(xxh3 for _, xxh3 in hashes),
    )


def test_a_manifest_names_the_bytes() -> None:
    data = b"x" * 8 * MIB + b"tail"
    manifest = build_manifest(Source(data), len(data))
    assert manifest.blob == Digest(hashlib.sha256(data).digest())
    assert (len(manifest), manifest.size, manifest.offsets) == (2, len(data), (0, 8 * MIB))
    assert list(manifest) == [manifest.chunk(0), manifest.chunk(1)]
    assert manifest.chunk(1) == Chunk(
        1, 8 * MIB, 4, Digest(hashlib.sha256(b"tail").digest()), xxhash.xxh3_128(b"tail").digest()
    )
    assert manifest.chunk(1).xxh3.hex() == xxhash.xxh3_128(b"tail").hexdigest()
    for index in (-1, 2):
        with pytest.raises(IndexError):
            manifest.chunk(index)


def test_hashes_of_known_bytes() -> None:
    sha256, xxh3 = chunk_hashes(memoryview(b""))
    assert sha256.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert xxh3.hex() == "99aa06d3014798d86001c324468d497f"


def test_the_chunker_can_be_chosen(tmp_path: Path) -> None:
    data = write_model(tmp_path / "m.gguf").read_bytes()
    assert build_manifest(Source(data), len(data)).chunker == GGUF_1
    assert build_manifest(Source(data), len(data), chunker=FIXED_1).lengths == (len(data),)
    with pytest.raises(GgufError):
        build_manifest(Source(data[1:]), len(data) - 1, chunker=GGUF_1)
    with pytest.raises(InvalidInput, match="the chunker 'gguf/2' is not known"):
        build_manifest(Source(data), len(data), chunker="gguf/2")


def test_a_source_that_ends_early_makes_no_manifest() -> None:
    with pytest.raises(InvalidInput, match="asked for 5 bytes at 0, got 4"):
        build_manifest(lambda _offset, _length: b"four", 5, chunker=FIXED_1)


def test_the_encoding_to_the_byte() -> None:
    assert make().encode() == b"".join(
        [
            b"\x87",
            b"\xa1v\x01",
            b"\xa4blob\xc4\x20" + bytes(32),
            b"\xa4size\x05",
            b"\xa7chunker\xa7fixed/1",
            b"\xa7lengths\x92\x03\x02",
            b"\xa6sha256\xc4\x40" + hashlib.sha256(b"\0").digest() + hashlib.sha256(b"\1").digest(),
            b"\xa4xxh3\xc4\x20" + xxhash.xxh3_128_digest(b"\0") + xxhash.xxh3_128_digest(b"\1"),
        ]
    )
    assert make().digest() == Digest(hashlib.sha256(make().encode()).digest())


def test_the_view_for_people() -> None:
    view = make().to_json()
    assert list(view) == ["v", "blob", "size", "chunker", "chunks"]
    assert view["blob"] == "sha256:" + "0" * 64
    assert [(chunk["offset"], chunk["length"]) for chunk in view["chunks"]] == [(0, 3), (3, 2)]
    assert view["chunks"][1]["sha256"] == hashlib.sha256(b"\1").hexdigest()
    assert view["chunks"][1]["xxh3"] == xxhash.xxh3_128(b"\1").hexdigest()


LENGTHS = st.lists(st.one_of(st.integers(1, 300), st.integers(1, MAX_CHUNK)), max_size=40)


@given(LENGTHS, st.sampled_from([FIXED_1, GGUF_1]))
def test_encoding_and_decoding_are_inverse(lengths: list[int], chunker: str) -> None:
    manifest = make(lengths, chunker)
    assert ChunkManifest.decode(manifest.encode()) == manifest


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(-10, 1600), st.integers(-10, 1600))
def test_chunks_covering_holds_just_the_bytes_asked_for(lengths: list[int], start: int, stop: int) -> None:
    manifest = make(lengths)
    holding = [
        index
        for index, (offset, length) in enumerate(zip(manifest.offsets, lengths, strict=True))
        if max(offset, start) < min(offset + length, stop)
    ]
    assert list(manifest.chunks_covering(start, stop)) == holding


GOOD = {
    "v": 1,
    "blob": bytes(32),
    "size": 5,
    "chunker": "fixed/1",
    "lengths": [3, 2],
    "sha256": bytes(64),
    "xxh3": bytes(32),
}


def but(**changes: Any) -> bytes:
    """The good manifest with some values changed, packed."""
    packed: bytes = msgpack.packb({**GOOD, **changes})
    return packed


def swap(old: bytes, new: bytes) -> bytes:
    packed = but()
    assert packed.count(old) == 1
    return packed.replace(old, new)


MALFORMED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not a chunk manifest"),
    "not msgpack": (b"\xc1" * 10, "not a chunk manifest"),
    "not a map": (b"\x93\1\2\3", "not a chunk manifest"),
    "a map of another size": (msgpack.packb({"v": 1}), "a manifest has the keys v, blob, size"),
    "a map of 2**32-1": (b"\xdf\xff\xff\xff\xff\xa1v\x01", "a manifest has the keys"),
    "a long map header": (b"\xde\x00\x07" + but()[1:], "not in its one encoding"),
    "a key too many": (b"\x88" + but()[1:] + b"\xa1x\x01", "a manifest has the keys"),
    "bytes after it": (but() + b"\0", "bytes follow the manifest"),
    "another manifest after it": (but() * 2, "bytes follow the manifest"),
    "keys in another order": (
        msgpack.packb(dict(reversed(GOOD.items()))),
        "the key 'v' is missing or not in its place",
    ),
    "an unknown key": (swap(b"\xa4xxh3", b"\xa4xxh4"), "the key 'xxh3' is missing"),
    "a key as bytes": (swap(b"\xa4xxh3", b"\xc4\x04xxh3"), "the key 'xxh3' is missing"),
    "a key in long form": (swap(b"\xa4xxh3", b"\xd9\x04xxh3"), "not in its one encoding"),
    "version 2": (but(v=2), "a manifest of version 2, only 1 is known"),
    "version true": (but(v=True), "a manifest of version True, only 1 is known"),
    "version 1.0": (but(v=1.0), "a manifest of version 1.0, only 1 is known"),
    "version in long form": (swap(b"\xa1v\x01", b"\xa1v\xcc\x01"), "not in its one encoding"),
    "a digest of 31 bytes": (but(blob=bytes(31)), "the blob's digest is not 32 bytes"),
    "a digest as text": (but(blob="0" * 15), "the blob's digest is not 32 bytes"),
    "a digest as long text": (but(blob="0" * 32), "not a chunk manifest"),
    "size as a float": (but(size=5.0), "the size is 5.0"),
    "size as true": (but(size=True, lengths=[1], sha256=bytes(32), xxh3=bytes(16)), "the size is True"),
    "a negative size": (but(size=-5), "the size is -5"),
    "size as nil": (but(size=None), "the size is None"),
    "size in long form": (swap(b"\xa4size\x05", b"\xa4size\xcd\x00\x05"), "not in its one encoding"),
    "size as a signed number": (swap(b"\xa4size\x05", b"\xa4size\xd0\x05"), "not in its one encoding"),
    "another size": (but(size=6), "the chunks cover 5 bytes, the blob has 6"),
    "an unknown chunker": (but(chunker="gguf/2"), "the chunker 'gguf/2' is not known"),
    "a chunker as bytes": (but(chunker=b"fixed/1"), "the chunker b'fixed/1' is not known"),
    "a chunker as a number": (but(chunker=1), "the chunker 1 is not known"),
    "a chunker that is not UTF-8": (swap(b"fixed/1", b"fixed/\xff"), "not a chunk manifest"),
    "lengths as a map": (but(lengths={3: 2}), "not a chunk manifest"),
    "lengths as a number": (but(lengths=5), "not a chunk manifest"),
    "a length of 0": (but(lengths=[5, 0]), "a chunk's length is 0"),
    "a negative length": (but(lengths=[6, -1]), "a chunk's length is -1"),
    "a length of true": (but(lengths=[4, True]), "a chunk's length is True"),
    "a length of 2.0": (but(lengths=[3, 2.0]), "a chunk's length is 2.0"),
    "a length as text": (but(lengths=[3, "2"]), "a chunk's length is '2'"),
    "a length as bytes": (but(lengths=[3, b"2"]), "a chunk's length is b'2'"),
    "a length over 8 MiB": (but(lengths=[3, MAX_CHUNK + 1], size=MAX_CHUNK + 4), "a chunk's length is 8388609"),
    "a length in long form": (swap(b"\x92\x03\x02", b"\x92\x03\xcc\x02"), "not in its one encoding"),
    "lengths with a long header": (swap(b"\x92\x03\x02", b"\xdc\x00\x02\x03\x02"), "not in its one encoding"),
    "arrays in lengths": (but(lengths=[3, [2]]), "not a chunk manifest"),
    "empty arrays in lengths": (but(lengths=[3, []]), r"a chunk's length is \[\]"),
    "a map in lengths": (but(lengths=[3, {1: 2}]), "not a chunk manifest"),
    "a time in lengths": (but(lengths=[3, msgpack.Timestamp(2)]), "not a chunk manifest"),
    "fewer lengths than counted": (swap(b"\x92\x03\x02", b"\x9f\x03\x02"), "not a chunk manifest|'sha256' is missing"),
    "2**32-1 lengths": (swap(b"\x92\x03\x02", b"\xdd\xff\xff\xff\xff\x03\x02"), "4294967295 chunks are more than"),
    "sha256 of another length": (but(sha256=bytes(63)), "sha256 must have 32 bytes for each of the 2 chunks"),
    "sha256 as text": (but(sha256="x" * 16), "sha256 must have 32 bytes"),
    "sha256 as an array": (but(sha256=[0] * 64), "not a chunk manifest"),
    "sha256 in long form": (swap(b"\xa6sha256\xc4\x40", b"\xa6sha256\xc5\x00\x40"), "not in its one encoding"),
    "xxh3 of another length": (but(xxh3=bytes(33)), "xxh3 must have 16 bytes for each of the 2 chunks"),
    "xxh3 as nil": (but(xxh3=None), "xxh3 must have 16 bytes"),
    "xxh3 beyond the end": (but()[:-1], "not a chunk manifest"),
    "xxh3 of 4 GiB": (swap(b"\xa4xxh3\xc4\x20", b"\xa4xxh3\xc6\xff\xff\xff\xff"), "not a chunk manifest"),
}


def test_the_good_manifest_is_good() -> None:
    assert ChunkManifest.decode(but()).encode() == but()


@pytest.mark.parametrize(("data", "reason"), MALFORMED.values(), ids=MALFORMED)
def test_refuses(data: bytes, reason: str) -> None:
    with pytest.raises(ManifestError, match=reason):
        ChunkManifest.decode(data)


def test_refuses_what_is_larger_than_allowed() -> None:
    data = make([1] * 10).encode()
    assert ChunkManifest.decode(data, max_bytes=len(data), max_chunks=10)
    with pytest.raises(
        ManifestError, match=f"a manifest of {len(data)} bytes is larger than the {len(data) - 1} allowed"
    ):
        ChunkManifest.decode(data, max_bytes=len(data) - 1)
    with pytest.raises(ManifestError, match="10 chunks are more than the 9 allowed"):
        ChunkManifest.decode(data, max_chunks=9)


def test_a_blob_of_0_bytes_has_no_chunks() -> None:
    manifest = build_manifest(Source(b""), 0)
    assert (len(manifest), manifest.chunker, list(manifest.chunks_covering(0, 1))) == (0, FIXED_1, [])
    assert ChunkManifest.decode(manifest.encode(), max_chunks=0) == manifest


def test_the_largest_manifest_fits() -> None:
    lengths = (MAX_CHUNK,) * MAX_CHUNKS
    manifest = ChunkManifest(
        Digest(bytes(32)), sum(lengths), FIXED_1, lengths, bytes(32 * MAX_CHUNKS), bytes(16 * MAX_CHUNKS)
    )
    data = manifest.encode()
    assert len(data) <= MAX_MANIFEST_BYTES
    assert ChunkManifest.decode(data) == manifest


def decode_or_refuse(data: bytes) -> None:
    try:
        manifest = ChunkManifest.decode(data)
    except ManifestError:
        return
    assert manifest.encode() == data


@given(st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_refused(data: bytes) -> None:
    decode_or_refuse(data)


MSGPACK: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        st.text(max_size=20),
        st.binary(max_size=70),
        st.just(msgpack.Timestamp(1)),
        st.just(msgpack.ExtType(5, b"1234")),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)


@given(st.sampled_from(list(GOOD)), MSGPACK)
def test_any_value_in_any_place_is_refused_or_means_itself(key: str, value: Any) -> None:
    decode_or_refuse(but(**{key: value}))


@given(
    LENGTHS,
    st.lists(
        st.tuples(st.integers(0, 2**20), st.sampled_from(["flip", "drop", "add"]), st.integers(1, 255)), min_size=1
    ),
)
@settings(max_examples=200)
def test_a_mutated_manifest_is_refused_or_means_itself(lengths: list[int], changes: list[tuple[int, str, int]]) -> None:
    data = bytearray(make(lengths).encode())
    for at, change, byte in changes:
        where = at % max(len(data), 1)
        if change == "add" or not data:
            data.insert(where, byte)
        elif change == "drop":
            del data[where]
        else:
            data[where] ^= byte
    decode_or_refuse(bytes(data))


def truncations(data: bytes) -> list[bytes]:
    return [data[:length] for length in range(len(data))]


@pytest.mark.parametrize("make_bytes", [but, lambda: make([300, 70_000, 5]).encode()])
def test_a_manifest_cut_anywhere_is_refused(make_bytes: Callable[[], bytes]) -> None:
    for data in truncations(make_bytes()):
        with pytest.raises(ManifestError):
            ChunkManifest.decode(data)


INCONSISTENT: dict[str, tuple[dict[str, Any], str]] = {
    "size": ({"size": 6}, "cover 5 bytes"),
    "lengths": ({"lengths": (5, 0)}, "a chunk's length is 0"),
    "chunker": ({"chunker": "rolling"}, "is not known"),
    "sha256": ({"sha256": bytearray(64)}, "sha256 must have"),
    "xxh3": ({"xxh3": b""}, "xxh3 must have"),
}


@pytest.mark.parametrize(("changes", "reason"), INCONSISTENT.values(), ids=INCONSISTENT)
def test_an_inconsistent_manifest_can_t_be_made(changes: dict[str, Any], reason: str) -> None:
    fields = {**GOOD, "blob": Digest(bytes(32)), "lengths": (3, 2), **changes}
    del fields["v"]
    with pytest.raises(ManifestError, match=reason):
        ChunkManifest(**fields)
