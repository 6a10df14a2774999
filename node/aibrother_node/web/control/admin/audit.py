"""The audit log: who asked for what, when, and what became of it. Rows are added and completed, never changed.

- An action is entered before it is begun, durably, and completed before it is answered. Where it can't be entered (the
  disk is full) it isn't begun. A row without a status is of an action in whose middle the node ended.
- Refusals (401, 403, 429) are entered as well, and pruned apart from actions: strangers push no action out. Very many
  of one kind are counted in one row.
- One thread writes; what is asked of it meanwhile goes into the next transaction together.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import queue
import sqlite3
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.errors import NodeError, Temporary
from aibrother_node.store.database import named, open_part
from aibrother_node.web.control.admin.problems import answer_problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

_LOG: Final = logging.getLogger(__name__)
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
MAX_ACTIONS: Final = 1_000_000
MAX_REFUSALS: Final = 50_000
MAX_JSON: Final = 2048
"""Characters of a request, a target or notes as JSON; longer ones are said to be so."""
_BRIEF_TEXT: Final = 200
_BRIEF_ITEMS: Final = 50
_BATCH: Final = 256
_PRUNE_EVERY: Final = 500  # rows
_MERGE_FOR: Final = 60.0  # seconds for which one row counts
_MAX_MERGED: Final = 4096
_MAX_WAITING: Final = 10_000  # completions kept for when the disk has room again
BEGUN: Final = "begun"


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


@dataclass(slots=True)
class Entry:
    """An action that has been entered.

    Attributes:
        notes: what became of it, small JSON values; kept when it is completed.
        status: the HTTP status that answers it.
    """

    notes: dict[str, Any] = field(default_factory=dict)
    status: int = 200


@dataclass(slots=True)
class _Write:
    do: Callable[[sqlite3.Connection], int]
    done: asyncio.Future[int]
    loop: asyncio.AbstractEventLoop
    keep: bool = False  # try again later instead of giving it up


class AuditLog:
    """The audit log of a running node.

    Args:
        path: of `index.sqlite3`.
        max_actions, max_refusals: rows kept of each.
        now: the clock, in Unix time.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_actions: int = MAX_ACTIONS,
        max_refusals: int = MAX_REFUSALS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._now = now
        self._ceilings = (max_actions, max_refusals)
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._closed = False
        self._opened = False
        self._db: sqlite3.Connection | None = None
        self._waiting: deque[_Write] = deque(maxlen=_MAX_WAITING)
        self._merged: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._since_pruned = _PRUNE_EVERY
        self._thread.start()

    async def close(self) -> None:
        """Write what waits, and end the thread."""
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    @contextlib.asynccontextmanager
    async def action(
        self, who: Who, action: str, target: Mapping[str, Any] | None = None, request: object = None
    ) -> AsyncIterator[Entry]:
        """Enter an action, and complete it when the block ends, whichever way; for the block to carry out.

        Args:
            who: asks for it.
            action: its name.
            target: what it is done to.
            request: with what; never a secret.

        Raises:
            DiskFull: it can't be entered, and is not begun.
        """
        row = await self._ask(_insert(self._now(), who, action, target, request, None, BEGUN, {}, refusal=False))
        entry = Entry()
        try:
            yield entry
        except Exception as error:
            entry.status = answer_problem(error, "POST").status
            await self._complete(row, entry, str(error) if isinstance(error, NodeError) else type(error).__name__)
            raise
        await self._complete(row, entry, None)

    async def attempt(self, who: Who, action: str, target: Mapping[str, Any] | None, status: int, reason: str) -> None:
        """Enter an action that was never begun, since what was asked is wrong."""
        notes = {"reason": reason}
        await self._or_log(
            _insert(self._now(), who, action, target, None, status, _result(status), notes, refusal=False)
        )

    async def refuse(
        self,
        who: Who,
        action: str | None,
        target: Mapping[str, Any] | None,
        status: int,
        reason: str,
        *,
        merge: str | None = None,
    ) -> None:
        """Enter a refusal. It is answered even where that can't be written.

        Args:
            who: was refused.
            action: what they asked for, where there is such a thing.
            target: to what.
            status: 401, 403 or 429.
            reason: in words.
            merge: refusals with this key are counted in one row a minute.
        """
        notes = {"reason": reason}
        insert = _insert(self._now(), who, action, target, None, status, "refused", notes, refusal=True)
        await self._or_log(insert if merge is None else self._merging(merge, insert))

    def page(
        self,
        *,
        before: int | None = None,
        limit: int = 100,
        action: str | None = None,
        caller: str | None = None,
        since: float | None = None,
    ) -> list[dict[str, Any]]:
        """The newest rows, the newest first; blocks, on any thread.

        Args:
            before: only rows with a smaller id.
            limit: how many at most.
            action, caller: only these.
            since: Unix time; only rows that were last added to since.
        """
        where = {"id < ?": before, "action = ?": action, "caller = ?": caller, "last >= ?": since}
        given = {clause: value for clause, value in where.items() if value is not None}
        query = f"SELECT {', '.join(_COLUMNS)} FROM audit"  # noqa: S608 - names of our own
        if given:
            query += " WHERE " + " AND ".join(given)
        if not self._path.exists():
            return []  # nothing has been entered yet
        try:
            db = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True, timeout=10.0)
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

    # -- from the event loop

    async def _complete(self, row: int, entry: Entry, reason: str | None) -> None:
        notes = entry.notes if reason is None else {**entry.notes, "reason": reason}
        await self._or_log(_complete(self._now(), row, entry.status, notes), keep=True)

    async def _ask(self, do: Callable[[sqlite3.Connection], int], *, keep: bool = False) -> int:
        if self._closed:
            raise Temporary("the node ends")
        loop = asyncio.get_running_loop()
        write = _Write(do, loop.create_future(), loop, keep)
        self._queue.put(write)
        return await write.done

    async def _or_log(self, do: Callable[[sqlite3.Connection], int], *, keep: bool = False) -> None:
        try:
            await self._ask(do, keep=keep)
        except Exception as error:
            _LOG.error("the audit log could not be written: %s", error)

    # -- on the thread

    def _run(self) -> None:
        while True:
            first = self._queue.get()
            batch = [] if first is None else [first]
            ending = first is None
            while len(batch) < _BATCH and not ending:
                try:
                    more = self._queue.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    ending = True
                else:
                    batch.append(more)
            self._write([*self._waiting, *batch])
            if ending:
                if self._db is not None:
                    self._db.close()
                return

    def _write(self, batch: Sequence[_Write]) -> None:
        """Carry out all of a batch in one transaction, or none."""
        if not batch:
            return
        self._waiting.clear()
        try:
            results = self._transaction(batch)
        except Exception as error:
            if self._db is not None:
                self._db.close()  # rolls back
                self._db = None
            self._merged.clear()  # what it names may not be there
            found = named(error) if isinstance(error, sqlite3.Error) else error
            self._waiting.extend(write for write in batch if write.keep)
            for write in batch:
                _tell(write, None, found)
            return
        for write, result in zip(batch, results, strict=True):
            _tell(write, result, None)

    def _transaction(self, batch: Sequence[_Write]) -> list[int]:
        if self._db is None:
            self._db = open_part(self._path, PART, STEPS)
        if not self._opened:
            # nobody but this thread writes here, and it has only begun
            self._db.execute("UPDATE audit SET result = 'interrupted' WHERE status IS NULL AND result = ?", (BEGUN,))
            self._opened = True
        self._db.execute("BEGIN IMMEDIATE")
        results = [write.do(self._db) for write in batch]
        self._since_pruned += len(batch)
        if self._since_pruned >= _PRUNE_EVERY:
            self._since_pruned = 0
            for refusal, ceiling in enumerate(self._ceilings):
                self._db.execute(_PRUNE, (refusal, refusal, ceiling))
        self._db.execute("COMMIT")
        return results

    def _merging(self, key: str, insert: Callable[[sqlite3.Connection], int]) -> Callable[[sqlite3.Connection], int]:
        def do(db: sqlite3.Connection) -> int:
            now = self._now()
            row, begun = self._merged.get(key, (0, 0.0))
            if row and begun <= now < begun + _MERGE_FOR:
                db.execute("UPDATE audit SET count = count + 1, last = ? WHERE id = ?", (now, row))
                return row
            row = insert(db)
            self._merged[key] = (row, now)
            self._merged.move_to_end(key)
            if len(self._merged) > _MAX_MERGED:
                self._merged.popitem(last=False)
            return row

        return do


_COLUMNS: Final = (
    *("id", "at", "last", "refusal", "caller", "address", "action", "target"),
    *("request", "status", "result", "notes", "count"),
)
_PRUNE: Final = (
    "DELETE FROM audit WHERE refusal = ? AND id <= "
    "(SELECT id FROM audit WHERE refusal = ? ORDER BY id DESC LIMIT 1 OFFSET ?)"
)


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


def _insert(
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


def _complete(now: float, row: int, status: int, notes: Mapping[str, Any]) -> Callable[[sqlite3.Connection], int]:
    def do(db: sqlite3.Connection) -> int:
        db.execute(
            "UPDATE audit SET status = ?, result = ?, notes = ?, last = ? WHERE id = ?",
            (status, _result(status), _small(dict(notes)), now, row),
        )
        return row

    return do


def _result(status: int) -> str:
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


def _tell(write: _Write, result: int | None, error: Exception | None) -> None:
    def tell() -> None:
        if write.done.done():
            return
        if error is not None:
            write.done.set_exception(error)
        else:
            write.done.set_result(result or 0)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
        write.loop.call_soon_threadsafe(tell)
