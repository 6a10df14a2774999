"""Names of releases and of their files, and which version is the newest.

A file is called `<name>-<version>-<variant>.gguf`, where neither version nor variant has a hyphen: such a name reads in
one way only, from the right. Two releases can want one file all the same: the moving name `<name>-<variant>.gguf` of a
model `a-1` is the fixed one of version 1 of a model `a`, and a shard's suffix may pass for version and variant.
`readings` gives all the ways to read a file's name, so that whoever publishes can look for the other claimant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from packaging.version import InvalidVersion, Version

from aibrother_node.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}", re.ASCII)
_VERSION: Final = re.compile(r"[a-z0-9][a-z0-9._+]{0,47}", re.ASCII)
_SUFFIX: Final = ".gguf"
_SHARD: Final = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})", re.ASCII)
_PROJECTOR: Final = "mmproj-"
MAX_PARTS: Final = 1024
"""Of one release; llama.cpp's five digits would allow 99,999."""


def check_name(text: str) -> str:
    """Return the name of a model: 1 to 96 of `a-z 0-9 . _ -`, the first no punctuation, without `..`.

    Names that begin with `mmproj-` are refused: files of that name are projectors (llama.cpp looks for them so).

    Raises:
        InvalidInput: it is none.
    """
    if not _NAME.fullmatch(text) or ".." in text:
        raise InvalidInput(
            "not a model's name (1 to 96 of a-z 0-9 . _ -, beginning with a letter or digit, without '..'): "
            f"{text[:120]!r}"
        )
    if text.startswith(_PROJECTOR):
        raise InvalidInput(f"a model's name may not begin with {_PROJECTOR!r}, as the files of projectors do: {text!r}")
    return text


def check_version(text: str) -> str:
    """Return a version: 1 to 48 of `a-z 0-9 . _ +`, the first no punctuation, without `..`.

    Raises:
        InvalidInput: it is none.
    """
    return _check_word(text, "a version")


def check_variant(text: str) -> str:
    """Return a variant: what a version may be.

    Raises:
        InvalidInput: it is none.
    """
    return _check_word(text, "a variant")


def _check_word(text: str, what: str) -> str:
    if not _VERSION.fullmatch(text) or ".." in text:
        raise InvalidInput(
            f"not {what} (1 to 48 of a-z 0-9 . _ +, beginning with a letter or digit, without '..'): {text[:120]!r}"
        )
    return text


def part_filename(name: str, version: str, variant: str, number: int = 1, of: int = 1) -> str:
    """Return the fixed name of a part: it never means other bytes.

    Args:
        name, version, variant: checked ones.
        number, of: of a shard set, from 1.
    """
    return f"{name}-{version}-{variant}{_shard(number, of)}{_SUFFIX}"


def moving_filename(name: str, variant: str, number: int = 1, of: int = 1) -> str:
    """Return the name that follows the newest version."""
    return f"{name}-{variant}{_shard(number, of)}{_SUFFIX}"


def projector_filename(name: str, version: str, variant: str) -> str:
    """Return the fixed name of a release's projector."""
    return f"{_PROJECTOR}{part_filename(name, version, variant)}"


def moving_projector_filename(name: str, variant: str) -> str:
    """Return the name that follows the newest version's projector."""
    return f"{_PROJECTOR}{moving_filename(name, variant)}"


def is_fixed(path: str, name: object, version: object, variant: object) -> bool:
    """Whether a target path or file name has this release's version in it, so that it never means other bytes."""
    filename = path.rpartition("/")[2].removeprefix(_PROJECTOR)  # a projector's is as fixed
    return filename.startswith(f"{name}-{version}-{variant}")


