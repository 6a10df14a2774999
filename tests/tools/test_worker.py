"""What a worker makes of its limits."""

import resource

import pytest

from aibrother_node.config import LimitsSection
from aibrother_tools.serve.worker import _fitting


@pytest.mark.parametrize(
    ("descriptors", "connections"), [(resource.RLIM_INFINITY, 10_000), (1 << 20, 10_000), (4096, 1728), (64, 1)]
)
def test_no_more_connections_than_descriptors(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, connections: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, descriptors))
    assert _fitting(LimitsSection()).max_connections == connections
