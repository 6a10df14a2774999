"""New keys for every role, with clients that started from the first root following; signing again at half life."""

from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root
from tuf.ngclient import Updater

from aibrother_node.catalog.keys import KeyRing
from aibrother_node.catalog.repository import Repository
from aibrother_node.catalog.roles import KEYED_ROLES
from aibrother_node.errors import InvalidInput, Refused
from aibrother_node.store.disk import Disk
from catalog.signing import DAY, NOW, Client, Edit, first_content, make, served


@pytest.mark.parametrize("role", KEYED_ROLES)
def test_clients_follow_a_rotation_of_each_role(tmp_path: Path, role: str) -> None:
    repo, ring = make(tmp_path)
    with served(tmp_path / "catalog") as url:
        old = Client(tmp_path / "old", url, repo.root_bytes(1))
        old.sees(first_content())
        before = {key.keyid for key in ring.listed(role)}
        repo.rotate(role, ring, NOW)
        after = {key.keyid for key in ring.listed(role)}
        assert len(after) == len(before)
        assert not after & before
        old.sees(first_content())
        Client(tmp_path / "new", url, repo.root_bytes()).sees(first_content())
        reopened = Repository.open(tmp_path / "catalog", Disk())
        reopened.commit(first_content("second"), KeyRing.load(tmp_path / "keys", Disk()), NOW)
        old.sees(first_content("second"))
        Client(tmp_path / "newest", url, repo.root_bytes(1)).sees(first_content("second"))
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == sorted(
        ["keys.json", *(key.uri.removeprefix("file:") for key in ring.listed())]
    )


def test_what_a_rotation_signs(tmp_path: Path) -> None:
    repo, ring = make(tmp_path)
    assert set(repo.rotate("root", ring, NOW)) == {"root"}
    assert set(repo.rotate("timestamp", ring, NOW)) == {"root", "timestamp"}
    assert set(repo.rotate("snapshot", ring, NOW)) == {"root", "snapshot", "timestamp"}
    assert set(repo.rotate("targets", ring, NOW)) == {"root", "targets", "snapshot", "timestamp"}
    assert set(repo.rotate("staging", ring, NOW)) == {"targets", "staging", "snapshot", "timestamp"}
    assert len(repo.rotate("models", ring, NOW)) == 20
    assert repo.versions["root"] == 5


def test_from_root_1_to_root_20(tmp_path: Path) -> None:
    repo, ring = make(tmp_path)
    with served(tmp_path / "catalog") as url:
        follower = Client(tmp_path / "follower", url, repo.root_bytes(1))
        for number in range(2, 21):
            role = KEYED_ROLES[number % 4]
            assert repo.rotate(role, ring, NOW)["root"] == number
            if number % 5 == 0:
                follower.sees(first_content())
                repo.rotate(KEYED_ROLES[4 + number % 3], ring, NOW)
        sleeper = Client(tmp_path / "sleeper", url, repo.root_bytes(1))
        for client in (follower, sleeper):
            client.sees(first_content())
        assert len(list((tmp_path / "sleeper" / "metadata" / "root_history").iterdir())) == 20
    assert Repository.open(tmp_path / "catalog", Disk()).versions["root"] == 20


def _with_root_only(client: Client) -> Updater:
    """A client that has read root, and goes on later."""
    updater = Updater(
        str(client.state / "metadata"),
        f"{client.url}/metadata/",
        str(client.state / "targets"),
        f"{client.url}/targets/",
        bootstrap=client.root,
    )
    updater._load_root()
    return updater


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_a_client_between_root_and_timestamp_goes_on(tmp_path: Path, role: str) -> None:
    repo, ring = make(tmp_path)
    with served(tmp_path / "catalog") as url:
        updater = _with_root_only(Client(tmp_path / "client", url, repo.root_bytes(1)))
        repo.rotate(role, ring, NOW)
        updater._load_timestamp()
        updater._load_snapshot()
        assert updater._load_targets("targets", "root").version == repo.versions["targets"]


