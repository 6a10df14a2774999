"""The laws of editing, after any sequence of edits (editing.py says them)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aibrother_node.catalog.editing import (
    Changes,
    Edit,
    all_part_targets,
    edit_metadata,
    promote,
    publish,
    retire,
    unyank,
    yank,
)
from aibrother_node.catalog.entries import Channel, Entry, content_of, decode_releases
from aibrother_node.catalog.lawful import check_content, check_documents
from aibrother_node.catalog.names import Reference, ordered
from aibrother_node.errors import NotFound, Refused
from catalog.made import made_entry
from catalog.test_editing import Published
from catalog.test_entries import conforms
from counts import SOAK

if TYPE_CHECKING:
    from collections.abc import Callable

BEGIN = datetime(2026, 11, 24, 4, 0, tzinfo=UTC)
# Few enough for collisions of all kinds: a-1 and a@1 want one name, and "of" with 00002 is a shard's suffix.
NAMES = ("a", "a-1", "b", "a-1-q4-00001")
VERSIONS = ("1", "2", "10", "x", "of")
VARIANTS = ("q4", "00002")

names, versions, variants = map(st.sampled_from, (NAMES, VERSIONS, VARIANTS))
channels: st.SearchStrategy[Channel] = st.sampled_from(("stable", "staging"))
entries = st.builds(
    made_entry,
    names,
    versions,
    variants,
    content=st.sampled_from((None, None, None, "other")),
    shards=st.sampled_from((1, 1, 2)),
    projector=st.sampled_from((None, None, "eyes")),
    date=st.integers(1, 9).map(lambda day: f"2026-11-0{day}T00:00:00Z"),
    license=st.sampled_from(("mit", "unknown")),
)
refs = st.builds(Reference, names, st.none() | variants, st.none() | versions)


class Edits(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.catalog = Published()
        self.now = BEGIN
        self.contents: dict[Any, Any] = {}
        self.fixed: dict[str, Any] = {}

    def edit(self, make: Callable[[], Edit], *, again: bool = True) -> Edit | None:
        """Try an edit; take it, and try it again: that changes nothing, where it meant the same things."""
        self.now += timedelta(days=1)
        before = self.catalog.content()
        try:
            made = make()
        except (Refused, NotFound):
            return None
        assert self.catalog.content() == before
        if made.is_empty:
            assert (made.content.stable, made.content.staging) == (before.stable, before.staging)
        parts = {path: target for path, target in made.targets.items() if path not in made.documents}
        check_content(before, made.content, parts, check_documents(made.documents))  # so a signing node takes it
        self.catalog.take(made)
        if again:
            assert make().is_empty
        return made

    @rule(new=st.lists(entries, min_size=1, max_size=3), channel=channels)
    def publish(self, new: list[Entry], channel: Channel) -> None:
        before = self.catalog.documents.copy()
        if self.edit(lambda: publish(self.catalog.content(), new, channel, self.now)) is None:
            assert self.catalog.documents == before

    @rule(ref=refs, keep_staged=st.booleans())
    def promote(self, ref: Reference, keep_staged: bool) -> None:
        made = self.edit(
            lambda: promote(self.catalog.content(), [ref], self.now, keep_staged=keep_staged),
            again=ref.version is not None,
        )
        for entry in made.entries if made else ():
            stable = self.catalog.content().releases(entry.name).releases
            assert content_of(entry) in [content_of(one) for one in stable if one.key == entry.key]
            assert keep_staged or entry.key not in {one.key for one in self.catalog.staging.models}

    @rule(ref=refs)
    def yank(self, ref: Reference) -> None:
        self.edit(lambda: yank(self.catalog.content(), [ref], "bad", self.now), again=ref.version is not None)

    @rule(ref=refs)
    def unyank(self, ref: Reference) -> None:
        self.edit(lambda: unyank(self.catalog.content(), [ref], self.now), again=ref.version is not None)

    @rule(ref=refs, keep=st.integers(1, 3))
    def retire(self, ref: Reference, keep: int) -> None:
        self.edit(lambda: retire(self.catalog.content(), [ref], keep, self.now))

    @rule(ref=refs, license_id=st.sampled_from(("mit", "apache-2.0")))
    def edit_metadata(self, ref: Reference, license_id: str) -> None:
        parts = self.catalog.parts()
        changes: Changes = {"license": license_id}
        self.edit(lambda: edit_metadata(self.catalog.content(), [ref], changes, self.now))
        assert self.catalog.parts() == parts

    @precondition(lambda self: self.catalog.stable.models)
    @rule(data=st.data())
    def yank_then_unyank_restores(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.catalog.stable.models))
        ref = Reference(entry.name, entry.variant, entry.version)
        targets, models = self.catalog.parts(), self.catalog.stable.models
        self.catalog.take(yank(self.catalog.content(), [ref], "bad", self.now, channel="stable"))
        assert f"models/{entry.filename}" not in self.catalog.targets
        self.catalog.take(unyank(self.catalog.content(), [ref], self.now))
        assert self.catalog.parts() == targets
        assert self.catalog.stable.models == models

    def _offered(self) -> list[Entry]:
        withdrawn = {one.key for one in self.catalog.stable.yanked}
        found: list[Entry] = []
        for path, data in self.catalog.documents.items():
            if path.endswith(".releases.json"):
                found += [one for one in decode_releases(data).releases if one.key not in withdrawn]
        return found

    @invariant()
    def a_release_means_one_content(self) -> None:
        for entry in (*self._offered(), *self.catalog.staging.models):
            parts = [part.sha256 for part in entry.parts]
            assert self.contents.setdefault(entry.key, parts) == parts

    @invariant()
    def a_file_name_with_a_version_means_the_same_bytes(self) -> None:
        for channel, offered in (("models", self._offered()), ("staging", self.catalog.staging.models)):
            for entry in offered:
                for file in entry.files:
                    assert self.catalog.targets[f"{channel}/{file.filename}"].sha256 == file.sha256
                    assert self.fixed.setdefault(file.filename, file.sha256) == file.sha256
        for path, target in self.catalog.parts().items():
            filename = path.partition("/")[2]
            assert self.fixed.get(filename, target.sha256) == target.sha256

    @invariant()
    def a_moving_name_means_the_newest(self) -> None:
        offered = self._offered()
        newest: dict[tuple[str, str], Entry] = {}
        for name, variant in {(entry.name, entry.variant) for entry in offered}:
            newest[name, variant] = ordered(e for e in offered if (e.name, e.variant) == (name, variant))[-1]
        assert set(self.catalog.stable.models) == set(newest.values())
        expected: dict[str, Any] = {}
        for entry in newest.values():
            expected.update(zip(entry.moving_filenames(), entry.files, strict=True))
        for filename, file in expected.items():
            assert self.catalog.targets[f"models/{filename}"].sha256 == file.sha256
        fixed = {file.filename for entry in offered for file in entry.files}
        assert self.catalog.paths() == fixed | set(expected)

    @invariant()
    def documents_say_what_the_targets_are(self) -> None:
        assert all_part_targets(self.catalog.content()) == self.catalog.parts()
        for path, data in self.catalog.documents.items():
            conforms("releases" if path.endswith(".releases.json") else "catalog", json.loads(data))


Edits.TestCase.settings = settings(
    max_examples=1500 if SOAK else 40, stateful_step_count=25, deadline=None, print_blob=True
)
TestEdits = Edits.TestCase
