"""The catalog at 1,000 and at 10,000 releases: what one more costs, what many do, a start, a download of the list."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
import urllib.request
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.catalog import editing
from aibrother_node.catalog.desk import utc_now
from aibrother_node.catalog.entries import Entry, Part
from aibrother_node.catalog.keys import KeyRing
from aibrother_node.catalog.names import part_filename
from aibrother_node.catalog.reading import content_of
from aibrother_node.catalog.repository import Repository
from aibrother_node.content.digest import Digest
from aibrother_node.store.disk import Disk
from aibrother_node.store.layout import Layout
from bench.procs import timed
from bench.servers import start_node

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SIZES: Final = (1_000, 10_000)
BATCH: Final = 200
_VERSIONS: Final = 5  # of each model
_GIB: Final = 1 << 30


def measure(command: Sequence[str], scratch: Path, rounds: int) -> dict[str, Any]:
    """All of it, for each size; seconds are medians."""
    return {str(size): _measure(command, scratch / f"catalog-{size}", size, rounds) for size in SIZES}


def _measure(command: Sequence[str], folder: Path, size: int, rounds: int) -> dict[str, Any]:
    folder.mkdir(parents=True)
    data = folder / "node"
    timed([*command, "init", "--data", data])
    began = time.perf_counter()
    _fill(Layout(data), size)
    filled = time.perf_counter() - began
    timed([*command, "list", "--data", data, "--json"])
    ones = [_publish(command, data, folder / f"one-{number}", 1) for number in range(rounds)]
    batch = _publish(command, data, folder / "batch", BATCH)
    starts: list[float] = []
    rebuilds: list[float] = []
    lists: list[float] = []
    for number in range(2 * rounds):
        if number % 2:
            (data / "index.sqlite3").unlink()
        began = time.perf_counter()
        server = start_node("node", command, data, "0" * 64, 1, None)
        (rebuilds if number % 2 else starts).append(time.perf_counter() - began)
        try:
            began = time.perf_counter()
            with urllib.request.urlopen(server.url().removesuffix(server.path) + "/v1/catalog.json") as answer:
                length = len(answer.read())
            lists.append(time.perf_counter() - began)
        finally:
            server.close()
    return {
        "releases": size,
        "fill_seconds": round(filled, 2),
        "publish_one_seconds": round(median(ones), 3),
        f"publish_{BATCH}_seconds": round(batch, 3),
        "start_seconds": round(median(starts), 3),
        "start_without_index_seconds": round(median(rebuilds), 3),
        "get_catalog_seconds": round(median(lists), 3),
        "catalog_bytes": length,
        "metadata_bytes": sum(path.stat().st_size for path in (data / "catalog" / "metadata").iterdir()),
    }


def _fill(layout: Layout, size: int) -> None:
    """Sign releases of blobs that aren't there, in one edit: only what is published later has to be stored."""
    disk = Disk()
    repository = Repository.open(layout.catalog, disk)
    keyring = KeyRing.load(layout.keys, disk)
    entries = [_entry(number) for number in range(size)]
    now = utc_now()
    repository.commit(editing.publish(content_of(repository), entries, "stable", now), keyring, now)


def _entry(number: int) -> Entry:
    name, version = f"model-{number // _VERSIONS}", f"2026.{number % _VERSIONS + 1}"
    filename = part_filename(name, version, "q4_k_m")
    digests = [Digest(hashlib.sha256(f"{filename} {what}".encode()).digest()) for what in ("blob", "chunks", "pieces")]
    part = Part(filename, digests[0], 4 * _GIB, digests[1], digests[2])
    return Entry(name, version, "q4_k_m", "2026-11-01T00:00:00Z", (part,), license="apache-2.0")


def _publish(command: Sequence[str], data: Path, folder: Path, count: int) -> float:
    """Publish small real files; returns seconds."""
    folder.mkdir()
    plan = []
    for number in range(count):
        _make_gguf(folder / f"{number}.gguf", f"{folder.name}-{number}")
        plan.append(
            f'[[release]]\nfiles = ["{number}.gguf"]\nname = "{folder.name}-{number}"\n'
            'version = "1"\nvariant = "f32"\nlicense = "mit"\n'
        )
    (folder / "plan.toml").write_text("\n".join(plan))
    began = time.perf_counter()
    result = subprocess.run(
        [*command, "publish", str(folder / "plan.toml"), "--data", str(data), "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    took = time.perf_counter() - began
    assert len(json.loads(result.stdout)["entries"]) == count
    return took


def _make_gguf(path: Path, name: str) -> None:
    import gguf  # noqa: PLC0415 - only this part needs it
    import numpy as np  # noqa: PLC0415

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_tensor("token_embd.weight", np.full((8, 8), len(name), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
