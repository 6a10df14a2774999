"""Edits: what each does, and what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from aibrother_node.catalog.editing import (
    RETIRED,
    AlreadyUsed,
    Changes,
    Content,
    Edit,
    all_part_targets,
    edit_metadata,
    promote,
    publish,
    retire,
    unyank,
    yank,
)
from aibrother_node.catalog.entries import CatalogDocument, Entry, ReleasesDocument, decode_catalog, decode_releases
from aibrother_node.catalog.names import parse_reference
from aibrother_node.catalog.targets import document_target
from aibrother_node.errors import InvalidInput, NotFound, Refused, VerificationFailed
from catalog.made import digest_of, made_entry

NOW = datetime(2026, 11, 24, 4, 0, tzinfo=UTC)
LATER = datetime(2026, 11, 25, 4, 0, tzinfo=UTC)
PHI = "phi-2-mobile"


def ref(text: str) -> Any:
    return [parse_reference(one) for one in text.split()]


class Published:
    """A catalog as a repository would hold it: documents as bytes, targets by path."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}
        self.targets: dict[str, Any] = {}
        self.stable = CatalogDocument.empty("stable", NOW)
        self.staging = CatalogDocument.empty("staging", NOW)
        self.read: list[str] = []

    def content(self) -> Content:
        return Content(self.stable, self.staging, self._load)

    def _load(self, name: str) -> ReleasesDocument | None:
        self.read.append(name)
        data = self.documents.get(f"models/{name}.releases.json")
        return None if data is None else decode_releases(data)

    def take(self, edit: Edit) -> Edit:
        """Write the edit down, and hold it to what every edit must be."""
        for path, data in edit.documents.items():
            assert data != self.documents.get(path), f"{path} is written and not changed"
            assert edit.targets[path] == (None if data is None else document_target(data))
        for path, target in edit.targets.items():
            assert target != self.targets.get(path), f"{path} is signed and not changed"
            assert path in edit.documents or path.endswith(".gguf")
            if target is None:
                del self.targets[path]
            else:
                self.targets[path] = target
        for path, data in edit.documents.items():
            if data is None:
                del self.documents[path]
            else:
                self.documents[path] = data
        for channel, path in (("stable", "models/catalog.json"), ("staging", "staging/catalog.json")):
            old: CatalogDocument = getattr(self, channel)
            new = decode_catalog(self.documents[path]) if path in self.documents else old
            assert new.version == old.version + (path in edit.documents)
            assert getattr(edit.content, channel) == new
            setattr(self, channel, new)
        assert self.parts() == all_part_targets(self.content())
        return edit

    def parts(self) -> dict[str, Any]:
        return {path: target for path, target in self.targets.items() if path.endswith(".gguf")}

    def paths(self, folder: str = "models") -> set[str]:
        return {path.removeprefix(f"{folder}/") for path in self.parts() if path.startswith(f"{folder}/")}

    def publish(self, *entries: Entry, channel: str = "stable") -> Edit:
        return self.take(publish(self.content(), entries, cast("Any", channel), NOW))

    def version_of(self, path: str) -> str:
        version = self.targets[f"models/{path}"].custom["version"]
        assert isinstance(version, str)
        return version


@pytest.fixture
def catalog() -> Published:
    return Published()


def test_publish(catalog: Published) -> None:
    entry = made_entry()
    edit = catalog.publish(entry)
    assert edit.entries == (entry,)
    assert set(edit.documents) == {"models/catalog.json", f"models/{PHI}.releases.json"}
    assert catalog.paths() == {f"{PHI}-2026.11.1-q4_k_m.gguf", f"{PHI}-q4_k_m.gguf"}
    target = catalog.targets[f"models/{PHI}-q4_k_m.gguf"]
    assert target == catalog.targets[f"models/{PHI}-2026.11.1-q4_k_m.gguf"]
    assert (target.sha256, target.length) == (entry.sha256, entry.size_bytes)
    assert target.custom == {
        "name": PHI,
        "version": "2026.11.1",
        "variant": "q4_k_m",
        "chunks": str(entry.chunks),
    }
    assert catalog.stable.models == (entry,)
    assert (catalog.stable.version, catalog.stable.published) == (2, "2026-11-24T04:00:00Z")
    assert catalog.staging.version == 1


def test_the_same_content_again_changes_nothing(catalog: Published) -> None:
    catalog.publish(made_entry(license="mit"))
    again = publish(catalog.content(), [made_entry(license="apache-2.0")], "stable", LATER)
    assert again.is_empty
    assert again.entries == (made_entry(license="mit"),)
    assert publish(catalog.content(), [made_entry()], "staging", LATER).is_empty
    assert publish(catalog.content(), [], "stable", LATER).is_empty
    assert again.content.stable == catalog.stable


