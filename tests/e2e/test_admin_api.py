"""The admin API of a running node: whatever is sent to it, and whoever sends it.

schemathesis makes requests from the node's own OpenAPI document, those that fit it and those that don't.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.openapi import from_dict
from schemathesis.specs.openapi import checks

from counts import rounds
from e2e.harness import PATIENCE, Node, run
from e2e.publishing import done

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from conftest import Content

BASE = "/admin/v1"
SECRET = "T0P-s3cr3t"
ENDS_THE_TEST: Mapping[str, str] = {
    "drain": "what comes after it would find a node that sends its clients away",
}
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
bounded = settings(
    max_examples=rounds(12, 100),
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@dataclass
class Plane:
    """A node's control plane, and who may what there."""

    node: Node
    url: str
    document: dict[str, Any]
    tokens: dict[str, str] = field(default_factory=dict)

    def ask(
        self, method: str, path: str, who: str | None, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        place = urlsplit(self.url)
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=PATIENCE)
        fields = {} if who is None else {"Authorization": f"Bearer {self.tokens[who]}"}
        try:
            connection.request(method, f"{BASE}{path}", body, {**fields, **(headers or {})})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def get(self, path: str, who: str = "read") -> Any:
        status, _, body = self.ask("GET", path, who)
        assert status == 200, (path, status, body)
        return json.loads(body)

    def audit(self, **query: Any) -> list[dict[str, Any]]:
        """All entries, the newest first."""
        entries: list[dict[str, Any]] = []
        page: dict[str, Any] = {"next": None}
        while not entries or page["next"]:
            given = {"limit": 1000, **query, **({"before": page["next"]} if page["next"] else {})}
            page = self.get("/audit?" + "&".join(f"{name}={quote(str(value))}" for name, value in given.items()))
            if not page["entries"]:
                break
            entries += page["entries"]
        return entries

    def refusals(self) -> int:
        """How many were refused so far."""
        return sum(entry["count"] for entry in self.audit() if entry["refusal"])

    def state(self) -> dict[str, Any]:
        """What a request could have changed."""
        data = self.node.data
        folders = ("blobs", "pins", "tokens", "keys", "catalog", "fills", "incoming", "uploads")
        files = {
            str(path): path.stat().st_mtime_ns
            for name in folders
            if (data / name).is_dir()
            for path in (data / name).rglob("*")
        }
        return {"files": files, "jobs": {job["id"] for job in self.get("/jobs")["jobs"]}}

    def operations(self) -> Iterator[Any]:
        """All that schemathesis finds in the document, but what ends the test."""
        schema = from_dict(self.document)
        schema.config.update(base_url=f"{self.url}{BASE}")
        schema.config.generation.update(with_security_parameters=False)  # the token is a matter of each test
        for found in schema.get_all_operations():
            assert isinstance(found, Ok)
            operation = found.ok()
            if operation.definition.raw["operationId"] not in ENDS_THE_TEST:
                yield operation

    def try_all(self, who: str | None, judge: Callable[[Any, Any], None]) -> int:
        """Send requests of all operations; returns how many."""
        sent = 0
        headers = {} if who is None else {"Authorization": f"Bearer {self.tokens[who]}"}
        for operation in self.operations():
            for mode in GenerationMode:

                @bounded
                @given(case=operation.as_strategy(generation_mode=mode))
                def attempt(case: Case[Any]) -> None:
                    nonlocal sent
                    case.headers.pop("Authorization", None)
                    response = case.call(headers=headers, timeout=PATIENCE, allow_redirects=False)
                    sent += 1
                    judge(case, response)

                with suppress(Unsatisfiable):  # nothing that it takes can be wrong
                    attempt()
        return sent


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory, model: Content) -> Iterator[Plane]:
    node = Node(tmp_path_factory.mktemp("admin")).init(catalog=True)
    node.configure(node__drain_seconds=2, catalog__signer=True, alerts__webhooks=[f"https://hooks.example/{SECRET}"])
    publish = ("--name", "m", "--version", "1", "--variant", "q", "--license", "mit")
    done(node, "publish", model.path, *publish)
    try:
        node.start()
        url = node.ready["urls"]["control"][0]
        made = Plane(node, url, {})
        status, headers, body = made.ask("GET", "/openapi.json", None)
        assert (status, headers["Content-Type"]) == (200, "application/json")
        made.document = json.loads(body)
        for who, scopes in {"read": ["read"], "all": ["operate", "publish"]}.items():
            created = done(node, "token", "create", "--json", *(f"--scope={scope}" for scope in scopes)).json
            made.tokens[who] = created["token"]
        yield made
        node.stop()
        assert node.command("verify").code == 0
    finally:
        node.discard()


