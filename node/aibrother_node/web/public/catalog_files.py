"""The catalog as workers serve it: metadata and documents from their files, names from the index.

Everything here was verified before it was written (catalog/), so that a worker only looks it up. All of it blocks, and
is for threads. Names that were looked up lately are remembered until `forget`.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from aibrother_node.catalog.entries import decode_fleet
from aibrother_node.catalog.names import is_fixed
from aibrother_node.catalog.targets import FLEET_PATH
from aibrother_node.content.digest import Digest
from aibrother_node.errors import Gone, InvalidInput, NotFound
from aibrother_node.store.index import IndexReader
from aibrother_node.web.answer import (
    BRIEF,
    IMMUTABLE,
    Representation,
    blob_representation,
    digest_header,
    document_representation,
)
from aibrother_node.web.coding import WORTH_CODING, choose_coding, encode

if TYPE_CHECKING:
    from pathlib import Path

    from aibrother_node.catalog.entries import FleetNode
    from aibrother_node.store.index import TargetRow
    from aibrother_node.store.layout import Layout
    from aibrother_node.web.coding import Coding
    from aibrother_node.web.targets import DocumentTarget, EntryTarget, MetadataTarget, PartTarget, TufTarget

TIMESTAMP: Final = "public, max-age=10"
MAX_FILE: Final = 256 << 20
"""Bytes of a document or metadata file that is read into memory; what was verified is far below."""

_NAMES: Final = 4096
_CODED_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a release as it is sent.

    Attributes:
        digest: of its blob.
        representation: what HTTP says of it under this name.
    """

    digest: Digest
    representation: Representation