@pytest.mark.parametrize("channel", ["stable", "staging"])
@pytest.mark.parametrize("first", ["stable", "staging"])
def test_other_content_of_a_release_is_refused_in_both_channels(catalog: Published, first: Any, channel: Any) -> None:
    catalog.publish(made_entry(content="one"), channel=first)
    with pytest.raises(AlreadyUsed, match="another version") as caught:
        publish(catalog.content(), [made_entry(content="two")], channel, LATER)
    assert str(digest_of("one 1")) in str(caught.value)
    assert str(digest_of("two 1")) in str(caught.value)
    assert (caught.value.used, caught.value.offered) == ((digest_of("one 1"),), (digest_of("two 1"),))


@pytest.mark.parametrize("channel", ["stable", "staging"])
def test_two_contents_of_one_release_in_one_edit_are_refused(catalog: Published, channel: Any) -> None:
    with pytest.raises(AlreadyUsed):
        publish(catalog.content(), [made_entry(content="one"), made_entry(content="two")], channel, NOW)
    assert publish(catalog.content(), [made_entry(), made_entry()], channel, NOW).entries == (made_entry(),) * 2


def test_other_content_is_refused_after_it_was_withdrawn_too(catalog: Published) -> None:
    catalog.publish(made_entry(content="one"), made_entry(version="2026.12.1"))
    catalog.take(yank(catalog.content(), ref(f"{PHI}@2026.11.1"), "bad", NOW))
    for channel in ("stable", "staging"):
        with pytest.raises(AlreadyUsed):
            publish(catalog.content(), [made_entry(content="two")], cast("Any", channel), LATER)
        with pytest.raises(Refused, match="restore it with unyank"):
            publish(catalog.content(), [made_entry(content="one")], cast("Any", channel), LATER)
    catalog.take(retire(catalog.content(), ref(f"{PHI}@2026.11.1"), 1, NOW))
    for channel in ("stable", "staging"):
        with pytest.raises(AlreadyUsed) as caught:
            publish(catalog.content(), [made_entry(content="two")], cast("Any", channel), LATER)
        assert caught.value.used == (digest_of("one 1"),)
        with pytest.raises(Refused, match="bad"):
            publish(catalog.content(), [made_entry(content="one")], cast("Any", channel), LATER)


def test_a_projector_belongs_to_the_content(catalog: Published) -> None:
    catalog.publish(made_entry(projector="eyes"))
    names = {f"mmproj-{PHI}-2026.11.1-q4_k_m.gguf", f"mmproj-{PHI}-q4_k_m.gguf"}
    assert names < catalog.paths()
    assert publish(catalog.content(), [made_entry()], "stable", NOW).is_empty
    with pytest.raises(AlreadyUsed):
        publish(catalog.content(), [made_entry(projector="ears")], "stable", NOW)
    catalog.publish(made_entry(version="2026.12.1"))
    assert catalog.paths() & names == {f"mmproj-{PHI}-2026.11.1-q4_k_m.gguf"}


def test_a_shard_set_that_becomes_one_file_leaves_no_moving_names_behind(catalog: Published) -> None:
    catalog.publish(made_entry(version="1", shards=3))
    assert {f"{PHI}-q4_k_m-0000{n}-of-00003.gguf" for n in (1, 2, 3)} < catalog.paths()
    catalog.publish(made_entry(version="2"))
    fixed = {f"{PHI}-1-q4_k_m-0000{n}-of-00003.gguf" for n in (1, 2, 3)}
    assert catalog.paths() == fixed | {f"{PHI}-2-q4_k_m.gguf", f"{PHI}-q4_k_m.gguf"}


