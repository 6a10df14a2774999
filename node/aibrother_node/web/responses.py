"""From an `Answer` without slices to aiohttp's response, for the planes that aiohttp serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from aibrother_node.web.answer import Answer


def response(answer: Answer) -> web.Response:
    """The response that sends an answer, all of whose parts are bytes."""
    body = b"".join(part for part in answer.parts if isinstance(part, bytes))
    return web.Response(status=answer.status, headers=dict(answer.headers), body=body)
