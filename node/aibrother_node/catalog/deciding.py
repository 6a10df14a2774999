"""What an edit that was asked for comes to: the same decision at the signing node's desk and on a publisher's machine.

An action is JSON: `do` says what, the other keys are its arguments, as commands and the local plane have it. Deciding
reads what is signed now and changes nothing; who signs and writes is the desk's business (desk.py, and for a node
elsewhere the tools' remote desk).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.catalog import editing, fleet_editing
from aibrother_node.catalog.entries import CHANNELS, Entry
from aibrother_node.catalog.names import parse_reference
from aibrother_node.catalog.reading import content_of, fleet
from aibrother_node.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from tuf.api.metadata import TargetFile

    from aibrother_node.catalog.entries import Part
    from aibrother_node.catalog.names import Reference
    from aibrother_node.catalog.repository import Repository

DECIDED: Final = frozenset({"publish", "promote", "yank", "unyank", "retire", "edit", "admit", "revoke"})
"""What is decided here; actions on keys are not."""


@dataclass(frozen=True, slots=True)
class Decision:
    """An edit, and what else is to be known of it.

    Attributes:
        edit: what changes.
        files: of the releases that it publishes or promotes: they have to be stored, and sound.
        fleet: of an edit of the fleet: what it comes to.
    """

    edit: editing.Edit
    files: tuple[Part, ...] = ()
    fleet: fleet_editing.FleetEdit | None = field(default=None, repr=False)

    def done(self, before: Mapping[str, TargetFile | None], versions: Mapping[str, int]) -> Done:
        """What it came to.

        Args:
            before: what was signed of its targets.
            versions: what was signed for it.
        """
        about = self.fleet
        told = None if about is None else {"version": about.fleet.version, "node": about.node.to_json()}
        return Done(tuple(self.edit.entries), _told(self.edit, before), versions, told)


@dataclass(frozen=True, slots=True)
class Done:
    """What an edit came to.

    Attributes:
        entries: the releases that it was about, as they are now.
        targets: by path: `new`, `changed` or `removed`.
        versions: what was signed; empty where nothing changed.
        fleet: of an edit of the fleet: its version, and the node that it was about, as they are now.
    """

    entries: tuple[Entry, ...]
    targets: Mapping[str, str]
    versions: Mapping[str, int]
    fleet: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """As the local plane answers."""
        return {
            "entries": [entry.to_json() for entry in self.entries],
            "targets": dict(self.targets),
            "versions": dict(self.versions),
            **({} if self.fleet is None else {"fleet": dict(self.fleet)}),
        }


def decide(action: Mapping[str, Any], repository: Repository, now: datetime) -> Decision:
    """Decide an edit of what is published, or of the fleet.

    Args:
        action: one of `DECIDED`.
        repository: what is signed now.
        now: the time, in UTC.

    Raises:
        InvalidInput: there is no such edit, or an argument is wrong.
        and as the functions of `editing` and `fleet_editing`.
    """
    try:
        match action["do"]:
            case "admit":
                admitted = fleet_editing.admit(fleet(repository), action["id"], action["key"], action["said"])
                return _fleet(admitted, content_of(repository))
            case "revoke":
                return _fleet(fleet_editing.revoke(fleet(repository), action["id"]), content_of(repository))
            case "publish":
                return _publish(action, content_of(repository), now)
        content, references = content_of(repository), _references(action["references"])
        match action["do"]:
            case "promote":
                keep = bool(action.get("keep_staged"))
                edit = editing.promote(content, references, now, keep_staged=keep)
                return Decision(edit, _files(edit.entries))
            case "yank":
                return Decision(editing.yank(content, references, action["reason"], now))
            case "unyank":
                return Decision(editing.unyank(content, references, now))
            case "retire":
                return Decision(editing.retire(content, references, action["keep"], now))
            case "edit":
                return Decision(editing.edit_metadata(content, references, action["changes"], now))
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"not an edit of the catalog: {error}") from error
    raise InvalidInput("not an edit of the catalog")


def _publish(action: Mapping[str, Any], content: editing.Content, now: datetime) -> Decision:
    entries = [Entry.from_json(entry) for entry in action["entries"]]
    if action["channel"] not in CHANNELS:
        raise InvalidInput(f"no channel {action['channel']!r:.40}")
    return Decision(editing.publish(content, entries, action["channel"], now), _files(entries))


def _fleet(edit: fleet_editing.FleetEdit, content: editing.Content) -> Decision:
    return Decision(editing.Edit(edit.documents, edit.targets, content), fleet=edit)


def _files(entries: Iterable[Entry]) -> tuple[Part, ...]:
    return tuple(part for entry in entries for part in entry.files)


def _references(texts: list[str]) -> list[Reference]:
    return [parse_reference(text) for text in texts]


def _told(edit: editing.Edit, before: Mapping[str, TargetFile | None]) -> dict[str, str]:
    told = {}
    for path, target in edit.targets.items():
        old = before[path]
        told[path] = "removed" if target is None else "new" if old is None else "changed"
    return told
