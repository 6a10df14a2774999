"""Request targets of the public plane, parsed into values; nothing else of a target is ever used.

A path is split at its slashes before it is decoded, so that `%2F` never makes a segment; it is decoded once; and there
is no normalisation: `..`, a doubled or a trailing slash match nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import unquote

from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput, NotFound

MAX_TARGET: Final = 8192
"""Characters of a request target."""

MAX_QUERY: Final = 2048
"""Characters of its query."""

METALINK: Final = ".meta4"
"""What a path ends in that asks for a Metalink instead of the file (RFC 5854, appendix A)."""

VIA: Final = "via"
"""The parameter with which a node marks where it sends a client: who carries it is not sent on."""

# Nearly all requests; this only leaves out work that the rest of the module would do to the same end.
_PLAIN_BLOB: Final = re.compile(r"/v1/blobs/sha256[:/]([0-9a-f]{64})")
_ORIGIN: Final = re.compile(r"https?://[^/?#]*", re.IGNORECASE)
_VISIBLE: Final = re.compile(r"[\x21-\x7e]*")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_FILENAME: Final = re.compile(r"[a-z0-9][a-z0-9._+-]{0,250}")
_METADATA: Final = re.compile(r"timestamp\.json|[1-9][0-9]{0,15}\.[a-z][a-z0-9-]{0,60}\.json")
_TUF_TARGET: Final = re.compile(r"([0-9a-f]{64})\.([a-z0-9][a-z0-9._+-]{0,250})")
_NOTHING: Final = "nothing is served under this path"


@dataclass(frozen=True, slots=True)
class BlobTarget:
    """`/v1/blobs/…`: a blob, and the name under which the client wants to save it, as it came."""

    digest: Digest
    filename: str | None = None


@dataclass(frozen=True, slots=True)
class ChunksTarget:
    """`/v1/chunks/…`: the chunk manifest of a blob: the one named, or the catalog's."""

    digest: Digest
    manifest: Digest | None = None


@dataclass(frozen=True, slots=True)
class HealthTarget:
    """`/healthz`."""


@dataclass(frozen=True, slots=True)
class ReadyTarget:
    """`/readyz`."""


@dataclass(frozen=True, slots=True)
class ServerTarget:
    """`*`, the server as a whole, for OPTIONS (RFC 9112, 3.2.4)."""


@dataclass(frozen=True, slots=True)
class DocumentTarget:
    """A document of the catalog, by its target path: `models/catalog.json`, `models/<name>.releases.json` …"""

    path: str


@dataclass(frozen=True, slots=True)
class PartTarget:
    """A part of a release under its name, by its target path: `models/<filename>`, `staging/<filename>`."""

    path: str
    filename: str


@dataclass(frozen=True, slots=True)
class EntryTarget:
    """`<part>.json`: the entry of the release that a part belongs to.

    Attributes:
        path: the part's target path.
    """

    path: str


@dataclass(frozen=True, slots=True)
class MetalinkTarget:
    """`<part>.meta4`, `<blob>.meta4`: where a file can be had, and its hashes (RFC 5854)."""

    file: PartTarget | BlobTarget


