"""Commands against the tools that people would use instead: `add` and `pull`."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from bench.procs import Cost, Failed, on_core, timed
from bench.ratios import ratio
from bench.servers import program

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bench.servers import Server
    from bench.serving import Content, Pace, Setting


def make_store(command: Sequence[str], data: Path) -> None:
    """A new data directory without a catalog."""
    timed([*command, "init", "--no-catalog", "--data", str(data)])


def add(command: Sequence[str], file: Path, scratch: Path, pace: Pace) -> dict[str, Any]:
    """`add` of a file, against `sha256sum` and then a copy that is on stable storage when it ends."""
    ours, theirs, hashing = [], [], []
    for number in range(pace.rounds):
        data = scratch / "add"
        make_store(command, data)
        os.sync()
        cost, _ = timed([*command, "add", file, "--data", data, "--json"])
        shutil.rmtree(data)
        ours.append(cost)
        os.sync()
        hashed, _ = timed(["sha256sum", file])
        copy = scratch / "copy"
        copied, _ = timed(["dd", f"if={file}", f"of={copy}", "bs=1M", "conv=fsync", "status=none"])
        copy.unlink()
        hashing.append(hashed)
        theirs.append(hashed + copied)
        _say("add", number, ours[-1], "sha256sum + dd", theirs[-1])
    table = _table("add", ours, "sha256sum, then dd conv=fsync", theirs)
    table["sha256sum alone"] = _medians(hashing)
    return table


def pull(
    command: Sequence[str], server: Server, content: Content, scratch: Path, pace: Pace, setting: Setting
) -> dict[str, Any]:
    """`pull`, which verifies, against aria2c, which does not."""
    if program("aria2c") is None:
        return {"skipped": "aria2c is not installed"}
    try:
        timed([*command, "pull", "--help"])
    except Failed:
        return {"skipped": "the node has no `pull` yet"}
    target, state = scratch / "pulled", scratch / "state"
    origin = server.url().removesuffix(server.path)

    def by_us() -> Cost:
        options: list[str | Path] = ["--from", origin, "--only", "--state", state, "-o", target, "--json"]
        return timed([*command, "pull", f"sha256:{content.digest}", *options])[0]

    def by_aria2c() -> Cost:
        options: list[str | Path] = ["--no-conf", "--quiet", "-d", target.parent, "-o", target.name]
        return timed(["aria2c", "-x16", "-s16", *options, server.url()])[0]

    ours: list[Cost] = []
    theirs: list[Cost] = []
    for number in range(pace.rounds):
        for run, costs in ((by_us, ours), (by_aria2c, theirs)):
            os.sync()
            with on_core(setting.client_core):
                costs.append(run())
            if number == 0:
                _check(target, content.digest)
            target.unlink()
            shutil.rmtree(state, ignore_errors=True)
        _say("pull", number, ours[-1], "aria2c", theirs[-1])
    return _table("pull (verified)", ours, "aria2c -x16 -s16 (not verified)", theirs)


def _check(path: Path, digest: str) -> None:
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise Failed("what was downloaded is not what was asked for")


def _table(name: str, ours: Sequence[Cost], other: str, theirs: Sequence[Cost]) -> dict[str, Any]:
    wall: Callable[[Cost], float] = lambda cost: cost.wall  # noqa: E731 - one accessor, used four times
    cpu: Callable[[Cost], float] = lambda cost: cost.cpu  # noqa: E731
    return {
        name: {
            **_medians(ours),
            "wall_ratio": asdict(ratio([*map(wall, ours)], [*map(wall, theirs)])),
            "cpu_ratio": asdict(ratio([*map(cpu, ours)], [*map(cpu, theirs)])),
        },
        other: _medians(theirs),
    }


def _medians(costs: Sequence[Cost]) -> dict[str, Any]:
    return {
        "wall_seconds": round(median(cost.wall for cost in costs), 3),
        "cpu_seconds": round(median(cost.cpu for cost in costs), 3),
    }


_WIDTH: Final = 10


def _say(name: str, number: int, ours: Cost, other: str, theirs: Cost) -> None:
    print(
        f"  {name:>{_WIDTH}} round {number + 1}: {ours.wall:.2f} s, {ours.cpu:.2f} CPU s; "
        f"{other} {theirs.wall:.2f} s, {theirs.cpu:.2f} CPU s",
        file=sys.stderr,
    )
