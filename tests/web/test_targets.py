"""Request targets of the public plane."""

from __future__ import annotations

from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput, NotFound
from aibrother_node.web.targets import (
    BlobTarget,
    ChunksTarget,
    DocumentTarget,
    EntryTarget,
    HealthTarget,
    MetadataTarget,
    MetalinkTarget,
    MirrorsTarget,
    PartTarget,
    ReadyTarget,
    ServerTarget,
    Target,
    TufTarget,
    carries_via,
    parse_target,
)

from . import law

HEX = "b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c"
OTHER = "7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730"
DIGEST = Digest.from_hex(HEX)
MANIFEST = Digest.from_hex(OTHER)


@pytest.mark.parametrize(
    ("raw", "target"),
    [
        (f"/v1/blobs/sha256:{HEX}", BlobTarget(DIGEST)),
        (f"/v1/blobs/sha256/{HEX}", BlobTarget(DIGEST)),
        (f"/v1/blobs/sha256%3A{HEX}", BlobTarget(DIGEST)),
        (f"/v1/blobs/sha256%3a{HEX}", BlobTarget(DIGEST)),
        (f"/%761/bl%6Fbs/sha256:{HEX}", BlobTarget(DIGEST)),
        (f"/v1/blobs/sha256:{HEX}?", BlobTarget(DIGEST)),
        (f"/v1/blobs/sha256:{HEX}?filename=x.gguf", BlobTarget(DIGEST, "x.gguf")),
        (f"/v1/blobs/sha256/{HEX}?filename=x.gguf", BlobTarget(DIGEST, "x.gguf")),
        (f"/v1/blobs/sha256:{HEX}?filename=a%20b+c%2B.gguf", BlobTarget(DIGEST, "a b c+.gguf")),
        (f"/v1/blobs/sha256:{HEX}?filename=%25%34%31", BlobTarget(DIGEST, "%41")),  # decoded once
        (f"/v1/blobs/sha256:{HEX}?filename=caf%C3%A9", BlobTarget(DIGEST, "café")),
        (f"/v1/blobs/sha256:{HEX}?file%6eame=x", BlobTarget(DIGEST, "x")),
        (f"/v1/blobs/sha256:{HEX}?filename=", BlobTarget(DIGEST, "")),
        (f"/v1/blobs/sha256:{HEX}?filename", BlobTarget(DIGEST, "")),
        (f"/v1/blobs/sha256:{HEX}?filename=a=b", BlobTarget(DIGEST, "a=b")),
        (f"/v1/blobs/sha256:{HEX}?a=1&a=2&utm=50%&filename=x&&manifest=rubbish", BlobTarget(DIGEST, "x")),
        (f"/v1/blobs/sha256:{HEX}?filename=a?b", BlobTarget(DIGEST, "a?b")),
        (f"/v1/chunks/sha256:{HEX}", ChunksTarget(DIGEST)),
        (f"/v1/chunks/sha256/{HEX}", ChunksTarget(DIGEST)),
        (f"/v1/chunks/sha256:{HEX}?manifest=sha256:{OTHER}", ChunksTarget(DIGEST, MANIFEST)),
        (f"/v1/chunks/sha256:{HEX}?manifest=sha256%3A{OTHER}&filename=x", ChunksTarget(DIGEST, MANIFEST)),
        (f"/v1/blobs/sha256:{HEX}.meta4", MetalinkTarget(BlobTarget(DIGEST))),
        (f"/v1/blobs/sha256/{HEX}.meta4?filename=a.gguf", MetalinkTarget(BlobTarget(DIGEST, "a.gguf"))),
        (f"/v1/blobs/sha256:{HEX}?via=0123&filename=x", BlobTarget(DIGEST, "x")),
        (f"/v1/mirrors?digest=sha256:{HEX}", MirrorsTarget(DIGEST)),
        (f"/v1/mirrors?a=b&digest=sha256%3A{HEX}", MirrorsTarget(DIGEST)),
        ("/healthz", HealthTarget()),
        ("/healthz?verbose", HealthTarget()),
        ("/readyz", ReadyTarget()),
        ("*", ServerTarget()),
        ("http://node.example/healthz", HealthTarget()),
        ("HTTPS://[2001:db8::1]:8443/readyz?x", ReadyTarget()),
        (f"http://node.example:8080/v1/blobs/sha256:{HEX}?filename=x", BlobTarget(DIGEST, "x")),
    ],
)
def test_targets(raw: str, target: Target) -> None:
    assert parse_target(raw) == target