@dataclass(frozen=True, slots=True)
class MirrorsTarget:
    """`/v1/mirrors`: who has a blob."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class MetadataTarget:
    """`/metadata/…`: one file of TUF metadata."""

    filename: str


@dataclass(frozen=True, slots=True)
class TufTarget:
    """`/targets/…`: a TUF target under its hash (TUF specification, 6.2: consistent snapshots).

    Attributes:
        folder: `models`, `staging`, or nothing.
        sha256: the hash before the first dot of the name.
        basename: what follows it.
    """

    folder: str
    sha256: Digest
    basename: str


Target: TypeAlias = (
    BlobTarget
    | ChunksTarget
    | DocumentTarget
    | EntryTarget
    | HealthTarget
    | MetadataTarget
    | MetalinkTarget
    | MirrorsTarget
    | PartTarget
    | ReadyTarget
    | ServerTarget
    | TufTarget
)


def parse_target(raw_target: str) -> Target:
    """Read a request target in origin, absolute or asterisk form (RFC 9112, 3.2).

    Raises:
        InvalidInput: for a target that is too long, not ASCII, wrongly escaped, or has a malformed digest, or the same
            parameter twice.
        NotFound: for every other path than those of the public plane.
    """
    plain = _PLAIN_BLOB.fullmatch(raw_target)
    if plain is not None:
        return BlobTarget(Digest.from_hex(plain[1]))
    if len(raw_target) > MAX_TARGET:
        raise InvalidInput(f"a request target has at most {MAX_TARGET} characters")
    if not _VISIBLE.fullmatch(raw_target):
        raise InvalidInput("a request target is visible ASCII; escape everything else")
    if raw_target == "*":
        return ServerTarget()
    origin = _ORIGIN.match(raw_target)
    path, _, query = raw_target[origin.end() if origin else 0 :].partition("?")
    if not path.startswith("/") and (path or not origin):
        raise InvalidInput("a request target begins with a slash")
    if len(query) > MAX_QUERY:
        raise InvalidInput(f"a query has at most {MAX_QUERY} characters")
    match [_decode(segment) for segment in path.split("/")]:
        case ["", "v1", "blobs", "sha256", name] if name.endswith(METALINK):
            digest = Digest.from_hex(name.removesuffix(METALINK))
            return MetalinkTarget(BlobTarget(digest, _parameter(query, "filename")))
        case ["", "v1", "blobs", name] if name.endswith(METALINK):
            digest = Digest.parse(name.removesuffix(METALINK))
            return MetalinkTarget(BlobTarget(digest, _parameter(query, "filename")))
        case ["", "v1", "blobs", "sha256", hex_digits]:
            return BlobTarget(Digest.from_hex(hex_digits), _parameter(query, "filename"))
        case ["", "v1", "blobs", name] if name:
            return BlobTarget(Digest.parse(name), _parameter(query, "filename"))
        case ["", "v1", "chunks", "sha256", hex_digits]:
            return ChunksTarget(Digest.from_hex(hex_digits), _manifest(query))
        case ["", "v1", "chunks", name] if name:
            return ChunksTarget(Digest.parse(name), _manifest(query))
        case ["", "v1", "mirrors"]:
            wanted = _parameter(query, "digest")
            if wanted is None:
                raise InvalidInput("say which blob: ?digest=sha256:<64 hex digits>")
            return MirrorsTarget(Digest.parse(wanted))
        case ["", "healthz"]:
            return HealthTarget()
        case ["", "readyz"]:
            return ReadyTarget()
        case ["", *catalog]:
            return _catalog_target(catalog)
    raise NotFound(_NOTHING)


def carries_via(raw_target: str) -> bool:
    """Whether a request was sent here by another node: its query has a `via`, whatever the value."""
    _, _, query = raw_target.partition("?")
    return any(unquote(pair.partition("=")[0]) == VIA for pair in query.split("&")) if query else False


def _catalog_target(segments: list[str]) -> Target:
    """Names from the catalog. Whether there is such a name is looked up; here it only has to be one that could be."""
    match segments:
        case ["v1", "catalog.json"] | ["models", "catalog.json"] | ["catalog.json"]:
            return DocumentTarget("models/catalog.json")
        case ["fleet.json"]:
            return DocumentTarget("fleet.json")
        case ["staging", "catalog.json"]:
            return DocumentTarget("staging/catalog.json")
        case ["models", name] if name.endswith(".releases.json") and _FILENAME.fullmatch(name):
            return DocumentTarget(f"models/{name}")
        case [("models" | "staging") as folder, name] if _FILENAME.fullmatch(name):
            if name.endswith(".gguf"):
                return PartTarget(f"{folder}/{name}", name)
            if name.endswith(".gguf.json"):
                return EntryTarget(f"{folder}/{name.removesuffix('.json')}")
            if name.endswith(f".gguf{METALINK}"):
                part = name.removesuffix(METALINK)
                return MetalinkTarget(PartTarget(f"{folder}/{part}", part))
        case ["metadata", name] if _METADATA.fullmatch(name):
            return MetadataTarget(name)
        case ["targets", name] if target := _TUF_TARGET.fullmatch(name):
            return TufTarget("", Digest.from_hex(target[1]), target[2])
        case ["targets", ("models" | "staging") as folder, name] if target := _TUF_TARGET.fullmatch(name):
            return TufTarget(folder, Digest.from_hex(target[1]), target[2])
    raise NotFound(_NOTHING)


def _manifest(query: str) -> Digest | None:
    value = _parameter(query, "manifest")
    return None if value is None else Digest.parse(value)


def _parameter(query: str, wanted: str) -> str | None:
    """The value of one parameter of a query, None if it is absent; `+` is a space, as forms write it.

    Other parameters are not looked into: what trackers and proxies append is not our input.

    Raises:
        InvalidInput: if it stands there twice, or is wrongly escaped.
    """
    found: str | None = None
    for pair in query.split("&") if query else ():
        name, _, value = pair.partition("=")
        if _decode(name.replace("+", " ")) != wanted:
            continue
        if found is not None:
            raise InvalidInput(f"the parameter {wanted} is given twice")
        found = _decode(value.replace("+", " "))
    return found


def _decode(text: str) -> str:
    """Undo percent-encoding (RFC 3986, 2.1), once.

    Raises:
        InvalidInput: for `%` without two hex digits after it, bytes that are not UTF-8, and NUL.
    """
    if "%" not in text:
        return text
    if _BAD_ESCAPE.search(text):
        raise InvalidInput("a percent sign has no two hex digits after it")
    raw = _ESCAPE.sub(lambda escape: bytes.fromhex(escape[1].decode("ascii")), text.encode("ascii"))
    if b"\0" in raw:
        raise InvalidInput("a request target holds no NUL")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise InvalidInput("a request target is not UTF-8 once decoded") from fault
