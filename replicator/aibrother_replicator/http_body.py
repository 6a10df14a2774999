"""The answer of a source, from its head on: what its status means, and its body into the caller's memory.

http.client reads the head. A body of known length goes from the socket to the caller's memory in as few system calls as
the kernel allows: a blocking socket with time limits of its own (SO_RCVTIMEO) and MSG_WAITALL.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, Self

from aibrother_node.errors import NodeError
from aibrother_replicator.schedule import Fault

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_BUFFERED: Final = 8192  # what http.client's reader holds at most (io.DEFAULT_BUFFER_SIZE)
_SHORT: Final = 64 << 10
_MIN_BYTES: Final = 1024  # a second: what is slower for a whole stall time-out counts as stalled


class SourceError(NodeError):
    """A source did not deliver what was asked.

    Attributes:
        url: what was asked.
        fault: what follows from it.
        retry_after: seconds for which the source asked not to be asked, if it did.
    """

    def __init__(self, url: str, fault: Fault, what: str, *, retry_after: float | None = None) -> None:
        self.url = url
        self.fault = fault
        self.retry_after = retry_after
        super().__init__(f"{url}: {what}")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a source may take, in seconds.

    Attributes:
        connect: for a connection, TLS included.
        stall: between any two pieces of an answer. A body that brings less than 1 KiB a second for so long is stalled
            too, and so is a head that isn't complete after twice that.
    """

    connect: float = 10.0
    stall: float = 30.0


