"""The publisher's side against a real admin API: uploads that go wrong, a signer that lies, answers that are lost."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import threading
import time
from http.client import HTTPMessage
from typing import TYPE_CHECKING, Any

import pytest

from aibrother_node.catalog.desk import Signing
from aibrother_node.catalog.keys import KeyRing
from aibrother_node.catalog.trust import Rule, TrustError
from aibrother_node.errors import DiskFull, InvalidInput, NodeError, Refused, Temporary, VerificationFailed
from aibrother_node.store.disk import Disk
from aibrother_node.store.uploads import Uploads
from aibrother_node.web.control.admin import uploads as routes
from aibrother_tools.admin_node import AdminNode, Answered
from aibrother_tools.publishing import remote_desk, uploading
from aibrother_tools.publishing.catalog_copy import CatalogCopy
from aibrother_tools.publishing.remote_desk import RemoteDesk
from aibrother_tools.publishing.uploading import LocalFile, Uploader
from aibrother_tools.remote import Remote
from aibrother_tools.remote_client import RemoteNode
from catalog.signing import NOW
from store.helpers import digest_of
from web.control.admin.publishing import Publishing, running
from web.control.admin.test_catalog_routes import publishing, stored

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 3_000_000


def place(node: Publishing, scope: str = "publish") -> RemoteNode:
    return RemoteNode(Remote(f"http://127.0.0.1:{node.port}", node.secrets[scope]))


def local_file(folder: Path, size: int = SIZE) -> LocalFile:
    path = folder / "model.bin"
    path.write_bytes(os.urandom(size))
    return LocalFile.read(path, lambda _: None)


async def upload(node: Publishing, file: LocalFile, scope: str = "publish", **how: Any) -> tuple[bool, int]:
    """Upload it; returns whether it was there, and the progress that was told."""
    told: list[int] = []
    uploader = Uploader(AdminNode(place(node, scope)), random.Random(7), **how)

    def work() -> bool:
        with file:
            return uploader.upload(file, told.append)

    return await asyncio.to_thread(work), sum(told)


async def test_in_pieces_and_again(tmp_path: Path) -> None:
    file = local_file(tmp_path)
    async with running(tmp_path) as node:
        assert await upload(node, file, piece=700_000) == (False, SIZE)
        for digest in (file.digest, file.manifest, file.pieces):
            assert node.layout.blob(digest).exists()
        assert await upload(node, file) == (True, SIZE)


async def test_a_full_disk_is_told_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, reserve=1 << 60) as node:
        began = time.monotonic()
        with pytest.raises(DiskFull, match="reserve"):
            await upload(node, local_file(tmp_path))
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("scope", ["read", "operate"])
async def test_without_the_right(tmp_path: Path, scope: str) -> None:
    async with running(tmp_path) as node:
        with pytest.raises(Refused, match="scope publish"):
            await upload(node, local_file(tmp_path), scope)


async def test_bytes_that_change_on_the_way(tmp_path: Path) -> None:
    file = local_file(tmp_path)
    async with running(tmp_path) as node:
        file.digest = digest_of(b"something else")
        with pytest.raises(VerificationFailed, match="nothing of it was kept"):
            await upload(node, file)
        assert list(node.layout.incoming.iterdir()) == []


async def test_a_file_that_changes(tmp_path: Path) -> None:
    file = local_file(tmp_path)
    async with running(tmp_path) as node:
        file.path.write_bytes(os.urandom(SIZE))
        with pytest.raises(InvalidInput, match="changed"):
            await upload(node, file)


async def test_somebody_began_it_with_a_false_total(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "_SLOWEST", 0.05)
    file = local_file(tmp_path)
    async with running(tmp_path) as node:
        await node.put(file.digest, b"x", f"bytes 0-0/{SIZE + 5}")
        assert await upload(node, file) == (False, SIZE)


async def test_another_line_still_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own broken line, of which the node hasn't heard: it makes way after a while of silence."""
    monkeypatch.setattr(routes, "_SILENT", 0.3)
    monkeypatch.setattr(uploading, "_SLOWEST", 0.1)
    file = local_file(tmp_path)
    async with running(tmp_path) as node:
        _, writer = await node.connect()
        writer.write(node.head(file.digest, f"Content-Length: {SIZE}") + file.path.read_bytes()[:5000])
        async with asyncio.timeout(10):
            while not (node.layout.incoming / f"upload-{file.digest.hex}").exists():
                await asyncio.sleep(0.01)
        assert await upload(node, file) == (False, SIZE)
        writer.close()


