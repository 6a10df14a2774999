"""The routes about jobs, as the admin API serves them, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from aiohttp import ClientSession, ClientTimeout, web

from aibrother_node.web.bounded import BoundedServer
from aibrother_node.web.control.admin.api import BASE, AdminApi
from aibrother_node.web.control.admin.audit import AuditLog
from aibrother_node.web.control.admin.inputs import Input
from aibrother_node.web.control.admin.tokens import TokenTable
from aibrother_replicator.jobs import events
from aibrother_replicator.jobs.answers import JobAnswer
from aibrother_replicator.jobs.api import job_operations, start_operation
from replicator.jobs.works import Gate, HashTree, Steps, listener, make_tree, running, state_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aibrother_replicator.jobs.runner import JobRunner
    from aibrother_replicator.jobs.work import Progress


class HashRequest(Input):
    """What is to be hashed."""

    folder: str = ""
    deep: bool = False


class Api:
    """A runner, its routes, and a client."""

    def __init__(self, runner: JobRunner, gate: Gate, client: ClientSession, url: str, audit: AuditLog) -> None:
        self.runner = runner
        self.gate = gate
        self.client = client
        self.url = url
        self.audit = audit

    async def ask(self, method: str, path: str, expect: int = 200, **how: Any) -> Any:
        async with self.client.request(method, f"{self.url}{path}", **how) as answer:
            assert answer.status == expect, await answer.text()
            return await answer.json(content_type=None)


@contextlib.asynccontextmanager
async def serving(tmp_path: Path, **settings: Any) -> AsyncIterator[Api]:
    gate = Gate()

    async def script(run: int, progress: Progress) -> None:
        progress.expect(objects=2)
        await gate.wait(progress)
        progress.done(objects=1)
        await gate.wait(progress)
        progress.done(objects=1)

    path = tmp_path / "index.sqlite3"
    audit = AuditLog(path)
    async with running(path, {"hash": HashTree(), "steps": Steps(script)}) as runner:
        operations = [
            start_operation("hash", "/hash", "Hash", HashRequest, runner),
            start_operation("steps", "/steps", "Step", None, runner),
            *job_operations(runner),
        ]
        app = web.Application()
        app.add_subapp(BASE, AdminApi(operations, TokenTable(), audit, version="1").local())
        server = BoundedServer(app, most=32, **settings)
        sock = listener()
        await server.start([sock], None, 16)
        url = f"http://127.0.0.1:{sock.getsockname()[1]}{BASE}"
        async with ClientSession(timeout=ClientTimeout(20)) as client:
            yield Api(runner, gate, client, url, audit)
        await server.close()
    await audit.close()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(tmp_path) as api:
        yield api


def valid(job: Any) -> Any:
    jsonschema.validate(job, JobAnswer.model_json_schema(mode="serialization"))
    return job


async def test_start_list_show(api: Api, tmp_path: Path) -> None:
    tree = str(make_tree(tmp_path / "tree", 3, bad=(1,)))
    started = await api.ask("POST", "/hash", 202, json={"folder": tree})
    assert list(started) == ["job"]
    await state_of(api.runner, started["job"], "failed")
    job = valid(await api.ask("GET", f"/jobs/{started['job']}"))
    assert job["request"] == {"folder": tree, "deep": False}
    assert (job["id"], job["kind"], job["state"]) == (started["job"], "hash", "failed")
    steps = (await api.ask("POST", "/steps", 202))["job"]
    assert (await api.ask("POST", "/steps", 202, json={}))["job"] == steps
    page = await api.ask("GET", "/jobs")
    assert [valid(one)["id"] for one in page["jobs"]] == [steps, job["id"]]
    assert page["next"] is None
    first = await api.ask("GET", "/jobs", params={"limit": 1})
    assert [one["id"] for one in first["jobs"]] == [steps]
    second = await api.ask("GET", "/jobs", params={"limit": 1, "before": first["next"]})
    assert second["jobs"] == [job]
    assert (await api.ask("GET", "/jobs", params={"state": "failed", "kind": "hash"}))["jobs"] == [job]
    assert (await api.ask("GET", "/jobs", params={"state": "done"}))["jobs"] == []
    assert (await api.ask("GET", "/jobs", params={"kind": "nothing"}))["jobs"] == []


async def test_change(api: Api) -> None:
    job = (await api.ask("POST", "/steps", 202))["job"]
    await state_of(api.runner, job, "running")
    assert valid(await api.ask("POST", f"/jobs/{job}/pause"))["state"] == "paused"
    again = await api.ask("POST", f"/jobs/{job}/pause", 409)
    assert (again["status"], again["title"]) == (409, "Conflict")
    assert valid(await api.ask("POST", f"/jobs/{job}/resume", json={}))["state"] == "running"
    await api.ask("POST", f"/jobs/{job}/resume", 409)
    await api.ask("POST", f"/jobs/{job}/retry", 409)
    assert valid(await api.ask("DELETE", f"/jobs/{job}", 202))["cancelling"]
    await state_of(api.runner, job, "cancelled")
    for method, path in (("DELETE", ""), ("POST", "/pause"), ("POST", "/resume"), ("POST", "/retry")):
        await api.ask(method, f"/jobs/{job}{path}", 409)
        await api.ask(method, f"/jobs/nothing{path}", 404)
    first = (await api.ask("POST", "/steps", 202))["job"]
    await api.ask("POST", f"/jobs/{first}/pause")
    api.gate.open()
    await api.ask("POST", f"/jobs/{first}/resume")
    await state_of(api.runner, first, "done")


async def test_cancel_in_the_queue(api: Api) -> None:
    first = (await api.ask("POST", "/hash", 202, json={"folder": "/nothing"}))["job"]
    failed = await state_of(api.runner, first, "failed")
    assert "FileNotFoundError" in failed["errors"][0]["reason"]
    job = (await api.ask("POST", "/steps", 202))["job"]
    await state_of(api.runner, job, "running")
    await api.ask("POST", f"/jobs/{job}/pause")
    assert (await api.ask("DELETE", f"/jobs/{job}", 202))["cancelling"]
    await state_of(api.runner, job, "cancelled")


@pytest.mark.parametrize(
    ("method", "path", "how"),
    [
        ("POST", "/hash", {"json": {"folder": 7}}),
        ("POST", "/hash", {"json": {"fodler": "x"}}),
        ("POST", "/steps", {"json": {"fast": True}}),
        ("POST", "/jobs/0/pause", {"json": {"x": 1}}),
        ("GET", "/jobs", {"params": {"state": "asleep"}}),
        ("GET", "/jobs", {"params": {"limit": "0"}}),
        ("GET", "/jobs", {"params": {"limit": "201"}}),
        ("GET", "/jobs", {"params": {"page": "2"}}),
    ],
)
async def test_wrong_input(api: Api, method: str, path: str, how: dict[str, Any]) -> None:
    await api.ask(method, path, 400, **how)
    assert (await api.ask("GET", "/jobs"))["jobs"] == []


async def read_events(stream: Any) -> AsyncIterator[dict[str, str]]:
    """Server-sent events as fields; comments as `{"": …}`."""
    fields: dict[str, str] = {}
    async for line in stream:
        text = line.decode().rstrip("\n")
        if not text:
            if fields:
                yield fields
            fields = {}
        else:
            name, _, value = text.partition(":")
            fields[name] = value.removeprefix(" ")


async def test_events(api: Api) -> None:
    job = (await api.ask("POST", "/steps", 202))["job"]
    seen: list[dict[str, Any]] = []
    headers = {"Last-Event-ID": "no such event"}
    async with api.client.get(f"{api.url}/jobs/{job}/events", headers=headers) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert answer.headers["Cache-Control"] == "no-store"
        async for event in read_events(answer.content):
            assert event["event"] == "job"
            seen.append(valid(json.loads(event["data"])))
            assert event["id"] == str(len(seen))
            if seen[-1]["state"] == "running":
                api.gate.let_through()
    assert seen[-1]["state"] == "done"
    assert seen[-1] == await api.ask("GET", f"/jobs/{job}")
    assert [one["objects"]["done"] for one in seen] == sorted(one["objects"]["done"] for one in seen)
    async with api.client.get(f"{api.url}/jobs/{job}/events") as answer:
        assert [json.loads(event["data"]) async for event in read_events(answer.content)] == [seen[-1]]
    async with api.client.head(f"{api.url}/jobs/{job}/events") as answer:
        assert (answer.status, await answer.read()) == (200, b"")
    await api.ask("GET", "/jobs/nothing/events", 404)


async def test_a_quiet_stream_is_kept_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE", 0.2)
    async with serving(tmp_path, idle=0.5) as api:
        job = (await api.ask("POST", "/steps", 202))["job"]
        await state_of(api.runner, job, "running")
        started = asyncio.get_running_loop().time()
        comments, last = 0, {}
        async with api.client.get(f"{api.url}/jobs/{job}/events") as answer:
            async for line in answer.content:
                comments += line.startswith(b": ")
                if line.startswith(b"data: "):
                    last = json.loads(line[6:])
                if asyncio.get_running_loop().time() - started > 2.2:  # beyond what silence is allowed
                    api.gate.open()
        assert last["state"] == "done"
        assert comments > 5


async def test_who_goes_away_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE", 0.1)
    async with serving(tmp_path) as api:
        job = (await api.ask("POST", "/steps", 202))["job"]
        for _ in range(3):
            async with api.client.get(f"{api.url}/jobs/{job}/events") as answer:
                await answer.content.readline()
                answer.close()
        async with asyncio.timeout(10):
            while api.runner.view.watchers:
                await asyncio.sleep(0.02)


async def test_the_node_ends(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        job = (await api.ask("POST", "/steps", 202))["job"]
        async with api.client.get(f"{api.url}/jobs/{job}/events") as answer:
            await answer.content.readline()
            await api.runner.close(1.0)
            rest = await answer.content.read()
        assert b'"state": "done"' not in rest
        await api.ask("POST", "/steps", 503)


def test_documented(tmp_path: Path) -> None:
    from aibrother_node.web.control.admin.openapi import document
    from aibrother_replicator.jobs.runner import JobRunner
    from aibrother_replicator.jobs.thread import BookThread

    async def paths() -> Any:
        return document(job_operations(JobRunner(BookThread(tmp_path / "x"))), "1")["paths"]

    found = asyncio.run(paths())
    assert {f"{method.upper()} {path}" for path, one in found.items() for method in one} == {
        "GET /jobs",
        "GET /jobs/{id}",
        "GET /jobs/{id}/events",
        "DELETE /jobs/{id}",
        "POST /jobs/{id}/pause",
        "POST /jobs/{id}/resume",
        "POST /jobs/{id}/retry",
    }
    assert "409" in found["/jobs/{id}"]["delete"]["responses"]
    assert "text/event-stream" in found["/jobs/{id}/events"]["get"]["responses"]["200"]["content"]
