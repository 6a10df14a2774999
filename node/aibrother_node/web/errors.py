"""The one map from exceptions to HTTP."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from aibrother_node.errors import (
    Conflict,
    DiskFull,
    Gone,
    InvalidInput,
    NodeError,
    NotFound,
    Refused,
    Temporary,
    VerificationFailed,
)
from aibrother_node.web.answer import Answer, problem

if TYPE_CHECKING:
    from aibrother_node.web.answer import Header

__all__ = ["ALLOW", "answer_error", "error_of", "method_not_allowed", "problem", "retry_after"]

ALLOW: Final = "GET, HEAD, OPTIONS"
"""The methods of the public plane."""

DEFAULT_RETRY: Final = 5.0
"""Seconds to wait where the exception knows nothing better."""

GONE_CACHE_CONTROL: Final = "public, max-age=60"
"""What was withdrawn may be restored."""

MAX_RETRY: Final = 86_400
"""Seconds; whoever is told to wait longer than a day is better off asking again."""

# The titles are those of the status codes, as RFC 9457, 4.2.1 asks of "about:blank".
_STATUS: Final[tuple[tuple[type[NodeError], int, str], ...]] = (
    (InvalidInput, 400, "Bad Request"),
    (Refused, 403, "Forbidden"),
    (Gone, 410, "Gone"),  # before its base class
    (NotFound, 404, "Not Found"),
    (Conflict, 409, "Conflict"),
    (VerificationFailed, 502, "Bad Gateway"),
    (Temporary, 503, "Service Unavailable"),
)


def retry_after(seconds: float | None) -> Header:
    """The Retry-After field (RFC 9110, 10.2.3): whole seconds, rounded up, from 1 to a day."""
    if seconds is None or math.isnan(seconds):
        seconds = DEFAULT_RETRY
    return "Retry-After", str(math.ceil(min(max(seconds, 1), MAX_RETRY)))


def error_of(status: int) -> type[NodeError]:
    """The kind of error that an answer with this status stands for: the same map, read by who asked."""
    if status == 507:
        return DiskFull
    return next((kind for kind, known, _ in _STATUS if known == status), NodeError)


def answer_error(exc: BaseException, method: str, *, writing: bool = False) -> Answer:
    """Answer a request that ended in an exception.

    Only the project's own errors speak to the client: what another exception says may hold paths or secrets.

    Args:
        exc: what was raised.
        method: the request's; HEAD gets no body.
        writing: the request asked for something to be stored, so that a full disk is its answer (507); a read gets 503.
    """
    extra = (retry_after(exc.retry_after),) if isinstance(exc, Temporary) else ()
    if isinstance(exc, Gone):
        return problem(410, "Gone", str(exc), method=method, cache_control=GONE_CACHE_CONTROL)
    if writing and isinstance(exc, DiskFull):
        return problem(507, "Insufficient Storage", str(exc), headers=extra, method=method)
    for kind, status, title in _STATUS:
        if isinstance(exc, kind):
            return problem(status, title, str(exc), headers=extra, method=method)
    return problem(500, "Internal Server Error", "the node failed to answer; its log says why", method=method)


def method_not_allowed(method: str, allow: str = ALLOW) -> Answer:
    """Answer a method that the resource does not have: 405 with Allow (RFC 9110, 15.5.6)."""
    return problem(405, "Method Not Allowed", f"allowed here: {allow}", headers=(("Allow", allow),), method=method)