def test_a_rotation_needs_the_keys_that_name_the_role(tmp_path: Path) -> None:
    repo, ring = make(tmp_path)
    ring.move_offline(tmp_path / "usb", ["root", "targets"])
    files = sorted(tmp_path.rglob("*"))
    for role in ("root", "timestamp"):
        with pytest.raises(Refused, match=r"root can't be signed here, with 0 of 1 keys: the root key .*usb"):
            repo.rotate(role, ring, NOW)
    with pytest.raises(Refused, match=r"targets can't be signed here"):
        repo.rotate("models", ring, NOW)
    assert sorted(tmp_path.rglob("*")) == files, "what was made for it is gone again"
    with_medium = KeyRing.load(tmp_path / "keys", Disk(), beside=[tmp_path / "usb"])
    repo.rotate("models", with_medium, NOW)
    with pytest.raises(InvalidInput, match="'bins'"):
        repo.rotate("bins", ring, NOW)


def test_a_lost_key_is_replaced(tmp_path: Path) -> None:
    repo, ring = make(tmp_path)
    for role in ("timestamp", "snapshot", "targets"):
        ring.remove(role, [ring.listed(role)[0].keyid])
        with pytest.raises(Refused, match=f"{role} can't be signed here"):
            repo.rotate(role, ring, NOW)
        repo.rotate(role, ring, NOW, lost=True)
    with served(tmp_path / "catalog") as url:
        Client(tmp_path / "client", url, repo.root_bytes(1)).sees(first_content())


def test_thresholds_change_with_the_keys(tmp_path: Path) -> None:
    repo, ring = make(tmp_path)
    new = [ring.create_key("root") for _ in range(3)]
    with pytest.raises(InvalidInput, match="4 keys must sign root, and it would have 3"):
        repo.rotate("root", ring, NOW, keys=new, threshold=4)
    repo.rotate("root", ring, NOW, keys=new, threshold=2)
    assert [key.keyid for key in ring.listed("root")] == [key.keyid for key in new]
    ring.remove("root", [new[0].keyid])
    repo.rotate("timestamp", ring, NOW)
    ring.remove("root", [new[1].keyid])
    with pytest.raises(Refused, match="1 of 2 keys"):
        repo.rotate("timestamp", ring, NOW)
    with served(tmp_path / "catalog") as url:
        Client(tmp_path / "client", url, repo.root_bytes(1)).sees(first_content())


def test_what_a_rotated_key_signs_counts_no_more(tmp_path: Path) -> None:
    repo, ring = make(tmp_path)
    (stolen,) = ring.signers([key.keyid for key in ring.listed("timestamp")])
    repo.rotate("timestamp", ring, NOW)
    path = tmp_path / "catalog" / "metadata" / "timestamp.json"
    forged = Metadata.from_bytes(path.read_bytes())
    forged.signed.version = 1000
    forged.sign(stolen)
    path.write_bytes(forged.to_bytes())
    with served(tmp_path / "catalog") as url:
        with pytest.raises(RepositoryError, match="timestamp was signed by 0/1 keys"):
            Client(tmp_path / "client", url, repo.root_bytes(1)).updater()


def test_clients_recover_from_a_fast_forward_by_rotation(tmp_path: Path) -> None:
    repo, ring = make(tmp_path)
    path = tmp_path / "catalog" / "metadata" / "timestamp.json"
    right = path.read_bytes()
    (stolen,) = ring.signers([key.keyid for key in ring.listed("timestamp")])
    forged = Metadata.from_bytes(right)
    forged.signed.version = 1_000_000
    forged.sign(stolen)
    with served(tmp_path / "catalog") as url:
        client = Client(tmp_path / "client", url, repo.root_bytes(1))
        path.write_bytes(forged.to_bytes())
        client.updater()
        path.write_bytes(right)
        with pytest.raises(RepositoryError, match="1000000"):
            client.updater()
        repo.rotate("timestamp", ring, NOW)
        client.sees(first_content())


