"""Asking the admin API of a node, however it is reached (`admin_client.py`).

Blocking, one connection a request. Redirects are never followed: a token must not go where nobody meant it to go.
"""

from __future__ import annotations

import http.client
import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlencode

from aibrother_node.errors import InvalidInput, NodeError, Refused, Temporary, VerificationFailed
from aibrother_node.web.errors import error_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ADMIN: Final = "/admin/v1"
_ANSWER_CEILING: Final = 64 << 20
_KINDS: Final[Mapping[int, type[NodeError]]] = {
    401: Refused,
    408: Temporary,
    413: InvalidInput,
    415: InvalidInput,
    422: VerificationFailed,
    423: Temporary,
    429: Temporary,
    504: Temporary,
}


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer, read to its end.

    Attributes:
        status: the status code.
        headers: the header fields.
        body: its bytes.
    """

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def document(self) -> Any:
        """The JSON that it is; None for an empty body.

        Raises:
            InvalidInput: it is none.
        """
        try:
            return json.loads(self.body) if self.body else None
        except (ValueError, RecursionError) as error:
            raise InvalidInput("the node answered with something else than JSON") from error

    def error(self, what: str) -> NodeError:
        """The error that an answer of 300 and above stands for.

        Args:
            what: was asked for, in words.
        """
        kind = self.headers.get("Content-Type", "").partition(";")[0]
        if kind != "application/problem+json":  # not the node's own: a proxy, or no node at all
            if 300 <= self.status < 400:
                where = self.headers.get("Location", "elsewhere")[:200]
                return NodeError(
                    f"{what}: redirected to {where}; a token isn't sent on, so give the right URL with --to"
                )
            found = Temporary if self.status >= 500 else Refused if self.status in (401, 403) else NodeError
            return found(f"{what}: answered {self.status}")
        try:
            detail = self.document.get("detail")
        except (InvalidInput, AttributeError):
            detail = None
        error = (_KINDS.get(self.status) or error_of(self.status))(str(detail or f"{what}: answered {self.status}"))
        if isinstance(error, Temporary) and self.headers.get("Retry-After", "").isdecimal():
            error.retry_after = float(self.headers["Retry-After"])
        return error


class Connects(Protocol):
    """How a node is reached."""

    def connect(self, timeout: float | None) -> http.client.HTTPConnection:
        """A new connection; `timeout` in seconds for each wait for bytes."""

    def target(self, path: str) -> str:
        """The request target for a path below `/admin/v1`."""

    def fields(self) -> dict[str, str]:
        """Header fields that every request carries."""

    def unreachable(self, error: Exception) -> NodeError:
        """The error to raise where no answer came."""


class AdminNode:
    """The admin API of one node.

    Args:
        place: how it is reached.
    """

    def __init__(self, place: Connects) -> None:
        self._place = place

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        timeout: float | None = 30.0,
    ) -> Any:
        """Ask, and read the JSON answer.

        Args:
            method: of HTTP.
            path: below `/admin/v1`, its values checked to need no escaping.
            body: JSON to send.
            query: parameters.
            timeout: seconds for each wait; None waits for as long as the connection lives.

        Raises:
            NodeError: what the node says is wrong: `Refused` for a token that isn't good for this, …
            Temporary: no node answers.
        """
        data = None if body is None else json.dumps(body).encode()
        fields = {} if data is None else {"Content-Type": "application/json"}
        answered = self.exchange(method, path, data, fields, query=query, timeout=timeout)
        if answered.status >= 300:
            raise answered.error(f"{method} {path}")
        return answered.document

    def exchange(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        timeout: float | None = 30.0,
    ) -> Answered:
        """Ask, and read the answer, whatever its status.

        Args:
            method, path, query, timeout: as `ask`.
            body: bytes, or a file or an iterable of bytes, for which `headers` say the Content-Length.
            headers: further header fields.

        Raises:
            Temporary: no node answers, or it went away before all of the answer had come.
        """
        with self.stream(method, path, body, headers, query=query, timeout=timeout) as response:
            try:
                data = response.read(_ANSWER_CEILING + 1)
                if response.length and len(data) <= _ANSWER_CEILING:
                    raise http.client.IncompleteRead(data, response.length)
            except (OSError, http.client.HTTPException) as error:
                raise self._place.unreachable(error) from error
            if len(data) > _ANSWER_CEILING:
                raise InvalidInput(f"the answer to {method} {path} has no end")
            return Answered(response.status, response.headers, data)

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        timeout: float | None = 30.0,
    ) -> Iterator[http.client.HTTPResponse]:
        """Ask, and hand out the answer for the block to read, such as server-sent events; as `exchange` otherwise."""
        target = self._place.target(path) + (f"?{urlencode(query)}" if query else "")
        fields = {"Accept-Encoding": "identity", **self._place.fields(), **(headers or {})}
        connection: http.client.HTTPConnection | None = None
        try:
            try:
                connection = self._place.connect(timeout)
                connection.request(method, target, body, fields)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                early = _early_answer(connection, error)
                if early is None:
                    raise self._place.unreachable(error) from error
                response = early
            yield response
        finally:
            if connection is not None:
                connection.close()


def _early_answer(connection: http.client.HTTPConnection | None, error: Exception) -> http.client.HTTPResponse | None:
    """What a node answered that wouldn't have the rest of a body, and hung up."""
    if connection is None or connection.sock is None or not isinstance(error, BrokenPipeError | ConnectionResetError):
        return None
    try:
        response = http.client.HTTPResponse(connection.sock)
        response.begin()
    except (OSError, http.client.HTTPException):
        return None
    return response
