"""The choice between msgpack and JSON for chunk manifests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrother_node.web.accept import prefers_json

from . import law

MSGPACK = "application/vnd.aibrother.chunks+msgpack"
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
CHROMIUM = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "json"),
    [
        (None, False),
        ("", False),
        ("*/*", False),  # curl, fetch()
        (FIREFOX, True),
        (CHROMIUM, True),
        ("text/html;q=0, */*", False),
        (f"{FIREFOX},{MSGPACK}", False),
        ("application/json", True),
        ("Application/JSON", True),
        ("application/vnd.aibrother.chunks+json", True),
        ("application/json; charset=utf-8", True),
        ("application/json;q=0", False),
        ("text/html, application/json;q=0", False),
        ("text/html, application/json;q=0.1, */*", True),
        ("application/json, */*", False),  # no preference stated
        ("application/json, */*;q=0.9", True),
        ("application/json;q=0.5, */*;q=0.9", False),
        ("application/json, application/*;q=0.5, */*", True),  # the more specific range counts for msgpack
        (f"application/json, {MSGPACK}", False),
        (f"application/json, {MSGPACK};q=0.999", True),
        (f"application/json;q=0.8, {MSGPACK}", False),
        (f"application/json;q=0.01, {MSGPACK};q=0.009", True),
        (f"{MSGPACK};q=0, */*", True),
        (f"{MSGPACK};q=0", False),
        (MSGPACK, False),
        ("application/*", False),
        ("text/plain", False),
        ("application/json;q=2, rubbish, ;;;", False),
        ("application/json ;\tq=0.9", True),
        ("application/json;q=0.2, application/json;q=1, */*;q=0.5", True),
        ("application/json," + "x/y," * 2000, False),  # too long
    ],
)
def test_prefers_json(accept: str | None, json: bool) -> None:
    assert prefers_json(accept) is json


@law
@given(st.one_of(st.text(), st.text('application/json*;q=0.159, \t"', max_size=60)))
def test_no_text_raises(accept: str) -> None:
    assert prefers_json(accept) in (True, False)