def test_an_older_version_does_not_take_the_moving_name(catalog: Published) -> None:
    catalog.publish(made_entry(version="10"))
    edit = catalog.publish(made_entry(version="9", date="2026-11-20T00:00:00Z"))
    assert catalog.version_of(f"{PHI}-q4_k_m.gguf") == "10"
    assert set(edit.targets) == {
        "models/catalog.json",
        f"models/{PHI}.releases.json",
        f"models/{PHI}-9-q4_k_m.gguf",
    }
    assert [entry.version for entry in catalog.stable.models] == ["10"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (made_entry("a-1", "5", "q4"), made_entry("a", "1", "q4")),
        (made_entry("a", "1", "q4"), made_entry("a-1", "5", "q4")),
        (made_entry("a", "1", "q4", projector="p"), made_entry("a-1", "5", "q4", "same", projector="q")),
        (made_entry("a", "1", "q4", shards=2), made_entry("a-1-q4-00001", "of", "00002")),
        (made_entry("a-1-q4-00001", "of", "00002"), made_entry("a", "1", "q4", shards=2)),
        (made_entry("a-1-q4-00001-of", "7", "00002"), made_entry("a", "1", "q4", shards=2)),
        (made_entry("a", "7", "q4", shards=2), made_entry("a-q4-00001", "of", "00002")),
    ],
)
@pytest.mark.parametrize("channels", [("stable", "stable"), ("stable", "staging"), ("staging", "stable")])
def test_two_releases_that_want_one_file_name(
    catalog: Published, first: Entry, second: Entry, channels: tuple[str, str]
) -> None:
    catalog.publish(first, channel=channels[0])
    with pytest.raises(Refused, match="file name"):
        publish(catalog.content(), [second], cast("Any", channels[1]), NOW)
    with pytest.raises(Refused, match="file name"):
        publish(Published().content(), [first, second], cast("Any", channels[1]), NOW)


def test_the_file_name_of_a_retired_release_is_not_used_again(catalog: Published) -> None:
    catalog.publish(made_entry("a", "1", "q4"), made_entry("a", "2", "q4"))
    catalog.take(retire(catalog.content(), ref("a"), 1, NOW))
    with pytest.raises(Refused, match=r"a:q4@1, now withdrawn"):
        publish(catalog.content(), [made_entry("a-1", "5", "q4")], "stable", NOW)


def test_names_that_only_look_alike_are_no_collision(catalog: Published) -> None:
    catalog.publish(
        made_entry("a", "1", "q4"),
        made_entry("a-1", "1", "q5"),
        made_entry("a-2", "1", "q4"),
        made_entry("b", "1", "q4"),
    )
    assert len(catalog.paths()) == 8


def test_staging_then_promote(catalog: Published) -> None:
    first, second = made_entry(version="1"), made_entry(version="2")
    catalog.publish(first, second, channel="staging")
    assert list(catalog.staging.models) == [first, second]
    assert catalog.paths("staging") == {f"{PHI}-1-q4_k_m.gguf", f"{PHI}-2-q4_k_m.gguf", f"{PHI}-q4_k_m.gguf"}
    assert (catalog.paths(), catalog.stable.version) == (set(), 1)
    edit = catalog.take(promote(catalog.content(), ref(PHI), LATER))
    assert edit.entries == (second,)
    assert list(catalog.stable.models) == [second]
    assert list(catalog.staging.models) == [first]
    assert catalog.paths() == {f"{PHI}-2-q4_k_m.gguf", f"{PHI}-q4_k_m.gguf"}
    assert catalog.paths("staging") == {f"{PHI}-1-q4_k_m.gguf", f"{PHI}-q4_k_m.gguf"}
    assert promote(catalog.content(), ref(f"{PHI}@2"), LATER).is_empty
    catalog.take(promote(catalog.content(), ref(f"{PHI}:q4_k_m@1"), LATER))
    assert catalog.staging.models == ()
    assert not catalog.paths("staging")
    assert catalog.version_of(f"{PHI}-q4_k_m.gguf") == "2"
    with pytest.raises(NotFound, match="phi-2-mobile@3"):
        promote(catalog.content(), ref(f"{PHI}@3"), LATER)


def test_promote_without_the_keys_of_staging(catalog: Published) -> None:
    catalog.publish(made_entry(), channel="staging")
    edit = catalog.take(promote(catalog.content(), ref(PHI), LATER, keep_staged=True))
    assert all(path.startswith("models/") for path in edit.targets)
    assert promote(catalog.content(), ref(PHI), LATER, keep_staged=True).is_empty
    edit = catalog.take(promote(catalog.content(), ref(PHI), LATER))
    assert all(path.startswith("staging/") for path in edit.targets)
    assert catalog.staging.models == ()