def test_no_input_makes_it_fail_or_answer_what_it_does_not_document(plane: Plane) -> None:
    def judge(case: Case[Any], response: Any) -> None:
        case.validate_response(response, checks=CHECKS)

    assert plane.try_all("all", judge) > 100
    assert plane.ask("GET", "/status", "read")[0] == 200


def test_without_a_token_nothing_is_done_and_each_attempt_is_entered(plane: Plane) -> None:
    before, refused = plane.state(), plane.refusals()

    def judge(_: Case[Any], response: Any) -> None:
        assert response.status_code == 401
        assert response.headers["www-authenticate"][0].startswith("Bearer")
        assert response.headers["content-type"] == ["application/problem+json"]

    sent = plane.try_all(None, judge)
    assert plane.state() == before
    assert plane.refusals() - refused == sent


def test_a_token_to_read_changes_nothing(plane: Plane) -> None:
    before, refused, forbidden = plane.state(), plane.refusals(), 0

    def judge(case: Case[Any], response: Any) -> None:
        nonlocal forbidden
        [requirement] = case.operation.definition.raw["security"]
        if requirement["bearer"] == ["read"]:
            case.validate_response(response, checks=CHECKS)
            assert response.status_code not in (401, 403)
        else:
            assert response.status_code == 403
            forbidden += 1

    plane.try_all("read", judge)
    assert forbidden > 20
    assert plane.state() == before
    assert plane.refusals() - refused == forbidden


HOSTILE = [
    b"\0",
    b"{\0}",
    b"\xff\xfe\xfd",
    b'"\xc3("',
    b"[" * 60_000,
    b'{"a":' * 10_000,
    b"9" * 60_000,
    b"1e999999999",
    b"-" + b"9" * 5000,
    b"NaN",
    b'{"reason": "\\ud800"}',
    b'{"reason": "\\u0000"}',
    b'{"reason": ' + b"9" * 5000 + b"}",
    b'{"__proto__": {}, "reason": 1e400}',
    b"{" + b",".join(b'"k%d":0' % number for number in range(5000)) + b"}",
    b"\xef\xbb\xbf{}",
    b" " * 70_000,
]


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_bodies(plane: Plane, body: bytes) -> None:
    for path, operations in plane.document["paths"].items():
        for method, operation in operations.items():
            if "requestBody" not in operation or operation["operationId"] in ENDS_THE_TEST:
                continue
            target = path.replace("{digest}", "sha256:" + "0" * 64).replace("{id}", "0" * 32)
            for kind in (*operation["requestBody"]["content"], "application/json", "text/plain"):
                try:
                    status, headers, answer = plane.ask(method.upper(), target, "all", body, {"Content-Type": kind})
                except (BrokenPipeError, ConnectionResetError):
                    continue  # it would not have all of that
                assert 400 <= status < 500, (method, path, kind, status, answer)
                assert headers["Content-Type"] == "application/problem+json"


