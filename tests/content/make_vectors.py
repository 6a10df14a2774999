"""Makes docs/vectors: `cd tests && python -m content.make_vectors`.

The vectors freeze the formats of docs/protocol.md. New cases may be added; what is there never changes, since manifests
that people have signed were cut and encoded by the same rules.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aibrother_node.content.chunks import FIXED_1, GGUF_1, build_manifest
from content.gguf_files import (
    ARRAY,
    BIG,
    LITTLE,
    STRING,
    TYPE_F32,
    TYPE_Q4_0,
    TYPE_UNKNOWN,
    U32,
    Packer,
    Source,
    header_with,
    tokens,
)
from content.test_chunks import MALFORMED
from content.test_gguf import HOSTILE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aibrother_node.content.gguf import GgufHeader

VECTORS = Path(__file__).parents[2] / "docs" / "vectors"
KIB = 1024
MIB = 1024 * 1024


# Files, each as the list of the chunks that it must be cut into


def pad(data: bytes, before: int, alignment: int = 32) -> bytes:
    """Add the padding up to the next multiple, for bytes that begin at `before`."""
    return data + bytes(-(before + len(data)) % alignment)


def pattern(length: int, seed: int) -> bytes:
    return bytes((index * 7 + seed) % 251 for index in range(length))


def small_kvs(p: Packer) -> bytes:
    return b"".join(
        [
            p.kv("general.architecture", STRING, p.string("llama")),
            p.kv("llama.context_length", U32, p.number("I", 4096)),
            p.kv("tokenizer.ggml.tokens", ARRAY, p.strings(tokens(20))),
            p.kv("tokenizer.chat_template", STRING, p.string("{{ messages }}")),
        ]
    )


def model(p: Packer = LITTLE, version: int = 3) -> list[bytes]:
    first = p.start(3, 4, version=version) + small_kvs(p)
    rows = p.tensor("token_embd.weight", [32, 8], TYPE_Q4_0, 0)
    rows += p.tensor("output_norm.weight", [9], TYPE_F32, 160) + p.tensor("output.weight", [4, 4], TYPE_F32, 224)
    data = pad(pattern(144, 1), 0) + pad(pattern(36, 2), 0) + pad(pattern(64, 3), 0)
    return [first, pad(rows, len(first)), data]


def no_tensors() -> list[bytes]:
    return [LITTLE.start(0, 4) + small_kvs(LITTLE)]


def no_tensors_padded() -> list[bytes]:
    (first,) = no_tensors()
    return [first, pad(b"", len(first)), b"bytes after the data"]


def trailing_bytes() -> list[bytes]:
    return [*model(), b"a signature, say"]


def unpadded_end() -> list[bytes]:
    first = LITTLE.start(1, 4) + small_kvs(LITTLE)
    rows = LITTLE.tensor("t", [5], TYPE_F32, 0)
    return [first, pad(rows, len(first)), pattern(20, 4)]


def unknown_type() -> list[bytes]:
    first = LITTLE.start(2, 4) + small_kvs(LITTLE)
    rows = LITTLE.tensor("new", [5], TYPE_UNKNOWN, 64) + LITTLE.tensor("old", [16], TYPE_F32, 0)
    return [first, pad(rows, len(first)), pattern(64, 5) + pattern(77, 6)]


def large_key_value() -> list[bytes]:
    p = LITTLE
    before = p.start(1, 4) + p.kv("general.architecture", STRING, p.string("llama"))
    large = p.kv("tokenizer.ggml.tokens", ARRAY, p.strings(tokens(4000)))
    exact = p.kv("tokenizer.chat_template", STRING, p.string("x" * (64 * KIB - 43)))
    after = p.kv("tokenizer.ggml.bos_token_id", U32, p.number("I", 1))
    assert len(large) > 64 * KIB == len(exact)
    rows = pad(p.tensor("t", [8], TYPE_F32, 0), len(before + large + exact + after))
    return [before, large, exact, after, rows, pattern(32, 7)]


def alignment_and_gaps() -> list[bytes]:
    p = LITTLE
    first = p.start(2, 1) + p.kv("general.alignment", U32, p.number("I", 128))
    rows = p.tensor("later", [3], TYPE_F32, 512) + p.tensor("earlier", [32], TYPE_Q4_0, 256)
    data = bytes(256) + pattern(18, 8) + bytes(238) + pattern(12, 9) + bytes(116)
    return [first, pad(rows, len(first), 128), data]


def small_tensors() -> list[bytes]:
    p = LITTLE
    first = p.start(40, 0)
    rows = b"".join(p.tensor(f"blk.{index}", [64], TYPE_F32, 256 * index) for index in range(40))
    return [first, pad(rows, len(first)), b"".join(pattern(256, index) for index in range(40))]


def lying() -> list[bytes]:
    return [LITTLE.file([], [LITTLE.tensor("t", [1000], TYPE_F32, 0)], pattern(100, 10))]


FILES: dict[str, tuple[str, list[bytes]]] = {
    "v3.gguf": (GGUF_1, model()),
    "v3-as-fixed.gguf": (FIXED_1, [b"".join(model())]),
    "v2.gguf": (GGUF_1, model(version=2)),
    "big-endian.gguf": (GGUF_1, model(BIG)),
    "no-tensors.gguf": (GGUF_1, no_tensors()),
    "no-tensors-padded.gguf": (GGUF_1, no_tensors_padded()),
    "trailing-bytes.gguf": (GGUF_1, trailing_bytes()),
    "unpadded-end.gguf": (GGUF_1, unpadded_end()),
    "unknown-type.gguf": (GGUF_1, unknown_type()),
    "large-key-value.gguf": (GGUF_1, large_key_value()),
    "alignment-and-gaps.gguf": (GGUF_1, alignment_and_gaps()),
    "small-tensors.gguf": (GGUF_1, small_tensors()),
    "lying.gguf": (FIXED_1, lying()),
    "text.bin": (FIXED_1, [b"Not a model at all.\n"]),
    "empty.bin": (FIXED_1, []),
}


# Headers as positions, so that lengths of many MiB need no files


CUTS: dict[str, tuple[GgufHeader, int, list[int]]] = {
    # key-values
    "nothing but the fixed part": (header_with(), 24, [24]),
    "small key-values are one chunk with the fixed part": (header_with([40, 100, 60]), 224, [224]),
    "one byte short of standing alone": (header_with([64 * KIB - 1]), 64 * KIB + 23, [64 * KIB + 23]),
    "standing alone": (header_with([64 * KIB]), 64 * KIB + 24, [24, 64 * KIB]),
    "large ones divide the small": (
        header_with([10, 64 * KIB, 100 * KIB, 20, 30, 64 * KIB, 7]),
        24 + 67 + 228 * KIB,
        [34, 64 * KIB, 100 * KIB, 50, 64 * KIB, 7],
    ),
    "a large one is split from its own start": (
        header_with([10, 17 * MIB, 20]),
        54 + 17 * MIB,
        [34, 8 * MIB, 8 * MIB, MIB, 20],
    ),
    "a run of small ones is split": (
        header_with([60 * KIB] * 150),
        24 + 9000 * KIB,
        [8 * MIB, 24 + 9000 * KIB - 8 * MIB],
    ),
    # the table
    "a table without tensors' data after it can't be, a padding can": (header_with([8]), 64, [32, 32]),
    "the padding is cut off": (header_with([40]), 70, [64, 6]),
    "the table and its padding": (header_with([8], 100, [(0, 4)]), 164, [32, 128, 4]),
    "a table of 9 MiB": (header_with([8], 9 * MIB, [(0, 4)]), 9 * MIB + 36, [32, 8 * MIB, MIB, 4]),
    # tensors
    "small ones are one chunk": (header_with([8], 32, [(0, 64), (64, 32), (96, 20)]), 192, [32, 32, 128]),
    "up to 1 MiB": (
        header_with([8], 32, [(0, 512 * KIB), (512 * KIB, 512 * KIB), (MIB, 32)]),
        64 + MIB + 32,
        [32, 32, MIB, 32],
    ),
    "and not beyond": (
        header_with([8], 32, [(0, 512 * KIB), (512 * KIB, 512 * KIB + 32), (MIB + 32, 32)]),
        64 + MIB + 64,
        [32, 32, 512 * KIB, 512 * KIB + 64],
    ),
    "1 MiB starts its own chunk": (
        header_with([8], 32, [(0, 32), (32, MIB), (MIB + 32, 64)]),
        64 + MIB + 96,
        [32, 32, 32, MIB, 64],
    ),
    "a large one is not joined by the small one after it": (
        header_with([8], 32, [(0, 8 * MIB + 32), (8 * MIB + 32, 64)]),
        64 + 8 * MIB + 96,
        [32, 32, 8 * MIB, 32, 64],
    ),
    "in order of offset, not of the table": (
        header_with([8], 32, [(MIB + 32, 64), (0, 32), (32, MIB)]),
        64 + MIB + 96,
        [32, 32, 32, MIB, 64],
    ),
    "a gap goes to the tensor before it": (
        header_with([8], 32, [(0, 32), (MIB, 32)]),
        64 + MIB + 32,
        [32, 32, MIB, 32],
    ),
    "a small gap before the first tensor joins it": (header_with([8], 32, [(64, 32)]), 160, [32, 32, 96]),
    "a large gap before the first tensor is a chunk": (
        header_with([8], 32, [(9 * MIB, 32)]),
        64 + 9 * MIB + 32,
        [32, 32, 8 * MIB, MIB, 32],
    ),
    # after the data
    "the last tensor's padding is its own": (header_with([8], 32, [(0, 20)]), 96, [32, 32, 32]),
    "half the padding too": (header_with([8], 32, [(0, 20)]), 90, [32, 32, 26]),
    "bytes after the data are a chunk": (header_with([8], 32, [(0, 20)]), 97, [32, 32, 32, 1]),
    "small bytes after small tensors are a chunk all the same": (
        header_with([8], 32, [(0, 32), (32, 32)]),
        64 + 64 + 500,
        [32, 32, 64, 500],
    ),
    "many bytes after the data are split": (
        header_with([8], 32, [(0, 32)]),
        96 + 8 * MIB + 5,
        [32, 32, 32, 8 * MIB, 5],
    ),
    "after a last tensor of a type without a size nothing follows": (
        header_with([8], 32, [(0, 32), (32, None)]),
        64 + 32 + 500,
        [32, 32, 532],
    ),
    "a type that gguf/1 does not know has no size for it": (
        header_with([8], 32, [(0, 32)], type_id=42),
        96 + 500,
        [32, 32, 532],
    ),
    "another alignment": (header_with([8], 32, [(0, 20)], alignment=64), 64 + 64 + 3, [32, 32, 64, 3]),
}


def describe(name: str, header: GgufHeader, size: int, lengths: Sequence[int]) -> dict[str, Any]:
    return {
        "name": name,
        "size": size,
        "alignment": header.alignment,
        "key_values": [[kv.offset, kv.length] for kv in header.kvs],
        "tensor_table_offset": header.tensor_table_offset,
        "data_offset": header.data_offset,
        "tensors": [{"offset": t.offset, "nbytes": t.nbytes, "type": t.type_id} for t in header.tensors],
        "lengths": list(lengths),
    }


def vectors() -> dict[str, bytes]:
    """Return every file under docs/vectors but the README, by its path there."""
    made: dict[str, bytes] = {}
    index = []
    for name, (chunker, chunks) in FILES.items():
        data = b"".join(chunks)
        manifest = build_manifest(Source(data), len(data), chunker=chunker)
        assert list(manifest.lengths) == [len(chunk) for chunk in chunks], name
        made[f"files/{name}"] = data
        made[f"files/{name}.chunks.msgpack"] = manifest.encode()
        made[f"files/{name}.chunks.json"] = as_json(manifest.to_json())
        index.append({"file": name, "chunker": chunker, "manifest": str(manifest.digest())})
    made["files.json"] = as_json(index)
    made["cuts.json"] = lines(describe(name, *case) for name, case in CUTS.items())
    made["refused-headers.json"] = lines(
        {"name": name, "reason": reason, "offset": offset, "hex": data.hex()}
        for name, (data, reason, offset) in HOSTILE.items()
        if len(data) < 1000
    )
    made["refused-manifests.json"] = lines(
        {"name": name, "hex": data.hex()} for name, (data, _) in MALFORMED.items() if len(data) < 1000
    )
    return made


def as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def lines(rows: Any) -> bytes:
    """One case a line, so that a diff shows which one changed."""
    return ("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n").encode()


def main() -> None:
    for name, data in vectors().items():
        path = VECTORS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    main()
