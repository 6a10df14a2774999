"""The working copy behind an edit: what is added and withdrawn is checked here, and `finish` tells the difference."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aibrother_node.catalog.entries import (
    CatalogDocument,
    Key,
    ReleasesDocument,
    Yanked,
    content_of,
    encode,
    show_content,
)
from aibrother_node.catalog.names import Reference, readings
from aibrother_node.catalog.targets import (
    Content,
    Edit,
    TargetEdit,
    catalog_path,
    difference,
    document_target,
    newest_of_each,
    part_targets,
    releases_path,
)
from aibrother_node.catalog.values import time_text
from aibrother_node.errors import Refused, VerificationFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from aibrother_node.catalog.entries import Entry
    from aibrother_node.catalog.names import Reading
    from aibrother_node.content.digest import Digest


class AlreadyUsed(Refused):
    """Another content was published under this name, version and variant, which it keeps for ever.

    Attributes:
        used: the digests of all its files, as far as they are still known.
        offered: those of the files that were offered now.
    """

    def __init__(self, key: Key, used: tuple[Digest, ...], offered: tuple[Digest, ...], why: str) -> None:
        self.used = used
        self.offered = offered
        shown = show_content(used) if used else "another content"
        super().__init__(
            f"{show_key(key)} {why} {shown}, so it can't mean {show_content(offered)}: publish that as another version"
        )


def show_key(key: Key) -> str:
    """Write a release as people refer to it."""
    name, version, variant = key
    return str(Reference(name, variant, version))


def same_content(used: Entry, offered: Entry) -> bool:
    """Tell whether what is offered is there already; offered without a projector, it is the same with one."""
    if offered.projector is None:
        return [part.sha256 for part in used.parts] == [part.sha256 for part in offered.parts]
    return content_of(used) == content_of(offered)


@dataclass
class _Releases:
    """The releases of one stable model, before and now."""

    before: Mapping[Key, Entry]
    now: dict[Key, Entry] = field(init=False)
    touched: bool = False

    def __post_init__(self) -> None:
        self.now = dict(self.before)


class Draft:
    """A state that is being edited.

    Attributes:
        staged: the releases in staging.
        stable_yanked, staging_yanked: the tombstones of each channel.
    """

    def __init__(self, content: Content) -> None:
        self._content = content
        self._loaded: dict[str, _Releases] = {}
        self.staged = {entry.key: entry for entry in content.staging.models}
        self.stable_yanked = {one.key: one for one in content.stable.yanked}
        self.staging_yanked = {one.key: one for one in content.staging.yanked}
        self._offered = {entry.name for entry in content.stable.models}
        self._staged_names = {entry.name for entry in content.staging.models}
        self._stable_names = self._offered | {one.name for one in content.stable.yanked}

    def releases(self, name: str) -> dict[Key, Entry]:
        """Return the releases of a stable model, yanked ones among them; to be looked at only.

        Raises:
            VerificationFailed: the catalog offers the model and its releases are missing.
        """
        return self._model(name).now

    def _model(self, name: str) -> _Releases:
        if name not in self._loaded:
            document = self._content.releases(name) if name in self._stable_names else ReleasesDocument(name)
            if name in self._offered and not document.releases:
                raise VerificationFailed(f"the catalog offers {name}, and {releases_path(name)} is missing or empty")
            self._loaded[name] = _Releases({entry.key: entry for entry in document.releases})
        return self._loaded[name]

    def offered(self, name: str) -> list[Entry]:
        """Return the stable releases of a model that are not yanked."""
        return [entry for entry in self.releases(name).values() if entry.key not in self.stable_yanked]

    def add_stable(self, entry: Entry) -> Entry:
        """Offer a release; return the one that is there afterwards.

        Raises:
            AlreadyUsed: its name, version and variant mean another content.
            Refused: it was withdrawn, or another release has one of its file names.
        """
        self._refuse_other_content(entry)
        self._refuse_withdrawn(entry, self.stable_yanked.get(entry.key), self._way_back(entry.key))
        self._refuse_withdrawn(entry, self.staging_yanked.get(entry.key), "publish it to staging again")
        if present := self.releases(entry.name).get(entry.key):
            return present
        self._refuse_collisions(entry)
        self.put_stable(entry)
        return entry

    def add_staged(self, entry: Entry) -> Entry:
        """Stage a release; return the one that is there afterwards, which may be the stable one.

        One that was withdrawn from staging comes back, if it is the same.

        Raises:
            AlreadyUsed, Refused: as for `add_stable`.
        """
        self._refuse_other_content(entry)
        self._refuse_withdrawn(entry, self.stable_yanked.get(entry.key), self._way_back(entry.key))
        if present := self.releases(entry.name).get(entry.key) or self.staged.get(entry.key):
            return present
        if tombstone := self.staging_yanked.get(entry.key):
            # A shard set's tombstone has no digest by which it could be told to be the same.
            if tombstone.sha256 is None or tombstone.sha256 != entry.sha256:
                self._refuse_withdrawn(entry, tombstone, "its content is no longer known")
            del self.staging_yanked[entry.key]
        self._refuse_collisions(entry)
        self.put_staged(entry)
        return entry

    def put_stable(self, entry: Entry) -> None:
        """Set a stable release, new or with other metadata; unchecked."""
        model = self._model(entry.name)
        model.now[entry.key] = entry
        model.touched = True
        self._stable_names.add(entry.name)

    def put_staged(self, entry: Entry) -> None:
        """Set a staged release, new or with other metadata; unchecked."""
        self.staged[entry.key] = entry
        self._staged_names.add(entry.name)

    def yank_stable(self, entry: Entry, reason: str, now: datetime) -> None:
        """Withdraw a stable release; its entry stays."""
        self.stable_yanked[entry.key] = Yanked(*entry.key, entry.sha256, reason, time_text(now))
        self._model(entry.name).touched = True

    def unyank_stable(self, key: Key) -> None:
        """Restore a stable release."""
        del self.stable_yanked[key]
        self._model(key[0]).touched = True

    def forget_stable(self, entry: Entry, reason: str, now: datetime) -> None:
        """Drop a stable release, but for a tombstone; one that it has already keeps its reason."""
        if entry.key not in self.stable_yanked:
            self.yank_stable(entry, reason, now)
        model = self._model(entry.name)
        del model.now[entry.key]
        model.touched = True

    def yank_staged(self, entry: Entry, reason: str, now: datetime) -> None:
        """Withdraw a staged release; its entry goes."""
        del self.staged[entry.key]
        self.staging_yanked[entry.key] = Yanked(*entry.key, entry.sha256, reason, time_text(now))

    def _refuse_other_content(self, entry: Entry) -> None:
        for used in (self.releases(entry.name).get(entry.key), self.staged.get(entry.key)):
            if used is not None and not same_content(used, entry):
                raise AlreadyUsed(entry.key, content_of(used), content_of(entry), "is")

    def _way_back(self, key: Key) -> str:
        return "restore it with unyank" if key in self.releases(key[0]) else "its content is no longer known"

    @staticmethod
    def _refuse_withdrawn(entry: Entry, tombstone: Yanked | None, what_to_do: str) -> None:
        if tombstone is None:
            return
        if tombstone.sha256 != entry.sha256:
            used = () if tombstone.sha256 is None else (tombstone.sha256,)
            raise AlreadyUsed(entry.key, used, content_of(entry), "was withdrawn and is for ever")
        raise Refused(
            f"{show_key(entry.key)} was withdrawn on {tombstone.date} ({tombstone.reason}): {what_to_do}, "
            "or publish another version"
        )

    def _refuse_collisions(self, entry: Entry) -> None:
        """Refuse a release that would have a file name, fixed or moving, which another one has or had."""
        for filename in (*(file.filename for file in entry.files), *entry.moving_filenames()):
            for reading in readings(filename):
                key = (reading.name, reading.version or "", reading.variant)
                if key == entry.key:
                    continue
                if any(filename in names for names in self._names_under(reading, entry.name)):
                    raise Refused(
                        f"{show_key(entry.key)} would have the file name {filename}, which another release of "
                        f"{reading.name} has: choose another name or version"
                    )
                # What is left of a retired release doesn't say how many parts it had; so any number counts.
                if key in self.stable_yanked or key in self.staging_yanked:
                    raise Refused(
                        f"{show_key(entry.key)} would have the file name {filename}, which was that of "
                        f"{show_key(key)}, now withdrawn: choose another name or version"
                    )

    def _names_under(self, reading: Reading, own: str) -> Iterator[tuple[str, ...]]:
        """Tell the file names of releases that a file's name can be read as, but for a model's own moving ones."""
        if reading.version is not None:
            key = (reading.name, reading.version, reading.variant)
            for entry in (self._stable(reading.name).get(key), self.staged.get(key)):
                if entry is not None:
                    yield tuple(file.filename for file in entry.files)
        elif reading.name != own:
            for entry in (*self._stable(reading.name).values(), *self.staged_of(reading.name)):
                if entry.variant == reading.variant:
                    yield entry.moving_filenames()

    def _stable(self, name: str) -> Mapping[Key, Entry]:
        return self.releases(name) if name in self._stable_names else {}

    def staged_of(self, name: str) -> list[Entry]:
        """Return the staged releases of a model."""
        if name not in self._staged_names:
            return []
        return [entry for entry in self.staged.values() if entry.name == name]

    def finish(self, now: datetime, entries: Iterable[Entry]) -> Edit:
        """Return the difference to the state at the beginning; `entries` are what the edit was asked for."""
        documents: dict[str, bytes | None] = {}
        targets: dict[str, TargetEdit | None] = {}
        stable = self._finish_stable(now, documents, targets)
        staging = self._finish_staging(now, documents, targets)
        for path, data in documents.items():
            targets[path] = None if data is None else document_target(data)
        return Edit(documents, targets, Content(stable, staging, self._load), tuple(entries))

    def _finish_stable(
        self, now: datetime, documents: dict[str, bytes | None], targets: dict[str, TargetEdit | None]
    ) -> CatalogDocument:
        old = self._content.stable
        was_withdrawn = {one.key for one in old.yanked}
        offered: list[Entry] = []
        changed: set[str] = set()
        for name, model in self._loaded.items():
            if not model.touched:
                continue
            before = part_targets("stable", model.before.values(), was_withdrawn)
            after = part_targets("stable", model.now.values(), self.stable_yanked)
            targets.update(difference(before, after))
            if model.now != model.before:
                releases = ReleasesDocument(name, tuple(model.now.values()))
                documents[releases_path(name)] = encode(releases) if releases.releases else None
            changed.add(name)
            offered += newest_of_each(model.now.values(), self.stable_yanked)
        if not changed:
            return old
        yanked = tuple(self.stable_yanked.values())
        models = (*(entry for entry in old.models if entry.name not in changed), *offered)
        new = CatalogDocument("stable", old.version + 1, time_text(now), models, yanked)
        if not documents and (new.models, new.yanked) == (old.models, old.yanked):
            return old
        documents[catalog_path("stable")] = encode(new)
        return new

    def _finish_staging(
        self, now: datetime, documents: dict[str, bytes | None], targets: dict[str, TargetEdit | None]
    ) -> CatalogDocument:
        old = self._content.staging
        models, yanked = tuple(self.staged.values()), tuple(self.staging_yanked.values())
        new = CatalogDocument("staging", old.version + 1, time_text(now), models, yanked)
        if (new.models, new.yanked) == (old.models, old.yanked):
            return old
        targets.update(difference(part_targets("staging", old.models), part_targets("staging", new.models)))
        documents[catalog_path("staging")] = encode(new)
        return new

    def _load(self, name: str) -> ReleasesDocument | None:
        if name not in self._loaded:
            return self._content.load_releases(name)
        entries = self._loaded[name].now
        return ReleasesDocument(name, tuple(entries.values())) if entries else None
