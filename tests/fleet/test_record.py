"""What a node says of itself."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aibrother_node.errors import InvalidInput
from aibrother_node.fleet.record import MAX_NUMBER, MAX_RECORD, Description, SignedRecord, unpack
from fleet.parts import NOW, KeyedHash, id_of, real_key, record

ANN = KeyedHash("ann")
NUMBERS = st.integers(0, MAX_NUMBER)
URLS = st.none() | st.from_regex(r"https?://[a-z]{1,20}(:[1-9][0-9]{0,3})?", fullmatch=True)
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=64)
SAYS = st.builds(
    Description,
    url=URLS,
    gossip_url=URLS,
    region=st.none() | TEXTS,
    state=st.sampled_from(("up", "draining", "leaving")),
    catalog=st.tuples(NUMBERS, NUMBERS),
    published=st.integers(0, 2**53 - 1),
    inventory=st.binary(min_size=32, max_size=32),
    blobs=NUMBERS,
    load=st.integers(0, 10),
    free=st.integers(0, 2**63 - 1),
    software=TEXTS,
)


def payload(**changes: object) -> bytes:
    """A record's payload with other values; those that are `...` are left out."""
    fields: dict[str, Any] = unpack(record(ANN).raw[64:])
    fields.update(changes)
    packed: bytes = msgpack.packb({name: value for name, value in fields.items() if value is not ...})
    return packed


def signed(packed: bytes) -> bytes:
    return ANN.sign(b"aibrother-record/1\0" + packed) + packed


@given(says=SAYS, incarnation=NUMBERS, version=NUMBERS, issued=st.integers(0, 4_000_000_000_000))
def test_what_is_said_is_read(says: Description, incarnation: int, version: int, issued: int) -> None:
    made = SignedRecord.make(ANN, incarnation, version, issued / 1000, says)
    read = SignedRecord.parse(made.raw)
    assert read.record == made.record
    assert (read.record.says, read.record.incarnation, read.record.version) == (says, incarnation, version)
    assert read.record.issued == issued / 1000
    assert (read.id, read.hash, read.entry, read.order) == (id_of(ANN), made.hash, made.entry, made.order)
    assert read.verify(ANN)


def test_a_record_is_a_few_hundred_bytes() -> None:
    full = Description(
        "http://a.example:8080", "http://a.example:8082", "eu-central", catalog=(3, 9_000), software="1.2"
    )
    assert len(SignedRecord.make(ANN, 1_800_000_000, 9, NOW, full).raw) < 400


def test_only_the_owner_signs() -> None:
    ann, bob = real_key(), real_key()
    made = record(ann)
    assert SignedRecord.parse(made.raw).verify(bob)
    assert not SignedRecord.parse(record(bob).raw[:64] + made.raw[64:]).verify(bob)
    for at in range(len(made.raw)):
        changed = made.raw[:at] + bytes((made.raw[at] ^ 1,)) + made.raw[at + 1 :]
        try:
            assert not SignedRecord.parse(changed).verify(bob), at
        except InvalidInput:
            continue


def test_members_that_are_unknown_travel_along() -> None:
    raw = signed(payload(later={"a": [1, 2]}, more=b"\0\1", v=2))
    read = SignedRecord.parse(raw)
    assert read.verify(ANN)
    assert read.raw == raw
    assert read.record == record(ANN).record


def test_a_state_of_a_later_release_sends_nobody_there() -> None:
    assert SignedRecord.parse(signed(payload(state="resting"))).record.says.state == "leaving"


def test_a_record_from_before_the_stable_document_was_told() -> None:
    assert SignedRecord.parse(signed(payload(published=...))).record.says.published == 0


def test_slashes_at_the_end_of_a_url_go() -> None:
    assert SignedRecord.parse(signed(payload(url="http://a.example//"))).record.says.url == "http://a.example"


BROKEN: dict[str, dict[str, object]] = {
    "no key": {"key": ...},
    "a short key": {"key": bytes(31)},
    "a key that is text": {"key": "k" * 32},
    "no inventory": {"inventory": ...},
    "a long inventory": {"inventory": bytes(33)},
    "a catalog of one version": {"catalog": [1]},
    "a catalog of three": {"catalog": [1, 2, 3]},
    "a catalog of floats": {"catalog": [1.0, 2.0]},
    "a negative catalog": {"catalog": [1, -1]},
    "a catalog too new for 48 bits": {"catalog": [1, MAX_NUMBER + 1]},
    "no incarnation": {"incarnation": ...},
    "a true incarnation": {"incarnation": True},
    "an incarnation too high": {"incarnation": MAX_NUMBER + 1},
    "a negative version": {"version": -1},
    "a version too high": {"version": MAX_NUMBER + 1},
    "issued never": {"issued": ...},
    "issued at no number": {"issued": float("nan")},
    "issued before 1970": {"issued": -1},
    "blobs as text": {"blobs": "7"},
    "no load": {"load": ...},
    "too much room": {"free": 1 << 63},
    "a URL of another scheme": {"url": "file:///etc/passwd"},
    "a URL with a line feed": {"gossip_url": "http://a.example/\r\nX: y"},
    "a URL of slashes": {"gossip_url": "http:///"},
    "a URL that is bytes": {"url": b"http://a.example"},
    "a region of 65": {"region": "r" * 65},
    "software with an escape": {"software": "\x1b[31m"},
    "a long string": {"later": "x" * 2049},
    "long bytes": {"later": bytes(2049)},
    "a long array": {"later": [0] * 65},
    "an extension": {"later": msgpack.ExtType(5, b"x")},
}


@pytest.mark.parametrize("changes", [pytest.param(one, id=name) for name, one in BROKEN.items()])
def test_a_record_that_breaks_the_rules_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        SignedRecord.parse(signed(payload(**changes)))


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xc1",
        b"\x80",
        b"\x90",
        msgpack.packb({1: 2}),
        b"\x91" * 3000,
        payload() + b"\0",
        payload()[:-1],
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x81\xa1\xff\x00",
    ],
    ids=lambda packed: packed[:6].hex(),
)
def test_what_is_no_record_is_refused(packed: bytes) -> None:
    with pytest.raises(InvalidInput):
        SignedRecord.parse(bytes(64) + packed)


def test_a_record_has_a_ceiling() -> None:
    filled = {f"later{number}": bytes(1000) for number in range(3)}
    room = 256 + MAX_RECORD - len(signed(payload(**filled, last=bytes(256))))
    assert len(SignedRecord.parse(signed(payload(**filled, last=bytes(room)))).raw) == MAX_RECORD
    with pytest.raises(InvalidInput, match="bytes"):
        SignedRecord.parse(signed(payload(**filled, last=bytes(room + 1))))


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=80)
    | st.binary(max_size=80),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=300)
@given(
    name=st.sampled_from(sorted(unpack(payload()))),
    value=ANYTHING,
    cut=st.none() | st.integers(0, 400),
    noise=st.binary(max_size=8),
)
def test_hostile_payloads_only_ever_raise_invalid_input(
    name: str, value: object, cut: int | None, noise: bytes
) -> None:
    raw = signed(payload(**{name: value}))
    raw = raw if cut is None else raw[:cut] + noise + raw[cut + len(noise) :]
    try:
        read = SignedRecord.parse(raw)
    except InvalidInput:
        return
    assert read.raw == raw
    assert len(read.entry) == 24


@given(st.binary(max_size=5000))
def test_noise_only_ever_raises_invalid_input(noise: bytes) -> None:
    with pytest.raises(InvalidInput):
        SignedRecord.parse(noise)
