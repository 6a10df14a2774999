"""Which sockets a node listens on: those of the public plane, of control and of the fleet.

A port that somebody chose is that port or an error; the fleet listener's is also chosen by `node.gossip_url`. A port
that nobody chose gives way: two nodes on one machine need no configuration of planes that people don't look for by
their numbers; the log and the ready line name what was taken.
"""

from __future__ import annotations

import errno
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from aibrother_tools.serve.sockets import BindError, bind_all, passed_by_parent, reachable_url, share_out

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Mapping

    from aibrother_node.config import ControlSection, FleetSection, NodeConfig
    from aibrother_node.store.layout import Layout

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listening:
    """The listening sockets of a node.

    Attributes:
        public: for each worker its sockets.
        control, fleet: of these planes; none of the fleet's where the node belongs to none.
        metrics: where metrics alone are served.
    """

    public: list[list[socket.socket]]
    control: list[socket.socket] = field(default_factory=list)
    fleet: list[socket.socket] = field(default_factory=list)
    metrics: list[socket.socket] = field(default_factory=list)

    def close_public(self) -> None:
        """Close what workers serve; for an orderly end that comes first."""
        for sock in {sock for mine in self.public for sock in mine}:
            sock.close()

    def close_others(self) -> None:
        """Close what control serves."""
        for sock in (*self.control, *self.fleet, *self.metrics):
            sock.close()

    def urls(self, config: NodeConfig) -> dict[str, list[str]]:
        """By plane, the URLs that work on this machine."""
        scheme = "https" if config.public.tls_certificate else "http"
        found = {
            "public": _urls((sock for mine in self.public for sock in mine), scheme),
            "control": _urls(self.control, "http"),
            "fleet": _urls(self.fleet, scheme),
        }
        if self.metrics:
            found["metrics"] = _urls(self.metrics, "http")
        return found


def listen(config: NodeConfig, origins: Mapping[str, str], layout: Layout, environ: Mapping[str, str]) -> Listening:
    """Bind all sockets, or take over those that were passed.

    Args:
        config: the configuration.
        origins: for each key that somebody set, who (`Loaded.origins`).
        layout: the data directory: the fleet listener is for nodes that have a catalog, or a root to trust.
        environ: the environment, as `passed_by_parent` wants it.

    Raises:
        BindError: an address can't be listened on.
    """
    public = config.public
    planes: dict[str, ControlSection | FleetSection] = {"control": config.control}
    if (layout.trust / "root.json").exists() or (layout.catalog / "metadata" / "timestamp.json").exists():
        planes["fleet"] = config.fleet
    passed = passed_by_parent(environ, public.congestion_control)
    found = {name: _taken(passed, plane.port) for name, plane in planes.items() if plane.port != public.port}
    opened: list[socket.socket] = []
    try:
        shares = (
            share_out(passed, public.workers)
            if passed
            else bind_all(public.host, public.port, public.workers, public.congestion_control)
        )
        opened += [sock for mine in shares for sock in mine]
        # who asks for any port of the public plane starts a node beside others, and has the defaults for nobody else
        anywhere = public.port == 0 and origins.get("public.port") == "--port"
        for name, plane in planes.items():
            if not found.get(name):
                chosen = f"{name}.port" in origins
                port = 0 if anywhere and not chosen else plane.port
                if name == "fleet" and not chosen and (told := urlsplit(config.node.gossip_url).port):
                    port, chosen = told, True  # where the others are told that they reach it
                found[name] = _bind(name, plane, port, fixed=chosen)
            opened += found[name]
        metrics: list[socket.socket] = []
        if config.metrics.listen:
            place = urlsplit(f"//{config.metrics.listen}")
            assert place.hostname is not None
            assert place.port is not None
            [metrics] = bind_all([place.hostname], place.port, 1)
    except BaseException:
        for sock in opened:
            sock.close()
        raise
    return Listening(shares, found["control"], found.get("fleet", []), metrics)


def _bind(name: str, plane: ControlSection | FleetSection, port: int, *, fixed: bool) -> list[socket.socket]:
    try:
        [mine] = bind_all(plane.host, port, 1)
    except BindError as error:
        taken = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE
        if fixed or not taken:
            raise
        [mine] = bind_all(plane.host, 0, 1)
        chosen = mine[0].getsockname()[1]
        _LOG.warning("%s.port: %d is in use and nobody chose it; listening on %d instead", name, port, chosen)
    return mine


def _taken(passed: list[socket.socket], port: int) -> list[socket.socket]:
    """Take those with this port out of what was passed."""
    mine = [sock for sock in passed if sock.getsockname()[1] == port]
    for sock in mine:
        passed.remove(sock)
    return mine


def _urls(sockets: Iterable[socket.socket], scheme: str) -> list[str]:
    # IPv4 first: it is what works from the most programs when copied by hand
    return sorted({reachable_url(sock, scheme) for sock in sockets}, key=lambda url: ("[" in url, url))
