"""The control plane: what operators and their monitoring ask of a node, on an address that is theirs."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from aiohttp import web
from prometheus_client import exposition
from prometheus_client.openmetrics import exposition as openmetrics

from aibrother_node.web.accept import prefers_openmetrics
from aibrother_node.web.answer import problem
from aibrother_node.web.control.admin.api import BASE
from aibrother_node.web.errors import answer_error
from aibrother_node.web.responses import response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from prometheus_client.registry import Collector

_LOG: Final = logging.getLogger(__name__)
_BODY_CEILING: Final = 1 << 16  # nothing here takes a body; the admin API has ceilings of its own


class ControlPlane:
    """The routes of the control listener, and those of the one that serves metrics alone.

    Args:
        registry: what `/metrics` shows.
        refresh: awaited before that, to bring up to date what nobody reports as it changes.
    """

    def __init__(self, registry: Collector, refresh: Callable[[], Awaitable[None]] | None = None) -> None:
        self._registry = registry
        self._refresh = refresh

    def application(self, admin: web.Application) -> web.Application:
        """The aiohttp application of the control listener.

        Args:
            admin: the admin API, which goes below `/admin/v1`.
        """
        app = self.metrics_alone()
        app.add_subapp(BASE, admin)
        return app

    def metrics_alone(self) -> web.Application:
        """The aiohttp application for an address at which there are only metrics."""
        app = web.Application(middlewares=[_problems], client_max_size=_BODY_CEILING)
        app.add_routes([web.get("/metrics", self._metrics)])
        return app

    async def _metrics(self, request: web.Request) -> web.Response:
        """Prometheus' text format, or OpenMetrics where it is accepted."""
        if self._refresh is not None:
            await self._refresh()
        # not choose_encoder: what it makes of some Accept fields is an exception
        if prefers_openmetrics(", ".join(request.headers.getall("Accept", []))):
            content_type = openmetrics.CONTENT_TYPE_LATEST
            body: bytes = await asyncio.to_thread(openmetrics.generate_latest, self._registry)
        else:
            content_type = exposition.CONTENT_TYPE_PLAIN_0_0_4
            body = await asyncio.to_thread(exposition.generate_latest, self._registry)
        return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})


@web.middleware
async def _problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer errors with problem documents (RFC 9457)."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        allow = error.headers.get("Allow")
        headers = () if allow is None else (("Allow", allow),)
        return response(problem(error.status, error.reason, "", headers=headers, method=request.method))
    except Exception as error:
        _LOG.exception("%s %s failed", request.method, request.path[:100])
        return response(answer_error(error, request.method))
