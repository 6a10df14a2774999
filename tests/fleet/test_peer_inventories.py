"""Copies of peers' inventories: kept up to date, and what owners can't make of them."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest

from aibrother_node.content.digest import Digest
from aibrother_node.errors import Temporary
from aibrother_node.fleet.inventory import Inventory, Page, encode_page
from aibrother_node.fleet.members import Member
from aibrother_node.fleet.peer_inventories import PeerInventories
from aibrother_node.fleet.peering import PeerState
from aibrother_node.fleet.record import Description, SignedRecord
from fleet.live import until
from fleet.parts import id_of, real_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aibrother_node.fleet.view import Have

NOW = 1_800_000_000.0


class Owner:
    """A peer as `PeerInventories` sees it, and what was written of it."""

    def __init__(self, number: int = 1) -> None:
        self.signatures = real_key()
        self.id = id_of(self.signatures)
        self.rng = random.Random(number)
        self.asked: list[str] = []
        self.held: dict[Digest, Have] = {}
        self.fails: Exception | None = None

    def state(self, told: bytes) -> PeerState:
        says = Description(gossip_url="http://peer", inventory=told)
        record = SignedRecord.make(self.signatures, 1, 1, NOW, says)
        return PeerState(Member(self.id, self.signatures.public), record, "alive")

    def digests(self, number: int) -> list[Digest]:
        return [Digest(self.rng.randbytes(32)) for _ in range(number)]

    async def page(self, since: str | None) -> Page:
        raise NotImplementedError

    async def ask(self, node: str, url: str, target: str, most: int) -> bytes:
        assert (node, url, most > 1000) == (self.id, "http://peer", True)
        self.asked.append(target)
        _, _, since = target.partition("?since=")
        return encode_page(await self.page(since or None))

    async def write(self, node: str, changes: Mapping[Digest, Have | None], reset: bool) -> None:
        if self.fails is not None:
            raise self.fails
        assert node == self.id
        if reset:
            self.held.clear()
        for digest, have in changes.items():
            if have is None:
                self.held.pop(digest, None)
            else:
                self.held[digest] = have

    async def forget(self, nodes: Iterable[str]) -> None:
        assert list(nodes) == [self.id]
        self.held.clear()


class Honest(Owner):
    def __init__(self, number: int = 1) -> None:
        super().__init__(number)
        self.inventory = Inventory(b"\1")

    async def page(self, since: str | None) -> Page:
        return self.inventory.page(since, 10)


class Endless(Owner):
    """Has ever more, in pages as large as they may be."""

    resets = False

    async def page(self, since: str | None) -> Page:
        changes: dict[Digest, Have | None] = dict.fromkeys(self.digests(10_000), "complete")
        reset = self.resets or since is None
        return Page(self.rng.randbytes(8).hex(), changes, bytes(32), reset=reset, more=True)


class Liar(Owner):
    """Says in each last page that its inventory is something else."""

    async def page(self, since: str | None) -> Page:
        changes: dict[Digest, Have | None] = dict.fromkeys(self.digests(3), "complete")
        return Page(self.rng.randbytes(8).hex(), changes, self.rng.randbytes(32), reset=since is None)


def copies_of(owner: Owner, turn: float = 60.0) -> PeerInventories:
    return PeerInventories(owner.ask, owner.write, owner.forget, turn=turn)


async def turn(copies: PeerInventories, owner: Owner, now: float, told: bytes) -> None:
    """Look once, and wait for what that begins."""
    await copies.look([owner.state(told)], now)
    await until(lambda: not any(task.get_name().startswith("inventory of") for task in asyncio.all_tasks()), "its end")
    for _ in range(3):  # who waits for its end is told in the next turn of the loop
        await asyncio.sleep(0)


async def turns_begun(copies: PeerInventories, owner: Owner, seconds: int, told: bytes) -> int:
    """How often the owner was asked anew, had it been looked at once a second."""
    begun = 0
    for second in range(seconds):
        before = len(owner.asked)
        await turn(copies, owner, NOW + second, told)
        begun += len(owner.asked) > before
    return begun


async def test_a_copy_is_what_its_owner_has() -> None:
    owner = Honest()
    copies = copies_of(owner)
    digests = owner.digests(35)
    owner.inventory.update(digests, set())
    await turn(copies, owner, NOW, owner.inventory.digest)
    assert owner.held == dict.fromkeys(digests, "complete")
    assert len(owner.asked) == 4
    await turn(copies, owner, NOW + 10, owner.inventory.digest)
    assert len(owner.asked) == 4, "it is in step"
    owner.inventory.update(digests[:30], digests[30:32])
    await turn(copies, owner, NOW + 20, owner.inventory.digest)
    assert owner.held == {**dict.fromkeys(digests[:30], "complete"), **dict.fromkeys(digests[30:32], "partial")}
    assert len(owner.asked) == 5, "only what changed"
    await copies.look([], NOW + 30)
    assert not owner.held


@pytest.mark.parametrize("resets", [False, True])
async def test_an_inventory_without_end_gets_its_turn_and_no_more(resets: bool) -> None:
    owner = Endless()
    owner.resets = resets
    copies = copies_of(owner, turn=60.0 if resets else 0.3)  # beginning again ends a turn before its time is over
    began = time.monotonic()
    await turn(copies, owner, NOW, b"\1" * 32)
    spent = time.monotonic() - began
    assert spent < 5
    assert len(owner.held) <= 1_000_000
    if resets:
        assert len(owner.asked) <= 4
        assert len(owner.held) == 10_000
        assert await turns_begun(copies, owner, 100, b"\1" * 32) <= 8, "more and more seldom"
    asked = len(owner.asked)
    await turn(copies, owner, NOW + spent / 2, b"\1" * 32)
    assert len(owner.asked) == asked, "half of the time is for others"


async def test_one_that_is_not_what_its_owner_says_is_asked_more_and_more_seldom() -> None:
    owner = Liar()
    assert await turns_begun(copies_of(owner), owner, 100, b"\1" * 32) <= 8
    assert len(owner.held) <= 3


async def test_who_changes_its_hash_all_the_time_is_asked_once_a_second() -> None:
    owner = Honest()
    copies = copies_of(owner)
    for tenth in range(50):
        await turn(copies, owner, NOW + tenth / 10, owner.rng.randbytes(32))
    assert len(owner.asked) <= 6


async def test_slow_owners_keep_no_place_for_long() -> None:
    """Four drip pages at their leisure; the fifth's turn comes."""

    class Slow(Endless):
        async def page(self, since: str | None) -> Page:
            await asyncio.sleep(0.1)
            return await super().page(since)

    slow = [Slow(number) for number in range(1, 6)]
    honest = Honest(9)
    honest.inventory.update(honest.digests(5), set())
    owners: dict[str, Owner] = {owner.id: owner for owner in (*slow, honest)}

    async def ask(node: str, url: str, target: str, most: int) -> bytes:
        return await owners[node].ask(node, url, target, most)

    async def write(node: str, changes: Mapping[Digest, Have | None], reset: bool) -> None:
        await owners[node].write(node, changes, reset)

    async def forget(_: Iterable[str]) -> None:
        return

    copies = PeerInventories(ask, write, forget, turn=0.3)
    states = [*(owner.state(b"\1" * 32) for owner in slow), honest.state(honest.inventory.digest)]
    await copies.look(states, NOW)
    await until(lambda: len(honest.held) == 5, "the honest one's turn", 10.0)
    await copies.close()


async def test_what_could_not_be_written_is_asked_for_from_the_start() -> None:
    owner = Honest()
    copies = copies_of(owner)
    owner.inventory.update(owner.digests(5), set())
    owner.fails = sqlite3.OperationalError("database or disk is full")
    await turn(copies, owner, NOW, owner.inventory.digest)
    assert not owner.held
    owner.fails = None
    await turn(copies, owner, NOW + 100, owner.inventory.digest)
    assert len(owner.held) == 5
    owner.held.clear()  # the file is lost
    copies.begin_anew()
    await turn(copies, owner, NOW + 200, owner.inventory.digest)
    assert len(owner.held) == 5


async def test_who_cant_be_reached_is_asked_more_and_more_seldom() -> None:
    class Away(Owner):
        async def page(self, since: str | None) -> Page:
            raise Temporary("nobody there")

    owner = Away()
    assert await turns_begun(copies_of(owner), owner, 100, b"\1" * 32) <= 8
