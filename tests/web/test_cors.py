"""Cross-origin reads."""

from __future__ import annotations

import pytest

from aibrother_node.web.cors import cors_headers, preflight

APP = "https://app.example"
EXPOSED = (
    "Access-Control-Expose-Headers",
    (
        "Content-Length, Content-Range, Content-Disposition, ETag, Repr-Digest, Link, Accept-Ranges, Retry-After, "
        "X-Repo-Commit, X-Linked-Size, X-Linked-ETag"
    ),
)
VARY = ("Vary", "Origin")


@pytest.mark.parametrize(
    ("origin", "allowed", "expected"),
    [
        (None, ("*",), [("Access-Control-Allow-Origin", "*"), EXPOSED]),
        (APP, ("*",), [("Access-Control-Allow-Origin", "*"), EXPOSED]),
        (APP, (APP, "*"), [("Access-Control-Allow-Origin", "*"), EXPOSED]),
        (APP, ("https://other.example", APP), [("Access-Control-Allow-Origin", APP), EXPOSED, VARY]),
        ("https://evil.example", (APP,), [VARY]),
        ("https://app.example.evil", (APP,), [VARY]),
        ("null", (APP,), [VARY]),
        (None, (APP,), [VARY]),
        (APP, (), []),
    ],
)
def test_cors_headers(origin: str | None, allowed: tuple[str, ...], expected: list[tuple[str, str]]) -> None:
    assert cors_headers(origin, allowed) == expected


def test_each_answer_gets_a_list_of_its_own() -> None:
    cors_headers(None, ("*",)).append(("X", "y"))
    assert ("X", "y") not in cors_headers(None, ("*",))


def test_preflight() -> None:
    result = preflight(APP, (APP,))
    assert (result.status, result.parts, result.body_length) == (204, (), 0)
    assert dict(result.headers) == {
        "Allow": "GET, HEAD, OPTIONS",
        "Access-Control-Allow-Origin": APP,
        "Access-Control-Expose-Headers": EXPOSED[1],
        "Access-Control-Allow-Methods": "GET, HEAD",
        "Access-Control-Allow-Headers": "Range, If-Range, If-Match, If-None-Match, Authorization, Want-Repr-Digest",
        "Access-Control-Max-Age": "3600",
        "Vary": "Origin",
    }


def test_preflight_of_a_stranger_grants_nothing() -> None:
    assert preflight("https://evil.example", (APP,)).headers == [("Allow", "GET, HEAD, OPTIONS"), VARY]
