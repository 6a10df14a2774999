"""Documents: one encoding, held to their JSON Schemas; and what a hostile one can't do."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from referencing import Registry, Resource

from aibrother_node.catalog.bounded_json import loads
from aibrother_node.catalog.entries import (
    CatalogDocument,
    Entry,
    FleetDocument,
    FleetNode,
    GgufFacts,
    ReleasesDocument,
    Yanked,
    decode_catalog,
    decode_fleet,
    decode_releases,
    encode,
)
from aibrother_node.catalog.values import time_text
from aibrother_node.errors import InvalidInput
from catalog.made import PHI, digest_of, made_entry, made_part

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 11, 24, 3, 40, 5, 999_999, tzinfo=UTC)
KEY = bytes(range(32))
NODE = FleetNode(
    id=hashlib.sha256(KEY).hexdigest(),
    key=KEY.hex(),
    region="eu-central",
    url="https://[2001:db8::1]:8080",
    gossip_url="http://node.example:8082",
    country="DE",
    latitude=52,
    longitude=13.4,
)
SHARDS = made_entry("large", shards=3, projector="eyes")
CATALOG = CatalogDocument(
    "stable",
    7,
    "2026-11-24T03:40:00Z",
    (PHI, SHARDS),
    (
        Yanked("phi-2-mobile", "2026.10.1", "q4_k_m", digest_of("old"), "speaks in tongues", "2026-11-02T00:00:00Z"),
        Yanked("large", "1", "q8_0", None, "retired", "2026-11-02T00:00:00Z"),
    ),
)
RELEASES = ReleasesDocument("phi-2-mobile", (PHI, made_entry(version="2026.9.1"), made_entry(variant="q8_0")))
FLEET = FleetDocument(3, (NODE, FleetNode(hashlib.sha256(KEY[::-1]).hexdigest(), KEY[::-1].hex(), state="revoked")))

DOCUMENTS: list[tuple[str, Any, Callable[..., Any]]] = [
    ("catalog", CATALOG, decode_catalog),
    ("catalog", CatalogDocument.empty("staging", NOW), decode_catalog),
    ("releases", RELEASES, decode_releases),
    ("releases", ReleasesDocument("none"), decode_releases),
    ("fleet", FLEET, decode_fleet),
    ("fleet", FleetDocument(1), decode_fleet),
]
_SCHEMAS = {
    name: json.loads((resources.files("aibrother_tools") / "data" / "schemas" / f"{name}.schema.json").read_text())
    for name in ("entry", "catalog", "releases", "fleet")
}
_REGISTRY: Any = Registry().with_resources(
    [(schema["$id"], Resource.from_contents(schema)) for schema in _SCHEMAS.values()]
)


def conforms(name: str, document: object) -> None:
    jsonschema.Draft202012Validator(_SCHEMAS[name], registry=_REGISTRY).validate(document)


@pytest.mark.parametrize(("name", "document", "decode"), DOCUMENTS)
def test_a_document_has_one_encoding_that_its_schema_describes(
    name: str, document: Any, decode: Callable[..., Any]
) -> None:
    data = encode(document)
    assert decode(data) == document
    assert encode(decode(data)) == data
    assert data.endswith(b"}\n")
    assert data.count(b"\n") == 1
    conforms(name, json.loads(data))


@pytest.mark.parametrize("entry", [PHI, SHARDS, made_entry()])
def test_entries(entry: Entry) -> None:
    document = entry.to_json()
    conforms("entry", document)
    assert Entry.from_json(document) == entry
    assert list(document) == [
        "name",
        "version",
        "variant",
        "filename",
        "sha256",
        "size_bytes",
        "processed_date",
        "chunks",
        "pieces",
        "parts",
        "projector",
        "license",
        "description",
        "tags",
        "repo",
        "min_memory_bytes",
        "urls",
        "gguf",
    ]


def test_the_bytes_of_an_entry() -> None:
    entry = made_entry("a", "1", "q4", gguf=GgufFacts(version=3, name="é"))
    part = entry.parts[0]
    fixed = f'"sha256":"{part.sha256.hex}","size_bytes":1001'
    manifests = f'"chunks":"sha256:{part.chunks.hex}","pieces":"sha256:{part.pieces.hex}"'
    expected = (
        '{"schema":"aibrother.releases/1","name":"a","releases":[{"name":"a","version":"1","variant":"q4",'
        f'"filename":"a-1-q4.gguf",{fixed},"processed_date":"2026-11-01T12:00:00Z",{manifests},'
        f'"parts":[{{"filename":"a-1-q4.gguf",{fixed},{manifests}}}],"projector":null,"license":"unknown",'
        '"description":"","tags":[],"repo":null,"min_memory_bytes":1152,"urls":[],"gguf":{"version":3,'
        '"architecture":null,"name":"é","parameters":null,"context_length":null,"embedding_length":null,'
        '"block_count":null,"quantization":null,"file_type":null,"tensor_count":null,"tokenizer":null,'
        '"vocabulary":null,"has_chat_template":null}}]}\n'
    )
    assert encode(ReleasesDocument("a", (entry,))) == expected.encode()


def test_a_single_file_and_a_shard_set() -> None:
    assert (PHI.sha256, PHI.chunks, PHI.pieces) == (PHI.parts[0].sha256, PHI.parts[0].chunks, PHI.parts[0].pieces)
    assert PHI.tags == ("chat", "small")
    assert PHI.min_memory_bytes == 1152
    assert (SHARDS.sha256, SHARDS.chunks, SHARDS.pieces) == (None, None, None)
    assert SHARDS.filename == "large-2026.11.1-q4_k_m-00001-of-00003.gguf"
    assert SHARDS.size_bytes == 1001 + 1002 + 1003
    assert [file.filename for file in SHARDS.files][-1] == "mmproj-large-2026.11.1-q4_k_m.gguf"
    assert SHARDS.moving_filenames()[2:] == ("large-q4_k_m-00003-of-00003.gguf", "mmproj-large-q4_k_m.gguf")


def test_documents_are_sorted_whatever_order_they_are_made_in() -> None:
    entries = [made_entry(n, v, r) for n in ("b", "a") for v in ("10", "9") for r in ("q8", "q4")]
    staging = CatalogDocument("staging", 1, "2026-11-24T03:40:00Z", tuple(entries))
    assert [one.key for one in staging.models] == [
        (n, v, r) for n in ("a", "b") for r in ("q4", "q8") for v in ("9", "10")
    ]
    releases = ReleasesDocument("a", tuple(one for one in entries if one.name == "a"))
    assert [one.key for one in releases.releases] == [("a", v, r) for v in ("9", "10") for r in ("q4", "q8")]
    data = json.loads(encode(staging))
    data["models"].reverse()
    data["new"] = {"of": ["a", "later", "release"]}
    data["models"][0]["gguf"]["new"] = 1
    assert encode(decode_catalog(json.dumps(data).encode())) == encode(staging)


CATALOG_FAULTS: list[tuple[str, Callable[[Any], object]]] = [
    ("no schema", lambda d: d.pop("schema")),
    ("another schema", lambda d: d.update(schema="aibrother.catalog/2")),
    ("a schema that is a list", lambda d: d.update(schema=[])),
    ("another channel", lambda d: d.update(channel="beta")),
    ("a channel that is a list", lambda d: d.update(channel=["stable"])),
    ("version 0", lambda d: d.update(version=0)),
    ("a version that is true", lambda d: d.update(version=True)),
    ("a version as text", lambda d: d.update(version="7")),
    ("a version beyond 2^53", lambda d: d.update(version=2**53)),
    ("a version with a fraction", lambda d: d.update(version=7.0)),
    ("no such day", lambda d: d.update(published="2026-02-30T00:00:00Z")),
    ("a time with a zone", lambda d: d.update(published="2026-02-20T00:00:00+00:00")),
    ("models as an object", lambda d: d.update(models={})),
    ("a model that is null", lambda d: d["models"].append(None)),
    ("a model twice", lambda d: d["models"].append(copy.deepcopy(d["models"][0]))),
    ("a tombstone twice", lambda d: d["yanked"].append(d["yanked"][0])),
    ("no yanked", lambda d: d.pop("yanked")),
    ("a tombstone without a reason", lambda d: d["yanked"][0].pop("reason")),
    ("a tombstone with an empty reason", lambda d: d["yanked"][0].update(reason="")),
    ("a tombstone with half a digest", lambda d: d["yanked"][0].update(sha256="ab" * 16)),
]


@pytest.mark.parametrize("fault", [fault for _, fault in CATALOG_FAULTS], ids=[name for name, _ in CATALOG_FAULTS])
def test_faults_in_a_catalog(fault: Callable[[Any], object]) -> None:
    document = json.loads(encode(CATALOG))
    fault(document)
    with pytest.raises(InvalidInput):
        decode_catalog(json.dumps(document).encode())


def test_offered_and_yanked_at_once_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"phi-2-mobile:q4_k_m@2026\.11\.1 is offered and yanked"):
        CatalogDocument("stable", 1, CATALOG.published, (PHI,), (Yanked(*PHI.key, None, "why not", CATALOG.published),))


def test_two_newest_versions_are_refused() -> None:
    with pytest.raises(InvalidInput, match="phi-2-mobile:q4_k_m occurs twice"):
        CatalogDocument("stable", 1, CATALOG.published, (PHI, made_entry(version="2")))


OTHER = "0" * 64
ENTRY_FAULTS: list[tuple[str, Callable[[Any], object]]] = [
    ("a name with a way up", lambda e: e.update(name="..")),
    ("a name with a slash", lambda e: e.update(name="a/b")),
    ("a name that is a number", lambda e: e.update(name=1)),
    ("a version with a hyphen", lambda e: e.update(version="1-2")),
    ("another version than its file", lambda e: e.update(version="2")),
    ("an upper-case variant", lambda e: e.update(variant="Q4_K_M")),
    ("another file name", lambda e: e.update(filename="a.gguf")),
    ("another file name of the part", lambda e: e["parts"][0].update(filename="../../etc/passwd")),
    ("a part's name with NUL", lambda e: e["parts"][0].update(filename="a\0.gguf")),
    ("another digest than its part", lambda e: e.update(sha256=OTHER)),
    ("no digest where there is one part", lambda e: e.update(sha256=None)),
    ("another manifest than its part", lambda e: e.update(chunks="sha256:" + OTHER)),
    ("other pieces than its part", lambda e: e.update(pieces=None)),
    ("another size than its part", lambda e: e.update(size_bytes=1)),
    ("a digest in upper case", lambda e: e["parts"][0].update(sha256="A" * 64)),
    ("a digest with its algorithm", lambda e: e["parts"][0].update(sha256="sha256:" + OTHER)),
    ("a manifest without its algorithm", lambda e: e["parts"][0].update(chunks=OTHER)),
    ("a negative size", lambda e: e["parts"][0].update(size_bytes=-1)),
    ("a size that is null", lambda e: e["parts"][0].update(size_bytes=None)),
    ("no parts", lambda e: e.update(parts=[])),
    ("too many parts", lambda e: e.update(parts=e["parts"] * 1025)),
    ("two parts of one name", lambda e: e.update(parts=e["parts"] * 2)),
    ("a projector of any name", lambda e: e.update(projector=dict(e["parts"][0], filename="mmproj.gguf"))),
    ("a projector that is false", lambda e: e.update(projector=False)),
    ("no projector, not even null", lambda e: e.pop("projector")),
    ("no license", lambda e: e.update(license="")),
    ("a license that is null", lambda e: e.update(license=None)),
    ("a long description", lambda e: e.update(description="x" * 8193)),
    ("an escape in a description", lambda e: e.update(description="\x1b[2J")),
    ("half a surrogate pair", lambda e: e.update(description="\ud800")),
    ("two lines in a license", lambda e: e.update(license="mit\nno")),
    ("tags as text", lambda e: e.update(tags="chat")),
    ("a tag that is a list", lambda e: e.update(tags=[["chat"]])),
    ("too many tags", lambda e: e.update(tags=[str(n) for n in range(65)])),
    ("a script for a URL", lambda e: e.update(urls=["javascript:alert(1)"])),
    ("a file for a URL", lambda e: e.update(urls=["file:///etc/passwd"])),
    ("a relative URL", lambda e: e.update(urls=["/models/a.gguf"])),
    ("a URL with a line feed", lambda e: e.update(urls=["https://example.org/\nHost: x"])),
    ("memory as text", lambda e: e.update(min_memory_bytes="3 GB")),
    ("memory that is null", lambda e: e.update(min_memory_bytes=None)),
    ("a day for a time", lambda e: e.update(processed_date="2026-11-01")),
    ("facts that are null", lambda e: e.update(gguf=None)),
    ("a fact of the wrong type", lambda e: e["gguf"].update(architecture=3)),
    ("a count that is true", lambda e: e["gguf"].update(parameters=True)),
    ("a negative count", lambda e: e["gguf"].update(parameters=-1)),
    ("a template that is 1", lambda e: e["gguf"].update(has_chat_template=1)),
]


@pytest.mark.parametrize("fault", [fault for _, fault in ENTRY_FAULTS], ids=[name for name, _ in ENTRY_FAULTS])
def test_faults_in_an_entry(fault: Callable[[Any], object]) -> None:
    document = json.loads(encode(RELEASES))
    fault(document["releases"][0])
    with pytest.raises(InvalidInput):
        decode_releases(json.dumps(document).encode())


def test_a_release_among_those_of_another_model_is_refused() -> None:
    with pytest.raises(InvalidInput, match="among the releases of"):
        ReleasesDocument("other", (PHI,))


FLEET_FAULTS: list[tuple[str, dict[str, object]]] = [
    ("an id that is not the key's", {"id": OTHER}),
    ("a key of 31 bytes", {"key": "00" * 31}),
    ("a URL of another kind", {"url": "ftp://example.org"}),
    ("an empty URL", {"gossip_url": ""}),
    ("a country in words", {"country": "Germany"}),
    ("a country in lower case", {"country": "de"}),
    ("a latitude beyond the pole", {"latitude": 90.1}),
    ("a latitude as text", {"latitude": "52"}),
    ("a latitude that is true", {"latitude": True}),
    ("a longitude alone", {"latitude": None}),
    ("no state", {"state": ""}),
    ("a region with control characters", {"region": "eu\x07"}),
]


@pytest.mark.parametrize("change", [change for _, change in FLEET_FAULTS], ids=[name for name, _ in FLEET_FAULTS])
def test_faults_in_a_fleet(change: dict[str, object]) -> None:
    document = json.loads(encode(FleetDocument(1, (NODE,))))
    document["nodes"][0].update(change)
    with pytest.raises(InvalidInput):
        decode_fleet(json.dumps(document).encode())


def test_a_node_twice_is_refused() -> None:
    with pytest.raises(InvalidInput, match="occurs twice"):
        FleetDocument(1, (NODE, NODE))


def test_a_state_that_a_later_release_adds_is_not_admitted() -> None:
    document = json.loads(encode(FleetDocument(1, (NODE,))))
    assert decode_fleet(encode(FleetDocument(1, (NODE,)))).nodes[0].admitted
    document["nodes"][0]["state"] = "resting"
    assert not decode_fleet(json.dumps(document).encode()).nodes[0].admitted


BAD_JSON: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("not UTF-8", b'{"a":"\xff"}'),
    ("UTF-16", '{"a":1}'.encode("utf-16")),
    ("NaN", b"[NaN]"),
    ("infinity", b"[-Infinity]"),
    ("a member twice", b'{"a":1,"a":2}'),
    ("two values", b"{}{}"),
    ("a number of 5,000 digits", b"[" + b"1" * 5000 + b"]"),
    ("an open string", b'["abc'),
    ("a lone backslash", b'["abc\\'),
    ("brackets that don't match", b"[}"),
    ("too deep", b"[" * 17 + b"]" * 17),
    ("too deep in turns", b'{"a":[' * 9 + b"]}" * 9),
    ("too deep behind a string of brackets", b'["]]]]]]]]]]\\"]]]]]]]]]]]]", ' + b"[" * 17 + b"]" * 18),
]


@pytest.mark.parametrize("data", [data for _, data in BAD_JSON], ids=[name for name, _ in BAD_JSON])
def test_json_that_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        loads(data, "it", 10_000, 16)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 10_000_000,
        b'{"a":' * 2_000_000,
        b"[" * 5_000_000 + b"]" * 5_000_000,
        b'["' + b'\\"' * 4_999_998,
        b'"' * 10_000_000,
        b"\\" * 10_000_000,
        b"[]" * 5_000_000,
    ],
    ids=["open", "objects", "closed", "escapes", "quotes", "backslashes", "pairs"],
)
def test_ten_megabytes_of_malice_end_soon(data: bytes) -> None:
    before = time.monotonic()
    with pytest.raises(InvalidInput):
        decode_catalog(data)
    assert time.monotonic() - before < 5


def test_too_long_is_refused_before_it_is_looked_at() -> None:
    data = encode(CATALOG)
    assert decode_catalog(data, len(data)) == CATALOG
    with pytest.raises(InvalidInput, match=f"{len(data)} bytes, more than the {len(data) - 1} allowed"):
        decode_catalog(data, len(data) - 1)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text('[]{}"\\aé'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[]{}"\\a'), inner, max_size=3),
    max_leaves=12,
)


def depth(value: object) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 0


@given(json_values, st.integers(0, 5))
def test_depth_is_counted_as_brackets_outside_strings(value: object, ceiling: int) -> None:
    data = json.dumps(value, ensure_ascii=False).encode()
    if depth(value) <= ceiling:
        assert loads(data, "it", len(data), ceiling) == value
    else:
        with pytest.raises(InvalidInput, match="deeper"):
            loads(data, "it", len(data), ceiling)


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_end_in_a_document_or_a_named_error(data: bytes) -> None:
    for decode in (decode_catalog, decode_releases, decode_fleet):
        with pytest.raises(InvalidInput):
            decode(data)


@given(st.data())
def test_a_catalog_with_one_value_exchanged_decodes_or_ends_in_a_named_error(data: st.DataObject) -> None:
    document = json.loads(encode(CATALOG))
    at: Any = document
    while True:
        keys: list[Any] = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(at[key], dict | list) and at[key] and data.draw(st.booleans()):
            at = at[key]
            continue
        at[key] = data.draw(json_values)
        break
    try:
        decoded = decode_catalog(json.dumps(document).encode())
    except InvalidInput:
        return
    assert encode(decode_catalog(encode(decoded))) == encode(decoded)
    conforms("catalog", json.loads(encode(decoded)))


def test_times() -> None:
    assert time_text(NOW) == "2026-11-24T03:40:05Z"
    with pytest.raises(ValueError, match="zone"):
        time_text(datetime(2026, 11, 24))  # noqa: DTZ001  # the very thing that is refused


def test_a_part_alone() -> None:
    with pytest.raises(InvalidInput, match="size_bytes of a"):
        made_part("a", "words", -1)
