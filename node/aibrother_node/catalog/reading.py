"""What a catalog says that lies in a folder: its documents, and the releases that a reference means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from aibrother_node.catalog.entries import (
    MAX_CATALOG_BYTES,
    MAX_FLEET_BYTES,
    MAX_RELEASES_BYTES,
    CatalogDocument,
    Entry,
    FleetDocument,
    ReleasesDocument,
    decode_catalog,
    decode_fleet,
    decode_releases,
)
from aibrother_node.catalog.targets import FLEET_PATH, Content, catalog_path, releases_path
from aibrother_node.errors import Gone, NotFound, VerificationFailed

if TYPE_CHECKING:
    from aibrother_node.catalog.names import Reference

STABLE: Final = catalog_path("stable")
STAGING: Final = catalog_path("staging")


class Documents(Protocol):
    """A catalog whose documents can be read: a `Repository`, or what one would become."""

    def document(self, path: str) -> bytes | None:
        """A document's bytes, verified; None if there is none, or if the path is a part's."""


def content_of(repository: Documents) -> Content:
    """What is published, as it is signed now."""
    return Content(catalog(repository, STABLE), catalog(repository, STAGING), lambda name: releases(repository, name))


def catalog(repository: Documents, path: str) -> CatalogDocument:
    """A channel's document as it is signed now."""
    data = repository.document(path)
    if data is None:
        raise VerificationFailed(f"the catalog has no {path}")
    return decode_catalog(data, MAX_CATALOG_BYTES)


def releases(repository: Documents, name: str) -> ReleasesDocument | None:
    """All releases of one model; None where it has none."""
    data = repository.document(releases_path(name))
    return None if data is None else decode_releases(data, MAX_RELEASES_BYTES)


def fleet(repository: Documents) -> FleetDocument:
    """The members of the fleet as they are signed now."""
    data = repository.document(FLEET_PATH)
    if data is None:
        raise VerificationFailed(f"the catalog has no {FLEET_PATH}")
    return decode_fleet(data, MAX_FLEET_BYTES)


def find(repository: Documents, reference: Reference) -> list[Entry]:
    """The stable releases that a reference means: of each variant the newest, or the version named.

    Raises:
        NotFound: there is none.
        Gone: it was withdrawn.
    """
    stones = {stone.key: stone for stone in catalog(repository, STABLE).yanked}
    document = releases(repository, reference.name)
    named = [
        entry
        for entry in (() if document is None else document.releases)
        if reference.variant in (None, entry.variant) and reference.version in (None, entry.version)
    ]
    found = {entry.variant: entry for entry in named if entry.key not in stones}  # oldest first: the newest stays
    if not found and named:
        stone = stones[named[-1].key]
        raise Gone(f"{reference} was withdrawn: {stone.reason}")
    if not found:
        raise NotFound(f"the catalog has no {reference}")
    return [found[variant] for variant in sorted(found)]
