"""GGUF files for tests: packed by hand, where each byte is ours to get wrong, and written by the `gguf` package."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np

from aibrother_node.content.gguf import GgufHeader, KeyValue, TensorInfo, ValueType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

REAL_FILES = Path(__file__).parents[3] / "shared" / "data"
"""Real tokenizer-only files, where a developer has them; not part of the project."""

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
"""The value types by number."""
TYPE_F32, TYPE_Q4_0, TYPE_Q4_K, TYPE_UNKNOWN = 0, 2, 12, 1000
"""Tensor types by number; nobody has given out the last."""


@dataclass
class Source:
    """A `read_at` over bytes that counts what is asked of it."""

    data: bytes
    asked: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, offset: int, length: int) -> bytes:
        assert length > 0
        assert offset + length <= len(self.data), "asked for bytes beyond the end"
        self.asked.append((offset, length))
        return self.data[offset : offset + length]

    @property
    def bytes_asked(self) -> int:
        return sum(length for _, length in self.asked)


@dataclass
class SparseSource:
    """A `read_at` over a file of any size that is zero after its first bytes, and takes no memory for them."""

    head: bytes
    size: int
    asked: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, offset: int, length: int) -> bytes:
        assert offset + length <= self.size, "asked for bytes beyond the end"
        self.asked.append((offset, length))
        return self.head[offset : offset + length].ljust(length, b"\0")

    @property
    def bytes_asked(self) -> int:
        return sum(length for _, length in self.asked)


@dataclass(frozen=True)
class Packer:
    """Packs the parts of a GGUF file in one byte order; nothing is checked, so that anything can be wrong."""

    order: str = "<"

    def number(self, code: str, value: float) -> bytes:
        return struct.pack(self.order + code, value)

    def string(self, text: bytes | str, length: int | None = None) -> bytes:
        raw = text.encode() if isinstance(text, str) else text
        return self.number("Q", len(raw) if length is None else length) + raw

    def kv(self, key: bytes | str, kind: int, value: bytes) -> bytes:
        return self.string(key) + self.number("I", kind) + value

    def array(self, kind: int, items: Iterable[bytes], count: int | None = None) -> bytes:
        items = list(items)
        return self.number("I", kind) + self.number("Q", len(items) if count is None else count) + b"".join(items)

    def strings(self, texts: Sequence[bytes | str]) -> bytes:
        return self.array(STRING, map(self.string, texts))

    def tensor(self, name: bytes | str, dims: Sequence[int], kind: int, offset: int, rank: int | None = None) -> bytes:
        shape = b"".join(self.number("Q", dim) for dim in dims)
        count = self.number("I", len(dims) if rank is None else rank)
        return self.string(name) + count + shape + self.number("I", kind) + self.number("Q", offset)

    def start(self, tensor_count: int, kv_count: int, *, version: int = 3, magic: bytes = b"GGUF") -> bytes:
        return magic + self.number("I", version) + self.number("Q", tensor_count) + self.number("Q", kv_count)

    def file(
        self,
        kvs: Sequence[bytes] = (),
        tensors: Sequence[bytes] = (),
        data: bytes = b"",
        *,
        magic: bytes = b"GGUF",
        version: int = 3,
        kv_count: int | None = None,
        tensor_count: int | None = None,
        alignment: int = 32,
    ) -> bytes:
        """Put the parts together; the padding before `data` is left out when there is none."""
        head = self.start(
            len(tensors) if tensor_count is None else tensor_count,
            len(kvs) if kv_count is None else kv_count,
            version=version,
            magic=magic,
        )
        head += b"".join(kvs) + b"".join(tensors)
        if data:
            head += bytes(-len(head) % alignment)
        return head + data


LITTLE = Packer("<")
BIG = Packer(">")


def header_with(
    kvs: Sequence[int] = (),
    table: int = 0,
    tensors: Sequence[tuple[int, int | None]] = (),
    *,
    alignment: int = 32,
    type_id: int = TYPE_F32,
) -> GgufHeader:
    """Return a header whose key-values and table have these lengths; tensors are (offset, bytes or None)."""
    at = 24
    records = []
    for index, length in enumerate(kvs):
        records.append(KeyValue(f"k{index}", ValueType.STRING, at, length, None))
        at += length
    infos = tuple(
        TensorInfo(f"t{index}", (), TYPE_UNKNOWN if nbytes is None else type_id, offset, nbytes)
        for index, (offset, nbytes) in enumerate(tensors)
    )
    end = at + table
    return GgufHeader(3, "little", alignment, tuple(records), infos, at, end, -(-end // alignment) * alignment)


def tokens(count: int) -> list[str]:
    """Return so many different strings with the lengths of a real vocabulary."""
    return [f"{'Ġ' * (index % 2)}token{index:x}{'é' * (index % 5)}" for index in range(count)]


def write_model(
    path: Path,
    *,
    tensors: Sequence[tuple[str, tuple[int, ...], Any]] = (),
    chat_template: str | None = "{{ messages }}",
    vocabulary: int = 64,
    merges: int = 32,
    alignment: int | None = None,
    big_endian: bool = False,
    trailing: bytes = b"",
) -> Path:
    """Write a model with the `gguf` package.

    `tensors` are (name, numpy shape, quantization type); their data is made from the name.
    """
    writer = gguf.GGUFWriter(path, "llama", endianess=gguf.GGUFEndian.BIG if big_endian else gguf.GGUFEndian.LITTLE)
    writer.add_name("A model made for tests")
    writer.add_context_length(4096)
    writer.add_float32("llama.rope.freq_base", 10000.0)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens(vocabulary))
    writer.add_token_types([1] * vocabulary)
    writer.add_token_merges([f"{index:x} {index + 1:x}" for index in range(merges)])
    writer.add_bos_token_id(1)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    writer.add_add_bos_token(True)
    for name, shape, kind in tensors:
        floats = np.random.default_rng(list(name.encode())).standard_normal(shape, dtype=np.float32)
        if kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, floats)
        else:
            writer.add_tensor(name, gguf.quants.quantize(floats, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if trailing:
        with path.open("ab") as file:
            file.write(trailing)
    return path


def replace_string(data: bytes, kvs: Sequence[Any], key: str, change: Callable[[str], str]) -> bytes:
    """Return a little-endian file with one string value changed; what follows shifts, the alignment is not kept."""
    kv = next(kv for kv in kvs if kv.key == key)
    record = LITTLE.kv(key, STRING, LITTLE.string(change(kv.value)))
    return data[: kv.offset] + record + data[kv.offset + kv.length :]
