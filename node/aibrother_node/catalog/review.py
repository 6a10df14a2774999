"""A look at roles that were signed elsewhere, as one change that has been verified: is it an edit? (lawful.py)"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from aibrother_node.catalog import lawful
from aibrother_node.catalog.reading import content_of, fleet
from aibrother_node.catalog.state import role_for
from aibrother_node.catalog.targets import FLEET_PATH, TargetEdit
from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput, NodeError, NotFound, VerificationFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tuf.api.metadata import TargetFile, Targets

    from aibrother_node.catalog.commit import Change
    from aibrother_node.catalog.entries import Part
    from aibrother_node.catalog.state import State
    from aibrother_node.catalog.targets import Content


class AfterChange:
    """What a catalog says once a change is visible.

    Args:
        state: as it is now.
        change: verified.
    """

    def __init__(self, state: State, change: Change) -> None:
        self._state = state
        self._change = change

    def role(self, name: str) -> Targets:
        """A targets role."""
        given = self._change.given.get(name)
        return self._state.role(name) if given is None else given.payload

    def document(self, path: str) -> bytes | None:
        """As `Repository.document`."""
        try:
            target = self.role(role_for(path, self.role)).targets.get(path)
        except InvalidInput:
            return None
        if target is None or target.custom is not None:
            return None
        digest = Digest.from_hex(target.hashes["sha256"])
        place = self._state.files.document(path, digest)
        data = self._change.documents.get(place)
        if data is None:
            try:
                data = self._state.files.read(place, target.length)
            except (NotFound, InvalidInput) as error:
                raise VerificationFailed(f"document {path}: {error}") from None
        if Digest(hashlib.sha256(data).digest()) != digest:
            raise VerificationFailed(f"document {path} is not what was signed", expected=str(digest))
        return data


def review(state: State, change: Change) -> list[Part]:
    """Make sure that a change is an edit of the catalog, however it was made.

    Args:
        state: the catalog as it is.
        change: roles that were verified (`accept.accepted`); nothing of it is visible yet.

    Returns:
        The files of the releases that it offers anew.

    Raises:
        VerificationFailed: it breaks a law of editing.
    """
    files: list[Part] = []
    before, after = AfterChange(state, type(change)()), AfterChange(state, change)
    documents: dict[str, bytes | None] = {}
    parts: dict[str, TargetEdit | None] = {}
    for role in change.given:
        for path, (old, new) in _differences(before.role(role), after.role(role)).items():
            kinds = {one.custom is None for one in (old, new) if one is not None}
            if kinds == {True}:
                documents[path] = None if new is None else after.document(path)
            elif kinds == {False}:
                parts[path] = None if new is None else _edit_of(path, new)
            else:
                raise VerificationFailed(f"{path} is a document and a part")
    try:
        models = lawful.check_documents(documents)
        if set(documents) - {FLEET_PATH} or parts:
            was, is_now = content_of(before), content_of(after)
            lawful.check_content(was, is_now, parts, models)
            files = _new_files(was, is_now, models)
        if FLEET_PATH in documents:
            lawful.check_fleet(fleet(before), fleet(after))
    except VerificationFailed:
        raise
    except NodeError as error:
        raise VerificationFailed(f"this is no edit of the catalog: {error}") from error
    return files


def _new_files(before: Content, after: Content, models: Iterable[str]) -> list[Part]:
    """The files of which the second one says something that the first one doesn't, each once."""
    new: dict[Part, None] = {}
    for was, is_now in [
        (before.staging.models, after.staging.models),
        *((before.releases(name).releases, after.releases(name).releases) for name in sorted(models)),
    ]:
        known = {part for entry in was for part in entry.files}
        new |= {part: None for entry in is_now for part in entry.files if part not in known}
    return list(new)


def _differences(old: Targets, new: Targets) -> Mapping[str, tuple[TargetFile | None, TargetFile | None]]:
    paths = {*old.targets, *new.targets}
    pairs = {path: (old.targets.get(path), new.targets.get(path)) for path in paths}
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}


def _edit_of(path: str, target: TargetFile) -> TargetEdit:
    if not isinstance(target.custom, dict):
        raise VerificationFailed(f"what is said of {path} is no object")
    return TargetEdit(Digest.from_hex(target.hashes["sha256"]), target.length, target.custom)
