"""The configuration as people may see it: every key of the schema was thought about."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from aibrother_node.config import NodeConfig, NodeSection, load_config
from aibrother_node.config.layers import model_field
from aibrother_node.config.masking import MASK, TEXTS, Shown, masked
from aibrother_node.config.schema import keys_of_section

SECRET = "s3cr3t"
KEYS = [f"{section}.{key}" for section in NodeConfig.model_fields for key in keys_of_section(section)]


def holds_text(annotation: Any) -> bool:
    """Whether a value of this type is, or holds, text or something that is shown as text."""
    if isinstance(annotation, type):
        return not issubclass(annotation, bool | int | float | Path | type(None))
    return any(holds_text(one) for one in get_args(annotation) if one is not Ellipsis) or isinstance(annotation, str)


@pytest.mark.parametrize("key", KEYS)
def test_each_key_was_thought_about(key: str) -> None:
    """A new key that holds text is masked until it is listed; whoever adds it decides here."""
    section, name = key.split(".")
    field = model_field(("upstream", 0, name) if section == "upstream" else (section, name))
    assert field is not None
    assert holds_text(field.annotation) == (key in TEXTS), f"{key}: say in masking.py how much of it is shown"


CARRIERS = [key for key in KEYS if re.search(r"url|webhook|seeds|endpoint|ship_to|secret|password|token", key)]


@pytest.mark.parametrize("key", [key for key in CARRIERS if not key.endswith("_file")])
def test_what_could_carry_a_secret_is_never_shown_whole(key: str) -> None:
    assert TEXTS[key] in (Shown.URL, Shown.HOST)


def test_nothing_that_was_put_into_it_comes_out(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "node.toml").write_text(
        f"""
[node]
public_url = "https://models.example.org/x"
[public]
tls_certificate = "secret"
tls_key = "secret"
trusted_proxies = ["10.0.0.0/8"]
[catalog]
passphrase_file = "secret"
[log]
ship_to = "https://user:{SECRET}@logs.example.org:1234/{SECRET}?key={SECRET}"
[alerts]
webhooks = ["https://hooks.example.org/services/{SECRET}", "https://hooks.example.org?token={SECRET}"]
[[upstream]]
name = "r2"
kind = "r2"
bucket = "models"
account_id = "{"0" * 32}"
access_key_file = "secret"
secret_key_file = "secret"
"""
    )
    loaded = load_config(config=tmp_path / "node.toml", data=None, environ={}, cwd=tmp_path)
    shown = masked(loaded.config)
    assert SECRET not in json.dumps(shown)
    assert list(shown) == list(NodeConfig.model_fields)
    assert shown["log"]["ship_to"] == f"https://logs.example.org:1234/{MASK}"
    assert shown["alerts"]["webhooks"] == [f"https://hooks.example.org/{MASK}"] * 2
    assert shown["catalog"]["passphrase_file"] == str(tmp_path / "secret")
    assert shown["public"]["trusted_proxies"] == ["10.0.0.0/8"]
    assert shown["upstream"][0]["account_id"] == "0" * 32
    assert shown["node"]["public_url"] == "https://models.example.org/x"
    assert shown["store"]["scrub_rate"] == 50_000_000


def test_what_nobody_has_thought_about_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aibrother_node.config.masking.TEXTS", {})

    def texts(value: Any) -> list[str]:
        if isinstance(value, dict | list):
            return [text for one in (value.values() if isinstance(value, dict) else value) for text in texts(one)]
        return [value] if isinstance(value, str) else []

    shown = masked(NodeConfig())
    del shown["node"]["data"]
    assert set(texts(shown)) == {MASK, ""}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.example/b", "https://a.example/b"),
        ("https://u:p@a.example/b", f"https://a.example/b?{MASK}"),
        ("https://a.example/b?c=d", f"https://a.example/b?{MASK}"),
        ("https://a.example/b#c", f"https://a.example/b?{MASK}"),
        ("https://[::1", MASK),
    ],
)
def test_urls_of_values_that_were_never_checked(url: str, shown: str) -> None:
    node = NodeSection.model_construct(public_url=url)
    config = NodeConfig.model_construct(node=node)
    assert masked(config)["node"]["public_url"] == shown
