"""Whatever interrupts the signer, and wherever: clients see the old catalog or the new one, whole, and it goes on."""

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.ngclient import FetcherInterface, Updater

from aibrother_node.catalog.keys import KeyRing
from aibrother_node.catalog.repository import Repository
from aibrother_node.errors import DiskFull, NodeError, NotFound, Refused
from aibrother_node.store.disk import Disk, DiskFile
from catalog.signing import DAY, NOW, Client, Edit, first_content, make, served
from counts import rounds
from store.power_loss import RecordingDisk, lay_out, snapshot, states

EVERY = rounds(5, 1)
"""Of calls to die at, `make soak` tries each, `make test` every fifth."""

OLD, NEW = first_content("old"), first_content("new")


class Killed(BaseException):
    """The process ends here: no handler of the program's sees it."""


class FatalDisk(Disk):
    """A disk at whose n-th call the process dies; a write gets half way."""

    def __init__(self, calls: int, error: Callable[[], BaseException] = Killed) -> None:
        self.left = calls
        self.error = error

    def count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise self.error()

    def create(self, path: Path, mode: int = 0o600) -> DiskFile:
        self.count()
        return _FatalFile(path, super().create(path, mode).fd, self)

    def make_folder(self, path: Path, mode: int = 0o755) -> None:
        self.count()
        super().make_folder(path, mode)

    def rename(self, source: Path, target: Path) -> None:
        self.count()
        super().rename(source, target)

    def sync_folder(self, path: Path) -> None:
        self.count()
        super().sync_folder(path)

    def unlink(self, path: Path) -> None:
        self.count()
        super().unlink(path)