def test_yank_and_unyank(catalog: Published) -> None:
    old, new, other = made_entry(version="1"), made_entry(version="2"), made_entry(version="1", variant="q8_0")
    catalog.publish(old, new, other)
    before = catalog.parts()
    edit = catalog.take(yank(catalog.content(), ref(f"{PHI}:q4_k_m@2"), "speaks in tongues", LATER))
    assert edit.entries == (new,)
    assert f"models/{PHI}.releases.json" not in edit.documents
    assert catalog.paths() == {f"{PHI}-1-q4_k_m.gguf", f"{PHI}-q4_k_m.gguf", f"{PHI}-1-q8_0.gguf", f"{PHI}-q8_0.gguf"}
    assert catalog.version_of(f"{PHI}-q4_k_m.gguf") == "1"
    assert catalog.stable.models == (old, other)
    assert new.sha256 is not None
    assert json.loads(catalog.documents["models/catalog.json"])["yanked"] == [
        {
            "name": PHI,
            "version": "2",
            "variant": "q4_k_m",
            "sha256": new.sha256.hex,
            "reason": "speaks in tongues",
            "date": "2026-11-25T04:00:00Z",
        }
    ]
    assert yank(catalog.content(), ref(f"{PHI}:q4_k_m@2"), "again", LATER).is_empty
    catalog.take(yank(catalog.content(), ref(f"{PHI}:q4_k_m"), "all", LATER))
    assert catalog.paths() == {f"{PHI}-1-q8_0.gguf", f"{PHI}-q8_0.gguf"}
    assert yank(catalog.content(), ref(f"{PHI}:q4_k_m"), "all", LATER).is_empty
    catalog.take(unyank(catalog.content(), ref(f"{PHI}@1 {PHI}@2"), LATER))
    assert catalog.parts() == before
    assert catalog.stable.yanked == ()
    assert unyank(catalog.content(), ref(PHI), LATER).is_empty
    for nobody in (f"{PHI}@3", "nobody"):
        with pytest.raises(NotFound, match=f"there is no {nobody}"):
            yank(catalog.content(), ref(nobody), "bad", NOW)
        with pytest.raises(NotFound, match=f"there is no {nobody}"):
            unyank(catalog.content(), ref(nobody), NOW)
    for reason in ("", "a\nb", "\x1b[2J", "x" * 1025):
        with pytest.raises(InvalidInput):
            yank(catalog.content(), ref(PHI), reason, NOW)


def test_yank_from_staging(catalog: Published) -> None:
    catalog.publish(made_entry(version="1"), made_entry(version="2", shards=2), channel="staging")
    edit = catalog.take(yank(catalog.content(), ref(f"{PHI}@1 {PHI}@2"), "bad", LATER))
    assert all(path.startswith("staging/") for path in edit.targets)
    assert (catalog.staging.models, len(catalog.staging.yanked)) == ((), 2)
    with pytest.raises(Refused, match="published again"):
        unyank(catalog.content(), ref(f"{PHI}@1"), LATER)
    for version in ("1", "2"):
        with pytest.raises(AlreadyUsed):
            publish(catalog.content(), [made_entry(version=version, content="other")], "staging", LATER)
    with pytest.raises(Refused, match="publish it to staging again"):
        publish(catalog.content(), [made_entry(version="1")], "stable", LATER)
    catalog.publish(made_entry(version="1"), channel="staging")
    assert [one.version for one in catalog.staging.yanked] == ["2"]
    with pytest.raises(Refused, match="no longer known"):
        publish(catalog.content(), [made_entry(version="2", shards=2)], "staging", LATER)


def test_yank_means_the_newest_in_stable_and_a_version_in_both_channels(catalog: Published) -> None:
    catalog.publish(made_entry(version="1"), made_entry(version="2"), channel="staging")
    catalog.take(promote(catalog.content(), ref(f"{PHI}@1"), NOW, keep_staged=True))
    newest = yank(catalog.content(), ref(PHI), "bad", LATER)
    assert [entry.version for entry in newest.entries] == ["1"]
    assert all(path.startswith("models/") for path in newest.targets)
    only = yank(catalog.content(), ref(PHI), "bad", LATER, channel="staging")
    assert [entry.version for entry in only.entries] == ["2"]
    catalog.take(yank(catalog.content(), ref(f"{PHI}@1"), "bad", LATER))
    assert (catalog.paths(), catalog.stable.models) == (set(), ())
    assert [entry.version for entry in catalog.staging.models] == ["2"]


