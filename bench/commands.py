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
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bench.servers import Server
    from bench.serving import Content, Pace


def make_store(command: Sequence[str], data: Path) -> None:
    """A new data directory without a catalog."""
    timed([*command, "init", "--no-catalog", "--data", str(data)])


def add(command: Sequence[str], file: Path, scratch: Path, pace: Pace) -> dict[str, Any]:
    """`add` of a file, against `sha256sum` and then a copy that is on stable storage when it ends."""
    hashers: dict[str, list[str]] = {"sha256sum": ["sha256sum"]}
    if program("openssl"):
        # sha256sum is often built without the processor's SHA instructions: then this is the harder comparison
        hashers["openssl dgst"] = ["openssl", "dgst", "-sha256"]
    ours: list[Cost] = []
    theirs: dict[str, list[Cost]] = {name: [] for name in hashers}
    copy = scratch / "copy"
    for number in range(pace.rounds):
        data = scratch / "add"
        make_store(command, data)
        os.sync()
        ours.append(timed([*command, "add", file, "--data", data, "--json"])[0])
        shutil.rmtree(data)
        os.sync()
        copied, _ = timed(["dd", f"if={file}", f"of={copy}", "bs=1M", "conv=fsync", "status=none"])
        copy.unlink()
        for name, hasher in hashers.items():
            theirs[name].append(timed([*hasher, file])[0] + copied)
            _say("add", number, ours[-1], f"{name} + dd", theirs[name][-1])
    return _table("add", ours, {f"{name}, then dd conv=fsync": costs for name, costs in theirs.items()})


def pull(
    command: Sequence[str], server: Server, content: Content, scratch: Path, pace: Pace, core: int | None
) -> dict[str, Any]:
    """`pull`, which verifies, against aria2c, which does not; both on `core`, or where the scheduler puts them."""
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
            with on_core(core):
                costs.append(run())
            if number == 0:
                _check(target, content.digest)
            target.unlink()
            shutil.rmtree(state, ignore_errors=True)
        _say("pull", number, ours[-1], "aria2c", theirs[-1])
    return _table("pull (verified)", ours, {"aria2c -x16 -s16 (not verified)": theirs})


def _check(path: Path, digest: str) -> None:
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise Failed("what was downloaded is not what was asked for")


def _table(name: str, ours: Sequence[Cost], others: Mapping[str, Sequence[Cost]]) -> dict[str, Any]:
    rows: dict[str, Any] = {name: _medians(ours)}
    for other, theirs in others.items():
        rows[other] = {
            **_medians(theirs),
            "wall_ratio": asdict(ratio([cost.wall for cost in ours], [cost.wall for cost in theirs])),
            "cpu_ratio": asdict(ratio([cost.cpu for cost in ours], [cost.cpu for cost in theirs])),
        }
    return rows


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
