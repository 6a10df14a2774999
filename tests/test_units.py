"""Sizes, rates and durations: one row a reading, one row a fault."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrother_node.units import MAX_DURATION, MAX_SIZE, parse_duration, parse_rate, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        (1_048_576, 1_048_576),
        ("0", 0),
        ("1048576", 1_048_576),
        ("512 B", 512),
        ("512B", 512),
        ("1 kB", 1000),
        ("1 KB", 1000),
        ("1kb", 1000),
        ("500 MB", 500_000_000),
        ("0.1 GB", 100_000_000),
        ("8 KiB", 8192),
        ("8kib", 8192),
        ("1.5 GiB", 1_610_612_736),
        ("20 GiB", 20 * 1024**3),
        ("  20\tGiB ", 20 * 1024**3),
        ("2 TiB", 2 * 1024**4),
        ("1 PB", 10**15),
        ("0.3 KiB", 307),
        (MAX_SIZE, MAX_SIZE),
        (str(MAX_SIZE), MAX_SIZE),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'' is not a size"),
        ("much", "'much' is not a size"),
        ("-1", "is not a size"),
        ("1e6", "is not a size"),
        ("1 000 kB", "is not a size"),
        ("1,5 GiB", "is not a size"),
        ("٣ GiB", "is not a size"),
        ("20 G", "'G' is none of B, GB (powers of 1000) and GiB (powers of 1024)"),
        ("20 Gb", "'Gb' is none of"),
        ("20 k", "'k' is none of B, kB (powers of 1000) and KiB"),
        ("20 XB", "'XB' is none of B, kB, MB"),
        ("1.5", "a fraction needs a unit"),
        ("9 EB", "'EB' is none of"),
        ("9999999 TB", "larger than 8 EiB"),
        (MAX_SIZE + 1, "larger than 8 EiB"),
        ("9" * 21, "is not a size"),
        (-1, "must not be negative"),
        (1.5, "must be a size"),
        (True, "must be a size"),
        (None, "must be a size"),
        (["1 GiB"], "must be a size"),
    ],
)
def test_what_is_no_size(text: object, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        (0, 0),
        ("0", 0),
        (125, 125),
        ("100 MB/s", 100_000_000),
        ("100MB/s", 100_000_000),
        ("100 MB", 100_000_000),
        ("1.5 MiB / s", 1_572_864),
        ("800 Mbit/s", 100_000_000),
        ("1 Gbit/s", 125_000_000),
        ("12 bit/s", 1),
    ],
)
def test_rates(text: object, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("100 MB/h", "a rate is by the second"),
        ("100 Mb/s", "'Mb' is none of"),
        ("fast/s", "is not a rate"),
        ("", "is not a rate"),
        (True, "must be a rate"),
        (-5, "must not be negative"),
    ],
)
def test_what_is_no_rate(text: object, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (0, 0.0),
        (30, 30.0),
        (0.25, 0.25),
        ("30", 30.0),
        ("0.5", 0.5),
        ("250ms", 0.25),
        ("1s", 1.0),
        ("1.5 s", 1.5),
        ("5m", 300.0),
        ("5 min", 300.0),
        ("6h", 21_600.0),
        ("6 hours", 21_600.0),
        ("1h30m", 5400.0),
        ("1 h 30 m 5 s", 5405.0),
        ("7d", 604_800.0),
        ("2w", 1_209_600.0),
        ("1y", 31_536_000.0),
        (" 1 day ", 86_400.0),
        ("100y", float(MAX_DURATION)),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("soon", "'soon' is not a duration"),
        ("10 parsecs", "'parsecs' is none of ms, s, m, h, d, w, y"),
        ("6H", "'H' is none of"),
        ("1M", "'M' is none of"),
        ("30m1h", "largest first"),
        ("1h1h", "each unit once"),
        ("5m and 3s", "is not a duration"),
        ("-1s", "is not a duration"),
        ("101y", "between 0 and 100 years"),
        (-1, "between 0 and 100 years"),
        (float("nan"), "between 0 and 100 years"),
        (float("inf"), "between 0 and 100 years"),
        (MAX_DURATION + 1, "between 0 and 100 years"),
        (True, "must be a duration"),
        (None, "must be a duration"),
    ],
)
def test_what_is_no_duration(text: object, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_duration(text)


@given(st.integers(0, MAX_SIZE // 1024**4), st.sampled_from(["B", "KiB", "MiB", "GiB", "TiB"]))
def test_a_whole_number_of_units_is_exact(number: int, unit: str) -> None:
    factor = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB"].index(unit)
    assert parse_size(f"{number} {unit}") == number * factor


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_with_a_reason(text: str) -> None:
    for parse in (parse_size, parse_rate, parse_duration):
        reason, value = "", 0.0
        try:
            value = parse(text)
        except ValueError as error:
            reason = str(error)
        assert value >= 0
        assert len(reason) < 300
