"""An answer with all that its sending takes: the head's bytes, the file, and who wants to know how it ended."""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aibrother_node.store.open_blob import OpenBlob
    from aibrother_node.web.answer import Answer, Header

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


@dataclass(slots=True)
class Outgoing:
    """One answer on its way.

    Attributes:
        answer: what to send.
        extra: header fields beside the answer's own (CORS).
        blob: the open file that the answer's slices are of.
        release: called once, when the file is no longer needed.
        close: end the connection after this answer.
    """

    answer: Answer
    extra: Iterable[Header] = ()
    blob: OpenBlob | None = None
    release: Callable[[], None] | None = None
    close: bool = False
