"""python-tuf's own client, with its default configuration, on a running node: a node is a TUF repository."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

import pytest
from tuf.api.exceptions import RepositoryError

from aibrother_node.catalog.roles import KEYED_ROLES
from counts import rounds
from e2e.publishing import Client, client_of, done, publish, sha256_of, signing_node, write_gguf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.harness import Node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("tuf")
    node = signing_node(folder / "node")
    publish(node, write_gguf(folder / "first.gguf", "first"), "first:f32@1")
    try:
        yield node.start(workers=2)
        node.stop()
        assert node.command("verify").code == 0
    finally:
        node.discard()


def first_model(node: Node) -> bytes:
    return node.get("/models/first-f32.gguf").body


class Readers:
    """Clients in threads of their own, each running again and again until the block ends; none may ever fail."""

    def __init__(self, clients: list[Client], paths: tuple[str, ...]) -> None:
        self.runs = 0
        self.failures: list[BaseException] = []
        self._ended = threading.Event()
        self._paths = paths
        self._threads = [threading.Thread(target=self._read, args=(client,)) for client in clients]

    def _read(self, client: Client) -> None:
        while not self._ended.is_set():
            try:
                client.get(*self._paths)
                self.runs += 1
                self._ended.wait(0.02)  # what is signed meanwhile needs a processor too
            except BaseException as error:
                self.failures.append(error)
                return

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        assert self.failures == []
        assert self.runs > 0


def test_with_nothing_but_a_root(node: Node, tmp_path: Path) -> None:
    exported = tmp_path / "root.json"
    done(node, "keys", "export", exported)
    for number, root in enumerate((exported.read_bytes(), (node.data / "trust/root.json").read_bytes())):
        client = Client(tmp_path / str(number), f"http://127.0.0.1:{node.port}", root)
        assert client.get("models/first-1-f32.gguf", "models/first-f32.gguf") == [first_model(node)] * 2
        assert client.get(
            "models/catalog.json", "models/first.releases.json", "fleet.json", "staging/catalog.json"
        ) == [
            node.get(path).body
            for path in ("/catalog.json", "/models/first.releases.json", "/fleet.json", "/staging/catalog.json")
        ]
        assert not client.has("models/nothing-f32.gguf")
        info = client.refreshed().get_targetinfo("models/first-f32.gguf")
        assert info is not None
        (entry,) = done(node, "show", "--json", "first").json
        expected = {"name": "first", "version": "1", "variant": "f32", "chunks": entry["chunks"]}
        assert info.unrecognized_fields == {"custom": expected}


def test_clients_follow_new_keys_of_every_role(node: Node, tmp_path: Path) -> None:
    """Root and the role's keys change while clients read; those that began with the first root go on."""
    old = client_of(node, tmp_path / "old")
    old.refreshed()
    before = done(node, "keys", "list", "--json").json
    readers = [client_of(node, tmp_path / f"reader-{number}") for number in range(2)]
    with Readers(readers, ("models/first-f32.gguf", "models/catalog.json")):
        for role in KEYED_ROLES:
            assert done(node, "keys", "rotate", role, "--json").json["role"] == role
            assert old.get("models/first-f32.gguf") == [first_model(node)]
            assert client_of(node, tmp_path / role).get("models/first-f32.gguf") == [first_model(node)]
    after = done(node, "keys", "list", "--json").json
    assert sorted(key["role"] for key in after) == sorted(key["role"] for key in before)
    assert not {key["keyid"] for key in after} & {key["keyid"] for key in before}
    file = write_gguf(tmp_path / "after.gguf", "after")
    publish(node, file, "after:f32@1")
    publish(node, file, "after:f32@2", "--channel", "staging")
    assert old.get("models/after-f32.gguf", "staging/after-2-f32.gguf") == [file.read_bytes()] * 2


def test_from_the_first_root_to_a_late_one(node: Node, tmp_path: Path) -> None:
    follower = client_of(node, tmp_path / "follower")
    last = 0
    for number in range(rounds(5, 20)):
        last = done(node, "keys", "rotate", "root", "--json").json["versions"]["root"]
        if number % 5 == 0:
            follower.refreshed()
    assert last >= rounds(6, 20)
    for client in (follower, client_of(node, tmp_path / "new")):
        assert client.get("models/first-f32.gguf") == [first_model(node)]
    exported = tmp_path / "root.json"
    done(node, "keys", "export", exported)
    newest = Client(tmp_path / "newest", f"http://127.0.0.1:{node.port}", exported.read_bytes())
    assert newest.get("models/first-f32.gguf") == [first_model(node)]


def test_snapshots_are_consistent_in_the_middle_of_publishing(node: Node, tmp_path: Path) -> None:
    publish(node, write_gguf(tmp_path / "0.gguf", "moving 0", rows=4), "moving:f32@0")
    paths = ("models/catalog.json", "models/moving.releases.json", "models/moving-f32.gguf", "models/first-1-f32.gguf")
    with Readers([client_of(node, tmp_path / f"client-{number}") for number in range(3)], paths) as readers:
        for number in range(1, rounds(6, 200)):
            file = write_gguf(tmp_path / "next.gguf", f"moving {number}", rows=4)
            publish(node, file, f"moving:f32@{number}")
            if number % 3 == 0:
                done(node, "edit", "moving", "--description", f"number {number}")
    print(f"{readers.runs} runs of clients beside the publishing")
    assert client_of(node, tmp_path / "last").get("models/moving-f32.gguf") == [file.read_bytes()]


def test_another_catalogs_root_is_refused(node: Node, tmp_path: Path) -> None:
    other = signing_node(tmp_path / "other")
    stranger = Client(
        tmp_path / "stranger", f"http://127.0.0.1:{node.port}", (other.data / "trust/root.json").read_bytes()
    )
    with pytest.raises(RepositoryError):
        stranger.refreshed()
    assert sha256_of(other.data / "trust/root.json") != sha256_of(node.data / "trust/root.json")
