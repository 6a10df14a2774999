"""Catalogs to test with, and stock TUF clients of them: python-tuf's Updater in its default configuration."""

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tuf.ngclient import Updater

from aibrother_node.catalog.keys import KeyRing
from aibrother_node.catalog.repository import Repository
from aibrother_node.content.digest import Digest
from aibrother_node.store.disk import Disk

NOW = datetime.now(UTC).replace(microsecond=0)
"""The time at which test catalogs are signed; stock clients look at the real clock."""

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Target:
    """What `TargetChange` asks for."""

    sha256: Digest
    length: int
    custom: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, data: bytes, custom: Mapping[str, Any] | None = None) -> "Target":
        return cls(Digest(hashlib.sha256(data).digest()), len(data), custom)


@dataclass
class Edit:
    """What `repository.Edit` asks for."""

    documents: dict[str, bytes | None] = field(default_factory=dict)
    targets: dict[str, Target | None] = field(default_factory=dict)

    def document(self, path: str, data: bytes | None) -> "Edit":
        self.documents[path] = data
        self.targets[path] = None if data is None else Target.of(data)
        return self

    def part(self, path: str, data: bytes) -> "Edit":
        name = path.removeprefix("models/")
        custom = {"name": name, "version": "1", "variant": "q4_k_m", "chunks": f"sha256:{'0' * 64}"}
        self.targets[path] = Target.of(data, custom)
        return self


def first_content(mark: str = "first") -> Edit:
    """Documents and parts for every leaf role; `mark` stands in all of them."""
    edit = Edit().document("fleet.json", f"fleet {mark}".encode())
    edit.document("models/catalog.json", f"catalog {mark}".encode())
    edit.document("staging/catalog.json", f"staging {mark}".encode())
    for name in ("phi", "qwen", "gemma"):
        edit.document(f"models/{name}.releases.json", f"{name} releases {mark}".encode())
        edit.part(f"models/{name}-q4_k_m.gguf", f"{name} {mark}".encode())
    return edit


def make(
    folder: Path, *, disk: Disk | None = None, content: Edit | None = None, **options: Any
) -> tuple[Repository, KeyRing]:
    """A new catalog below `folder`/catalog, its keys below `folder`/keys."""
    folder.mkdir(exist_ok=True)
    disk = disk or Disk()
    ring = KeyRing.generate(folder / "keys", disk, counts=options.pop("counts", None))
    catalog = folder / "catalog"
    return Repository.create(catalog, ring, {}, NOW, disk, content=content or first_content(), **options), ring


class _Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name is the base class's
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder over HTTP; gives its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Client:
    """A stock TUF client: state of its own, the first root, and nothing else."""

    def __init__(self, state: Path, url: str, root: bytes) -> None:
        self.state = state
        self.url = url
        self.root = root
        (state / "metadata").mkdir(parents=True)
        (state / "targets").mkdir()

    def updater(self) -> Updater:
        """One that has refreshed."""
        updater = Updater(
            str(self.state / "metadata"),
            f"{self.url}/metadata/",
            str(self.state / "targets"),
            f"{self.url}/targets/",
            bootstrap=self.root,
        )
        updater.refresh()
        return updater

    def get(self, path: str) -> bytes | None:
        """Refresh, find a target, download it."""
        updater = self.updater()
        info = updater.get_targetinfo(path)
        if info is None:
            return None
        return Path(updater.download_target(info)).read_bytes()

    def sees(self, edit: Edit) -> None:
        """Make sure that everything an edit says is what this client finds, of one and the same refresh."""
        updater = self.updater()
        for path, target in edit.targets.items():
            info = updater.get_targetinfo(path)
            if target is None:
                assert info is None, path
                continue
            assert info is not None, path
            assert (info.length, info.hashes, info.custom) == (
                target.length,
                {"sha256": target.sha256.hex},
                target.custom,
            ), path
            data = edit.documents.get(path)
            if data is not None:
                assert Path(updater.download_target(info)).read_bytes() == data, path
