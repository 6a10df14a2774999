"""The thread on which the book of jobs is: SQLite blocks, and commits wait for the disk."""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from aibrother_node.errors import Temporary
from aibrother_node.store.database import named
from aibrother_replicator.jobs.book import Book

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_Result = TypeVar("_Result")


class BookThread:
    """A book, and the one thread that may touch it. What is asked is done in the order in which it was asked for.

    Args:
        path: of `index.sqlite3`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="jobs")
        self._book: Book | None = None

    async def open(self) -> None:
        """Open the book.

        Raises:
            DiskFull, Temporary: not now; it may be tried again.
            InvalidInput: a newer program has written it.
        """
        await self._close()
        self._book = await self._run(lambda: Book.open(self._path))

    async def run(self, work: Callable[[Book], _Result]) -> _Result:
        """Do something with the book.

        Raises:
            DiskFull, Temporary: it isn't possible now, and nothing has changed.
        """
        book = self._book
        if book is None:
            raise Temporary("the book of jobs isn't open")
        return await self._run(lambda: work(book))

    async def close(self) -> None:
        """Finish what is asked for, and close the book."""
        await self._close()
        await asyncio.to_thread(self._executor.shutdown)

    async def _close(self) -> None:
        if self._book is not None:
            book, self._book = self._book, None
            await self._run(book.close)

    async def _run(self, work: Callable[[], _Result]) -> _Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except sqlite3.Error as error:
            known = named(error)
            raise (Temporary(f"the book of jobs can't be used: {error}") if known is error else known) from error
