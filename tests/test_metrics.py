"""What a node measures, and how it is asked for."""

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from aibrother_node.errors import Temporary
from aibrother_node.fleet.engine import Counts
from aibrother_node.fleet.members import Member
from aibrother_node.fleet.peering import PeerState
from aibrother_node.fleet.table import Verdict
from aibrother_node.metrics import MAX_REASONS, CollectionMetrics, FleetMetrics, JobMetrics
from aibrother_node.traffic import PublicTraffic
from aibrother_node.web.control.plane import ControlPlane

NOW = 1_800_000_000.0
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;"
    "q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@dataclass
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class Measured:
    """Metrics, and what they say."""

    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.metrics = FleetMetrics(self.clock)

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"aibrother_{name}", labels)


@pytest.fixture
def measured() -> Measured:
    return Measured()


def peer(number: int, state: str, phi: float = 0.0, refused: str | None = None) -> PeerState:
    member = Member(
        id=f"{number:064x}"[::-1],
        key=bytes(32),
        region="eu",
        url="http://peer.example",
        gossip_url="http://peer.example:8082",
        country=None,
        latitude=None,
        longitude=None,
    )
    return PeerState(member, None, state, phi, refused_catalog=None if refused is None else ((1, 2), refused))


def test_the_catalog_s_life_is_counted_down_whether_or_not_anybody_reports(measured: Measured) -> None:
    assert str(measured.value("catalog_expires_seconds")) == "nan"
    measured.metrics.catalog(7, datetime.fromtimestamp(NOW + 100, UTC))
    assert measured.value("catalog_version") == 7
    assert measured.value("catalog_expires_seconds") == 100
    measured.clock.now += 150
    assert measured.value("catalog_expires_seconds") == -50
    measured.metrics.catalog(0, None)
    assert str(measured.value("catalog_expires_seconds")) == "nan"


def test_how_long_a_node_has_been_behind(measured: Measured) -> None:
    assert measured.value("catalog_behind_seconds") == 0
    measured.metrics.catalog_behind(True, NOW)
    measured.clock.now += 30
    measured.metrics.catalog_behind(True, NOW + 30)
    assert measured.value("catalog_behind_seconds") == 30, "since it was so first"
    measured.metrics.catalog_behind(False, NOW + 30)
    assert measured.value("catalog_behind_seconds") == 0
    measured.metrics.catalog_behind(True, NOW + 30)
    measured.clock.now = NOW
    assert measured.value("catalog_behind_seconds") == 0, "a clock that was set back"


def test_peers_by_state_and_what_went_is_gone(measured: Measured) -> None:
    assert measured.value("fleet_peers", state="dead") == 0, "there before anything happens"
    measured.metrics.fleet(4, [peer(1, "alive", 0.5), peer(2, "dead", 20), peer(3, "alive", 1, refused="rollback")])
    assert measured.value("fleet_members") == 4
    assert measured.value("fleet_peers", state="alive") == 2
    assert measured.value("fleet_peers", state="dead") == 1
    assert measured.value("peers_with_refused_catalog") == 1
    assert measured.value("gossip_phi", peer="200000000000") == 20
    measured.metrics.fleet(3, [peer(1, "suspect", 6), peer(3, "alive")])
    assert measured.value("fleet_peers", state="dead") == 0
    assert measured.value("gossip_phi", peer="200000000000") is None
    assert measured.value("gossip_phi", peer="100000000000") == 6
    assert measured.value("peers_with_refused_catalog") == 0


def test_what_the_engine_counted_is_counted_once(measured: Measured) -> None:
    counts = Counts()
    assert measured.value("gossip_records_total", result="forged") == 0, "there before anything happens"
    for expected in (3, 8):
        counts.rounds = expected
        counts.messages["sent", "syn"] = expected
        counts.records[Verdict.ACCEPTED] = expected
        counts.records[Verdict.FORGED] = expected
        counts.records[Verdict.STALE] = expected
        counts.refused_messages["not a member"] = expected
        counts.sizes.append(("sent", 300))
        counts.lags.extend([0.2, 4.0])
        measured.metrics.gossip(counts)
        measured.metrics.gossip(counts)
        assert measured.value("gossip_rounds_total") == expected
        assert measured.value("gossip_messages_total", direction="sent", type="syn") == expected
        assert measured.value("gossip_records_total", result="accepted") == expected
        assert measured.value("gossip_records_total", result="forged") == expected
        assert measured.value("gossip_refused_records_total", reason="forged") == expected
        assert measured.value("gossip_refused_records_total", reason="stale") is None, "nobody did wrong"
        assert measured.value("gossip_refused_messages_total", reason="not a member") == expected
    assert measured.value("gossip_message_bytes_count", direction="sent") == 2
    assert measured.value("gossip_message_bytes_bucket", direction="sent", le="128.0") == 0
    assert measured.value("gossip_message_bytes_bucket", direction="sent", le="512.0") == 2
    assert measured.value("gossip_convergence_seconds_count") == 4
    assert measured.value("gossip_convergence_seconds_bucket", le="0.25") == 2
    assert not counts.sizes
    assert not counts.lags


def test_what_others_say_makes_no_series_without_end(measured: Measured) -> None:
    counts = Counts()
    for i in range(500):
        counts.refused_messages[f"told: reason {i}"] += 1
        counts.refused_messages[f"reason {i}"] += 1
        measured.metrics.catalog_refused(f"rule {i}")
    measured.metrics.gossip(counts)
    assert measured.value("gossip_refused_messages_total", reason="told") == 500
    assert measured.value("gossip_refused_messages_total", reason="other") == 500 - MAX_REASONS + 1
    assert measured.value("catalog_refused_total", reason="other") == 500 - MAX_REASONS
    lines = generate_latest(measured.metrics.registry).decode().splitlines()
    assert sum(line.startswith("aibrother_catalog_refused_total{") for line in lines) == MAX_REASONS + 1


