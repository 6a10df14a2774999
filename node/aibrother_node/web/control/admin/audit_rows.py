"""The rows of the audit log in `index.sqlite3`, and what is told in them."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.errors import Temporary
from aibrother_node.store.database import read_only

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

PART: Final = "audit"
STEPS: Final = (
    """CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL,
        last REAL NOT NULL,
        refusal INTEGER NOT NULL,
        caller TEXT,
        address TEXT NOT NULL,
        action TEXT,
        target TEXT NOT NULL,
        request TEXT NOT NULL,
        status INTEGER,
        result TEXT NOT NULL,
        notes TEXT NOT NULL,
        count INTEGER NOT NULL
    );
CREATE INDEX audit_by_refusal ON audit (refusal, id);
CREATE INDEX audit_by_caller ON audit (caller, id);
CREATE INDEX audit_by_action ON audit (action, id);
""",
)
MAX_JSON: Final = 2048
"""Characters of a request, a target or notes as JSON; longer ones are said to be so."""
_BRIEF_TEXT: Final = 200
_BRIEF_ITEMS: Final = 50
BEGUN: Final = "begun"
_COLUMNS: Final = (
    *("id", "at", "last", "refusal", "caller", "address", "action", "target"),
    *("request", "status", "result", "notes", "count"),
)
PRUNE: Final = (
    "DELETE FROM audit WHERE refusal = ? AND id <= "
    "(SELECT id FROM audit WHERE refusal = ? ORDER BY id DESC LIMIT 1 OFFSET ?)"
)
"""Takes `refusal` twice, and how many rows of these stay."""


@dataclass(frozen=True, slots=True)
class Who:
    """Who asked.

    Attributes:
        caller: a token's id, `local` for this machine's commands, None for nobody known.
        address: the TCP peer's; `local` over run/control.sock.
    """

    caller: str | None
    address: str


LOCAL: Final = Who("local", "local")
"""Whoever may open `run/control.sock`."""


def brief(value: Any) -> Any:
    """A JSON value in which long texts and long lists are told by their length, for the audit log."""
    if isinstance(value, str):
        return value if len(value) <= _BRIEF_TEXT else f"({len(value)} characters)"
    if isinstance(value, dict):
        if len(value) > _BRIEF_ITEMS:
            return f"({len(value)} members)"
        return {str(name)[:_BRIEF_TEXT]: brief(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [brief(one) for one in value] if len(value) <= _BRIEF_ITEMS else f"({len(value)} items)"
    return value


def insert(
    now: float,
    who: Who,
    action: str | None,
    target: Mapping[str, Any] | None,
    request: object,
    status: int | None,
    result: str,
    notes: Mapping[str, Any],
    *,
    refusal: bool,
) -> Callable[[sqlite3.Connection], int]:
    """What adds a row, and returns its id."""
    row = {
        "at": now,
        "last": now,
        "refusal": refusal,
        "caller": who.caller,
        "address": who.address,
        "action": action,
        "target": _small(dict(target or {})),
        "request": _small(request),
        "status": status,
        "result": result,
        "notes": _small(dict(notes)),
        "count": 1,
    }
    statement = f"INSERT INTO audit ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"  # noqa: S608 - the same

    def do(db: sqlite3.Connection) -> int:
        added = db.execute(statement, tuple(row.values())).lastrowid
        assert added is not None
        return added

    return do


def complete(now: float, row: int, status: int, notes: Mapping[str, Any]) -> Callable[[sqlite3.Connection], int]:
    """What completes a row, and returns its id."""

    def do(db: sqlite3.Connection) -> int:
        db.execute(
            "UPDATE audit SET status = ?, result = ?, notes = ?, last = ? WHERE id = ?",
            (status, result_of(status), _small(dict(notes)), now, row),
        )
        return row

    return do


def result_of(status: int) -> str:
    """How an action ended that was answered so."""
    return "done" if status < 400 else "failed"


def _small(value: object) -> str:
    """JSON of bounded length, in ASCII, whatever it is made from."""
    text = json.dumps(value, default=str)
    return text if len(text) <= MAX_JSON else json.dumps({"too_long": len(text)})


def _document(row: dict[str, Any]) -> dict[str, Any]:
    for name in ("target", "request", "notes"):
        row[name] = json.loads(row[name])
    row["refusal"] = bool(row["refusal"])
    return row


def read_rows(
    path: Path,
    *,
    before: int | None = None,
    limit: int = 100,
    action: str | None = None,
    caller: str | None = None,
    since: float | None = None,
) -> list[dict[str, Any]]:
    """The newest rows, the newest first; blocks, on any thread.

    Args:
        path: of `index.sqlite3`.
        before: only rows with a smaller id.
        limit: how many at most.
        action, caller: only these.
        since: Unix time; only rows that were last added to since.

    Raises:
        Temporary: they can't be read now.
    """
    where = {"id < ?": before, "action = ?": action, "caller = ?": caller, "last >= ?": since}
    given = {clause: value for clause, value in where.items() if value is not None}
    query = f"SELECT {', '.join(_COLUMNS)} FROM audit"  # noqa: S608 - names of our own
    if given:
        query += " WHERE " + " AND ".join(given)
    if not path.exists():
        return []  # nothing has been entered yet
    try:
        db = read_only(path, 10.0)
    except sqlite3.OperationalError as error:
        raise Temporary(f"the audit log can't be read now: {error}") from error
    try:
        rows = db.execute(f"{query} ORDER BY id DESC LIMIT ?", (*given.values(), limit)).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return []
        raise Temporary(f"the audit log can't be read now: {error}") from error
    finally:
        db.close()
    return [_document(dict(zip(_COLUMNS, row, strict=True))) for row in rows]
