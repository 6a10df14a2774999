"""`/readyz`: whether a node is ready to serve, check by check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `/readyz`: a check that fails makes the node unready, unless it is only a warning."""

    name: str
    ok: bool
    detail: str = ""
    warning: bool = False


def readiness(checks: Sequence[Check]) -> tuple[bool, dict[str, object]]:
    """Whether a node is ready, and what `/readyz` says of it."""
    ready = all(check.ok or check.warning for check in checks)
    return ready, {
        "ready": ready,
        "checks": {
            check.name: {"ok": check.ok, **({"detail": check.detail} if check.detail else {})} for check in checks
        },
        "warnings": [check.name for check in checks if check.warning and not check.ok],
    }
