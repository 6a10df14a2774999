"""Jobs of a real node: watched from the command line, changed, and killed in the middle again and again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
import urllib.request
from importlib import resources
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from aibrother_node.errors import NodeError
from aibrother_node.store.layout import Layout
from aibrother_tools.admin_client import local_admin
from counts import rounds
from e2e.harness import PROGRAM, Node, environment, eventually

if TYPE_CHECKING:
    from collections.abc import Callable


def schema_of(name: str) -> Any:
    return json.loads((resources.files("aibrother_tools") / "data" / "schemas" / f"{name}.json").read_text())


def job_of(node: Node, job: str) -> dict[str, Any] | None:
    """A job as the node tells it; None while its control process starts."""
    try:
        found: dict[str, Any] = local_admin(Layout(node.data)).ask("GET", f"/jobs/{job}", timeout=5.0)
    except NodeError:
        return None
    return found


def in_state(node: Node, job: str, *states: str) -> dict[str, Any]:
    def probe() -> dict[str, Any] | None:
        found = job_of(node, job)
        return found if found is not None and found["state"] in states else None

    return eventually(probe, f"the job is {states}")


def scrub(node: Node, rate: str) -> str:
    started = node.command("scrub", "--rate", rate, "--json")
    assert started.code == 0, started
    jsonschema.validate(started.json, schema_of("job-started"))
    return str(started.json["job"])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, filled: Node) -> Any:
    """A running node with all contents, for jobs that come to their end."""
    node = Node(tmp_path_factory.mktemp("jobs")).like(filled)
    node.configure(node__drain_seconds=3)
    try:
        yield node.start()
        node.stop()
    finally:
        node.discard()


def stored(node: Node) -> tuple[int, int]:
    store = node.command("status", "--json").json["store"]
    return store["blobs"], store["bytes"]


def test_kills_in_the_middle(make_node: Callable[..., Node]) -> None:
    """The control process dies, then the whole node again and again; whoever watches sees how it ends."""
    node = make_node().start()
    blobs, size = stored(node)
    admin = local_admin(Layout(node.data))
    job = admin.ask("POST", "/scrub", {"rate": "150 MB/s"})["job"]  # half a second of work, more on a busy machine
    admin.ask("POST", f"/jobs/{job}/pause")
    watching = subprocess.Popen(
        [PROGRAM, "--data", str(node.data), "jobs", job, "--watch", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert watching.stdout is not None
    first = watching.stdout.readline()
    admin.ask("POST", f"/jobs/{job}/resume")
    rng, killed = random.Random(7), 0
    try:
        for number in range(rounds(4, 50)):
            if in_state(node, job, "queued", "running", "done")["state"] == "done":
                break
            killed = number + 1
            time.sleep(rng.random() * 0.2)
            if number == 0:
                control = node.child("control")
                os.kill(control, signal.SIGKILL)
                node.successor("control", control)
            else:
                node.discard()
                node.start()
        ended = in_state(node, job, "done", "failed", "cancelled")
        out, err = watching.communicate(timeout=30)
    finally:
        watching.kill()
    assert killed >= 2
    assert ended["state"] == "done", ended
    assert ended["objects"] == {"total": blobs, "done": blobs, "failed": 0}
    assert ended["bytes"] == {"total": size, "done": size}
    assert ended["errors"] == []
    assert watching.returncode == 0, err
    lines = [json.loads(line) for line in (first, *out.splitlines())]
    assert lines[-1] == ended
    assert "Traceback" not in err
    for line in lines:
        jsonschema.validate(line, schema_of("job"))


def test_paused_is_paused(make_node: Callable[..., Node]) -> None:
    node = make_node().start()
    job = scrub(node, "5 MB/s")
    admin = local_admin(Layout(node.data))
    assert admin.ask("POST", "/scrub", {"rate": 5_000_000}) == {"job": job}, "asked for twice, it is one"
    other = admin.ask("POST", "/scrub", {"rate": 6_000_000})["job"]
    in_state(node, job, "running")
    paused = node.command("jobs", job, "--pause", "--json")
    assert (paused.code, paused.json["state"]) == (0, "paused")
    again = node.command("jobs", job, "--pause")
    assert (again.code, again.out) == (1, "")
    assert "is paused and can't be paused" in again.err
    node.discard()
    stopped = node.command("status", "--json").json["jobs"]
    assert [(one["id"], one["state"]) for one in stopped] == [(other, "queued"), (job, "paused")]
    away = node.command("jobs")
    assert (away.code, away.out) == (75, "")
    node.start()
    assert in_state(node, job, "paused")["started"] is not None
    told = node.command("status").out
    assert f"scrub {job} paused" in told
    listed = node.command("jobs", "--json").json
    jsonschema.validate(listed, schema_of("jobs"))
    assert [(one["id"], one["state"]) for one in listed["jobs"]] == [(other, "queued"), (job, "paused")]
    assert node.command("jobs", other, "--cancel", "--json").json["state"] == "cancelled"
    assert admin.ask("POST", f"/jobs/{job}/resume")["state"] in ("queued", "running")
    in_state(node, job, "running")
    admin.ask("DELETE", f"/jobs/{job}")
    assert in_state(node, job, "cancelled")["cancelling"] is False
    watched = node.command("jobs", job, "--watch")
    assert watched.code == 1
    assert f"scrub {job}: cancelled" in watched.out


def test_watched_from_its_begin_to_its_end(running: Node) -> None:
    blobs, _ = stored(running)
    assert running.command("jobs").out == "no jobs\n"
    events = running.command("scrub", "--watch", "--json")
    assert events.code == 0
    lines = [json.loads(line) for line in events.out.splitlines()]
    assert lines[-1]["state"] == "done"
    job = lines[-1]["id"]
    plain = running.command("jobs", job, "--watch")
    assert plain.code == 0, plain
    assert f"done, {blobs} of {blobs} objects" in plain.out.splitlines()[-1]
    assert running.command("jobs", job, "--json").json == lines[-1]
    listed = running.command("jobs", "--state", "done", "--kind", "scrub", "--limit", "1")
    assert listed.out.startswith(job)
    assert running.command("jobs", "--watch").code == 0, "nothing is under way"
    for words, code in (
        (["0" * 16], 4),
        (["nothing"], 4),
        (["--cancel"], 2),
        ([job, "--retry"], 1),
        (["--limit", "0"], 2),
    ):
        refused = running.command("jobs", *words)
        assert (refused.code, refused.out) == (code, ""), refused


def test_what_failed_is_retried(running: Node) -> None:
    absent = "sha256:" + "0" * 64
    failed = running.command("scrub", "--digest", absent, "--watch", "--json")
    assert failed.code == 1
    job = json.loads(failed.out.splitlines()[-1])
    assert (job["state"], job["objects"]["failed"]) == ("failed", 1)
    assert job["errors"][0]["name"] == absent
    assert job["id"] in [one["id"] for one in running.command("status", "--json").json["jobs"]]
    again = running.command("jobs", job["id"], "--retry", "--watch")
    assert again.code == 1
    assert absent in again.out
    shown = running.command("jobs", job["id"])
    assert (shown.code, f"{absent}: it is not here" in shown.out) == (0, True)
    # and it is counted
    with urllib.request.urlopen(running.ready["urls"]["control"][0] + "/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert 'aibrother_jobs{kind="scrub",state="running"} 0.0' in text
    assert 'aibrother_jobs_ended_total{kind="scrub",state="failed"} 2.0' in text
