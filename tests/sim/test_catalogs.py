"""A newer catalog reaches all honest nodes, whatever a minority claims to have."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from counts import rounds
from sim import liars
from sim.world import SimNode, World, seeds

if TYPE_CHECKING:
    from aibrother_node.fleet.record import CatalogVersion

NODES = 50


class Follower:
    """A node's copy of the catalog: what it claims to have is what it verified, and what it fetches it verifies.

    A catalog stands here for its version: what a liar has is never signed, whatever it claims.
    """

    def __init__(self, world: World, node: SimNode) -> None:
        self.world = world
        self.node = node
        self.version: CatalogVersion = (1, 1)
        self.fetches = 0
        self.have(self.version)

    def have(self, version: CatalogVersion) -> None:
        self.version = version
        self.node.describe(replace(self.node.says, catalog=version))

    def follow(self, followers: dict[str, Follower]) -> None:
        """Ask one member that says it has a newer one, as control does once a round."""
        engine, clock = self.node.engine, self.node.clock
        for peer in engine.newer_catalogs(self.version, clock)[:1]:
            self.fetches += 1
            there = followers.get(peer.id)
            assert peer.record is not None
            claimed = peer.record.record.says.catalog
            if there is None:
                engine.refuse_catalog(peer.id, claimed, "the signature doesn't hold", clock)
            elif there.version > self.version:
                engine.believe_catalog(peer.id)
                self.have(there.version)


@pytest.mark.parametrize("seed", seeds(rounds(3, 50)))
def test_the_newest_true_catalog_spreads_among_liars(seed: int) -> None:
    world = World(NODES, seed)
    lying = liars.among(world, 0.05, random.Random(seed))
    world.start()
    followers = {node.id: Follower(world, node) for node in world.honest}
    world.run(10)  # the liars have been found out, and go on claiming
    signer, *_ = followers.values()
    signer.have((1, 2))
    spent = 0
    while any(follower.version != (1, 2) for follower in followers.values()):
        world.run(1.0)
        spent += 1
        for follower in followers.values():
            follower.follow(followers)
        assert spent < 100, f"{sum(one.version == (1, 2) for one in followers.values())}; SIM_SEED={seed}"
    wasted = max(follower.fetches for follower in followers.values())
    told = f"{spent} rounds, at most {wasted} fetches by one node; SIM_SEED={seed}"
    print(told)
    assert spent <= 2 * math.log2(NODES) + 3, told
    assert wasted <= 4 * len(lying), told

    world.run(20)
    for follower in followers.values():
        follower.follow(followers)
        assert follower.version == (1, 2), f"a catalog that nobody signed; SIM_SEED={seed}"
