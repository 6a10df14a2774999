"""Watching a job from the command line: over restarts of the node, on a terminal and elsewhere."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pty
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from aibrother_node.errors import InvalidInput, NodeError, NotFound, Refused, Temporary
from aibrother_tools import job_watching
from aibrother_tools.admin_node import AdminNode
from aibrother_tools.job_watching import follow_job, start_job, watch_job
from aibrother_tools.job_words import counted, duration, paced

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

JOB = "0123456789abcdef"


def job(state: str, done: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "id": JOB,
        "kind": "scrub",
        "state": state,
        "created": "2026-11-25T00:00:00Z",
        "started": None,
        "ended": None,
        "objects": {"total": 10, "done": done, "failed": 0},
        "bytes": {"total": 10 << 20, "done": done << 20},
        "rate": 1 << 20 if state == "running" else 0,
        "eta": 65.4 if state == "running" else None,
        "errors": [],
        "request": {},
        "result": None,
        "cancelling": False,
        **changes,
    }


def events(*jobs: dict[str, Any], end: bytes = b"") -> bytes:
    """A complete answer with these events, and what comes after them."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\nretry: 2000\n"
    made = (f": still there\n\nid: {n}\nevent: job\ndata: {json.dumps(one)}\n\n".encode() for n, one in enumerate(jobs))
    return head + b"".join(made) + end


def problem(status: int, detail: str) -> bytes:
    body = json.dumps({"type": "about:blank", "title": "x", "status": status, "detail": detail}).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Server:
    """Answers each connection with the next of its answers, raw; None refuses it."""

    def __init__(self, answers: Sequence[bytes | None]) -> None:
        self._answers = list(answers)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = self._listening.getsockname()
        self.asked: list[str] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for answer in self._answers:
            connection, _ = self._listening.accept()
            with connection:
                data = b""
                while b"\r\n\r\n" not in data and (more := connection.recv(65536)):
                    data += more
                self.asked.append(data.decode().partition("\r\n")[0])
                if answer is not None:
                    connection.sendall(answer)

    # -- how AdminNode reaches it

    def connect(self, timeout: float | None) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.address[0], self.address[1], timeout=timeout)

    def target(self, path: str) -> str:
        return f"/admin/v1{path}"

    def fields(self) -> dict[str, str]:
        return {}

    def unreachable(self, error: Exception) -> NodeError:
        return Temporary(f"away: {error}")

    def close(self) -> None:
        self._thread.join(10)
        self._listening.close()


@contextlib.contextmanager
def node(*answers: bytes | None) -> Iterator[AdminNode]:
    server = Server(answers)
    try:
        yield AdminNode(server)
    finally:
        server.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_watching, "_BACKOFF", (0.01, 0.02))


def follow(asked: AdminNode) -> tuple[list[dict[str, Any]], list[str]]:
    waited: list[str] = []
    return list(follow_job(asked, JOB, waiting=waited.append)), waited


def test_from_event_to_event() -> None:
    told = [job("queued"), job("running", 5), job("done", 10)]
    with node(events(*told, end=b"data: never read")) as asked:
        assert follow(asked) == (told, [])


def test_over_restarts_of_the_node() -> None:
    answers = [
        events(job("running", 3), end=b'id: 7\nevent: job\ndata: {"half'),  # it died in the middle
        None,  # there is somebody, who hangs up
        problem(503, "the node ends"),
        events(),
        events(job("queued", 2), job("failed", 9)),
    ]
    with node(*answers) as asked:
        seen, waited = follow(asked)
    assert [(one["state"], one["objects"]["done"]) for one in seen] == [("running", 3), ("queued", 2), ("failed", 9)]
    assert len(waited) == 4
    assert "the node ends" in waited[2]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(404, "there is no such job"), NotFound),
        (problem(401, "no token"), Refused),
        (problem(503, "not now"), Temporary),
        (None, Temporary),
        (events(end=b"data: no JSON\n\n"), InvalidInput),
        (events(end=b"data: [1]\n\n"), NodeError),
    ],
)
def test_what_is_of_no_use_is_said_at_once(answer: bytes | None, kind: type[NodeError]) -> None:
    with node(answer) as asked, pytest.raises(kind):
        follow(asked)


def test_a_node_that_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_watching, "_PATIENCE", 0.03)
    with node(events(job("running")), *[None] * 20) as asked:
        with pytest.raises(Temporary, match="the job 0123456789abcdef not at its end"):
            follow(asked)
        for _ in range(20):  # let the server come to its end
            with contextlib.suppress(NodeError):
                asked.ask("GET", "/jobs", timeout=0.2)


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    error = {"name": "x", "reason": "it is bad", "at": None}
    told = [job("running", 1), job("running", 2), job("stalled", 2), job("failed", 9, errors=[error])]
    with node(events(*told)) as asked:
        assert watch_job(asked, JOB, as_json=False) == 1
    assert capsys.readouterr().out.splitlines() == [
        "scrub running: 1 of 10 objects, 1.0 MiB of 10.0 MiB, 1.0 MiB/s, 1:05 left",
        "scrub stalled: 2 of 10 objects, 2.0 MiB of 10.0 MiB",
        "scrub failed: 9 of 10 objects, 9.0 MiB of 10.0 MiB",
        f"scrub {JOB}: failed, 9 of 10 objects, 9.0 MiB of 10.0 MiB",
        "  x: it is bad",
    ]


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    told = [job("running", 1), job("done", 10)]
    with node(events(told[0]), events(told[1])) as asked:
        assert watch_job(asked, JOB, as_json=True) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == told
    assert err.startswith("waiting: ")


def test_bars_on_a_terminal(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    main, terminal = pty.openpty()
    with open(terminal, "w", encoding="utf-8") as err:
        monkeypatch.setattr("sys.stderr", err)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "120")
        with node(events(job("running", 3)), events(job("done", 10))) as asked:
            assert watch_job(asked, JOB, as_json=False) == 0
        os.set_blocking(main, False)
        shown = os.read(main, 65536).decode()
    os.close(main)
    assert "scrub running" in shown
    assert "3/10 objects" in shown
    assert "1.0 MiB/s, 1:05 left" in shown
    assert capfd.readouterr().out == f"scrub {JOB}: done, 10 of 10 objects, 10.0 MiB of 10.0 MiB\n"


def test_start(capsys: pytest.CaptureFixture[str]) -> None:
    body = json.dumps({"job": JOB}).encode()
    started = b"HTTP/1.1 202 Accepted\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with node(started, started, started, events(job("done"))) as asked:
        assert start_job(asked, "/scrub", {}, watch=False, as_json=False) == 0
        assert f"jobs {JOB} --watch" in capsys.readouterr().out
        assert start_job(asked, "/scrub", {}, watch=False, as_json=True) == 0
        assert json.loads(capsys.readouterr().out) == {"job": JOB}
        assert start_job(asked, "/scrub", {}, watch=True, as_json=True) == 0
        assert json.loads(capsys.readouterr().out)["state"] == "done"


def test_words() -> None:
    assert [duration(seconds) for seconds in (0.2, 59.6, 3600, 90061)] == ["0:00", "1:00", "1:00:00", "25:01:01"]
    unknown = job("running", 2, objects={"total": None, "done": 2, "failed": 1}, bytes={"total": None, "done": 5})
    assert counted(unknown) == "2 objects, 1 failed, 5 B"
    assert paced(job("running", eta=None)) == "1.0 MiB/s"
    assert paced(job("paused")) == ""
