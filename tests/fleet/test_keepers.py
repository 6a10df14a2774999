"""Keepers by rendezvous hashing, and vouches on the wire."""

from __future__ import annotations

import hashlib
from collections import Counter

import msgpack
import pytest

from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput, Refused
from aibrother_node.fleet.catalog_now import CatalogNow
from aibrother_node.fleet.evicting import Evictions
from aibrother_node.fleet.have import Have
from aibrother_node.fleet.keepers import Mirrors, keepers, mirrors_of
from aibrother_node.fleet.peering import PeerState
from aibrother_node.fleet.record import Description, SignedRecord
from aibrother_node.fleet.vouching import FRESH, Vouch, parse_nonce, target
from fleet.parts import NOW, id_of, members, real_key

NODES = [hashlib.sha256(bytes([number])).hexdigest() for number in range(8)]
BLOBS = [Digest(hashlib.sha256(bytes([number, 1])).digest()) for number in range(200)]
NONCE = bytes(range(16))


def test_keepers_are_the_same_for_all_spread_evenly_and_change_little() -> None:
    assert keepers(BLOBS[0], NODES, 2) == keepers(BLOBS[0], list(reversed(NODES)), 2)
    assert keepers(BLOBS[0], NODES[:1], 2) == (NODES[0],)
    assert keepers(BLOBS[0], [], 2) == ()
    load = Counter(node for blob in BLOBS for node in keepers(blob, NODES, 2))
    assert sum(load.values()) == 400
    assert all(25 < count < 80 for count in load.values()), load
    for blob in BLOBS:  # one node goes: who keeps what it didn't keep stays the same
        before, after = keepers(blob, NODES, 2), keepers(blob, NODES[1:], 2)
        assert set(before) - {NODES[0]} <= set(after)


def test_a_frozen_choice_of_keepers() -> None:
    """Nodes of different releases have to agree."""
    assert keepers(BLOBS[0], NODES, 3) == tuple(
        sorted(NODES, key=lambda node: hashlib.sha256(BLOBS[0].raw + bytes.fromhex(node)).digest(), reverse=True)[:3]
    )


def test_who_may_be_a_keeper() -> None:
    own, mirror, cache, unknown = keys = [real_key() for _ in range(4)]
    fleet = members(keys)

    def state(key: object, mode: str) -> PeerState:
        record = SignedRecord.make(key, 1, 1, NOW, Description(mode=mode, gossip_url="http://said.example"))  # type: ignore[arg-type]
        return PeerState(fleet[id_of(key)], record, "alive")  # type: ignore[arg-type]

    peers = [state(mirror, "mirror"), state(cache, "cache"), PeerState(fleet[id_of(unknown)], None, "unknown")]
    found = mirrors_of(id_of(own), "mirror", CatalogNow((1, 7), members=fleet), peers, "state")
    assert found.ids == {id_of(own), id_of(mirror), id_of(unknown)}
    assert (found.catalog, found.state) == ((1, 7), "state")
    assert found.gossip_urls[id_of(mirror)][0] == "http://said.example"
    assert found.keys[id_of(mirror)] == mirror.public
    assert id_of(own) not in mirrors_of(id_of(own), "cache", CatalogNow(members=fleet), peers, "").ids


def test_a_record_that_says_no_mode_is_a_mirrors() -> None:
    key = real_key()
    raw = SignedRecord.make(key, 1, 1, NOW, Description(mode="cache")).raw
    assert SignedRecord.parse(raw).record.says.mode == "cache"
    fields = msgpack.unpackb(raw[64:])
    for said, meant in ((None, "mirror"), ("mirror", "mirror"), ("archive", "archive"), ("", "cache")):
        changed = {name: value for name, value in fields.items() if name != "mode"}
        payload = msgpack.packb(changed if said is None else {**changed, "mode": said})
        assert SignedRecord.parse(raw[:64] + payload).record.says.mode == meant


def test_a_vouch_answers_one_question_of_one_node_about_one_blob() -> None:
    giver, asker, other = real_key(), real_key(), real_key()
    vouch = Vouch.give(giver, id_of(asker), BLOBS[0], NONCE, (1, 5))
    sent = Have.decode(Have(complete=True, vouch=vouch).encode()).vouch
    assert sent == vouch
    good = {"key": giver.public, "asker": id_of(asker), "digest": BLOBS[0], "nonce": NONCE, "catalog": (1, 5)}
    assert vouch.counts(asker, **good)  # type: ignore[arg-type]
    assert vouch.counts(asker, **{**good, "catalog": (1, 4)})  # type: ignore[arg-type]
    wrong = {
        "key": other.public,
        "asker": id_of(other),
        "digest": BLOBS[1],
        "nonce": bytes(16),
        "catalog": (1, 6),
    }
    for name, value in wrong.items():
        assert not vouch.counts(asker, **{**good, name: value}), name  # type: ignore[arg-type]
    forged = Vouch((1, 9), vouch.signature)
    assert not forged.counts(asker, **good)  # type: ignore[arg-type]


