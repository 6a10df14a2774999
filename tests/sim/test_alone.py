"""A node that was alone for longer than the others remember comes back."""

from __future__ import annotations

import pytest

from aibrother_node.fleet.engine import EngineSettings
from counts import rounds
from fleet.parts import members
from sim.world import World, seeds

SETTINGS = EngineSettings(interval=3.0, refresh=30.0, forget_after=240.0, clock_tolerance=120.0)


def cut_off(world: World) -> None:
    """The first node is alone until nobody knows anything of it, nor it of them; then the network heals."""
    alone = world.nodes[0]
    world.run(60)
    world.network.islands = [{alone.id}]
    world.run(SETTINGS.forget_after + 60)
    assert all(record is None for record in world.records_of(alone.id)[1:]), f"SIM_SEED={world.seed}"
    assert len(alone.engine._table) == 1, f"SIM_SEED={world.seed}"
    world.network.islands = []


def all_alive(world: World) -> bool:
    return all(peer.state == "alive" for node in world.nodes for peer in node.engine.peers(node.clock))


@pytest.mark.parametrize("seed", seeds(rounds(2, 30)))
@pytest.mark.parametrize("known_by", ["catalog", "seed", "its word alone"])
def test_who_was_forgotten_comes_back(known_by: str, seed: int) -> None:
    world = World(10, seed, SETTINGS, offsets=10)
    if known_by != "catalog":
        # the catalog says nothing of where nodes are; one of them is a seed for all
        world.members = {
            one.id: type(one)(one.id, one.key) for one in members(node.signatures for node in world.nodes).values()
        }
        world.seed_urls = [world.nodes[1].url]
    world.start()
    if known_by == "its word alone":
        world.run(60)
        for node in world.nodes:
            node.engine.set_seeds([])
    cut_off(world)
    # attempts come at most 60 rounds apart
    world.run(60 * SETTINGS.interval + 60)
    assert all_alive(world), f"SIM_SEED={seed}"


@pytest.mark.parametrize("seed", seeds(rounds(2, 30)))
def test_a_node_that_stops_is_dead_soon_and_alive_again_soon(seed: int) -> None:
    world = World(10, seed, SETTINGS)
    world.start()
    world.run(120)
    gone = world.nodes[0]
    gone.stop()
    world.run(2.5 * SETTINGS.refresh)
    states = {peer.state for node in world.honest for peer in node.engine.peers(node.clock) if peer.id == gone.id}
    assert states == {"dead"}, f"SIM_SEED={seed}"
    gone.start()
    world.run(60)
    assert all_alive(world), f"SIM_SEED={seed}"
