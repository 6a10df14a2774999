"""A small fleet on loopback: a node that signs, and one that joined it; both know where the other is."""

from __future__ import annotations

import random
import socket
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from e2e.harness import Node, eventually, run
from e2e.publishing import done

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FAST: Mapping[str, Any] = {
    "fleet.gossip_interval": "200ms",
    "catalog.refresh_interval": "2s",
    "node.drain_seconds": 2,
}


_FIRST_EPHEMERAL: Final = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody uses now.

    It is none of those that the kernel gives to clients, or one of them had it by the time a node starts; and of the
    others any, for more tests than this one are looking.
    """
    for _ in range(100):
        port = random.SystemRandom().randrange(_FIRST_EPHEMERAL // 2, _FIRST_EPHEMERAL)
        try:
            socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
        except OSError:
            continue
        return port
    raise AssertionError("no port is free")


def make_member(
    folder: Path,
    signer: Node | None = None,
    *,
    host: str = "127.0.0.1",
    region: str = "us",
    scheme: str = "http",
    env: Mapping[str, str] | None = None,
    **settings: Any,
) -> Node:
    """Make a node with fixed ports; the first one signs, others join `signer`, which runs, and are admitted."""
    folder.mkdir(parents=True, exist_ok=True)
    node = Node(folder)
    shown = f"[{host}]" if ":" in host else host
    ports = [free_port(host), free_port(host)]
    url, gossip_url = (f"{scheme}://{shown}:{port}" for port in ports)
    join = () if signer is None else ("--join", signer.url, "--root", signer.data / "trust/root.json")
    where = ("--region", region, "--public-url", url, "--gossip-url", gossip_url)
    made = run("init", "--data", node.data, *where, *join, env=env)
    assert made.code == 0, made
    own: dict[str, Any] = {"node.region": region, "node.public_url": url, "node.gossip_url": gossip_url}
    own |= {"public.host": [host], "public.port": ports[0], "fleet.host": [host], "fleet.port": ports[1]}
    own |= {"catalog.signer": True} if signer is None else {"fleet.seeds": [signer.url]}
    node.configure(**{**FAST, **own, "control.port": free_port(), **settings})
    if signer is not None:
        done(signer, "fleet", "admit", node.data / "record.json")
    return node


def peers(node: Node) -> dict[str, Any]:
    """What a node knows of the others, by region."""
    return {one["region"]: one for one in done(node, "peers", "--json").json["peers"]}


def know_each_other(*nodes: Node) -> None:
    """Wait until they do; a control process that is only starting can't tell yet."""

    def knows(node: Node) -> bool:
        told = node.command("peers", "--json")
        return told.code == 0 and [one["state"] for one in told.json["peers"]] == ["alive"] * (len(nodes) - 1)

    for node in nodes:
        eventually(lambda node=node: knows(node), f"{node.folder} says that all are alive")  # type: ignore[misc]


def scrape(node: Node) -> dict[str, float]:
    """The metrics without labels."""
    with urllib.request.urlopen(f"{node.ready['urls']['control'][0]}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {line.split()[0]: float(line.split()[1]) for line in lines if line[:1] not in ("#", "") and "{" not in line}


@contextmanager
def pair(folder: Path, **settings: Any) -> Iterator[tuple[Node, Node]]:
    """Run two that know each other; they end cleanly with the block."""
    us = make_member(folder / "us", **settings)
    nodes = [us]
    try:
        us.start(port=None)
        eu = make_member(folder / "eu", us, region="eu", **settings)
        nodes.append(eu)
        eu.start(port=None)
        know_each_other(us, eu)
        yield us, eu
        for node in nodes:
            if node.process is not None:
                node.stop()
    finally:
        for node in nodes:
            node.discard()
