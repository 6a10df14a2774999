"""Serving: throughput, CPU per GiB and latency, of all servers in turn, round after round."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from bench.load import Job, Result, fetch
from bench.procs import ROOT, Failed, module
from bench.ratios import quantile, ratio
from bench.servers import HOST, STOCK, TUNED, Server, program, start_nginx, start_node, start_plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

NODE: Final = "node"
STOCK_NAME: Final = "nginx stock"
TUNED_NAME: Final = "nginx tuned"
PLAIN: Final = "plain sendfile"
WHOLE: Final = 0
LENGTHS: Final = (WHOLE, 8 << 20, 1 << 20, 64 << 10)
PROBES: Final = (64 << 10, 1 << 10)
CONNECTIONS: Final = 16
_GIB: Final = 1 << 30
_PAUSE: Final = 0.002


@dataclass(frozen=True, slots=True)
class Setting:
    """How the servers are run.

    Attributes:
        workers: of each.
        server_core, client_core: None leaves them to the scheduler.
    """

    workers: int
    server_core: int | None
    client_core: int | None


@dataclass(frozen=True, slots=True)
class Content:
    """What is served: a blob of a node's data directory."""

    data: Path
    blob: Path
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Pace:
    """How long and how often."""

    rounds: int
    seconds: float
    warm_up: float


@contextlib.contextmanager
def running(
    setting: Setting, content: Content, commands: Mapping[str, Sequence[str]], scratch: Path
) -> Iterator[list[Server]]:
    """All servers that there are here, started, checked and ended at the end.

    Args:
        setting: how.
        content: what they serve.
        commands: our node, by its name in the tables, and other builds of it.
        scratch: a folder for nginx's files.
    """
    with contextlib.ExitStack() as stack:
        servers: list[Server] = []

        def add(server: Server) -> None:
            stack.callback(server.close)
            servers.append(server)

        for number, (name, command) in enumerate(commands.items()):
            data = content.data if number == 0 else _twin(content, scratch / f"twin-{number}-{setting.workers}")
            add(start_node(name, command, data, content.digest, setting.workers, setting.server_core))
        if program("nginx"):
            for name, settings in ((STOCK_NAME, STOCK), (TUNED_NAME, TUNED)):
                folder = scratch / f"{name.replace(' ', '-')}-{setting.workers}"
                folder.mkdir()
                add(
                    start_nginx(
                        name,
                        settings,
                        folder,
                        content.blob,
                        content.digest,
                        setting.workers,
                        setting.server_core,
                    )
                )
        if setting.workers == 1:
            add(start_plain(PLAIN, content.blob, setting.server_core))
        _check_bytes(servers, content)
        yield servers


def _twin(content: Content, folder: Path) -> Path:
    """A second data directory with the same blobs, since only one node may run on each."""

    def link_or_copy(source: str, target: str) -> None:
        if source.startswith(f"{content.data / 'blobs'}{os.sep}"):
            os.link(source, target)
        else:
            shutil.copy2(source, target)

    shutil.copytree(content.data, folder, copy_function=link_or_copy, ignore=shutil.ignore_patterns("*.sock"))
    return folder


def _check_bytes(servers: Sequence[Server], content: Content) -> None:
    """Whether each server serves the right bytes, whole and in part; this also warms the page cache."""
    for server in servers:
        if server.plain:
            continue
        for length in LENGTHS:
            job = _job(server, content, length, Setting(0, None, None), Pace(0, 0, 0), 0)
            first = (content.size // length - 1) * length if length else 0
            if fetch(job, first) != _expected(content, first, length):
                raise Failed(f"{server.name} serves wrong bytes at {first}, {length}")


def _expected(content: Content, first: int, length: int) -> str:
    if not length:
        return content.digest
    with content.blob.open("rb") as file:
        return hashlib.sha256(os.pread(file.fileno(), length, first)).hexdigest()


def measure(
    servers: Sequence[Server], content: Content, setting: Setting, pace: Pace, lengths: Sequence[int]
) -> dict[str, Any]:
    """Throughput and CPU of each server at each length, as ratios to stock nginx and to plain sendfile."""
    return {_name(length): _rounds(servers, content, setting, pace, length) for length in lengths}


def _rounds(
    servers: Sequence[Server], content: Content, setting: Setting, pace: Pace, length: int
) -> dict[str, dict[str, Any]]:
    found: dict[str, list[Result]] = {server.name: [] for server in servers}
    for number in range(pace.rounds):
        for server in servers:
            result = _load(_job(server, content, length, setting, pace, number))
            found[server.name].append(result)
            print(
                f"  {_name(length):>9} round {number + 1} {server.name:<16}"
                f" {result.received / result.seconds / _GIB:6.2f} GiB/s {_cpu(result):6.3f} CPU s/GiB",
                file=sys.stderr,
            )
    return {name: _summary(name, results, found) for name, results in found.items()}


def _summary(name: str, results: Sequence[Result], found: Mapping[str, Sequence[Result]]) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "gib_per_second": round(median(map(_speed, results)), 3),
        "cpu_seconds_per_gib": round(median(map(_cpu, results)), 4),
        "client_busy": round(median(result.client_cpu / result.seconds for result in results), 2),
        "answers": sum(result.answers for result in results),
        "checked": sum(result.checked for result in results),
    }
    for other, key in ((STOCK_NAME, "to_nginx_stock"), (TUNED_NAME, "to_nginx_tuned"), (PLAIN, "to_plain_sendfile")):
        if other in found and other != name:
            theirs = found[other]
            summary[key] = {
                "throughput": asdict(ratio([*map(_speed, results)], [*map(_speed, theirs)])),
                "cpu_per_gib": asdict(ratio([*map(_cpu, results)], [*map(_cpu, theirs)])),
            }
    return summary


