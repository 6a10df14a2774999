"""What the header of a GGUF file says about the model, in the words of an entry.

A header comes from outside, and real ones are odd: values of unexpected types, names that are somebody's path. What
makes no sense is None; nothing here raises.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aibrother_node.catalog import values
from aibrother_node.catalog.names import check_name
from aibrother_node.catalog.release import MAX_FACT, GgufFacts
from aibrother_node.content.ggml_types import GGML_TYPES
from aibrother_node.content.gguf import ArrayValue, GgufHeader, ValueType
from aibrother_node.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable

FILE_TYPES: Final[dict[int, str]] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
}
"""`enum llama_ftype` of llama.cpp (llama.h), by the names that llama-quantize takes."""

_GUESSED: Final[dict[str, str]] = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "MXFP4": "MXFP4_MOE"}
"""What llama.cpp's model loader calls a file that doesn't say its type, where that is not its tensors' type."""


def facts(first: GgufHeader, *others: GgufHeader) -> GgufFacts:
    """Return what the headers of a release's parts say: key-values of the first, tensors of all."""
    architecture = _text(first, "general.architecture")
    headers = (first, *others)
    return GgufFacts(
        version=first.version,
        architecture=architecture,
        name=_text(first, "general.name"),
        parameters=_parameters(headers),
        context_length=_integer(first, f"{architecture}.context_length"),
        embedding_length=_integer(first, f"{architecture}.embedding_length"),
        block_count=_integer(first, f"{architecture}.block_count"),
        quantization=_quantization(headers),
        file_type=_integer(first, "general.file_type"),
        tensor_count=sum(len(header.tensors) for header in headers),
        tokenizer=_text(first, "tokenizer.ggml.model"),
        vocabulary=_vocabulary(first, architecture),
        has_chat_template=_has_chat_template(first),
    )


def license_of(header: GgufHeader) -> str | None:
    """Return the license that the header names, None if it names none."""
    license_id = _text(header, "general.license", 200)
    if license_id == "other":
        return _text(header, "general.license.name", 200) or license_id
    return license_id


def default_name(header: GgufHeader) -> str | None:
    """Return `general.name`, else `general.basename`, as a model's name; None where nothing is left of either."""
    for key in ("general.name", "general.basename"):
        text = _text(header, key)
        if text is not None and (name := slug(text)) is not None:
            return name
    return None


def default_variant(header: GgufHeader) -> str | None:
    """Return the quantization in lower case, None where it is not known."""
    quantization = _quantization((header,))
    return None if quantization is None else quantization.lower()


def slug(text: str) -> str | None:
    """Make a model's name of words: accents dropped, what a name can't hold made hyphens; None if nothing is left."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"-?[^a-z0-9._-]+-?", "-", plain)
    words = re.sub(r"\.{2,}", ".", words).removeprefix("mmproj-").strip("._-")[:96].strip("._-")
    try:
        return check_name(words)
    except InvalidInput:
        return None


@dataclass(frozen=True, slots=True)
class Split:
    """What a shard says of its set (gguf-split of llama.cpp).

    Attributes:
        number: of this shard, from 1.
        of: how many shards.
        tensors: in all shards; None if it doesn't say.
    """

    number: int
    of: int
    tensors: int | None


def split_of(header: GgufHeader) -> Split | None:
    """Return which shard of how many the header says this is; None if it says nothing, or nonsense."""
    index, count = _integer(header, "split.no"), _integer(header, "split.count")
    if index is None or count is None or index >= count:
        return None
    return Split(index + 1, count, _integer(header, "split.tensors.count"))


def _text(header: GgufHeader, key: str, longest: int = MAX_FACT) -> str | None:
    value = header.value(key)
    try:
        return values.text(value, key, longest).strip() or None
    except InvalidInput:
        return None


def _integer(header: GgufHeader, key: str) -> int | None:
    value = header.value(key)
    return value if type(value) is int and 0 <= value <= values.MAX_INTEGER else None


def _parameters(headers: Iterable[GgufHeader]) -> int | None:
    total = 0
    for header in headers:
        for tensor in header.tensors:
            elements = 1
            for length in tensor.dims:
                elements *= length
            total += elements
    return total if total <= values.MAX_INTEGER else None


def _quantization(headers: tuple[GgufHeader, ...]) -> str | None:
    file_type = _integer(headers[0], "general.file_type")
    if file_type in FILE_TYPES:
        return FILE_TYPES[file_type]
    sizes: dict[int, int] = {}
    for header in headers:
        for tensor in header.tensors:
            if tensor.nbytes is not None:
                sizes[tensor.type_id] = sizes.get(tensor.type_id, 0) + tensor.nbytes
    if not sizes:
        return None
    most = min(sizes, key=lambda type_id: (-sizes[type_id], type_id))
    name = GGML_TYPES[most].name
    return _GUESSED.get(name, name)


def _vocabulary(header: GgufHeader, architecture: str | None) -> int | None:
    tokens = header.value("tokenizer.ggml.tokens")
    if isinstance(tokens, ArrayValue) and tokens.element_type is ValueType.STRING:
        return tokens.count
    return _integer(header, f"{architecture}.vocab_size")


def _has_chat_template(header: GgufHeader) -> bool:
    # The value itself may have been passed over for its length, so that only the key-value tells.
    return any(
        kv.key.startswith("tokenizer.chat_template") and kv.type is ValueType.STRING and kv.value not in ("", b"")
        for kv in header.kvs
    )
