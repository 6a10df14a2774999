"""The admin API's part of control: tokens, the audit log, and the operations of all parts put together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.store.disk import Disk
from aibrother_node.web.control.admin.api import AdminApi
from aibrother_node.web.control.admin.audit import AuditLog
from aibrother_node.web.control.admin.tokens import Token, TokenFiles, TokenTable
from aibrother_tools.reports import program_version
from aibrother_tools.serve.child import every

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from aibrother_node.store.layout import Layout
    from aibrother_node.web.control.admin.operation import Operation

_LOOK: Final = 5.0  # seconds between looks for files that came or went by another hand


class AdminService:
    """Tokens, audit and the API made of all operations.

    Args:
        layout: the data directory.

    Attributes:
        audit: the audit log, for the local plane as well.
    """

    def __init__(self, layout: Layout) -> None:
        self._files = TokenFiles(layout.tokens, Disk())
        self._tokens = TokenTable()
        self._changing = asyncio.Lock()
        self._seen: frozenset[tuple[str, int, int]] = frozenset()
        self._api: AdminApi | None = None
        self._task: asyncio.Task[None] | None = None
        self.audit = AuditLog(layout.index)

    async def start(self, operations: Sequence[Operation]) -> None:
        """Read the tokens, and make the API of these operations."""
        await self._read()
        self._api = AdminApi(operations, self._tokens, self.audit, version=program_version())
        self._task = asyncio.create_task(every(_LOOK, self._look), name="tokens")

    @property
    def guarded(self) -> web.Application:
        """What the control plane serves below `/admin/v1`."""
        assert self._api is not None
        return self._api.guarded()

    @property
    def local(self) -> web.Application:
        """What `run/control.sock` serves below `/admin/v1`."""
        assert self._api is not None
        return self._api.local()

    async def keep_token(self, document: Any) -> dict[str, Any]:
        """Take in a token that a command has made; it is good from now on.

        Raises:
            InvalidInput: it is none.
        """
        token = Token.from_json(document)
        async with self._changing:
            await asyncio.to_thread(self._files.write, token)
            await self._read()
        return {"id": token.id}

    async def revoke_token(self, token_id: str) -> dict[str, Any]:
        """Forget a token; it is of no use from now on.

        Raises:
            NotFound: there is none of this id.
        """
        async with self._changing:
            self._tokens.remove(token_id)  # first: whatever becomes of the file, it is refused now
            self._cut_revoked()
            try:
                await asyncio.to_thread(self._files.remove, token_id)
            finally:
                await self._read()
        return {"id": token_id}

    async def close(self) -> None:
        """End, when nobody asks any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.audit.close()

    async def _look(self) -> None:
        """Take over what was changed by hand, such as a file that was removed."""
        async with self._changing:
            if await asyncio.to_thread(self._files.state) != self._seen:
                await self._read()
        self._cut_revoked()  # of those that have expired as well

    def _cut_revoked(self) -> None:
        if self._api is not None:
            self._api.cut_revoked()

    async def _read(self) -> None:
        self._seen = await asyncio.to_thread(self._files.state)
        self._tokens.replace(await asyncio.to_thread(self._files.read))
