"""The routes about jobs on the control plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aibrother_node.web.answer import PROBLEM_TYPE
from aibrother_node.web.control.admin.operation import Documented, Operation, Reply, Scope
from aibrother_replicator.jobs.answers import JobAnswer, JobsPage, JobsQuery, JobStarted, Nothing
from aibrother_replicator.jobs.events import stream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web
    from pydantic import BaseModel

    from aibrother_node.web.control.admin.operation import Call
    from aibrother_replicator.jobs.runner import JobRunner

_ID: Final = {"id": {"type": "string", "description": "of a job"}}
_CONFLICT: Final = Documented("the job's state doesn't allow it", media_type=PROBLEM_TYPE)


def start_operation(kind: str, path: str, summary: str, body: type[BaseModel] | None, runner: JobRunner) -> Operation:
    """Declare the route that starts a kind of job.

    Args:
        kind: of the job; registered with the runner.
        path: such as `/scrub`.
        summary: one line for people.
        body: what the job's request is made of; its members with their defaults filled in are the request.
        runner: runs it.
    """

    async def start(call: Call) -> Reply:
        request: dict[str, Any] = call.body.model_dump(mode="json")
        call.notes["job"] = job = await runner.submit(kind, request)
        return Reply({"job": job}, 202)

    return Operation(
        name=f"start_{kind}",
        method="POST",
        path=path,
        scope=Scope.OPERATE,
        summary=summary,
        handler=start,
        answers={202: Documented("the job; the same one for who asks the same while it hasn't ended", JobStarted)},
        body=body or Nothing,
    )


def job_operations(runner: JobRunner) -> list[Operation]:
    """The routes that are the same for all kinds of jobs."""
    view = runner.view

    async def list_jobs(call: Call) -> Reply:
        query: JobsQuery = call.query
        jobs = await view.page(before=query.before, state=query.state, kind=query.kind, most=query.limit)
        return Reply({"jobs": jobs, "next": jobs[-1]["id"] if len(jobs) == query.limit else None})

    async def get_job(call: Call) -> Reply:
        return Reply(await view.get(call.path["id"]))

    async def watch_job(call: Call) -> web.StreamResponse:
        return await stream(call.request, view.watch(call.path["id"]))

    async def cancel_job(call: Call) -> Reply:
        job = await runner.cancel(call.path["id"])
        return Reply(job, 202 if job["cancelling"] else 200)

    return [
        Operation(
            name="list_jobs",
            method="GET",
            path="/jobs",
            scope=Scope.READ,
            summary="List jobs, the newest first",
            handler=list_jobs,
            answers={200: Documented("a page of jobs", JobsPage)},
            query=JobsQuery,
        ),
        Operation(
            name="get_job",
            method="GET",
            path="/jobs/{id}",
            scope=Scope.READ,
            summary="Show a job",
            handler=get_job,
            answers={200: Documented("the job", JobAnswer)},
            parameters=_ID,
        ),
        Operation(
            name="watch_job",
            method="GET",
            path="/jobs/{id}/events",
            scope=Scope.READ,
            summary="Watch a job until it has ended, as server-sent events",
            handler=watch_job,
            answers={
                200: Documented(
                    "events named `job`, each with the job as JSON; the first says how it is, the last how it ended",
                    media_type="text/event-stream",
                )
            },
            parameters=_ID,
        ),
        Operation(
            name="cancel_job",
            method="DELETE",
            path="/jobs/{id}",
            scope=Scope.OPERATE,
            summary="Cancel a job",
            handler=cancel_job,
            answers={
                200: Documented("it is cancelled", JobAnswer),
                202: Documented("it will be as soon as its work has stopped", JobAnswer),
                409: _CONFLICT,
            },
            parameters=_ID,
        ),
        _change("pause_job", "pause", "Hold a job, between two of its steps", runner.pause),
        _change("resume_job", "resume", "Let a paused job go on", runner.resume),
        _change("retry_job", "retry", "Let a failed job go on with what failed", runner.retry),
    ]


def _change(name: str, verb: str, summary: str, change: Callable[[str], Awaitable[dict[str, Any]]]) -> Operation:
    async def handler(call: Call) -> Reply:
        return Reply(await change(call.path["id"]))

    return Operation(
        name=name,
        method="POST",
        path=f"/jobs/{{id}}/{verb}",
        scope=Scope.OPERATE,
        summary=summary,
        handler=handler,
        answers={200: Documented("the job as it is now", JobAnswer), 409: _CONFLICT},
        parameters=_ID,
        body=Nothing,
    )
