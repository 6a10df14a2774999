"""The OpenAPI 3.1 document of the admin API, assembled from the operations' declarations and pydantic's JSON Schemas.

OpenAPI 3.1 takes JSON Schema 2020-12 as it is, which is what pydantic writes; all that is left to do is to put it
together (docs/adr/0010-the-admin-api.md). https://spec.openapis.org/oas/v3.1.1
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.web.answer import PROBLEM_TYPE
from aibrother_node.web.control.admin.inputs import JSON_TYPE, needs_body

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import BaseModel
    from pydantic.json_schema import JsonSchemaMode

    from aibrother_node.web.control.admin.operation import Documented, Operation

_REF: Final = "#/components/schemas/{model}"
_PROBLEM: Final[Mapping[str, Any]] = {
    "type": "object",
    "description": "RFC 9457",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "description": "what is wrong with the input",
            "items": {
                "type": "object",
                "properties": {
                    "in": {"enum": ["path", "query", "body"]},
                    "field": {"type": "string"},
                    "reason": {"type": "string"},
                },
                "required": ["in", "field", "reason"],
            },
        },
    },
    "required": ["type", "title", "status"],
}
_PROBLEMS: Final[Mapping[int, str]] = {
    400: "the input is wrong; `errors` names each field",
    401: "no token, or one that is unknown, expired or revoked",
    403: "the token's scope does not allow this, or the node refuses",
    404: "what was asked for is not here",
    408: "the body did not come in time",
    413: "the body is too large",
    415: "the body has another media type",
    429: "too many wrong tokens came from this address",
    500: "the node failed; its log says why",
    503: "not now; Retry-After says when",
    507: "there is no room, also where only the audit log has none; nothing was begun",
}
_ALWAYS: Final = (400, 401, 403, 404, 429, 500, 503)
_WITH_BODY: Final = (408, 413, 415)
_ACTION: Final = (507,)


def document(operations: Sequence[Operation], version: str) -> dict[str, Any]:
    """The document.

    Args:
        operations: all routes; paths are shown below `/admin/v1`.
        version: of the program.
    """
    schemas: dict[str, Any] = {"Problem": _PROBLEM}
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "aibrother-node admin API",
            "version": version,
            "description": (
                "What operators and publishers do from afar. Every GET answers HEAD too. Every action and every "
                "refusal is entered into the audit log. Scopes: `operate` and `publish` each include `read`."
            ),
        },
        "servers": [{"url": "/admin/v1"}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {_name(status): _problem(text) for status, text in _PROBLEMS.items()},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "made by `aibrother-node token create`"}
            },
        },
    }


def _operation(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "security": [{"bearer": [operation.scope.value]}],
        "responses": _responses(operation, schemas),
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": dict(schema)}
        for name, schema in operation.parameters.items()
    ]
    if operation.query is not None:
        parameters += _query(operation.query, schemas)
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        described["requestBody"] = {
            "required": needs_body(operation.body),
            "content": {JSON_TYPE: {"schema": _schema(operation.body, "validation", schemas)}},
        }
    elif operation.raw_body is not None:
        described["requestBody"] = {"required": True, "content": {operation.raw_body: {"schema": {}}}}
    return described


def _responses(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    statuses = list(_ALWAYS)
    if operation.body is not None or operation.raw_body is not None:
        statuses += _WITH_BODY
    if operation.method not in ("GET", "HEAD"):
        statuses += _ACTION
    answers = {status: {"$ref": f"#/components/responses/{_name(status)}"} for status in statuses}
    described: dict[int, Any] = {**answers, **{s: _answer(one, schemas) for s, one in operation.answers.items()}}
    return {str(status): described[status] for status in sorted(described)}


def _answer(documented: Documented, schemas: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": documented.description}
    if documented.model is not None:
        answer["content"] = {documented.media_type: {"schema": _schema(documented.model, "serialization", schemas)}}
    elif documented.media_type != JSON_TYPE:
        schema = {"$ref": _REF.format(model="Problem")} if documented.media_type == PROBLEM_TYPE else {}
        answer["content"] = {documented.media_type: {"schema": schema}}
    return answer


def _query(model: type[BaseModel], schemas: dict[str, Any]) -> list[dict[str, Any]]:
    schema = model.model_json_schema(ref_template=_REF)
    schemas.update(schema.pop("$defs", {}))
    required = set(schema.get("required", ()))
    parameters = []
    for name, found in schema.get("properties", {}).items():
        one = _without_null(found)
        parameter = {"name": name, "in": "query", "required": name in required, "schema": one}
        if "description" in one:
            parameter["description"] = one.pop("description")
        parameters.append(parameter)
    return parameters


def _without_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A query can leave a parameter out; it can't say null."""
    found = {name: value for name, value in schema.items() if name not in ("title", "default") or value is not None}
    found.pop("title", None)
    choices = [one for one in found.get("anyOf", ()) if one != {"type": "null"}]
    if len(choices) == 1:
        del found["anyOf"]
        found |= choices[0]
    return found


def _schema(model: type[BaseModel], mode: JsonSchemaMode, schemas: dict[str, Any]) -> dict[str, Any]:
    """A reference to a model's schema among the components; two models of one name must be the same."""
    schema = model.model_json_schema(ref_template=_REF, mode=mode)
    found = {**schema.pop("$defs", {}), model.__name__: schema}
    for name, one in found.items():
        if schemas.setdefault(name, one) != one:
            raise ValueError(f"two schemas are called {name}")
    return {"$ref": _REF.format(model=model.__name__)}


def _problem(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {PROBLEM_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}},
    }


def _name(status: int) -> str:
    return HTTPStatus(status).phrase.replace(" ", "")
