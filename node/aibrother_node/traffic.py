"""What the planes count of their requests, and how the counts of several processes become one answer.

A worker writes its counts into mapped files in `run/metrics` (prometheus-client's multiprocess mode), answers and bytes
with each answer: a process that is killed loses none of them. The files are named by the worker's place, not by its
process id, so a successor goes on counting where the last one stopped, and a crash loop leaves no more files than there
are workers. Control reads them when it is asked for metrics; workers never wait for it, nor notice that it is away.

The files have all their room before they are mapped: on a full disk a page that can't be had would be a signal.
"""

from __future__ import annotations

import logging
import os
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from aibrother_node.errors import DiskFull

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from prometheus_client import Metric

    from aibrother_node.store.disk import Disk

_LOG: Final = logging.getLogger(__name__)
_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
_KINDS: Final = ("counter", "gauge_livesum", "histogram")
_ROOM: Final = 1 << 16  # bytes a file: several times what all labels together take
_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Traffic:
    """Requests of this process by plane and status, all of which are this program's own.

    Args:
        registry: what shows them.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "aibrother_http_requests", "Requests that were answered.", ["plane", "code"], registry=registry
        )

    def count_for(self, plane: str) -> Callable[[int], None]:
        """A function that counts an answer of a plane by its status."""
        known = {200: self._requests.labels(plane, "200").inc}

        def count(status: int) -> None:
            inc = known.get(status)
            if inc is None:
                known[status] = inc = self._requests.labels(plane, str(status)).inc
            inc()

        return count


class PublicTraffic:
    """What one worker counts of the public plane.

    Args:
        registry: what shows it, in the worker itself; control reads the files.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = CollectorRegistry() if registry is None else registry
        self.count = Traffic(registry).count_for("public")
        self._sent = Counter(
            "aibrother_http_sent_bytes",
            "Bytes of bodies that the public plane has sent, those of answers that were cut among them.",
            registry=registry,
        )
        self._cut = Counter(
            "aibrother_http_bodies_cut",
            "Answers of the public plane that could not be finished: clients that left or stalled, drains, bad chunks.",
            registry=registry,
        )
        self._connections = Gauge(
            "aibrother_http_connections",
            "Connections of clients on the public plane.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._connections.set(0)  # a predecessor's are gone
        self._seconds = Histogram(
            "aibrother_http_first_byte_seconds",
            "Time from a request's head to the begin of its answer, on the public plane.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._told = 0
        self._waits = [0] * (len(_SECONDS) + 1)
        self._waited = 0.0

    def begun(self, seconds: float) -> None:
        """An answer's first byte is about to go out, so long after the request's head."""
        self._waits[bisect_left(_SECONDS, seconds)] += 1
        self._waited += seconds

    def ended(self, status: int, sent: int, *, cut: bool) -> None:
        """An answer is out, or cut.

        Args:
            status: its status.
            sent: bytes of all bodies of this process so far.
            cut: some of its body didn't go out.
        """
        self.count(status)
        if sent != self._told:
            self._sent.inc(sent - self._told)
            self._told = sent
        if cut:
            self._cut.inc()

    def look(self, sent: int, connections: int) -> None:
        """Count what answers have sent that aren't out yet, and how long clients waited; to be called each second.

        Args:
            sent: as for `ended`.
            connections: how many there are.
        """
        self._sent.inc(sent - self._told)
        self._told = sent
        self._connections.set(connections)
        # what `observe` does, for many at once: done for each answer it costs half as much as all the rest
        for bucket, waits in zip(self._seconds._buckets, self._waits, strict=True):
            if waits:
                bucket.inc(waits)
        self._seconds._sum.inc(self._waited)
        self._waits = [0] * len(self._waits)
        self._waited = 0.0


def forget_counts(folder: Path, disk: Disk) -> None:
    """Begin anew, before any process counts: a node's start. Where that can't be done, nothing is shared."""
    disk.remove_tree(folder)
    try:
        disk.make_folder(folder, 0o700)
    except (OSError, DiskFull) as error:
        _LOG.error("what workers count will not be seen in metrics: %s", error)


def share_counts(folder: Path, name: str, disk: Disk) -> bool:
    """Have all metrics that this process makes from now on be written to files, under a name that no other uses now.

    Returns:
        False where there is no room for them: then this process counts for itself, and serves all the same.
    """
    try:
        for kind in _KINDS:
            path = folder / f"{kind}_{name}.db"
            if not path.exists() or path.stat().st_size < _ROOM or not _readable([path]):
                _make(path, disk)
    except (OSError, DiskFull) as error:
        _LOG.error("what this process counts is not seen in metrics: %s", error)
        return False
    os.environ[_FOLDER] = str(folder)
    values.ValueClass = values.MultiProcessValue(lambda: name)  # type: ignore[no-untyped-call]
    return True


def _make(path: Path, disk: Disk) -> None:
    aside = path.with_name(f".{path.name}")
    disk.unlink(aside)
    with disk.create(aside) as file:
        file.allocate(_ROOM)
        file.write_at(bytes(_ROOM), 0)
    disk.rename(aside, path)


class SharedCounts(Collector):
    """What other processes have written to files.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._damaged: set[str] = set()

    def collect(self) -> Iterable[Metric]:
        """Read them; those that can't be read are left out."""
        paths = sorted(self._folder.glob("*.db"))
        try:
            return _merged(paths)
        except Exception:
            good = [path for path in paths if _readable([path])]
        for path in set(paths) - set(good):
            if path.name not in self._damaged:
                self._damaged.add(path.name)
                _LOG.error("%s can't be read: its counts are missing until the next start", path)
        return _merged(good)


def _readable(paths: Sequence[Path]) -> bool:
    try:
        _merged(paths)
    except Exception:  # struct's, JSON's, the library's own, whatever damaged bytes lead to
        return False
    return True


def _merged(paths: Sequence[Path]) -> Iterable[Metric]:
    found: Iterable[Metric] = MultiProcessCollector.merge([str(path) for path in paths])  # type: ignore[no-untyped-call]
    return found


class Together(Collector):
    """Several collectors as one, in which each family of metrics is there once.

    Args:
        collectors: the first to know a family says what it is.
    """

    def __init__(self, *collectors: Collector) -> None:
        self._collectors = collectors

    def collect(self) -> Iterable[Metric]:
        """All families, with the samples of all."""
        families: dict[str, Metric] = {}
        for collector in self._collectors:
            for family in collector.collect():
                known = families.setdefault(family.name, family)
                if known is not family:
                    known.samples.extend(family.samples)
        return families.values()
