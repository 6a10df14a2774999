"""Where this machine's commands and workers meet control: `run/control.sock`, reached however long its path is.

A unix socket's address has room for 107 bytes (unix(7)), a data directory's path may have more. Through
/proc/self/fd the folder is named by a descriptor instead.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

NAME: Final = "control.sock"


class LocalSocket:
    """An address of control.sock that is valid while the context is entered.

    Args:
        run: the data directory's `run/`.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._fd = -1

    def __enter__(self) -> str:
        self._fd = os.open(self._run, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}/{NAME}"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
