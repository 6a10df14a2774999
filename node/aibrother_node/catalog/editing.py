"""Edits of a catalog: pure functions from what is published to what has to be written and signed.

The documents determine the targets (`targets.part_targets`); an edit is the difference of the two before and after. It
reads the releases of the models that it names, and of those that could want the same file names, and of no others.

The laws, which the tests hold all edits to:

- A (name, version, variant) means one content for ever, in both channels together, also after it was withdrawn.
- A file name with a version in it never means other bytes.
- A moving name means the newest version that was not withdrawn, or is not there.
- The same edit again changes nothing.

Staged releases stand in `staging/catalog.json` alone, signed by the pipeline's keys. Stable ones stand in
`models/<name>.releases.json`, where yanked ones stay, so that they can be restored; retired ones go.

A reference without a variant means each variant, without a version the newest of each that the edit could apply to.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final, TypedDict

from aibrother_node.catalog.draft import AlreadyUsed, Draft, show_key
from aibrother_node.catalog.entries import CHANNELS, Channel, Entry
from aibrother_node.catalog.names import Reference, ordered
from aibrother_node.catalog.targets import (
    FLEET_PATH,
    Content,
    Edit,
    TargetEdit,
    all_part_targets,
    catalog_path,
    newest_of_each,
    releases_path,
)
from aibrother_node.errors import InvalidInput, NotFound, Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

__all__ = [
    "FLEET_PATH",
    "RETIRED",
    "AlreadyUsed",
    "Changes",
    "Content",
    "Edit",
    "TargetEdit",
    "all_part_targets",
    "catalog_path",
    "edit_metadata",
    "promote",
    "publish",
    "releases_path",
    "retire",
    "show_key",
    "unyank",
    "yank",
]

RETIRED: Final = "retired"
"""The reason that tombstones of retired releases give."""


class Changes(TypedDict, total=False):
    """What `edit_metadata` can change of an entry."""

    license: str
    description: str
    tags: tuple[str, ...]
    repo: str | None
    min_memory_bytes: int | None
    urls: tuple[str, ...]


def publish(content: Content, new: Sequence[Entry], channel: Channel, now: datetime) -> Edit:
    """Offer releases in a channel, all or none.

    Content that is there already is left as it is, its metadata too (`edit_metadata` changes that); to staging, also
    what is stable already. What is published to stable while it is staged stays staged: only `promote` takes it away,
    since that needs staging's keys.

    Raises:
        AlreadyUsed: a name, version and variant means another content.
        Refused: it was withdrawn (staging takes the same content back), or a file name belongs to another release.
    """
    draft = Draft(content)
    add = draft.add_stable if channel == "stable" else draft.add_staged
    return draft.finish(now, [add(entry) for entry in new])


def promote(content: Content, refs: Sequence[Reference], now: datetime, *, keep_staged: bool = False) -> Edit:
    """Move staged releases to stable: the same entries under the same file names.

    Args:
        content, now: as for `publish`.
        refs: which; one that only means what is stable already changes nothing.
        keep_staged: leave them in staging too, for who has no keys of staging; another promotion takes them away.

    Raises:
        NotFound: a reference means nothing in either channel.
        AlreadyUsed, Refused: as for `publish`.
    """
    draft = Draft(content)
    promoted: list[Entry] = []
    for ref in refs:
        found = _matching(draft.staged_of(ref.name), ref)
        if not found and not (found := _matching(draft.offered(ref.name), ref)):
            raise NotFound(f"{ref} is neither staged nor stable")
        for entry in found:
            promoted.append(draft.add_stable(entry))
            if not keep_staged:
                draft.staged.pop(entry.key, None)
    return draft.finish(now, promoted)


def yank(
    content: Content, refs: Sequence[Reference], reason: str, now: datetime, *, channel: Channel | None = None
) -> Edit:
    """Withdraw releases: their targets go, a tombstone with the reason stays.

    A reference with a version means it in both channels, one without the newest in stable, or in staging where stable
    has none; `channel` names one alone. What was withdrawn already keeps its reason.

    Raises:
        NotFound: a reference means nothing.
        InvalidInput: the reason is empty, too long or has control characters.
    """
    draft = Draft(content)
    yanked: list[Entry] = []
    for ref in refs:
        found = _find(draft, ref, channel)
        if not found and not _withdrawn(draft, ref):
            raise NotFound(f"there is no {ref}")
        for where, entry in found:
            if where == "stable":
                draft.yank_stable(entry, reason, now)
            else:
                draft.yank_staged(entry, reason, now)
            yanked.append(entry)
    return draft.finish(now, yanked)


def unyank(content: Content, refs: Sequence[Reference], now: datetime) -> Edit:
    """Restore yanked stable releases. What isn't yanked stays as it is.

    Raises:
        NotFound: a reference means nothing that there is or was.
        Refused: it was retired, or withdrawn from staging, and its entry is no longer known.
    """
    draft = Draft(content)
    restored: list[Entry] = []
    for ref in refs:
        releases = draft.releases(ref.name).values()
        found = _matching([entry for entry in releases if entry.key in draft.stable_yanked], ref)
        if not found and not _matching(releases, ref):
            if lost := _withdrawn(draft, ref):
                raise Refused(f"{lost} was retired, or withdrawn from staging, where it can be published again")
            raise NotFound(f"there is no {ref}")
        for entry in found:
            draft.unyank_stable(entry.key)
            restored.append(entry)
    return draft.finish(now, restored)


def retire(content: Content, refs: Sequence[Reference], keep: int, now: datetime) -> Edit:
    """Let old stable releases go: nothing but a tombstone stays of them.

    A reference with a version retires that one. One without keeps the newest `keep` of each variant, and retires what
    is older, yanked or not.

    Raises:
        NotFound: a reference means nothing.
        InvalidInput: `keep` is below 1.
    """
    if keep < 1:
        raise InvalidInput(f"keep {keep}: at least the newest version stays; name a version to retire it")
    draft = Draft(content)
    retired: list[Entry] = []
    for ref in refs:
        all_of = [e for e in draft.releases(ref.name).values() if ref.variant in (None, e.variant)]
        if ref.version is not None:
            old = [entry for entry in all_of if entry.version == ref.version]
        else:
            old = _older(draft, all_of, keep)
        if not old and not _withdrawn(draft, ref) and not (all_of and ref.version is None):
            raise NotFound(f"there is no {ref} in stable")
        for entry in old:
            draft.forget_stable(entry, RETIRED, now)
        retired += old
    return draft.finish(now, retired)


def edit_metadata(
    content: Content, refs: Sequence[Reference], changes: Changes, now: datetime, *, channel: Channel | None = None
) -> Edit:
    """Change what is said of releases, never what they are. References mean what they mean to `yank`.

    Raises:
        NotFound: a reference means nothing.
        InvalidInput: a change names something else, or breaks the rules of an entry.
    """
    if unknown := set(changes) - set(Changes.__annotations__):
        raise InvalidInput(f"can't be changed: {', '.join(sorted(unknown))}")
    values: dict[str, Any] = dict(changes)
    draft = Draft(content)
    edited: list[Entry] = []
    for ref in refs:
        found = _find(draft, ref, channel)
        if not found:
            raise NotFound(f"there is no {ref}")
        for where, entry in found:
            changed = dataclasses.replace(entry, **values)
            edited.append(changed)
            if changed == entry:
                continue
            if where == "stable":
                draft.put_stable(changed)
            else:
                draft.put_staged(changed)
    return draft.finish(now, edited)


def _matching(entries: Iterable[Entry], ref: Reference) -> list[Entry]:
    """Return those that a reference means: of that version, else the newest of each variant."""
    of_name = [entry for entry in entries if entry.name == ref.name and ref.variant in (None, entry.variant)]
    if ref.version is None:
        return newest_of_each(of_name)
    return [entry for entry in of_name if entry.version == ref.version]


def _find(draft: Draft, ref: Reference, only: Channel | None) -> list[tuple[Channel, Entry]]:
    """Return what a reference means and where; without a version, in the first channel that has any."""
    found: list[tuple[Channel, Entry]] = []
    for channel in CHANNELS:
        if only not in (None, channel):
            continue
        entries = draft.offered(ref.name) if channel == "stable" else draft.staged_of(ref.name)
        found += [(channel, entry) for entry in _matching(entries, ref)]
        if found and ref.version is None:
            break
    return found


def _withdrawn(draft: Draft, ref: Reference) -> str | None:
    """Return one of the releases that a reference means among those withdrawn from either channel."""
    for name, version, variant in (*draft.stable_yanked, *draft.staging_yanked):
        if name == ref.name and ref.variant in (None, variant) and ref.version in (None, version):
            return show_key((name, version, variant))
    return None


def _older(draft: Draft, entries: Sequence[Entry], keep: int) -> list[Entry]:
    """Return, for each variant, what is older than the newest `keep` that are not yanked; none if there are fewer."""
    old: list[Entry] = []
    for variant in sorted({entry.variant for entry in entries}):
        left = keep
        for entry in reversed(ordered(entry for entry in entries if entry.variant == variant)):
            if not left:
                old.append(entry)
            elif entry.key not in draft.stable_yanked:
                left -= 1
    return old
