"""What happens to a request to the admin API, in which order, and what is entered of it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp import ClientPayloadError

from aibrother_node.errors import DiskFull
from aibrother_node.web.control.admin.api import BASE, AdminApi
from aibrother_node.web.control.admin.audit import AuditLog
from aibrother_node.web.control.admin.operation import Documented, Operation, Scope
from aibrother_node.web.control.admin.tokens import TokenTable
from web.control.admin.apis import DIGEST_A, Api, Handlers, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

JSON = {"Content-Type": "application/json"}


@pytest_asyncio.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running(tmp_path) as made:
        yield made


# -- the token


@pytest.mark.parametrize("path", ["/things", "/things/x", "/nothing", "", "/openapi.json/x", "/%00", "/things?limit=x"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PURGE"])
async def test_without_a_token_there_is_nothing(api: Api, method: str, path: str) -> None:
    status, headers, body = await api.ask(method, path, None)
    assert (status, headers["WWW-Authenticate"]) == (401, 'Bearer realm="aibrother"')
    assert (headers["Content-Type"], headers["Cache-Control"]) == ("application/problem+json", "no-store")
    assert method == "HEAD" or body["status"] == 401
    assert api.handlers.done == []
    [row] = api.rows()
    assert (row["refusal"], row["status"], row["caller"], row["address"]) == (True, 401, None, "127.0.0.1")
    assert row["target"]["method"] == method


@pytest.mark.parametrize(
    "fields",
    [
        ["Bearer"],
        ["Bearer "],
        ["Bearer aib_" + "x" * 43],
        ["Bearer " + "x" * 5000],
        ["Bearer \u00e4\u00f6"],
        ["Basic YTpi"],
        ["{operate}"],
        ["Bearer {operate} {operate}"],
        ["Bearer {operate}x"],
        ["Bearer {expired}"],
        ["Bearer {operate}", "Bearer {operate}"],
        ["Bearer {operate}", ""],
    ],
)
async def test_what_is_no_good_token(api: Api, fields: list[str]) -> None:
    headers = [("Authorization", one.format(**api.secrets)) for one in fields]
    async with api.client.get(f"{BASE}/things", headers=headers) as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="aibrother", error="invalid_token"'
    assert api.handlers.done == []
    rows = json.dumps(api.rows())
    assert not any(secret in rows for secret in api.secrets.values()), "no secret gets into the audit log"


async def test_a_token_is_good_in_any_case_of_the_scheme_and_until_it_is_revoked(api: Api) -> None:
    for scheme in ("Bearer", "bearer", "BEARER  "):
        headers = {"Authorization": f"{scheme} {api.secrets['read']}"}
        async with api.client.get(f"{BASE}/things", headers=headers) as answer:
            assert (await answer.json())["caller"] == api.kept["read"].id
    api.tokens.remove(api.kept["read"].id)
    assert (await api.ask("GET", "/things", "read"))[0] == 401
    assert (await api.ask("GET", "/things", "publish"))[0] == 200


@pytest.mark.parametrize(
    ("who", "allowed"), [("read", {"GET"}), ("operate", {"GET", "POST", "DELETE"}), ("publish", {"GET", "PUT"})]
)
async def test_what_each_scope_allows(api: Api, who: str, allowed: set[str]) -> None:
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/things", {}),
        ("POST", "/things", {"json": {"count": 1}}),
        ("DELETE", f"/things/{DIGEST_A}", {}),
        ("PUT", f"/uploads/{DIGEST_A}", {"data": b"x", "headers": {"Content-Type": "application/octet-stream"}}),
    ]
    for method, path, how in asked:
        status, headers, body = await api.ask(method, path, who, **how)
        if method in allowed:
            assert status < 300
            continue
        assert (status, body["status"]) == (403, 403)
        assert 'error="insufficient_scope"' in headers["WWW-Authenticate"]
        row = api.rows()[-1]
        assert (row["refusal"], row["status"], row["caller"]) == (True, 403, api.kept[who].id)
    assert len(api.handlers.done) == len(allowed)


async def test_who_keeps_presenting_wrong_tokens_is_told_to_wait_and_others_pass(tmp_path: Path) -> None:
    async with running(tmp_path, wrong_tokens=3) as api:
        assert [(await api.ask("GET", "/things", "wrong"))[0] for _ in range(4)] == [401, 401, 401, 429]
        status, headers, body = await api.ask("GET", "/nothing", "wrong")
        assert (status, body["status"]) == (429, 429)
        assert 1 <= int(headers["Retry-After"]) <= 60
        assert (await api.ask("GET", "/things", "read"))[0] == 200, "who has a good token passes"
        assert (await api.ask("GET", "/things", None))[0] == 401, "who has none is always told to bring one"
        assert [row["status"] for row in api.rows()] == [401, 401, 401, 429, 429, 401]


async def test_very_many_refusals_are_counted_in_one_row(api: Api) -> None:
    for _ in range(150):
        await api.ask("GET", "/things", None)
    rows = api.rows()
    assert len(rows) == 121
    assert sum(row["count"] for row in rows) == 150
    assert rows[-1]["count"] == 30


# -- the path, the method


async def test_unknown_paths_and_methods(api: Api) -> None:
    assert (await api.ask("GET", "/nothing"))[2] == {"type": "about:blank", "title": "Not Found", "status": 404}
    assert (await api.ask("GET", "/things/"))[0] == 404
    status, headers, body = await api.ask("PATCH", "/things")
    assert (status, body["status"], set(headers["Allow"].split(","))) == (405, 405, {"GET", "HEAD", "POST"})
    assert api.rows() == []


async def test_a_query_that_is_right(api: Api) -> None:
    assert (await api.ask("GET", "/things?limit=7&flag=true&share=5e-1&word=%C3%A4"))[0] == 200
    [(_, query)] = api.handlers.done
    assert (query.limit, query.flag, query.share, query.word) == (7, True, 0.5, "ä")


async def test_head_answers_like_get(api: Api) -> None:
    status, headers, body = await api.ask("HEAD", "/things?limit=7")
    got = await api.ask("GET", "/things?limit=7")
    assert (status, body) == (200, b"")
    assert headers["Content-Length"] == got[1]["Content-Length"]
    assert headers["Cache-Control"] == got[1]["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in got[1]


# -- input


@pytest.mark.parametrize(
    ("path", "field", "reason"),
    [
        ("/things?limit=x", "limit", "is not an integer"),
        ("/things?limit=", "limit", "is not an integer"),
        ("/things?limit=1.0", "limit", "is not an integer"),
        ("/things?limit=1_0", "limit", "is not an integer"),
        ("/things?limit=%201", "limit", "is not an integer"),
        ("/things?limit=" + "9" * 5000, "limit", "is not an integer"),
        ("/things?limit=\u0663", "limit", "is not an integer"),
        ("/things?limit=0", "limit", "greater than or equal to 1"),
        ("/things?limit=1001", "limit", "less than or equal to 1000"),
        ("/things?limit=1&limit=2", "limit", "more than once"),
        ("/things?word=" + "x" * 11, "word", "at most 10"),
        ("/things?flag=yes", "flag", "is not a boolean"),
        ("/things?flag=1", "flag", "is not a boolean"),
        ("/things?share=nan", "share", "is not a number"),
        ("/things?share=.5", "share", "is not a number"),
        ("/things?share=1e2", "share", "less than or equal to 1"),
        ("/things?other=1", "other", "no such parameter"),
        ("/things?" + "&".join(f"p{n}=1" for n in range(200)), "p0", "no such parameter"),
    ],
)
async def test_a_query_that_is_wrong(api: Api, path: str, field: str, reason: str) -> None:
    status, headers, body = await api.ask("GET", path)
    assert (status, headers["Content-Type"]) == (400, "application/problem+json")
    assert (body["errors"][0]["in"], body["errors"][0]["field"]) == ("query", field)
    assert reason in body["errors"][0]["reason"]
    assert field in body["detail"]
    assert api.handlers.done == []


@pytest.mark.parametrize(
    "digest", ["x", "sha256:" + "A" * 64, DIGEST_A + "%0A", DIGEST_A + "%2F..", "%FF", "sha256:" + "٣" * 64]
)
async def test_a_path_that_is_wrong(api: Api, digest: str) -> None:
    from yarl import URL

    url = URL(f"{BASE}/things/{digest}", encoded="%" in digest)
    headers = {"Authorization": f"Bearer {api.secrets['operate']}"}
    async with api.client.delete(url, headers=headers) as answer:
        assert answer.status == 400
        assert [one["field"] for one in (await answer.json(content_type=None))["errors"]] == ["digest"]
    [row] = api.rows()
    assert (row["action"], row["status"], row["result"]) == ("forget", 400, "failed")


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"{", ""),
        (b"[]", ""),
        (b'"x"', ""),
        (b"null", ""),
        (b"\xff\xfe", ""),
        (b'{"count": 1, "why": "\xff"}', ""),
        (b'{"count": 1, "why": "\\ud800"}', ""),
        (b"[" * 900, ""),
        (b'{"count":' * 90, ""),
        (b"{}", "count"),
        (b'{"count": "1"}', "count"),
        (b'{"count": 1.5}', "count"),
        (b'{"count": true}', "count"),
        (b'{"count": null}', "count"),
        (b'{"count": 101}', "count"),
        (b'{"count": 1e400}', "count"),
        (b'{"count": NaN}', "count"),
        (b'{"count": ' + b"9" * 900 + b"}", "count"),
        (b'{"count": 1, "why": 5}', "why"),
        (b'{"count": 1, "other": {}}', "other"),
        (b"", ""),
    ],
)
async def test_a_body_that_is_wrong(api: Api, data: bytes, field: str) -> None:
    status, _, body = await api.ask("POST", "/things", data=data, headers=JSON)
    assert (status, body["status"]) == (400, 400)
    assert (body["errors"][0]["in"], body["errors"][0]["field"]) == ("body", field)
    assert api.handlers.done == []
    assert [row["status"] for row in api.rows()] == [400]


async def test_a_body_that_is_right(api: Api) -> None:
    text = '{"count": 1, "why": "\\u0000 \u00e4"}'.encode()
    for kind in ("application/json", "application/json; charset=utf-8", "APPLICATION/JSON"):
        status, _, body = await api.ask("POST", "/things", data=text, headers={"Content-Type": kind})
        assert (status, body) == (202, {"count": 1})
    row = api.rows()[-1]
    assert (row["action"], row["status"], row["result"], row["notes"]) == ("change", 202, "done", {"counted": 1})
    assert row["request"] == {"body": {"count": 1, "why": "\0 \u00e4"}}
    assert (await api.ask("PUT", f"/things/{DIGEST_A}"))[2] == {"why": "because"}, "it could be left out"


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16", "x/y"]
)
async def test_a_body_of_another_type(api: Api, kind: str) -> None:
    status, headers, _ = await api.ask("POST", "/things", data=b'{"count": 1}', headers={"Content-Type": kind})
    assert (status, headers["Accept"]) == (415, "application/json")


@pytest.mark.parametrize("kind", ["application/octet-stream", "application/x-www-form-urlencoded", "x/y"])
async def test_bytes_come_under_any_type(api: Api, kind: str) -> None:
    headers = {"Content-Type": kind}
    assert (await api.ask("PUT", f"/uploads/{DIGEST_A}", "publish", data=b"x", headers=headers))[0] == 201


async def test_a_body_that_is_too_large(api: Api) -> None:
    async def forever() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 1000
            await asyncio.sleep(0)

    assert (await api.ask("POST", "/things", data=b" " * 1001, headers=JSON))[0] == 413
    try:
        assert (await api.ask("POST", "/things", data=forever(), headers=JSON))[0] == 413
    except OSError:  # hung up before all that was sent was read
        assert api.rows()[-1]["status"] == 413
    assert api.handlers.done == []


async def test_large_bodies_have_room_of_their_own(tmp_path: Path) -> None:
    body = b'{"count": 1}' + b" " * 100_000
    async with running(tmp_path, in_memory=150_000) as api:

        async def bulk(expected: int) -> Any:
            async with asyncio.timeout(20):
                while (found := await api.ask("POST", "/bulk", data=body, headers=JSON))[0] != expected:
                    await asyncio.sleep(0.01)
            return found

        head = f"POST {BASE}/bulk HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.secrets['operate']}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        for ends in (True, False):
            reader, writer = await asyncio.open_connection(api.client.server.host, api.client.server.port)
            writer.write(head.encode() + body[:50_000])
            assert (await bulk(503))[1]["Retry-After"] == "5"
            assert (await api.ask("POST", "/things", json={"count": 1}))[0] == 202, "small ones always pass"
            if ends:
                writer.write(body[50_000:])
                assert (await reader.readline()).startswith(b"HTTP/1.1 202 ")
            writer.close()
            await bulk(202)


async def test_a_body_where_none_is_taken(api: Api) -> None:
    assert (await api.ask("DELETE", f"/things/{DIGEST_A}", data=b"x"))[0] == 400
    assert (await api.ask("DELETE", f"/things/{DIGEST_A}", data=b""))[0] == 204


async def test_a_body_is_asked_for_after_the_token(api: Api) -> None:
    host, port = api.client.server.host, api.client.server.port

    async def begin(token: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(
            f"POST {BASE}/things HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 12\r\n"
            f"Content-Type: application/json\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n".encode()
        )
        return reader, writer, await reader.readline()

    _, writer, line = await begin("wrong")
    assert line.startswith(b"HTTP/1.1 401 ")
    writer.close()
    reader, writer, line = await begin(api.secrets["operate"])
    assert line.startswith(b"HTTP/1.1 100 ")
    writer.write(b'{"count": 7}')
    assert b"\r\n\r\nHTTP/1.1 202 " in b"\r\n" + await reader.read()
    writer.close()


# -- handlers


@pytest.mark.parametrize(
    ("how", "status", "result"), [("conflict", 409, "failed"), ("full", 507, "failed"), ("later", 503, "failed")]
)
async def test_what_handlers_raise(api: Api, how: str, status: int, result: str) -> None:
    found, headers, body = await api.ask("POST", f"/fail/{how}")
    assert (found, body["status"], headers["Content-Type"]) == (status, status, "application/problem+json")
    assert body.get("versions") == ({"models": 3} if how == "conflict" else None)
    assert headers.get("Retry-After") == {"later": "7", "full": "5"}.get(how)
    [row] = api.rows()
    assert (row["status"], row["result"]) == (status, result)
    assert row["notes"]["reason"] == body["detail"]


async def test_a_bug_tells_nobody_anything(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    status, _, body = await api.ask("POST", "/fail/bug")
    assert status == 500
    assert "secret" not in json.dumps(body) + json.dumps(api.rows())
    assert "a secret path" in caplog.text


async def test_an_answer_that_breaks_off_is_cut(api: Api) -> None:
    with pytest.raises(ClientPayloadError):
        await api.ask("GET", "/endless")


# -- the audit log


async def test_an_action_that_cannot_be_entered_is_not_begun(tmp_path: Path) -> None:
    class Full(AuditLog):
        async def _ask(self, *_: Any, **__: Any) -> int:
            raise DiskFull("no room for a row")

    async with running(tmp_path, audit=Full(tmp_path / "index.sqlite3")) as api:
        status, _, body = await api.ask("POST", "/things", json={"count": 1})
        assert (status, body["detail"]) == (507, "no room for a row")
        assert api.handlers.done == []
        assert (await api.ask("GET", "/things"))[0] == 200, "looking goes on"
        assert (await api.ask("GET", "/things", None))[0] == 401, "and so does refusing"


# -- this machine's commands


async def test_the_same_operations_without_a_token_on_the_local_socket(api: Api) -> None:
    async with api.local.post(f"{BASE}/things", json={"count": 3}) as answer:
        assert answer.status == 202
    async with api.local.get(f"{BASE}/things", headers={"Authorization": "Bearer wrong"}) as answer:
        assert (await answer.json())["caller"] == "local"
    async with api.local.post(f"{BASE}/things", json={"count": 300}) as answer:
        assert answer.status == 400
    assert [(row["caller"], row["address"], row["status"]) for row in api.rows()] == [
        ("local", "local", 202),
        ("local", "local", 400),
    ]


# -- declarations


@pytest.mark.parametrize(
    "wrong",
    [
        {"parameters": {}},
        {"parameters": {"id": {"type": "integer"}}},
        {"parameters": {"id": {"type": "string", "const": "x"}}},
        {"parameters": {"id": {"type": "string", "pattern": "x+"}}},
        {"raw_body": "text/plain"},
    ],
)
async def test_a_declaration_that_nobody_would_hold_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    from web.control.admin.apis import Body

    fields: dict[str, Any] = {"parameters": {"id": {"type": "string"}}, "body": Body, **wrong}
    handler = Handlers().look
    operation = Operation("x", "POST", "/x/{id}", Scope.READ, "X.", handler, {200: Documented("x")}, **fields)
    log = AuditLog(tmp_path / "index.sqlite3")
    with pytest.raises(ValueError, match=r"^x: "):
        AdminApi([operation], TokenTable(), log, version="1")
    await log.close()


# -- what is under way


async def test_what_is_under_way_for_a_revoked_token_is_cut(api: Api) -> None:
    async def watch(who: str) -> int:
        seen = 0
        headers = {"Authorization": f"Bearer {api.secrets[who]}"}
        async with api.client.get(f"{BASE}/watch", headers=headers) as answer:
            async for piece in answer.content.iter_any():
                seen += len(piece)
        return seen

    async with asyncio.timeout(20):
        watching = [asyncio.create_task(watch(who)) for who in ("read", "operate")]
        await api.handlers.watched.wait()
        api.api.cut_revoked()
        api.tokens.remove(api.kept["read"].id)
        await asyncio.sleep(0)
        assert not watching[0].done()
        api.api.cut_revoked()
        with pytest.raises(ClientPayloadError):
            await watching[0]
        assert not watching[1].done(), "others go on"
        while ("watch", None) not in api.handlers.done:
            await asyncio.sleep(0.01)
        watching[1].cancel()
        await asyncio.gather(watching[1], return_exceptions=True)


@pytest.mark.parametrize(
    "rest",
    [
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"cou',
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b'Content-Length: 12\r\n\r\n{"coun',
        b'Content-Length: 12\r\nContent-Length: 13\r\n\r\n{"count": 1}',
        b"Content-Length: -1\r\n\r\n",
        b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"Expect: a miracle\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_a_body_that_ends_or_is_framed_wrongly(api: Api, rest: bytes, caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = await asyncio.open_connection(api.client.server.host, api.client.server.port)
    head = f"POST {BASE}/things HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.secrets['operate']}\r\n"
    writer.write(head.encode() + b"Content-Type: application/json\r\nConnection: close\r\n" + rest)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    # what isn't HTTP at all is answered by aiohttp itself, as HTTP/1.0 where it came no further
    assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answer
    assert api.handlers.done == []
    assert "failed" not in caplog.text, caplog.text
    assert (await api.ask("GET", "/things"))[0] == 200


async def test_a_body_that_does_not_come(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aibrother_node.web.control.admin.inputs.PATIENCE", 0.05)
    reader, writer = await asyncio.open_connection(api.client.server.host, api.client.server.port)
    head = f"POST {BASE}/things HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.secrets['operate']}\r\n"
    writer.write(head.encode() + b"Content-Type: application/json\r\nConnection: close\r\nContent-Length: 9\r\n\r\n{")
    assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    writer.close()
    assert api.rows()[-1]["status"] == 408