def test_refresh_signs_again_at_half_life_and_only_then(tmp_path: Path) -> None:
    repo, ring = make(tmp_path)
    assert repo.refresh(ring, NOW + 3 * DAY).versions == {}
    assert repo.refresh(ring, NOW + 4 * DAY).versions == {"timestamp": 2}
    assert repo.refresh(ring, NOW + 4 * DAY).versions == {}
    assert repo.refresh(ring, NOW + 7 * DAY + timedelta(seconds=1)).versions == {"snapshot": 2, "timestamp": 3}
    later = repo.refresh(ring, NOW + 91 * DAY)
    assert set(later.versions) == set(repo.versions) - {"root"}
    assert later.left == {}
    assert repo.refresh(ring, NOW + 183 * DAY).versions["root"] == 2
    assert min(repo.expiry().values()) == NOW + (183 + 7) * DAY


def test_refresh_names_what_it_has_no_keys_for(tmp_path: Path) -> None:
    repo, ring = make(tmp_path)
    ring.move_offline(tmp_path / "usb", ["root", "targets", "models"])
    done = repo.refresh(ring, NOW + 200 * DAY)
    assert set(done.versions) == {"staging", "fleet", "snapshot", "timestamp"}
    assert set(done.left) == {"root", "targets", "models", *(f"models-{n:x}" for n in range(16))}
    assert done.left["root"] == NOW + 365 * DAY
    ring.move_offline(tmp_path / "usb", ["timestamp"])
    beside = KeyRing.load(tmp_path / "keys", Disk())
    assert repo.refresh(beside, NOW + 500 * DAY).versions == {}


def test_debris_goes_after_the_grace_and_readers_keep_what_they_need(tmp_path: Path) -> None:
    repo, ring = make(tmp_path)
    with served(tmp_path / "catalog") as url:
        client = Client(tmp_path / "client", url, repo.root_bytes(1))
        reader = client.updater()  # has read timestamp, snapshot and targets of the first content
        for number in range(4):
            repo.commit(first_content(f"number {number}"), ring, NOW)
        assert repo.collect_debris(NOW + timedelta(minutes=30), timedelta(hours=1)) == []
        info = reader.get_targetinfo("models/catalog.json")
        assert info is not None
        assert Path(reader.download_target(info)).read_bytes() == b"catalog first"
        gone = repo.collect_debris(NOW + timedelta(hours=2), timedelta(hours=1))
        assert repo.collect_debris(NOW + timedelta(hours=2), timedelta(hours=1)) == []
        client.sees(first_content("number 3"))
        Client(tmp_path / "new", url, repo.root_bytes(1)).sees(first_content("number 3"))
    folder = tmp_path / "catalog"
    assert len({path for path in gone if path.is_relative_to(folder / "targets")}) == 4 * 6
    assert {path.name for path in (folder / "metadata").iterdir()} == {
        "timestamp.json",
        *(f"{version}.{role}.json" for role, version in repo.versions.items() if role != "timestamp"),
    }


def test_debris_with_numbers_that_are_used_up_stays(tmp_path: Path) -> None:
    repo, ring = make(tmp_path)
    repo.rotate("root", ring, NOW)
    metadata = tmp_path / "catalog" / "metadata"
    (metadata / "9.fleet.json").write_bytes(b"debris")
    repo.collect_debris(NOW + 100 * DAY, DAY)
    assert (metadata / "9.fleet.json").exists()
    assert (metadata / "1.root.json").exists(), "roots are kept for ever"
    assert repo.commit(Edit().document("fleet.json", b"x"), ring, NOW)["fleet"] == 10
    assert (metadata / "9.fleet.json") in repo.collect_debris(NOW + 100 * DAY, DAY)


def test_roots_are_signed_by_old_and_new_keys(tmp_path: Path) -> None:
    repo, ring = make(tmp_path)
    repo.rotate("root", ring, NOW)
    first = Metadata[Root].from_bytes(repo.root_bytes(1))
    second = Metadata[Root].from_bytes(repo.root_bytes(2))
    for root in (first, second):
        root.signed.verify_delegate("root", second.signed_bytes, second.signatures)