@pytest.mark.parametrize(
    "raw",
    [
        "/",
        "//healthz",
        "/healthz/",
        "/Healthz",
        "/healthz/x",
        "/v1",
        "/v1/blobs",
        "/v1/blobs/",
        "/v1/chunks/",
        f"/v2/blobs/sha256:{HEX}",
        f"/v1/blobs/sha256:{HEX}/",
        f"/v1/blobs/sha512/{HEX}",
        f"/v1//blobs/sha256:{HEX}",
        f"/v1/./blobs/sha256:{HEX}",
        f"/v1/x/../blobs/sha256:{HEX}",
        f"/v1/blobs%2Fsha256:{HEX}",
        f"/v1/blobs/x/../sha256:{HEX}",
        "/v1/blobs/../../node.key",
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "http://node.example",
        "http://node.example?x",
    ],
)
def test_not_found(raw: str) -> None:
    with pytest.raises(NotFound):
        parse_target(raw)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "healthz",
        "node.example:443",
        "ftp://node.example/healthz",
        "**",
        "/v1/blobs/x",
        "/v1/blobs/..",
        "/v1/blobs/sha256:",
        "/v1/blobs/sha256/",
        f"/v1/blobs/{HEX}",
        f"/v1/blobs/sha256:{HEX.upper()}",
        f"/v1/blobs/SHA256:{HEX}",
        f"/v1/blobs/sha512:{HEX}",
        f"/v1/blobs/sha256:{HEX[:-1]}",
        f"/v1/blobs/sha256:{HEX}0",
        f"/v1/blobs/sha256:{HEX}%0a",
        f"/v1/blobs/sha256:{HEX}%00",
        f"/v1/blobs/sha256%253A{HEX}",
        f"/v1/blobs/sha256%2F{HEX}",
        "/v1/blobs/sha256:..%2F..%2Fnode.key",
        f"/v1/blobs/sha256/{HEX[:32]}%2F{HEX[:31]}",
        f"/v1/blobs/sha256:{HEX}#fragment",
        f"/v1/blobs/sha256:{HEX}?filename=a&filename=a",
        f"/v1/blobs/sha256:{HEX}?filename=a&file%6Eame=b",
        f"/v1/blobs/sha256:{HEX}?filename=%zz",
        f"/v1/blobs/sha256:{HEX}?filename=%",
        f"/v1/blobs/sha256:{HEX}?filename=%4",
        f"/v1/blobs/sha256:{HEX}?filename=%00",
        f"/v1/blobs/sha256:{HEX}?filename=%FF",
        f"/v1/blobs/sha256:{HEX}?filename=%C0%AF",
        f"/v1/blobs/sha256:{HEX}?filename=%ED%A0%80",
        f"/v1/blobs/sha256:{HEX}?filename=a b",
        f"/v1/blobs/sha256:{HEX}?filename=é",
        f"/v1/blobs/sha256:{HEX}?{'x' * 2049}",
        f"/v1/chunks/sha256:{HEX}?manifest={OTHER}",
        f"/v1/chunks/sha256:{HEX}?manifest=",
        f"/v1/chunks/sha256:{HEX}?manifest=sha256:{OTHER}&manifest=sha256:{OTHER}",
        "/%zz",
        "/%FF",
        "/%00",
        "/healthz\r\nX: y",
        "/healthz\n",
        "/" + "x" * 8192,
    ],
)
def test_invalid(raw: str) -> None:
    with pytest.raises(InvalidInput):
        parse_target(raw)


@law
@given(st.one_of(st.text(), st.text("/v1blobschunksha256:%?&=.abcdef0", max_size=120).map("/{}".format)))
def test_any_text_is_a_target_or_refused(raw: str) -> None:
    try:
        target = parse_target(raw)
    except (InvalidInput, NotFound):
        return
    assert isinstance(target, BlobTarget | ChunksTarget | HealthTarget | MetalinkTarget | ReadyTarget | ServerTarget)


@law
@given(st.binary(min_size=32, max_size=32), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60))
def test_what_a_client_escapes_comes_back(raw_digest: bytes, filename: str) -> None:
    digest = Digest(raw_digest)
    for escaped in (quote(filename, safe=""), quote_plus(filename)):
        for name in (str(digest), quote(str(digest), safe=""), f"sha256/{digest.hex}"):
            assert parse_target(f"/v1/blobs/{name}?filename={escaped}") == BlobTarget(digest, filename)


