"""Which ports a node listens on: chosen ones or none, and others where nobody chose."""

import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from aibrother_node.config import NodeConfig
from aibrother_node.store.layout import Layout
from aibrother_tools.serve.planes import Listening, listen
from aibrother_tools.serve.sockets import BindError

HOST = "127.0.0.1"
ANY_PUBLIC = {"public.port": "--port"}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A data directory that trusts a root."""
    layout = Layout(tmp_path)
    layout.trust.mkdir()
    (layout.trust / "root.json").write_bytes(b"{}")
    return layout


@contextlib.contextmanager
def listening(
    layout: Layout,
    origins: Mapping[str, str],
    **sections: dict[str, Any],
) -> Iterator[Listening]:
    here = {"host": [HOST]}
    config = NodeConfig.model_validate(
        {
            "public": {**here, "port": 0, "workers": 1, **sections.get("public", {})},
            "control": {**here, **sections.get("control", {})},
            "fleet": {**here, **sections.get("fleet", {})},
            "metrics": sections.get("metrics", {}),
            "node": sections.get("node", {}),
        }
    )
    found = listen(config, origins, layout, {})
    try:
        yield found
    finally:
        found.close_public()
        found.close_others()


def port_of(sockets: list[socket.socket]) -> int:
    [sock] = sockets
    port = sock.getsockname()[1]
    assert isinstance(port, int)
    return port


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that something listens on."""
    with socket.create_server((HOST, 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def free() -> int:
    """A port that nothing listened on a moment ago."""
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
    assert isinstance(port, int)
    return port


def test_any_public_port_on_the_command_line_means_any_port_of_all_planes(layout: Layout) -> None:
    with listening(layout, ANY_PUBLIC) as one, listening(layout, ANY_PUBLIC) as other:
        ports = [port_of(plane) for node in (one, other) for plane in (*node.public, node.control, node.fleet)]
        assert len(set(ports)) == 6
        assert not {8080, 8081, 8082} & set(ports)
        assert one.metrics == []


def test_what_was_chosen_stays_chosen(layout: Layout, free: int) -> None:
    with listening(layout, {**ANY_PUBLIC, "control.port": "node.toml"}, control={"port": free}) as node:
        assert port_of(node.control) == free
    with listening(layout, {**ANY_PUBLIC, "fleet.port": "AIBROTHER_FLEET__PORT"}, fleet={"port": free}) as node:
        assert port_of(node.fleet) == free
    with listening(layout, {"public.port": "node.toml"}, control={"port": free}) as node:
        assert port_of(node.control) == free, "any public port in a file says nothing of the others"


@pytest.mark.parametrize("plane", ["control", "fleet"])
def test_a_port_in_use_gives_way_only_where_nobody_chose_it(
    layout: Layout, taken: int, plane: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING),
        listening(layout, {"public.port": "node.toml"}, **{plane: {"port": taken}}) as node,
    ):
        port = port_of(getattr(node, plane))
        assert port != taken
        assert f"{plane}.port: {taken} is in use and nobody chose it; listening on {port} instead" in caplog.messages
    with (
        pytest.raises(BindError, match=f"{taken}: Address already in use"),
        listening(layout, {f"{plane}.port": "node.toml"}, **{plane: {"port": taken}}),
    ):
        pass


def test_an_address_of_others_never_gives_way(layout: Layout) -> None:
    with pytest.raises(BindError, match=r"192\.0\.2\.1"), listening(layout, ANY_PUBLIC, fleet={"host": ["192.0.2.1"]}):
        pass


def test_what_was_bound_before_a_failure_is_let_go(layout: Layout, free: int, taken: int) -> None:
    origins = {"public.port": "node.toml", "fleet.port": "node.toml"}
    with pytest.raises(BindError), listening(layout, origins, public={"port": free}, fleet={"port": taken}):
        pass
    with socket.create_server((HOST, free)):
        pass


def test_who_has_no_catalog_and_trusts_no_root_has_no_fleet_listener(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    with listening(layout, ANY_PUBLIC) as node:
        assert node.fleet == []
        assert node.control
    (layout.catalog / "metadata").mkdir(parents=True)
    (layout.catalog / "metadata" / "timestamp.json").write_bytes(b"{}")
    with listening(layout, ANY_PUBLIC) as node:
        assert node.fleet


def test_metrics_alone(layout: Layout, free: int, taken: int) -> None:
    with listening(layout, ANY_PUBLIC, metrics={"listen": f"{HOST}:{free}"}) as node:
        assert node.urls(NodeConfig())["metrics"] == [f"http://{HOST}:{free}"]
    with listening(layout, ANY_PUBLIC, metrics={"listen": "[::1]:0"}) as node:
        assert node.metrics[0].family == socket.AF_INET6
    with listening(layout, ANY_PUBLIC, metrics={"listen": "localhost:0"}) as node:
        assert node.metrics
    with pytest.raises(BindError), listening(layout, ANY_PUBLIC, metrics={"listen": f"{HOST}:{taken}"}):
        pass


def test_urls_say_where_tls_is_spoken(layout: Layout) -> None:
    secure = NodeConfig.model_validate({"public": {"tls_certificate": "/c", "tls_key": "/k"}})
    with listening(layout, ANY_PUBLIC) as node:
        urls = node.urls(secure)
    assert {plane: [url.partition(":")[0] for url in found] for plane, found in urls.items()} == {
        "public": ["https"],
        "control": ["http"],
        "fleet": ["https"],
    }


_PASSED = """
import os, sys
from pathlib import Path
from aibrother_node.config import NodeConfig
from aibrother_node.store.layout import Layout
from aibrother_tools.serve.planes import listen
fleet = int(sys.argv[2])
config = NodeConfig.model_validate(
    {"public": {"port": int(sys.argv[1]), "workers": 2}, "control": {"port": 0}, "fleet": {"port": fleet}}
)
found = listen(config, {}, Layout(Path(sys.argv[3])), {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"})
print([[s.fileno() for s in mine] for mine in found.public], [s.fileno() for s in found.fleet], len(found.control))
"""


def test_sockets_that_were_passed_go_to_the_plane_with_their_port(layout: Layout) -> None:
    with socket.create_server((HOST, 0)) as public, socket.create_server((HOST, 0)) as fleet:
        shell = f'exec "$0" -c "$@" 3<&{public.fileno()} 4<&{fleet.fileno()}'
        ports = [sock.getsockname()[1] for sock in (public, fleet)]

        def passed(public_port: int, fleet_port: int) -> str:
            words = [_PASSED, str(public_port), str(fleet_port), str(layout.root)]
            return subprocess.run(
                ["bash", "-c", shell, sys.executable, *words],
                check=True,
                capture_output=True,
                text=True,
                pass_fds=[public.fileno(), fleet.fileno()],
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
                timeout=60,
            ).stdout.strip()

        assert passed(ports[0], ports[1]) == "[[3], [3]] [4] 1"
        assert passed(1, ports[1]) == "[[3], [3]] [4] 1", "what the public port is called doesn't matter"
        assert passed(ports[1], ports[1]).startswith("[[3, 4], [3, 4]]"), "the public plane goes first"


def test_the_gossip_url_chooses_the_fleets_port_where_the_configuration_doesnt(
    layout: Layout, free: int, taken: int
) -> None:
    told = {"node": {"gossip_url": f"http://{HOST}:{free}"}}
    with listening(layout, ANY_PUBLIC, **told) as node:
        assert port_of(node.fleet) == free
    with listening(layout, {**ANY_PUBLIC, "fleet.port": "node.toml"}, fleet={"port": 0}, **told) as node:
        assert port_of(node.fleet) != free
    told = {"node": {"gossip_url": f"http://{HOST}:{taken}"}}
    with pytest.raises(BindError, match="in use"), listening(layout, ANY_PUBLIC, **told):
        pass
    told = {"node": {"gossip_url": "https://gossip.example"}}
    with listening(layout, ANY_PUBLIC, **told) as node:
        assert port_of(node.fleet) != 443