class Body:
    """An answer whose head is read. Leave it (as a context manager) before the connection is used again.

    Args:
        url: what was asked.
        response: its head is read.
        sock: what the response reads from.
        stall: seconds, see `Timeouts`.
        release: closes the connection.

    Attributes:
        url: as given.
        status: of the answer.
        length: bytes of the body, None where the head doesn't say.
    """

    def __init__(
        self,
        url: str,
        response: http.client.HTTPResponse,
        sock: socket.socket,
        stall: float,
        release: Callable[[], None],
    ) -> None:
        self.url = url
        self.status = response.status
        self.length: int | None = response.length
        self._release = release
        self._response = response
        self._socket = sock
        self._stall = stall
        self._left = self.length
        self._drained = False
        self._window = time.monotonic(), 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None or not self._response.isclosed():
            self.abandon()

    def header(self, name: str) -> str:
        """A field's value, empty where it is missing."""
        value: str = self._response.getheader(name, "")
        return value.strip()

    def is_plain(self) -> bool:
        """Whether the body is sent without a content coding."""
        return self.header("Content-Encoding").lower() in ("", "identity")

    def limit(self, length: int) -> None:
        """Expect this many bytes of a body whose head doesn't say how many."""
        self._left = length

    def discard(self) -> None:
        """Read a short body to its end, so that the connection can be used again; else give it up."""
        if self.length is None or self.length > _SHORT:
            self.abandon()
            return
        try:
            self._response.read()
        except (OSError, http.client.HTTPException, ValueError):
            self.abandon()

    def abandon(self) -> None:
        """Give up the rest of the body, and with it the connection."""
        self._response.close()
        self._release()

    def fill(self, view: memoryview) -> None:
        """Fill all of `view` with the body's next bytes.

        Raises:
            SourceError: the body is cut, stalled, or longer than it should be.
        """
        assert self._left is not None
        assert len(view) <= self._left
        try:
            while view:
                count = self._receive(view)
                if count == 0:
                    raise SourceError(
                        self.url, Fault.UNREACHABLE, f"the body was cut {self._left} bytes before its end"
                    )
                view = view[count:]
                self._left -= count
                self._watch(count)
            if self._left == 0 and self.length is None and self._response.read(1):
                raise self.wrong("the body is longer than the range asked for")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise unreachable(self.url, error) from error

    def read_all(self, ceiling: int) -> bytes:
        """Read the whole body.

        Raises:
            SourceError: it has more than `ceiling` bytes, or is cut or stalled.
        """
        if not self.is_plain():
            raise self.wrong(f"expected no content coding, got {self.header('Content-Encoding')!r:.40}")
        if self.length is not None and self.length > ceiling:
            raise self.wrong(f"expected at most {ceiling} bytes, got Content-Length {self.length}")
        pieces, count = [], 0
        try:
            while piece := self._response.read1(1 << 16):
                pieces.append(piece)
                count += len(piece)
                self._watch(len(piece))
                if count > ceiling:
                    raise self.wrong(f"expected at most {ceiling} bytes, got more")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise unreachable(self.url, error) from error
        if self.length is not None and count != self.length:
            raise SourceError(self.url, Fault.UNREACHABLE, f"the body was cut: {count} of {self.length} bytes")
        self._response.close()  # read1 doesn't notice the end, and the connection is free only after it
        return b"".join(pieces)

    def wrong(self, what: str) -> SourceError:
        """The error for an answer that isn't what was asked for."""
        return SourceError(self.url, Fault.WRONG, what)

    def unexpected(self, wanted: str) -> SourceError:
        """The error for a status other than the one that was asked for."""
        found = f"{self.status} {self._response.reason}".strip()
        kind = self.header("Content-Type")
        what = f"expected {wanted}, got {found[:60]}{f' ({kind[:60]})' if kind else ''}"
        if self.status in (404, 410):
            return SourceError(self.url, Fault.GONE, what)
        if self.status in (401, 403, 407, 451):
            return SourceError(self.url, Fault.REFUSED, what)
        if self.status in (429, 503):
            pause = parse_retry_after(self.header("Retry-After"), time.time())
            return SourceError(self.url, Fault.BUSY, what, retry_after=pause)
        if self.status >= 500 or self.status == 408:
            return SourceError(self.url, Fault.UNREACHABLE, what)
        return SourceError(self.url, Fault.WRONG, what)

    def _receive(self, view: memoryview) -> int:
        """Receive some bytes.

        The last ones go through http.client, so that it knows that the answer is over. Its reader reads ahead, so
        before the socket is read past it, what it holds is taken: asked for as much as it can hold, it gives what it
        has (or what one read brings) and is empty.
        """
        assert self._left is not None
        room = min(len(view), self._left - _BUFFERED)
        if self.length is None or room < _BUFFERED:
            self._drained = False
            return self._response.readinto(view) or 0
        if not self._drained:
            count = self._response.fp.readinto1(view[:_BUFFERED]) or 0
            self._drained = True
        elif isinstance(self._socket, ssl.SSLSocket):
            count = self._socket.recv_into(view[:room])
        else:
            count = self._socket.recv_into(view[:room], room, socket.MSG_WAITALL)
        self._response.length = self._left - count
        return int(count)

    def _watch(self, count: int) -> None:
        """Hold the body to a minimum speed: one byte a second would never time out."""
        now = time.monotonic()
        since, before = self._window
        seconds = now - since
        if seconds < self._stall:
            self._window = since, before + count
            return
        if before + count < _MIN_BYTES * seconds:
            raise SourceError(
                self.url, Fault.UNREACHABLE, f"the body stalled: {before + count} bytes in {seconds:.0f} s"
            )
        self._window = now, 0


def parse_retry_after(value: str, now: float) -> float | None:
    """Read Retry-After (RFC 9110, 10.2.3): seconds from `now` (Unix time), None where it says nothing usable."""
    if re.fullmatch(r"[0-9]{1,9}", value, re.ASCII):
        return float(value)
    try:
        return max(parsedate_to_datetime(value).timestamp() - now, 0.0)
    except (ValueError, OverflowError):
        return None


def unreachable(url: str, error: Exception) -> SourceError:
    """The error for an operating system's or http.client's exception."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return SourceError(url, Fault.REFUSED, f"its certificate is not accepted: {error.verify_message}")
    if isinstance(error, BlockingIOError | TimeoutError):
        what = "nothing came in time"
    else:
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return SourceError(url, Fault.UNREACHABLE, what[:300])
