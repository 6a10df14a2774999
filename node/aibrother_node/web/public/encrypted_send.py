"""One answer on its way over TLS: read a slice, hand it to asyncio's transport, wait for room."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import TYPE_CHECKING, Final

from aibrother_node.store.withheld import first_withheld, merged
from aibrother_node.web.public.body_cut import BodyCut, up_to_withheld
from aibrother_node.web.ranges import Slice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aibrother_node.store.open_blob import OpenBlob
    from aibrother_node.store.withheld import Ranges
    from aibrother_node.web.public.sender import Sends

_SLICE: Final = 256 << 10  # passes through memory, so this is what a stalled client costs
_ENCRYPTED: Final = 512 << 10  # at most so much waits in asyncio's TLS transport beyond what it says, encrypted already
_TCP_INFO_LENGTH: Final = 128  # up to and with tcpi_bytes_acked


class EncryptedSend:
    """One answer on its way through a TLS transport: read a slice, hand it over, wait for room."""

    def __init__(
        self,
        sends: Sends,
        transport: asyncio.Transport,
        writable: asyncio.Event,
        parts: Sequence[bytes | Slice],
        blob: OpenBlob | None,
    ) -> None:
        self._sends = sends
        self._transport = transport
        self._writable = writable
        self._parts = parts
        self._fd = -1 if blob is None else blob.fd
        self._blob = blob
        self._looked = b""
        self._barred: Ranges = ()
        self._read_to = 0
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket = transport.get_extra_info("socket")
        self._cut: str | None = None
        self._moved_at = self._loop.time()
        self._acknowledged = _bytes_acknowledged(self._socket)

    async def run(self) -> None:
        for number, part in enumerate(self._parts):
            if isinstance(part, Slice):
                offset, end = part.offset, part.offset + part.length
                while offset < end:
                    offset += await self._write(await self._read(offset, min(_SLICE, end - offset)))
            else:
                await self._write(part)
                self._sends.bytes_sent += len(part) if number else 0  # the head is none of the body

    def last_moved(self, now: float) -> float:
        # the transport's buffers hide small steps; the kernel knows what the client has confirmed
        acknowledged = _bytes_acknowledged(self._socket)
        if acknowledged != self._acknowledged:
            self._acknowledged = acknowledged
            self._moved_at = now
        return self._moved_at

    def cut(self, reason: str) -> None:
        self._cut = reason
        self._transport.abort()
        self._writable.set()

    async def _read(self, offset: int, length: int) -> bytes:
        length = self._allowed(offset, length)
        if not self._sends.pages.has(self._fd, offset, length):
            await self._loop.run_in_executor(None, self._sends.pages.warm, os.dup(self._fd), offset, length)
            length = self._allowed(offset, length)
        data = os.pread(self._fd, length, offset)
        if not data:
            raise BodyCut("the file is shorter than it was")
        self._sends.bytes_sent += len(data)
        self._read_to = offset + len(data)
        return data

    def _allowed(self, offset: int, length: int) -> int:
        """How many of these bytes may be sent now."""
        withheld = self._sends.withheld
        if withheld.memory[:8] != self._looked:
            assert self._blob is not None
            ranges = withheld.ranges(self._blob.digest, self._blob.inode)
            if ranges:
                self._barred = merged([*self._barred, *ranges])
            self._looked = withheld.seen
        return up_to_withheld(self._barred, offset, length) if self._barred else length

    def cut_withheld(self) -> None:
        """End it where bytes that are withheld by now wait in the transport's buffers."""
        if self._blob is None or self._sends.withheld.memory[:8] == self._looked:
            return
        waiting = min(self._transport.get_write_buffer_size() + _ENCRYPTED, self._read_to)
        self._allowed(0, 0)
        if waiting and first_withheld(self._barred, self._read_to - waiting, waiting) is not None:
            self.cut("what waits to be sent is withheld")

    async def _write(self, data: bytes) -> int:
        if self._cut is not None or self._transport.is_closing():
            raise BodyCut(self._cut or "closed by the client")
        self._transport.write(data)
        if self._writable.is_set():
            await asyncio.sleep(0)  # one slice a turn, as on plain sockets
        else:
            await self._writable.wait()
        return len(data)


def _bytes_acknowledged(sock: socket.socket) -> int:
    """tcpi_bytes_acked of linux/tcp.h: the bytes that the peer has confirmed; 0 once the socket is closed."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_LENGTH)
    except OSError:
        return 0
    return int.from_bytes(info[_TCP_INFO_LENGTH - 8 :], sys.byteorder) if len(info) == _TCP_INFO_LENGTH else 0
