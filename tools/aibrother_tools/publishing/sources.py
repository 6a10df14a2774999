"""What `publish` is given, read into drafts of releases: files, folders, plans, and the notes beside files.

A release's fields come, in this order, from the command line, the plan, the note `<file>.json` beside the (first) file,
and from the GGUF itself (`drafts.py`). Nothing here opens a model.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aibrother_node.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_NOTE: Final = 1 << 20
_SHARD: Final = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.ASCII)
_PROJECTOR: Final = "mmproj"

_Text = Annotated[str, Field(min_length=1, max_length=4000)]
_Word = Annotated[str, Field(min_length=1, max_length=200)]


class Fields(BaseModel):
    """What people may say of a release; None leaves it to the next source."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: _Word | None = None
    version: _Word | None = None
    variant: _Word | None = None
    license: _Word | None = None
    description: _Text | None = None
    tags: Annotated[list[_Word], Field(max_length=100)] | None = None
    repo: _Word | None = None
    min_memory_bytes: Annotated[int, Field(gt=0)] | None = None
    urls: Annotated[list[_Text], Field(max_length=32)] | None = None
    projector: _Text | None = None

    def over(self, weaker: Fields) -> Fields:
        """These fields, and where they are silent, those of `weaker`."""
        return weaker.model_copy(update=self.model_dump(exclude_none=True))


class _Note(Fields):
    """A note beside a file: `prepare` writes more into it than is read here."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _PlannedRelease(Fields):
    files: Annotated[list[_Text], Field(min_length=1, max_length=1024)]


class _Plan(BaseModel):
    model_config = ConfigDict(extra="forbid")

    defaults: Fields = Fields()
    release: Annotated[list[_PlannedRelease], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Source:
    """The files of one release as they were given.

    Attributes:
        files: in the order given.
        fields: what people say of it.
        projector: the file of its multimodal projector.
    """

    files: tuple[Path, ...]
    fields: Fields
    projector: Path | None


def sources(paths: Sequence[Path], given: Fields) -> list[Source]:
    """Read what was given on the command line.

    Args:
        paths: GGUF files; or one folder; or one plan in TOML.
        given: the fields from the command line.

    Raises:
        NotFound: a file is not there.
        InvalidInput: a plan or note can't be read, or says something that there isn't.
    """
    if len(paths) == 1 and paths[0].is_dir():
        files = sorted(path for path in paths[0].glob("*.gguf") if not path.name.startswith(_PROJECTOR))
        if not files:
            raise NotFound(f"no GGUF files in {paths[0]}")
        return [_source(group, given) for group in _grouped(files)]
    if len(paths) == 1 and paths[0].suffix == ".toml":
        return _planned(paths[0], given)
    for path in paths:
        if not path.is_file():
            raise NotFound(f"no such file: {path}")
    return [_source(group, given) for group in _grouped(paths)]


def _source(files: Sequence[Path], stronger: Fields) -> Source:
    """One release; the note of the first file fills in what is not said elsewhere."""
    first = files[0]
    shard = _SHARD.fullmatch(first.name)
    stems = [first.name.removesuffix(".gguf"), *([shard[1]] if shard else [])]
    fields = stronger
    for stem in stems:
        note = first.with_name(f"{stem}.json")
        if note.is_file():
            fields = stronger.over(_read_note(note))
            break
    if fields.projector is None:
        return Source(tuple(files), fields, None)
    # what the command line or a plan names is a path already; a note means a file beside it
    projector = Path(fields.projector) if stronger.projector is not None else first.parent / fields.projector
    if not projector.is_file():
        raise NotFound(f"no such projector: {projector}")
    return Source(tuple(files), fields, projector)


def _planned(path: Path, given: Fields) -> list[Source]:
    try:
        plan = _Plan.model_validate(tomllib.loads(_read_text(path)))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise InvalidInput(f"{path}: {_in_words(error)}") from None
    found = []
    for release in plan.release:
        files = [path.parent / file for file in release.files]
        for file in files:
            if not file.is_file():
                raise NotFound(f"{path}: no such file: {file}")
        own = Fields.model_validate(release.model_dump(exclude={"files"}))
        fields = given.over(own.over(plan.defaults))
        if fields.projector is not None and given.projector is None:
            fields = fields.model_copy(update={"projector": str(path.parent / fields.projector)})
        found.append(_source(files, fields))
    return found


def _grouped(files: Sequence[Path]) -> list[list[Path]]:
    """Shards of one set together, in the order of their numbers; every other file alone."""
    groups: dict[tuple[Path, str], list[Path]] = {}
    for file in files:
        shard = _SHARD.fullmatch(file.name)
        groups.setdefault((file.parent, f"{shard[1]} of {shard[3]}" if shard else file.name), []).append(file)
    return [sorted(group, key=lambda file: file.name) for group in groups.values()]


def _read_note(path: Path) -> Fields:
    try:
        return _Note.model_validate(json.loads(_read_text(path)))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path}: {_in_words(error)}") from None


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_NOTE + 1)
    except FileNotFoundError:
        raise NotFound(f"no such file: {path}") from None
    if len(data) > _MAX_NOTE:
        raise InvalidInput(f"{path} is larger than {_MAX_NOTE} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8: {error}") from None


def _in_words(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
