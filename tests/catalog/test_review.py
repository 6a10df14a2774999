"""Whatever the key of a role signs: a signing node takes edits and nothing else, and never falls over it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aibrother_node.catalog.deciding import decide
from aibrother_node.catalog.desk import Signing
from aibrother_node.catalog.entries import FleetNode
from aibrother_node.catalog.founding import found_catalog
from aibrother_node.catalog.indexing import follow
from aibrother_node.catalog.keys import KeyRing
from aibrother_node.catalog.reading import content_of, fleet
from aibrother_node.catalog.repository import Repository
from aibrother_node.catalog.review import review
from aibrother_node.catalog.targets import Edit, document_target
from aibrother_node.errors import InvalidInput, Refused, VerificationFailed
from aibrother_node.fleet.identity import NodeKey
from aibrother_node.store.disk import Disk
from catalog.made import made_entry
from catalog.signing import NOW
from counts import rounds
from store.helpers import new_layout, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aibrother_node.store.layout import Layout

STRANGE: list[Any] = [
    None,
    True,
    0,
    -1,
    1 << 70,
    1.5,
    "",
    "x",
    "a" * 300,
    "../..",
    "\0",
    [],
    {},
    [[]],
    "sha256:" + "0" * 64,
]
MEMBER = NodeKey.generate()


@dataclass
class Catalog:
    """A catalog with a few releases, and all keys."""

    layout: Layout
    ring: KeyRing

    @property
    def repository(self) -> Repository:
        return Repository.open(self.layout.catalog, Disk())

    def take(self, edit: Edit) -> None:
        """Do with an edit what a signing node does, but for looking at blobs."""
        repository = self.repository
        draft = repository.draft(edit, self.ring, NOW)
        review(repository.state, repository.check(draft, NOW))
        repository.accept(draft.roles, draft.base, self.ring, NOW, documents=draft.documents)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    layout = new_layout(tmp_path_factory.mktemp("catalog") / "data")
    key = NodeKey.generate()
    found_catalog(layout, Disk(), Signing(layout.keys, None, {}), FleetNode(key.id, key.public.hex()), NOW)
    made = Catalog(layout, KeyRing.load(layout.keys, Disk()))
    for action in (
        publishing("a", "1"),
        publishing("a", "2"),
        publishing("b", "1", shards=2),
        publishing("c", "1", channel="staging"),
        {"do": "yank", "references": ["a@1"], "reason": "bad"},
    ):
        made.take(decide(action, made.repository, NOW).edit)
    return made


def publishing(name: str, version: str, channel: str = "stable", **more: Any) -> dict[str, Any]:
    return {"do": "publish", "channel": channel, "entries": [made_entry(name, version, "q4", **more).to_json()]}


ACTIONS: list[dict[str, Any]] = [
    publishing("a", "3"),
    publishing("d", "1", projector="eyes"),
    publishing("c", "2", channel="staging"),
    {"do": "promote", "references": ["c"]},
    {"do": "unyank", "references": ["a@1"]},
    {"do": "retire", "references": ["a"], "keep": 1},
    {"do": "edit", "references": ["b"], "changes": {"license": "mit-0"}},
    {"do": "admit", "id": MEMBER.id, "key": MEMBER.public.hex(), "said": {"region": "us"}},
]


def paths_of(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON document."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield from paths_of(below, (*at, key))


def mutate(document: Any, data: st.DataObject) -> Any:
    """The document with one place taken away, doubled, or replaced."""
    path = data.draw(st.sampled_from(list(paths_of(document))[1:]))
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    last = path[-1]
    match data.draw(st.sampled_from(["strange", "number", "gone", "twice"])):
        case "strange":
            holder[last] = data.draw(st.sampled_from(STRANGE))
        case "number" if type(holder[last]) is int:
            holder[last] += data.draw(st.sampled_from([-1, 1]))
        case "twice" if isinstance(holder, list):
            holder.append(holder[last])
        case _:
            del holder[last]
    return document


@settings(max_examples=rounds(60, 3000), deadline=None)
@given(action=st.sampled_from(ACTIONS), data=st.data())
def test_documents_that_were_tampered_with(catalog: Catalog, action: dict[str, Any], data: st.DataObject) -> None:
    """Signed as it should be, with one thing wrong in a document: refused by name, or harmless."""
    repository = catalog.repository
    edit = decide(action, repository, NOW).edit
    path = data.draw(st.sampled_from(sorted(edit.documents)))
    whole = edit.documents[path]
    assert whole is not None
    changed = json.dumps(mutate(json.loads(whole), data)).encode()
    documents = {**edit.documents, path: changed}
    targets = {**edit.targets, path: document_target(changed)}
    try:
        draft = repository.draft(Edit(documents, targets, edit.content), catalog.ring, NOW)
        change = repository.check(draft, NOW)
        review(repository.state, change)
    except (VerificationFailed, Refused, InvalidInput):
        return
    before = {file: file.read_bytes() for file in catalog.layout.catalog.rglob("*.json")}
    try:
        repository.accept(draft.roles, draft.base, catalog.ring, NOW, documents=draft.documents)
        after = catalog.repository
        content_of(after)
        fleet(after)
        with open_store(catalog.layout) as store:
            follow(store, Disk())
        decide(publishing("z", "1"), after, NOW)
    finally:
        for file in set(catalog.layout.catalog.rglob("*.json")) - set(before):
            file.unlink()
        for file, content in before.items():
            file.write_bytes(content)


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: str(action["do"]))
def test_edits_pass(catalog: Catalog, action: dict[str, Any]) -> None:
    repository = catalog.repository
    draft = repository.draft(decide(action, repository, NOW).edit, catalog.ring, NOW)
    files = review(repository.state, repository.check(draft, NOW))
    named = {part.filename for part in files}
    expected = {"publish": {"-q4"}, "promote": {"c-1-q4.gguf"}}.get(action["do"], set())
    assert bool(named) == bool(expected)
    assert action["do"] != "promote" or named == expected


def test_a_fleet_that_loses_nodes_or_keys(catalog: Catalog) -> None:
    repository = catalog.repository
    (node,) = fleet(repository).nodes
    for wrong in (
        {"version": 2, "nodes": []},
        {"version": 2, "nodes": [{**node.to_json(), "state": "revoked"}]},
        {"version": 1, "nodes": [{**node.to_json(), "region": "moon"}]},
    ):
        data = json.dumps({"schema": "aibrother.fleet/1", **wrong}).encode()
        edit = Edit({"fleet.json": data}, {"fleet.json": document_target(data)}, content_of(repository))
        draft = repository.draft(edit, catalog.ring, NOW)
        with pytest.raises(VerificationFailed, match="fleet"):
            review(repository.state, repository.check(draft, NOW))
