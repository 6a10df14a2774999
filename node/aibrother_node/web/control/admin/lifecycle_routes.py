"""Routes that change how a running node serves: drain, undrain, reload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from aibrother_node.errors import ConfigurationError
from aibrother_node.store.draining import MAX_REASON
from aibrother_node.web.control.admin.inputs import Input
from aibrother_node.web.control.admin.node_answers import Output
from aibrother_node.web.control.admin.operation import Documented, Operation, Reply, Scope
from aibrother_node.web.control.admin.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aibrother_node.web.control.admin.operation import Call


class DrainBody(Input):
    """Why a node is taken out of service."""

    reason: Annotated[
        str,
        Field(max_length=MAX_REASON, pattern=r"^[^\x00-\x1f\x7f]*$", description="for whoever reads `status` later"),
    ] = ""


class StateAnswer(Output):
    """What the node says of itself from now on."""

    state: Literal["draining", "up"]


class ReloadAnswer(Output):
    """The keys whose values differ from those that were in use."""

    changed: list[str]
    needs_restart: list[str]


class LifecycleRoutes:
    """The routes, and what they need of the node.

    Args:
        drain: takes the node out of service, for a reason.
        undrain: puts it back.
        reload: has the configuration read again by all processes; what it returns is answered. It raises
            `ConfigurationError` where nothing was changed, `NotTakenOver` where a process didn't take it over.
    """

    def __init__(
        self,
        *,
        drain: Callable[[str], Awaitable[None]],
        undrain: Callable[[], Awaitable[None]],
        reload: Callable[[], Awaitable[Mapping[str, Any]]],
    ) -> None:
        self._drain = drain
        self._undrain = undrain
        self._reload = reload

    def operations(self) -> list[Operation]:
        """The declarations."""
        return [
            Operation(
                "drain",
                "POST",
                "/drain",
                Scope.OPERATE,
                "Take the node out of service until undrain, over restarts; downloads that run are finished.",
                self._post_drain,
                {200: Documented("no worker begins to send content, and the fleet has been told", StateAnswer)},
                body=DrainBody,
            ),
            Operation(
                "undrain",
                "POST",
                "/undrain",
                Scope.OPERATE,
                "Put the node back into service.",
                self._post_undrain,
                {200: Documented("all workers serve, and the fleet has been told", StateAnswer)},
            ),
            Operation(
                "reload",
                "POST",
                "/reload",
                Scope.OPERATE,
                "Read the configuration again, as SIGHUP does.",
                self._post_reload,
                {
                    200: Documented("all processes use it, but for what needs a restart", ReloadAnswer),
                    400: Documented(
                        "it has the `faults` that the problem names; nothing has changed",
                        media_type="application/problem+json",
                    ),
                    503: Documented(
                        "not every process could take it over: `failed` says which and why",
                        media_type="application/problem+json",
                    ),
                },
            ),
        ]

    async def _post_drain(self, call: Call) -> Reply:
        await self._drain(call.body.reason)
        return Reply({"state": "draining"})

    async def _post_undrain(self, _: Call) -> Reply:
        await self._undrain()
        return Reply({"state": "up"})

    async def _post_reload(self, call: Call) -> Reply:
        try:
            done = await self._reload()
        except ConfigurationError as error:
            told = "; ".join(error.faults)
            raise Problem(400, "Bad Request", told, members={"faults": error.faults}) from None
        except NotTakenOver as error:
            members = {"failed": error.failed, "changed": error.changed, "needs_restart": error.needs_restart}
            raise Problem(503, "Service Unavailable", str(error), members=members) from None
        call.notes.update(done)
        return Reply(dict(done))


class NotTakenOver(Exception):
    """A configuration without faults, which a process could not take over.

    Attributes:
        failed: process → reason.
        changed, needs_restart: as of a reload that worked; the other processes did take it over.
    """

    def __init__(self, failed: dict[str, str], changed: list[str], needs_restart: list[str]) -> None:
        super().__init__("; ".join(f"{name}: {reason}" for name, reason in sorted(failed.items())))
        self.failed = failed
        self.changed = changed
        self.needs_restart = needs_restart
