"""Preconditions: lists of entity tags, both comparisons, the order of evaluation."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrother_node.web.conditional import MAX_FIELD, TagList, Verdict, evaluate, if_range_holds, parse_tag_list

from . import law

HEX = "b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c"
OURS = (f'"sha256:{HEX}"', f'"{HEX}"')


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("", []),
        (",", []),
        (" , ,\t", []),
        ('"xyzzy"', ['"xyzzy"']),  # RFC 9110, 13.1.1
        ('"xyzzy", "r2d2xxxx", "c3piozzzz"', ['"xyzzy"', '"r2d2xxxx"', '"c3piozzzz"']),
        ('W/"xyzzy", W/"r2d2xxxx", W/"c3piozzzz"', ['W/"xyzzy"', 'W/"r2d2xxxx"', 'W/"c3piozzzz"']),  # 13.1.2
        ('""', ['""']),  # 8.8.3
        (' ,"a" ,, W/"b"\t, ', ['"a"', 'W/"b"']),
        ('"a,b","c"', ['"a,b"', '"c"']),
        ('"*"', ['"*"']),
        ('"W/"', ['"W/"']),
        ('"a\\"', ['"a\\"']),  # a backslash escapes nothing in a tag
        ('"\xe9\udce9"', ['"\xe9\udce9"']),
    ],
)
def test_lists(text: str, tags: list[str]) -> None:
    assert parse_tag_list(text) == TagList(anything=False, tags=frozenset(tags))


@pytest.mark.parametrize("text", ["*", " *\t"])
def test_star(text: str) -> None:
    assert parse_tag_list(text) == TagList(anything=True)


@pytest.mark.parametrize(
    "text",
    [
        "xyzzy",
        '"xyzzy',
        'xyzzy"',
        '"',
        '"a" "b"',
        '"a""b"',
        '"a"; "b"',
        '"a b"',
        '"a\tb"',
        '"a\x7f"',
        '"a\x00"',
        "'a'",
        'w/"a"',
        'W"a"',
        'W/ "a"',
        "W/",
        'W/W/"a"',
        '*, "a"',
        '"a", *',
        "**",
        "*, *",
        '"a"\n',
    ],
)
def test_malformed(text: str) -> None:
    assert parse_tag_list(text) is None


def test_length_is_bounded() -> None:
    longest = '"' + "x" * (MAX_FIELD - 2) + '"'
    assert parse_tag_list(longest) is not None
    assert parse_tag_list(longest + ",") is None


@pytest.mark.parametrize("piece", ['"a",', '"a" ', '"', ",", " ,", 'W/"', "W/", '""'])
def test_the_longest_field_costs_little(piece: str) -> None:
    begin = time.process_time()
    parse_tag_list((piece * MAX_FIELD)[:MAX_FIELD])
    assert time.process_time() - begin < 0.5


@pytest.mark.parametrize(
    ("theirs", "strong", "weak"),
    [
        # RFC 9110, 8.8.3.2, for our side is always strong
        ('W/"1"', False, True),
        ('W/"2"', False, False),
        ('"1"', True, True),
        ('"2"', False, False),
        ("*", True, True),
        ("", False, False),
        ('"2", W/"1"', False, True),
        ('W/"1", "1"', True, True),
        ('"W/1"', False, False),
    ],
)
def test_comparisons(theirs: str, strong: bool, weak: bool) -> None:
    parsed = parse_tag_list(theirs)
    assert parsed is not None
    assert parsed.matches_strongly(('"1"',)) is strong
    assert parsed.matches_weakly(('"1"',)) is weak


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({}, Verdict.PROCEED),
        ({"if-match": "*"}, Verdict.PROCEED),
        ({"if-match": OURS[0]}, Verdict.PROCEED),
        ({"if-match": f'"x", {OURS[1]}'}, Verdict.PROCEED),
        ({"if-match": f"W/{OURS[0]}"}, Verdict.FAILED),
        ({"if-match": '"x"'}, Verdict.FAILED),
        ({"if-match": ""}, Verdict.FAILED),
        ({"if-match": HEX}, Verdict.FAILED),
        ({"if-match": f'{OURS[0]}, "'}, Verdict.FAILED),
        ({"if-match": f'"sha256:{HEX};gzip"'}, Verdict.FAILED),
        ({"if-none-match": "*"}, Verdict.NOT_MODIFIED),
        ({"if-none-match": OURS[0]}, Verdict.NOT_MODIFIED),
        ({"if-none-match": OURS[1]}, Verdict.NOT_MODIFIED),
        ({"if-none-match": f"W/{OURS[1]}"}, Verdict.NOT_MODIFIED),
        ({"if-none-match": f'"x", {OURS[0]} ,'}, Verdict.NOT_MODIFIED),
        ({"if-none-match": '"x"'}, Verdict.PROCEED),
        ({"if-none-match": ""}, Verdict.PROCEED),
        ({"if-none-match": f'{OURS[0]}, "'}, Verdict.PROCEED),
        ({"if-none-match": f'"sha256:{HEX};gzip"'}, Verdict.PROCEED),
        ({"if-match": "*", "if-none-match": "*"}, Verdict.NOT_MODIFIED),
        ({"if-match": '"x"', "if-none-match": "*"}, Verdict.FAILED),
        ({"if-modified-since": "Sat, 29 Oct 2094 19:43:31 GMT"}, Verdict.PROCEED),
        ({"if-unmodified-since": "Sat, 29 Oct 1994 19:43:31 GMT"}, Verdict.PROCEED),
    ],
)
def test_evaluation(fields: dict[str, str], verdict: Verdict) -> None:
    assert evaluate(fields.get, OURS) is verdict


@pytest.mark.parametrize(
    ("value", "holds"),
    [
        (OURS[0], True),
        (OURS[1], True),
        (f" {OURS[0]}\t", True),
        (f"W/{OURS[0]}", False),
        (f"{OURS[0]}, {OURS[1]}", False),
        (HEX, False),
        ("*", False),
        ("", False),
        ("Sat, 29 Oct 1994 19:43:31 GMT", False),
    ],
)
def test_if_range(value: str, holds: bool) -> None:
    assert if_range_holds(value, OURS) is holds


@law
@given(st.text(), st.text(), st.text())
def test_no_text_raises(if_match: str, if_none_match: str, if_range: str) -> None:
    evaluate({"if-match": if_match, "if-none-match": if_none_match}.get, OURS)
    if_range_holds(if_range, OURS)
