"""The audit log: what is entered stays, in the order in which it was asked, and within bounds."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from aibrother_node.errors import DiskFull, NotFound, Temporary
from aibrother_node.store.database import open_part
from aibrother_node.web.control.admin.audit import LOCAL, AuditLog, Who, brief
from aibrother_node.web.control.admin.audit_rows import MAX_JSON

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ALICE = Who("a" * 16, "10.0.0.1")


@asynccontextmanager
async def opened(folder: Path, **how: Any) -> AsyncIterator[AuditLog]:
    log = AuditLog(folder / "index.sqlite3", **how)
    try:
        yield log
    finally:
        await log.close()


async def test_an_action_is_entered_before_it_is_begun_and_completed_after(tmp_path: Path) -> None:
    async with opened(tmp_path, now=lambda: 1000.5) as log:
        async with log.action(ALICE, "pin", {"digest": "x"}, {"body": {"reason": "y"}}) as entry:
            [row] = log.page()
            assert (row["status"], row["result"]) == (None, "begun")
            entry.status = 202
            entry.notes["job"] = "1"
        [row] = log.page()
    assert row == {
        "id": 1,
        "at": 1000.5,
        "last": 1000.5,
        "refusal": False,
        "caller": "a" * 16,
        "address": "10.0.0.1",
        "action": "pin",
        "target": {"digest": "x"},
        "request": {"body": {"reason": "y"}},
        "status": 202,
        "result": "done",
        "notes": {"job": "1"},
        "count": 1,
    }


async def test_how_actions_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        with pytest.raises(NotFound):
            async with log.action(LOCAL, "unpin"):
                raise NotFound("not here")
        with pytest.raises(KeyError):
            async with log.action(LOCAL, "unpin"):
                raise KeyError("a secret")
        await log.attempt(LOCAL, "pin", {"digest": "?"}, 400, "wrong")
        rows = log.page()
    assert [(row["status"], row["result"], row["notes"]) for row in rows] == [
        (400, "failed", {"reason": "wrong"}),
        (500, "failed", {"reason": "KeyError"}),
        (404, "failed", {"reason": "not here"}),
    ]


async def test_what_the_end_of_the_node_interrupted_is_told_so(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        async with log.action(LOCAL, "gc"):
            # as kill -9 would have it: another process opens what is there
            async with opened(tmp_path) as successor:
                await successor.attempt(LOCAL, "pin", None, 400, "")
                assert [row["result"] for row in successor.page()] == ["failed", "interrupted"]
    assert [row["result"] for row in log.page()] == ["failed", "done"], "it ended after all"


async def test_pages_and_filters(tmp_path: Path) -> None:
    clock = [0.0]
    async with opened(tmp_path, now=lambda: clock[0]) as log:
        assert log.page() == []
        for number in range(10):
            clock[0] = number
            await log.attempt(ALICE if number % 2 else LOCAL, "pin" if number < 5 else "unpin", None, 400, "")
        ids = [row["id"] for row in log.page(limit=4)]
        assert ids == [10, 9, 8, 7]
        assert [row["id"] for row in log.page(before=7, limit=4)] == [6, 5, 4, 3]
        assert [row["id"] for row in log.page(caller="local", action="unpin")] == [9, 7]
        assert [row["id"] for row in log.page(since=8)] == [10, 9]
        assert log.page(caller="' OR 1=1 --") == []


async def test_refusals_are_counted_in_one_row_a_minute(tmp_path: Path) -> None:
    clock = [100.0]
    async with opened(tmp_path, now=lambda: clock[0]) as log:
        who = Who(None, "10.0.0.2")
        for at in (100, 110, 159, 160, 161):
            clock[0] = at
            await log.refuse(who, None, {"path": f"/{at}"}, 401, "no token", merge="401 10.0.0.2")
        await log.refuse(who, None, {"path": "/"}, 401, "no token", merge="401 10.0.0.3")
        await log.refuse(who, None, {"path": "/"}, 401, "no token")
        rows = log.page()[::-1]
        assert [row["id"] for row in log.page(since=161)] == [4, 3, 2]
    assert [(row["count"], row["at"], row["last"]) for row in rows] == [
        (3, 100, 159),
        (2, 160, 161),
        (1, 161, 161),
        (1, 161, 161),
    ]
    assert rows[0]["target"] == {"path": "/100"}


async def test_refusals_and_actions_are_pruned_apart(tmp_path: Path) -> None:
    async with opened(tmp_path, max_actions=700, max_refusals=600) as log:
        for number in range(650):
            await log.attempt(LOCAL, f"a{number}", None, 400, "")
        await asyncio.gather(*(log.refuse(ALICE, None, None, 403, "no") for _ in range(2000)))
        rows = log.page(limit=5000)
        refusals = [row for row in rows if row["refusal"]]
        assert 600 <= len(refusals) <= 600 + 500 + 256
        assert len(rows) - len(refusals) == 650
        assert rows[0]["id"] == 2650, "the oldest went"
        for number in range(300):
            await log.attempt(LOCAL, f"b{number}", None, 400, "")
        await asyncio.gather(*(log.refuse(ALICE, None, None, 403, "no") for _ in range(501)))
        assert len([row for row in log.page(limit=5000) if not row["refusal"]]) == 700


async def test_what_is_large_or_strange_is_bounded(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        async with log.action(Who(None, "::1"), "x", {"a": "\0\ud800"}, "y" * 10_000) as entry:
            entry.notes["path"] = tmp_path
        [row] = log.page()
    assert row["target"] == {"a": "\0\ud800"}
    assert row["request"] == {"too_long": 10_002}
    assert row["notes"] == {"path": str(tmp_path)}
    assert MAX_JSON < 10_000


def test_what_is_told_of_a_request_is_brief() -> None:
    told = brief({"roles": {"models": "x" * 201}, "names": ["y"] * 51, "n": 1, "few": ("z",), "none": None})
    assert told == {"roles": {"models": "(201 characters)"}, "names": "(51 items)", "n": 1, "few": ["z"], "none": None}
    assert brief({str(n): n for n in range(51)}) == "(51 members)"
    assert brief({"x" * 300: 1}) == {"x" * 200: 1}


async def test_a_full_disk_stops_what_is_new_and_loses_no_completion(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as log:
        async with log.action(LOCAL, "first") as entry:
            entry.notes["n"] = 1
            other = sqlite3.connect(tmp_path / "index.sqlite3")  # as the index is; so the log's end isn't written over
            other.execute("SELECT * FROM audit").fetchall()
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "index.sqlite3-wal").stat().st_size, hard))
        try:
            assert log.page()[0]["result"] == "begun", "it was done, and that could not be written yet"
            with pytest.raises(DiskFull):
                async with log.action(LOCAL, "second"):
                    raise AssertionError("it was begun")
            caplog.clear()
            for _ in range(3):  # said all the same
                await log.refuse(ALICE, None, None, 403, "no")
            assert "could not be written" not in caplog.text, "that was logged once already"
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            other.close()
        async with log.action(LOCAL, "third"):
            pass
        rows = log.page()[::-1]
    assert [(row["action"], row["result"]) for row in rows] == [("first", "done"), ("third", "done")]
    assert rows[0]["notes"] == {"n": 1}


async def test_a_database_that_is_busy_is_a_matter_of_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aibrother_node.store.database._PATIENCE", 0.05)
    async with opened(tmp_path) as log:
        other = open_part(tmp_path / "index.sqlite3", "other", ())
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Temporary):
            async with log.action(LOCAL, "x"):
                raise AssertionError("it was begun")
        other.execute("ROLLBACK")
        other.close()
        async with log.action(LOCAL, "y"):
            pass
        assert [row["action"] for row in log.page()] == ["y"]
