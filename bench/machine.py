"""What the numbers were measured on, without its name or folders, and what its processor can do at most."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.servers import program

_BLOCK: Final = 1 << 20
_BYTES: Final = 512 << 20


def facts(date: str) -> dict[str, Any]:
    """Date, processor, kernel, versions and settings."""
    return {
        "date": date,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "nginx": _version("nginx", "-v", "nginx/"),
        "aria2c": _version("aria2c", "--version", "aria2 version "),
        "congestion_control": _sysctl("net/ipv4/tcp_congestion_control"),
        "tcp_wmem": _sysctl("net/ipv4/tcp_wmem"),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def hashing(rounds: int = 5) -> dict[str, float]:
    """SHA-256 with nothing else around it, in GiB/s: the limit of everything that verifies."""
    return {
        "sha256_one_thread_gib_per_second": round(median(_sha256(1) for _ in range(rounds)), 2),
        "sha256_two_threads_gib_per_second": round(median(_sha256(2) for _ in range(rounds)), 2),
    }


def _sha256(threads: int) -> float:
    def work() -> None:
        block = bytearray(_BLOCK)
        sha256 = hashlib.sha256()
        for _ in range(_BYTES // _BLOCK):
            sha256.update(block)

    all_ = [threading.Thread(target=work) for _ in range(threads)]
    started = time.perf_counter()
    for thread in all_:
        thread.start()
    for thread in all_:
        thread.join()
    return threads * _BYTES / (time.perf_counter() - started) / (1 << 30)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(name: str, option: str, before: str) -> str | None:
    found = program(name)
    if found is None:
        return None
    done = subprocess.run([found, option], capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    return text.partition(before)[2].split()[0] if before in text else None


def _sysctl(name: str) -> str | None:
    try:
        return " ".join(Path("/proc/sys", name).read_text().split())
    except FileNotFoundError:
        return None
