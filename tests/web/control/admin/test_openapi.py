"""The OpenAPI document: valid, complete, and the same as what the code does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel

from aibrother_node.web.control.admin.api import BASE
from aibrother_node.web.control.admin.node_routes import NodeRoutes
from aibrother_node.web.control.admin.openapi import document
from aibrother_node.web.control.admin.operation import Documented, Operation, Scope
from web.control.admin.apis import Handlers, running

if TYPE_CHECKING:
    from pathlib import Path


def of_the_node() -> dict[str, Any]:
    unused: Any = None
    routes = NodeRoutes(status=unused, peers=unused, config=unused, audit=unused, store=unused)
    return document(routes.operations(), "1")


@pytest.mark.parametrize("made", [of_the_node(), document(Handlers().operations(), "1"), document([], "1")])
def test_it_is_valid(made: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(json.loads(json.dumps(made))).validate()


def test_what_it_says_of_an_operation() -> None:
    found = of_the_node()["paths"]
    assert found["/pins/{digest}"]["put"]["security"] == [{"bearer": ["operate"]}]
    assert found["/pins/{digest}"]["put"]["requestBody"]["required"] is False
    assert found["/pins/{digest}"]["delete"]["parameters"][0]["schema"]["pattern"] == "^sha256:[0-9a-f]{64}$"
    parameters = {one["name"]: one for one in found["/audit"]["get"]["parameters"]}
    assert parameters["limit"]["schema"] == {"default": 100, "maximum": 1000, "minimum": 1, "type": "integer"}
    assert parameters["before"]["schema"] == {"maximum": 1 << 53, "minimum": 1, "type": "integer"}
    assert {"200", "400", "401", "403", "404", "429", "500", "503"} == set(found["/audit"]["get"]["responses"])
    assert "507" in found["/pins/{digest}"]["delete"]["responses"]
    assert {"408", "413", "415"} <= set(found["/pins/{digest}"]["put"]["responses"])


async def test_it_is_served_without_a_token_and_names_every_route(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        async with api.client.get(f"{BASE}/openapi.json") as answer:
            assert (answer.status, answer.content_type) == (200, "application/json")
            served = await answer.json()
        assert (await api.ask("HEAD", "/openapi.json", None))[0] == 200
        assert (await api.ask("POST", "/openapi.json", None))[0] == 401
        assert api.handlers.done == []
    declared = {(one.method.lower(), one.path, one.name) for one in api.handlers.operations()}
    assert declared == {
        (method, path, operation["operationId"])
        for path, operations in served["paths"].items()
        for method, operation in operations.items()
    }
    assert served["info"]["version"] == "1.2.3"


def test_two_models_of_one_name_are_refused() -> None:
    def model(kind: type) -> type[BaseModel]:
        return type("Answer", (BaseModel,), {"__annotations__": {"a": kind}})

    handler = Handlers().look
    one, other = (
        Operation(f"x{n}", "GET", f"/{n}", Scope.READ, "X.", handler, {200: Documented("x", model(kind))})
        for n, kind in enumerate((int, str))
    )
    with pytest.raises(ValueError, match="two schemas are called Answer"):
        document([one, other], "1")
