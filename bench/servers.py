"""The servers that are compared, each serving the same file from the same page cache on a port of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final
from urllib.parse import urlsplit

from bench.procs import ROOT, Failed, module, on_core, stop

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HOST: Final = "127.0.0.1"
_PATIENCE: Final = 60.0

_NGINX: Final = """\
daemon off;
worker_processes {workers};
pid {folder}/nginx.pid;
error_log {folder}/error.log;
{user}
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    default_type application/octet-stream;
    sendfile on;
{settings}
    server {{
        listen {host}:{port};
        root {root};
    }}
}}
"""
STOCK: Final = ("tcp_nopush on;",)
TUNED: Final = ("tcp_nopush off;", "open_file_cache max=1000;", "sendfile_max_chunk 256k;")


@dataclass(slots=True)
class Server:
    """One that runs.

    Attributes:
        name: in the tables.
        process: its root.
        port, path: where the file is, on `HOST`.
        plain: it speaks no HTTP.
    """

    name: str
    process: subprocess.Popen[str]
    port: int
    path: str
    plain: bool = False

    def url(self) -> str:
        return f"http://{HOST}:{self.port}{self.path}"

    def close(self) -> None:
        stop(self.process)


def path_of(digest: str) -> str:
    """The target of a blob, the same on every server."""
    return f"/v1/blobs/sha256/{digest}"


def start_node(name: str, command: Sequence[str], data: Path, digest: str, workers: int, core: int | None) -> Server:
    """Our node, on a data directory that holds the blob."""
    with on_core(core):
        process = subprocess.Popen(
            [*command, "serve", "--data", str(data), "--port", "0", "--workers", str(workers), "--json"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "AIBROTHER_CONTROL__PORT": "0", "AIBROTHER_PUBLIC__HOST": HOST},
        )
    try:
        ready = _ready_line(_stdout(process))
    except BaseException:
        stop(process)
        raise
    return Server(name, process, urlsplit(ready).port or 0, path_of(digest))


def _ready_line(output: IO[str]) -> str:
    for line in output:
        if line.startswith("{") and (event := json.loads(line)).get("event") == "ready":
            return str(event["urls"]["public"][0])
    raise Failed("the node ended before it was ready")


def start_nginx(
    name: str, settings: Sequence[str], folder: Path, blob: Path, digest: str, workers: int, core: int | None
) -> Server:
    """nginx, on a symbolic link to the node's own blob."""
    link = folder / f"root{path_of(digest)}"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    port = _free_port()
    config = folder / "nginx.conf"
    config.write_text(
        _NGINX.format(
            workers=workers,
            folder=folder,
            user="user root;" if os.geteuid() == 0 else "",  # else its workers may not look into our folders
            settings="\n".join(f"    {line}" for line in settings),
            host=HOST,
            port=port,
            root=folder / "root",
        )
    )
    command = [program("nginx") or "nginx", "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config)]
    with on_core(core):
        process = subprocess.Popen(command, text=True, stdout=subprocess.DEVNULL)
    server = Server(name, process, port, path_of(digest))
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection((HOST, port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return server
    server.close()
    raise Failed(f"nginx did not start: {(folder / 'error.log').read_text()[-500:]}")


def start_plain(name: str, blob: Path, core: int | None) -> Server:
    """Nothing but sendfile."""
    with on_core(core):
        process = subprocess.Popen([*module("plain"), str(blob)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return Server(name, process, int(_stdout(process).readline()), "", plain=True)


def program(name: str) -> str | None:
    """Where a program is; None without it. nginx is often where only root looks."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin")


def _stdout(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as sock:
        return int(sock.getsockname()[1])
