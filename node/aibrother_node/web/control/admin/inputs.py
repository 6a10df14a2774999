"""Checks of what a request brings: the path's parameters, the query, the JSON body; each fault names its field.

All are strict: what isn't declared is refused (a misspelt option would otherwise do nothing, silently), a number in
quotes is no number. Bodies are bounded before they are parsed, and pydantic's JSON parser bounds depth and numbers.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from aibrother_node.web.control.admin.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from multidict import MultiMapping

    from aibrother_node.web.control.admin.operation import Operation

JSON_TYPE: Final = "application/json"
PATIENCE: Final = 30.0
"""Seconds within which a JSON body has to have come, and one more for each `SLOWEST` bytes that it may have."""
SLOWEST: Final = 1 << 16
IN_MEMORY: Final = 256 << 20
"""Bytes of large bodies that are taken at a time."""
DIGEST: Final[Mapping[str, Any]] = {
    "type": "string",
    "pattern": "^sha256:[0-9a-f]{64}$",
    "description": "the digest of a blob",
}
"""The path's parameter `digest`."""

_SMALL: Final = 1 << 16  # bytes of a body that is always taken; there are at most as many as there are connections
_LARGE: Final = 1 << 20  # bytes of a body that is parsed off the event loop
_MAX_FAULTS: Final = 5  # shown
_SCHEMA_WORDS: Final = frozenset({"type", "pattern", "maxLength", "minLength", "enum"})
_ANNOTATIONS: Final = frozenset({"description", "examples", "example", "title", "format"})
_WRITTEN: Final = {  # as JSON writes them; pydantic takes " 1", "1_0", "1.0", "yes" and "nan" as well
    "integer": re.compile(r"-?(0|[1-9][0-9]{0,18})", re.ASCII),
    "number": re.compile(r"-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,2})?", re.ASCII),
    "boolean": re.compile(r"true|false", re.ASCII),
}


class Input(BaseModel):
    """Base of the models of queries and bodies."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Room:
    """How much of bodies is in memory, of all requests together: else a few large ones would take all there is.

    Args:
        most: bytes of large ones at a time.
    """

    def __init__(self, most: int) -> None:
        self._free = most

    @contextmanager
    def taken(self, operation: Operation, request: web.Request) -> Iterator[None]:
        """Have room for a request's JSON body, until it is answered.

        Raises:
            Problem: 503, others have it.
        """
        size = 0
        if operation.raw_body is None and request.body_exists:
            said = request.content_length
            size = operation.max_body if said is None else said
        if not _SMALL < size <= operation.max_body:  # one that is too large is refused when it is read
            size = 0
        if size > self._free:
            reason = "other large bodies are being read"
            raise Problem(503, "Service Unavailable", reason, headers={"Retry-After": "5"})
        self._free -= size
        try:
            yield
        finally:
            self._free += size


def check_declaration(operation: Operation) -> None:
    """Make sure that what an operation declares of its input is what these checks hold.

    Raises:
        ValueError: they wouldn't.
    """
    names = set(re.findall(r"{(\w+)}", operation.path))
    if names != set(operation.parameters):
        raise ValueError(f"{operation.name}: the path's parameters are {names}")
    for name, schema in operation.parameters.items():
        unknown = set(schema) - _SCHEMA_WORDS - _ANNOTATIONS
        if unknown or schema.get("type") != "string":
            raise ValueError(f"{operation.name}: {name}: nobody would check {unknown or 'its type'}")
        pattern = str(schema.get("pattern", "^$"))
        if not (pattern.startswith("^") and pattern.endswith("$")):
            raise ValueError(f"{operation.name}: {name}: a pattern covers the whole value")
    for model in (operation.query, operation.body):
        if model is not None and model.model_config.get("extra") != "forbid":
            raise ValueError(f"{operation.name}: {model.__name__} takes what it doesn't know")
    if operation.body is not None and operation.raw_body is not None:
        raise ValueError(f"{operation.name}: a body is read by one of two")


def path_values(operation: Operation, values: Mapping[str, str]) -> dict[str, str]:
    """The path's parameters, checked.

    Raises:
        Problem: 400.
    """
    for name, schema in operation.parameters.items():
        reason = _text_fault(values[name], schema)
        if reason is not None:
            raise _faulty("path", [(name, reason)])
    return dict(values)


def query_values(model: type[BaseModel] | None, query: MultiMapping[str]) -> BaseModel | None:
    """The query's parameters as an instance of the operation's model; None where it has none.

    Raises:
        Problem: 400.
    """
    faults = [(name, "is given more than once") for name in dict.fromkeys(query) if len(query.getall(name)) > 1]
    known = () if model is None else model.model_fields
    faults += [(name, "there is no such parameter") for name in dict.fromkeys(query) if name not in known]
    if faults:
        raise _faulty("query", faults)
    if model is None:
        return None
    for name, kind in _kinds(model).items():
        if name in query and not _WRITTEN[kind].fullmatch(query[name]):
            raise _faulty("query", [(name, f"is not {'an' if kind == 'integer' else 'a'} {kind}")])
    try:
        return model.model_validate_strings(dict(query.items()))
    except ValidationError as error:
        raise _faulty("query", _faults(error)) from None


def needs_body(model: type[BaseModel]) -> bool:
    """Whether a body can't be left out, as one could where each of its members has a default."""
    return any(field.is_required() for field in model.model_fields.values())


