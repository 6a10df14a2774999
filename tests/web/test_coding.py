"""Which coding an Accept-Encoding asks for, and that what is coded decodes to what was signed."""

import gzip

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from aibrother_node.web.coding import CODINGS, choose_coding, encode


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        (None, None),
        ("", None),
        ("gzip", "gzip"),
        ("GZip", "gzip"),
        ("x-gzip", "gzip"),
        ("zstd", "zstd"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=1.0, zstd;q=0.5", "gzip"),
        ("gzip;q=0", None),
        ("*", "zstd"),
        ("*;q=0", None),
        ("zstd;q=0, *", "gzip"),
        ("identity", None),
        ("identity;q=1, gzip;q=0.5", None),
        ("identity;q=0.5, gzip;q=0.5", "gzip"),
        ("identity;q=0", None),
        ("br", None),
        ("gzip;q=2", None),
        ("gzip" + "," * 3000, None),
    ],
)
def test_what_is_chosen(accept: str | None, coding: str | None) -> None:
    assert choose_coding(accept) == coding


@given(st.text())
def test_no_header_breaks_it(accept: str) -> None:
    assert choose_coding(accept) in (None, *CODINGS)


@given(st.binary(max_size=10_000))
def test_what_is_coded_comes_back(data: bytes) -> None:
    assert gzip.decompress(encode(data, "gzip")) == data
    assert zstandard.ZstdDecompressor().decompress(encode(data, "zstd")) == data
    assert encode(data, "gzip") == encode(data, "gzip"), "no time in it"
