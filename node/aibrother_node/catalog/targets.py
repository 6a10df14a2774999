"""Which TUF targets the documents of a catalog stand for, and what an edit does to them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Final

from aibrother_node.catalog.entries import CatalogDocument, Channel, Entry, Part, ReleasesDocument
from aibrother_node.catalog.names import arranged
from aibrother_node.content.digest import Digest
from aibrother_node.errors import VerificationFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from aibrother_node.catalog.entries import Key

FOLDERS: Final[Mapping[Channel, str]] = {"stable": "models/", "staging": "staging/"}
"""Where the targets of a channel are."""
FLEET_PATH: Final = "fleet.json"


def catalog_path(channel: Channel) -> str:
    """Return the target path of a channel's catalog document."""
    return f"{FOLDERS[channel]}catalog.json"


def releases_path(name: str) -> str:
    """Return the target path of a model's releases document."""
    return f"{FOLDERS['stable']}{name}.releases.json"


@dataclass(frozen=True, slots=True)
class TargetEdit:
    """What a target's metadata shall say.

    Attributes:
        sha256: of the file.
        length: of the file in bytes.
        custom: of a part: name, version, variant, chunks; None for a document.
    """

    sha256: Digest
    length: int
    custom: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Content:
    """What is published.

    Attributes:
        stable, staging: the two catalog documents.
        load_releases: returns the releases document of a stable model, None where there is none.
    """

    stable: CatalogDocument
    staging: CatalogDocument
    load_releases: Callable[[str], ReleasesDocument | None] = field(repr=False, compare=False)

    def releases(self, name: str) -> ReleasesDocument:
        """Return the releases document of a model, an empty one where there is none.

        Raises:
            VerificationFailed: it is that of another model.
        """
        document = self.load_releases(name)
        if document is None:
            return ReleasesDocument(name)
        if document.name != name:
            raise VerificationFailed(
                f"{releases_path(name)} is that of another model", expected=name, actual=document.name
            )
        return document


@dataclass(frozen=True)
class Edit:
    """A difference between two published states.

    Attributes:
        documents: by target path: the new bytes, or None where the document goes.
        targets: by target path: what its metadata shall say, or None where the target goes; the documents' among them.
        content: the state afterwards.
        entries: the releases that the edit was asked for, as they are afterwards (those withdrawn: as they were).
    """

    documents: Mapping[str, bytes | None]
    targets: Mapping[str, TargetEdit | None]
    content: Content = field(compare=False)
    entries: tuple[Entry, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return not self.documents and not self.targets


def document_target(data: bytes) -> TargetEdit:
    """Return what the metadata of a document says."""
    return TargetEdit(Digest(hashlib.sha256(data).digest()), len(data))


def part_targets(channel: Channel, entries: Iterable[Entry], withdrawn: Collection[Key] = ()) -> dict[str, TargetEdit]:
    """Return the targets that these releases stand for: their fixed names, and the moving ones of the newest.

    Args:
        channel: which folder.
        entries: all of each name and variant that is among them.
        withdrawn: which of them have none.
    """
    folder = FOLDERS[channel]
    found: dict[str, TargetEdit] = {}
    offered = (entry for entry in entries if entry.key not in withdrawn)
    for _, group in groupby(arranged(offered), lambda entry: (entry.name, entry.variant)):
        versions = list(group)
        for entry in versions:
            found.update((folder + file.filename, _part_target(entry, file)) for file in entry.files)
        newest = versions[-1]
        names = newest.moving_filenames()
        found.update(
            (folder + name, _part_target(newest, file)) for name, file in zip(names, newest.files, strict=True)
        )
    return found


def _part_target(entry: Entry, file: Part) -> TargetEdit:
    custom = {"name": entry.name, "version": entry.version, "variant": entry.variant, "chunks": str(file.chunks)}
    return TargetEdit(file.sha256, file.size_bytes, custom)


def newest_of_each(entries: Iterable[Entry], withdrawn: Collection[Key] = ()) -> list[Entry]:
    """Return the newest version of each name and variant, what `catalog.json` shows."""
    offered = (entry for entry in entries if entry.key not in withdrawn)
    groups = groupby(arranged(offered), lambda entry: (entry.name, entry.variant))
    return [list(group)[-1] for _, group in groups]


def difference(before: Mapping[str, TargetEdit], after: Mapping[str, TargetEdit]) -> dict[str, TargetEdit | None]:
    """Return what leads from one to the other; None where a target goes."""
    changes: dict[str, TargetEdit | None] = {path: None for path in before if path not in after}
    changes.update((path, target) for path, target in after.items() if before.get(path) != target)
    return changes


def all_part_targets(content: Content) -> dict[str, TargetEdit]:
    """Return the targets of all parts in both channels: what the metadata must say, whatever edits led here."""
    withdrawn = {one.key for one in content.stable.yanked}
    names = {entry.name for entry in content.stable.models} | {one.name for one in content.stable.yanked}
    found = part_targets("staging", content.staging.models)
    for name in sorted(names):
        found.update(part_targets("stable", content.releases(name).releases, withdrawn))
    return found