def test_two_nodes_in_one_process_don_t_count_together() -> None:
    one, other = Measured(), Measured()
    one.metrics.store(3, 30)
    one.metrics.clock_skew(-1.5)
    assert (one.value("store_blobs"), one.value("store_bytes"), one.value("clock_skew_seconds")) == (3, 30, -1.5)
    assert (other.value("store_blobs"), other.value("store_bytes"), other.value("clock_skew_seconds")) == (0, 0, 0)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_own_linter_finds_nothing(measured: Measured) -> None:
    counts = Counts(rounds=1)
    counts.messages["received", "ack"] = 2
    counts.refused_messages["malformed"] = 1
    measured.metrics.gossip(counts)
    measured.metrics.fleet(2, [peer(1, "alive", 0.5)])
    measured.metrics.catalog_refused("rollback")
    text = generate_latest(measured.metrics.registry)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_guide_has_every_metric(measured: Measured) -> None:
    guide = (Path(__file__).parent.parent / "docs/operating.md").read_text(encoding="utf-8")
    of_workers = CollectorRegistry()
    PublicTraffic(of_workers)
    JobMetrics(of_workers)
    CollectionMetrics(of_workers)
    families = [*measured.metrics.registry.collect(), *of_workers.collect()]
    names = {one.name + ("_total" if one.type == "counter" else "") for one in families}
    assert set(re.findall(r"`(aibrother_[a-z_]+)", guide)) == names


# -- the control plane


@asynccontextmanager
async def running(plane: ControlPlane) -> AsyncIterator[aiohttp.ClientSession]:
    runner = web.AppRunner(plane.metrics_alone(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    (address,) = runner.addresses
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{address[1]}") as session:
            yield session
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "text/plain; version=0.0.4"),
        ("*/*", "text/plain; version=0.0.4"),
        ("text/html", "text/plain; version=0.0.4"),
        ("application/openmetrics-text", "application/openmetrics-text; version=1.0.0"),
        (PROMETHEUS, "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;q=0", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;version=0.0.1", "application/openmetrics-text; version=1.0.0"),
        ("\xff;;;=,,,version=", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;version=nonsense", "application/openmetrics-text"),
    ],
)
def test_metrics_in_both_formats(measured: Measured, accept: str | None, content_type: str) -> None:
    measured.metrics.store(3, 30)

    async def ask() -> None:
        async with running(ControlPlane(measured.metrics.registry)) as session:
            headers = {} if accept is None else {"Accept": accept}
            async with session.get("/metrics", headers=headers, skip_auto_headers=["Accept"]) as response:
                assert response.status == 200
                assert response.headers["Content-Type"].startswith(content_type)
                assert response.headers["Cache-Control"] == "no-store"
                text = await response.text()
            openmetrics = content_type.startswith("application/openmetrics")
            families = list(read_openmetrics(text) if openmetrics else read_text(text))  # type: ignore[no-untyped-call]
            assert {sample.value for one in families for sample in one.samples if sample.name.endswith("_blobs")} == {3}

    asyncio.run(ask())


def test_everything_else_is_a_problem(measured: Measured) -> None:
    async def ask() -> None:
        async with running(ControlPlane(measured.metrics.registry)) as session:
            for path in ("/", "/metrics/", "/metrics/x", "/admin/v1/catalog", "/..%2fmetrics"):
                async with session.get(path) as response:
                    assert response.status == 404
                    assert response.content_type == "application/problem+json"
                    assert (await response.json())["status"] == 404
            async with session.post("/metrics", data=b"x") as response:
                assert (response.status, response.headers["Allow"]) == (405, "GET,HEAD")
                assert response.content_type == "application/problem+json"
            async with session.head("/metrics") as response:
                assert (response.status, await response.read()) == (200, b"")

    asyncio.run(ask())


def test_what_is_shown_is_brought_up_to_date_first() -> None:
    registry = CollectorRegistry()
    gauge = Gauge("scrapes", "Scrapes.", registry=registry)

    async def refresh() -> None:
        gauge.inc()
        if gauge._value.get() > 1:
            raise Temporary("busy")

    async def ask() -> None:
        async with running(ControlPlane(registry, refresh)) as session:
            async with session.get("/metrics") as response:
                assert "scrapes 1.0" in await response.text()
            async with session.get("/metrics") as response:
                assert response.status == 503
                assert response.content_type == "application/problem+json"

    asyncio.run(ask())


def test_jobs() -> None:
    registry = CollectorRegistry()
    metrics = JobMetrics(registry)
    metrics.now({("scrub", "running"): 1, ("scrub", "paused"): 0, ("old", "queued"): 2})
    metrics.ended("scrub", "failed")
    metrics.now({("scrub", "running"): 0, ("scrub", "paused"): 1})
    shown = generate_latest(registry).decode().splitlines()
    assert [line for line in shown if line.startswith("aibrother_jobs{")] == [
        'aibrother_jobs{kind="scrub",state="running"} 0.0',
        'aibrother_jobs{kind="scrub",state="paused"} 1.0',
    ]
    assert 'aibrother_jobs_ended_total{kind="scrub",state="failed"} 1.0' in shown
    assert 'aibrother_jobs_ended_total{kind="scrub",state="done"} 0.0' in shown, "there from the beginning"
