"""Whether what was signed elsewhere is an edit: the laws of `editing`, looked at from outside.

TUF's rules alone would let whoever has the key of `models` sign documents that nobody can read, targets that no
document speaks of, other bytes under a name that was withdrawn. So the signing node holds what is signed to this:

- Documents are those that there are, can be read, and are never taken away but with the last release of a model.
- The documents determine the targets: the difference between the two is that of the documents.
- `catalog.json` shows the newest of each name and variant, and says nothing new of models that weren't touched.
- A (name, version, variant) keeps its content, or leaves a tombstone; and a tombstone stays, or is that of a release
  that came back as it was.
- A node of the fleet keeps its key, and stays named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aibrother_node.catalog.draft import same_content, show_key
from aibrother_node.catalog.entries import (
    MAX_CATALOG_BYTES,
    MAX_FLEET_BYTES,
    MAX_RELEASES_BYTES,
    CatalogDocument,
    content_of,
    decode_catalog,
    decode_fleet,
    decode_releases,
)
from aibrother_node.catalog.names import check_name
from aibrother_node.catalog.targets import (
    FLEET_PATH,
    FOLDERS,
    TargetEdit,
    catalog_path,
    difference,
    newest_of_each,
    part_targets,
)
from aibrother_node.errors import InvalidInput, VerificationFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aibrother_node.catalog.entries import Entry, FleetDocument, Key, Yanked
    from aibrother_node.catalog.targets import Content

_RELEASES: Final = ".releases.json"


def check_documents(documents: Mapping[str, bytes | None]) -> set[str]:
    """Make sure that the documents that change are some that there may be, and can be read.

    Args:
        documents: by target path: the new bytes, or None where one goes.

    Returns:
        The models whose releases change.

    Raises:
        VerificationFailed: one is not.
    """
    models = set()
    for path, data in documents.items():
        try:
            if (name := model_of(path)) is not None:
                models.add(name)
                if data is not None and decode_releases(data, MAX_RELEASES_BYTES).name != name:
                    raise InvalidInput("it is that of another model")
                continue
            if data is None:
                raise InvalidInput("it can't be taken away")
            if path == FLEET_PATH:
                decode_fleet(data, MAX_FLEET_BYTES)
            elif path == catalog_path("stable"):
                _expect("stable", decode_catalog(data, MAX_CATALOG_BYTES))
            elif path == catalog_path("staging"):
                _expect("staging", decode_catalog(data, MAX_CATALOG_BYTES))
            else:
                raise InvalidInput("there is no such document")
        except InvalidInput as error:
            raise VerificationFailed(f"the document {path}: {error}") from None
    return models


def model_of(path: str) -> str | None:
    """The model whose releases stand at a target path; None for another path."""
    if not (path.startswith(FOLDERS["stable"]) and path.endswith(_RELEASES)):
        return None
    return check_name(path.removeprefix(FOLDERS["stable"]).removesuffix(_RELEASES))


def check_content(
    before: Content, after: Content, parts: Mapping[str, TargetEdit | None], models: Iterable[str]
) -> None:
    """Make sure that what is published changes as by an edit.

    Args:
        before, after: what the documents say.
        parts: the targets of parts that change; None where one goes.
        models: those whose releases documents change.

    Raises:
        VerificationFailed: it doesn't.
    """
    stable = {path: target for path, target in parts.items() if path.startswith(FOLDERS["stable"])}
    staging = {path: target for path, target in parts.items() if path.startswith(FOLDERS["staging"])}
    touched = set(models)
    touched |= {one.name for one in _differing(before.stable.models, after.stable.models)}
    touched |= {one.name for one in _differing(before.stable.yanked, after.stable.yanked)}
    expected: dict[str, TargetEdit | None] = {}
    for name in sorted(touched):
        expected |= _check_model(name, before, after)
    _check_targets(stable, expected)
    _check_version(before.stable, after.stable)
    _check_staging(before, after)
    _check_targets(
        staging,
        difference(part_targets("staging", before.staging.models), part_targets("staging", after.staging.models)),
    )
    _check_version(before.staging, after.staging)


def check_fleet(before: FleetDocument, after: FleetDocument) -> None:
    """Make sure that the fleet changes as by an edit.

    Raises:
        VerificationFailed: it doesn't.
    """
    nodes = {node.id: node for node in after.nodes}
    for node in before.nodes:
        if node.id not in nodes or nodes[node.id].key != node.key:
            raise VerificationFailed(f"node {node.id} of the fleet is gone, or has another key")
    if not any(node.admitted for node in after.nodes):
        raise VerificationFailed("the fleet is left without a node")
    if before != after and after.version <= before.version:
        raise VerificationFailed(f"another fleet has version {after.version}, after {before.version}")


def _check_model(name: str, before: Content, after: Content) -> dict[str, TargetEdit | None]:
    """Check one stable model; returns which of its targets change."""
    was, is_now = before.releases(name).releases, after.releases(name).releases
    stones_before, stones = _of(before.stable.yanked, name), _of(after.stable.yanked, name)
    shown = [entry for entry in after.stable.models if entry.name == name]
    if shown != newest_of_each(is_now, stones):
        raise VerificationFailed(f"{catalog_path('stable')} doesn't show the newest releases of {name}")
    old, new = {entry.key: entry for entry in was}, {entry.key: entry for entry in is_now}
    _check_kept(old, new, stones_before, stones)
    staged = {entry.key: entry for entry in before.staging.models if entry.name == name}
    withdrawn = {**_of(before.staging.yanked, name), **stones_before}
    for key in set(new) - set(old):
        if key in withdrawn:
            raise VerificationFailed(f"{show_key(key)} was withdrawn, and is offered again")
        if key in staged and not same_content(staged[key], new[key]):
            raise VerificationFailed(f"{show_key(key)} is staged with another content")
    return difference(part_targets("stable", was, stones_before), part_targets("stable", is_now, stones))


def _check_staging(before: Content, after: Content) -> None:
    was, is_now = before.staging, after.staging
    if (was.models, was.yanked) == (is_now.models, is_now.yanked):
        return
    old, new = {entry.key: entry for entry in was.models}, {entry.key: entry for entry in is_now.models}
    promoted = {
        key: entry
        for name in {key[0] for key in set(old) - set(new)}
        for entry in after.releases(name).releases
        for key in [entry.key]
    }
    _check_kept(old, {**promoted, **new}, {one.key: one for one in was.yanked}, {one.key: one for one in is_now.yanked})


def _check_kept(
    old: Mapping[Key, Entry],
    new: Mapping[Key, Entry],
    stones_before: Mapping[Key, Yanked],
    stones: Mapping[Key, Yanked],
) -> None:
    """Check that what was there is there with the same content, or has a tombstone; and that tombstones stay."""
    for key, entry in old.items():
        if key in new:
            if content_of(new[key]) != content_of(entry):
                raise VerificationFailed(f"{show_key(key)} gets another content")
        elif key not in stones:
            raise VerificationFailed(f"{show_key(key)} goes without a tombstone")
    for key, stone in stones_before.items():
        if key not in stones and (key not in new or new[key].sha256 != stone.sha256):
            raise VerificationFailed(f"the tombstone of {show_key(key)} goes")


def _check_targets(found: Mapping[str, TargetEdit | None], expected: Mapping[str, TargetEdit | None]) -> None:
    for path in sorted({*found, *expected}):
        if found.get(path) != expected.get(path) or (path in found) != (path in expected):
            raise VerificationFailed(f"the documents and the target {path} don't agree")


def _check_version(before: CatalogDocument, after: CatalogDocument) -> None:
    if before != after and after.version <= before.version:
        raise VerificationFailed(f"another {catalog_path(after.channel)} has version {after.version}")


def _expect(channel: str, document: CatalogDocument) -> None:
    if document.channel != channel:
        raise InvalidInput(f"it is that of {document.channel}")


def _of(stones: Iterable[Yanked], name: str) -> dict[Key, Yanked]:
    return {one.key: one for one in stones if one.name == name}


def _differing(before: Iterable[Entry | Yanked], after: Iterable[Entry | Yanked]) -> list[Entry | Yanked]:
    old, new = {one.key: one for one in before}, {one.key: one for one in after}
    return [one for one in old.values() if new.get(one.key) != one] + [
        one for one in new.values() if old.get(one.key) != one
    ]
