"""The vectors of docs/vectors, read as another implementation would, and against ours."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import msgpack
import pytest
import xxhash

from aibrother_node.content.chunks import GGUF_1, ChunkManifest, ManifestError, build_manifest, cut, gguf_lengths
from aibrother_node.content.cuts import SIZED_TYPES
from aibrother_node.content.ggml_types import GGML_TYPES, GgmlType
from aibrother_node.content.gguf import GgufError, GgufHeader, GgufLimits, KeyValue, TensorInfo, ValueType, read_header
from content.gguf_files import Source
from content.make_vectors import VECTORS, vectors

FILES: list[dict[str, Any]] = json.loads((VECTORS / "files.json").read_bytes())
CUTS: list[dict[str, Any]] = json.loads((VECTORS / "cuts.json").read_bytes())
REFUSED_HEADERS: list[dict[str, Any]] = json.loads((VECTORS / "refused-headers.json").read_bytes())
REFUSED_MANIFESTS: list[dict[str, Any]] = json.loads((VECTORS / "refused-manifests.json").read_bytes())


def name(row: dict[str, Any]) -> str:
    return str(row.get("name", row.get("file")))


@pytest.mark.parametrize("row", FILES, ids=name)
def test_a_manifest_is_what_it_says_of_the_file(row: dict[str, Any]) -> None:
    """Only hashlib, msgpack and xxhash: the files agree among themselves, whatever our code does."""
    data = (VECTORS / "files" / row["file"]).read_bytes()
    packed = (VECTORS / "files" / f"{row['file']}.chunks.msgpack").read_bytes()
    view = json.loads((VECTORS / "files" / f"{row['file']}.chunks.json").read_bytes())
    fields = msgpack.unpackb(packed)
    assert row["manifest"] == "sha256:" + hashlib.sha256(packed).hexdigest()
    assert list(fields) == ["v", "blob", "size", "chunker", "lengths", "sha256", "xxh3"]
    assert fields["blob"] == hashlib.sha256(data).digest()
    assert (fields["v"], fields["size"], fields["chunker"]) == (1, len(data), row["chunker"])
    at = 0
    for index, length in enumerate(fields["lengths"]):
        piece = data[at : at + length]
        assert fields["sha256"][32 * index :][:32] == hashlib.sha256(piece).digest()
        assert fields["xxh3"][16 * index :][:16] == xxhash.xxh3_128(piece).digest()
        assert view["chunks"][index] == {
            "offset": at,
            "length": length,
            "sha256": hashlib.sha256(piece).hexdigest(),
            "xxh3": xxhash.xxh3_128(piece).hexdigest(),
        }
        at += length
    assert at == len(data)


@pytest.mark.parametrize("row", FILES, ids=name)
def test_we_make_the_same_manifest(row: dict[str, Any]) -> None:
    data = (VECTORS / "files" / row["file"]).read_bytes()
    packed = (VECTORS / "files" / f"{row['file']}.chunks.msgpack").read_bytes()
    manifest = build_manifest(Source(data), len(data), chunker=row["chunker"])
    assert manifest.encode() == packed
    assert str(manifest.digest()) == row["manifest"]
    assert ChunkManifest.decode(packed) == manifest
    assert manifest.to_json() == json.loads((VECTORS / "files" / f"{row['file']}.chunks.json").read_bytes())
    if row["file"] != "v3-as-fixed.gguf":  # a GGUF file on purpose
        assert cut(Source(data), len(data)) == (row["chunker"], list(manifest.lengths))


@pytest.mark.parametrize("row", CUTS, ids=name)
def test_we_cut_at_the_same_places(row: dict[str, Any]) -> None:
    header = GgufHeader(
        version=3,
        byte_order="little",
        alignment=row["alignment"],
        kvs=tuple(
            KeyValue(str(offset), ValueType.STRING, offset, length, None) for offset, length in row["key_values"]
        ),
        tensors=tuple(TensorInfo(str(t["offset"]), (), t["type"], t["offset"], t["nbytes"]) for t in row["tensors"]),
        tensor_table_offset=row["tensor_table_offset"],
        header_end=row["tensor_table_offset"],
        data_offset=row["data_offset"],
    )
    assert gguf_lengths(header, row["size"]) == row["lengths"]
    assert sum(row["lengths"]) == row["size"]


@pytest.mark.parametrize("row", REFUSED_HEADERS, ids=name)
def test_we_refuse_the_same_headers(row: dict[str, Any]) -> None:
    data = bytes.fromhex(row["hex"])
    with pytest.raises(GgufError) as caught:
        read_header(Source(data), len(data))
    assert caught.value.offset == row["offset"]
    assert cut(Source(data), len(data))[0] != GGUF_1


@pytest.mark.parametrize("row", REFUSED_MANIFESTS, ids=name)
def test_we_refuse_the_same_manifests(row: dict[str, Any]) -> None:
    with pytest.raises(ManifestError):
        ChunkManifest.decode(bytes.fromhex(row["hex"]))


def test_the_vectors_are_what_the_script_makes() -> None:
    made = vectors()
    there = {
        str(path.relative_to(VECTORS)): path.read_bytes()
        for path in VECTORS.rglob("*")
        if path.is_file() and path.name != "README.md" and path.relative_to(VECTORS).parts[0] != "catalog"
    }
    assert sorted(there) == sorted(made)
    assert [path for path in made if made[path] != there[path]] == []


def test_the_protocol_s_table_of_types_is_the_chunker_s() -> None:
    text = (VECTORS.parent / "protocol.md").read_text("utf-8")
    rows = re.findall(r"\| (\d+) \| ([A-Z]\w+) \| (\d+) \| (\d+) ", text)
    table = {int(number): GgmlType(name, int(block), int(size)) for number, name, block, size in rows}
    assert table == {number: GGML_TYPES[number] for number in SIZED_TYPES}


def test_the_protocol_s_ceilings_are_the_reader_s() -> None:
    text = (VECTORS.parent / "protocol.md").read_text("utf-8")
    (paragraph,) = re.findall(r"\*Ceilings\.\*(.*?)\n\n", text, re.DOTALL)
    limits = GgufLimits()
    for count in (limits.key_values, limits.tensors, limits.strings, limits.inner_arrays):
        assert f"{count:,} " in paragraph
    for size in (limits.all_names_bytes, limits.header_bytes):
        assert f"{size >> 20} MiB" in paragraph
