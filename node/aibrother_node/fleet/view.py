"""What workers know of the fleet: `run/fleet.sqlite3`, written by control, read by every worker.

Control alone gossips and asks peers for their inventories. What it learns it writes here, so that a worker can say who
else has a blob without waiting for control; with control dead, workers go on with what was written last, for as long
as `MAX_AGE`. The file lives in `run/`: it is made anew at every start and holds nothing that gossip doesn't bring back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from aibrother_node.content.digest import Digest

Have = Literal["complete", "partial"]
MAX_AGE: Final = 300.0
"""Seconds after which what control wrote last is no longer told to clients."""


@dataclass(frozen=True, slots=True)
class PeerView:
    """A peer that clients may be sent to: admitted, alive, not draining.

    Attributes:
        id: its node id.
        url: of its public plane, without a slash at the end.
        region, country, latitude, longitude: where it stands; from the catalog, else from its record.
        load: 0 (idle) to 1 (full), as its record says.
    """

    id: str
    url: str
    region: str | None = None
    country: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    load: float = 0.0


class FleetViewWriter:
    """The view as control writes it; for one thread at a time. Every method is one transaction.

    Args:
        path: `run/fleet.sqlite3`; what a former run left there is removed.
    """

    def __init__(self, path: Path) -> None:
        raise NotImplementedError

    def put_peers(self, peers: Iterable[PeerView], now: float) -> None:
        """Say which peers clients may be sent to; what was said before is forgotten, holdings stay."""
        raise NotImplementedError

    def change_holdings(self, peer: str, changes: Mapping[Digest, Have | None], *, reset: bool = False) -> None:
        """Say what a peer has: None takes a blob away, `reset` begins anew."""
        raise NotImplementedError

    def forget(self, peers: Iterable[str]) -> None:
        """Forget all holdings of peers that are no members any more."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the file."""
        raise NotImplementedError


class FleetView:
    """The view as workers read it; from any thread, blocking.

    Args:
        path: `run/fleet.sqlite3`, which need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        raise NotImplementedError

    def version(self) -> int:
        """A number that changes with every transaction of the writer; cheap enough for each request that is cached."""
        raise NotImplementedError

    def peers(self, now: float) -> dict[str, PeerView]:
        """The peers by id; none where control has written nothing for `MAX_AGE`."""
        raise NotImplementedError

    def holders(self, digest: Digest, now: float) -> list[tuple[PeerView, Have]]:
        """Which of these peers have a blob, in the order of their ids."""
        raise NotImplementedError
