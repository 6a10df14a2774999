"""A process that works at a job is killed at any instant, again and again: right state, right numbers."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counts import rounds
from replicator.jobs.works import make_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

BAD = (3, 17)
EVERY = 3
SIZE = 20_000


class Victims:
    """One book, one folder of which each file is hashed so many times, and a process after the other."""

    def __init__(self, folder: Path, files: int, times: int) -> None:
        self.files = files
        self.times = times
        self.tree = make_tree(folder / "tree", files, bad=BAD, size=SIZE)
        self.index = folder / "index.sqlite3"
        self.log = folder / "log"

    @contextmanager
    def process(self, action: str) -> Iterator[subprocess.Popen[str]]:
        tests = str(Path(__file__).parents[2])
        request = json.dumps({"folder": str(self.tree), "times": self.times})
        arguments = [str(self.index), request, str(self.log), action]
        with subprocess.Popen(
            [sys.executable, "-m", "replicator.jobs.victim", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": tests},
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def last(self, action: str) -> dict[str, Any]:
        """The last that a process tells which runs to its end."""
        with self.process(action) as process:
            out, _ = process.communicate(timeout=120)
            assert process.returncode == 0
        told: dict[str, Any] = json.loads(out.splitlines()[-1])
        return told

    def check(self, job: dict[str, Any], kills: int) -> None:
        """All of it was done, and is counted once."""
        sizes = [SIZE * (n + 1) for n in range(self.files)]
        good = sum(size for n, size in enumerate(sizes) if n not in BAD)
        assert job["state"] == "failed"
        assert job["objects"] == {"total": self.files, "done": self.files - len(BAD), "failed": len(BAD)}
        assert job["bytes"] == {"total": sum(sizes), "done": good}
        assert sorted(error["name"] for error in job["errors"]) == ["bad-03", "bad-17"]
        begun = Counter(self.log.read_text().splitlines())
        assert set(begun) == {path.name for path in self.tree.iterdir()}
        assert begun.total() <= self.files + kills * EVERY, "what a checkpoint says is done isn't done again"


def test_killed_again_and_again(tmp_path: Path) -> None:
    kills = rounds(10, 50)
    rng = random.Random(5)
    victims = Victims(tmp_path, 40, 20 * kills)
    done = killed = 0
    while killed < kills:
        with victims.process("run") as process:
            assert process.stdout is not None
            job = json.loads(process.stdout.readline())
            if job["state"] not in ("queued", "running"):
                break
            assert job["objects"]["done"] >= done, "what was durable is durable"
            done = job["objects"]["done"]
            time.sleep(rng.random() * 0.15)
            process.send_signal(signal.SIGKILL)
            killed += 1
    assert killed >= rounds(5, 8), "the job was too short to be killed in its middle"
    assert done, "it went on in its middle"
    victims.check(victims.last("run"), killed)


def test_paused_is_paused(tmp_path: Path) -> None:
    victims = Victims(tmp_path, 40, 150)
    with victims.process("pause") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["state"] == "paused":
                break
        process.send_signal(signal.SIGKILL)
    begun = victims.log.read_text()
    seen = victims.last("look")
    assert seen["state"] == "paused"
    assert 0 < seen["objects"]["done"] < victims.files - len(BAD)
    assert victims.log.read_text() == begun, "nothing was begun with"
    victims.check(victims.last("resume"), 1)
