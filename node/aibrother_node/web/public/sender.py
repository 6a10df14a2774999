"""Carries an answer's bytes to a client: memory by send, files by sendfile, never more than a slice at a time.

It decides nothing. What is sent, in which order, stands in the answer; this module only moves it, and keeps four
promises while doing so:

- **Fairness.** At most `SLICE` bytes go out for one client at a time, and after `_TURN` bytes the loop looks at what
  else there is: an unlimited sendfile to a fast client would hold it for as long as the client keeps reading.
- **The loop doesn't wait for the disk.** Before 2 MiB are sent, one byte at their end is read with RWF_NOWAIT
  (preadv2(2)); where the page cache hasn't got it, a thread reads them first.
- **A body that stops moving is cut**, by whoever owns the set of active sends (`Sends.cut_stalled`).
- **What is withheld isn't sent** (store/withheld.py). Before each slice a number in mapped memory is compared; a body
  that needs bytes which have been withheld goes on up to them and is cut there, also if they are repaired meanwhile.

Sending is done on a duplicate of the socket's descriptor: the event loop allows no second writer on a descriptor that
belongs to a transport, and the transport stays what reads the next request.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from aibrother_node.store.withheld import merged
from aibrother_node.web.public.body_cut import BodyCut, up_to_withheld
from aibrother_node.web.public.encrypted_send import EncryptedSend
from aibrother_node.web.public.page_cache import PageCache
from aibrother_node.web.ranges import Slice

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aibrother_node.store.open_blob import OpenBlob
    from aibrother_node.store.withheld import Ranges, Withheld

SLICE: Final = 512 << 10
"""Most bytes of one client at a time. Measured at half, twice, four and eight times as much: all cost more per byte."""
_TURN: Final = 4 << 20  # bytes between two looks at the selector: what a new request waits for
_QUICK_BYTES: Final = 4 << 20  # a client that takes this much of one body within this time …
_QUICK_SECONDS: Final = 1.0
_WIDE: Final = 1 << 20  # … may have this much waiting in the kernel, where sockets.py allows the others 256 KiB
_ROOM_ONCE: Final = select.EPOLLOUT | select.EPOLLONESHOT
_WINDOW: Final = 2 << 20  # bytes of a file that are looked for in the page cache at once
_AGAIN: Final = (BlockingIOError, InterruptedError)


class Wire(Protocol):
    """A connection as the sender needs it.

    Attributes:
        transport: what reads the requests; None once the connection is lost.
        writable: set while the transport's buffer is below its high-water mark.
        sending: what is being sent now; whoever loses the connection cuts it.
    """

    transport: asyncio.Transport | None
    writable: asyncio.Event
    sending: Send | None

    def out(self) -> socket.socket:
        """A duplicate of the connection's socket, the same at each call, open until the connection is lost."""


