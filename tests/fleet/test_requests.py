"""Signed requests: what is accepted, and that nothing else is."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrother_node.errors import Refused
from aibrother_node.fleet.identity import NodeKey
from aibrother_node.fleet.members import Member
from aibrother_node.fleet.requests import MAX_AGE, TO, sign_request, verify_request
from aibrother_node.fleet.signatures import Ed25519Signatures

NOW = 1_800_000_000.0
KEY = NodeKey.generate()
SIGNATURES = Ed25519Signatures(KEY)
OTHER = NodeKey.generate()
OWN = hashlib.sha256(b"the node that is asked").hexdigest()
MEMBERS = {KEY.id: Member(KEY.id, KEY.public), OTHER.id: Member(OTHER.id, OTHER.public)}
TARGET = "/inventory/v1?since=ab.7"


def _check(
    headers: dict[str, str], *, method: str = "GET", target: str = TARGET, now: float = NOW, own: str = OWN
) -> Member:
    folded = {name.lower(): value for name, value in headers.items()}
    return verify_request(
        method,
        target,
        lambda name: folded.get(name.lower()),
        own=own,
        members=MEMBERS,
        signatures=SIGNATURES,
        now=now,
    )


def _signed(range_: str | None = None) -> dict[str, str]:
    headers = sign_request(SIGNATURES, KEY.id, OWN, "GET", TARGET, NOW, range_)
    return headers if range_ is None else {**headers, "Range": range_}


def test_a_members_request_is_told() -> None:
    assert _check(_signed()).id == KEY.id
    assert _check(_signed("bytes=0-9")).id == KEY.id
    assert _check(_signed(), now=NOW + MAX_AGE).id == KEY.id


@pytest.mark.parametrize(
    ("what", "change", "how"),
    [
        ("unsigned", {"Signature": "", "Signature-Input": ""}, {}),
        ("another method", {}, {"method": "HEAD"}),
        ("another query", {}, {"target": "/inventory/v1?since=ab.8"}),
        ("no query", {}, {"target": "/inventory/v1"}),
        ("another path", {}, {"target": "/inventory/v2?since=ab.7"}),
        ("for another node", {}, {"own": KEY.id}),
        ("told to be for us", {TO: KEY.id}, {"own": KEY.id}),
        ("too old", {}, {"now": NOW + MAX_AGE + 1}),
        ("from the future", {}, {"now": NOW - MAX_AGE - 1}),
        ("a range that isn't covered", {"Range": "bytes=0-0"}, {}),
    ],
)
def test_anything_else_is_refused(what: str, change: dict[str, str], how: dict[str, object]) -> None:
    with pytest.raises(Refused):
        _check({**_signed(), **change}, **how)  # type: ignore[arg-type]


def test_another_range_is_refused() -> None:
    with pytest.raises(Refused):
        _check({**_signed("bytes=0-9"), "Range": "bytes=0-99"})
    signed = _signed("bytes=0-9")
    del signed["Range"]
    with pytest.raises(Refused):
        _check(signed)


def test_a_key_signs_for_itself_alone() -> None:
    headers = _signed()
    headers["Signature-Input"] = headers["Signature-Input"].replace(KEY.id, OTHER.id)
    with pytest.raises(Refused, match="doesn't hold"):
        _check(headers)
    headers["Signature-Input"] = headers["Signature-Input"].replace(OTHER.id, "0" * 64)
    with pytest.raises(Refused, match="not in the fleet"):
        _check(headers)


@given(st.sampled_from(["Signature", "Signature-Input", TO]), st.text(st.characters(codec="latin-1"), max_size=200))
def test_no_header_does_more_than_be_refused(name: str, value: str) -> None:
    with pytest.raises(Refused):
        _check({**_signed(), name: value})


@given(st.integers(0, 85), st.sampled_from("ABCDEFGHabcdefgh0123456789+/"))
def test_a_changed_signature_is_refused(place: int, letter: str) -> None:
    headers = _signed()
    encoded = headers["Signature"][8:-1]
    changed = encoded[:place] + letter + encoded[place + 1 :]
    if changed != encoded:
        with pytest.raises(Refused):
            _check({**headers, "Signature": f"fleet=:{changed}:"})
