"""Whether a node collects that has no catalog."""

from pathlib import Path
from typing import Any

import pytest

from aibrother_node.config import NodeConfig
from aibrother_node.store.layout import Layout
from aibrother_tools.serve.collection_service import is_to_have_a_catalog


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, False),
        ({"catalog": {"signer": True}}, True),
        ({"catalog": {"root": "root.json"}}, True),
        ({"fleet": {"seeds": ["https://models.example"]}}, True),
    ],
)
def test_a_node_that_is_to_have_a_catalog_collects_nothing_without_it(
    tmp_path: Path, settings: dict[str, Any], expected: bool
) -> None:
    layout = Layout(tmp_path)
    config = NodeConfig.model_validate(settings)
    assert is_to_have_a_catalog(config, layout) is expected
    layout.trust.mkdir()
    (layout.trust / "root.json").touch()
    assert is_to_have_a_catalog(config, layout)