class Sends:
    """The bodies that one worker is sending now.

    Args:
        stall_timeout: seconds after which a body that doesn't move is cut.
        withheld: what of which file isn't to be sent.
    """

    def __init__(self, stall_timeout: float, withheld: Withheld) -> None:
        self.stall_timeout = stall_timeout
        self.withheld = withheld
        self.pages = PageCache()
        self.bytes_sent = 0  # of bodies; what a TLS transport holds counts as sent
        self._active: set[Send] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.loop = asyncio.get_running_loop()
        self._epoll: select.epoll | None = None
        self._waiting: dict[int, _PlainSend] = {}
        self._ready: deque[_PlainSend] = deque()
        self._scheduled = False

    def __len__(self) -> int:
        return len(self._active)

    def wait_for_room(self, fd: int, send: _PlainSend) -> None:
        """The socket was full just now: the send has a turn once it no longer is."""
        if self._epoll is None:
            self._epoll = select.epoll()
            self.loop.add_reader(self._epoll.fileno(), self._on_room)
        self._waiting[fd] = send
        try:
            self._epoll.modify(fd, _ROOM_ONCE)
        except FileNotFoundError:
            # a connection that is new, or one whose number belonged to another before
            self._epoll.register(fd, _ROOM_ONCE)

    def wait_no_more(self, fd: int) -> None:
        """The send is over, or waits for something else."""
        self._waiting.pop(fd, None)

    def _on_room(self) -> None:
        assert self._epoll is not None
        for fd, _ in self._epoll.poll(0):
            send = self._waiting.pop(fd, None)
            if send is not None:
                self._ready.append(send)
        if not self._scheduled:
            self._turn()

    def make_ready(self, send: _PlainSend) -> None:
        """Give the send a turn."""
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._turn)
        self._ready.append(send)

    def _turn(self) -> None:
        """Let those that have room send, one slice each, for as long as new requests may wait."""
        ready = self._ready
        for _ in range(min(len(ready), _TURN // SLICE)):
            send = ready.popleft()
            if send.go():
                ready.append(send)
        self._scheduled = bool(ready)
        if ready:
            self.loop.call_soon(self._turn)

    def start(
        self,
        wire: Wire,
        answer: Sequence[bytes | Slice],
        blob: OpenBlob | None,
        ended: Callable[[BodyCut | None], None],
    ) -> bool:
        """Begin to send an answer's bytes.

        Args:
            wire: a connection whose own write buffer is empty.
            answer: the head and the parts after it: bytes, or slices of the file.
            blob: the file that slices are of; it stays open until the end.
            ended: called once when not everything goes out at once: later, with None when the rest did, else with why
                it was cut; the connection has then been aborted.

        Returns:
            True when everything is out already; `ended` isn't called then.

        Raises:
            BodyCut: it could not even be begun; the connection has been aborted.
        """
        transport = wire.transport
        if transport is None or transport.is_closing():
            raise BodyCut("closed by the client")
        if transport.get_extra_info("sslcontext") is None:
            send = _PlainSend(self, wire, transport, answer, blob, ended)
            if send.begin():
                return True
            self._active.add(send)
            wire.sending = send
            send.watch()
        else:
            encrypted = EncryptedSend(self, transport, wire.writable, answer, blob)
            self._active.add(encrypted)
            wire.sending = encrypted
            task = self.loop.create_task(self._encrypt(encrypted, wire, transport, ended))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return False

    async def _encrypt(
        self, send: EncryptedSend, wire: Wire, transport: asyncio.Transport, ended: Callable[[BodyCut | None], None]
    ) -> None:
        reason: BodyCut | None = None
        try:
            await send.run()
        except BodyCut as error:
            reason = error
        except OSError as error:
            reason = BodyCut(f"reading the file: {error}")
        except asyncio.CancelledError:
            reason = BodyCut("the server ends")
        self.over(send, wire)
        if reason is not None:
            transport.abort()  # nothing may follow half a body, whatever the reason
        ended(reason)

    def over(self, send: Send, wire: Wire) -> None:
        """The send has ended."""
        self._active.discard(send)
        wire.sending = None

    async def close(self) -> None:
        """Cut what is still being sent over TLS, and let go of the selector; plain sends end with their connections."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._epoll is not None:
            self.loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def cut_withheld(self) -> None:
        """Cut bodies whose withheld bytes wait in memory; to be called again and again.

        Only TLS has such memory: what a plain socket was given has left this process.
        """
        for send in list(self._active):
            if isinstance(send, EncryptedSend):
                send.cut_withheld()

    def cut_stalled(self, now: float) -> int:
        """Abort the sends that have moved nothing for `stall_timeout` seconds of the loop's clock.

        Returns:
            How many there were.
        """
        stalled = [send for send in self._active if now - send.last_moved(now) > self.stall_timeout]
        for send in stalled:
            send.cut(f"nothing moved for {self.stall_timeout:g} s")
        return len(stalled)


class Send(Protocol):
    """One answer on its way."""

    def last_moved(self, now: float) -> float:
        """When bytes were last taken by the client, in the loop's time."""

    def cut(self, reason: str) -> None:
        """End it."""


class _PlainSend:
    """One answer on its way over a plain socket."""

    def __init__(
        self,
        sends: Sends,
        wire: Wire,
        transport: asyncio.Transport,
        parts: Sequence[bytes | Slice],
        blob: OpenBlob | None,
        ended: Callable[[BodyCut | None], None],
    ) -> None:
        self._sends = sends
        self._wire = wire
        self._transport = transport
        self._loop = sends.loop
        self._socket = wire.out()
        self._out = self._socket.fileno()
        self._fd = -1 if blob is None else blob.fd
        self._blob = blob
        self._withheld = sends.withheld
        self._looked = b""
        self._barred: Ranges = ()
        self._parts = parts
        self._ended = ended
        self._next = 0
        self._view: memoryview | None = None
        self._offset = 0
        self._left = 0
        self._warm_until = -1
        self._sent = 0
        self._seen = -1
        self._blocked_at = 0.0
        self._is_wide = False
        self._warming = False
        self._watching = False
        self._blocked = False
        self._over = False
        self._moved_at = 0.0
        self._take_part()

    def begin(self) -> bool:
        """Send what goes at once.

        Returns:
            True when that was everything.

        Raises:
            BodyCut: the client is gone, or the file can't be read.
        """
        try:
            while self._next <= len(self._parts):
                if not self._move():
                    return False
        except _AGAIN:
            self._blocked = True
            return False
        except OSError as error:
            self._transport.abort()
            raise BodyCut(str(error)) from error
        return True

    def watch(self) -> None:
        """Send the rest as the client takes it."""
        if self._warming:
            return
        self._watching = True
        if self._blocked:
            self._block()
        else:
            self._sends.make_ready(self)

    def last_moved(self, now: float) -> float:
        # looked at once a second, so that nothing has to be noted at each slice
        if self._warming or self._seen != self._sent:
            self._seen = self._sent
            self._moved_at = now
        return self._moved_at

    def cut(self, reason: str) -> None:
        # at once, not when the waiting task gets its turn: by then the descriptor may belong to another connection
        self._end(BodyCut(reason))

    def _end(self, reason: BodyCut | None) -> None:
        if self._over:
            return
        self._over = True
        self._unwatch()
        self._sends.over(self, self._wire)
        if reason is not None:
            self._transport.abort()  # nothing may follow half a body, whatever the reason
        self._ended(reason)

    def _block(self) -> None:
        """Wait for room; a client that has proven quick gets more of it."""
        if not self._is_wide:
            if self._blocked_at == 0.0:
                self._blocked_at = self._loop.time()
            elif self._sent > _QUICK_BYTES and self._loop.time() - self._blocked_at < _QUICK_SECONDS:
                self._is_wide = True
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _WIDE)
        self._sends.wait_for_room(self._out, self)

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._sends.wait_no_more(self._out)

    def go(self) -> bool:
        """Send a slice; whether to come again in the next turn."""
        if not self._watching:
            return False
        self._blocked = False
        try:
            self._move()
        except _AGAIN:
            self._block()
            return False
        except OSError as error:
            self._end(BodyCut(str(error)))
            return False
        if self._left == 0:
            self._end(None)
            return False
        if self._blocked:
            self._block()
            return False
        return self._watching

    def _take_part(self) -> None:
        """Make the next part current; `_next` beyond the parts means that all is sent."""
        while self._next < len(self._parts):
            part = self._parts[self._next]
            self._next += 1
            if isinstance(part, Slice):
                self._view = None
                self._offset, self._left = part.offset, part.length
                self._warm_until = -1
            else:
                self._view = memoryview(part)
                self._left = len(part)
            if self._left:
                return
        self._next = len(self._parts) + 1

    def _move(self) -> bool:
        """Send some of the current part.

        Returns:
            False when the loop should turn to others first.
        """
        if self._view is None:
            offset, left = self._offset, self._left
            if self._withheld.memory[:8] != self._looked:
                self._look()
            if self._barred:
                left = up_to_withheld(self._barred, offset, left)
            if offset >= self._warm_until:
                window = min(_WINDOW, left)
                if not self._sends.pages.has(self._fd, offset, window):
                    self._warm(window)
                    return False
                self._warm_until = offset + window
            wanted = min(left, SLICE)
            sent = os.sendfile(self._out, self._fd, offset, wanted)
            if sent == 0:
                raise OSError(errno.EIO, "the file is shorter than it was")
            self._blocked = sent < wanted  # the socket is full, or the file at its end: to ask again tells which
            self._offset = offset + sent
            self._sends.bytes_sent += sent
        else:
            more = self._next < len(self._parts)
            sent = self._socket.send(self._view, socket.MSG_MORE if more else 0)
            if self._next > 1:  # the head is none of the body
                self._sends.bytes_sent += sent
            self._view = self._view[sent:]
        self._sent += sent
        self._left -= sent
        if self._left == 0:
            self._take_part()
            return True
        return self._view is not None

    def _look(self) -> None:
        """See what is withheld; what once was stays so for this body: it may be of a file that another has replaced."""
        assert self._blob is not None
        ranges = self._withheld.ranges(self._blob.digest, self._blob.inode)
        if ranges:
            self._barred = merged([*self._barred, *ranges])
        self._looked = self._withheld.seen

    def _warm(self, length: int) -> None:
        """Have a thread read the slice; until it has, room on the socket is of no interest."""
        self._warming = True
        self._blocked = False
        self._unwatch()
        work = self._loop.run_in_executor(None, self._sends.pages.warm, os.dup(self._fd), self._offset, length)
        work.add_done_callback(self._warmed)

    def _warmed(self, work: asyncio.Future[None]) -> None:
        self._warming = False
        self._moved_at = self._loop.time()
        error = None if work.cancelled() else work.exception()
        if self._over:
            return
        if error is not None:
            self._end(BodyCut(f"reading the file: {error}"))
        else:
            self.watch()