async def body_value(operation: Operation, request: web.Request) -> BaseModel | None:
    """The JSON body as an instance of the operation's model; None where it has none, or reads the body itself.

    Raises:
        Problem: 400, 408, 413 or 415.
    """
    if operation.raw_body is not None:
        return None  # of whatever type: curl -T says none, urllib a wrong one, and the digest says what the bytes are
    data = await _read(request, operation.max_body)
    model = operation.body
    if model is None:
        if data:
            raise _faulty("body", [("", "this takes no body")])
        return None
    if not data and not needs_body(model):
        return model()
    if request.content_type != JSON_TYPE or (request.charset or "utf-8").lower() not in ("utf-8", "utf8"):
        raise _unsupported(JSON_TYPE)
    try:
        if len(data) > _LARGE:
            return await asyncio.to_thread(model.model_validate_json, data)
        return model.model_validate_json(data)
    except ValidationError as error:
        raise _faulty("body", _faults(error)) from None


async def _read(request: web.Request, most: int) -> bytes:
    too_large = Problem(413, "Content Too Large", f"a body has at most {most} bytes here")
    if not request.body_exists:
        return b""
    if request.content_length is not None and request.content_length > most:
        raise too_large
    data = bytearray()
    patience = PATIENCE + most / SLOWEST
    try:
        async with asyncio.timeout(patience):
            while piece := await request.content.readany():
                data += piece
                if len(data) > most:
                    raise too_large
    except TimeoutError:
        raise Problem(408, "Request Timeout", f"the body had not come after {patience:.0f} s") from None
    except web.RequestPayloadError as error:
        raise _faulty("body", [("", f"can't be read: {error}")]) from None
    return bytes(data)


def _text_fault(value: str, schema: Mapping[str, Any]) -> str | None:
    if "pattern" in schema and not re.fullmatch(schema["pattern"][1:-1], value, re.ASCII):
        return f"does not match {schema['pattern']}"
    if "enum" in schema and value not in schema["enum"]:
        return f"is none of {', '.join(schema['enum'])}"
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 1024):
        return "has a length that is not allowed"
    return None


@cache
def _kinds(model: type[BaseModel]) -> dict[str, str]:
    """The parameters that are written in one way only, and which."""
    found = {name: _written_as(schema) for name, schema in model.model_json_schema().get("properties", {}).items()}
    return {name: kind for name, kind in found.items() if kind is not None}


def _written_as(schema: Mapping[str, Any]) -> str | None:
    kinds = {one.get("type") for one in (schema, *schema.get("anyOf", ()))} & set(_WRITTEN)
    return kinds.pop() if len(kinds) == 1 else None


def _faults(error: ValidationError) -> list[tuple[str, str]]:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return [(".".join(map(str, one["loc"])), one["msg"]) for one in found]


def _faulty(where: str, faults: Iterable[tuple[str, str]]) -> Problem:
    shown = [(field[:100], reason[:200]) for field, reason in faults][:_MAX_FAULTS]
    return Problem(
        400,
        "Bad Request",
        "; ".join(f"{where}{f' {field}' if field else ''}: {reason}" for field, reason in shown),
        members={"errors": [{"in": where, "field": field, "reason": reason} for field, reason in shown]},
    )


def _unsupported(wanted: str) -> Problem:
    return Problem(415, "Unsupported Media Type", f"the body's Content-Type is {wanted}", headers={"Accept": wanted})
