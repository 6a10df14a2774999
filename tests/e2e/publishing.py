"""Nodes with a catalog, files to publish, and clients that read what was published."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata, Timestamp
from tuf.ngclient import Updater

from e2e.harness import Node, Reply, Result, clients_of

if TYPE_CHECKING:
    import http.client
    from collections.abc import Iterator, Mapping, Sequence


def write_gguf(
    path: Path,
    content: str,
    *,
    name: str | None = "Made for tests",
    licence: str | None = "mit",
    rows: int = 64,
    split: tuple[int, int] | None = None,
) -> Path:
    """Write a real GGUF file of `rows` KiB with the `gguf` package.

    Args:
        path: of the file.
        content: its tensor is made from these words.
        name, licence: `general.name` and `general.license`; None leaves them out.
        rows: of a tensor with 256 columns of F32.
        split: the number of this shard, from 0, and how many there are, as gguf-split of llama.cpp writes them.
    """
    writer = gguf.GGUFWriter(path, "llama")
    if name is not None:
        writer.add_name(name)
    if licence is not None:
        writer.add_license(licence)
    writer.add_context_length(2048)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_chat_template("{{ messages }}")
    if split is not None:
        writer.add_uint16("split.no", split[0])
        writer.add_uint16("split.count", split[1])
        writer.add_int32("split.tensors.count", split[1])
    random = np.random.default_rng(list(content.encode()))
    writer.add_tensor(f"blk.{0 if split is None else split[0]}.w", random.standard_normal((rows, 256), dtype="float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_shards(folder: Path, content: str, of: int, stem: str = "set", name: str = "Sharded") -> list[Path]:
    """Write a set of shards under the names that llama.cpp gives them."""
    return [
        write_gguf(
            folder / f"{stem}-{number:05}-of-{of:05}.gguf",
            f"{content} {number}",
            name=name,
            rows=32 + number,
            split=(number - 1, of),
        )
        for number in range(1, of + 1)
    ]


def sha256_of(path: Path) -> str:
    """64 hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def signing_node(folder: Path, **settings: Any) -> Node:
    """Make a data directory with a catalog of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    node = Node(folder).init(catalog=True)
    node.configure(**{"node__drain_seconds": 3, "catalog__signer": True, **settings})
    return node


def done(node: Node, *arguments: str | Path) -> Result:
    """Run a command that must succeed."""
    result = node.command(*arguments)
    assert result.code == 0, result
    return result


def publish(node: Node, path: Path | str, release: str, *more: str | Path) -> Any:
    """Publish a file as `NAME:VARIANT@VERSION`; returns its entry."""
    name, _, rest = release.partition(":")
    variant, _, version = rest.partition("@")
    what = ("--name", name, "--variant", variant, "--version", version)
    return done(node, "publish", "--json", path, *what, *more).json["entries"][0]


def publish_all(node: Node, files: Mapping[str, Path], *more: str | Path) -> list[Any]:
    """Publish files as `NAME:VARIANT@VERSION` by one plan: one command, one transaction. Returns their entries."""
    plan = node.folder / "plan.toml"
    releases = []
    for release, file in files.items():
        name, _, rest = release.partition(":")
        variant, _, version = rest.partition("@")
        fields = {"files": [str(file)], "name": name, "variant": variant, "version": version}
        releases.append("[[release]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items()))
    plan.write_text("".join(releases))
    entries: list[Any] = done(node, "publish", "--json", plan, *more).json["entries"]
    return entries


def names(node: Node, *arguments: str) -> list[str]:
    """What `list` shows, as `NAME:VARIANT@VERSION`."""
    listed = done(node, "list", "--json", *arguments).json
    return [f"{entry['name']}:{entry['variant']}@{entry['version']}" for entry in listed["models"]]


def first_root(node: Node) -> bytes:
    """What a client of this node was given once."""
    return (node.data / "catalog/metadata/1.root.json").read_bytes()


class Client:
    """python-tuf's client with its default configuration, that begins with nothing but a root.

    Args:
        folder: of its state; made where it is missing.
        url: of the node.
        root: that it begins with.
    """

    def __init__(self, folder: Path, url: str, root: bytes) -> None:
        self._folder = folder
        self._url = url
        self._root = root

    def refreshed(self) -> Updater:
        """A new run of the client on the same state."""
        metadata, targets = self._folder / "metadata", self._folder / "targets"
        metadata.mkdir(parents=True, exist_ok=True)
        targets.mkdir(exist_ok=True)
        updater = Updater(
            str(metadata),
            f"{self._url}/metadata/",
            str(targets),
            f"{self._url}/targets/",
            bootstrap=self._root,
        )
        updater.refresh()
        return updater

    def get(self, *paths: str) -> list[bytes]:
        """Refresh, find and download targets."""
        updater = self.refreshed()
        found = []
        for path in paths:
            info = updater.get_targetinfo(path)
            assert info is not None, f"{path} is not in the catalog"
            local = Path(updater.download_target(info, str(self._folder / "downloaded")))
            found.append(local.read_bytes())
            local.unlink()
        return found

    def has(self, path: str) -> bool:
        """Refresh, and look a target up."""
        return self.refreshed().get_targetinfo(path) is not None


def client_of(node: Node, folder: Path) -> Client:
    """A client of a running node with its first root."""
    return Client(folder, f"http://127.0.0.1:{node.port}", first_root(node))


class Workers:
    """A connection that is kept to each worker of a node, so that every one of them can be asked.

    Args:
        connections: one a worker.
    """

    def __init__(self, connections: Sequence[http.client.HTTPConnection]) -> None:
        self._connections = connections

    def ask(self, target: str, method: str = "GET", **headers: str) -> list[Reply]:
        """Ask every worker the same; header names have `_` for `-`."""
        replies = []
        for connection in self._connections:
            connection.request(method, target, headers={key.replace("_", "-"): value for key, value in headers.items()})
            response = connection.getresponse()
            replies.append(Reply(response.status, response.headers, response.read()))
        return replies

    def statuses(self, target: str, method: str = "GET") -> set[int]:
        """The different statuses that they answer with."""
        return {reply.status for reply in self.ask(target, method)}


@contextmanager
def every_worker(node: Node) -> Iterator[Workers]:
    """Connect until each worker has one: the kernel picks which one gets a connection."""
    pids = [pid for name, pid in node.children().items() if name.startswith("worker-")]
    kept: dict[int, http.client.HTTPConnection] = {}
    try:
        for _ in range(200):
            connection = node.connect()
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            port = connection.sock.getsockname()[1]
            owner = next(pid for pid in pids if port in clients_of(pid, node.port))
            if owner in kept:
                connection.close()
            kept.setdefault(owner, connection)
            if len(kept) == len(pids):
                break
        assert len(kept) == len(pids), "some workers get no connections"
        yield Workers(list(kept.values()))
    finally:
        for connection in kept.values():
            connection.close()


def sign_timestamp(node: Node, expires: datetime) -> None:
    """Sign the next timestamp with another expiry, as an old or a stopped signer would have left it."""
    path = node.data / "catalog/metadata/timestamp.json"
    metadata = Metadata[Timestamp].from_bytes(path.read_bytes())
    metadata.signed.version += 1
    metadata.signed.expires = expires.replace(microsecond=0)
    (key,) = (node.data / "keys").glob("timestamp-*.pem")
    (keyid,) = metadata.signatures
    metadata.signatures.clear()
    private = load_pem_private_key(key.read_bytes(), None)
    assert isinstance(private, Ed25519PrivateKey)
    metadata.sign(CryptoSigner(private, _public_key(node, keyid)))
    aside = path.with_name("timestamp.json.new")
    aside.write_bytes(metadata.to_bytes())
    aside.replace(path)


def _public_key(node: Node, keyid: str) -> SSlibKey:
    roots = sorted((node.data / "catalog/metadata").glob("*.root.json"), key=lambda one: int(one.name.split(".")[0]))
    key = Metadata.from_file(str(roots[-1])).signed.keys[keyid]
    assert isinstance(key, SSlibKey)
    return key


def ago(**how_long: float) -> datetime:
    """A time in the past, in UTC."""
    return datetime.now(UTC) - timedelta(**how_long)


def everything_below(*folders: Path) -> dict[str, bytes]:
    """All files below some folders, to compare."""
    return {str(path): path.read_bytes() for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()}