class CatalogFiles:
    """Looks things up in one node's catalog; any thread may.

    Args:
        layout: of the data directory.
    """

    def __init__(self, layout: Layout) -> None:
        self._metadata = layout.catalog / "metadata"
        self._targets = layout.catalog / "targets"
        self._index = IndexReader(layout.index)
        self._lock = threading.Lock()
        self._parts: dict[str, Part] = {}
        self._era = 0
        self._coded: OrderedDict[tuple[Digest, Coding], bytes] = OrderedDict()
        self._coded_bytes = 0

    def known_part(self, target: PartTarget) -> Part | None:
        """A part that was looked up lately; doesn't block."""
        return self._parts.get(target.path)

    def part(self, target: PartTarget) -> Part:
        """What a part's name stands for.

        Raises:
            Gone: its release was withdrawn; the message is the reason.
            NotFound: there is no such name.
        """
        era = self._era
        row = self._part_row(target.path)
        representation = blob_representation(
            row.sha256,
            row.size,
            filename=target.filename,
            cache_control=IMMUTABLE if is_fixed(row.path, row.name, row.version, row.variant) else BRIEF,
            headers=(digest_header(row.sha256),),
        )
        part = Part(row.sha256, representation)
        with self._lock:
            if len(self._parts) >= _NAMES:
                self._parts.clear()
            if era == self._era:  # else it was looked up before what `forget` was told of
                self._parts[target.path] = part
        return part

    def size_in_catalog(self, digest: Digest) -> int | None:
        """The size of a blob that the catalog names, be it here or not."""
        row = self._index.target_of(digest)
        return None if row is None else row.size

    def manifest_in_catalog(self, digest: Digest) -> Digest | None:
        """The manifest that the catalog names for a blob."""
        row = self._index.target_of(digest)
        return None if row is None else row.manifest

    def filename_in_catalog(self, digest: Digest) -> str | None:
        """A name that the catalog has for a part's blob."""
        row = self._index.target_of(digest)
        return None if row is None or row.name is None else row.path.rpartition("/")[2]

    def pieces_in_catalog(self, digest: Digest) -> Digest | None:
        """The `fixed/1` manifest that the catalog names for a part's blob."""
        row = self._index.target_of(digest)
        if row is None or row.name is None:
            return None
        entry = self._entry_of(row)
        files = [*entry["parts"], *([entry["projector"]] if entry.get("projector") else [])]
        named = next((file["pieces"] for file in files if file["sha256"] == digest.hex), None)
        return None if named is None else Digest.parse(named)

    def fleet_node(self, node_id: str) -> FleetNode | None:
        """What the catalog says of a node of the fleet; None where it has none of this id, or can't be read."""
        row = self._index.target(FLEET_PATH)
        if row is None:
            return None
        try:
            fleet = decode_fleet(_read(self._targets / f"{row.sha256.hex}.{FLEET_PATH}"))
        except (NotFound, InvalidInput):
            return None
        return next((node for node in fleet.nodes if node.id == node_id), None)

    def withdrawn(self, digest: Digest) -> str | None:
        """Why a blob is not served though it may be here; None where it is."""
        return self._index.yanked_blob(digest)

    def forget(self) -> None:
        """Look names up again from now on."""
        with self._lock:
            self._era += 1
            self._parts.clear()

    def document(self, target: DocumentTarget, accept_encoding: str | None) -> tuple[Representation, bytes]:
        """A document, in the coding that the client prefers.

        Raises:
            NotFound: there is none.
        """
        row = self._index.target(target.path)
        if row is None or row.name is not None:
            raise NotFound("there is no such document in the catalog")
        folder, _, basename = target.path.rpartition("/")
        data = _read(self._targets / folder / f"{row.sha256.hex}.{basename}")
        coding = choose_coding(accept_encoding) if len(data) >= WORTH_CODING else None
        if coding is None:
            return document_representation(row.sha256, len(data)), data
        coded = self._encoded(row.sha256, data, coding)
        return document_representation(row.sha256, len(coded), coding=coding), coded

    def entry(self, target: EntryTarget) -> tuple[Representation, bytes]:
        """The entry of the release that a part belongs to, as JSON.

        Raises:
            Gone, NotFound: as `part`.
        """
        row = self._part_row(target.path)
        entry = self._entry_of(row)
        data = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        return document_representation(Digest(hashlib.sha256(data).digest()), len(data)), data

    def metadata(self, target: MetadataTarget) -> tuple[Representation, bytes]:
        """A file of TUF metadata, exactly as it was signed.

        Raises:
            NotFound: there is none of this name.
        """
        data = _read(self._metadata / target.filename)
        cache_control = TIMESTAMP if target.filename == "timestamp.json" else IMMUTABLE
        return _exact(data, cache_control), data

    def document_file(self, target: TufTarget) -> tuple[Representation, bytes] | None:
        """A document by its TUF name; None where it is none, and so a blob or nothing."""
        try:
            data = _read(self._targets / target.folder / f"{target.sha256.hex}.{target.basename}")
        except NotFound:
            return None
        return _exact(data, IMMUTABLE), data

    def _part_row(self, path: str) -> TargetRow:
        row = self._index.target(path)
        if row is not None and row.name is not None:
            return row
        reason = self._index.yanked(path)
        if reason is not None:
            raise Gone(reason)
        raise NotFound("there is no such part in the catalog")

    def _entry_of(self, row: TargetRow) -> dict[str, Any]:
        folder = row.path.partition("/")[0]
        path = "staging/catalog.json" if folder == "staging" else f"models/{row.name}.releases.json"
        document = self._index.target(path)
        if document is not None:
            basename = path.partition("/")[2]
            found = json.loads(_read(self._targets / folder / f"{document.sha256.hex}.{basename}"))
            for entry in found.get("releases") or found.get("models") or ():
                if (entry["name"], entry["version"], entry["variant"]) == (row.name, row.version, row.variant):
                    return cast("dict[str, Any]", entry)
        raise NotFound("there is no such entry in the catalog")

    def _encoded(self, digest: Digest, data: bytes, coding: Coding) -> bytes:
        key = digest, coding
        with self._lock:
            coded = self._coded.get(key)
            if coded is not None:
                self._coded.move_to_end(key)
                return coded
        coded = encode(data, coding)
        with self._lock:
            if key not in self._coded:
                self._coded[key] = coded
                self._coded_bytes += len(coded)
            while self._coded_bytes > _CODED_BYTES:
                self._coded_bytes -= len(self._coded.popitem(last=False)[1])
        return coded


def _exact(data: bytes, cache_control: str) -> Representation:
    return blob_representation(
        Digest(hashlib.sha256(data).digest()), len(data), content_type="application/json", cache_control=cache_control
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise NotFound("there is no such file in the catalog") from None
    if len(data) > MAX_FILE:
        raise NotFound("the file is larger than any of a catalog")
    return data
