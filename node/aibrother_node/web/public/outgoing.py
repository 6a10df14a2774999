"""An answer as aiohttp's server takes it: it sends itself, by the worker's sender and not by aiohttp's writer."""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NoReturn, cast

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aiohttp.abc import AbstractStreamWriter

    from aibrother_node.web.answer import Answer, Header
    from aibrother_node.web.public.sender import Sends, Wire

_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}


class HttpDate:
    """The Date field's value (RFC 9110, 6.6.1), made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def now(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._text = formatdate(second, usegmt=True)
        return self._text


def render_head(status: int, headers: Iterable[Header], date: str, *, http_1_0: bool, keep_alive: bool) -> bytes:
    """Status line and header section (RFC 9112, 4 and 5).

    Args:
        status: the status code.
        headers: the answer's fields, in order.
        date: value of the Date field.
        http_1_0: the client speaks HTTP/1.0, where keeping a connection is what has to be said.
        keep_alive: whether the connection stays open.
    """
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, '')}"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines.append(f"Date: {date}")
    if not keep_alive:
        lines.append("Connection: close")
    elif http_1_0:
        lines.append("Connection: keep-alive")
    lines.append("\r\n")
    return "\r\n".join(lines).encode("latin-1")


class Outgoing(web.StreamResponse):
    """One answer on its way.

    Args:
        sends: the worker's sender.
        answer: what to send.
        date: of the Date field.
        extra: fields beside the answer's own (CORS).
        fd: the file that the answer's slices are of.
        release: called once, when the file is no longer needed.
        close: end the connection after this answer.
        report: called with (request, status, body bytes promised, whether all were sent).
    """

    def __init__(
        self,
        sends: Sends,
        answer: Answer,
        date: str,
        *,
        extra: Iterable[Header] = (),
        fd: int | None = None,
        release: Callable[[], None] | None = None,
        close: bool = False,
        report: Callable[[web.BaseRequest, int, int, bool], None] | None = None,
    ) -> None:
        super().__init__(status=answer.status)
        self._sends = sends
        self._answer = answer
        self._date = date
        self._extra = extra
        self._fd = fd
        self._release = release
        self._report = report
        self._wire: Wire | None = None
        if close:
            self.force_close()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send everything.

        Raises:
            BodyCut: the client is gone, stalled, or the file can't be read to its end.
        """
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        head = render_head(
            self._answer.status,
            [*self._answer.headers, *self._extra],
            self._date,
            http_1_0=request.version < (1, 1),
            keep_alive=self._keep_alive,
        )
        done = False
        try:
            self._wire = cast("Wire", request.protocol)  # aiohttp's type hides that it is our Connection
            await self._sends.send(self._wire, [head, *self._answer.parts], self._fd)
            done = True
        finally:
            if self._release is not None:
                self._release()
            if self._report is not None:
                self._report(request, self._answer.status, self._answer.body_length, done)
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """End the connection where the client has ended its side; aiohttp calls this last."""
        assert not data
        if self._wire is not None and self._wire.is_over():
            self.force_close()

    async def write(self, data: bytes | bytearray | memoryview) -> NoReturn:  # noqa: ARG002 - aiohttp's signature
        """Nothing can be added to an answer."""
        raise TypeError("an Outgoing sends its answer and nothing else")
