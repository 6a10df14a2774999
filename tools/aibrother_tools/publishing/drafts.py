"""Drafts of releases: each file's header read and checked, what is missing filled in from it.

A file that the GGUF reader refuses is never published. A shard set (llama.cpp's gguf-split) is complete or refused:
every shard says which one it is, and of how many.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aibrother_node.catalog.facts import default_name, default_variant, facts, license_of
from aibrother_node.catalog.names import check_name, check_variant, check_version
from aibrother_node.content.gguf import GgufError, read_header
from aibrother_node.errors import InvalidInput, VerificationFailed
from aibrother_node.store.incoming import read_at

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from pathlib import Path

    from aibrother_node.catalog.entries import GgufFacts
    from aibrother_node.content.gguf import GgufHeader
    from aibrother_tools.publishing.sources import Fields, Source

UNKNOWN_LICENSE: Final = "unknown"
_SHARD_NUMBER: Final = "split.no"
_SHARD_COUNT: Final = "split.count"


@dataclass(frozen=True, slots=True)
class Draft:
    """A release before its files are stored.

    Attributes:
        name, version, variant: checked.
        files: in the order of the shards.
        projector: the file of its multimodal projector.
        fields: what people said; the licence is filled in.
        gguf: what the headers say.
        warnings: for whoever publishes.
    """

    name: str
    version: str
    variant: str
    files: tuple[Path, ...]
    projector: Path | None
    fields: Fields
    gguf: GgufFacts
    warnings: tuple[str, ...] = ()


def drafts(sources: Iterable[Source], now: datetime) -> list[Draft]:
    """Read all headers. Sources that come to one name, version and variant are the shards of one release.

    Raises:
        VerificationFailed: a file is no GGUF, or a shard set is not complete.
        InvalidInput: a name, version or variant can't be used.
    """
    read = [_read(source) for source in sources]
    groups: dict[tuple[str, str, str], list[_Read]] = {}
    for one in read:
        groups.setdefault(_key(one, now), []).append(one)
    return [_draft(key, group) for key, group in groups.items()]


@dataclass(frozen=True, slots=True)
class _Read:
    source: Source
    headers: tuple[GgufHeader, ...]


def _read(source: Source) -> _Read:
    if source.projector is not None:
        read_gguf(source.projector)
    return _Read(source, tuple(read_gguf(file) for file in source.files))


def read_gguf(path: Path) -> GgufHeader:
    """Read a file's header, all of it checked.

    Raises:
        VerificationFailed: it is no GGUF file, or one that is damaged; the message says what, and at which byte.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_header(read_at(fd), os.fstat(fd).st_size)
    except GgufError as error:
        raise VerificationFailed(f"{path} is not published: {error}") from error
    finally:
        os.close(fd)


def _key(read: _Read, now: datetime) -> tuple[str, str, str]:
    fields, header, first = read.source.fields, read.headers[0], read.source.files[0]
    name = fields.name or default_name(header)
    variant = fields.variant or default_variant(header)
    if name is None:
        raise InvalidInput(f"{first} does not say what it is called: give --name")
    if variant is None:
        raise InvalidInput(f"{first} does not say how it is quantized: give --variant")
    version = fields.version or f"{now.year}.{now.month}.{now.day}"
    return check_name(name), check_version(version), check_variant(variant)


def _draft(key: tuple[str, str, str], group: list[_Read]) -> Draft:
    shards = [(file, header) for read in group for file, header in zip(read.source.files, read.headers, strict=True)]
    ordered = _complete(shards)
    fields, projector = group[0].source.fields, next((read.source.projector for read in group), None)
    warnings = []
    gguf = facts(*(header for _, header in ordered))
    if fields.license is None:
        found = license_of(ordered[0][1])
        fields = fields.model_copy(update={"license": found or UNKNOWN_LICENSE})
        if found is None:
            warnings.append(f"{'-'.join(key)}: the licence is unknown; say --license")
    return Draft(*key, tuple(file for file, _ in ordered), projector, fields, gguf, tuple(warnings))


def _complete(shards: list[tuple[Path, GgufHeader]]) -> list[tuple[Path, GgufHeader]]:
    """The shards in their order.

    Raises:
        VerificationFailed: one is missing, there twice, or of another set.
    """
    counts = {_number(header, _SHARD_COUNT) or 1 for _, header in shards}
    names = ", ".join(file.name for file, _ in shards)
    if len(counts) > 1:
        raise VerificationFailed(f"not one set of shards: {names} say that they are of {sorted(counts)} files")
    (count,) = counts
    if count == 1:
        if len(shards) > 1:
            raise VerificationFailed(f"{names} would be one release, and are no shards of one model (gguf-split)")
        return shards
    numbered = {_number(header, _SHARD_NUMBER): (file, header) for file, header in shards}
    missing = [number + 1 for number in range(count) if number not in numbered]
    if missing or len(shards) != count:
        shown = ", ".join(map(str, missing[:5])) or "none"
        raise VerificationFailed(
            f"a set of {count} shards is published whole: {len(shards)} given ({names}), missing number {shown}"
        )
    return [numbered[number] for number in range(count)]


def _number(header: GgufHeader, key: str) -> int | None:
    found = header.value(key)
    return found if type(found) is int and found >= 0 else None
