"""`make bench`: measure, and write JSON and a table."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import random
import shutil
import socket
import struct
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench import catalog, commands, fleet, machine, report, serving
from bench.procs import Failed, timed
from bench.serving import NODE, PLAIN, STOCK_NAME, Content, Pace, Setting

if TYPE_CHECKING:
    from collections.abc import Sequence

_PARTS: Final = ("serve", "latency", "add", "pull", "catalog", "fleet")
_OWN_NETWORK: Final = "AIBROTHER_BENCH_NETWORK"
_SIOCGIFFLAGS: Final = 0x8913  # linux/sockios.h
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description="Measures the node; see bench/README.md.")
    parser.add_argument("--quick", action="store_true", help="a smaller file, short runs: only to see that it works")
    parser.add_argument("--only", choices=_PARTS, action="append", help="this part only; may be given again")
    parser.add_argument("--runs", type=int, metavar="N", help="rounds of each comparison (default 5; quick: 2)")
    parser.add_argument("--seconds", type=float, help="length of each measured interval (default 2.5; quick: 0.7)")
    parser.add_argument("--size", type=int, metavar="MIB", help="of the file (default 1024; quick: 256)")
    parser.add_argument("--output", type=Path, metavar="DIR", default=Path(__file__).parent / "results")
    parser.add_argument("--name", help="of the results (default: the date; quick: quick)")
    parser.add_argument("--date", default=datetime.now(UTC).date().isoformat(), help="to be noted in the results")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="where files of up to 4 x the size may be made")
    parser.add_argument("--node", metavar="PROGRAM", default=str(Path(sys.executable).parent / "aibrother-node"))
    parser.add_argument(
        "--also", metavar="NAME=PROGRAM", action="append", default=[], help="another build of the node to serve beside"
    )
    parser.add_argument(
        "--congestion-control", metavar="NAME", help="for all servers: needs root, runs in a network namespace"
    )
    return parser.parse_args()


def main() -> int:
    """Run what was asked for.

    Returns:
        The exit code: 0, or 1 when a program under measurement failed. Aims that are missed are no failure.
    """
    options = _arguments()
    if options.congestion_control:
        _own_network(options.congestion_control)
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=options.scratch))
    try:
        results = _measure(options, scratch)
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    options.output.mkdir(parents=True, exist_ok=True)
    name = options.name or ("quick" if options.quick else options.date)
    table = report.table(results)
    (options.output / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.output / f"{name}.md").write_text(table)
    print(table)
    return 0


def _measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    pace = Pace(
        rounds=options.runs or (2 if options.quick else 5),
        seconds=options.seconds or (0.7 if options.quick else 2.5),
        warm_up=0.3,
    )
    size = (options.size or (256 if options.quick else 1024)) << 20
    wanted = options.only or list(_PARTS)
    builds = {NODE: [options.node]}
    for other in options.also:
        name, _, program = other.partition("=")
        builds[name] = [program]
    results: dict[str, Any] = {
        "machine": machine.facts(options.date),
        "method": {
            "file_mib": size >> 20,
            "connections": serving.CONNECTIONS,
            "rounds": pace.rounds,
            "seconds": pace.seconds,
        },
        "limits": machine.hashing(),
    }
    source = scratch / "source"
    _make_file(source, size)
    if "add" in wanted:
        results["add"] = commands.add(builds[NODE], source, scratch, pace)
    if "catalog" in wanted:
        results["catalog"] = catalog.measure(builds[NODE], scratch, min(pace.rounds, 3))
    if "fleet" in wanted:
        results["fleet"] = fleet.measure(builds[NODE], scratch, 10.0 if options.quick else 60.0)
    if not {"serve", "latency", "pull"} & set(wanted):
        return results
    content = _make_content(builds[NODE], source, scratch)
    source.unlink()
    two_cores = len(os.sched_getaffinity(0)) > 1
    setting = Setting(1, *(sorted(os.sched_getaffinity(0))[:2] if two_cores else (None, None)))
    with serving.running(setting, content, builds, scratch) as servers:
        if STOCK_NAME not in {server.name for server in servers}:
            results["skipped"] = "nginx is not installed: the node is compared with plain sendfile only"
        if "serve" in wanted:
            results["serve"] = serving.measure(servers, content, setting, pace, serving.LENGTHS)
        if "latency" in wanted:
            results["latency"] = serving.latency(servers, content, setting, pace)
        if "pull" in wanted:
            for part, core in (("pull", None), ("pull_one_core", setting.client_core)):
                results[part] = commands.pull(builds[NODE], servers[0], content, scratch, pace, core)
    if "serve" in wanted and two_cores:
        setting = Setting(2, None, None)
        with serving.running(setting, content, builds, scratch) as servers:
            results["serve_two_workers"] = serving.measure(servers, content, setting, pace, (8 << 20, 64 << 10))
    assert PLAIN not in results.get("serve_two_workers", {})
    return results


def _make_file(path: Path, size: int) -> None:
    rng = random.Random(size)
    with path.open("wb") as file:
        for _ in range(0, size, 1 << 20):
            file.write(rng.randbytes(1 << 20))
        os.fsync(file.fileno())


def _make_content(command: Sequence[str], source: Path, scratch: Path) -> Content:
    data = scratch / "data"
    commands.make_store(command, data)
    _, output = timed([*command, "add", source, "--data", data, "--json"])
    digest = json.loads(output)[0]["digest"].removeprefix("sha256:")
    blob = next(path for path in (data / "blobs").rglob("*") if path.name.endswith(digest))
    return Content(data, blob, digest, blob.stat().st_size)


def _own_network(congestion_control: str) -> None:
    """Go on in a network namespace of our own, with this as its default; the machine's stays as it is."""
    if _OWN_NETWORK not in os.environ:
        os.environ[_OWN_NETWORK] = "1"
        os.chdir(Path(__file__).resolve().parent.parent)
        arguments = ["unshare", "--net", sys.executable, "-m", "bench.run", *sys.argv[1:]]
        with contextlib.suppress(FileNotFoundError):
            os.execvp("unshare", arguments)
        raise SystemExit("error: --congestion-control needs unshare (util-linux)")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        loopback = struct.pack("16sh14x", b"lo", 0)
        name, flags = struct.unpack("16sh14x", fcntl.ioctl(sock, _SIOCGIFFLAGS, loopback))
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", name, flags | _IFF_UP))
    Path("/proc/sys/net/ipv4/tcp_congestion_control").write_text(congestion_control)


if __name__ == "__main__":
    sys.exit(main())
