"""The sections of the configuration: keys, defaults, ranges, and what must go together.

Pure: no file, no environment; the one default that looks at the machine is the number of cores.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainValidator, field_validator

from aibrother_node.config.base import (
    GIB,
    AutoSize,
    CrossFieldError,
    Duration,
    Fault,
    Hosts,
    ListKey,
    OptionalPath,
    OptionalSecret,
    PathKey,
    Port,
    Rate,
    Section,
    Size,
    Url,
    Urls,
    Workers,
    available_cores,
    half_set,
)
from aibrother_node.config.upstream import UpstreamSection, upstream_faults
from aibrother_node.config.values import (
    IPNetwork,
    check_congestion_control,
    check_cors_origins,
    check_label,
    check_listen,
    check_ship_to,
    check_wants,
    check_webhook,
    read_folder,
    read_list,
    read_network,
    read_optional_number,
)

# The range stands inside, at the number: None has none.
Latitude = Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)]
Longitude = Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)]


Network = Annotated[IPNetwork, PlainValidator(read_network)]


class NodeSection(Section):
    """Who and where this node is."""

    data: Annotated[Path, PlainValidator(read_folder), PathKey()] = Path("data")
    region: Annotated[str, BeforeValidator(check_label)] = ""
    public_url: Url = ""
    gossip_url: Url = ""
    latitude: Annotated[Latitude | None, BeforeValidator(read_optional_number)] = None
    longitude: Annotated[Longitude | None, BeforeValidator(read_optional_number)] = None
    drain_seconds: Annotated[Duration, Field(le=3600)] = 30.0

    def cross_faults(self) -> Iterator[Fault]:
        """Coordinates come in pairs."""
        yield from half_set(self, "latitude", "longitude")


class PublicSection(Section):
    """The data plane: blobs, models and catalog, for everyone."""

    host: Hosts = ("::", "0.0.0.0")  # noqa: S104  # a mirror is there to be reached
    port: Port = 8080
    workers: Workers = Field(default_factory=available_cores)
    tls_certificate: OptionalSecret = None
    tls_key: OptionalSecret = None
    trusted_proxies: Annotated[tuple[Network, ...], BeforeValidator(read_list(None)), ListKey()] = ()
    cors_origins: Annotated[tuple[str, ...], BeforeValidator(check_cors_origins), ListKey()] = ("*",)
    on_miss: Literal["fill", "redirect", "404"] = "fill"
    redirect: Literal["never", "nearest"] = "never"
    geoip_database: OptionalPath = None
    congestion_control: Annotated[str, BeforeValidator(check_congestion_control)] = ""

    @field_validator("workers", mode="before")
    @classmethod
    def _one_a_core(cls, value: object) -> object:
        return available_cores() if value == "auto" else value

    def cross_faults(self) -> Iterator[Fault]:
        """A certificate is of no use without its key."""
        yield from half_set(self, "tls_certificate", "tls_key")


class ControlSection(Section):
    """The control plane: admin, metrics, the operator's pages."""

    host: Hosts = ("127.0.0.1",)
    port: Port = 8081


class MetricsSection(Section):
    """Where else metrics are served."""

    listen: Annotated[str, BeforeValidator(check_listen)] = ""


class FleetSection(Section):
    """The fleet listener and gossip."""

    host: Hosts = ("::", "0.0.0.0")  # noqa: S104  # peers are elsewhere
    port: Port = 8082
    seeds: Urls = ()
    gossip_interval: Annotated[Duration, Field(ge=0.1, le=3600)] = 1.0
    fanout: Annotated[int, Field(ge=1, le=32)] = 3
    forget_after: Annotated[Duration, Field(ge=5, le=30 * 86_400)] = 3600.0


