"""A draft whose files are stored becomes an entry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aibrother_node.catalog.entries import Entry, Part
from aibrother_node.catalog.names import part_filename, projector_filename
from aibrother_node.catalog.values import time_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from aibrother_tools.publishing.drafts import Draft
    from aibrother_tools.storing import StoredFile


def entry_of(draft: Draft, stored: Sequence[StoredFile], now: datetime) -> Entry:
    """The entry of a release.

    Args:
        draft: its names and what is said of it.
        stored: its files as the store has them, in the draft's order, the projector last.
        now: when it was made, in UTC.
    """
    key = draft.name, draft.version, draft.variant
    of = len(draft.files)
    parts = tuple(_part(part_filename(*key, number, of), file) for number, file in enumerate(stored[:of], 1))
    projector = None if draft.projector is None else _part(projector_filename(*key), stored[of])
    fields = draft.fields
    return Entry(
        *key,
        processed_date=time_text(now),
        parts=parts,
        gguf=draft.gguf,
        projector=projector,
        license=fields.license or "unknown",
        description=fields.description or "",
        tags=tuple(fields.tags or ()),
        repo=fields.repo,
        min_memory_bytes=fields.min_memory_bytes,
        urls=tuple(fields.urls or ()),
    )


def _part(filename: str, file: StoredFile) -> Part:
    assert file.pieces is not None, "publishing asks for pieces"
    return Part(filename, file.digest, file.size, file.manifest, file.pieces)
