"""What entries take from GGUF headers: real ones, odd ones, and any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrother_node.catalog.facts import (
    FILE_TYPES,
    Split,
    default_name,
    default_variant,
    facts,
    license_of,
    slug,
    split_of,
)
from aibrother_node.catalog.names import check_name, check_variant
from aibrother_node.catalog.release import GgufFacts
from aibrother_node.content.ggml_types import GGML_TYPES
from aibrother_node.content.gguf import ArrayValue, GgufHeader, KeyValue, TensorInfo, ValueType, read_header
from content.gguf_files import REAL_FILES, Source, write_model

if TYPE_CHECKING:
    from pathlib import Path

Q = gguf.GGMLQuantizationType


def read(path: Path) -> GgufHeader:
    data = path.read_bytes()
    return read_header(Source(data), len(data))


def header(tensors: tuple[TensorInfo, ...] = (), /, **kvs: Any) -> GgufHeader:
    """Return a header with these values; double underscores in keys are dots."""
    kinds: dict[type, ValueType] = {
        str: ValueType.STRING,
        bytes: ValueType.STRING,
        bool: ValueType.BOOL,
        int: ValueType.UINT32,
        float: ValueType.FLOAT32,
        ArrayValue: ValueType.ARRAY,
        type(None): ValueType.STRING,
    }
    records = [KeyValue(key.replace("__", "."), kinds[type(value)], 24, 20, value) for key, value in kvs.items()]
    return GgufHeader(3, "little", 32, tuple(records), tensors, 100, 200, 224)


def test_a_file_by_the_gguf_package(tmp_path: Path) -> None:
    path = write_model(
        tmp_path / "a.gguf",
        tensors=[("blk.0.w", (256, 256), Q.Q8_0), ("norm", (256,), Q.F32)],
        vocabulary=500,
    )
    assert facts(read(path)) == GgufFacts(
        version=3,
        architecture="llama",
        name="A model made for tests",
        parameters=256 * 256 + 256,
        context_length=4096,
        quantization="Q8_0",
        tensor_count=2,
        tokenizer="gpt2",
        vocabulary=500,
        has_chat_template=True,
    )
    assert default_name(read(path)) == "a-model-made-for-tests"
    assert default_variant(read(path)) == "q8_0"
    assert license_of(read(path)) is None
    assert split_of(read(path)) is None


def test_a_chat_template_of_any_length_counts_and_an_empty_one_does_not(tmp_path: Path) -> None:
    for template, expected in ((None, False), ("", False), ("x", True), ("x" * 2_000_000, True)):
        assert facts(read(write_model(tmp_path / "a.gguf", chat_template=template))).has_chat_template is expected
    assert facts(header(tokenizer__chat_template__tool_use="x")).has_chat_template
    assert facts(header(tokenizer__chat_template=7)).has_chat_template is False


@pytest.mark.parametrize(
    ("name", "expected", "slugged"),
    [
        (
            "phi-3",
            GgufFacts(3, "phi3", "Phi3", 0, 4096, 3072, 32, "F16", 1, 0, "llama", 32_064, True),
            "phi3",
        ),
        (
            "gpt-2",
            GgufFacts(3, "gpt2", "gpt-2", 0, 1024, 768, 12, "F16", 1, 0, "gpt2", 50_257, False),
            "gpt-2",
        ),
        (
            "aquila",
            GgufFacts(2, "llama", "D:\\Diverses\\models", 0, 2048, 4096, 32, None, None, 0, "gpt2", 100_008, False),
            "d-diverses-models",
        ),
    ],
)
def test_real_files(name: str, expected: GgufFacts, slugged: str) -> None:
    path = REAL_FILES / f"ggml-vocab-{name}.gguf"
    if not path.exists():
        pytest.skip("real GGUF files are not part of the project")
    assert facts(read(path)) == expected
    assert default_name(read(path)) == slugged


def test_file_types_are_those_of_llama_cpp() -> None:
    theirs = {
        int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
        for kind in gguf.LlamaFileType
        if kind.name != "GUESSED"
    }
    assert {number: theirs.get(number) for number in FILE_TYPES} == FILE_TYPES


def tensor(type_id: int, *dims: int) -> TensorInfo:
    kind = GGML_TYPES.get(type_id)
    elements = 1
    for length in dims:
        elements *= length
    return TensorInfo("t", dims, type_id, 0, None if kind is None else elements // kind.block * kind.block_bytes)


@pytest.mark.parametrize(
    ("file_type", "tensors", "expected"),
    [
        (15, [], "Q4_K_M"),
        (0, [tensor(12, 256, 256)], "F32"),
        (None, [tensor(12, 256, 256), tensor(0, 256)], "Q4_K_M"),
        (None, [tensor(0, 256, 256), tensor(12, 256, 256)], "F32"),
        (1024, [tensor(8, 256, 256)], "Q8_0"),
        (9999, [tensor(30, 256, 256)], "BF16"),
        ("Q4_K_M", [tensor(14, 256)], "Q6_K"),
        (None, [tensor(1, 256), tensor(1000, 10**9), tensor(2, 32)], "F16"),
        (None, [tensor(1000, 256)], None),
        (None, [tensor(1, 1), tensor(30, 1)], "F16"),
        (None, [], None),
    ],
)
def test_quantization(file_type: object, tensors: list[TensorInfo], expected: str | None) -> None:
    given = {} if file_type is None else {"general__file_type": file_type}
    made = header(tuple(tensors), **given)
    assert facts(made).quantization == expected
    assert default_variant(made) == (None if expected is None else expected.lower())


def test_parameters_and_tensors_of_a_shard_set_are_those_of_all() -> None:
    first = header((tensor(0, 3, 5), tensor(0)), general__architecture="llama", split__no=0, split__count=2)
    second = header((tensor(12, 256, 2),), split__no=1, split__count=2, split__tensors__count=3)
    both = facts(first, second)
    assert (both.parameters, both.tensor_count, both.quantization) == (15 + 1 + 512, 3, "Q4_K_M")
    assert split_of(first) == Split(1, 2, None)
    assert split_of(second) == Split(2, 2, 3)
    assert split_of(header(split__no=2, split__count=2)) is None


def test_odd_values_are_none() -> None:
    odd = facts(
        header(
            (tensor(1000, 2**60),),
            general__architecture=b"\xff",
            general__name="a\x1b[2J",
            general__file_type=True,
            tokenizer__ggml__model=ArrayValue(ValueType.STRING, 1, ("gpt2",)),
            tokenizer__ggml__tokens=ArrayValue(ValueType.UINT32, 7, None),
            None__context_length=7.5,
        )
    )
    assert odd == GgufFacts(version=3, tensor_count=1, has_chat_template=False)
    assert facts(header(general__architecture="a", a__vocab_size=7, a__block_count=-1)).vocabulary == 7


def test_licenses() -> None:
    assert license_of(header(general__license="mit")) == "mit"
    assert license_of(header(general__license="other", general__license__name="gemma")) == "gemma"
    assert license_of(header(general__license="other")) == "other"
    for odd in ("", "  ", 7, "a\nb", "x" * 201, b"\xff"):
        assert license_of(header(general__license=odd)) is None


def test_names() -> None:
    assert default_name(header(general__name="Phi 2 – Möbile (v1.5)")) == "phi-2-mobile-v1.5"
    assert default_name(header(general__name="日本語", general__basename="Gemma")) == "gemma"
    assert default_name(header(general__name="日本語")) is None
    assert default_name(header(general__name="../../etc/passwd")) == "etc-passwd"
    assert default_name(header(general__name="mmproj-Foo")) == "foo"
    assert default_name(header(general__name=3)) is None


@given(st.text())
def test_a_slug_is_a_name_or_nothing(text: str) -> None:
    made = slug(text)
    if made is not None:
        assert check_name(made) == made
        assert slug(made) == made


kv_values = st.one_of(
    st.text(max_size=300),
    st.binary(max_size=10),
    st.integers(),
    st.booleans(),
    st.floats(),
    st.none(),
    st.builds(ArrayValue, st.sampled_from(ValueType), st.integers(0, 2**40), st.none()),
)
keys = st.sampled_from(
    [
        "general__architecture",
        "general__name",
        "general__basename",
        "general__license",
        "general__license__name",
        "general__file_type",
        "a__context_length",
        "a__embedding_length",
        "a__vocab_size",
        "tokenizer__ggml__model",
        "tokenizer__ggml__tokens",
        "tokenizer__chat_template",
        "split__no",
        "split__count",
    ]
)
tensors = st.lists(st.builds(tensor, st.integers(0, 50), st.integers(0, 2**64), st.integers(0, 2**64)), max_size=4)


@given(st.dictionaries(keys, kv_values | st.just("a")), tensors)
def test_any_header_has_facts(kvs: dict[str, Any], rows: list[TensorInfo]) -> None:
    made = header(tuple(rows), **kvs)
    assert GgufFacts.from_json(facts(made).to_json()) == facts(made)
    assert license_of(made) != ""
    if (name := default_name(made)) is not None:
        check_name(name)
    if (variant := default_variant(made)) is not None:
        check_variant(variant)
    split_of(made)
