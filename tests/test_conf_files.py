"""What stands in conf/ is true of the program: the annotated node.toml, the unit, and the file that `init` writes."""

import re
import tomllib
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrother_node.config import IN_EFFECT, NodeConfig, UpstreamSection, load_config, not_yet, starter_toml
from aibrother_node.config.schema import keys_of_section
from aibrother_node.units import parse_duration

ROOT = Path(__file__).parent.parent
ANNOTATED = (ROOT / "conf/node.toml").read_text(encoding="utf-8")

COMMENTED = re.compile(r"^#(?=\[\[|[a-z_]+ = )", re.MULTILINE)


def uncommented() -> str:
    return COMMENTED.sub("", ANNOTATED)


def test_the_annotated_file_changes_nothing_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text(ANNOTATED)
    loaded = load_config(config=None, data=None, environ={}, cwd=tmp_path)
    assert loaded.origins == {}
    assert loaded.config == NodeConfig.model_validate({"node": {"data": str(tmp_path / "data")}})


def test_uncommented_it_says_exactly_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text(uncommented())
    config = load_config(config=None, data=None, environ={}, cwd=tmp_path).config
    defaults = NodeConfig.model_validate({"node": {"data": str(tmp_path / "data")}})
    assert config.model_copy(update={"upstream": ()}) == defaults
    (upstream,) = config.upstream
    needed = {"name", "kind", "bucket", "account_id"}
    for key, info in UpstreamSection.model_fields.items():
        assert key in needed or getattr(upstream, key) == info.default


def test_it_has_every_key_once_and_no_other() -> None:
    tree: dict[str, Any] = tomllib.loads(uncommented())
    tree["upstream"] = tree["upstream"][0]
    assert {section: sorted(table) for section, table in tree.items()} == {
        section: sorted(keys_of_section(section)) for section in NodeConfig.model_fields
    }


def test_later_marks_what_has_no_effect_yet() -> None:
    section, later, told, marked = "", False, False, set()
    for line in ANNOTATED.splitlines():
        if header := re.match(r"#?\[\[?([a-z]+)", line):
            section = header[1]
        elif key := re.match(r"#([a-z_]+) = ", line):
            told = False
            if later:
                marked.add(f"{section}.{key[1]}")
        elif line.startswith("# "):
            # A comment of several lines is marked by its first one, and covers all keys that follow it.
            later = (later and told) or "[later]" in line
            told = True
        elif not line:
            told = False
    upstream = {f"upstream.{key}" for key in UpstreamSection.model_fields}
    keys = [f"{name}.{key}" for name in NodeConfig.model_fields for key in keys_of_section(name)]
    without_effect = {warning.partition(":")[0] for warning in not_yet(keys)}
    assert IN_EFFECT
    assert marked - upstream == without_effect - upstream


def test_every_line_fits_a_page() -> None:
    assert max(map(len, ANNOTATED.splitlines())) <= 120


def test_the_guide_names_keys_that_exist() -> None:
    guide = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z]+)\.([a-z_]+)`", guide)
    assert named
    assert [
        f"{section}.{key}" for section, key in named if section != "node" or key != "toml"
        if key not in keys_of_section(section)
    ] == []  # fmt: skip


# The file that init writes


def test_the_starter_has_what_was_given(tmp_path: Path) -> None:
    text = starter_toml(data=".", region="eu", public_url="https://models.example")
    assert tomllib.loads(text) == {"node": {"data": ".", "region": "eu", "public_url": "https://models.example"}}
    (tmp_path / "node.toml").write_text(text)
    loaded = load_config(config=None, data=tmp_path, environ={}, cwd=Path("/"))
    assert loaded.config.node.data == tmp_path
    assert loaded.path == tmp_path / "node.toml"
    assert loaded.warnings == []


def test_the_starter_leaves_out_what_was_not_given() -> None:
    assert tomllib.loads(starter_toml()) == {"node": {"data": "."}}


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_the_starter_escapes(text: str) -> None:
    assert tomllib.loads(starter_toml(data=text, region=text))["node"] == {"data": text, "region": text}


# The unit


@pytest.fixture
def unit() -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # the way configparser has for it
    parser.read(ROOT / "conf/aibrother-node.service")
    return parser


def test_the_unit_waits_longer_than_the_node_drains(unit: ConfigParser) -> None:
    assert parse_duration(unit["Service"]["TimeoutStopSec"]) > NodeConfig().node.drain_seconds


def test_the_unit_allows_the_descriptors_that_the_limits_need(unit: ConfigParser) -> None:
    assert int(unit["Service"]["LimitNOFILE"]) >= 2 * NodeConfig().limits.max_connections


def test_the_unit_starts_serve_and_hears_from_it(unit: ConfigParser) -> None:
    service = unit["Service"]
    assert service["Type"] == "notify-reload"
    assert service["NotifyAccess"] == "main"
    assert service["KillMode"] == "mixed"
    assert service["ExecStart"].endswith("/aibrother-node --config /etc/aibrother-node/node.toml serve")
