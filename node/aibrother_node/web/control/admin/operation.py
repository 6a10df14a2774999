"""How a route of the admin API is declared: what it takes, who may, what it answers. All else follows from that.

The router, the checks of token and input, the audit log and the OpenAPI document are made from these declarations
(`api.py`), so none of them can be forgotten for one route, or say something else than the code does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp import web
    from pydantic import BaseModel


class Scope(StrEnum):
    """What a token allows. `operate` and `publish` each include `read`; neither includes the other."""

    READ = "read"
    OPERATE = "operate"
    PUBLISH = "publish"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the token's id, what it allows, and where from (the address of the TCP peer)."""

    token: str
    scopes: frozenset[Scope]
    address: str


@dataclass(frozen=True, slots=True)
class Call:
    """One request, its token and its input checked.

    Attributes:
        request: as it came; the body of an operation that has a `body` is read already.
        caller: who asks.
        path: the path's parameters.
        query, body: instances of the operation's models; None where it has none.
        notes: what the handler adds to the audit log's entry, such as what became of it; small JSON values.
    """

    request: web.Request
    caller: Caller
    path: Mapping[str, str] = field(default_factory=dict)
    query: Any = None
    body: Any = None
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """What to answer: a JSON document (None for none) with a status and header fields."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Handler: TypeAlias = "Callable[[Call], Awaitable[Reply | web.StreamResponse]]"
"""Answers a call, or raises a `NodeError`, which becomes a problem document (web/errors.py)."""


@dataclass(frozen=True, slots=True)
class Documented:
    """One answer as OpenAPI describes it: in words, with its JSON's model, or with another media type."""

    description: str
    model: type[BaseModel] | None = None
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Operation:
    """One route below `/admin/v1`.

    Attributes:
        name: its operationId, in snake_case; also the action's name in the audit log.
        method: `GET`, `PUT`, …; a GET answers HEAD as well.
        path: below `/admin/v1`, such as `/jobs/{id}`.
        scope: what the token must allow.
        summary: one line for people.
        handler: answers it.
        answers: by status; 400, 401, 403, 404, 429 and 500 as problem documents go without saying.
        parameters: of the path: name → JSON Schema.
        query, body: pydantic models of the query's parameters and of the JSON body.
        raw_body: the media type of a body that the handler itself reads from the request, as it is documented: it comes
            under any other as well; excludes `body`.
        audited: write an entry for every call, whoever makes it; by default for whatever isn't GET or HEAD.
        max_body: bytes of a JSON body.
    """

    name: str
    method: str
    path: str
    scope: Scope
    summary: str
    handler: Handler
    answers: Mapping[int, Documented]
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    raw_body: str | None = None
    audited: bool | None = None
    max_body: int = 1 << 16
