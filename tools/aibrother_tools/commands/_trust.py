"""Where a user's trust is: the file of a root, and the folder in which what was verified is remembered."""

from __future__ import annotations

import os
from pathlib import Path


def state_folder() -> Path:
    """Where trust is remembered (XDG Base Directory Specification)."""
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "aibrother"


def read_root(path: Path) -> bytes:
    """Read a root's file, no more of it than a root may have.

    Raises:
        NotFound: there is none.
    """
    from aibrother_node.catalog.trust import TrustLimits
    from aibrother_node.errors import NotFound

    try:
        with path.open("rb") as file:
            return file.read(TrustLimits().root_bytes + 1)
    except FileNotFoundError:
        raise NotFound(f"no root at {path}") from None
