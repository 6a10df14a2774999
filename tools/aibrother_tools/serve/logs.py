"""Logs: text or JSON lines on stderr, and the access log in batches."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from aibrother_node.config import LogSection
    from aibrother_node.web.public.request import Request

_PENDING: Final = 100_000  # lines; when the disk is slower than the clients, the oldest go


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.processName,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up_logging(section: LogSection, process: str) -> None:
    """Send this process's log to stderr as configured; safe to call again after a reload."""
    handler = logging.StreamHandler(sys.stderr)
    if section.format == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)-7s {process}: %(message)s"))
    logging.basicConfig(level=section.level.upper(), handlers=[handler], force=True)
    # a client that goes away in the middle is normal; asyncio has a line for each
    logging.getLogger("asyncio").setLevel(max(logging.getLogger().level, logging.WARNING))


class AccessLog:
    """One line an answer, as JSON: appended to a queue by the event loop, written in batches.

    Args:
        destination: a path, or `-` for stderr.
    """

    def __init__(self, destination: str) -> None:
        self._destination = destination
        self._lines: deque[tuple[float, str, str, str, int, int, bool]] = deque(maxlen=_PENDING)

    def report(self, request: Request, status: int, length: int, done: bool) -> None:
        """Note an answer."""
        self._lines.append((time.time(), request.remote, request.method, request.target[:1000], status, length, done))

    async def run(self) -> None:
        """Write what was noted, twice a second, until cancelled; then once more."""
        try:
            while True:
                await asyncio.sleep(0.5)
                if self._lines:
                    await asyncio.to_thread(self._write)
        finally:
            self._write()

    def _write(self) -> None:
        if not self._lines:
            return
        if self._destination == "-":
            self._write_to(sys.stderr)
            return
        try:
            # opened for each batch, so that a log that was rotated away is left alone
            with open(self._destination, "a", encoding="utf-8") as file:
                self._write_to(file)
        except OSError as error:
            logging.getLogger(__name__).warning("the access log can't be written: %s", error)
            self._lines.clear()

    def _write_to(self, file: TextIO) -> None:
        lines = []
        while self._lines:
            when, remote, method, target, status, length, done = self._lines.popleft()
            lines.append(
                json.dumps(
                    {
                        "time": round(when, 3),
                        "client": remote,
                        "method": method,
                        "target": target,
                        "status": status,
                        "bytes": length,
                        "complete": done,
                    }
                )
            )
        file.write("\n".join(lines) + "\n")
        file.flush()
