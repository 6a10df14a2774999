"""Gossip between a few engines, step by step. What many do together is in tests/sim."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from aibrother_node.errors import InvalidInput, Refused
from aibrother_node.fleet.engine import Contact, Engine, EngineSettings, NotAMember
from aibrother_node.fleet.members import Member
from aibrother_node.fleet.messages import ANYBODY, MAX_FRAME, Message, decode, encode
from aibrother_node.fleet.record import Description, SignedRecord
from aibrother_node.fleet.table import Verdict
from fleet.parts import NOW, KeyedHash, engine, fleet, id_of, known, members, real_key, record, state, url_of

if TYPE_CHECKING:
    from aibrother_node.fleet.signatures import Signatures

ANN, BOB, CAT, EVE = (KeyedHash(name) for name in ("ann", "bob", "cat", "eve"))
SETTINGS = EngineSettings()


def message(
    sender: Signatures,
    to: Signatures | None,
    kind: str = "syn",
    *,
    at: float = NOW,
    nonce: bytes = bytes(16),
    re: bytes = b"",
    digest: bytes = b"",
    names: bytes = b"",
    records: tuple[bytes, ...] = (),
    reason: str = "",
) -> bytes:
    to_id = bytes.fromhex(id_of(to)) if to else ANYBODY
    return encode(
        Message(kind, id_of(sender), to_id, at, nonce, re, digest=digest, names=names, records=records, reason=reason),
        sender,
    )


def read(frame: bytes, sender: Signatures) -> Message:
    return decode(frame, sender.public, sender)


def talk(one: Engine, others: list[Engine], now: float) -> int:
    """One round of an engine, with all that follows from it; returns how many contacts were answered."""
    by_url = {f"http://{other.node[:12]}.example": other for other in others}
    answered = 0
    for contact in one.tick(now):
        following: Contact | None = contact
        while following is not None:
            there = by_url.get(following.url)
            if there is None:
                one.failed(following, now)
                break
            following = one.answered(following, there.receive(following.frame, now), now)
            answered += 1
    return answered


def fail(one: Engine, node: str, times: int, now: float) -> float:
    """Attempts to reach a member that fail, a second apart."""
    for _ in range(times):
        one.failed(Contact("http://nowhere.example", b"", node, bytes(16), "syn"), now)
        now += 1
    return now - 1


# -- who is listened to ------------------------------------------------------------------------------------------------


def test_two_nodes_with_real_keys_find_each_other() -> None:
    ann, bob = real_key(), real_key()
    one, other = fleet([ann, bob])
    assert talk(one, [other], NOW) == 2  # a syn and a push
    assert one.state() == other.state()
    assert known(one, other.node) is not None
    assert state(one, other.node) == state(other, one.node) == "alive"
    assert one.counts.messages["sent", "push"] == other.counts.messages["received", "push"] == 1
    assert one.counts.bytes == {"sent": other.counts.bytes["received"], "received": other.counts.bytes["sent"]}
    assert one.counts.records == {Verdict.ACCEPTED: 1}


def strangers() -> list[tuple[str, bytes]]:
    forged = message(EVE, BOB)
    return [
        ("one with a key of its own", message(EVE, BOB)),
        ("one who says that she is Ann", forged[:4] + bytes.fromhex(id_of(ANN)) + forged[36:]),
        ("one who says that he is Bob himself", message(BOB, BOB)),
    ]


@pytest.mark.parametrize(("name", "frame"), strangers())
def test_strangers_get_no_answer(name: str, frame: bytes) -> None:
    _, bob = fleet([ANN, BOB])
    with pytest.raises(NotAMember):
        bob.receive(frame, NOW)
    assert bob.counts.refused_messages == {"not a member": 1}
    assert not any(direction == "sent" for direction, _ in bob.counts.messages)


def test_who_was_revoked_is_a_stranger_at_once() -> None:
    ann, bob, cat = fleet([ANN, BOB, CAT])
    talk(ann, [bob, cat], NOW)
    talk(cat, [ann, bob], NOW)
    for one in (bob, cat):
        one.set_members(members([BOB, CAT]))
        assert ann.node not in {peer.id for peer in one.peers(NOW)}
        with pytest.raises(NotAMember):
            one.receive(message(ANN, BOB), NOW)
    assert known(bob, cat.node) is not None, "others are still known"
    bob.receive(message(CAT, BOB, "push", records=(record(ANN).raw,)), NOW)
    assert bob.counts.records[Verdict.STRANGER] == 1
    bob.set_members(members([CAT]))
    assert bob.tick(NOW + 1) == [], "whoever isn't a member itself keeps still"


def test_who_is_admitted_again_is_known_at_once() -> None:
    ann, bob = fleet([ANN, BOB])
    for one in (ann, bob):
        one.set_members(members([BOB]))
        one.set_members(members([ANN, BOB]))
    talk(ann, [bob], NOW + 1)
    assert known(bob, ann.node) is not None


def test_noise_is_no_frame() -> None:
    _, bob = fleet([ANN, BOB])
    for frame in (b"", b"AG", bytes(200), message(ANN, BOB) + bytes(MAX_FRAME), b"AG\2" + message(ANN, BOB)[3:]):
        with pytest.raises(InvalidInput):
            bob.receive(frame, NOW)
    assert bob.counts.refused_messages == {"malformed": 5}


UNWELCOME: list[tuple[str, bytes]] = [
    ("not for this node", message(ANN, CAT)),
    ("not for this node", message(ANN, None, "syn")),
    ("clock skew", message(ANN, BOB, at=NOW - 301)),
    ("clock skew", message(ANN, BOB, at=NOW + 301)),
    ("no digest", message(ANN, BOB, digest=bytes(25))),
    ("unknown kind", message(ANN, BOB, "sing")),
    ("unknown kind", message(ANN, BOB, "ack", records=(record(CAT).raw,))),
]


@pytest.mark.parametrize(("reason", "frame"), UNWELCOME)
def test_a_member_is_told_why(reason: str, frame: bytes) -> None:
    _, bob = fleet([ANN, BOB])
    before = bob.state()
    answer = read(bob.receive(frame, NOW), BOB)
    assert (answer.kind, answer.reason, answer.re) == ("no", reason, bytes(16))
    assert answer.to == bytes.fromhex(id_of(ANN))
    assert bob.state() == before
    if reason != "no digest":
        assert bob.counts.refused_messages == {reason: 1}


def test_a_frame_counts_once() -> None:
    _, bob = fleet([ANN, BOB])
    frame = message(ANN, BOB, "push", records=(record(ANN).raw,))
    assert read(bob.receive(frame, NOW), BOB).kind == "done"
    assert read(bob.receive(frame, NOW + 1), BOB).reason == "replayed"
    assert read(bob.receive(frame, NOW + 1000), BOB).reason == "clock skew"
    assert bob.counts.records == {Verdict.ACCEPTED: 1}


def test_a_frame_that_is_played_again_says_nothing_of_its_senders_clock() -> None:
    _, bob = fleet([ANN, BOB])
    frame = message(ANN, BOB)
    bob.receive(frame, NOW)
    for later in (100, 1000):
        bob.receive(frame, NOW + later)
        assert bob.skew() == (0.0, 1)


# -- what is an answer -------------------------------------------------------------------------------------------------


def wrong_answers(nonce: bytes) -> list[tuple[str, bytes]]:
    return [
        ("malformed", b"<html>"),
        ("malformed", message(BOB, ANN, "ack")),
        ("malformed", message(BOB, ANN, "ack", re=bytes(16))),
        ("malformed", message(BOB, ANN, "ack", re=nonce) + bytes(MAX_FRAME)),
        ("not a member", message(EVE, ANN, "ack", re=nonce)),
        ("not a member", message(CAT, ANN, "ack", re=nonce)),
        ("not for this node", message(BOB, CAT, "ack", re=nonce)),
        ("clock skew", message(BOB, ANN, "ack", re=nonce, at=NOW + 301)),
        ("told: clock skew", message(BOB, ANN, "no", re=nonce, nonce=nonce, reason="clock skew")),
        ("told: other", message(BOB, ANN, "no", re=nonce, nonce=nonce, reason="I like to fill your memory")),
    ]


@pytest.mark.parametrize("case", range(len(wrong_answers(bytes(16)))))
def test_a_wrong_answer_is_a_failure(case: int) -> None:
    ann, bob, _ = fleet([ANN, BOB, CAT])
    for times in range(1, 4):
        contact = next(one for _ in range(20) for one in ann.tick(NOW) if one.node == bob.node)
        reason, frame = wrong_answers(contact.nonce)[case]
        with pytest.raises((InvalidInput, Refused)):
            ann.answered(contact, frame, NOW)
        assert ann.counts.refused_messages == {reason: times}
    assert not any(one.node == bob.node for _ in range(20) for one in ann.tick(NOW)), "it is given a pause"


def test_an_answer_counts_once() -> None:
    ann, bob = fleet([ANN, BOB])
    (contact,) = ann.tick(NOW)
    frame = bob.receive(contact.frame, NOW)
    ann.answered(contact, frame, NOW)
    with pytest.raises(Refused, match="replayed"):
        ann.answered(contact, frame, NOW)


def test_an_answer_to_another_question_is_none_even_from_whom_was_asked() -> None:
    ann, bob = fleet([ANN, BOB])
    (first,), (second,) = ann.tick(NOW), ann.tick(NOW)
    with pytest.raises(InvalidInput, match="something else"):
        ann.answered(second, bob.receive(first.frame, NOW), NOW)


# -- clocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [-4000.0, -250.0, 250.0, 4000.0])
def test_a_wrong_clock_is_known_although_messages_are_refused(ahead: float) -> None:
    ann, bob, cat = fleet([ANN, BOB, CAT])
    mine = NOW + ahead
    for contact in ann.tick(mine):
        there = bob if contact.node == bob.node else cat
        if abs(ahead) > SETTINGS.clock_tolerance:
            with pytest.raises(Refused, match="clock skew"):
                ann.answered(contact, there.receive(contact.frame, NOW), mine)
        else:
            ann.answered(contact, there.receive(contact.frame, NOW), mine)
    skew, heard = ann.skew()
    assert (round(skew, 3), heard) == (-ahead, 2)


def test_skew_is_the_median_of_what_others_say() -> None:
    keys = [KeyedHash(f"k{number}") for number in range(6)]
    one = fleet(keys)[0]
    assert one.skew() == (0.0, 0)
    for number, (key, ahead) in enumerate(zip(keys[1:], (-2.0, 1.0, 3.0, 200.0, 250.0), strict=True)):
        one.receive(message(key, keys[0], at=NOW + ahead, nonce=bytes((number,)) * 16), NOW)
    assert one.skew() == (3.0, 5)
    assert {peer.offset for peer in one.peers(NOW)} == {-2.0, 1.0, 3.0, 200.0, 250.0}


# -- our own key -------------------------------------------------------------------------------------------------------


def meet(one: Engine, other: SignedRecord, now: float, nonce: int) -> None:
    one.receive(message(BOB, ANN, "push", at=now, nonce=nonce.to_bytes(16, "big"), records=(other.raw,)), now)


def test_after_a_restored_backup_a_node_goes_above_what_it_said_before() -> None:
    ann, _ = fleet([ANN, BOB])
    before = record(ANN, 7, incarnation=int(NOW) + 50)
    meet(ann, before, NOW, 1)
    own = ann.own_record()
    assert own is not None
    assert own.order > before.order
    assert own.record.says == Description(region="eu")
    assert (ann.counts.own_key, ann.alarm(NOW)) == (1, None)
    meet(ann, before, NOW + 1, 2)
    assert (ann.counts.own_key, ann.alarm(NOW + 1)) == (1, None), "what is below is nothing to worry about"


def test_a_key_that_is_met_twice_in_a_minute_is_an_alarm_and_no_race() -> None:
    ann, _ = fleet([ANN, BOB])
    meet(ann, record(ANN, 1, incarnation=int(NOW) + 50), NOW, 1)
    meet(ann, record(ANN, 1, incarnation=int(NOW) + 150), NOW + 59, 2)
    alarm = ann.alarm(NOW + 59)
    assert alarm is not None
    assert "end one" in alarm
    above = ann.own_record()
    for number in range(3, 20):
        meet(ann, record(ANN, number, incarnation=int(NOW) + 250, issued=NOW + 60), NOW + 60, number)
    assert ann.own_record() == above, "it doesn't outbid the other at once"
    meet(ann, record(ANN, 99, incarnation=int(NOW) + 250, issued=NOW + 60), NOW + 91, 99)
    own = ann.own_record()
    assert own is not None
    assert own.record.incarnation == int(NOW) + 251
    assert ann.alarm(NOW + 91 + 599) is not None
    assert ann.alarm(NOW + 91 + 600) is None, "one of them has ended"


def test_a_key_that_is_met_seldom_is_none() -> None:
    ann, _ = fleet([ANN, BOB])
    for number in range(5):
        now = NOW + number * 61
        meet(ann, record(ANN, 1, incarnation=int(NOW) + 50 * (number + 1), issued=now), now, number)
    assert (ann.counts.own_key, ann.alarm(NOW + 245)) == (5, None)


def test_a_forged_record_of_our_own_is_nothing() -> None:
    ann, _ = fleet([ANN, BOB])
    before = ann.own_record()
    raw = record(ANN, 7, incarnation=2**40).raw
    ann.receive(message(BOB, ANN, "push", records=(bytes(64) + raw[64:],)), NOW)
    assert ann.own_record() == before
    assert ann.counts.records == {Verdict.FORGED: 1}


# -- silence -----------------------------------------------------------------------------------------------------------


def test_who_fails_thrice_is_suspect_until_it_is_heard_of() -> None:
    ann, bob, _ = fleet([ANN, BOB, CAT])
    meet(ann, record(BOB, issued=NOW), NOW, 1)
    fail(ann, bob.node, 2, NOW + 5)
    assert state(ann, bob.node, NOW + 6) == "alive"
    fail(ann, bob.node, 1, NOW + 9)
    assert state(ann, bob.node, NOW + 9) == "suspect"
    fresh = record(BOB, 2, issued=NOW + 10)
    ann.receive(message(CAT, ANN, "push", at=NOW + 12, records=(fresh.raw,)), NOW + 12)
    assert state(ann, bob.node, NOW + 12) == "alive", "the way is cut, not the node"


def test_old_news_clear_nobody() -> None:
    ann, bob, _ = fleet([ANN, BOB, CAT])
    meet(ann, record(BOB, issued=NOW), NOW, 1)
    fail(ann, bob.node, 4, NOW + 5)
    stale = record(BOB, 2, issued=NOW + 2)
    ann.receive(message(CAT, ANN, "push", at=NOW + 6, nonce=b"2" * 16, records=(stale.raw,)), NOW + 6)
    assert state(ann, bob.node, NOW + 9) == "suspect"
    ann.receive(message(BOB, ANN, at=NOW + 10, nonce=b"3" * 16), NOW + 10)
    assert state(ann, bob.node, NOW + 10) == "alive", "it called by itself"


def test_who_is_silent_is_dead_and_then_forgotten_and_then_new() -> None:
    ann, bob, _ = fleet([ANN, BOB, CAT])
    meet(ann, record(BOB, issued=NOW), NOW, 1)
    assert state(ann, bob.node, NOW + 30) == "alive"
    assert state(ann, bob.node, NOW + 60) == "dead"
    ann.tick(NOW + 3600)
    assert state(ann, bob.node, NOW + 3600) == "dead"
    ann.tick(NOW + 3601)
    assert state(ann, bob.node, NOW + 3601) == "unknown"
    now = NOW + 3700
    old = record(BOB, 1, issued=NOW).raw
    ann.receive(message(CAT, ANN, "push", at=now, nonce=b"4" * 16, records=(old,)), now)
    assert state(ann, bob.node, now) == "unknown", "nobody brings back the dead"
    meet(ann, record(BOB, 2, issued=now), now, 5)
    assert state(ann, bob.node, now) == "alive"


def test_news_that_were_long_on_their_way_keep_nobody_alive_for_long() -> None:
    ann, bob, _ = fleet([ANN, BOB, CAT])
    ann.receive(message(BOB, ANN, nonce=b"1" * 16), NOW)  # how its clock goes is known
    ann.receive(message(CAT, ANN, "push", at=NOW, records=(record(BOB, issued=NOW - 80).raw,)), NOW)
    assert [state(ann, bob.node, NOW + later) for later in (0, 10)] == ["alive", "dead"]


def test_an_old_record_shows_nobody_alive() -> None:
    ann, bob, _ = fleet([ANN, BOB, CAT])
    ann.receive(message(CAT, ANN, "push", records=(record(BOB, issued=NOW - 600).raw,)), NOW)
    assert state(ann, bob.node) == "dead"


@pytest.mark.parametrize("said", ["draining", "leaving"])
def test_what_a_node_says_of_its_state_is_told(said: str) -> None:
    ann, bob = fleet([ANN, BOB])
    bob.describe(Description(state=said), NOW)
    talk(bob, [ann], NOW)
    assert state(ann, bob.node) == said


def test_the_silent_are_tried_for_ever_and_more_seldom() -> None:
    ann, _ = fleet([ANN, BOB])
    tried = []
    for second in range(3600):
        for contact in ann.tick(NOW + second):
            tried.append(second)
            ann.failed(contact, NOW + second)
    assert tried[:3] == [0, 1, 2]
    assert 60 <= len(tried) <= 200
    assert max(later - earlier for earlier, later in pairwise(tried)) <= 61


def test_a_node_that_was_alone_for_long_comes_back() -> None:
    ann, bob, cat = fleet([ANN, BOB, CAT])
    for one, others in ((ann, [bob, cat]), (bob, [ann, cat]), (cat, [ann, bob])):
        talk(one, others, NOW)
    for second in range(1, 4000, 5):
        talk(ann, [], NOW + second)
        talk(bob, [cat], NOW + second)
        talk(cat, [bob], NOW + second)
    now = NOW + 4000
    assert state(ann, bob.node, now) == state(bob, ann.node, now) == "unknown"
    assert state(bob, cat.node, now) == "alive"
    for second in range(61):
        talk(ann, [bob, cat], now + second)
        talk(bob, [cat], now + second)
        talk(cat, [bob], now + second)
    assert {peer.state for one in (ann, bob, cat) for peer in one.peers(now + 61)} == {"alive"}


# -- seeds -------------------------------------------------------------------------------------------------------------


def without_urls(*keys: Signatures) -> dict[str, Member]:
    return {id_of(key): Member(id_of(key), key.public) for key in keys}


def test_a_seed_tells_who_it_is_and_is_gossiped_with() -> None:
    ann, bob = engine(ANN), engine(BOB, seed=1)
    for one, key in ((ann, ANN), (bob, BOB)):
        one.set_members(without_urls(ANN, BOB))
        one.describe(Description(gossip_url=url_of(key)), NOW)
    assert ann.tick(NOW) == [], "nobody knows where anybody is"
    ann.set_seeds([url_of(BOB)])
    (who,) = ann.tick(NOW + 1)
    assert (who.kind, who.node, who.url) == ("who", None, url_of(BOB))
    syn = ann.answered(who, bob.receive(who.frame, NOW + 1), NOW + 1)
    assert syn is not None
    assert (syn.kind, syn.node, syn.url) == ("syn", bob.node, url_of(BOB))
    push = ann.answered(syn, bob.receive(syn.frame, NOW + 1), NOW + 1)
    assert push is not None
    ann.answered(push, bob.receive(push.frame, NOW + 1), NOW + 1)
    assert ann.state() == bob.state()
    assert [contact.kind for contact in ann.tick(NOW + 2)] == ["syn"], "it is a member like others now"


def test_a_seed_that_is_a_stranger_is_no_seed() -> None:
    ann = engine(ANN)
    ann.set_members(without_urls(ANN, BOB))
    ann.describe(Description(), NOW)
    ann.set_seeds(["http://eve.example"])
    (who,) = ann.tick(NOW)
    with pytest.raises(NotAMember):
        ann.answered(who, message(EVE, ANN, "id", re=who.nonce), NOW)


def test_a_seed_is_tried_for_ever() -> None:
    ann = engine(ANN)
    ann.set_members(without_urls(ANN, BOB))
    ann.describe(Description(), NOW)
    ann.set_seeds(["http://bob.example"])
    tried = []
    for second in range(3600):
        for contact in ann.tick(NOW + second):
            tried.append(second)
            ann.failed(contact, NOW + second)
    assert len(tried) >= 60
    assert tried[-1] >= 3600 - 61


def test_another_url_is_tried_after_each_failure() -> None:
    ann, bob = fleet([ANN, BOB])
    meet(ann, SignedRecord.make(BOB, 1, 1, NOW, Description(gossip_url="http://new.example")), NOW, 1)
    urls = []
    for _ in range(2):
        (contact,) = ann.tick(NOW)
        urls.append(contact.url)
        ann.failed(contact, NOW)
    assert urls == ["http://new.example", url_of(BOB)], "what it says itself, then what the catalog says"
    assert bob.node == contact.node


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_said_in_later_rounds() -> None:
    settings = EngineSettings(max_entries=50)
    keys = [KeyedHash(f"many {number}") for number in range(600)]
    one, other = (engine(key, settings, seed=number) for number, key in enumerate(keys[:2]))
    for each in (one, other):
        each.set_members(members(keys))
        each.describe(Description(), NOW)
    raws = [record(key).raw for key in keys[2:]]
    for start in range(0, len(raws), 100):
        part, nonce = tuple(raws[start : start + 100]), start.to_bytes(16, "big")
        one.receive(message(keys[2], keys[0], "push", nonce=nonce, records=part), NOW)
    assert one.counts.records == {Verdict.ACCEPTED: 598}
    spent = 0
    while one.state() != other.state():
        now = NOW + spent
        contact = other._syn(one.node, url_of(keys[0]), now)
        following: Contact | None = contact
        while following is not None:
            assert len(following.frame) <= MAX_FRAME
            answer = one.receive(following.frame, now)
            assert len(answer) <= MAX_FRAME
            following = other.answered(following, answer, now)
        spent += 1
        assert spent < 40
    assert spent > 4, "or the bound was none"


def test_a_greedy_digest_gets_a_bounded_answer() -> None:
    ann, bob = fleet([ANN, BOB])
    talk(ann, [bob], NOW)
    digest = (bytes.fromhex(ann.node)[:8] + b"\xff" * 16 + bytes.fromhex(bob.node)[:8] + b"\xff" * 16) * 900
    answer = read(bob.receive(message(ANN, BOB, digest=digest), NOW), BOB)
    assert len(answer.names) == 16
    assert answer.records == []


def test_a_round_asks_as_many_as_it_should() -> None:
    keys = [KeyedHash(f"some {number}") for number in range(20)]
    one = fleet(keys)[0]
    assert len(one.tick(NOW)) == 3, "nobody is known to be alive"
    one.receive(message(keys[1], keys[0], "push", records=tuple(record(key).raw for key in keys[1:])), NOW)
    contacts = one.tick(NOW)
    assert len({contact.node for contact in contacts}) == 3


def test_where_all_is_calm_one_is_asked_until_something_urgent_is_heard() -> None:
    keys = [KeyedHash(f"some {number}") for number in range(20)]
    one = fleet(keys)[0]

    def hear(number: int, now: float, **says: Any) -> None:
        made = SignedRecord.make(keys[number], 1, int(now - NOW) + 1, now, Description(**says))
        nonce = now.hex().encode()[-16:].rjust(16)
        one.receive(message(keys[1], keys[0], "push", at=now, nonce=nonce, records=(made.raw,)), now)

    for number in range(1, 20):
        hear(number, NOW + number / 100)
    assert len(one.tick(NOW + 9)) == 3
    assert len(one.tick(NOW + 11)) == 1
    hear(3, NOW + 12, load=7)
    assert len(one.tick(NOW + 12)) == 1, "a load is not urgent"
    hear(3, NOW + 13, load=7, state="draining")
    assert [len(one.tick(NOW + second)) for second in (13, 22, 24)] == [3, 3, 1]
    one.describe(Description(catalog=(1, 1)), NOW + 24)
    assert len(one.tick(NOW + 24)) == 3, "its own news"
    assert len(one.tick(NOW + 35)) == 1
    fail(one, id_of(keys[5]), 1, NOW + 35)
    assert len(one.tick(NOW + 35)) == 3, "a message that was lost"


def test_a_record_is_signed_again_when_something_changed_and_in_time() -> None:
    (ann,) = fleet([ANN])
    assert not ann.describe(Description(region="eu"), NOW + 1)
    assert ann.describe(Description(region="us"), NOW + 1)
    first = ann.own_record()
    ann.tick(NOW + 20)
    assert ann.own_record() == first
    ann.tick(NOW + 32)
    second = ann.own_record()
    assert first is not None
    assert second is not None
    assert second.record == replace(first.record, version=first.record.version + 1, issued=NOW + 32)


# -- catalogs ----------------------------------------------------------------------------------------------------------


def test_who_tells_of_a_newer_catalog_is_asked_and_liars_more_and_more_seldom() -> None:
    ann, bob, cat = fleet([ANN, BOB, CAT])
    for key, catalog in ((BOB, (2**40, 2**40)), (CAT, (1, 5))):
        meet(ann, SignedRecord.make(key, 1, 1, NOW, Description(catalog=catalog)), NOW, catalog[1])

    def asked(mine: tuple[int, int], now: float) -> set[str]:
        return {peer.id for peer in ann.newer_catalogs(mine, now)}

    assert asked((1, 4), NOW) == {bob.node, cat.node}
    assert asked((1, 5), NOW) == asked((2, 0), NOW) == {bob.node}
    pauses = []
    now = NOW
    for _ in range(12):
        ann.refuse_catalog(bob.node, (2**40, 2**40), "forged", now)
        pause = next(seconds for seconds in range(1, 700) if ann._peers[bob.node].may_be_asked(now + seconds))
        pauses.append(pause)
        now += pause
    assert pauses[:4] == [5, 10, 20, 40]
    assert pauses[-1] == 600
    assert next(peer for peer in ann.peers(NOW) if peer.id == bob.node).refused_catalog == ((2**40, 2**40), "forged")
    ann.believe_catalog(bob.node)
    assert asked((1, 4), NOW) == {bob.node, cat.node}
    assert asked((1, 4), NOW + 100) == set(), "the dead are not asked"
