"""The configuration as people may see it: nothing in it that is a secret, or that could carry one.

Numbers, yes and no, words of a fixed list and paths are shown; of text only what is listed here, so that a key that a
later version adds stays hidden until somebody has thought about it (a test names each). Files are named, never read.
"""

from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import BaseModel

from aibrother_node.config.schema import NodeConfig

MASK: Final = "***"


class Shown(StrEnum):
    """How much of a text is shown."""

    WHOLE = "whole"
    URL = "url"
    """Without user, password, query and fragment."""
    HOST = "host"
    """Of a URL only scheme, host and port: its path is the secret, as with webhooks."""


TEXTS: Final = {
    "node.region": Shown.WHOLE,
    "node.public_url": Shown.URL,
    "node.gossip_url": Shown.URL,
    "public.host": Shown.WHOLE,
    "public.trusted_proxies": Shown.WHOLE,
    "public.cors_origins": Shown.WHOLE,
    "public.on_miss": Shown.WHOLE,
    "public.redirect": Shown.WHOLE,
    "public.congestion_control": Shown.WHOLE,
    "control.host": Shown.WHOLE,
    "metrics.listen": Shown.WHOLE,
    "fleet.host": Shown.WHOLE,
    "fleet.seeds": Shown.URL,
    "store.mode": Shown.WHOLE,
    "policy.wants": Shown.WHOLE,
    "policy.channels": Shown.WHOLE,
    "limits.mode": Shown.WHOLE,
    "upstream.name": Shown.WHOLE,
    "upstream.kind": Shown.WHOLE,
    "upstream.bucket": Shown.WHOLE,
    "upstream.endpoint": Shown.URL,
    "upstream.region": Shown.WHOLE,
    "upstream.account_id": Shown.WHOLE,
    "upstream.prefix": Shown.WHOLE,
    "upstream.layout": Shown.WHOLE,
    "upstream.direction": Shown.WHOLE,
    "upstream.replicated_from": Shown.WHOLE,
    "upstream.public_url": Shown.URL,
    "log.level": Shown.WHOLE,
    "log.format": Shown.WHOLE,
    "log.access_log": Shown.WHOLE,
    "log.ship_to": Shown.HOST,
    "alerts.webhooks": Shown.HOST,
}
"""Keys that hold text. All others are masked."""


def masked(config: NodeConfig) -> dict[str, Any]:
    """The configuration as JSON, in sections as in node.toml."""
    sections: dict[str, Any] = {}
    for name in NodeConfig.model_fields:
        section = getattr(config, name)
        if isinstance(section, BaseModel):
            sections[name] = _section(name, section)
        else:
            sections[name] = [_section(name, one) for one in section]
    return sections


def _section(name: str, section: BaseModel) -> dict[str, Any]:
    return {key: _value(f"{name}.{key}", getattr(section, key)) for key in type(section).model_fields}


def _value(key: str, value: object) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_value(key, one) for one in value]
    return _text(TEXTS.get(key), value)


def _text(shown: Shown | None, value: object) -> str:
    text = str(value)  # networks are shown as text too
    if not text:
        return ""
    if shown is Shown.WHOLE:
        return text
    if shown is None:
        return MASK
    try:
        parts = urlsplit(text)
    except ValueError:
        return MASK
    place = parts.netloc.rpartition("@")[2]
    hidden = shown is Shown.HOST and bool(parts.path.strip("/") or parts.query or parts.fragment)
    if shown is Shown.URL and (parts.query or parts.fragment or place != parts.netloc):
        return f"{parts.scheme}://{place}{parts.path}?{MASK}"
    path = f"/{MASK}" if hidden else "" if shown is Shown.HOST else parts.path
    return f"{parts.scheme}://{place}{path}"
