"""The map from exceptions to HTTP."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import pytest

from aibrother_node import errors
from aibrother_node.web.errors import answer_error, error_of, method_not_allowed, problem, retry_after

if TYPE_CHECKING:
    from aibrother_node.web.answer import Answer


def document(result: Answer) -> dict[str, object]:
    (body,) = result.parts
    assert isinstance(body, bytes)
    loaded = json.loads(body)
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize(
    ("exc", "status", "title", "retry"),
    [
        (errors.InvalidInput("why"), 400, "Bad Request", None),
        (errors.Refused("why"), 403, "Forbidden", None),
        (errors.NotFound("why"), 404, "Not Found", None),
        (errors.Conflict("why"), 409, "Conflict", None),
        (errors.VerificationFailed("why", expected="a", actual="b"), 502, "Bad Gateway", None),
        (errors.Temporary("why"), 503, "Service Unavailable", "5"),
        (errors.Temporary("why", retry_after=1.2), 503, "Service Unavailable", "2"),
        (errors.DiskFull("why", retry_after=60), 503, "Service Unavailable", "60"),
    ],
)
def test_our_errors(exc: Exception, status: int, title: str, retry: str | None) -> None:
    result = answer_error(exc, "GET")
    head = dict(result.headers)
    assert result.status == status
    assert document(result) == {"type": "about:blank", "title": title, "status": status, "detail": "why"}
    assert head["Content-Type"] == "application/problem+json"
    assert head["Cache-Control"] == "no-store"
    assert head["Content-Length"] == str(result.body_length)
    assert head.get("Retry-After") == retry


def test_a_full_disk_is_507_to_writers_only() -> None:
    result = answer_error(errors.DiskFull("full"), "PUT", writing=True)
    assert (result.status, document(result)["title"]) == (507, "Insufficient Storage")
    assert ("Retry-After", "5") in result.headers
    assert answer_error(errors.Temporary("busy"), "PUT", writing=True).status == 503


@pytest.mark.parametrize(
    "exc",
    [
        OSError(13, "Permission denied", "/srv/node/node.key"),
        KeyError("secret"),
        errors.NodeError("secret"),
        errors.ConfigurationError(["secret"]),
    ],
)
def test_other_errors_leak_nothing(exc: Exception) -> None:
    result = answer_error(exc, "GET")
    assert result.status == 500
    assert "secret" not in str(document(result))
    assert "node.key" not in str(document(result))


def test_head_gets_the_head_only() -> None:
    got, head = answer_error(errors.NotFound("why"), "GET"), answer_error(errors.NotFound("why"), "HEAD")
    assert (head.status, head.headers) == (got.status, got.headers)
    assert (head.parts, head.body_length) == ((), 0)


def test_details_are_one_bounded_line() -> None:
    detail = document(answer_error(errors.InvalidInput("a\r\nb\x00\x1b[31m\x85\ud800c" + "x" * 10_000), "GET"))[
        "detail"
    ]
    assert isinstance(detail, str)
    assert detail.startswith("a b [31m c")
    assert len(detail) <= 500


def test_an_empty_detail_is_left_out() -> None:
    assert "detail" not in document(problem(404, "Not Found", "\x00 ", method="GET"))


def test_extra_headers_are_kept() -> None:
    result = problem(401, "Unauthorized", "", headers=(("WWW-Authenticate", "Bearer"),), method="GET")
    assert ("WWW-Authenticate", "Bearer") in result.headers


@pytest.mark.parametrize(
    ("seconds", "value"),
    [
        (None, "5"),
        (math.nan, "5"),
        (-math.inf, "1"),
        (-3, "1"),
        (0, "1"),
        (0.2, "1"),
        (7, "7"),
        (7.01, "8"),
        (1e9, "86400"),
        (math.inf, "86400"),
    ],
)
def test_retry_after(seconds: float | None, value: str) -> None:
    assert retry_after(seconds) == ("Retry-After", value)


def test_method_not_allowed() -> None:
    result = method_not_allowed("DELETE")
    assert result.status == 405
    assert ("Allow", "GET, HEAD, OPTIONS") in result.headers


@pytest.mark.parametrize(
    "kind",
    [
        errors.InvalidInput,
        errors.Refused,
        errors.NotFound,
        errors.Conflict,
        errors.VerificationFailed,
        errors.Temporary,
        errors.DiskFull,
    ],
)
def test_an_answer_is_read_back_as_the_error_that_it_was(kind: type[errors.NodeError]) -> None:
    assert error_of(answer_error(kind("why"), "GET", writing=True).status) is kind


def test_a_status_that_stands_for_no_kind_is_read_as_the_general_one() -> None:
    assert error_of(500) is errors.NodeError