def latency(servers: Sequence[Server], content: Content, setting: Setting, pace: Pace) -> dict[str, Any]:
    """How long small requests take while `CONNECTIONS` clients pull 8 MiB ranges."""
    servers = [server for server in servers if not server.plain]
    found: dict[str, dict[int, list[list[float]]]] = {
        server.name: {length: [] for length in PROBES} for server in servers
    }
    for number in range(pace.rounds):
        for server in servers:
            job = _job(server, content, 8 << 20, setting, replace(pace, seconds=pace.seconds + pace.warm_up), number)
            probe = {"job": asdict(replace(job, warm_up=2 * pace.warm_up, seconds=pace.seconds)), "lengths": PROBES}
            with _start("load", asdict(job)) as load, _start("probe", {**probe, "pause": _PAUSE}) as prober:
                times = json.loads(_finish(prober))
                _finish(load)
            for length in PROBES:
                found[server.name][length].append(times[str(length)])
                print(
                    f"  {length:>9} round {number + 1} {server.name:<16}"
                    f" p50 {quantile(times[str(length)], 0.5) * 1e3:7.2f} ms"
                    f" p99 {quantile(times[str(length)], 0.99) * 1e3:7.2f} ms of {len(times[str(length)])}",
                    file=sys.stderr,
                )
    table: dict[str, Any] = {}
    for length in PROBES:
        table[_name(length)] = {}
        p99 = {name: [quantile(times, 0.99) for times in rounds[length]] for name, rounds in found.items()}
        for name, rounds in found.items():
            every = sorted(time for times in rounds[length] for time in times)
            table[_name(length)][name] = {
                "requests": len(every),
                "p50_ms": round(quantile(every, 0.5) * 1e3, 2),
                "p99_ms": round(median(p99[name]) * 1e3, 2),
                "p99_ms_low": round(min(p99[name]) * 1e3, 2),
                "p99_ms_high": round(max(p99[name]) * 1e3, 2),
            }
            if STOCK_NAME in p99 and name != STOCK_NAME:
                table[_name(length)][name]["p99_to_nginx_stock"] = asdict(ratio(p99[name], p99[STOCK_NAME]))
    return table


def _job(server: Server, content: Content, length: int, setting: Setting, pace: Pace, seed: int) -> Job:
    return Job(
        host=HOST,
        port=server.port,
        path=server.path,
        size=content.size,
        length=length,
        server=server.process.pid,
        core=setting.client_core,
        connections=CONNECTIONS,
        warm_up=pace.warm_up,
        seconds=pace.seconds,
        seed=seed,
        plain=server.plain,
    )


def _load(job: Job) -> Result:
    with _start("load", asdict(job)) as process:
        return Result(**json.loads(_finish(process)))


def _start(name: str, given: dict[str, Any]) -> subprocess.Popen[str]:
    process = subprocess.Popen(module(name), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    json.dump(given, process.stdin)
    process.stdin.close()
    return process


def _finish(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    output = process.stdout.read()
    if process.wait() != 0:
        raise Failed("the load generator found a fault; it is written above")
    return output


def _name(length: int) -> str:
    if not length:
        return "whole"
    return f"{length >> 20} MiB" if length >= 1 << 20 else f"{length >> 10} KiB"


def _speed(result: Result) -> float:
    return result.received / result.seconds / _GIB


def _cpu(result: Result) -> float:
    return result.server_cpu / result.received * _GIB
