"""`record.json`: what a new node says of itself, for whoever admits it.

It is signed with the node's key, so that nobody is admitted under a key that they don't hold. Whether the rest is true
is for the operator to judge: only what the fleet role signs counts.

    signature = Ed25519(node key, "aibrother-node-record/1" NUL canonical JSON of all other members)

Canonical: keys sorted, no white space, UTF-8, nothing escaped that JSON lets stand.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Final

from aibrother_node.catalog import values
from aibrother_node.catalog.bounded_json import loads
from aibrother_node.catalog.entries import FleetNode
from aibrother_node.errors import InvalidInput, NotFound, VerificationFailed
from aibrother_node.fleet.identity import NodeKey

if TYPE_CHECKING:
    from pathlib import Path

    from aibrother_node.store.disk import Disk

SCHEMA: Final = "aibrother.node/1"
MAX_BYTES: Final = 16 << 10
_MAX_DEPTH: Final = 8
_CONTEXT: Final = b"aibrother-node-record/1\0"
_SAID: Final = ("id", "key", "region", "url", "gossip_url", "country", "latitude", "longitude")


def make_record(node: FleetNode, key: NodeKey) -> bytes:
    """Write what a node says of itself.

    Args:
        node: the node; its state isn't said.
        key: its key.
    """
    said: dict[str, object] = {"schema": SCHEMA, **{name: getattr(node, name) for name in _SAID}}
    said["signature"] = key.sign(_signed(said)).hex()
    return json.dumps(said, ensure_ascii=False, allow_nan=False, indent=1).encode() + b"\n"


def read_record(data: bytes) -> FleetNode:
    """Read a node's record; the node is as it says, to be admitted.

    Raises:
        InvalidInput: it is longer than 16 KiB, or breaks the rules.
        VerificationFailed: it is not signed with its key, or the id is not that of the key.
    """
    what = "the record"
    said = values.mapping(loads(data, what, MAX_BYTES, _MAX_DEPTH), what)
    if (schema := values.member(said, "schema", what)) != SCHEMA:
        raise InvalidInput(f"the schema of {what} is {schema!r:.80}, not {SCHEMA!r}")
    key = values.sha256(values.member(said, "key", what), "the record's key").raw
    expected = hashlib.sha256(key).hexdigest()
    if (found := values.member(said, "id", what)) != expected:
        raise VerificationFailed(
            f"the record's id {found!r:.80} is not that of its key", expected=expected, actual=f"{found!r:.80}"
        )
    signature = values.text(said.pop("signature", None), "the record's signature", 128, shortest=128)
    try:
        valid = NodeKey.verify(key, bytes.fromhex(signature), _signed(said))
    except ValueError:  # no hex digits, or half of a surrogate pair somewhere
        valid = False
    if not valid:
        raise VerificationFailed(f"the record of {expected} is not signed with its key")
    return FleetNode(*(values.member(said, name, what) for name in _SAID))  # type: ignore[arg-type]  # checked when made


def load_record(path: Path) -> FleetNode:
    """Read a node's record from a file.

    Raises:
        NotFound: there is none.
        InvalidInput, VerificationFailed: as `read_record`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"no node's record at {path}") from None
    return read_record(data)


def save_record(path: Path, node: FleetNode, key: NodeKey, disk: Disk, *, aside: Path) -> None:
    """Write a node's record durably, for others to read."""
    disk.write_file(path, make_record(node, key), aside=aside)


def _signed(said: dict[str, object]) -> bytes:
    text = json.dumps(said, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return _CONTEXT + text.encode()
