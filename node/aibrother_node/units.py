"""Sizes, durations and rates as people write them: "20 GiB", "6h", "100 MB/s".

Arithmetic is in decimals, so that "0.1 GB" is exactly 100,000,000 bytes. What could be read two ways is refused, not
guessed: "20 G" may mean GB or GiB, "Mb" reads as megabits, "M" in a duration may mean months.
"""

import re
from decimal import Decimal
from typing import Final

MAX_SIZE: Final = 2**63 - 1
"""The largest size that files and SQLite can hold, in bytes."""

MAX_DURATION: Final = 100 * 365 * 86_400
"""The longest duration that is accepted, in seconds: a hundred years, so that adding it to a date can't overflow."""

_PREFIXES: Final = "kMGTP"
_SIZE_UNITS: Final = {
    "B": 1,
    "KB": 1000,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate(_PREFIXES, 1)},
    **{f"{prefix.upper()}iB": 1024**power for power, prefix in enumerate(_PREFIXES, 1)},
}
# All in small letters is how many people type; "Gb" with one capital is how others write bits, so it stays out.
_SIZES: Final = {**_SIZE_UNITS, **{unit.lower(): factor for unit, factor in _SIZE_UNITS.items()}}
_BIT_RATES: Final = {"bit": 1, "kbit": 1000, "Mbit": 1000**2, "Gbit": 1000**3, "Tbit": 1000**4}

_SECONDS: Final = {
    "ms": Decimal("0.001"),
    **dict.fromkeys(("s", "sec", "second", "seconds"), Decimal(1)),
    **dict.fromkeys(("m", "min", "minute", "minutes"), Decimal(60)),
    **dict.fromkeys(("h", "hour", "hours"), Decimal(3600)),
    **dict.fromkeys(("d", "day", "days"), Decimal(86_400)),
    **dict.fromkeys(("w", "week", "weeks"), Decimal(7 * 86_400)),
    **dict.fromkeys(("y", "year", "years"), Decimal(365 * 86_400)),
}

# Bounded repeats: the text may come from a request one day, and Decimal is slow on very long numbers.
_NUMBER: Final = r"(\d{1,20}(?:\.\d{1,20})?)"
_QUANTITY: Final = re.compile(rf"{_NUMBER}[ \t]*([A-Za-z]*)", re.ASCII)
_DURATION_TERM: Final = re.compile(rf"{_NUMBER}[ \t]*([A-Za-z]+)[ \t]*", re.ASCII)
_BARE_NUMBER: Final = re.compile(_NUMBER, re.ASCII)


def parse_size(value: object) -> int:
    """Read a size in bytes.

    `value` is a whole number of bytes, or text: a number and a unit of B, kB, MB, GB, TB, PB (powers of 1000) or KiB,
    MiB, GiB, TiB, PiB (powers of 1024); a number alone is bytes. A fraction of a byte is dropped. Raises ValueError
    with a reason for people.
    """
    if isinstance(value, str):
        return _bounded(_decimal_size(value.strip(), 'a size such as "20 GiB"', _SIZES))
    return _bounded(_whole(value, 'a size such as "20 GiB" or a number of bytes'))


def parse_rate(value: object) -> int:
    """Read a rate in bytes a second.

    `value` is a whole number of bytes a second, or text: a size and "/s" ("100 MB/s"), or bits as networks count them
    ("800 Mbit/s"); a number alone is bytes a second, and "/s" can be left out. Raises ValueError with a reason for
    people.
    """
    wanted = 'a rate such as "100 MB/s"'
    if not isinstance(value, str):
        return _bounded(_whole(value, f"{wanted} or a number of bytes a second"))
    text = value.strip()
    if _BARE_NUMBER.fullmatch(text):
        return _bounded(_decimal_size(text, wanted, _SIZES))
    amount, slash, second = text.partition("/")
    if slash and second.strip() != "s":
        raise ValueError(f"{_quote(text)} is not {wanted}: a rate is by the second")
    quantity = _QUANTITY.fullmatch(amount.strip())
    if quantity and quantity[2] in _BIT_RATES:
        return _bounded(int(Decimal(quantity[1]) * _BIT_RATES[quantity[2]]) // 8)
    return _bounded(_decimal_size(amount.strip(), wanted, _SIZES))


def parse_duration(value: object) -> float:
    """Read a duration in seconds.

    `value` is a number of seconds, or text: one or more numbers with a unit of ms, s, m (or min), h, d, w, y (365
    days), largest first ("1h30m", "6 h"); a number alone is seconds. Raises ValueError with a reason for people.
    """
    wanted = 'a duration such as "30s" or "6h"'
    if isinstance(value, str):
        seconds = _text_duration(value.strip(), wanted)
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"must be {wanted}, or a number of seconds")  # noqa: TRY004  # pydantic makes faults of ValueError only
    else:
        # The comparison is written so that it is false for "not a number" too.
        if not 0 <= value <= MAX_DURATION:
            raise ValueError("must be between 0 and 100 years")
        return float(value)
    if seconds > MAX_DURATION:
        raise ValueError("must be between 0 and 100 years")
    return float(seconds)


def _text_duration(text: str, wanted: str) -> Decimal:
    if _BARE_NUMBER.fullmatch(text):
        return Decimal(text)
    total = Decimal(0)
    position, smallest = 0, Decimal("Infinity")
    while position < len(text):
        term = _DURATION_TERM.match(text, position)
        if term is None:
            raise ValueError(f"{_quote(text)} is not {wanted}")
        unit = _SECONDS.get(term[2])
        if unit is None:
            raise ValueError(f"{_quote(text)} is not {wanted}: {term[2]!r} is none of ms, s, m, h, d, w, y")
        if unit >= smallest:
            raise ValueError(f"{_quote(text)} is not {wanted}: each unit once, largest first")
        total += Decimal(term[1]) * unit
        position, smallest = term.end(), unit
    if position == 0:
        raise ValueError(f"is empty; must be {wanted}")
    return total


def _decimal_size(text: str, wanted: str, units: dict[str, int]) -> int:
    quantity = _QUANTITY.fullmatch(text)
    if quantity is None:
        raise ValueError(f"{_quote(text)} is not {wanted}")
    number, unit = quantity.groups()
    if not unit:
        if "." in number:
            raise ValueError(f"{_quote(text)} is not {wanted}: a fraction needs a unit")
        return int(number)
    factor = units.get(unit)
    if factor is None:
        raise ValueError(f"{_quote(text)} is not {wanted}: {unit!r} is none of B, {_unit_hint(unit)}")
    return int(Decimal(number) * factor)


def _unit_hint(unit: str) -> str:
    """Name the units that someone who wrote `unit` may have meant."""
    prefix = unit[0].upper()
    if prefix in _PREFIXES.upper():
        return f"{'k' if prefix == 'K' else prefix}B (powers of 1000) and {prefix}iB (powers of 1024)"
    return "kB, MB, GB, TB, PB, KiB, MiB, GiB, TiB, PiB"


def _whole(value: object, wanted: str) -> int:
    # bool is an int to Python, and `reserve = true` is a slip.
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"must be {wanted}")  # noqa: TRY004  # pydantic makes faults of ValueError only
    if value < 0:
        raise ValueError("must not be negative")
    return value


def _bounded(amount: int) -> int:
    if amount > MAX_SIZE:
        raise ValueError("is larger than 8 EiB")
    return amount


def _quote(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")
