"""Names of releases and files, references, and the order of versions."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrother_node.catalog.names import (
    MAX_PARTS,
    Reading,
    Reference,
    arranged,
    check_name,
    check_variant,
    check_version,
    moving_filename,
    moving_projector_filename,
    newest,
    ordered,
    parse_reference,
    part_filename,
    projector_filename,
    readings,
)
from aibrother_node.errors import InvalidInput

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True).filter(
    lambda text: ".." not in text and not text.startswith("mmproj-")
)
words = st.from_regex(r"[a-z0-9][a-z0-9._+]{0,8}", fullmatch=True).filter(lambda text: ".." not in text)


@dataclass(frozen=True)
class Made:
    version: str
    processed_date: str
    name: str = "a"
    variant: str = "q4"


@pytest.mark.parametrize("name", ["a", "0", "phi-2-mobile", "gemma-3.1_it", "a" * 96, "a--b", "mmproj"])
def test_names_that_are_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "A",
        "é",
        "-a",
        ".a",
        "_a",
        "a..b",
        "a/b",
        "a\\b",
        "a b",
        "a\n",
        "a\0",
        "a+b",
        "a:b",
        "a@b",
        "a" * 97,
        "mmproj-a",
    ],
)
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InvalidInput):
        check_name(name)


@pytest.mark.parametrize("check", [check_version, check_variant])
def test_versions_and_variants(check: object) -> None:
    assert callable(check)
    for text in ("1", "2026.11.1", "q4_k_m", "1.0+local.1", "a" * 48):
        assert check(text) == text
    for text in ("", "1-2", "Q4", ".1", "+1", "1..2", "1/2", "1\n", "a" * 49, "..", "1 "):
        with pytest.raises(InvalidInput):
            check(text)


def test_file_names() -> None:
    assert part_filename("phi-2", "1.0", "q4_k_m") == "phi-2-1.0-q4_k_m.gguf"
    assert part_filename("phi-2", "1.0", "q4_k_m", 1, 3) == "phi-2-1.0-q4_k_m-00001-of-00003.gguf"
    assert moving_filename("phi-2", "q4_k_m") == "phi-2-q4_k_m.gguf"
    assert moving_filename("phi-2", "q4_k_m", 3, 3) == "phi-2-q4_k_m-00003-of-00003.gguf"
    assert projector_filename("phi-2", "1.0", "q4_k_m") == "mmproj-phi-2-1.0-q4_k_m.gguf"
    assert moving_projector_filename("phi-2", "q4_k_m") == "mmproj-phi-2-q4_k_m.gguf"
    for number, of in ((0, 1), (2, 1), (1, 0), (1, MAX_PARTS + 1)):
        with pytest.raises(InvalidInput):
            part_filename("a", "1", "q", number, of)


@given(names, words, words, st.integers(1, 3))
def test_a_files_name_can_be_read_as_what_it_is(name: str, version: str, variant: str, of: int) -> None:
    assert Reading(name, version, variant) in readings(part_filename(name, version, variant, of, of))
    assert Reading(name, None, variant) in readings(moving_filename(name, variant, of, of))
    assert Reading(name, version, variant) in readings(projector_filename(name, version, variant))
    assert Reading(name, None, variant) in readings(moving_projector_filename(name, variant))


def test_a_files_name_may_read_in_several_ways() -> None:
    assert set(readings("a-1-q4.gguf")) == {Reading("a", "1", "q4"), Reading("a-1", None, "q4")}
    assert set(readings("a-1-q4-00001-of-00002.gguf")) == {
        Reading("a", "1", "q4"),
        Reading("a-1", None, "q4"),
        Reading("a-1-q4-00001", "of", "00002"),
        Reading("a-1-q4-00001-of", None, "00002"),
    }
    for text in ("a.gguf", "a-1-q4", "", ".gguf", "a-Q4.gguf", "a..b-q4.gguf"):
        assert readings(text) == ()


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("phi-2", Reference("phi-2")),
        ("phi-2:q4_k_m", Reference("phi-2", "q4_k_m")),
        ("phi-2@1.0+x", Reference("phi-2", None, "1.0+x")),
        ("phi-2:q4_k_m@1.0", Reference("phi-2", "q4_k_m", "1.0")),
    ],
)
def test_references(text: str, reference: Reference) -> None:
    assert parse_reference(text) == reference
    assert str(reference) == text


@pytest.mark.parametrize("text", ["", ":q4", "@1", "a:", "a@", "a@1:q4", "a:q4:q5", "a@1@2", "A", "a:q4@", "sha256:x/"])
def test_texts_that_are_no_references(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_reference(text)


def test_versions_order_as_numbers_where_they_are_numbers() -> None:
    versions = ["2", "10", "9.1", "1.0rc1", "1.0", "1.0.post1"]
    made = [Made(version, "2026-01-01T00:00:00Z") for version in versions]
    assert [one.version for one in ordered(made)] == ["1.0rc1", "1.0", "1.0.post1", "2", "9.1", "10"]
    assert newest(made).version == "10"


def test_other_versions_order_by_date() -> None:
    made = [
        Made("beta", "2026-01-02T00:00:00Z"),
        Made("alpha", "2026-01-03T00:00:00Z"),
        Made("1.0", "2026-01-01T00:00:00Z"),
    ]
    assert [one.version for one in ordered(made)] == ["1.0", "beta", "alpha"]
    with pytest.raises(ValueError, match="nothing"):
        newest([])


def test_versions_that_beat_each_other_in_a_circle_have_one_order_all_the_same() -> None:
    circle = [
        Made("1.0", "2026-01-03T00:00:00Z"),
        Made("x", "2026-01-02T00:00:00Z"),
        Made("2.0", "2026-01-01T00:00:00Z"),
    ]
    orders = {tuple(ordered(some)) for some in itertools.permutations(circle)}
    assert len(orders) == 1


dates = st.integers(1, 28).map(lambda day: f"2026-01-{day:02}T00:00:00Z")
version_lists = st.lists(
    st.builds(Made, st.sampled_from(["1", "1.0", "1.1", "2", "10", "1.0rc1", "x", "y", "z1z"]), dates),
    unique_by=lambda made: made.version,
    min_size=1,
)


@given(version_lists, st.randoms())
def test_the_order_is_one_of_the_set(made: list[Made], random: object) -> None:
    shuffled = list(made)
    assert hasattr(random, "shuffle")
    random.shuffle(shuffled)
    assert ordered(shuffled) == ordered(made)
    assert set(ordered(made)) == set(made)
    assert newest(made) == ordered(made)[-1]


@given(version_lists)
def test_the_newest_is_beaten_only_by_date_across_the_two_kinds(made: list[Made]) -> None:
    from packaging.version import InvalidVersion, Version

    def number(one: Made) -> Version | None:
        try:
            return Version(one.version)
        except InvalidVersion:
            return None

    best = newest(made)
    for other in made:
        mine, its = number(best), number(other)
        if mine is not None and its is not None:
            assert mine >= its
        elif mine is None and its is None:
            assert best.processed_date >= other.processed_date


def test_arranged_by_name_then_variant_then_version() -> None:
    date = "2026-01-01T00:00:00Z"
    made = [Made(v, date, n, r) for n in "ba" for r in ("q8", "q4") for v in ("10", "9")]
    assert [(one.name, one.variant, one.version) for one in arranged(made)] == [
        (n, r, v) for n in "ab" for r in ("q4", "q8") for v in ("9", "10")
    ]