async def test_what_was_left_complete(tmp_path: Path) -> None:
    file = local_file(tmp_path)
    async with running(tmp_path) as node:
        with Uploads(node.layout, Disk(), "boot").open(file.digest, SIZE, time.time()) as there:
            there.write(file.path.read_bytes())
        assert await upload(node, file) == (False, SIZE)
        assert node.layout.blob(file.digest).exists()


async def test_no_progress_for_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "_SLOWEST", 0.05)
    async with running(tmp_path, most=0) as node:
        with pytest.raises(Temporary, match="no progress"):
            await upload(node, local_file(tmp_path), patience=0.2)


# -- the catalog


class Machine:
    """A publisher's machine, blocking; told is what people were told."""

    def __init__(self, node: Publishing, home: Path, admin: AdminNode | None = None) -> None:
        self.told: list[str] = []
        self.home = home
        self._node = node
        self._admin = admin or AdminNode(place(node))

    def copy(self, root: bytes | None = None) -> CatalogCopy:
        url = f"http://127.0.0.1:{self._node.port}"
        return CatalogCopy.open(place(self._node, "read"), url, self.home, root, self.told.append)

    def desk(self, copy: CatalogCopy, keys: Path) -> RemoteDesk:
        return RemoteDesk(self._admin, copy, Signing(keys, None, {}), random.Random(7), self.told.append)

    def run(self, action: dict[str, Any], keys: Path, root: bytes | None = None) -> Any:
        with self.copy(root) as copy:
            return self.desk(copy, keys).run(action)

    def check(self, action: dict[str, Any], keys: Path) -> None:
        with self.copy() as copy:
            self.desk(copy, keys).check(action)


@pytest.fixture
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time at which the tests' catalogs are made; and nobody waits for long."""
    monkeypatch.setattr(remote_desk, "utc_now", lambda: NOW)
    monkeypatch.setattr(remote_desk, "_SLOWEST", 0.1)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def move_keys(node: Publishing, keys: Path, *roles: str) -> None:
    KeyRing.load(node.signing.keys, Disk()).move_offline(keys, roles or ["models"])


@pytest.mark.usefixtures("today")
async def test_the_first_root_is_held_to(tmp_path: Path, keys: Path) -> None:
    async with running(tmp_path) as node, running(tmp_path / "other") as other:
        move_keys(node, keys)
        machine = Machine(node, tmp_path / "home")
        action = publishing(await stored(node, tmp_path, "phi"))
        await asyncio.to_thread(machine.run, action, keys)
        assert "trusting the root" in machine.told[0]
        await asyncio.to_thread(machine.run, action, keys)
        assert len(machine.told) == 1
        shutil.rmtree(node.layout.catalog)
        shutil.copytree(other.layout.catalog, node.layout.catalog)  # as another catalog under the same URL
        with pytest.raises(NodeError) as caught:
            await asyncio.to_thread(machine.run, action, keys)
        assert isinstance(caught.value, TrustError)


@pytest.mark.usefixtures("today")
async def test_an_older_catalog_is_refused(tmp_path: Path, keys: Path) -> None:
    async with running(tmp_path) as node:
        move_keys(node, keys)
        machine = Machine(node, tmp_path / "home")
        shutil.copytree(node.layout.catalog, tmp_path / "old")
        await asyncio.to_thread(machine.run, publishing(await stored(node, tmp_path, "phi")), keys)
        with machine.copy() as copy:
            await asyncio.to_thread(copy.sync, NOW, {})
        shutil.rmtree(node.layout.catalog)
        shutil.copytree(tmp_path / "old", node.layout.catalog)
        with pytest.raises(TrustError) as caught:
            await asyncio.to_thread(machine.run, publishing(await stored(node, tmp_path, "mini")), keys)
        assert caught.value.rule is Rule.ROLLBACK


class LossyNode(AdminNode):
    """Does what is asked, and loses the answer to the first POSTs."""

    def __init__(self, node: Publishing, losses: int, *, before: bool = False) -> None:
        super().__init__(place(node))
        self.losses = losses
        self._before = before

    def exchange(self, method: str, *arguments: Any, **how: Any) -> Answered:
        if method == "POST" and self.losses:
            self.losses -= 1
            if not self._before:
                super().exchange(method, *arguments, **how)
            raise Temporary("the line broke")
        return super().exchange(method, *arguments, **how)


class GreedyNode(AdminNode):
    """Says at first that nearly all numbers are used up; `signed` are those that it is sent."""

    def __init__(self, node: Publishing) -> None:
        super().__init__(place(node))
        self.signed: list[int] = []

    def exchange(self, method: str, *arguments: Any, **how: Any) -> Answered:
        if method != "POST":
            return super().exchange(method, *arguments, **how)
        roles = json.loads(arguments[1])["roles"]
        self.signed += [json.loads(text)["signed"]["version"] for text in roles.values()]
        if len(self.signed) > len(roles):
            return super().exchange(method, *arguments, **how)
        body = json.dumps({"status": 409, "free": dict.fromkeys(roles, 10**14)}).encode()
        return Answered(409, HTTPMessage(), body)


