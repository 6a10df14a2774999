"""A record: what a node says of itself, signed by its key, versioned, and carried by gossip as the same bytes for ever.

On the wire a record is `signature (64 bytes) ‖ payload`, the payload a msgpack map. It is never encoded again by who
passes it on, so members that this release doesn't know travel with it. Of two records of one node the later counts:
by incarnation, then version, then the hash of its bytes, which only decides where one key signed twice.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgpack

from aibrother_node.catalog import values
from aibrother_node.errors import InvalidInput
from aibrother_node.fleet.signatures import KEY_BYTES, SIGNATURE_BYTES

if TYPE_CHECKING:
    from aibrother_node.fleet.signatures import Signatures

MAX_RECORD: Final = 4096
"""Bytes of a record with its signature; ours have some 400."""
MAX_NUMBER: Final = (1 << 48) - 1
"""The largest incarnation and version."""
ENTRY_BYTES: Final = 24
NAME_BYTES: Final = 8
"""What stands for a node's id in a digest. Two members whose ids begin alike would only hear of each other later."""
STATES: Final = ("up", "draining", "leaving")
LOADS: Final = 10
"""Load is told in tenths, so that it changes seldom."""
_CONTEXT: Final = b"aibrother-record/1\0"
_ZERO: Final = bytes(32)

Order: TypeAlias = tuple[int, int, bytes]
CatalogVersion: TypeAlias = tuple[int, int]
"""(root version, timestamp version): what makes one catalog newer than another."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a record says beside who and when.

    Attributes:
        url, gossip_url: where its public plane and its fleet listener are reached; None where it doesn't know.
        region: where it stands.
        state: `up`, `draining` (finishes what it serves) or `leaving` (about to end).
        catalog: which catalog it serves; (0, 0) for none.
        published: the version of that catalog's stable document, which is what people see; 0 for none.
        inventory: the hash of its inventory.
        blobs: complete blobs.
        load: 0 to 10.
        free: bytes that it can still take, quantised.
        software: the program's version.
        mode: `mirror` or `cache`. A release that doesn't say was a mirror.
    """

    url: str | None = None
    gossip_url: str | None = None
    region: str | None = None
    state: str = "up"
    catalog: CatalogVersion = (0, 0)
    published: int = 0
    inventory: bytes = _ZERO
    blobs: int = 0
    load: int = 0
    free: int = 0
    software: str = ""
    mode: str = "mirror"

    @property
    def urgent(self) -> tuple[object, ...]:
        """What of it others should know as soon as may be, and not only within half a minute."""
        return self.url, self.gossip_url, self.state, self.catalog, self.published


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it was read; whether its signature holds is for `SignedRecord.verify` to say.

    Attributes:
        key: the node's public key.
        incarnation, version: which of its records this is.
        issued: when, in seconds since 1970, by the node's own clock.
        says: the rest.
    """

    key: bytes
    incarnation: int
    version: int
    issued: float
    says: Description

    @property
    def id(self) -> str:
        """The node's id."""
        return hashlib.sha256(self.key).hexdigest()


class SignedRecord:
    """A record with the bytes that it came in.

    Attributes:
        raw: signature and payload.
        record: what they say.
        id: the node's id.
        hash: 16 bytes that stand for `raw`.
        entry: what a digest says of it: the beginning of its id, its incarnation and version, and 4 bytes of `hash`.
    """

    __slots__ = ("entry", "hash", "id", "raw", "record")

    def __init__(self, raw: bytes, record: Record) -> None:
        self.raw = raw
        self.record = record
        self.id = record.id
        self.hash = hash_of(raw)
        self.entry = (
            bytes.fromhex(self.id[: 2 * NAME_BYTES])
            + record.incarnation.to_bytes(6, "big")
            + record.version.to_bytes(6, "big")
            + self.hash[:4]
        )

    @classmethod
    def make(
        cls, signatures: Signatures, incarnation: int, version: int, issued: float, says: Description
    ) -> SignedRecord:
        """Sign a record of this node."""
        record = Record(signatures.public, incarnation, version, round(issued, 3), says)
        payload = _encode(record)
        return cls(signatures.sign(_CONTEXT + payload) + payload, record)

    @classmethod
    def parse(cls, raw: bytes) -> SignedRecord:
        """Read a record; its signature is not looked at.

        Raises:
            InvalidInput: it is too long, or breaks the rules.
        """
        if not SIGNATURE_BYTES < len(raw) <= MAX_RECORD:
            raise InvalidInput(f"a record has {len(raw)} bytes, not up to {MAX_RECORD}")
        return cls(raw, _decode(raw[SIGNATURE_BYTES:]))

    @property
    def order(self) -> Order:
        """What makes one record of a node later than another."""
        return self.record.incarnation, self.record.version, self.hash

    def verify(self, signatures: Signatures) -> bool:
        """Whether the node that it speaks of signed it."""
        return signatures.verify(self.record.key, self.raw[:SIGNATURE_BYTES], _CONTEXT + self.raw[SIGNATURE_BYTES:])


