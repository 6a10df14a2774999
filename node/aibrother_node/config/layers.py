"""What was set, by whom: a tree of raw values and, for each value, its origin.

The origin serves two ends: a fault names the file or variable to mend, and a relative path is taken from where it was
written.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from aibrother_node.config.base import PathKey, SecretFile
from aibrother_node.config.schema import NodeConfig
from aibrother_node.config.upstream import UpstreamSection

Key = tuple[str | int, ...]
"""Section and key; for upstreams "upstream", position, key."""

CREDENTIAL = "credential:"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written: how people name that place, and the folder that its relative paths start from."""

    label: str
    folder: Path


class Layers:
    """A tree of raw values that later layers write over."""

    def __init__(self, cwd: Path) -> None:
        self.tree: dict[str, Any] = {}
        self._cwd = cwd
        self._origins: dict[Key, Origin] = {}

    def add_file(self, tree: dict[str, Any], label: str, folder: Path) -> None:
        """Take the parsed file as the lowest layer."""
        self.tree = tree
        origin = Origin(label, folder)
        self._origins[()] = origin
        for key in self._leaves():
            self._origins[key] = origin

    def set(self, key: Key, value: Any, label: str) -> None:
        """Write one value; what is in the way and no table is replaced."""
        section, *middle, last = key
        if middle:
            table = self.tree[str(section)][middle[0]]
        else:
            table = self.tree.setdefault(str(section), {})
            if not isinstance(table, dict):
                # The file's own mistake was `public = 1`; that fault must not be hidden by the layer above.
                return
        table[str(last)] = value
        self._origins[key] = Origin(label, self._cwd)

    def add_upstream(self, name: str, label: str) -> int:
        """Begin an upstream that no file has; return its position."""
        upstreams = self.tree.setdefault("upstream", [])
        upstreams.append({"name": name})
        position = len(upstreams) - 1
        self._origins["upstream", position, "name"] = Origin(label, self._cwd)
        return position

    def upstreams(self) -> list[Any] | None:
        """The upstreams so far; None if the file has something else in their place."""
        upstreams = self.tree.get("upstream", [])
        return upstreams if isinstance(upstreams, list) else None

    def upstream_name(self, position: int) -> str | None:
        """The name of the upstream at that position, if it has a usable one."""
        upstreams = self.upstreams() or []
        if position < len(upstreams) and isinstance(upstreams[position], dict):
            name = upstreams[position].get("name")
            if isinstance(name, str) and name:
                return name
        return None

    def was_set(self, key: Key) -> bool:
        """Whether someone set this key."""
        return key in self._origins

    def label_of(self, key: Key) -> str:
        """Name the place where the value at `key` was written, or the place to write it if it is missing."""
        nearest = [key]
        if key[0] == "upstream" and len(key) > 1:
            # What is missing in an upstream is to be mended where the upstream was begun.
            nearest.append((*key[:2], "name"))
        nearest.append(())
        # Without a file the table was made by variables alone: name the first of them.
        nearest += [other for other in self._origins if other[:1] == key[:1]]
        return next((self._origins[place].label for place in nearest if place in self._origins), "built-in defaults")

    def show(self, key: Key) -> str:
        """Write a key as people do: `public.port`, `upstream.r2.bucket`."""
        if len(key) > 1 and key[0] == "upstream" and isinstance(key[1], int):
            name = self.upstream_name(key[1])
            return ".".join([f"upstream.{name}" if name else f"upstream[{key[1]}]", *map(str, key[2:])])
        return ".".join(map(str, key))

    def origins_by_key(self) -> dict[str, str]:
        """For each key that was set, as people write it, the place."""
        return {self.show(key): origin.label for key, origin in self._origins.items() if len(key) > 1}

    def resolve_paths(self, environ: Mapping[str, str], faults: list[str]) -> None:
        """Make every path absolute and look up systemd credentials.

        `credential:NAME` is `$CREDENTIALS_DIRECTORY/NAME`, which systemd sets for the units that ask for it.
        """
        self.tree.setdefault("node", {})
        if isinstance(self.tree["node"], dict):
            self.tree["node"].setdefault("data", "data")
        for key in list(self._leaves()):
            mark = _path_mark(key)
            table = self._table(key)
            value = table[key[-1]] if table is not None else None
            if mark is None or table is None or not isinstance(value, str) or not value or value in mark.literals:
                continue
            if isinstance(mark, SecretFile) and value.startswith(CREDENTIAL):
                found = _credential(value.removeprefix(CREDENTIAL), environ)
                if found is None:
                    faults.append(f"{self.label_of(key)}: {self.show(key)}: {_credential_fault(value, environ)}")
                else:
                    table[key[-1]] = str(self._cwd / found)
            # What the schema refuses stays as it was written, so that the fault shows it.
            elif not value.startswith("~") and "\0" not in value:
                origin = self._origins.get(key)
                table[key[-1]] = str((origin.folder if origin else self._cwd) / value)

    def _leaves(self) -> Iterator[Key]:
        for section, table in self.tree.items():
            if section == "upstream" and isinstance(table, list):
                for position, upstream in enumerate(table):
                    yield from (("upstream", position, key) for key in (upstream if isinstance(upstream, dict) else ()))
            elif isinstance(table, dict):
                yield from ((section, key) for key in table)
            else:
                yield (section,)

    def _table(self, key: Key) -> dict[str | int, Any] | None:
        table: Any = self.tree
        for step in key[:-1]:
            table = table[step]
        return table if isinstance(table, dict) else None


def model_field(key: Key) -> FieldInfo | None:
    """Find the field of the schema that a key names."""
    if key[:1] == ("upstream",):
        return UpstreamSection.model_fields.get(str(key[2])) if len(key) == 3 else None
    section = NodeConfig.model_fields.get(str(key[0]))
    if len(key) != 2 or section is None:
        return None
    model = section.annotation
    assert isinstance(model, type)
    assert issubclass(model, BaseModel)
    return model.model_fields.get(str(key[1]))


def marks(info: FieldInfo) -> list[Any]:
    """List what annotates a field, also inside a union."""
    found = list(info.metadata)
    for part in get_args(info.annotation):
        if get_origin(part) is Annotated:
            found += get_args(part)[1:]
    return found


def _path_mark(key: Key) -> PathKey | None:
    info = model_field(key)
    found = [mark for mark in marks(info) if isinstance(mark, PathKey)] if info else []
    return found[0] if found else None


def _credential(name: str, environ: Mapping[str, str]) -> Path | None:
    folder = environ.get("CREDENTIALS_DIRECTORY")
    return Path(folder) / name if folder and _is_file_name(name) else None


def _credential_fault(value: str, environ: Mapping[str, str]) -> str:
    if not _is_file_name(value.removeprefix(CREDENTIAL)):
        return f"{value[:80]!r} names no credential: a plain file name goes after the colon"
    assert not environ.get("CREDENTIALS_DIRECTORY")
    return f"{value!r} needs $CREDENTIALS_DIRECTORY, which systemd sets where the unit has LoadCredential="


def _is_file_name(name: str) -> bool:
    return bool(name) and name not in {".", ".."} and "/" not in name and "\0" not in name
