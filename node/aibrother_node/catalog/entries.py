"""The signed documents of a catalog: `catalog.json`, `<name>.releases.json` and `fleet.json`, version 1.

A document has one encoding, so that the same content has the same digest wherever it is signed: keys in the contract's
order, no white space, UTF-8, a line feed at the end, entries sorted. Readers are more tolerant than writers: they take
any order and ignore unknown keys, but every value is checked, whatever the signature says.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias, cast, get_args

from aibrother_node.catalog import values
from aibrother_node.catalog.bounded_json import loads
from aibrother_node.catalog.names import arranged, check_name, check_variant, check_version, ordered
from aibrother_node.catalog.release import (
    Entry,
    GgufFacts,
    Key,
    Part,
    content_of,
    default_min_memory,
    show_content,
)
from aibrother_node.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from aibrother_node.content.digest import Digest

__all__ = [
    "CHANNELS",
    "MAX_CATALOG_BYTES",
    "MAX_FLEET_BYTES",
    "MAX_RELEASES_BYTES",
    "CatalogDocument",
    "Channel",
    "Entry",
    "FleetDocument",
    "FleetNode",
    "GgufFacts",
    "Key",
    "Part",
    "ReleasesDocument",
    "Yanked",
    "content_of",
    "decode_catalog",
    "decode_fleet",
    "decode_releases",
    "default_min_memory",
    "encode",
    "show_content",
]

Channel: TypeAlias = Literal["stable", "staging"]
CHANNELS: Final[tuple[Channel, ...]] = get_args(Channel)

MAX_CATALOG_BYTES: Final = 256 * 1024 * 1024
"""Room for 150,000 entries."""
MAX_RELEASES_BYTES: Final = 64 * 1024 * 1024
MAX_FLEET_BYTES: Final = 16 * 1024 * 1024

_MAX_DEPTH: Final = 16
"""Ours need 5; the rest is for keys to come."""
_MAX_ITEMS: Final = 1_000_000
_CATALOG: Final = "aibrother.catalog/1"
_RELEASES: Final = "aibrother.releases/1"
_FLEET: Final = "aibrother.fleet/1"


@dataclass(frozen=True, slots=True)
class Yanked:
    """A tombstone: a release that was withdrawn, or retired; its version is never used again.

    Attributes:
        name, version, variant: which.
        sha256: of its one part; None for a shard set.
        reason: for people, one line.
        date: when, RFC 3339 in UTC.
    """

    name: str
    version: str
    variant: str
    sha256: Digest | None
    reason: str
    date: str

    def __post_init__(self) -> None:
        check_name(values.text(self.name, "name", 96))
        check_version(values.text(self.version, "version", 48))
        check_variant(values.text(self.variant, "variant", 48))
        values.text(self.reason, "reason", 1024, shortest=1)
        values.time(self.date, "date")

    @property
    def key(self) -> Key:
        """Name, version and variant."""
        return self.name, self.version, self.variant

    @property
    def processed_date(self) -> str:
        """The date, by which versions that are no PEP 440 sort."""
        return self.date

    def to_json(self) -> dict[str, object]:
        """Return the JSON object."""
        return {
            "name": self.name,
            "version": self.version,
            "variant": self.variant,
            "sha256": None if self.sha256 is None else self.sha256.hex,
            "reason": self.reason,
            "date": self.date,
        }

    @classmethod
    def from_json(cls, value: object) -> Yanked:
        """Read the JSON object.

        Raises:
            InvalidInput: a key is missing or a value breaks the rules.
        """
        what = "a tombstone"
        document = values.mapping(value, what)
        sha256 = values.member(document, "sha256", what)
        return cls(
            cast("str", values.member(document, "name", what)),
            cast("str", values.member(document, "version", what)),
            cast("str", values.member(document, "variant", what)),
            None if sha256 is None else values.sha256(sha256, "sha256"),
            cast("str", values.member(document, "reason", what)),
            cast("str", values.member(document, "date", what)),
        )


@dataclass(frozen=True, slots=True)
class CatalogDocument:
    """What a channel offers.

    Attributes:
        channel: stable or staging.
        version: one more with each change of anything in the channel.
        published: when that was, RFC 3339 in UTC.
        models: stable: the newest version of each name and variant; staging: all that is staged. Sorted when made.
        yanked: tombstones, sorted when made.

    Raises:
        InvalidInput: a value breaks the rules, or something stands there twice.
    """

    channel: Channel
    version: int
    published: str
    models: tuple[Entry, ...] = ()
    yanked: tuple[Yanked, ...] = ()

    def __post_init__(self) -> None:
        if self.channel not in CHANNELS:
            raise InvalidInput(f"the channel is {self.channel!r:.80}, not one of {', '.join(CHANNELS)}")
        values.integer(self.version, "version", least=1)
        values.time(self.published, "published")
        object.__setattr__(self, "models", tuple(arranged(self.models)))
        object.__setattr__(self, "yanked", tuple(arranged(self.yanked)))
        _refuse_twice(entry.key for entry in self.models)
        _refuse_twice(one.key for one in self.yanked)
        if self.channel == "stable":
            _refuse_twice((entry.name, entry.variant) for entry in self.models)
        if both := {entry.key for entry in self.models} & {one.key for one in self.yanked}:
            raise InvalidInput(f"{_show_key(min(both))} is offered and yanked at once")

    @classmethod
    def empty(cls, channel: Channel, now: datetime) -> CatalogDocument:
        """Return the first version, which offers nothing."""
        return cls(channel, 1, values.time_text(now))

    def to_json(self) -> dict[str, object]:
        """Return the JSON object."""
        return {
            "schema": _CATALOG,
            "channel": self.channel,
            "version": self.version,
            "published": self.published,
            "models": [entry.to_json() for entry in self.models],
            "yanked": [one.to_json() for one in self.yanked],
        }

    @classmethod
    def from_json(cls, value: object) -> CatalogDocument:
        """Read the JSON object; unknown keys are ignored.

        Raises:
            InvalidInput: a key is missing or a value breaks the rules.
        """
        what = "the catalog"
        document = _with_schema(value, what, _CATALOG)
        return cls(
            cast("Channel", values.member(document, "channel", what)),
            cast("int", values.member(document, "version", what)),
            cast("str", values.member(document, "published", what)),
            tuple(
                Entry.from_json(one)
                for one in values.sequence(values.member(document, "models", what), "models", _MAX_ITEMS)
            ),
            tuple(
                Yanked.from_json(one)
                for one in values.sequence(values.member(document, "yanked", what), "yanked", _MAX_ITEMS)
            ),
        )


@dataclass(frozen=True, slots=True)
class ReleasesDocument:
    """All versions of one stable model. Those in the catalog's `yanked` are still here, and are to be passed over.

    Attributes:
        name: of the model.
        releases: sorted by version (`names.ordered`), then variant, when made.

    Raises:
        InvalidInput: a value breaks the rules, or something stands there twice.
    """

    name: str
    releases: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        check_name(values.text(self.name, "name", 96))
        if other := next((entry for entry in self.releases if entry.name != self.name), None):
            raise InvalidInput(f"{_show_key(other.key)} among the releases of {self.name}")
        _refuse_twice(entry.key for entry in self.releases)
        by_variant = sorted(self.releases, key=lambda entry: entry.variant)
        object.__setattr__(self, "releases", tuple(ordered(by_variant)))

    def to_json(self) -> dict[str, object]:
        """Return the JSON object."""
        return {"schema": _RELEASES, "name": self.name, "releases": [entry.to_json() for entry in self.releases]}

    @classmethod
    def from_json(cls, value: object) -> ReleasesDocument:
        """Read the JSON object; unknown keys are ignored.

        Raises:
            InvalidInput: a key is missing or a value breaks the rules.
        """
        what = "the releases"
        document = _with_schema(value, what, _RELEASES)
        releases = values.sequence(values.member(document, "releases", what), "releases", _MAX_ITEMS)
        return cls(cast("str", values.member(document, "name", what)), tuple(Entry.from_json(one) for one in releases))


ADMITTED: Final = "admitted"
REVOKED: Final = "revoked"


@dataclass(frozen=True, slots=True)
class FleetNode:
    """A member of the fleet.

    Attributes:
        id: SHA-256 of the public key, 64 hex digits.
        key: the Ed25519 public key, 64 hex digits.
        region: a short word, or None.
        url: of its public plane, or None.
        gossip_url: of its fleet listener, or None.
        country: ISO 3166-1 alpha-2, upper case, or None.
        latitude, longitude: in degrees, both or neither.
        state: `admitted` or `revoked`; what a later release adds counts as not admitted.

    Raises:
        InvalidInput: a value breaks the rules, or the id is not that of the key.
    """

    id: str
    key: str
    region: str | None = None
    url: str | None = None
    gossip_url: str | None = None
    country: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    state: str = ADMITTED

    def __post_init__(self) -> None:
        key = values.sha256(self.key, "a node's key").raw
        if hashlib.sha256(key).hexdigest() != values.sha256(self.id, "a node's id").hex:
            raise InvalidInput(f"the node id {self.id} is not that of the key {self.key}")
        if self.region is not None:
            values.text(self.region, "region", 64, shortest=1)
        for what, url in (("url", self.url), ("gossip_url", self.gossip_url)):
            if url is not None:
                values.base_url(url, what)
        if self.country is not None:
            country = values.text(self.country, "country", 2, shortest=2)
            if not (country.isascii() and country.isalpha() and country.isupper()):
                raise InvalidInput(f"the country is {country!r}, not two upper-case letters")
        if (self.latitude is None) != (self.longitude is None):
            raise InvalidInput("latitude without longitude, or the other way round")
        for what, degrees, most in (("latitude", self.latitude, 90), ("longitude", self.longitude, 180)):
            if degrees is None:
                continue
            if type(degrees) not in (int, float) or not -most <= degrees <= most:
                raise InvalidInput(f"{what} is {degrees!r:.40}, not {-most} to {most} degrees")
            object.__setattr__(self, what, float(degrees))
        values.text(self.state, "state", 32, shortest=1)

    @property
    def admitted(self) -> bool:
        """Whether it is a member now."""
        return self.state == ADMITTED

    def to_json(self) -> dict[str, object]:
        """Return the JSON object."""
        return {key: getattr(self, key) for key in _NODE}

    @classmethod
    def from_json(cls, value: object) -> FleetNode:
        """Read the JSON object.

        Raises:
            InvalidInput: a key is missing or a value breaks the rules.
        """
        document = values.mapping(value, "a node")
        return cls(*(values.member(document, key, "a node") for key in _NODE))  # type: ignore[arg-type]  # checked when made


_NODE: Final = tuple(FleetNode.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class FleetDocument:
    """The nodes that the catalog admits.

    Attributes:
        version: one more with each change.
        nodes: sorted by id when made.

    Raises:
        InvalidInput: a value breaks the rules, or a node stands there twice.
    """

    version: int
    nodes: tuple[FleetNode, ...] = ()

    def __post_init__(self) -> None:
        values.integer(self.version, "version", least=1)
        object.__setattr__(self, "nodes", tuple(sorted(self.nodes, key=lambda node: node.id)))
        _refuse_twice((node.id,) for node in self.nodes)

    def to_json(self) -> dict[str, object]:
        """Return the JSON object."""
        return {"schema": _FLEET, "version": self.version, "nodes": [node.to_json() for node in self.nodes]}

    @classmethod
    def from_json(cls, value: object) -> FleetDocument:
        """Read the JSON object; unknown keys are ignored.

        Raises:
            InvalidInput: a key is missing or a value breaks the rules.
        """
        what = "the fleet"
        document = _with_schema(value, what, _FLEET)
        nodes = values.sequence(values.member(document, "nodes", what), "nodes", _MAX_ITEMS)
        return cls(
            cast("int", values.member(document, "version", what)), tuple(FleetNode.from_json(one) for one in nodes)
        )


class Document(Protocol):
    """Anything that `encode` writes."""

    def to_json(self) -> dict[str, object]:
        """Return the JSON object."""


def encode(document: Document) -> bytes:
    """Write a document in its one encoding."""
    text = json.dumps(document.to_json(), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8") + b"\n"


def decode_catalog(data: bytes, max_bytes: int = MAX_CATALOG_BYTES) -> CatalogDocument:
    """Read `catalog.json` of either channel.

    Raises:
        InvalidInput: it is longer than `max_bytes`, or breaks the rules.
    """
    return CatalogDocument.from_json(loads(data, "the catalog", max_bytes, _MAX_DEPTH))


def decode_releases(data: bytes, max_bytes: int = MAX_RELEASES_BYTES) -> ReleasesDocument:
    """Read `<name>.releases.json`.

    Raises:
        InvalidInput: it is longer than `max_bytes`, or breaks the rules.
    """
    return ReleasesDocument.from_json(loads(data, "the releases", max_bytes, _MAX_DEPTH))


def decode_fleet(data: bytes, max_bytes: int = MAX_FLEET_BYTES) -> FleetDocument:
    """Read `fleet.json`.

    Raises:
        InvalidInput: it is longer than `max_bytes`, or breaks the rules.
    """
    return FleetDocument.from_json(loads(data, "the fleet", max_bytes, _MAX_DEPTH))


def _with_schema(value: object, what: str, schema: str) -> dict[str, object]:
    document = values.mapping(value, what)
    if (found := values.member(document, "schema", what)) != schema:
        raise InvalidInput(f"the schema of {what} is {found!r:.80}, not {schema!r}")
    return document


def _refuse_twice(keys: Iterable[tuple[str, ...]]) -> None:
    seen: set[tuple[str, ...]] = set()
    for key in keys:
        if key in seen:
            raise InvalidInput(f"{_show_key(key)} occurs twice")
        seen.add(key)


def _show_key(key: tuple[str, ...]) -> str:
    if len(key) == 3:
        return f"{key[0]}:{key[2]}@{key[1]}"
    return ":".join(key)
