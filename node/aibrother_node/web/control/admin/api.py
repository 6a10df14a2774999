"""The admin API: an aiohttp application made from `Operation` declarations, below `/admin/v1`.

What happens to a request, in this order, each refusal a problem document (RFC 9457):

1. the token: 401 (429 for an address that keeps presenting wrong ones), before anything is looked up
2. the path and the method: 404, 405
3. the token's scope: 403
4. path parameters, query and body: 400, 408, 413, 415; 503 where others' bodies take the memory that there is for them
5. an action (whatever isn't GET or HEAD) is entered into the audit log, or refused with 507
6. the handler; the audit log's entry is completed

Over `run/control.sock` the same operations are served without tokens: who may open it is the node's own user.
"""

from __future__ import annotations

import json
import logging
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from aibrother_node.errors import NodeError
from aibrother_node.web.answer import problem
from aibrother_node.web.control.admin.audit import LOCAL, Who, brief
from aibrother_node.web.control.admin.expectation import proceed, refrain
from aibrother_node.web.control.admin.failures import ROWS, WRONG_TOKENS, FailureLimit, network_of
from aibrother_node.web.control.admin.inputs import (
    IN_MEMORY,
    Room,
    body_value,
    check_declaration,
    path_values,
    query_values,
)
from aibrother_node.web.control.admin.openapi import document
from aibrother_node.web.control.admin.operation import Call, Caller, Reply, Scope
from aibrother_node.web.control.admin.problems import Problem, answer_problem
from aibrother_node.web.errors import retry_after
from aibrother_node.web.responses import response

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp.typedefs import Handler, Middleware

    from aibrother_node.web.answer import Header
    from aibrother_node.web.control.admin.audit import AuditLog
    from aibrother_node.web.control.admin.operation import Operation
    from aibrother_node.web.control.admin.tokens import TokenTable

__all__ = ["BASE", "AdminApi"]

BASE: Final = "/admin/v1"
"""Where the application is mounted."""
_LOG: Final = logging.getLogger(__name__)
_OPENAPI: Final = "/openapi.json"
_REALM: Final = 'Bearer realm="aibrother"'
_EVERYTHING: Final = Caller("local", frozenset(Scope), "local")
_CALLER: Final = web.RequestKey("caller", Caller)


