"""How often a node that lives is called suspect or dead when a third of all messages is lost."""

from __future__ import annotations

from collections import Counter

import pytest

from aibrother_node.fleet.engine import EngineSettings
from counts import rounds
from sim.world import World, seeds

LASTING = rounds(300, 3600)


@pytest.mark.parametrize("seed", seeds(rounds(1, 10)))
def test_the_living_are_seldom_called_dead(seed: int) -> None:
    nodes = 50
    # with rounds ten times a refresh news travels a third as fast as it usually does
    world = World(nodes, seed, EngineSettings(interval=3.0), offsets=20)
    world.network.loss = 0.3
    world.start()
    world.run(60)
    states: Counter[str] = Counter()
    looks = LASTING // 15
    for _ in range(looks):
        world.run(LASTING / looks)
        for node in world.honest:
            states.update(peer.state for peer in node.engine.peers(node.clock))
    told = f"{dict(states)} in {looks * nodes * (nodes - 1)} looks in {LASTING} s; SIM_SEED={seed}"
    print(told)
    assert states["unknown"] == 0, told
    assert states["dead"] <= 1e-4 * states.total(), told
    assert states["suspect"] <= 1e-2 * states.total(), told
