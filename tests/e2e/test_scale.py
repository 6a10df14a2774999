"""A thousand clients at once on one worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from counts import rounds
from e2e.harness import Node, descriptors, eventually, forget_peak, memory
from e2e.load import Load

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Content


def test_a_thousand_clients_that_keep_their_connections(make_node: Callable[..., Node], large: Content) -> None:
    node = make_node().start()
    worker = node.child()
    with Load(node.port, large.target, large.path, "random", 50, 20, 0):
        pass  # what a worker makes once is made
    before, open_before = memory(worker), descriptors(worker)
    forget_peak(worker)
    each = rounds(5, 200)
    with Load(node.port, large.target, large.path, "random", 1000, each, 1) as load:
        pass
    report = load.report
    peak = memory(worker, "VmHWM")
    print(
        f"1,000 clients, {report.requests} requests: RSS {before / 1e6:.1f} MB, peak {peak / 1e6:.1f} MB; "
        f"p50 {report.quantile(0.5) * 1e3:.1f} ms, p99 {report.quantile(0.99) * 1e3:.1f} ms"
    )
    assert report.errors == {}
    assert report.requests == 1000 * each
    assert peak - before < 60 << 20, "more than 60 KiB a client"
    eventually(lambda: descriptors(worker) <= open_before, "descriptors given back")
