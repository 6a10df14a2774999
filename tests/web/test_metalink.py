"""Metalinks, read back by an XML parser and held to RFC 5854."""

from __future__ import annotations

import hashlib
import random
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrother_node.content.chunks import FIXED_1, ChunkManifest, build_manifest, chunk_hashes
from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput
from aibrother_node.web.metalink import Source, metalink

from . import law

NS = "{urn:ietf:params:xml:ns:metalink}"
DATA = random.Random(7).randbytes((8 << 20) + 12_345)
PIECES = build_manifest(lambda offset, length: DATA[offset : offset + length], len(DATA), chunker=FIXED_1)
DIGEST = PIECES.blob
SOURCES = [Source("https://a.example/v1/blobs/x?filename=a.gguf&b=1", "DE"), Source("http://[::1]:8080/y")]


def file_of(data: bytes) -> ET.Element:
    root = ET.fromstring(data)
    assert root.tag == f"{NS}metalink"
    (file,) = root
    assert file.tag == f"{NS}file"
    return file


def test_what_it_says() -> None:
    file = file_of(metalink("model.gguf", DIGEST, len(DATA), SOURCES, PIECES))
    assert file.attrib == {"name": "model.gguf"}
    assert [child.tag.removeprefix(NS) for child in file] == ["size", "hash", "pieces", "url", "url"]
    size, whole, pieces, *urls = file
    assert size.text == str(len(DATA))
    assert (whole.attrib, whole.text) == ({"type": "sha-256"}, hashlib.sha256(DATA).hexdigest())
    assert pieces.attrib == {"length": str(8 << 20), "type": "sha-256"}
    cut = (DATA[: 8 << 20], DATA[8 << 20 :])
    assert [piece.text for piece in pieces] == [hashlib.sha256(piece).hexdigest() for piece in cut]
    assert [(url.attrib, url.text) for url in urls] == [
        ({"location": "de", "priority": "1"}, SOURCES[0].url),
        ({"priority": "2"}, SOURCES[1].url),
    ]


def test_what_is_not_known_is_left_out() -> None:
    file = file_of(metalink("m", DIGEST, None, SOURCES))
    assert [child.tag.removeprefix(NS) for child in file] == ["hash", "url", "url"]


def test_an_empty_file_has_no_pieces() -> None:
    empty = build_manifest(lambda offset, length: b"", 0, chunker=FIXED_1)
    file = file_of(metalink("m", empty.blob, 0, SOURCES, empty))
    assert [child.tag.removeprefix(NS) for child in file] == ["size", "hash", "url", "url"]


@law
@given(st.text(max_size=80), st.text(max_size=40))
def test_any_name_and_any_url_make_well_formed_xml_or_are_refused(name: str, tail: str) -> None:
    try:
        data = metalink(name, DIGEST, 1, [Source(f"https://a.example/{tail}")])
    except InvalidInput:
        return
    file = file_of(data)
    assert file.attrib["name"]
    assert "/" not in file.attrib["name"]
    assert file.attrib["name"] not in (".", "..")
    assert len(file.findall(f"{NS}url")) == 1


def test_names_are_escaped_and_have_no_folders() -> None:
    for name, saved in (
        ("a<b>&\"'.gguf", "a<b>&\"'.gguf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\x\\y.gguf", "y.gguf"),
    ):
        assert file_of(metalink(name, DIGEST, 1, SOURCES)).attrib["name"] == saved


@pytest.mark.parametrize("url", ["", "/v1/blobs/x", "ftp://a.example/x", "https:///x", "a.example/x"])
def test_only_absolute_urls(url: str) -> None:
    with pytest.raises(InvalidInput):
        metalink("m", DIGEST, 1, [Source(url)])


def test_no_sources() -> None:
    with pytest.raises(InvalidInput):
        metalink("m", DIGEST, 1, [])


def uneven() -> ChunkManifest:
    """A manifest that calls itself `fixed/1` and is cut elsewhere: decoding can't know."""
    halves = DATA[:1000], DATA[1000 : 1 << 20]
    hashes = [chunk_hashes(half) for half in halves]
    whole = Digest(hashlib.sha256(DATA[: 1 << 20]).digest())
    sha256, xxh3 = (b"".join(pair[which] for pair in hashes) for which in (0, 1))
    return ChunkManifest(whole, 1 << 20, FIXED_1, tuple(map(len, halves)), sha256, xxh3)


def test_pieces_of_another_file_length_or_cut_are_refused() -> None:
    odd = uneven()
    for digest, size, pieces in ((Digest(bytes(32)), len(DATA), PIECES), (DIGEST, 5, PIECES), (odd.blob, 1 << 20, odd)):
        with pytest.raises(InvalidInput):
            metalink("m", digest, size, SOURCES, pieces)
