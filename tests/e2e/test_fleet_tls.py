"""A fleet that speaks TLS throughout, one of its nodes over IPv6."""

from __future__ import annotations

import json
import signal
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from e2e.certificates import make_certificate
from e2e.fleets import know_each_other, make_member, peers
from e2e.harness import Node, eventually
from e2e.publishing import done, publish, write_gguf
from e2e.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@pytest.fixture
def renewed(tmp_path: Path) -> tuple[Path, Path]:
    """The certificate that comes after the first one, and its key."""
    folder = tmp_path / "renewed"
    folder.mkdir()
    return make_certificate(folder, "renewed.test")


@pytest.fixture
def env(tmp_path: Path, renewed: tuple[Path, Path]) -> dict[str, str]:
    """What makes a program trust all of them and nobody else."""
    trusted = tmp_path / "trusted.pem"
    found = [renewed[0].read_bytes()]
    for name in ("us", "eu"):
        (tmp_path / name).mkdir()
        found.append(make_certificate(tmp_path / name, f"{name}.test")[0].read_bytes())
    trusted.write_bytes(b"".join(found))
    return {"SSL_CERT_FILE": str(trusted)}


@pytest.fixture
def secure(tmp_path: Path, env: Mapping[str, str]) -> Iterator[tuple[Node, Node]]:
    nodes: list[Node] = []
    try:
        for name, host in (("us", "127.0.0.1"), ("eu", "::1")):
            tls = {"public.tls_certificate": str(tmp_path / name / "cert.pem")}
            tls["public.tls_key"] = str(tmp_path / name / "key.pem")
            how = {"host": host, "region": name, "scheme": "https", "env": env}
            node = make_member(tmp_path / name, nodes[0] if nodes else None, **how, **tls)  # type: ignore[arg-type]
            nodes.append(node)
            node.start(port=None, env=env)
        yield nodes[0], nodes[1]
        for node in nodes:
            node.stop()
    finally:
        for node in nodes:
            node.discard()


def certificate_of(node: Node, trusted: str) -> bytes:
    """What its fleet listener shows."""
    place = urlsplit(node.ready["urls"]["fleet"][0])
    context = ssl.create_default_context(cafile=trusted)
    how = lambda sock: context.wrap_socket(sock, server_hostname=place.hostname)  # noqa: E731
    with Wire((place.hostname or "", place.port or 0), wrap=how) as wire:
        wire.ask("/inventory/v1")
        assert wire.answer().status == 401
        assert isinstance(wire.sock, ssl.SSLSocket)
        found = wire.sock.getpeercert(binary_form=True)
    assert found is not None
    return found


def test_gossip_catalog_and_inventories_over_tls(
    secure: tuple[Node, Node], env: Mapping[str, str], renewed: tuple[Path, Path], tmp_path: Path
) -> None:
    us, eu = secure
    assert eu.ready["urls"]["fleet"][0].startswith("https://[::1]:")
    know_each_other(us, eu)
    model = write_gguf(tmp_path / "a.gguf", "a")
    digest = "sha256:" + publish(us, model, "a:f32@1")["sha256"].removeprefix("sha256:")
    eventually(lambda: done(eu, "list", "--json").json["models"], "eu lists it", 10.0)

    def mirrors() -> set[str]:
        context = ssl.create_default_context(cafile=env["SSL_CERT_FILE"])
        how = lambda sock: context.wrap_socket(sock, server_hostname="127.0.0.1")  # noqa: E731
        with Wire(("127.0.0.1", us.port), wrap=how) as wire:
            wire.ask(f"/v1/mirrors?digest={digest}")
            answer = wire.answer()
        return {one["url"] for one in json.loads(answer.body)["mirrors"]}

    eu.add(model)
    eventually(lambda: len(mirrors()) == 2, "us knows that eu has it", 20.0)
    assert any(url.startswith("https://[::1]:") for url in mirrors())

    # a reload renews the certificate of the fleet listener as well; gossip goes on
    before = certificate_of(us, env["SSL_CERT_FILE"])
    for new, old in zip(renewed, (tmp_path / "us/cert.pem", tmp_path / "us/key.pem"), strict=True):
        new.replace(old)
    us.send(signal.SIGHUP)
    eventually(lambda: certificate_of(us, env["SSL_CERT_FILE"]) != before, "the new certificate")
    publish(us, write_gguf(tmp_path / "b.gguf", "b"), "b:f32@1")
    eventually(lambda: len(done(eu, "list", "--json").json["models"]) == 2, "eu lists it as well", 10.0)
    assert {one["state"] for node in (us, eu) for one in peers(node).values()} == {"alive"}