class StoreSection(Section):
    """What is kept, how much of it, and how it is looked after."""

    mode: Literal["mirror", "cache"] = "mirror"
    max_size: AutoSize = None
    reserve: AutoSize = None
    scrub_interval: Annotated[Duration, Field(ge=3600)] = 30 * 86_400.0
    scrub_rate: Rate = 50_000_000
    gc_grace: Duration = 7 * 86_400.0
    copies: Annotated[int, Field(ge=1, le=100)] = 2
    max_manifest: Annotated[Size, Field(ge=64 * 1024, le=GIB)] = 64 * 1024**2

    def reserve_on(self, total: int) -> int:
        """Bytes to keep free on a file system of `total` bytes.

        Unless configured: the larger of 5 % and 5 GiB, and never more than a quarter, so that small disks stay usable.
        """
        if self.reserve is not None:
            return self.reserve
        return min(max(total // 20, 5 * GIB), total // 4)


class PolicySection(Section):
    """What this node wants of the catalog."""

    wants: Annotated[Literal["all", "pinned"] | tuple[str, ...], BeforeValidator(check_wants), ListKey()] = "all"
    channels: Annotated[
        tuple[Literal["stable", "staging"], ...],
        BeforeValidator(read_list(None)),
        Field(min_length=1),
        ListKey(),
    ] = ("stable",)


Expiry = Annotated[Duration, Field(ge=3600, le=10 * 365 * 86_400)]


class CatalogSection(Section):
    """Trust in the catalog, and signing it."""

    root: OptionalPath = None
    refresh_interval: Annotated[Duration, Field(ge=1, le=86_400)] = 60.0
    keys_dir: OptionalPath = None
    signer: bool = False
    passphrase_file: OptionalSecret = None
    root_expiry: Expiry = 365 * 86_400.0
    targets_expiry: Expiry = 180 * 86_400.0
    models_expiry: Expiry = 180 * 86_400.0
    staging_expiry: Expiry = 180 * 86_400.0
    fleet_expiry: Expiry = 180 * 86_400.0
    snapshot_expiry: Expiry = 14 * 86_400.0
    timestamp_expiry: Expiry = 7 * 86_400.0


class LimitsSection(Section):
    """Ceilings on what clients may cost."""

    mode: Literal["enforce", "simulate", "off"] = "enforce"
    downloads_per_hour: Annotated[int, Field(ge=0)] = 0
    connections_per_client: Annotated[int, Field(ge=0)] = 0
    bandwidth_per_client: Rate = 0
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    max_fills: Annotated[int, Field(ge=1, le=1000)] = 8
    header_timeout: Annotated[Duration, Field(ge=0.1, le=300)] = 10.0
    keepalive_timeout: Annotated[Duration, Field(ge=0, le=3600)] = 75.0
    send_timeout: Annotated[Duration, Field(ge=1, le=3600)] = 60.0
    max_request_line: Annotated[Size, Field(ge=512, le=65_536)] = 8192
    max_header_field: Annotated[Size, Field(ge=512, le=65_536)] = 8192
    max_headers: Annotated[int, Field(ge=16, le=1000)] = 100
    max_ranges: Annotated[int, Field(ge=1, le=1000)] = 16


class ReplicatorSection(Section):
    """How content moves between this node, its peers and its upstreams."""

    interval: Annotated[Duration, Field(ge=1, le=7 * 86_400)] = 300.0
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    pull_budget: Size = 0
    push_budget: Size = 0


class AnalyticsSection(Section):
    """Counts of downloads, without names."""

    enabled: bool = True
    retention: Annotated[Duration, Field(ge=3600)] = 400 * 86_400.0


class LogSection(Section):
    """What is written where."""

    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    format: Literal["text", "json"] = "text"
    access_log: Annotated[str, PathKey("", "-")] = ""
    ship_to: Annotated[str, BeforeValidator(check_ship_to)] = ""


class AlertsSection(Section):
    """Who is told when something is wrong."""

    webhooks: Annotated[tuple[str, ...], BeforeValidator(read_list(check_webhook)), ListKey()] = ()


class NodeConfig(Section):
    """The whole configuration of a node; immutable, every value checked."""

    node: NodeSection = NodeSection()
    public: PublicSection = Field(default_factory=PublicSection)
    control: ControlSection = ControlSection()
    metrics: MetricsSection = MetricsSection()
    fleet: FleetSection = FleetSection()
    store: StoreSection = StoreSection()
    policy: PolicySection = PolicySection()
    catalog: CatalogSection = CatalogSection()
    limits: LimitsSection = LimitsSection()
    replicator: ReplicatorSection = ReplicatorSection()
    upstream: Annotated[tuple[UpstreamSection, ...], BeforeValidator(read_list(None))] = ()
    analytics: AnalyticsSection = AnalyticsSection()
    log: LogSection = LogSection()
    alerts: AlertsSection = AlertsSection()

    @property
    def keys_dir(self) -> Path:
        """Where catalog keys are looked for: as configured, else `keys/` in the data directory."""
        return self.catalog.keys_dir or self.node.data / "keys"

    @field_validator("upstream")
    @classmethod
    def _upstreams_agree(cls, upstreams: tuple[UpstreamSection, ...]) -> tuple[UpstreamSection, ...]:
        faults = list(upstream_faults(upstreams))
        if faults:
            raise CrossFieldError(faults)
        return upstreams


def keys_of_section(section: str) -> list[str]:
    """List the keys of a section, of one upstream for "upstream"; none if there is no such section."""
    if section == "upstream":
        return list(UpstreamSection.model_fields)
    info = NodeConfig.model_fields.get(section)
    if info is None:
        return []
    assert isinstance(info.annotation, type)
    assert issubclass(info.annotation, Section)
    return list(info.annotation.model_fields)
