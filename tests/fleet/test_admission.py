"""`record.json`: proof of who asks to be admitted."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import replace
from importlib import resources
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from aibrother_node.catalog.entries import FleetNode
from aibrother_node.errors import InvalidInput, NodeError, NotFound, VerificationFailed
from aibrother_node.fleet.admission import MAX_BYTES, load_record, make_record, read_record, save_record
from aibrother_node.fleet.identity import NodeKey
from aibrother_node.store.disk import Disk

if TYPE_CHECKING:
    from pathlib import Path

KEY = NodeKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
NODE = FleetNode(
    KEY.id,
    KEY.public.hex(),
    region="Großraum eu",
    url="https://eu.example",
    gossip_url="https://eu.example:8082",
    country="DE",
    latitude=52.5,
    longitude=-13.25,
)


def changed(**members: Any) -> bytes:
    """The record with other members under the old signature; None takes one away."""
    document = json.loads(make_record(NODE, KEY)) | members
    return json.dumps(document).encode()


def signed(key: NodeKey = KEY, **members: Any) -> bytes:
    """A record with other members, signed as docs/protocol.md says, by other means."""
    said = json.loads(make_record(NODE, KEY)) | members
    del said["signature"]
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    said["signature"] = key.private.sign(b"aibrother-node-record/1\0" + text.encode()).hex()
    return json.dumps(said).encode()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    save_record(tmp_path / "record.json", NODE, KEY, Disk(), aside=tmp_path / "aside")
    assert load_record(tmp_path / "record.json") == NODE
    bare = FleetNode(KEY.id, KEY.public.hex())
    assert read_record(make_record(bare, KEY)) == bare
    with pytest.raises(NotFound):
        load_record(tmp_path / "other.json")


def test_the_schema_says_the_same() -> None:
    schema = json.loads((resources.files("aibrother_tools") / "data/schemas/record.schema.json").read_text())
    for node in (NODE, FleetNode(KEY.id, KEY.public.hex())):
        jsonschema.validate(json.loads(make_record(node, KEY)), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(changed(country="de")), schema)


def test_the_signature_is_what_the_protocol_says() -> None:
    document = json.loads(make_record(NODE, KEY))
    signature = bytes.fromhex(document.pop("signature"))
    assert document == {
        "schema": "aibrother.node/1",
        "id": hashlib.sha256(KEY.public).hexdigest(),
        "key": KEY.public.hex(),
        "region": "Großraum eu",
        "url": "https://eu.example",
        "gossip_url": "https://eu.example:8082",
        "country": "DE",
        "latitude": 52.5,
        "longitude": -13.25,
    }
    text = (
        f'{{"country":"DE","gossip_url":"https://eu.example:8082","id":"{KEY.id}","key":"{KEY.public.hex()}",'
        '"latitude":52.5,"longitude":-13.25,"region":"Großraum eu","schema":"aibrother.node/1","url":"https://eu.example"}'
    )
    Ed25519PublicKey.from_public_bytes(KEY.public).verify(signature, b"aibrother-node-record/1\0" + text.encode())


def test_what_a_later_version_adds_is_signed_and_passed_over() -> None:
    assert read_record(signed(software="2.0", latitude=52, longitude=13)) == replace(NODE, latitude=52, longitude=13)
    with pytest.raises(VerificationFailed):
        read_record(changed(software="2.0"))


OTHER = NodeKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))


@pytest.mark.parametrize(
    "data",
    [
        *(changed(**{name: value}) for name, value in [("region", "us"), ("url", None), ("latitude", 1.5)]),
        changed(id=OTHER.id),
        changed(id=None),
        changed(key=OTHER.public.hex()),
        changed(key=OTHER.public.hex(), id=OTHER.id),
        changed(signature="0" * 128),
        changed(signature="x" * 128),
        changed(region="\ud800"),
        signed(OTHER),
        signed(id=OTHER.id),
        signed(id=KEY.id.upper()),
    ],
)
def test_who_does_not_hold_the_key_is_refused(data: bytes) -> None:
    with pytest.raises(VerificationFailed):
        read_record(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 8000,
        b'{"schema":' * 20,
        changed(schema="aibrother.node/2"),
        changed(signature=None),
        changed(signature="00"),
        changed(key=None),
        changed(key="00"),
        signed(region=""),
        signed(region=7),
        signed(url="javascript:alert(1)"),
        signed(gossip_url=["https://x.example"]),
        signed(country="de"),
        signed(latitude=None),
        signed(latitude="1"),
        signed(latitude=True),
        signed(latitude=91),
        make_record(NODE, KEY) + b" " * MAX_BYTES,
        make_record(NODE, KEY).replace(b'"id"', b'"id": 1, "id"'),
    ],
)
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        read_record(data)


@given(st.integers(0, len(make_record(NODE, KEY)) - 1), st.integers(1, 255))
def test_a_changed_byte_never_changes_what_is_said(position: int, change: int) -> None:
    data = bytearray(make_record(NODE, KEY))
    data[position] ^= change
    with contextlib.suppress(NodeError):
        assert read_record(bytes(data)) == NODE


def test_other_keys_and_broken_ones_verify_nothing() -> None:
    signature = KEY.sign(b"data")
    assert NodeKey.verify(KEY.public, signature, b"data")
    assert not NodeKey.verify(KEY.public, signature, b"date")
    assert not NodeKey.verify(OTHER.public, signature, b"data")
    assert not NodeKey.verify(KEY.public[:31], signature, b"data")
    assert not NodeKey.verify(KEY.public, signature[:63], b"data")