class AdminApi:
    """The operations, behind tokens or for this machine's commands.

    Args:
        operations: all routes.
        tokens: who may.
        audit: the audit log.
        version: of the program, for the OpenAPI document.
        wrong_tokens: how many an address may present in a minute.
        in_memory: bytes of large bodies that are taken at a time.

    Raises:
        ValueError: two operations have one name or route, or declare what nobody would check.
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        tokens: TokenTable,
        audit: AuditLog,
        *,
        version: str,
        wrong_tokens: int = WRONG_TOKENS,
        in_memory: int = IN_MEMORY,
    ) -> None:
        for operation in operations:
            check_declaration(operation)
        for what in ([one.name for one in operations], [f"{one.method} {one.path}" for one in operations]):
            if len(set(what)) != len(what):
                raise ValueError(f"declared twice: {sorted(one for one in what if what.count(one) > 1)}")
        self._operations = list(operations)
        self._tokens = tokens
        self._audit = audit
        self._wrong_tokens = FailureLimit(wrong_tokens)
        self._rows = FailureLimit(ROWS)
        self._room = Room(in_memory)
        self._under_way: dict[int, tuple[str, web.Request]] = {}  # token and request
        self._document = json.dumps(document(self._operations, version)).encode()

    def guarded(self) -> web.Application:
        """The application for the control plane, to be mounted at `BASE`: nothing without a token."""
        return self._application(self._gate)

    def local(self) -> web.Application:
        """The application for `run/control.sock`, to be mounted at `BASE`: everything, as caller `local`."""
        return self._application(_local_gate)

    def cut_revoked(self) -> None:
        """Cut connections on which something is under way for a token that isn't good any more.

        Without it somebody could go on watching, or sending, for as long as an answer or a body takes. An action that
        has begun ends as it would have, and nobody is told how.
        """
        for token, request in list(self._under_way.values()):
            if not self._tokens.good(token) and request.transport is not None:
                request.transport.abort()

    def _application(self, gate: Middleware) -> web.Application:
        app = web.Application(middlewares=[_problems, gate])
        app.on_response_prepare.append(_never_stored)
        app.router.add_get(_OPENAPI, self._openapi)
        for operation in self._operations:
            app.router.add_route(
                operation.method, operation.path, partial(self._answer, operation), expect_handler=refrain
            )
            if operation.method == "GET" and not self._has("HEAD", operation.path):
                app.router.add_route("HEAD", operation.path, partial(self._answer, operation))
        return app

    def _has(self, method: str, path: str) -> bool:
        return any(one.method == method and one.path == path for one in self._operations)

    async def _openapi(self, _: web.Request) -> web.Response:
        """The document; it holds nothing that the program's source doesn't, so it takes no token."""
        return web.Response(body=self._document, content_type="application/json")

    # -- the token

    @web.middleware
    async def _gate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.match_info.handler == self._openapi:
            return await handler(request)
        address = request.remote or ""
        fields = request.headers.getall("Authorization", [])
        if not fields:
            return await self._refuse(request, Who(None, address), None, 401, "no token is presented", _REALM)
        scheme, _, presented = fields[0].partition(" ")
        caller = None
        if len(fields) == 1 and scheme.lower() == "bearer":
            caller = self._tokens.caller(presented.strip(" "), address)
        if caller is None:
            wait = self._wrong_tokens.failed(network_of(address))
            reason = "the token is unknown, expired or revoked"
            if wait is not None:
                return await self._refuse(
                    request, Who(None, address), None, 429, f"{reason}, and it is not the first", retry=wait
                )
            challenge = f'{_REALM}, error="invalid_token"'
            return await self._refuse(request, Who(None, address), None, 401, reason, challenge)
        request[_CALLER] = caller
        self._under_way[id(request)] = caller.token, request
        try:
            return await handler(request)
        finally:
            del self._under_way[id(request)]

    async def _refuse(
        self,
        request: web.Request,
        who: Who,
        operation: Operation | None,
        status: int,
        reason: str,
        challenge: str | None = None,
        retry: float | None = None,
    ) -> web.Response:
        """Enter a refusal, and answer it."""
        key = f"{status} {who.caller or network_of(who.address)} {reason}"
        merge = None if self._rows.failed(key) is None else key
        action = operation.name if operation is not None else _action_of(request, self._operations)
        target = {"method": request.method, "path": request.path[:200]}
        await self._audit.refuse(who, action, target, status, reason, merge=merge)
        headers: list[Header] = []
        if challenge is not None:
            headers.append(("WWW-Authenticate", challenge))
        if retry is not None:
            headers.append(retry_after(retry))
        return response(problem(status, _TITLES[status], reason, headers=headers, method=request.method))

    # -- an operation

    async def _answer(self, operation: Operation, request: web.Request) -> web.StreamResponse:
        with ExitStack() as held:
            return await self._answer_holding(operation, request, held)

    async def _answer_holding(self, operation: Operation, request: web.Request, held: ExitStack) -> web.StreamResponse:
        caller = request[_CALLER]
        who = LOCAL if caller is _EVERYTHING else Who(caller.token, caller.address)
        if operation.scope not in caller.scopes:
            challenge = f'{_REALM}, error="insufficient_scope", scope="{operation.scope}"'
            reason = f"this takes a token with the scope {operation.scope}"
            return await self._refuse(request, who, operation, 403, reason, challenge)
        audited = operation.method not in ("GET", "HEAD") if operation.audited is None else operation.audited
        target = {name: value[:200] for name, value in request.match_info.items()}
        try:
            path = path_values(operation, request.match_info)
            query = query_values(operation.query, request.query)
            held.enter_context(self._room.taken(operation, request))
            if operation.raw_body is None:
                await proceed(request)
            body = await body_value(operation, request)
        except Problem as error:
            if audited:
                await self._audit.attempt(who, operation.name, target, error.status, str(error))
            raise
        call = Call(request, caller, path, query, body)
        if not audited:
            return await self._run(operation, call)
        given = (("query", query), ("body", body))
        asked = {name: brief(one.model_dump(exclude_unset=True)) for name, one in given if one is not None}
        async with self._audit.action(who, operation.name, target, asked) as entry:
            answered = await self._run(operation, call, entry.notes)
            entry.status = answered.status
        return answered

    async def _run(self, operation: Operation, call: Call, notes: dict[str, Any] | None = None) -> web.StreamResponse:
        """Have the handler answer; whatever it raises becomes a problem, unless the answer has begun."""
        request = call.request
        try:
            reply = await operation.handler(call)
        except Exception as error:
            if request.writer.output_size > 0:
                raise  # the connection is cut, which is all that can be said now
            answered: web.StreamResponse = _problem_of(error, request)
            if notes is not None:
                notes["reason"] = str(error)[:200] if isinstance(error, NodeError) else type(error).__name__
        else:
            answered = _reply(reply) if isinstance(reply, Reply) else reply
        if notes is not None:
            notes.update(call.notes)
        return answered


_TITLES: Final = {401: "Unauthorized", 403: "Forbidden", 429: "Too Many Requests"}


@web.middleware
async def _local_gate(request: web.Request, handler: Handler) -> web.StreamResponse:
    request[_CALLER] = _EVERYTHING
    return await handler(request)


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer what is raised outside of operations: unknown paths and methods, wrong input."""
    try:
        return await handler(request)
    except Exception as error:
        if request.writer.output_size > 0:
            raise
        return _problem_of(error, request)


def _problem_of(error: Exception, request: web.Request) -> web.Response:
    if isinstance(error, web.HTTPException):
        allow = error.headers.get("Allow")
        headers = () if allow is None else (("Allow", allow),)
        return response(problem(error.status, error.reason, "", headers=headers, method=request.method))
    if not isinstance(error, NodeError):
        _LOG.error("%s %s failed", request.method, request.path[:100], exc_info=error)
    return response(answer_problem(error, request.method))


def _reply(reply: Reply) -> web.Response:
    if reply.body is None:
        return web.Response(status=reply.status, headers=dict(reply.headers))
    headers = {"Content-Type": "application/json", **reply.headers}
    return web.Response(status=reply.status, headers=headers, body=json.dumps(reply.body).encode())


def _action_of(request: web.Request, operations: Sequence[Operation]) -> str | None:
    """The name of the operation that a request's path leads to, for the audit log."""
    handler = request.match_info.handler
    wanted = handler.args[0] if isinstance(handler, partial) else None
    return next((one.name for one in operations if one is wanted), None)


async def _never_stored(_: web.Request, answered: web.StreamResponse) -> None:
    answered.headers["Cache-Control"] = "no-store"
