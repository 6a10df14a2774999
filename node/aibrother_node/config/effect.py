"""Which keys have an effect in this version, and which take effect without a restart."""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Final

from aibrother_node.config.schema import NodeConfig

IN_EFFECT: Final = (
    "node.data",
    "node.region",
    "node.public_url",
    "node.drain_seconds",
    "public.host",
    "public.port",
    "public.workers",
    "public.tls_*",
    "public.trusted_proxies",
    "public.cors_origins",
    "public.on_miss",
    "public.redirect",
    "public.geoip_database",
    "public.congestion_control",
    "control.*",
    "metrics.listen",
    "fleet.*",
    "store.mode",
    "store.max_size",
    "store.reserve",
    "store.scrub_interval",
    "store.scrub_rate",
    "store.max_manifest",
    "store.gc_grace",
    "store.copies",
    "policy.*",
    "catalog.root",
    "catalog.refresh_interval",
    "catalog.keys_dir",
    "catalog.signer",
    "catalog.passphrase_file",
    "catalog.*_expiry",
    "node.gossip_url",
    "node.latitude",
    "node.longitude",
    "limits.max_connections",
    "limits.header_timeout",
    "limits.keepalive_timeout",
    "limits.send_timeout",
    "limits.max_request_line",
    "limits.max_header_field",
    "limits.max_headers",
    "limits.max_ranges",
    "log.level",
    "log.format",
    "log.access_log",
)
"""Keys that do something in this version. All others are accepted, so that a file can be written ahead, and warned
about; a release that makes more of them work only adds lines here."""

RELOADABLE: Final = (
    "limits.*",
    "public.tls_*",
    "public.cors_origins",
    "public.trusted_proxies",
    "public.on_miss",
    "public.redirect",
    "public.geoip_database",
    "log.*",
    "node.drain_seconds",
)
"""Keys whose change takes effect on reload (SIGHUP)."""


def not_yet(given: Iterable[str]) -> list[str]:
    """Warn of each key in `given` that has no effect in this version."""
    return [f"{key}: accepted, no effect in this version" for key in given if not _matches(key, IN_EFFECT)]


def reloadable_changes(old: NodeConfig, new: NodeConfig) -> tuple[list[str], list[str]]:
    """Compare two configurations: the keys that changed and take effect on reload, and those that need a restart.

    Upstreams count as one key, "upstream". Both lists are in the order of the schema.
    """
    reload: list[str] = []
    restart: list[str] = []
    for key in _changed(old, new):
        (reload if _matches(key, RELOADABLE) else restart).append(key)
    return reload, restart


def _changed(old: NodeConfig, new: NodeConfig) -> Iterator[str]:
    for section in NodeConfig.model_fields:
        before, after = getattr(old, section), getattr(new, section)
        if section == "upstream":
            if before != after:
                yield section
            continue
        for key in type(before).model_fields:
            if getattr(before, key) != getattr(after, key):
                yield f"{section}.{key}"


def _matches(key: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)