def test_an_answer_without_a_vouch_keeps_nothing() -> None:
    old = msgpack.packb({"v": 1, "complete": True, "bitmap": b""})  # what the release before answers
    assert Have.decode(old) == Have(complete=True)
    assert msgpack.unpackb(Have(complete=True).encode())["keeps"] is False
    for fields in ({"keeps": True}, {"keeps": True, "vouch": b"", "catalog": [1]}, {"keeps": True, "vouch": 1}):
        with pytest.raises(InvalidInput):
            Have.decode(msgpack.packb({"v": 1, "complete": True, "bitmap": b"", **fields}))


@pytest.mark.parametrize("text", ["", "00", "0" * 31, "0" * 33, "G" * 32, "A" * 32, "0" * 31 + "\n"])
def test_a_nonce_is_checked(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_nonce(text)


def test_the_question_carries_its_nonce() -> None:
    assert parse_nonce(target(BLOBS[0], NONCE).partition("vouch=")[2]) == NONCE


def test_what_an_eviction_takes() -> None:
    own, one, two = keys = [real_key() for _ in range(3)]
    ids = frozenset(map(id_of, (one, two)))  # this node is a cache
    seen = Mirrors(id_of(own), "s", (1, 5), ids, {id_of(key): key.public for key in keys})
    evictions = Evictions(id_of(own), own, copies=2)
    digest = BLOBS[0]

    def refused(mirrors: Mirrors = seen, after: float = 0.0) -> str:
        with pytest.raises(Refused) as error:
            evictions.permit(attempt, mirrors, 100 + after)
        return str(error.value)

    attempt = evictions.begin(digest, seen, NONCE, 100.0)
    assert evictions.is_marked(digest)
    assert "this is the last copy known" in refused()
    evictions.hear(attempt, id_of(one), Vouch.give(one, id_of(own), digest, NONCE, (1, 5)))
    assert "too few copies are known" in refused()
    evictions.hear(attempt, id_of(two), Vouch.give(two, id_of(own), digest, NONCE, (1, 4)))
    assert "too few copies are known" in refused(), "its catalog is an older one"
    evictions.hear(attempt, id_of(two), Vouch.give(two, id_of(own), digest, NONCE, (1, 6)))
    assert set(evictions.permit(attempt, seen, 100 + FRESH)) == ids
    assert "too long" in refused(after=FRESH + 1)
    assert "catalog has changed" in refused(Mirrors(seen.node, "t", (1, 6), ids, seen.keys))
    assert "one of those that keep it" in refused(Mirrors(seen.node, "s", (1, 5), frozenset([id_of(own)]), seen.keys))
    evictions.end(attempt)
    assert not evictions.is_marked(digest)
    assert "asked about again" in refused()
    with pytest.raises(Refused, match="no other node keeps"):
        evictions.begin(digest, Mirrors(seen.node, "s"), NONCE, 100.0)


def test_an_upstream_that_has_it_now_is_enough() -> None:
    own = real_key()
    evictions = Evictions(id_of(own), own, copies=2, upstreams=True)
    alone = Mirrors(id_of(own), "s", (1, 5))
    attempt = evictions.begin(BLOBS[0], alone, NONCE, 100.0)
    with pytest.raises(Refused, match="no upstream has it now"):
        evictions.permit(attempt, alone, 100.0)
    attempt.upstreams.add("r2")
    assert evictions.permit(attempt, alone, 100.0) == ("r2",)


def test_who_vouches() -> None:
    own, other = real_key(), real_key()
    ids = frozenset([id_of(own), id_of(other)])
    both = Mirrors(id_of(own), "s", (1, 5), ids, {id_of(other): other.public})
    evictions = Evictions(id_of(own), own, copies=1)
    kept = [blob for blob in BLOBS if evictions.keeps(blob, both, named=True, pinned=False)]
    assert 60 < len(kept) < 140
    mine, theirs = kept[0], next(blob for blob in BLOBS if blob not in kept)
    assert not evictions.keeps(mine, both, named=False, pinned=True), "it could be collected without asking"
    assert evictions.keeps(theirs, both, named=True, pinned=True)
    attempt = evictions.begin(theirs, both, NONCE, 0.0)
    assert not evictions.keeps(theirs, both, named=True, pinned=True), "it is about to go"
    evictions.end(attempt)
    cache = Mirrors(id_of(own), "s", (1, 5), frozenset([id_of(other)]), both.keys)
    assert not evictions.keeps(mine, cache, named=True, pinned=True)
