"""The configuration of a node: `load_config` gives a `NodeConfig`, checked and immutable.

Operators read conf/node.toml (each key) and docs/configuration.md (where values come from). Here, from the bottom up:
`values` and `base` (types of values), `upstream` and `schema` (keys, defaults, ranges), `layers` (what was set, by
whom), `environment`, `explain` (faults in words), `effect` (what works in this version, what reloads), `load`,
`starter` (the file that `init` writes).
"""

from aibrother_node.config.effect import IN_EFFECT, RELOADABLE, not_yet, reloadable_changes
from aibrother_node.config.load import Loaded, load_config
from aibrother_node.config.schema import (
    AlertsSection,
    AnalyticsSection,
    CatalogSection,
    ControlSection,
    FleetSection,
    LimitsSection,
    LogSection,
    MetricsSection,
    NodeConfig,
    NodeSection,
    PolicySection,
    PublicSection,
    ReplicatorSection,
    StoreSection,
)
from aibrother_node.config.starter import starter_toml
from aibrother_node.config.upstream import UpstreamSection

__all__ = [
    "IN_EFFECT",
    "RELOADABLE",
    "AlertsSection",
    "AnalyticsSection",
    "CatalogSection",
    "ControlSection",
    "FleetSection",
    "LimitsSection",
    "Loaded",
    "LogSection",
    "MetricsSection",
    "NodeConfig",
    "NodeSection",
    "PolicySection",
    "PublicSection",
    "ReplicatorSection",
    "StoreSection",
    "UpstreamSection",
    "load_config",
    "not_yet",
    "reloadable_changes",
    "starter_toml",
]