def test_retire(catalog: Published) -> None:
    entries = [made_entry(version=str(n), variant=v) for n in range(1, 6) for v in ("q4", "q8")]
    catalog.publish(*entries)
    catalog.take(yank(catalog.content(), ref(f"{PHI}:q4@5 {PHI}:q4@2"), "bad", NOW))
    edit = catalog.take(retire(catalog.content(), ref(PHI), 2, LATER))
    assert {(entry.variant, entry.version) for entry in edit.entries} == {
        ("q4", "2"),
        ("q4", "1"),
        ("q8", "3"),
        ("q8", "2"),
        ("q8", "1"),
    }
    left = decode_releases(catalog.documents[f"models/{PHI}.releases.json"]).releases
    assert {(entry.variant, entry.version) for entry in left} == {
        ("q4", "5"),
        ("q4", "4"),
        ("q4", "3"),
        ("q8", "5"),
        ("q8", "4"),
    }
    reasons = {(one.variant, one.version): one.reason for one in catalog.stable.yanked}
    assert reasons == {
        ("q4", "5"): "bad",
        ("q4", "2"): "bad",
        ("q4", "1"): RETIRED,
        ("q8", "3"): RETIRED,
        ("q8", "2"): RETIRED,
        ("q8", "1"): RETIRED,
    }
    assert retire(catalog.content(), ref(PHI), 2, LATER).is_empty
    assert retire(catalog.content(), ref(f"{PHI}:q8@1"), 2, LATER).is_empty
    with pytest.raises(Refused, match="retired"):
        unyank(catalog.content(), ref(f"{PHI}:q8@1"), LATER)
    with pytest.raises(InvalidInput, match="keep 0"):
        retire(catalog.content(), ref(PHI), 0, LATER)
    for nobody in (f"{PHI}@9", f"{PHI}:q5", "nobody"):
        with pytest.raises(NotFound):
            retire(catalog.content(), ref(nobody), 1, LATER)
    versions = " ".join(f"{PHI}@{n}" for n in (3, 4, 5))
    catalog.take(retire(catalog.content(), ref(versions), 1, LATER))
    assert set(catalog.documents) == {"models/catalog.json"}
    assert (catalog.paths(), len(catalog.stable.yanked)) == (set(), 10)
    with pytest.raises(Refused, match="withdrawn"):
        publish(catalog.content(), [entries[0]], "stable", LATER)


def test_edit_metadata(catalog: Published) -> None:
    catalog.publish(made_entry(version="1"), made_entry(version="2"))
    parts = catalog.parts()
    changes: Changes = {"license": "mit", "tags": ("b", "a"), "description": "Two.", "min_memory_bytes": 5}
    edit = catalog.take(edit_metadata(catalog.content(), ref(PHI), changes, LATER))
    (entry,) = edit.entries
    assert (entry.version, entry.license, entry.tags, entry.min_memory_bytes) == ("2", "mit", ("a", "b"), 5)
    assert catalog.stable.models == (entry,)
    assert catalog.parts() == parts
    assert edit_metadata(catalog.content(), ref(PHI), changes, LATER).is_empty
    older = catalog.take(edit_metadata(catalog.content(), ref(f"{PHI}@1"), {"license": "x"}, LATER))
    assert [one.license for one in older.entries] == ["x"]
    assert catalog.stable.version == 4
    for bad in ({"sha256": "0" * 64}, {"filename": "a"}, {"license": ""}, {"urls": ("ftp://x",)}, {"tags": ("",)}):
        with pytest.raises(InvalidInput):
            edit_metadata(catalog.content(), ref(PHI), cast("Changes", bad), LATER)
    with pytest.raises(NotFound):
        edit_metadata(catalog.content(), ref("nobody"), changes, LATER)
    catalog.publish(made_entry("b"), channel="staging")
    staged = catalog.take(edit_metadata(catalog.content(), ref("b"), changes, LATER))
    assert set(staged.documents) == {"staging/catalog.json"}


def test_an_edit_reads_only_the_models_it_names(catalog: Published) -> None:
    catalog.publish(*(made_entry(f"model-{n}") for n in range(20)))
    catalog.read.clear()
    publish(catalog.content(), [made_entry("model-7", "2027")], "stable", LATER)
    yank(catalog.content(), ref("model-7"), "bad", LATER)
    assert set(catalog.read) == {"model-7"}


def test_the_state_after_an_edit_can_be_edited_further(catalog: Published) -> None:
    first = publish(catalog.content(), [made_entry(version="1"), made_entry(version="2")], "staging", NOW)
    second = promote(first.content, ref(PHI), NOW)
    third = yank(second.content, ref(PHI), "bad", LATER)
    for edit in (first, second, third):
        catalog.take(edit)
    assert catalog.stable.version == 3
    assert third.content.releases(PHI).releases == (made_entry(version="2"),)


def test_a_catalog_whose_releases_are_missing_is_not_edited(catalog: Published) -> None:
    catalog.publish(made_entry())
    catalog.documents.clear()
    with pytest.raises(VerificationFailed, match="missing"):
        publish(catalog.content(), [made_entry(version="2")], "stable", NOW)
    other = Content(catalog.stable, catalog.staging, lambda _: ReleasesDocument("other"))
    with pytest.raises(VerificationFailed, match="another model"):
        publish(other, [made_entry(version="2")], "stable", NOW)
