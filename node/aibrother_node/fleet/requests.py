"""Requests that carry a node's signature in their header fields: one profile of HTTP Message Signatures (RFC 9421).

The signature is labelled `fleet` and covers method, path, query, the id of the node that is asked (`Aibrother-To`), and
Range where there is one; its parameters are the time, the asking node's id, `ed25519` and the tag `aibrother-fleet`.
Nothing else is accepted: an implementation that covers less, or in another order, is refused. There is no nonce, since
only what changes nothing is asked for in this way.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Final

from aibrother_node.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aibrother_node.fleet.members import Member
    from aibrother_node.fleet.signatures import Signatures

TO: Final = "Aibrother-To"
MAX_AGE: Final = 300.0
"""Seconds that the time in a signature may be off."""
_PLAIN: Final = '("@method" "@path" "@query" "aibrother-to")'
_WITH_RANGE: Final = '("@method" "@path" "@query" "aibrother-to" "range")'
_INPUT: Final = re.compile(
    r'fleet=(\("@method" "@path" "@query" "aibrother-to"(?: "range")?\));created=([0-9]{1,15})'
    r';keyid="([0-9a-f]{64})";alg="ed25519";tag="aibrother-fleet"',
    re.ASCII,
)
_SIGNATURE: Final = re.compile(r"fleet=:([A-Za-z0-9+/]{86}==):", re.ASCII)


def sign_request(
    signatures: Signatures, node: str, to: str, method: str, target: str, now: float, range_: str | None = None
) -> dict[str, str]:
    """The header fields that sign a request.

    Args:
        signatures: this node's key.
        node: this node's id.
        to: the id of the node that is asked.
        method: such as `GET`.
        target: path and query as they are sent.
        now: seconds since 1970.
        range_: the Range field, if there is one.
    """
    covered = _PLAIN if range_ is None else _WITH_RANGE
    parameters = f'{covered};created={int(now)};keyid="{node}";alg="ed25519";tag="aibrother-fleet"'
    signature = base64.b64encode(signatures.sign(_base(method, target, to, range_, parameters))).decode("ascii")
    return {TO: to, "Signature-Input": f"fleet={parameters}", "Signature": f"fleet=:{signature}:"}


def verify_request(
    method: str,
    target: str,
    header: Callable[[str], str | None],
    *,
    own: str,
    members: Mapping[str, Member],
    signatures: Signatures,
    now: float,
) -> Member:
    """Who of the fleet sent a request.

    Args:
        method, target: as they came.
        header: looks up a header field.
        own: this node's id.
        members: the fleet.
        signatures: checks the signature.
        now: seconds since 1970.

    Raises:
        Refused: it isn't signed by a member, for this node, now.
    """
    described = _INPUT.fullmatch(header("Signature-Input") or "")
    encoded = _SIGNATURE.fullmatch(header("Signature") or "")
    if described is None or encoded is None:
        raise Refused("requests to the fleet listener are signed by a node of the fleet")
    covered, created, node = described.groups()
    member = members.get(node)
    if member is None:
        raise Refused("this node is not in the fleet")
    range_ = header("Range")
    if (range_ is not None) != (covered == _WITH_RANGE):
        raise Refused("the signature covers Range where there is one")
    if header(TO) != own:
        raise Refused("the request was meant for another node")
    if abs(int(created) - now) > MAX_AGE:
        raise Refused("the signature is of another time")
    parameters = described[0].removeprefix("fleet=")
    try:
        signature = base64.b64decode(encoded[1], validate=True)
    except binascii.Error:
        raise Refused("not a signature") from None
    if not signatures.verify(member.key, signature, _base(method, target, own, range_, parameters)):
        raise Refused("the signature doesn't hold")
    return member


def _base(method: str, target: str, to: str, range_: str | None, parameters: str) -> bytes:
    """The signature base (RFC 9421, 2.5)."""
    path, _, query = target.partition("?")
    lines = [f'"@method": {method}', f'"@path": {path}', f'"@query": ?{query}', f'"aibrother-to": {to}']
    if range_ is not None:
        lines.append(f'"range": {range_.strip()}')
    lines.append(f'"@signature-params": {parameters}')
    return "\n".join(lines).encode("latin-1", "replace")
