"""A reload over the admin API: what changed, what doesn't before a restart, what is wrong; in all processes."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from e2e.harness import Node, eventually
from e2e.publishing import done
from e2e.wire import fetch

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Content


def reload(node: Node, token: str) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{node.ready['urls']['control'][0]}/admin/v1/reload",
        method="POST",
        headers={"Authorization": f"Bearer {token}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_reloads(make_node: Callable[..., Node], model: Content) -> None:
    node = make_node().start(workers=2)
    at = ("127.0.0.1", node.port)
    operate, read = (done(node, "token", "create", "--scope", one, "--json").json for one in ("operate", "read"))
    token = operate["token"]
    assert reload(node, read["token"])[0] == 403
    assert reload(node, token) == (200, {"changed": [], "needs_restart": []})

    def refused(target: str = model.target) -> set[int]:
        return {fetch(at, target, "Range: bytes=0-0,2-2").status for _ in range(12)}

    assert refused() == {206}
    node.configure(limits__max_ranges=1, store__max_manifest="1 MiB")
    answer = {"changed": ["limits.max_ranges"], "needs_restart": ["store.max_manifest"]}
    assert reload(node, token) == (200, answer)
    assert refused() == {416}, "both workers use it when it is answered"

    toml = node.data / "node.toml"
    whole = toml.read_text()
    toml.write_text(whole.replace("max_ranges = 1", "max_ranges = 9\nno_such_key = 1\nheader_timeout = 'never'"))
    status, problem = reload(node, token)
    assert (status, len(problem["faults"])) == (400, 2)
    for fault, key in zip(sorted(problem["faults"]), ("header_timeout", "no_such_key"), strict=True):
        assert fault.startswith(f"{toml}: limits")
        assert key in fault
    assert refused() == {416}, "nothing of it is used"
    toml.write_text(whole)

    toml.rename(toml.with_name("away"))
    status, problem = reload(node, token)
    assert (status, len(problem["faults"])) == (400, 1)
    assert problem["faults"][0].startswith(f"{toml}: no configuration is there any more")
    toml.with_name("away").rename(toml)

    # a process that hangs keeps it waiting; its successor begins with the new configuration
    node.configure(limits__max_ranges=5)
    worker = node.child("worker-1")
    os.kill(worker, signal.SIGSTOP)
    before = node.log.count("reload: limits.max_ranges")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(reload, node, token)
        eventually(lambda: node.log.count("reload: limits.max_ranges") > before, "it has begun")
        assert not waiting.done()
        os.kill(worker, signal.SIGKILL)
        answer["changed"] = ["limits.max_ranges"]
        assert waiting.result(60) == (200, answer)
    node.successor("worker-1", worker)
    assert refused() == {206}
    told = [one for one in done_audit(node, token) if one["action"] == "reload"]
    assert len(told) == 6, "each is audited, also those that were refused"


def done_audit(node: Node, token: str) -> list[dict[str, Any]]:
    request = urllib.request.Request(
        f"{node.ready['urls']['control'][0]}/admin/v1/audit", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        entries: list[dict[str, Any]] = json.load(answer)["entries"]
    return entries
