"""Tokens: what is kept of one, where, and whom it lets in."""

from __future__ import annotations

import hashlib
import json
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from aibrother_node.errors import InvalidInput, NotFound, Refused
from aibrother_node.store.disk import Disk
from aibrother_node.web.control.admin import tokens as module
from aibrother_node.web.control.admin.operation import Scope
from aibrother_node.web.control.admin.tokens import (
    MAX_TIME,
    Token,
    TokenFiles,
    TokenTable,
    allowed,
    make_token,
    token_report,
)
from store.power_loss import RecordingDisk, lay_out, snapshot, states

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

READ, OPERATE, PUBLISH = Scope.READ, Scope.OPERATE, Scope.PUBLISH


def test_a_token_is_256_random_bits_and_its_hash_is_what_is_kept() -> None:
    secret, token = make_token([PUBLISH, READ, READ], "laptop", 1000.7, 60)
    assert re.fullmatch(r"aib_[A-Za-z0-9_-]{43}", secret)
    assert token.sha256 == hashlib.sha256(secret.encode()).hexdigest()
    assert (token.scope, token.created, token.expires) == ("read publish", 1000, 1060)
    assert secret not in token.model_dump_json()
    assert len({make_token([READ], "", 0, None)[0] for _ in range(100)}) == 100
    assert token_report(token, 1060) == {
        "id": token.id,
        "name": "laptop",
        "scope": "read publish",
        "created": "1970-01-01T00:16:40Z",
        "expires": "1970-01-01T00:17:40Z",
        "expired": True,
    }


def test_what_no_token_can_be_like() -> None:
    for scopes, name in (([], ""), ([READ], "x" * 101), ([READ], "a\nb")):
        with pytest.raises(InvalidInput):
            make_token(scopes, name, 0, None)
    assert make_token([READ], "", 0, 1e300)[1].expires == MAX_TIME


def test_who_is_let_in() -> None:
    table = TokenTable()
    made = {name: make_token([scope], "", 100, life) for name, scope, life in (("a", READ, None), ("b", OPERATE, 50))}
    table.replace(token for _, token in made.values())
    caller = table.caller(made["a"][0], "1.2.3.4", now=1e12)
    assert caller is not None
    assert (caller.token, caller.scopes, caller.address) == (made["a"][1].id, frozenset({READ}), "1.2.3.4")
    assert table.caller(made["b"][0], "", now=149.9) is not None
    assert table.caller(made["b"][0], "", now=150) is None, "expired"
    good = made["a"][0]
    for wrong in ("", "aib_", good[:-1], good + "x", good.upper(), made["a"][1].sha256, "ä", "x" * 10_000):
        assert table.caller(wrong, "", now=0) is None
    assert table.good(made["a"][1].id)
    assert (table.good(made["b"][1].id, now=149), table.good(made["b"][1].id, now=150)) == (True, False)
    table.remove(made["a"][1].id)
    assert not table.good(made["a"][1].id)
    assert table.caller(made["a"][0], "", now=0) is None
    assert table.caller(made["b"][0], "", now=0) is not None


def test_what_scopes_include() -> None:
    assert allowed([READ]) == {READ}
    assert allowed([OPERATE]) == {OPERATE, READ}
    assert allowed([PUBLISH]) == {PUBLISH, READ}
    assert allowed([PUBLISH, OPERATE]) == set(Scope)


def test_files_come_and_go(tmp_path: Path) -> None:
    files = TokenFiles(tmp_path / "tokens", Disk())
    assert files.read() == []
    nothing = files.state()
    tokens = [make_token([READ], str(n), n, None)[1] for n in range(3)]
    for token in tokens:
        files.write(token)
        files.write(token)  # asked twice
    assert files.read() == tokens
    assert files.state() != nothing
    assert (tmp_path / "tokens").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "tokens").iterdir()} == {0o600}
    files.remove(tokens[1].id)
    assert files.read() == [tokens[0], tokens[2]]
    for gone in (tokens[1].id, "", "../node", "x" * 16, tokens[0].id.upper() + "x"):
        with pytest.raises(NotFound):
            files.remove(gone)


def test_there_are_not_endlessly_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TOKENS", 2)
    files = TokenFiles(tmp_path / "tokens", Disk())
    tokens = [make_token([READ], "", 0, None)[1] for _ in range(3)]
    files.write(tokens[0])
    files.write(tokens[1])
    files.write(tokens[1])  # it is there already
    with pytest.raises(Refused, match="there are 2 tokens"):
        files.write(tokens[2])


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "0" * 63},
        {"sha256": "0" * 64 + "\n"},
        {"id": "0" * 16},
        {"scopes": []},
        {"scopes": ["root"]},
        {"expires": "never"},
        {"expires": MAX_TIME + 1},
        {"created": -1},
        {"other": 1},
    ],
)
def test_a_file_that_is_no_token_counts_for_nothing(
    tmp_path: Path, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    files = TokenFiles(tmp_path, Disk())
    good, bad = (make_token([READ], "", 0, None)[1] for _ in range(2))
    files.write(good)
    (tmp_path / f"{bad.id}.json").write_text(json.dumps(bad.model_dump(mode="json") | change))
    assert files.read() == [good]
    assert f"{bad.id}.json is no token" in caplog.text
    with pytest.raises(InvalidInput) if "id" not in change else pytest.raises(AssertionError):
        Token.from_json(bad.model_dump(mode="json") | change)
        raise AssertionError


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 4000, b" " * 5000, b"null"])
def test_nor_does_what_is_no_json(tmp_path: Path, data: bytes) -> None:
    (tmp_path / f"{'0' * 16}.json").write_bytes(data)
    (tmp_path / "notes.txt").write_bytes(data)
    (tmp_path / f"{'1' * 16}.json").mkdir()
    assert TokenFiles(tmp_path, Disk()).read() == []


def test_power_loss_leaves_the_old_token_or_the_new_one_and_no_revoked_one(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    base = snapshot(root)
    disk = RecordingDisk(root)
    files = TokenFiles(root / "tokens", disk)
    kept, revoked = (make_token([READ], "", n, None)[1] for n in range(2))
    ends = []
    steps: list[Callable[[], None]] = [
        partial(files.write, kept),
        partial(files.write, revoked),
        partial(files.remove, revoked.id),
    ]
    for step in steps:
        step()
        ends.append(len(disk.calls))
    count = 0
    for done, state in states(disk.calls, base):
        count += 1
        after = tmp_path / f"after-{count}"
        lay_out(state, after)
        found = TokenFiles(after / "tokens", Disk()).read()
        assert set(found) <= {kept, revoked}
        if done >= ends[0]:
            assert kept in found
        if ends[1] <= done < ends[1] + 1:
            assert revoked in found
        if done >= ends[2]:
            assert found == [kept]
    assert count > 10
