"""How many rounds news needs: in each, every node acts on what it knew when the round began."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from counts import SOAK, rounds
from sim.world import World, seeds

SEEDS = seeds(rounds(2, 10))
URGENT = {"state": "draining"}


def lockstep(count: int, seed: int) -> World:
    """Rounds begin together, and question, answer and what is sent after it each arrive together within them."""
    world = World(count, seed, lockstep=True)
    world.network.latency = (0.2, 0.2)
    world.start()
    return world


def rounds_to_all(count: int, seed: int, change: dict[str, Any]) -> int:
    """Rounds until everybody knows what one node has just changed, after all was calm."""
    world = lockstep(count, seed)
    world.believe_all()
    world.run(0.9)  # one round passes, in which nothing is new
    node = world.nodes[seed % count]
    node.describe(replace(node.says, **change))
    changed = node.engine.own_record()
    assert changed is not None
    assert world.knowing(changed) == 1
    for passed in range(1, 50):
        world.run(1.0)
        if world.knowing(changed) == count:
            return passed
    raise AssertionError(f"{world.knowing(changed)} of {count} know after 50 rounds; SIM_SEED={seed}")


def test_news_reaches_everybody_in_logarithmic_time() -> None:
    table = {count: [rounds_to_all(count, seed, URGENT) for seed in SEEDS] for count in (10, 100)}
    table[1000] = [rounds_to_all(1000, seed, URGENT) for seed in SEEDS[: rounds(1, 5)]]
    told = f"rounds until all know one changed record, seeds {SEEDS}: {table}"
    print(told)
    assert max(table[1000]) <= 15, told
    for count, found in table.items():
        assert max(found) <= 2 * math.log2(count) / math.log2(4) + 3, told  # each tells three others: base 4


def test_what_is_not_urgent_takes_its_time() -> None:
    table = {count: [rounds_to_all(count, seed, {"load": 5}) for seed in SEEDS] for count in (10, 100)}
    if SOAK:
        table[1000] = [rounds_to_all(1000, seed, {"load": 5}) for seed in SEEDS[:5]]
    told = f"rounds until all know a load that changed, seeds {SEEDS}: {table}"
    print(told)
    for count, found in table.items():
        assert max(found) <= 2 * math.log2(count) + 3, told  # each tells one other: base 2


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("count", [10, 100, pytest.param(1000, marks=pytest.mark.soak)])
def test_a_fleet_that_starts_at_once_finds_together(count: int, seed: int) -> None:
    world = lockstep(count, seed)
    passed = 0
    while not all(len(node.engine._table) == count for node in world.nodes):
        world.run(1.0)
        passed += 1
        assert passed < 60, f"not everybody knows of everybody after 60 rounds; SIM_SEED={seed}"
    print(f"cold start of {count}: {passed} rounds; SIM_SEED={seed}")
    assert passed <= (8 if count <= 100 else 40), f"{passed} rounds; SIM_SEED={seed}"