@pytest.mark.parametrize(
    ("raw", "target"),
    [
        ("/v1/catalog.json", DocumentTarget("models/catalog.json")),
        ("/models/catalog.json", DocumentTarget("models/catalog.json")),
        ("/catalog.json?x=1", DocumentTarget("models/catalog.json")),
        ("/staging/catalog.json", DocumentTarget("staging/catalog.json")),
        ("/fleet.json", DocumentTarget("fleet.json")),
        ("/models/phi-2.releases.json", DocumentTarget("models/phi-2.releases.json")),
        ("/models/phi-2-1.0-q4.gguf", PartTarget("models/phi-2-1.0-q4.gguf", "phi-2-1.0-q4.gguf")),
        ("/staging/phi-2-1.0-q4.gguf", PartTarget("staging/phi-2-1.0-q4.gguf", "phi-2-1.0-q4.gguf")),
        ("/models/phi-2-q4.gguf.json", EntryTarget("models/phi-2-q4.gguf")),
        ("/models/a-q4.gguf.meta4", MetalinkTarget(PartTarget("models/a-q4.gguf", "a-q4.gguf"))),
        ("/staging/a-1-q4.gguf.meta4?x=1", MetalinkTarget(PartTarget("staging/a-1-q4.gguf", "a-1-q4.gguf"))),
        ("/metadata/timestamp.json", MetadataTarget("timestamp.json")),
        ("/metadata/12.models-a.json", MetadataTarget("12.models-a.json")),
        (f"/targets/{HEX}.fleet.json", TufTarget("", DIGEST, "fleet.json")),
        (f"/targets/models/{HEX}.a-1-q.gguf", TufTarget("models", DIGEST, "a-1-q.gguf")),
        (f"/targets/staging/{HEX}.catalog.json", TufTarget("staging", DIGEST, "catalog.json")),
    ],
)
def test_names_of_the_catalog(raw: str, target: Target) -> None:
    assert parse_target(raw) == target


@pytest.mark.parametrize(
    "raw",
    [
        "/models/",
        "/models/..",
        "/models/.gguf",
        "/models/A.gguf",
        "/models/a%2Fb.gguf",
        "/models/a/b.gguf",
        "/models/..%2F..%2Fnode.key",
        "/models/a.json",
        "/models/catalog.json.meta4",
        "/models/a.gguf.meta4.meta4",
        "/models/a.gguf.json.meta4",
        "/staging/a.releases.json",
        "/models/" + "a" * 260 + ".gguf",
        "/metadata/root.json",
        "/metadata/0.root.json",
        "/metadata/1.root.json.bak",
        "/metadata/../keys/keys.json",
        "/metadata/1.%2e%2e.json",
        "/metadata/snapshot.json",
        f"/targets/{HEX}",
        f"/targets/{HEX}.",
        f"/targets/other/{HEX}.a",
        f"/targets/models/{HEX.upper()}.a",
        f"/targets/models/x/{HEX}.a",
        "/targets/models/catalog.json",
        "/catalog/metadata/timestamp.json",
        "/keys/keys.json",
    ],
)
def test_what_is_no_name_of_the_catalog(raw: str) -> None:
    with pytest.raises(NotFound):
        parse_target(raw)


@pytest.mark.parametrize(
    "raw",
    [
        "/v1/mirrors",
        "/v1/mirrors?",
        "/v1/mirrors?digest",
        "/v1/mirrors?digest=",
        f"/v1/mirrors?digest={HEX}",
        f"/v1/mirrors?digest=sha256:{HEX.upper()}",
        f"/v1/mirrors?digest=sha256:{HEX}&digest=sha256:{OTHER}",
        "/v1/blobs/sha256:.meta4",
        "/v1/blobs/.meta4",
        f"/v1/blobs/sha256/{HEX[:-1]}.meta4",
        f"/v1/blobs/sha256:{HEX}.meta4.meta4",
    ],
)
def test_mirrors_and_metalinks_need_a_digest(raw: str) -> None:
    with pytest.raises(InvalidInput):
        parse_target(raw)


@pytest.mark.parametrize(
    ("raw", "carried"),
    [
        ("/x", False),
        ("/x?", False),
        ("/x?via", True),
        ("/x?via=", True),
        ("/x?via=me", True),
        ("/x?a=1&via=me", True),
        ("/x?v%69a=me", True),
        ("/x?trivia=1&a=via", False),
        ("/via?a", False),
        ("/x?%zz&%=&via=1", True),
    ],
)
def test_via_is_seen_whatever_its_value(raw: str, *, carried: bool) -> None:
    assert carries_via(raw) is carried
