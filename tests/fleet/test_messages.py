"""Frames, in both directions from one table, and whatever else may arrive."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from aibrother_node.errors import InvalidInput
from aibrother_node.fleet.messages import (
    ANYBODY,
    MAX_BODY,
    MAX_ENTRIES,
    MAX_FRAME,
    MAX_NAMES,
    ROOM,
    Forged,
    Message,
    decode,
    encode,
    fitting,
    sender_of,
)
from aibrother_node.fleet.record import MAX_RECORD
from fleet.parts import NOW, KeyedHash, id_of, real_key, record

if TYPE_CHECKING:
    from collections.abc import Callable

    from aibrother_node.fleet.signatures import Signatures

ANN = KeyedHash("ann")
TO = bytes.fromhex(id_of(KeyedHash("bob")))
NOISE = random.Random(1)

MESSAGES: dict[str, Message] = {
    "who": Message("who", id_of(ANN), ANYBODY, NOW, b"n" * 16),
    "id": Message("id", id_of(ANN), TO, NOW, b"n" * 16, re=b"r" * 16),
    "an empty syn": Message("syn", id_of(ANN), TO, NOW, b"n" * 16),
    "syn": Message("syn", id_of(ANN), TO, NOW + 0.125, b"n" * 16, digest=record(ANN).entry * 3),
    "a part of a syn": Message(
        "syn", id_of(ANN), TO, NOW, b"n" * 16, digest=bytes(24), lowest=b"l" * 8, beyond=b"b" * 8
    ),
    "the largest syn": Message("syn", id_of(ANN), TO, NOW, b"n" * 16, digest=NOISE.randbytes(24 * MAX_ENTRIES)),
    "ack": Message(
        "ack", id_of(ANN), TO, NOW, b"n" * 16, re=b"r" * 16, names=b"names..." * 2, records=[record(ANN).raw] * 5
    ),
    "the largest ack": Message(
        "ack",
        id_of(ANN),
        TO,
        NOW,
        b"n" * 16,
        re=b"r" * 16,
        names=NOISE.randbytes(8 * MAX_NAMES),
        records=fitting([NOISE.randbytes(MAX_RECORD) for _ in range(20)]),
    ),
    "an ack of many small ones": Message(
        "ack", id_of(ANN), TO, NOW, b"n" * 16, names=bytes(8 * MAX_NAMES), records=fitting([NOISE.randbytes(200)] * 999)
    ),
    "push": Message("push", id_of(ANN), TO, NOW, b"n" * 16, records=[record(ANN).raw]),
    "done": Message("done", id_of(ANN), TO, NOW, b"n" * 16, re=b"r" * 16),
    "no": Message("no", id_of(ANN), TO, NOW, b"n" * 16, re=b"r" * 16, reason="clock skew"),
}


@pytest.mark.parametrize("message", [pytest.param(one, id=name) for name, one in MESSAGES.items()])
def test_what_is_written_is_read(message: Message) -> None:
    frame = encode(message, ANN)
    assert len(frame) <= MAX_FRAME
    assert sender_of(frame) == message.sender
    read = decode(frame, ANN.public, ANN)
    assert replace(read, records=list(read.records)) == replace(message, records=list(message.records))


def opened(frame: bytes, signatures: Signatures) -> Message:
    sender_of(frame)  # whom it names decides only which key is looked up
    return decode(frame, signatures.public, signatures)


@pytest.mark.parametrize("kind", ["who", "ack"])
def test_a_flip_of_any_bit_is_found(kind: str) -> None:
    ann = real_key()
    frame = encode(replace(MESSAGES[kind], sender=id_of(ann)), ann)
    for at in range(len(frame)):
        for bit in (1, 128):
            changed = frame[:at] + bytes((frame[at] ^ bit,)) + frame[at + 1 :]
            with pytest.raises(InvalidInput):
                opened(changed, ann)


@pytest.mark.parametrize("kind", ["who", "ack"])
def test_what_is_cut_off_is_found(kind: str) -> None:
    frame = encode(MESSAGES[kind], ANN)
    for length in range(len(frame)):
        with pytest.raises(InvalidInput):
            opened(frame[:length], ANN)


def test_it_is_signed_by_who_says_so() -> None:
    frame = encode(MESSAGES["push"], ANN)
    with pytest.raises(Forged):
        decode(frame, KeyedHash("bob").public, ANN)


# -- what a member may sign --------------------------------------------------------------------------------------------


def signed(body: bytes, *, version: int = 1, flags: int = 0) -> bytes:
    head = b"AG" + bytes((version, flags)) + bytes.fromhex(id_of(ANN))
    return head + ANN.sign(head + body) + body


def body(**changes: object) -> bytes:
    fields: dict[str, Any] = {"kind": "push", "to": TO, "at": 1, "nonce": bytes(16), "re": b"", "speaks": [1]}
    fields.update(changes)
    packed: bytes = msgpack.packb({name: value for name, value in fields.items() if value is not ...})
    return packed


def compressed(data: bytes, **options: Any) -> bytes:
    return signed(zstandard.ZstdCompressor(**options).compress(data), flags=1)


def read(frame: bytes) -> Message:
    assert sender_of(frame) == id_of(ANN)
    return decode(frame, ANN.public, ANN)


def test_members_that_are_unknown_are_ignored() -> None:
    later = body(later=[{"a": 1}], speaks=[1, 2], more="x" * 2000)
    assert read(signed(later)) == read(signed(body()))
    assert read(compressed(later)) == read(signed(body()))


def bomb(size: int) -> bytes:
    return zstandard.ZstdCompressor().compress(bytes(size))


REFUSED: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "another magic": lambda: b"GA" + signed(body())[2:],
    "a version of later": lambda: signed(body(), version=2),
    "version 0": lambda: signed(body(), version=0),
    "an unknown flag": lambda: signed(body(), flags=2),
    "an unknown flag beside": lambda: signed(bomb(5), flags=3),
    "too long": lambda: signed(body()) + bytes(MAX_FRAME),
    "signed and too long": lambda: signed(bytes(MAX_FRAME)),
    "no body": lambda: signed(b""),
    "an array": lambda: signed(b"\x90"),
    "an integer as key": lambda: signed(msgpack.packb({1: 2})),
    "more after it": lambda: signed(body() + b"\0"),
    "deep": lambda: signed(b"\x91" * 60_000),
    "wide and deep": lambda: signed(b"\xdc\x10\x00" * 20_000),
    "a huge array": lambda: signed(b"\x81\xa7records\xdd\xff\xff\xff\xff"),
    "a huge map": lambda: signed(b"\xdf\xff\xff\xff\xff"),
    "a huge string": lambda: signed(b"\x81\xa4kind\xdb\xff\xff\xff\xff"),
    "an extension": lambda: signed(body(later=msgpack.ExtType(1, b"x"))),
    "not compressed": lambda: signed(body(), flags=1),
    "compressed, nothing": lambda: signed(b"", flags=1),
    "a bomb": lambda: signed(bomb(500_000_000), flags=1),
    "a bomb just above": lambda: signed(bomb(MAX_BODY + 1), flags=1),
    "a bomb that hides its size": lambda: compressed(bytes(50_000_000), write_content_size=False),
    "a bomb that lies": lambda: signed(lying_bomb(), flags=1),
    "cut zstd": lambda: signed(zstandard.ZstdCompressor().compress(body())[:-3], flags=1),
    "no kind of text": lambda: signed(body(kind=1)),
    "a long kind": lambda: signed(body(kind="k" * 201)),
    "to text": lambda: signed(body(to="t")),
    "to a long name": lambda: signed(body(to=bytes(33))),
    "no time": lambda: signed(body(at=...)),
    "a time in words": lambda: signed(body(at="now")),
    "a time before 1970": lambda: signed(body(at=-1)),
    "a time in fractions": lambda: signed(body(at=1.5)),
    "a time of another age": lambda: signed(body(at=1 << 48)),
    "no nonce": lambda: signed(body(nonce=...)),
    "a short nonce": lambda: signed(body(nonce=bytes(15))),
    "a long nonce": lambda: signed(body(nonce=bytes(17))),
    "a long re": lambda: signed(body(re=bytes(17))),
    "a long digest": lambda: compressed(body(digest=bytes(24 * MAX_ENTRIES + 1))),
    "long bounds": lambda: signed(body(lowest=bytes(9))),
    "many names": lambda: signed(body(names=bytes(8 * MAX_NAMES + 1))),
    "one record": lambda: signed(body(records=bytes(100))),
    "records of text": lambda: signed(body(records=["a"])),
    "a long record": lambda: signed(body(records=[bytes(MAX_RECORD + 1)])),
    "many records": lambda: signed(body(records=[b""] * 4097)),
    "a long reason": lambda: signed(body(reason="r" * 201)),
}


def lying_bomb() -> bytes:
    """Says in its header that it has 100 bytes."""
    honest = bytearray(zstandard.ZstdCompressor().compress(bytes(100)))
    real = zstandard.ZstdCompressor().compress(bytes(200_000))
    # frame header: magic (4), descriptor, content size; the blocks are taken from the other
    return bytes(honest[:6]) + real[4 + 1 + 4 :]


@pytest.mark.parametrize("frame", [pytest.param(one, id=name) for name, one in REFUSED.items()])
def test_what_breaks_the_rules_is_refused(frame: Callable[[], bytes]) -> None:
    bad = frame()
    with pytest.raises(InvalidInput) as refused:
        read(bad)
    assert not isinstance(refused.value, Forged), "the test forgot to sign it"


@given(st.binary(max_size=300), st.sampled_from((0, 1)))
def test_noise_only_ever_raises_invalid_input(noise: bytes, flags: int) -> None:
    with pytest.raises(InvalidInput):
        read(signed(noise, flags=flags))
    with pytest.raises(InvalidInput):
        sender_of(noise)


FIELDS = ("kind", "to", "at", "nonce", "re", "digest", "lowest", "beyond", "names", "records", "reason", "speaks")


@given(
    st.dictionaries(
        st.sampled_from(FIELDS),
        st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text() | st.binary() | st.lists(st.binary()),
    )
)
def test_values_of_any_kind_only_ever_raise_invalid_input(changes: dict[str, object]) -> None:
    try:
        message = read(signed(body(**changes)))
    except InvalidInput:
        return
    assert type(message.kind) is type(message.reason) is str
    assert len(message.nonce) == 16


def test_what_fits_is_taken_from_the_front() -> None:
    raws = [bytes((number,)) * 1000 for number in range(100)]
    chosen = fitting(raws)
    assert chosen == raws[: len(chosen)]
    assert ROOM - 1004 < sum(len(raw) + 4 for raw in chosen) <= ROOM
    assert fitting([]) == []
