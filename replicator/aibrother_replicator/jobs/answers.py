"""What the routes about jobs take and answer, for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, JsonValue

from aibrother_node.web.control.admin.inputs import Input
from aibrother_node.web.control.admin.node_answers import Output
from aibrother_replicator.jobs.model import State  # noqa: TC001 - pydantic reads annotations when it runs

MAX_PAGE = 200


class Nothing(Input):
    """An empty object, or no body at all."""


class JobsQuery(Input):
    """Which jobs."""

    state: Annotated[State | None, Field(description="in this state alone")] = None
    kind: Annotated[str | None, Field(max_length=100, description="of this kind alone")] = None
    before: Annotated[str | None, Field(max_length=100, description="older than the job of this id")] = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 100


class JobObjects(Output):
    """How many objects: `total` is null while nobody knows it."""

    total: int | None
    done: int
    failed: int


class JobBytes(Output):
    """How many bytes: `total` is null while nobody knows it."""

    total: int | None
    done: int


class JobError(Output):
    """An object that could not be done; `name` is null for what concerns the job as a whole. RFC 3339."""

    name: str | None
    reason: str
    at: str | None


class JobAnswer(Output):
    """A job.

    Times are RFC 3339. `rate` is in bytes a second, now; `eta` in seconds, null where it can't be known. `errors` has
    the newest first, at most about a hundred: `objects.failed` says how many there are. `cancelling` is true from when
    a running job is cancelled until its work has stopped.
    """

    id: str
    kind: str
    state: State
    created: str
    started: str | None
    ended: str | None
    objects: JobObjects
    bytes: JobBytes
    rate: int
    eta: float | None
    errors: list[JobError]
    request: dict[str, JsonValue]
    result: dict[str, JsonValue] | None
    cancelling: bool


class JobsPage(Output):
    """Jobs, the newest first, each with its ten newest errors; `next` is the `before` of the next page."""

    jobs: list[JobAnswer]
    next: str | None


class JobStarted(Output):
    """The id of the job that does what was asked for."""

    job: str