def hash_of(raw: bytes) -> bytes:
    """What stands for a record's bytes wherever duplicates are looked for."""
    return hashlib.blake2b(raw, digest_size=16).digest()


def _encode(record: Record) -> bytes:
    says = record.says
    fields: dict[str, Any] = {
        "v": 1,
        "key": record.key,
        "incarnation": record.incarnation,
        "version": record.version,
        "issued": round(record.issued * 1000),
        "url": says.url,
        "gossip_url": says.gossip_url,
        "region": says.region,
        "state": says.state,
        "catalog": list(says.catalog),
        "published": says.published,
        "inventory": says.inventory,
        "blobs": says.blobs,
        "load": says.load,
        "free": says.free,
        "software": says.software,
        "mode": says.mode,
    }
    packed: bytes = msgpack.packb(fields)
    return packed


def _decode(payload: bytes) -> Record:
    fields = unpack(payload)
    key = fields.get("key")
    if type(key) is not bytes or len(key) != KEY_BYTES:
        raise InvalidInput("a record has no key")
    inventory = fields.get("inventory")
    if type(inventory) is not bytes or len(inventory) != len(_ZERO):
        raise InvalidInput("a record's inventory is a hash of 32 bytes")
    catalog = fields.get("catalog")
    if type(catalog) is not list or len(catalog) != 2:
        raise InvalidInput("a record's catalog is two versions")
    state = fields.get("state")
    says = Description(
        url=_url(fields.get("url")),
        gossip_url=_url(fields.get("gossip_url")),
        region=_text(fields.get("region"), 64),
        state=state if state in STATES else "leaving",  # a state of a later release: nobody is sent there
        catalog=(number(catalog[0], "catalog"), number(catalog[1], "catalog")),
        published=number(fields.get("published", 0), "published", (1 << 53) - 1),
        inventory=inventory,
        blobs=number(fields.get("blobs"), "blobs"),
        load=min(number(fields.get("load"), "load"), LOADS),
        free=number(fields.get("free"), "free", (1 << 63) - 1),
        software=_text(fields.get("software"), 64) or "",
        mode=_text(fields.get("mode", "mirror"), 32) or "cache",  # what a later release adds keeps nothing for others
    )
    issued = number(fields.get("issued"), "issued") / 1000
    incarnation, version = number(fields.get("incarnation"), "incarnation"), number(fields.get("version"), "version")
    return Record(key, incarnation, version, issued, says)


def unpack(data: bytes, *, longest: int = 2048, items: int = 64) -> dict[str, Any]:
    """Read a msgpack map with ceilings on everything in it.

    Args:
        data: the bytes.
        longest: bytes of the longest string or bin.
        items: of the largest array or map.

    Raises:
        InvalidInput: it is something else.
    """
    try:
        found = msgpack.unpackb(
            data,
            max_str_len=min(longest, 2048),
            max_bin_len=longest,
            max_array_len=items,
            max_map_len=items,
            max_ext_len=0,
        )
    except (ValueError, TypeError, UnicodeDecodeError, RecursionError, msgpack.UnpackException) as error:
        raise InvalidInput(f"not msgpack: {error!s:.80}") from error
    if type(found) is not dict:
        raise InvalidInput("not a msgpack map")
    return found


def number(value: object, what: str, most: int = MAX_NUMBER) -> int:
    """Check a number from outside.

    Raises:
        InvalidInput: it is none from 0 to `most`.
    """
    if type(value) is not int or not 0 <= value <= most:
        raise InvalidInput(f"{what} is {value!r:.40}, not a number up to {most}")
    return value


def _url(value: object) -> str | None:
    if value is None:
        return None
    # once more without the slashes at its end: `http:///` would leave nothing to connect to
    return values.url(values.base_url(value, "a record's URL").rstrip("/"), "a record's URL")


def _text(value: object, longest: int) -> str | None:
    return None if value is None else values.text(value, "a record's text", longest)
