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
from aibrother_node.web.control.admin.audit_rows import (
    BEGUN,
    LOCAL,
    PART,
    PRUNE,
    STEPS,
    Who,
    brief,
    complete,
    insert,
    read_rows,
    result_of,
)
from aibrother_node.web.control.admin.problems import answer_problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

__all__ = ["LOCAL", "AuditLog", "Entry", "Who", "brief"]

_LOG: Final = logging.getLogger(__name__)
MAX_ACTIONS: Final = 1_000_000
MAX_REFUSALS: Final = 50_000
_BATCH: Final = 256
_PRUNE_EVERY: Final = 500  # rows
_MERGE_FOR: Final = 60.0  # seconds for which one row counts
_MAX_MERGED: Final = 4096
_MAX_WAITING: Final = 10_000  # completions kept for when the disk has room again


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
        self._failing = False
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
        row = await self._ask(insert(self._now(), who, action, target, request, None, BEGUN, {}, refusal=False))
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
            insert(self._now(), who, action, target, None, status, result_of(status), notes, refusal=False)
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
        added = insert(self._now(), who, action, target, None, status, "refused", notes, refusal=True)
        await self._or_log(added if merge is None else self._merging(merge, added))

    def page(self, **filters: Any) -> list[dict[str, Any]]:
        """The newest rows, as `read_rows`; blocks, on any thread."""
        return read_rows(self._path, **filters)

    # -- from the event loop

    async def _complete(self, row: int, entry: Entry, reason: str | None) -> None:
        notes = entry.notes if reason is None else {**entry.notes, "reason": reason}
        await self._or_log(complete(self._now(), row, entry.status, notes), keep=True)

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
            if not self._failing:  # once, or strangers would fill the log of a full disk
                _LOG.error("the audit log could not be written: %s", error)
            self._failing = True
        else:
            self._failing = False

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
                self._db.execute(PRUNE, (refusal, refusal, ceiling))
        self._db.execute("COMMIT")
        return results

    def _merging(self, key: str, added: Callable[[sqlite3.Connection], int]) -> Callable[[sqlite3.Connection], int]:
        def do(db: sqlite3.Connection) -> int:
            now = self._now()
            row, begun = self._merged.get(key, (0, 0.0))
            if row and begun <= now < begun + _MERGE_FOR:
                db.execute("UPDATE audit SET count = count + 1, last = ? WHERE id = ?", (now, row))
                return row
            row = added(db)
            self._merged[key] = (row, now)
            self._merged.move_to_end(key)
            if len(self._merged) > _MAX_MERGED:
                self._merged.popitem(last=False)
            return row

        return do


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
