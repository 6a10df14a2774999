"""What two nodes say to each other about the fleet: one frame asks, one answers.

A frame is `"AG" ‖ 1 ‖ flags ‖ sender (32) ‖ signature (64) ‖ body`, the body a msgpack map, zstd-compressed where flag
1 is set. The signature covers everything but itself, as it is sent: nothing is unpacked for a stranger. The body says
to whom it speaks (`to`), when (`at`, milliseconds since 1970), with a nonce that is used once, and an answer says which
nonce it answers (`re`); so a frame means something to one node, for a few minutes, once.

Kinds: `syn` (what I know, in 24 bytes a record) is answered by `ack` (records that you lack, names that I lack), that
perhaps by `push` (the records asked for), which is answered by `done`. `who` asks whoever is behind a URL for its id
and is answered by `id`. `no` refuses and says why. Members that are unknown are ignored; `speaks` lists the versions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgpack
import zstandard

from aibrother_node.errors import InvalidInput
from aibrother_node.fleet.record import MAX_RECORD, number, unpack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aibrother_node.fleet.signatures import Signatures

VERSION: Final = 1
MAX_FRAME: Final = 64 << 10
"""Bytes of a frame; what doesn't fit is said in later rounds."""
MAX_BODY: Final = 256 << 10
"""Bytes of a body once it is unpacked."""
ROOM: Final = 48 << 10
"""Bytes of records in one frame: with all around them it stays below the ceiling, compressed or not."""
MAX_ENTRIES: Final = 2000
"""Records that one digest speaks of."""
MAX_NAMES: Final = 512
ANYBODY: Final = bytes(32)
_MAGIC: Final = b"AG"
_HEAD: Final = 4 + 32 + 64
_COMPRESSED: Final = 1
_WORTH_COMPRESSING: Final = 512
_NONCE: Final = 16


@dataclass(frozen=True, slots=True)
class Message:
    """A message whose frame was signed by its sender.

    Attributes:
        kind: `syn`, `ack` …
        sender: the sender's id.
        to: the receiver's raw id, or `ANYBODY`.
        at: when it was sent, in seconds since 1970 by the sender's clock.
        nonce: 16 bytes.
        re: the nonce that it answers, or nothing.
        digest, lowest, beyond: of a `syn`: see `RecordTable.digest`.
        names: of an `ack`: 8 bytes a record that is asked for.
        records: of `ack` and `push`.
        reason: of a `no`.
    """

    kind: str
    sender: str
    to: bytes
    at: float
    nonce: bytes
    re: bytes = b""
    digest: bytes = b""
    lowest: bytes = b""
    beyond: bytes = b""
    names: bytes = b""
    records: Sequence[bytes] = field(default=())
    reason: str = ""


def sender_of(frame: bytes) -> str:
    """Who says that it sent a frame.

    Raises:
        InvalidInput: this is no frame of a version that is known here, or too long.
    """
    if len(frame) > MAX_FRAME:
        raise InvalidInput(f"a message of more than {MAX_FRAME} bytes")
    if len(frame) < _HEAD or not frame.startswith(_MAGIC):
        raise InvalidInput("not a message of the fleet")
    if frame[2] != VERSION:
        raise InvalidInput(f"a message of version {frame[2]}, and this release speaks {VERSION}")
    return frame[4:36].hex()


def encode(message: Message, signatures: Signatures) -> bytes:
    """Write and sign a frame."""
    fields: dict[str, Any] = {
        "kind": message.kind,
        "to": message.to,
        "at": round(message.at * 1000),
        "nonce": message.nonce,
        "re": message.re,
        "speaks": [VERSION],
    }
    for name in ("digest", "lowest", "beyond", "names", "records", "reason"):
        if value := getattr(message, name):
            fields[name] = value
    body: bytes = msgpack.packb(fields)
    flags = 0
    if len(body) >= _WORTH_COMPRESSING:
        packed = zstandard.ZstdCompressor(level=1, write_content_size=True).compress(body)
        if len(packed) < len(body):
            body, flags = packed, _COMPRESSED
    head = _MAGIC + bytes((VERSION, flags)) + bytes.fromhex(message.sender)
    frame = head + signatures.sign(head + body) + body
    assert len(frame) <= MAX_FRAME
    return frame


def decode(frame: bytes, key: bytes, signatures: Signatures) -> Message:
    """Check and read a frame.

    Args:
        frame: one that `sender_of` took.
        key: the public key of the member that it names.
        signatures: checks it.

    Raises:
        Forged: the member didn't sign it.
        InvalidInput: it did, and yet it breaks the rules.
    """
    head, signature, body = frame[:36], frame[36:_HEAD], frame[_HEAD:]
    if not signatures.verify(key, signature, head + body):
        raise Forged("the signature doesn't hold")
    flags = frame[3]
    if flags & ~_COMPRESSED:
        raise InvalidInput(f"unknown flags {flags}")
    if flags & _COMPRESSED:
        body = _decompressed(body)
    fields = unpack(body, longest=MAX_FRAME, items=4096)
    records = fields.get("records", [])
    if type(records) is not list or any(type(one) is not bytes or len(one) > MAX_RECORD for one in records):
        raise InvalidInput("records are bytes, and not too many")
    digest = _bytes(fields, "digest", MAX_ENTRIES * 24)
    lowest, beyond = _bytes(fields, "lowest", 8), _bytes(fields, "beyond", 8)
    return Message(
        kind=_text(fields, "kind"),
        sender=frame[4:36].hex(),
        to=_bytes(fields, "to", 32),
        at=number(fields.get("at"), "at") / 1000,
        nonce=_bytes(fields, "nonce", _NONCE, least=_NONCE),
        re=_bytes(fields, "re", _NONCE),
        digest=digest,
        lowest=lowest,
        beyond=beyond,
        names=_bytes(fields, "names", MAX_NAMES * 8),
        records=records,
        reason=_text(fields, "reason"),
    )


class Forged(InvalidInput):
    """A frame that the member whom it names didn't sign."""


def fitting(raws: Sequence[bytes], room: int = ROOM) -> list[bytes]:
    """As many records from the front as there is room for; what is left goes in a later round."""
    chosen: list[bytes] = []
    for raw in raws:
        room -= len(raw) + 4
        if room < 0:
            break
        chosen.append(raw)
    return chosen


def _decompressed(body: bytes) -> bytes:
    try:
        size = zstandard.frame_content_size(body)
        if not 0 <= size <= MAX_BODY:
            raise InvalidInput(f"a body of {size} bytes")
        return zstandard.ZstdDecompressor().decompress(body, max_output_size=MAX_BODY)
    except zstandard.ZstdError as error:
        raise InvalidInput(f"not zstd: {error}") from error


def _bytes(fields: Mapping[str, Any], name: str, most: int, *, least: int = 0) -> bytes:
    value = fields.get(name, b"")
    if type(value) is not bytes or not least <= len(value) <= most:
        raise InvalidInput(f"{name} is no string of up to {most} bytes")
    return value


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name, "")
    if type(value) is not str or len(value) > 200:
        raise InvalidInput(f"{name} is no short text")
    return value
