"""What commands print with `--json` is what the schemas in the package say; and how `pull` ends."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from conftest import Content
from e2e.harness import Node, Result, run

ABSENT = "sha256:" + "0" * 64


def _schema(name: str) -> Any:
    return json.loads((resources.files("aibrother_tools") / "data" / "schemas" / f"{name}.json").read_text())


def _valid(name: str, text: str) -> Any:
    document = json.loads(text)
    jsonschema.validate(document, _schema(name))
    return document


def _pull(node: Node, *arguments: str | Path) -> Result:
    return run("pull", *arguments, "--from", node.url)


@pytest.mark.parametrize("path", sorted(resources.files("aibrother_tools").joinpath("data/schemas").iterdir(), key=str))
def test_the_schemas_are_schemas(path: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text()))


def test_commands_on_a_stopped_node(tmp_path: Path, model: Content) -> None:
    data = tmp_path / "data"
    made = _valid("init", run("init", "--no-catalog", "--data", data, "--region", "eu", "--json").out)
    (added,) = _valid("add", run("add", model.path, "--data", data, "--json").out)
    assert added == {"digest": model.digest, "size": model.size, "path": str(model.path)}
    status = _valid("status", run("status", "--data", data, "--json").out)
    assert status["node"]["id"] == made["node"]["id"]
    assert (status["node"]["running"], status["node"]["region"]) == (False, "eu")
    assert _valid("pin", run("unpin", model.digest, "--data", data, "--json").out)["pinned"] is False
    assert _valid("pin", run("pin", model.digest, "--data", data, "--json").out)["pinned"] is True
    report = _valid("verify", run("verify", "--data", data, "--json").out)
    assert report["blobs"] == status["store"]["blobs"] == 2
    assert _valid("check-config", run("check-config", "--data", data, "--json").out)["faults"] == []
    (data / "node.toml").write_text("[public]\nprot = 1\n")
    faults = run("check-config", "--data", data, "--json")
    assert faults.code == 2
    assert "did you mean" in _valid("check-config", faults.out)["faults"][0]


def test_commands_of_tokens(tmp_path: Path) -> None:
    data = tmp_path / "data"
    run("init", "--no-catalog", "--data", data)
    create = ["token", "create", "--data", str(data), "--json", "--scope"]
    made = _valid("token-create", run(*create, "read", "--expires", "90d", "--name", "ci").out)
    assert made["scope"] == "read"
    assert made["expires"] is not None
    both = _valid("token-create", run(*create, "publish", "--scope", "operate").out)
    assert (both["scope"], both["expires"]) == ("operate publish", None)
    listed = _valid("token-list", run("token", "list", "--data", data, "--json").out)["tokens"]
    found = {one["id"]: (one["name"], one["scope"]) for one in listed}
    assert found == {made["id"]: ("ci", "read"), both["id"]: ("", "operate publish")}
    assert _valid("token-revoke", run("token", "revoke", made["id"], "--data", data, "--json").out)["revoked"]
    listed = _valid("token-list", run("token", "list", "--data", data, "--json").out)["tokens"]
    assert [one["id"] for one in listed] == [both["id"]]


def test_commands_of_the_catalog(tmp_path: Path, model: Content) -> None:
    data = tmp_path / "data"
    made = _valid("init", run("init", "--data", data, "--json").out)
    assert made["root"] == json.loads((data / "trust" / "root.json").read_bytes())
    publish: list[str | Path] = [
        "publish",
        model.path,
        "--data",
        data,
        "--name",
        "m",
        "--version",
        "1",
        "--variant",
        "q",
        "--json",
    ]
    assert _valid("publish", run(*publish, "--dry-run").out)["targets"] == []
    published = _valid("publish", run(*publish).out)
    (entry,) = published["entries"]
    jsonschema.validate(entry, _schema("entry.schema"))
    (target,) = published["targets"]
    assert target == {"name": "models/m-1-q.gguf", "state": "new", "bytes": model.size}
    assert _valid("publish", run(*publish).out)["targets"][0]["state"] == "same"
    assert _valid("list", run("list", "--data", data, "--json").out)["models"] == [entry]
    assert _valid("show", run("show", "m", "--data", data, "--json").out) == [entry]
    assert _valid("status", run("status", "--data", data, "--json").out)["catalog"]["stale"] is False
    yanked = _valid("edit", run("yank", "m", "--reason", "bad", "--data", data, "--json").out)
    assert {"name": "models/m-q.gguf", "state": "removed"} in yanked["targets"]
    assert run("show", "m", "--data", data, "--json").code == 4
    assert _valid("edit", run("unyank", "m", "--data", data, "--json").out)["entries"] == [entry]
    edited = _valid("edit", run("edit", "m", "--license", "mit", "--data", data, "--json").out)
    assert edited["entries"] == [{**entry, "license": "mit"}]
    keys = _valid("keys-list", run("keys", "list", "--data", data, "--json").out)
    assert {key["role"] for key in keys} >= {"root", "timestamp", "snapshot", "targets", "models", "staging", "fleet"}
    rotated = _valid("keys-sign", run("keys", "rotate", "root", "--data", data, "--json").out)
    assert rotated["versions"]["root"] == 2
    assert _valid("keys-sign", run("keys", "refresh", "--data", data, "--json").out) == {"versions": {}}
    saved = _valid("backup", run("backup", tmp_path / "saved.tar", "--data", data, "--json").out)
    restored = run("restore", tmp_path / "saved.tar", "--data", tmp_path / "again", "--json")
    assert _valid("restore", restored.out) == {"node": {"id": made["node"]["id"]}, "files": saved["files"]}
    again = _valid("list", run("list", "--data", tmp_path / "again", "--json").out)["models"]
    assert again == edited["entries"]


def test_commands_of_the_fleet(tmp_path: Path) -> None:
    data, other = tmp_path / "data", tmp_path / "other"
    made = _valid("init", run("init", "--data", data, "--region", "eu", "--json").out)["node"]
    new = _valid("init", run("init", "--no-catalog", "--data", other, "--region", "us", "--json").out)["node"]
    record = json.loads((other / "record.json").read_bytes())
    jsonschema.validate(record, _schema("record.schema"))
    assert (record["id"], record["region"]) == (new["id"], "us")
    (first,) = _valid("fleet-list", run("fleet", "list", "--data", data, "--json").out)["nodes"]
    assert first["id"] == made["id"]
    admit = ["fleet", "admit", str(other / "record.json"), "--url", "https://us.example", "--data", str(data), "--json"]
    admitted = _valid("fleet-edit", run(*admit).out)
    assert (admitted["version"], admitted["changed"]) == (2, True)
    assert (admitted["node"]["region"], admitted["node"]["url"]) == ("us", "https://us.example")
    assert _valid("fleet-edit", run(*admit).out)["changed"] is False
    revoked = _valid("fleet-edit", run("fleet", "revoke", made["id"][:8], "--data", data, "--json").out)
    assert (revoked["version"], revoked["node"]["state"]) == (3, "revoked")
    listed = _valid("fleet-list", run("fleet", "list", "--data", data, "--json").out)
    assert listed["version"] == 3
    assert {node["id"]: node["state"] for node in listed["nodes"]} == {made["id"]: "revoked", new["id"]: "admitted"}
    back = _valid("fleet-edit", run("fleet", "admit", made["id"], "--country", "de", "--data", data, "--json").out)
    assert back["node"] == {**first, "country": "DE"}


def test_keys_that_are_offline_are_asked_for(tmp_path: Path) -> None:
    data, usb = tmp_path / "data", tmp_path / "usb"
    run("init", "--data", data)
    moved = json.loads(run("keys", "move-offline", usb, "--data", data, "--json").out)
    assert [key["role"] for key in moved] == ["root", "targets"]
    refused = run("keys", "rotate", "root", "--data", data)
    assert refused.code == 5
    assert str(usb) in refused.err
    rotated = _valid("keys-sign", run("keys", "rotate", "root", "--beside", usb, "--data", data, "--json").out)
    assert rotated["versions"]["root"] == 2
    refused = run("keys", "rotate", "models", "--data", data)
    assert refused.code == 5
    assert run("keys", "rotate", "models", "--beside", usb, "--data", data).code == 0


def test_several_keys_and_a_threshold(tmp_path: Path, model: Content) -> None:
    data = tmp_path / "data"
    run("init", "--data", data)
    rotate = ["keys", "rotate", "--data", str(data)]
    assert run(*rotate, "models", "--keys", "3", "--threshold", "4").code == 1
    assert run(*rotate, "models", "--keys", "3", "--threshold", "2").code == 0
    keys = _valid("keys-list", run("keys", "list", "--data", data, "--json").out)
    mine = [data / "keys" / key["where"].removeprefix("file:") for key in keys if key["role"] == "models"]
    assert len(mine) == 3, "a refused rotation leaves no keys behind"
    publish: list[str | Path] = ["publish", model.path, "--data", data, "--variant", "q"]
    mine[0].unlink()
    assert run(*publish, "--name", "two-of-three").code == 0
    mine[1].unlink()
    refused = run(*publish, "--name", "one-of-three")
    assert refused.code == 5
    assert "with 1 of 2 keys" in refused.err


def test_a_signer_whose_keys_are_lost_is_taken_over_from(tmp_path: Path, model: Content) -> None:
    data = tmp_path / "data"
    run("init", "--data", data)
    for path in (data / "keys").glob("timestamp-*.pem"):
        path.unlink()
    publish: list[str | Path] = ["publish", model.path, "--data", data, "--name", "m", "--variant", "q"]
    assert run(*publish).code == 5
    assert run("keys", "rotate", "timestamp", "--data", data).code == 5
    taken = _valid("keys-sign", run("keys", "takeover", "--data", data, "--json").out)
    assert taken["versions"]["root"] == 3
    assert run(*publish).code == 0


def test_the_ready_line_and_what_a_running_node_is_told(make_node: Callable[..., Node]) -> None:
    node = make_node().start()
    jsonschema.validate(node.ready, _schema("serve"))
    assert _valid("drain", node.command("drain", "--json").out)["state"] == "draining"
    assert _valid("status", node.command("status", "--json").out)["node"]["drained"]["reason"] == ""
    assert _valid("undrain", node.command("undrain", "--json").out)["state"] == "up"
    assert _valid("status", node.command("status", "--json").out)["node"]["drained"] is None


def test_pull_tells_its_events_and_ends_with_done(node: Node, model: Content, tmp_path: Path) -> None:
    result = _pull(node, model.digest, "-o", tmp_path / "out", "--json")
    assert result.code == 0
    events = [_valid("pull", line) for line in result.out.splitlines()]
    assert events[0]["event"] == "start"
    done = events[-1]
    assert done.pop("sources") == [{"url": node.url, "bytes": model.size, "errors": 0}]
    hex_digits = model.digest.removeprefix("sha256:")
    assert done == {
        "event": "done",
        "path": str(tmp_path / "out"),
        "sha256": hex_digits,
        "size": model.size,
        "fetched": model.size,
        "reused": 0,
    }
    assert (tmp_path / "out").read_bytes() == model.data
    again = _valid("pull", _pull(node, model.digest, "-o", tmp_path / "out", "--json").out.splitlines()[-1])
    assert (again["fetched"], again["reused"]) == (0, model.size)


def test_a_plan_downloads_nothing(node: Node, large: Content, tmp_path: Path) -> None:
    result = _pull(node, large.digest, "-o", tmp_path / "out", "--dry-run", "--json")
    assert _valid("pull", result.out)["fetch"] == large.size
    assert list(tmp_path.iterdir()) == []


def test_pull_of_what_is_not_there(node: Node, tmp_path: Path) -> None:
    result = _pull(node, ABSENT, "-o", tmp_path / "out")
    assert result.code == 4
    assert list(tmp_path.iterdir()) == []


def test_pull_from_nobody(tmp_path: Path) -> None:
    assert run("pull", ABSENT, "--from", "http://127.0.0.1:1", "-o", tmp_path / "out").code == 75
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["phi-2-mobile", "--from", "http://127.0.0.1:1"],
        ["sha256:abc", "--from", "http://127.0.0.1:1"],
        [ABSENT],
        [ABSENT, "--from", "http://127.0.0.1:1", "--limit", "fast"],
    ],
)
def test_wrong_usage_of_pull(arguments: list[str]) -> None:
    assert run("pull", *arguments).code == 2


def test_a_source_that_is_wrong_ends_with_3_and_names_the_chunk(
    make_node: Callable[..., Node], large: Content, tmp_path: Path
) -> None:
    bad = make_node(empty=True)
    bad.add(large.path)
    blob = bad.data / "blobs" / "sha256" / large.digest.removeprefix("sha256:")
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.seek((17 << 20) + 3)
        file.write(b"tampered")
    bad.start()
    result = _pull(bad, large.digest, "-o", tmp_path / "out", "--json")
    assert result.code == 3
    corrupt = [event for event in map(json.loads, result.out.splitlines()) if event["event"] == "corrupt"]
    jsonschema.validate(corrupt[0], _schema("pull"))
    assert (corrupt[0]["chunk"], corrupt[0]["url"]) == (2, bad.url)
    assert corrupt[0]["expected"] != corrupt[0]["actual"]
    assert not list(tmp_path.glob("out*")), "nothing is kept"

    good = make_node().start()
    result = run("pull", large.digest, "--from", bad.url, "--from", good.url, "-o", tmp_path / "out")
    assert result.code == 0
    assert (tmp_path / "out").read_bytes() == large.data


def test_ctrl_c_leaves_what_the_next_pull_goes_on_with(node: Node, large: Content, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "aibrother_tools", "pull", large.digest, "--from", node.url]
    command += ["-o", str(tmp_path / "out"), "--json"]
    with subprocess.Popen([*command, "--limit", "20 MB/s"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line).get("done", 0) > large.size // 4:
                break
        process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.returncode == 130
    assert not (tmp_path / "out").exists()
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    done = json.loads(result.stdout.splitlines()[-1])
    assert done["reused"] > large.size // 8
    assert done["reused"] + done["fetched"] >= large.size
    assert (tmp_path / "out").read_bytes() == large.data
