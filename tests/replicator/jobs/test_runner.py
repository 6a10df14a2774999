"""Jobs as they run: with a real book, and real work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from replicator.jobs.works import HashTree, running, state_of

if TYPE_CHECKING:
    from pathlib import Path



@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Ten files of which two are bad, 4,500 bytes of the others in all."""
    folder = tmp_path / "tree"
    folder.mkdir()
    for n in range(10):
        (folder / f"{'bad-' if n in (2, 7) else ''}{n}").write_bytes(bytes(100 * (n + 1)))
    return folder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.sqlite3"


async def test_a_job_from_begin_to_end(path: Path, tree: Path) -> None:
    async with running(path, {"hash": HashTree()}) as runner:
        job = await runner.submit("hash", {"folder": str(tree)})
        seen = await state_of(runner, job, "done", "failed")
        assert seen["state"] == "failed", "two could not be done"
        assert seen["objects"] == {"total": 10, "done": 8, "failed": 2}
        assert seen["bytes"] == {"total": 5_500, "done": 4_400}
        assert [(error["name"], error["reason"]) for error in seen["errors"]] == [
            ("bad-7", "this one is bad"),
            ("bad-2", "this one is bad"),
        ]
        assert seen["result"] == {"files": 10}
        assert seen["request"] == {"folder": str(tree)}
        assert seen["created"] <= seen["started"] <= seen["ended"]
        assert (seen["rate"], seen["eta"]) == (0, None)
    async with running(path, {"hash": HashTree()}) as runner:
        assert await runner.view.get(job) == seen, "the same after a restart"
        assert await runner.view.page() == [seen]