class _FatalFile(DiskFile):
    def __init__(self, path: Path, fd: int, disk: FatalDisk) -> None:
        super().__init__(path, fd)
        self._disk = disk

    def write_at(self, data: bytes | memoryview, offset: int) -> None:
        try:
            self._disk.count()
        except BaseException:
            super().write_at(data[: len(data) // 2], offset)
            raise
        super().write_at(data, offset)

    def fsync(self) -> None:
        self._disk.count()
        super().fsync()


Step = Callable[[Repository, KeyRing], object]


def _commit(repo: Repository, ring: KeyRing) -> object:
    return repo.commit(NEW, ring, NOW)


def _accept(repo: Repository, ring: KeyRing) -> object:
    draft = repo.draft(NEW, ring, NOW)
    return repo.accept(draft.roles, draft.base, ring, NOW, documents=draft.documents)


def _rotate(role: str) -> Step:
    return lambda repo, ring: repo.rotate(role, ring, NOW)


def _refresh(repo: Repository, ring: KeyRing) -> object:
    return repo.refresh(ring, NOW + 200 * DAY)


def _collect(repo: Repository, ring: KeyRing) -> object:
    return repo.collect_debris(NOW + 100 * DAY, DAY)


STEPS: dict[str, Step] = {
    "commit": _commit,
    "accept": _accept,
    "refresh": _refresh,
    "collect": _collect,
    **{f"rotate {role}": _rotate(role) for role in ("root", "timestamp", "snapshot", "targets", "models", "fleet")},
}


def _sees_old_or_new(client: Client, after: Edit | None = None, new: Edit = NEW) -> bool:
    """Make sure that a client sees a whole catalog, `after` if that is given; tells whether it is the new one."""
    updater = client.updater()
    seen = {}
    for path in OLD.targets:
        info = updater.get_targetinfo(path)
        assert info is not None
        seen[path] = info.hashes["sha256"]
        if path in OLD.documents:
            updater.download_target(info)
    for edit in [after] if after else [OLD, new]:
        if seen == {path: target.sha256.hex for path, target in edit.targets.items() if target}:
            return edit is new
    raise AssertionError(f"neither the old catalog nor the new one: {seen}")


def _begin(folder: Path) -> bytes:
    """A catalog with a few commits behind it, and a client that knows it. Gives the first root."""
    repo, ring = make(folder, content=first_content("older"))
    repo.commit(OLD, ring, NOW)
    return repo.root_bytes(1)


@pytest.mark.parametrize("name", STEPS)
def test_killed_at_each_call(tmp_path: Path, name: str) -> None:
    root = _begin(tmp_path / "base")
    with served(tmp_path) as url:
        follower = Client(tmp_path / "follower", f"{url}/base/catalog", root)
        _sees_old_or_new(follower, OLD)
        changed = set()
        for calls in itertools.count(step=EVERY):
            folder = tmp_path / str(calls)
            shutil.copytree(tmp_path / "base", folder)
            shutil.copytree(tmp_path / "follower", folder / "follower", symlinks=True)
            ended = _killed(folder, STEPS[name], calls)
            stock = Client(folder / "stock", f"{url}/{calls}/catalog", root)
            changed.add(_sees_old_or_new(stock))
            follower.state, follower.url = folder / "follower", f"{url}/{calls}/catalog"
            _sees_old_or_new(follower)
            repo = Repository.open(folder / "catalog", Disk())
            repo.commit(NEW, KeyRing.load(folder / "keys", Disk()), NOW)
            repo.rotate("timestamp", KeyRing.load(folder / "keys", Disk()), NOW)
            for client in (stock, follower):
                _sees_old_or_new(client, NEW)
            shutil.rmtree(folder)
            if ended:
                break
        assert calls > 5
        assert changed == ({False, True} if name in {"commit", "accept"} else {False})


def _killed(folder: Path, step: Step, calls: int) -> bool:
    """Carry out a step until the process dies at a call; tells whether it came to its end."""
    disk = FatalDisk(calls)
    repo, ring = Repository.open(folder / "catalog", disk), KeyRing.load(folder / "keys", disk)
    try:
        step(repo, ring)
    except Killed:
        return False
    return True


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_killed_while_a_lost_key_is_replaced(tmp_path: Path, role: str) -> None:
    """Here clients may fail for the moment between root and timestamp; the signer mends it as soon as it is back."""
    root = _begin(tmp_path / "base")
    ring = KeyRing.load(tmp_path / "base" / "keys", Disk())
    ring.remove(role, [ring.listed(role)[0].keyid])
    with served(tmp_path) as url:
        for calls in itertools.count(step=EVERY):
            folder = tmp_path / str(calls)
            shutil.copytree(tmp_path / "base", folder)
            ended = _killed(folder, lambda repo, ring: repo.rotate(role, ring, NOW, lost=True), calls)
            repo, ring = Repository.open(folder / "catalog", Disk()), KeyRing.load(folder / "keys", Disk())
            if repo.versions["root"] == 1:
                repo.rotate(role, ring, NOW, lost=True)
            else:
                repo.refresh(ring, NOW)
            repo.commit(NEW, ring, NOW)
            _sees_old_or_new(Client(folder / "stock", f"{url}/{calls}/catalog", root), NEW)
            shutil.rmtree(folder)
            if ended:
                break


def test_a_new_catalog_killed_at_each_call_is_finished_by_the_next_run(tmp_path: Path) -> None:
    ring = KeyRing.generate(tmp_path / "keys", Disk())
    with served(tmp_path) as url:
        for calls in itertools.count(step=EVERY):
            catalog = tmp_path / str(calls)
            try:
                Repository.create(catalog, ring, {}, NOW, FatalDisk(calls), content=OLD)
            except Killed:
                ended = False
            else:
                ended = True
            try:
                repo = Repository.create(catalog, ring, {}, NOW, Disk(), content=OLD)
            except Refused:
                repo = Repository.open(catalog, Disk())
            _sees_old_or_new(Client(tmp_path / f"client-{calls}", f"{url}/{calls}", repo.root_bytes(1)), OLD)
            if ended:
                break


def test_new_keys_killed_at_each_call_are_all_there_or_none(tmp_path: Path) -> None:
    for calls in itertools.count(step=EVERY):
        folder = tmp_path / str(calls)
        try:
            KeyRing.generate(folder, FatalDisk(calls))
        except Killed:
            pass
        else:
            break
        try:
            found = KeyRing.load(folder, Disk())
        except NotFound:
            found = KeyRing.generate(folder, Disk())
        assert len(found.signers([key.keyid for key in found.listed()])) == 7


def test_a_move_killed_at_each_call_loses_no_key(tmp_path: Path) -> None:
    KeyRing.generate(tmp_path / "base", Disk())
    for calls in itertools.count(step=EVERY):
        folder = tmp_path / str(calls)
        folder.mkdir()
        shutil.copytree(tmp_path / "base", folder / "keys")
        try:
            KeyRing.load(folder / "keys", FatalDisk(calls)).move_offline(folder / "usb", ["root", "targets"])
        except Killed:
            ended = False
        else:
            ended = True
        found = KeyRing.load(folder / "keys", Disk(), beside=[folder / "usb"])
        assert len(found.signers([key.keyid for key in found.listed()])) == 7
        found.move_offline(folder / "usb", ["root", "targets"])
        assert len(KeyRing.load(folder / "usb", Disk()).signers([key.keyid for key in found.listed()])) == 2
        if ended:
            break


@pytest.mark.parametrize("name", ["commit", "rotate timestamp", "rotate models"])
def test_a_full_disk_changes_nothing_and_the_same_repository_goes_on(tmp_path: Path, name: str) -> None:
    root = _begin(tmp_path / "base")
    with served(tmp_path) as url:
        for calls in range(0, 200, 3):
            folder = tmp_path / str(calls)
            shutil.copytree(tmp_path / "base", folder)
            disk = FatalDisk(calls, lambda: DiskFull("no space left"))
            repo, ring = Repository.open(folder / "catalog", disk), KeyRing.load(folder / "keys", disk)
            try:
                STEPS[name](repo, ring)
            except DiskFull:
                ended = False
            else:
                ended = True
            client = Client(folder / "client", f"{url}/{calls}/catalog", root)
            _sees_old_or_new(client)
            disk.left = 1_000_000
            repo.commit(NEW, ring, NOW)
            _sees_old_or_new(client, NEW)
            shutil.rmtree(folder)
            if ended:
                break
        assert ended


class _FolderFetcher(FetcherInterface):
    """Fetches from a folder, to look at thousands of states."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = Path(url.removeprefix("file://"))
        if not path.is_file():
            raise DownloadHTTPError(f"no {path}", 404)
        yield path.read_bytes()


class _FolderClient(Client):
    def updater(self) -> Updater:
        updater = Updater(
            str(self.state / "metadata"),
            f"file://{self.url}/metadata/",
            str(self.state / "targets"),
            f"file://{self.url}/targets/",
            fetcher=_FolderFetcher(),
            bootstrap=self.root,
        )
        updater.refresh()
        return updater


class _Keeping(KeyRing):
    """Keeps the keys that a rotation replaces, for states in which they are still in force."""

    def remove(self, role: str, keyids: Iterable[str]) -> None:
        pass


def _replay(
    tmp_path: Path, step: Step, kind: type[RecordingDisk] = RecordingDisk, *, new: Edit = NEW, every: int = 1
) -> int:
    """Carry out a step, then look at every n-th state that a power loss may leave. Returns how many there are."""
    root = _begin(tmp_path)
    catalog = tmp_path / "catalog"
    base = snapshot(catalog)
    disk = kind(catalog)
    ring = _Keeping.load(tmp_path / "keys", Disk())
    step(Repository.open(catalog, disk), ring)
    number = 0
    for number, (done, state) in enumerate(states(disk.calls, base)):
        if number % every and done < len(disk.calls):
            continue
        after = tmp_path / "after"
        lay_out(state, after)
        is_new = _sees_old_or_new(_FolderClient(tmp_path / "client", str(after), root), new=new)
        if done == len(disk.calls) and step is _commit:
            assert is_new, "the commit had ended, and is gone"
        Repository.open(after, Disk()).commit(NEW, ring, NOW)
        _sees_old_or_new(_FolderClient(tmp_path / "next", str(after), root), NEW)
        for path in (after, tmp_path / "client", tmp_path / "next"):
            shutil.rmtree(path)
    return number + 1


@pytest.mark.parametrize("name", ["commit", "rotate timestamp", "rotate root"])
def test_every_power_loss(tmp_path: Path, name: str) -> None:
    count = _replay(tmp_path, STEPS[name], every=rounds(10, 1))
    print(f"{count} states")
    assert count > (500 if name == "commit" else 5), "the recording disk saw too little for this to mean anything"


class _NoFsync(RecordingDisk):
    """A disk that forgets: to show that the replay finds a signer that doesn't wait for the disk."""

    def create(self, path: Path, mode: int = 0o600) -> DiskFile:
        file = super().create(path, mode)
        file.fsync = lambda: None  # type: ignore[method-assign] # the fault that this disk is for
        return file


class _NoFolderSync(RecordingDisk):
    def sync_folder(self, path: Path) -> None:
        Disk.sync_folder(self, path)


@pytest.mark.parametrize("kind", [_NoFsync, _NoFolderSync])
def test_the_replay_finds_a_signer_that_does_not_sync(tmp_path: Path, kind: type[RecordingDisk]) -> None:
    small = first_content("old").document("fleet.json", b"fleet new")
    with pytest.raises((AssertionError, NodeError, RepositoryError, DownloadError)):
        _replay(tmp_path, lambda repo, ring: repo.commit(small, ring, NOW), kind, new=small)
