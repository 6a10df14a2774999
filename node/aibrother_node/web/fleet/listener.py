"""The fleet listener's routes: gossip, inventory and have, for members of the fleet and nobody else.

Whoever isn't one gets 401 on every path, before anything is looked up. Gossip's frames carry their own signature
(fleet/messages.py); the others are signed requests (fleet/requests.py).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Protocol

from aiohttp import web

from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput, NodeError, Refused
from aibrother_node.fleet.messages import MAX_FRAME
from aibrother_node.fleet.vouching import parse_nonce
from aibrother_node.web.errors import answer_error
from aibrother_node.web.responses import response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aibrother_node.fleet.members import Member

_LOG: Final = logging.getLogger(__name__)
GOSSIP_TYPE: Final = "application/vnd.aibrother.gossip"
INVENTORY_TYPE: Final = "application/vnd.aibrother.inventory+msgpack"
HAVE_TYPE: Final = "application/vnd.aibrother.have+msgpack"


_NEVER_STORED: Final[Mapping[str, str]] = {"Cache-Control": "no-store"}
_PATIENCE: Final = 10.0


class FleetAnswers(Protocol):
    """What the listener asks of the node."""

    async def receive(self, frame: bytes) -> bytes:
        """Answer a frame of gossip; `Refused` for who is not in the fleet, `InvalidInput` for what is no frame."""

    async def caller(self, method: str, target: str, header: Callable[[str], str | None]) -> Member:
        """Who of the fleet signed a request; `Refused` for nobody."""

    async def inventory(self, since: str | None) -> bytes:
        """A page of this node's inventory, encoded; for a cursor that is none, the first one."""

    async def have(self, digest: Digest, asker: Member, nonce: bytes | None) -> bytes:
        """What there is of a blob, encoded; `NotFound` where there is nothing.

        With a nonce the answer says, signed, whether this node keeps the blob (fleet/vouching.py).
        """


class FleetListener:
    """The application that the fleet listener serves.

    Args:
        answers: the node.
    """

    def __init__(self, answers: FleetAnswers) -> None:
        self._answers = answers

    def application(self) -> web.Application:
        """The aiohttp application to serve."""
        app = web.Application(client_max_size=MAX_FRAME, middlewares=[_errors])
        app.add_routes(
            [
                web.post("/gossip/v1", self._gossip),
                web.get("/inventory/v1", self._inventory),
                web.get("/have/v1/{digest}", self._have),
            ]
        )
        return app

    async def _gossip(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(_PATIENCE):
                frame = await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise InvalidInput(f"a message has at most {MAX_FRAME} bytes") from None
        except TimeoutError:
            raise InvalidInput(f"the message had not come after {_PATIENCE:g} s") from None
        return web.Response(body=await self._answers.receive(frame), content_type=GOSSIP_TYPE, headers=_NEVER_STORED)

    async def _inventory(self, request: web.Request) -> web.Response:
        await self._check(request)
        since = request.query.getall("since", [])
        if len(since) > 1:
            raise InvalidInput("the parameter since is given twice")
        page = await self._answers.inventory(since[0] if since else None)
        return web.Response(body=page, content_type=INVENTORY_TYPE, headers=_NEVER_STORED)

    async def _have(self, request: web.Request) -> web.Response:
        asker = await self._check(request)
        digest = Digest.parse(request.match_info["digest"])
        nonces = request.query.getall("vouch", [])
        if len(nonces) > 1:
            raise InvalidInput("the parameter vouch is given twice")
        body = await self._answers.have(digest, asker, parse_nonce(nonces[0]) if nonces else None)
        return web.Response(body=body, content_type=HAVE_TYPE, headers=_NEVER_STORED)

    async def _check(self, request: web.Request) -> Member:
        return await self._answers.caller(request.method, request.raw_path, request.headers.get)


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        # an unknown path or method tells a stranger nothing either
        found: Exception = error
    except (TimeoutError, NodeError) as error:
        found = error
    except Exception as error:
        _LOG.exception("%s %s failed", request.method, request.path[:100])
        found = error
    if isinstance(found, InvalidInput) and request.path == "/gossip/v1":
        result = answer_error(found, request.method)
    elif isinstance(found, Refused | web.HTTPException):
        return web.json_response(
            {"type": "about:blank", "title": "Unauthorized", "status": 401},
            status=401,
            content_type="application/problem+json",
            headers={"WWW-Authenticate": 'Signature realm="fleet"', **_NEVER_STORED},
        )
    else:
        result = answer_error(found, request.method)
    return response(result)