def test_what_a_good_request_does_is_told_by_the_audit_log(plane: Plane, model: Content) -> None:
    path = f"/pins/{model.digest}"
    kind = {"Content-Type": "application/json"}
    assert plane.ask("PUT", path, "all", b'{"reason": "by test"}', kind)[0] == 200
    assert {"digest": model.digest, "reason": "by test"} in plane.get("/pins")["pins"]
    assert plane.ask("DELETE", path, "all")[0] == 200
    assert plane.ask("DELETE", path, "all")[0] == 404
    found = plane.audit(action="pin") + plane.audit(action="unpin")
    caller = plane.audit(action="pin")[0]["caller"]
    assert f"{caller}.json" in [file.name for file in (plane.node.data / "tokens").iterdir()]
    mine = [entry for entry in found if entry["target"] == {"digest": model.digest}]
    assert {(entry["action"], entry["status"], entry["result"]) for entry in mine} >= {
        ("pin", 200, "done"),
        ("unpin", 200, "done"),
        ("unpin", 404, "failed"),
    }
    done(plane.node, "pin", model.digest)
    done(plane.node, "yank", "m", "--reason", "bad")
    done(plane.node, "unyank", "m")
    local = plane.audit(caller="local")
    assert [entry["action"] for entry in local[:3]] == ["edit_catalog", "edit_catalog", "pin"]
    assert local[1]["request"] == {"do": "yank", "reason": "bad"}
    assert local[1]["target"] == {"references": ["m"]}


def test_commands_do_the_same_from_afar(plane: Plane, model: Content, tmp_path: Path) -> None:
    to: dict[str, list[str | Path]] = {}
    for who, token in {**plane.tokens, "unknown": "aib_" + "x" * 43}.items():
        (tmp_path / who).touch(mode=0o600)
        (tmp_path / who).write_text(token + "\n")
        to[who] = ["--to", plane.url, "--token-file", tmp_path / who]
    for what in ("node", "catalog"):
        local = done(plane.node, "status", "--json").json
        assert run("status", "--json", *to["read"]).json[what] == local[what]
    assert run("peers", "--json", *to["read"]).json == done(plane.node, "peers", "--json").json
    absent = "sha256:" + "0" * 64
    for who, digest, code in (
        ("read", model.digest, 5),
        ("unknown", model.digest, 5),
        ("all", absent, 4),
        ("all", model.digest, 0),
    ):
        found = run("pin", digest, "--reason", "from afar", *to[who])
        assert (found.code, bool(found.err)) == (code, code != 0), found
    assert {"digest": model.digest, "reason": "from afar"} in plane.get("/pins")["pins"]
    assert run("unpin", model.digest, *to["all"]).code == 0


def test_the_configuration_is_shown_without_its_secrets(plane: Plane) -> None:
    status, _, body = plane.ask("GET", "/config", "read")
    shown = json.loads(body)
    assert (status, SECRET.encode() in body) == (200, False)
    assert shown["alerts"]["webhooks"] == ["https://hooks.example/***"]
    assert (shown["catalog"]["signer"], shown["public"]["workers"]) == (True, 1)
    assert shown["sources"]["catalog.signer"] == str(plane.node.data / "node.toml")
    assert shown["sources"]["public.port"] == "--port"
    assert "log.level" not in shown["sources"]
    plane.node.configure(log__level="debug")
    assert plane.ask("POST", "/reload", "all")[0] in (200, 202)
    again = plane.get("/config")
    assert (again["log"]["level"], "log.level" in again["sources"]) == ("debug", True)


def test_a_token_is_revoked_at_once_and_the_log_outlives_control(plane: Plane) -> None:
    created = done(plane.node, "token", "create", "--scope", "read", "--json").json
    plane.tokens["other"] = created["token"]
    plane.get("/status", "other")
    done(plane.node, "token", "revoke", created["id"])
    assert plane.ask("GET", "/status", "other")[0] == 401
    assert plane.audit()[0]["status"] == 401
    before = plane.audit()
    control = plane.node.child("control")
    os.kill(control, signal.SIGKILL)
    plane.node.successor("control", control)
    assert plane.audit() == before
    secrets = set(plane.tokens.values())
    stored = [path.read_bytes() for path in plane.node.data.rglob("*") if path.is_file()]
    assert not any(secret.encode() in data for secret in secrets for data in stored), "no secret is kept anywhere"
    assert not any(secret in plane.node.log for secret in secrets)