def _shard(number: int, of: int) -> str:
    if not 1 <= number <= of <= MAX_PARTS:
        raise InvalidInput(f"part {number} of {of}: a release has 1 to {MAX_PARTS} parts")
    return "" if of == 1 else f"-{number:05}-of-{of:05}"


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read a file's name.

    Attributes:
        name, variant: of the release.
        version: None where the name is read as a moving one.
    """

    name: str
    version: str | None
    variant: str


def readings(filename: str) -> tuple[Reading, ...]:
    """Return all releases that this file's name could belong to, at most four."""
    stem = filename.removesuffix(_SUFFIX).removeprefix(_PROJECTOR)
    if not filename.endswith(_SUFFIX):
        return ()
    stems = [stem]
    if shard := _SHARD.fullmatch(stem):
        stems.append(shard[1])
    found = []
    for one in stems:
        rest, hyphen, variant = one.rpartition("-")
        if hyphen and _reads(rest, variant):
            found.append(Reading(rest, None, variant))
        name, hyphen, version = rest.rpartition("-")
        if hyphen and _reads(name, version) and _reads(name, variant):
            found.append(Reading(name, version, variant))
    return tuple(found)


def _reads(name: str, word: str) -> bool:
    return bool(_NAME.fullmatch(name) and _VERSION.fullmatch(word)) and ".." not in name and ".." not in word


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """What people write to mean releases: `NAME[:VARIANT][@VERSION]`.

    Attributes:
        name: of the model.
        variant: None means each that there is.
        version: None means the newest.
    """

    name: str
    variant: str | None = None
    version: str | None = None

    def __str__(self) -> str:
        variant = "" if self.variant is None else f":{self.variant}"
        return self.name + variant + ("" if self.version is None else f"@{self.version}")


def parse_reference(text: str) -> Reference:
    """Read `NAME[:VARIANT][@VERSION]`.

    Raises:
        InvalidInput: for anything else.
    """
    rest, at, version = text.partition("@")
    name, colon, variant = rest.partition(":")
    return Reference(
        check_name(name), check_variant(variant) if colon else None, check_version(version) if at else None
    )


class Versioned(Protocol):
    """Anything with a version and the time at which it was made (RFC 3339, UTC, as entries have it)."""

    @property
    def version(self) -> str: ...
    @property
    def processed_date(self) -> str: ...


V = TypeVar("V", bound=Versioned)


def ordered(items: Iterable[V]) -> list[V]:
    """Sort by version, oldest first; equal versions keep the order in which they came.

    Versions order as PEP 440 where both parse, else by processed date. Taken pair by pair that rule goes in circles
    (1.0 < 2.0 by number, 2.0 < x < 1.0 by date), so it is applied to the two kinds apart, and the two sequences are
    merged from their newest ends by date. The result does not depend on the order of the distinct versions that came.
    A version that several items have counts with its latest date.
    """
    groups: dict[str, list[V]] = {}
    for item in items:
        groups.setdefault(item.version, []).append(item)
    if len(groups) == 1:
        return next(iter(groups.values()))
    numbered: list[tuple[Version, str, str]] = []
    dated: list[tuple[str, str]] = []
    for version, group in groups.items():
        date = max(item.processed_date for item in group)
        try:
            numbered.append((Version(version), date, version))
        except InvalidVersion:
            dated.append((date, version))
    numbered.sort()
    dated.sort()
    newest_first = []
    while numbered or dated:
        if not dated or (numbered and numbered[-1][1] >= dated[-1][0]):
            newest_first.append(numbered.pop()[2])
        else:
            newest_first.append(dated.pop()[1])
    return [item for version in reversed(newest_first) for item in groups[version]]


def newest(items: Iterable[V]) -> V:
    """Return the newest, by the order of `ordered`.

    Raises:
        ValueError: there are none.
    """
    found = ordered(items)
    if not found:
        raise ValueError("there is no newest of nothing")
    return found[-1]


class Named(Versioned, Protocol):
    """What `arranged` sorts."""

    @property
    def name(self) -> str: ...
    @property
    def variant(self) -> str: ...


N = TypeVar("N", bound=Named)


def arranged(items: Iterable[N]) -> list[N]:
    """Sort by name, then variant, then version as `ordered` does."""

    def key(item: N) -> tuple[str, str]:
        return item.name, item.variant

    return [item for _, group in groupby(sorted(items, key=key), key) for item in ordered(group)]
