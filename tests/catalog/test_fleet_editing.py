"""Edits of the fleet, and their laws."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrother_node.catalog.entries import REVOKED, FleetDocument, FleetNode, decode_fleet, encode
from aibrother_node.catalog.fleet_editing import FleetEdit, admit, find, revoke
from aibrother_node.catalog.targets import FLEET_PATH
from aibrother_node.errors import InvalidInput, NodeError, NotFound, Refused


def node(number: int, **said: Any) -> FleetNode:
    key = hashlib.sha256(f"key {number}".encode()).digest()
    return FleetNode(hashlib.sha256(key).hexdigest(), key.hex(), **said)


ONE, TWO, THREE = node(1, region="eu", url="https://one.example"), node(2), node(3)
FLEET = FleetDocument(7, (ONE,))


def nodes(edit: FleetEdit) -> dict[str, FleetNode]:
    return {one.id: one for one in edit.fleet.nodes}


def test_a_new_node_is_admitted() -> None:
    edit = admit(FLEET, TWO.id, TWO.key, {"region": "us", "url": "https://two.example", "country": None})
    assert edit.node == replace(TWO, region="us", url="https://two.example")
    assert edit.fleet == FleetDocument(8, (ONE, edit.node))
    data = edit.documents[FLEET_PATH]
    assert data is not None
    assert decode_fleet(data) == edit.fleet
    target = edit.targets[FLEET_PATH]
    assert target is not None
    assert (target.sha256.raw, target.length) == (hashlib.sha256(data).digest(), len(data))
    assert not edit.is_empty


def test_a_member_keeps_what_is_not_said_anew() -> None:
    edit = admit(FLEET, ONE.id, None, {"gossip_url": "http://one.example:8082", "latitude": 52.5, "longitude": 13})
    assert edit.node == replace(ONE, gossip_url="http://one.example:8082", latitude=52.5, longitude=13.0)
    assert edit.fleet.version == 8


def test_the_same_again_changes_nothing() -> None:
    edit = admit(FLEET, ONE.id, ONE.key, {"region": "eu", "url": None})
    assert edit.is_empty
    assert (edit.targets, edit.fleet, edit.node) == ({}, FLEET, ONE)
    fleet = admit(FLEET, TWO.id, TWO.key, {}).fleet
    fleet = revoke(fleet, TWO.id).fleet
    assert revoke(fleet, TWO.id).is_empty


def test_a_revoked_node_stays_named_and_comes_back_by_an_admission_only() -> None:
    fleet = admit(FLEET, TWO.id, TWO.key, {"region": "us"}).fleet
    gone = revoke(fleet, TWO.id[:8])
    assert gone.node == replace(TWO, region="us", state=REVOKED)
    assert nodes(gone)[TWO.id] == gone.node
    assert (gone.fleet.version, gone.node.admitted) == (9, False)
    back = admit(gone.fleet, TWO.id, None, {})
    assert back.node == replace(TWO, region="us")
    assert back.fleet.version == 10


def test_the_last_node_is_not_revoked() -> None:
    with pytest.raises(Refused, match="last node"):
        revoke(FLEET, ONE.id)
    fleet = revoke(admit(FLEET, TWO.id, TWO.key, {}).fleet, TWO.id).fleet
    with pytest.raises(Refused, match="last node"):
        revoke(fleet, ONE.id)
    strange = FleetDocument(1, (ONE, replace(TWO, state="on leave")))
    with pytest.raises(Refused, match="last node"):
        revoke(strange, ONE.id)
    assert revoke(strange, TWO.id).node.state == REVOKED


@pytest.mark.parametrize(
    ("node_id", "key", "said", "error"),
    [
        (TWO.id, None, {}, NotFound),
        (TWO.id, THREE.key, {}, InvalidInput),
        (ONE.id, TWO.key, {}, InvalidInput),
        (TWO.id[:60], TWO.key, {}, InvalidInput),
        (TWO.id, TWO.key.upper(), {}, InvalidInput),
        (TWO.id, "", {}, InvalidInput),
        (TWO.id, TWO.key, {"url": "ftp://two.example"}, InvalidInput),
        (TWO.id, TWO.key, {"region": "r" * 65}, InvalidInput),
        (TWO.id, TWO.key, {"country": "Germany"}, InvalidInput),
        (TWO.id, TWO.key, {"latitude": 52.5}, InvalidInput),
        (TWO.id, TWO.key, {"latitude": 91, "longitude": 0}, InvalidInput),
        (TWO.id, TWO.key, {"state": "admitted"}, InvalidInput),
        (TWO.id, TWO.key, {"id": ONE.id}, InvalidInput),
    ],
)
def test_what_can_not_be_admitted(node_id: str, key: str | None, said: dict[str, Any], error: type[NodeError]) -> None:
    with pytest.raises(error):
        admit(FLEET, node_id, key, said)


def test_nodes_are_found_by_the_beginning_of_their_id() -> None:
    fleet = FleetDocument(1, tuple(node(number) for number in range(40)))
    for one in fleet.nodes:
        assert find(fleet, one.id) == find(fleet, one.id[:8]) == one
    for wrong in ("", ONE.id[:7], ONE.id + "0", ONE.id[:12].upper(), "../../../etc", "0x123456"):
        with pytest.raises(InvalidInput):
            find(fleet, wrong)
    with pytest.raises(NotFound):
        find(fleet, "0" * 64)
    with pytest.raises(NotFound):
        revoke(fleet, "0" * 8)


def test_a_beginning_that_several_have_is_no_name() -> None:
    twins: dict[str, FleetNode] = {}
    for number in range(1 << 20):  # the birthday bound of 32 bits is about 2^16
        one = node(number)
        if (other := twins.get(one.id[:8])) is not None:
            break
        twins[one.id[:8]] = one
    assert other is not None
    fleet = FleetDocument(1, (one, other))
    with pytest.raises(InvalidInput, match="several"):
        revoke(fleet, one.id[:8])
    assert revoke(fleet, one.id).node.id == one.id


texts = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=8)
saids = st.fixed_dictionaries(
    {},
    optional={
        "region": texts | st.none(),
        "url": st.just("https://x.example") | st.none(),
        "gossip_url": st.just("http://x.example:8082"),
        "country": st.sampled_from(["DE", "US"]),
    },
)
edits = st.lists(
    st.tuples(st.sampled_from(["admit", "revoke"]), st.sampled_from([node(n) for n in range(4)]), saids), max_size=25
)


@given(edits)
def test_the_laws(steps: list[tuple[str, FleetNode, dict[str, Any]]]) -> None:
    fleet = FleetDocument(1, (node(0),))
    known: set[str] = {node(0).id}
    for what, one, said in steps:

        def edit(fleet: FleetDocument, what: str = what, one: FleetNode = one, said: Any = said) -> FleetEdit:
            return admit(fleet, one.id, one.key, said) if what == "admit" else revoke(fleet, one.id)

        try:
            done = edit(fleet)
        except (Refused, NotFound):
            assert what == "revoke"
            assert one.id not in known or [node.id for node in fleet.nodes if node.admitted] == [one.id]
            continue
        assert edit(done.fleet).is_empty, "the same again changes nothing"
        assert done.is_empty == (done.fleet == fleet)
        assert done.fleet.version == fleet.version + (not done.is_empty)
        assert done.node.admitted == (what == "admit")
        assert any(node.admitted for node in done.fleet.nodes)
        known.add(one.id)
        after = nodes(done)
        assert set(after) == known, "nobody is ever forgotten"
        assert all(after[node.id] == node for node in fleet.nodes if node.id != one.id), "others are left alone"
        assert (after[one.id].id, after[one.id].key) == (one.id, one.key)
        assert decode_fleet(encode(done.fleet)) == done.fleet
        fleet = done.fleet
