"""The database of places that the configuration names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aibrother_node.errors import ConfigurationError, InvalidInput
from aibrother_node.fleet.place import PlaceDatabase

if TYPE_CHECKING:
    from aibrother_node.config import PublicSection


def open_places(public: PublicSection) -> PlaceDatabase | None:
    """Open the database of places, None where none is configured.

    Raises:
        ConfigurationError: it can't be used.
    """
    if public.geoip_database is None:
        return None
    try:
        return PlaceDatabase(public.geoip_database)
    except InvalidInput as error:
        raise ConfigurationError([f"public.geoip_database: {error}"]) from error


def check_places(public: PublicSection) -> None:
    """See whether the database of places can be used.

    Raises:
        ConfigurationError: as `open_places`.
    """
    database = open_places(public)
    if database is not None:
        database.close()
