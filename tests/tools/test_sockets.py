"""Listening sockets: one for each worker and address, one port for all."""

import os
import socket
import subprocess
import sys

import pytest

from aibrother_tools.serve.sockets import BindError, bind_all, bracketed, passed_by_parent, reachable_url


def _close(bound: list[list[socket.socket]]) -> None:
    for mine in bound:
        for sock in mine:
            sock.close()


def test_each_worker_has_its_own_socket_on_each_address_and_all_have_one_port() -> None:
    bound = bind_all(["::1", "127.0.0.1"], 0, 3)
    assert [len(mine) for mine in bound] == [2, 2, 2]
    assert len({sock.getsockname()[1] for mine in bound for sock in mine}) == 1
    assert len({sock.fileno() for mine in bound for sock in mine}) == 6
    urls = {reachable_url(sock, "http") for mine in bound for sock in mine}
    assert {url.rsplit(":", 1)[0] for url in urls} == {"http://127.0.0.1", "http://[::1]"}
    _close(bound)


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BindError, match=f"127.0.0.1:{port}: Address already in use"):
            bind_all(["127.0.0.1"], port, 1)


def test_a_foreign_address_is_named() -> None:
    with pytest.raises(BindError, match=r"192\.0\.2\.1"):
        bind_all(["192.0.2.1"], 0, 1)


def test_ipv6_is_left_out_where_another_host_can_be_bound() -> None:
    bound = bind_all(["2001:db8::1", "127.0.0.1"], 0, 1)
    assert [sock.family for sock in bound[0]] == [socket.AF_INET]
    _close(bound)
    with pytest.raises(BindError):
        bind_all(["2001:db8::1"], 0, 1)


def test_congestion_control_is_set_or_refused() -> None:
    bound = bind_all(["127.0.0.1"], 0, 1, "reno")
    name = bound[0][0].getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    assert name.rstrip(b"\0") == b"reno"
    _close(bound)
    with pytest.raises(BindError, match="congestion_control"):
        bind_all(["127.0.0.1"], 0, 1, "nonsense")


def test_urls_name_the_loopback_where_all_addresses_are_bound() -> None:
    bound = bind_all(["0.0.0.0"], 0, 1)
    port = bound[0][0].getsockname()[1]
    assert reachable_url(bound[0][0], "https") == f"https://127.0.0.1:{port}"
    _close(bound)
    assert bracketed("::1") == "[::1]"


def test_sockets_of_others_are_not_taken() -> None:
    assert passed_by_parent({}) == []
    assert passed_by_parent({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) == []
    assert passed_by_parent({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"}) == []


def test_passed_sockets_are_shared_by_the_workers() -> None:
    program = (
        "import os\n"
        "from aibrother_tools.serve.sockets import passed_by_parent, share_out\n"
        "environ = {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1'}\n"
        "print([[s.fileno() for s in mine] for mine in share_out(passed_by_parent(environ), 2)])\n"
    )
    listener = socket.create_server(("127.0.0.1", 0))
    shell = f'exec "$0" -c "$1" 3<&{listener.fileno()}'
    result = subprocess.run(
        ["bash", "-c", shell, sys.executable, program],
        check=True,
        capture_output=True,
        text=True,
        pass_fds=[listener.fileno()],
    )
    listener.close()
    assert result.stdout.strip() == "[[3], [3]]"