@pytest.mark.usefixtures("today")
async def test_no_number_is_signed_after_which_there_are_none(tmp_path: Path, keys: Path) -> None:
    async with running(tmp_path) as node:
        move_keys(node, keys)
        admin = GreedyNode(node)
        machine = Machine(node, tmp_path / "home", admin)
        await asyncio.to_thread(machine.run, publishing(await stored(node, tmp_path, "phi")), keys)
        assert set(admin.signed) == {2}


@pytest.mark.usefixtures("today")
@pytest.mark.parametrize("before", [False, True])
async def test_an_answer_that_is_lost(tmp_path: Path, keys: Path, before: bool) -> None:
    async with running(tmp_path) as node:
        move_keys(node, keys)
        admin = LossyNode(node, 1, before=before)
        machine = Machine(node, tmp_path / "home", admin)
        done = await asyncio.to_thread(machine.run, publishing(await stored(node, tmp_path, "phi")), keys)
        assert admin.losses == 0
        assert done.targets["models/phi-1-f32.gguf"] == "new"
        assert done.versions["timestamp"] == 2, "it was signed once"


@pytest.mark.usefixtures("today")
@pytest.mark.parametrize("before", [False, True])
async def test_new_keys_whose_answer_is_lost(tmp_path: Path, keys: Path, before: bool) -> None:
    """The new key is kept as long as it may be in force, and the old one is forgotten once the new one is."""
    async with running(tmp_path) as node:
        move_keys(node, keys, "targets", "fleet")
        old = [key.keyid for key in KeyRing.load(keys, Disk()).listed("fleet")]
        machine = Machine(node, tmp_path / "home", LossyNode(node, 1, before=before))
        await asyncio.to_thread(machine.run, {"do": "rotate", "role": "fleet"}, keys)
        (now,) = KeyRing.load(keys, Disk()).listed("fleet")
        assert [now.keyid] != old
        assert (await node.ask("GET", "/catalog", "read"))[2]["versions"]["fleet"] == 2
        gone = Machine(node, tmp_path / "home", LossyNode(node, 1000, before=True))
        with pytest.raises(Temporary, match="given up"):
            await asyncio.to_thread(gone.run, {"do": "rotate", "role": "fleet"}, keys)
        assert len(KeyRing.load(keys, Disk()).listed("fleet")) == 2
        assert "isn't known" in gone.told[-1]


@pytest.mark.usefixtures("today")
async def test_keys_that_are_refused_are_forgotten(tmp_path: Path, keys: Path) -> None:
    async with running(tmp_path) as node:
        move_keys(node, keys, "fleet")
        before = sorted(path.name for path in keys.iterdir())
        with pytest.raises(Refused, match="can't be signed here"):
            await asyncio.to_thread(Machine(node, tmp_path / "home").run, {"do": "rotate", "role": "fleet"}, keys)
        assert sorted(path.name for path in keys.iterdir()) == before


@pytest.mark.usefixtures("today")
async def test_a_node_that_follows_is_told_before_anything_is_sent(tmp_path: Path, keys: Path) -> None:
    async with running(tmp_path) as node:
        move_keys(node, keys)
        action = publishing(await stored(node, tmp_path, "phi"))
        machine = Machine(node, tmp_path / "home")
        await asyncio.to_thread(machine.check, action, keys)
        node.follows = True
        with pytest.raises(Refused, match="doesn't sign"):
            await asyncio.to_thread(machine.check, action, keys)


@pytest.mark.usefixtures("today")
async def test_many_at_once(tmp_path: Path, keys: Path) -> None:
    """Four machines that edit the same document at the same instant: all come through."""
    async with running(tmp_path) as node:
        move_keys(node, keys)
        entries = [await stored(node, tmp_path, f"racer-{number}") for number in range(4)]
        start = threading.Barrier(len(entries))

        def race(number: int) -> Any:
            machine = Machine(node, tmp_path / f"home-{number}")
            start.wait()
            return machine.run(publishing(entries[number]), keys)

        done = await asyncio.gather(*(asyncio.to_thread(race, number) for number in range(len(entries))))
        assert [len(one.entries) for one in done] == [1] * len(entries)
        state = (await node.ask("GET", "/catalog", "read"))[2]
        assert state["versions"]["timestamp"] == 1 + len(entries)
