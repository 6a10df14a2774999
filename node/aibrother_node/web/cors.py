"""Cross-origin reads (the Fetch standard, section 3.3): what scripts in browsers may ask, send and see."""

from __future__ import annotations

from typing import Final

from aibrother_node.web.answer import Answer, Header
from aibrother_node.web.errors import ALLOW

METHODS: Final = "GET, HEAD"
REQUEST_HEADERS: Final = "Range, If-Range, If-Match, If-None-Match, Authorization, Want-Repr-Digest"
EXPOSED_HEADERS: Final = (
    "Content-Length, Content-Range, Content-Disposition, ETag, Repr-Digest, Link, Accept-Ranges, Retry-After, "
    "X-Repo-Commit, X-Linked-Size, X-Linked-ETag"
)
MAX_AGE: Final = 3600
"""Seconds for which a browser may remember a preflight."""

_EXPOSE: Final = ("Access-Control-Expose-Headers", EXPOSED_HEADERS)
_ANYONE: Final = (("Access-Control-Allow-Origin", "*"), _EXPOSE)
_VARY: Final = ("Vary", "Origin")


def cors_headers(origin: str | None, allowed: tuple[str, ...]) -> list[Header]:
    """The fields that every answer of the public plane carries, errors and redirects included.

    Args:
        origin: the request's Origin, None if it has none.
        allowed: the origins that may read, exactly as browsers write them; `*` for all.

    Returns:
        Fields to add to the answer's. As soon as the answer depends on the origin there is a `Vary: Origin`, a line of
        its own, which adds to another Vary (RFC 9110, 5.3), also for those who are not let in: caches must know.
    """
    if "*" in allowed:
        return list(_ANYONE)
    if origin is not None and origin in allowed:
        return [("Access-Control-Allow-Origin", origin), _EXPOSE, _VARY]
    return [_VARY] if allowed else []


def preflight(origin: str | None, allowed: tuple[str, ...]) -> Answer:
    """Answer OPTIONS, a CORS preflight or not: 204, with the fields of `cors_headers` in it already."""
    head = [("Allow", ALLOW), *cors_headers(origin, allowed)]
    if any(name == "Access-Control-Allow-Origin" for name, _ in head):
        head += (
            ("Access-Control-Allow-Methods", METHODS),
            ("Access-Control-Allow-Headers", REQUEST_HEADERS),
            ("Access-Control-Max-Age", str(MAX_AGE)),
        )
    return Answer(204, head)
