"""The physical limit: a file through the kernel's sendfile to whoever connects, over and over, with no HTTP at all.

Prints its port, then serves until killed. What it costs per GiB is what the kernel costs; a server can only add to it.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
from typing import Final

_SLICE: Final = 256 << 10
_TCP_NOTSENT_LOWAT: Final = 25  # linux/tcp.h


def serve(path: str, *, lowat: int = _SLICE) -> None:
    """Send the file to all, a slice at a time."""
    fd = os.open(path, os.O_RDONLY)
    size = os.fstat(fd).st_size
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    if lowat:
        listener.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, lowat)
    print(listener.getsockname()[1], flush=True)
    epoll = select.epoll()
    epoll.register(listener.fileno(), select.EPOLLIN)
    clients: dict[int, socket.socket] = {}
    offsets: dict[int, int] = {}
    while True:
        for out, _ in epoll.poll():
            if out == listener.fileno():
                client, _ = listener.accept()
                client.setblocking(False)
                clients[client.fileno()] = client
                offsets[client.fileno()] = 0
                epoll.register(client.fileno(), select.EPOLLOUT)
                continue
            offset = offsets[out]
            try:
                offset += os.sendfile(out, fd, offset, min(_SLICE, size - offset))
            except BlockingIOError:
                continue
            except OSError:
                with contextlib.suppress(OSError):
                    epoll.unregister(out)
                clients.pop(out).close()
                continue
            offsets[out] = offset if offset < size else 0


if __name__ == "__main__":
    serve(sys.argv[1], lowat=int(sys.argv[2]) if len(sys.argv) > 2 else _SLICE)
