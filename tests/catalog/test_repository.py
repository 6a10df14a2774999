"""The signer's side: what it writes, stock clients read; what it commits is old or new, and no more than needed."""

import json
from pathlib import Path

import pytest

from aibrother_node.catalog.keys import KeyRing
from aibrother_node.catalog.repository import Repository
from aibrother_node.errors import InvalidInput, NotFound, Refused, VerificationFailed
from aibrother_node.store.disk import Disk
from catalog.signing import DAY, NOW, Client, Edit, Target, first_content, make, served

BINS = [f"models-{number:x}" for number in range(16)]


def test_a_stock_client_finds_and_downloads_everything(tmp_path: Path) -> None:
    repo, _ = make(tmp_path)
    with served(tmp_path / "catalog") as url:
        client = Client(tmp_path / "client", url, repo.root_bytes(1))
        client.sees(first_content())
        assert client.get("models/catalog.json") == b"catalog first"
        assert client.get("models/nothing.gguf") is None


def test_a_new_catalog_has_all_roles(tmp_path: Path) -> None:
    repo, _ = make(tmp_path)
    roles = ["root", "timestamp", "snapshot", "targets", "models", "staging", "fleet", *BINS]
    assert repo.versions == dict.fromkeys(roles, 1)
    life = {role: (expires - NOW) / DAY for role, expires in repo.expiry().items()}
    assert life == {"root": 365, "timestamp": 7, "snapshot": 14, **dict.fromkeys(roles[3:], 180)}
    assert sorted(path.name for path in (tmp_path / "catalog").iterdir()) == ["aside", "metadata", "targets"]
    assert list((tmp_path / "catalog" / "aside").iterdir()) == []


def test_a_commit_touches_only_the_roles_it_needs(tmp_path: Path) -> None:
    repo, ring = make(tmp_path)
    with served(tmp_path / "catalog") as url:
        client = Client(tmp_path / "client", url, repo.root_bytes(1))
        client.sees(first_content())
        edit = Edit().document("models/catalog.json", b"second").part("models/new.gguf", b"new")
        versions = repo.commit(edit, ring, NOW)
        client.sees(edit)
        assert client.get("fleet.json") == b"fleet first"
    changed = set(versions) - {"timestamp", "snapshot"}
    assert changed <= set(BINS)
    assert 1 <= len(changed) <= 2
    assert set(versions.values()) == {2}
    assert repo.versions == Repository.open(tmp_path / "catalog", Disk()).versions


def test_the_same_again_writes_nothing(tmp_path: Path) -> None:
    repo, ring = make(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert repo.commit(first_content(), ring, NOW) == {}
    assert repo.commit(Edit(), ring, NOW) == {}
    assert repo.commit(Edit().document("models/never-was.json", None), ring, NOW) == {}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_is_taken_away_is_gone(tmp_path: Path) -> None:
    repo, ring = make(tmp_path)
    repo.commit(Edit({"fleet.json": None}, {"fleet.json": None, "models/phi-q4_k_m.gguf": None}), ring, NOW)
    assert repo.document("fleet.json") is None
    assert repo.target("models/phi-q4_k_m.gguf") is None
    with served(tmp_path / "catalog") as url:
        Client(tmp_path / "client", url, repo.root_bytes()).sees(
            Edit(targets={"fleet.json": None, "models/phi-q4_k_m.gguf": None})
        )


def test_target_and_document(tmp_path: Path) -> None:
    make(tmp_path)
    repo = Repository.open(tmp_path / "catalog", Disk())
    assert repo.document("models/catalog.json") == b"catalog first"
    part = repo.target("models/phi-q4_k_m.gguf")
    assert part is not None
    assert part.custom["variant"] == "q4_k_m"
    assert repo.document("models/phi-q4_k_m.gguf") is None, "a part is no document"
    for path in ("models/other", "nowhere/x", "../keys/keys.json", "models/a/b", "models/\0", "", "/fleet.json"):
        assert repo.target(path) is None
        assert repo.document(path) is None


def test_a_document_that_was_touched_is_not_given_out(tmp_path: Path) -> None:
    repo, _ = make(tmp_path)
    (file,) = (tmp_path / "catalog" / "targets").glob("*.fleet.json")
    for content in (b"fleet other", b"fleet first and more"):
        file.write_bytes(content)
        with pytest.raises(VerificationFailed, match=r"fleet\.json"):
            repo.document("fleet.json")
    file.unlink()
    with pytest.raises(VerificationFailed, match=r"fleet\.json"):
        repo.document("fleet.json")


@pytest.mark.parametrize(
    "path",
    ["models/../fleet.json", "models//x", "models/a/b", "Models/x", "models/x\0", "models/", "other.json", "x/y", "/x"],
)
def test_paths_that_nobody_signs_are_refused(tmp_path: Path, path: str) -> None:
    repo, ring = make(tmp_path)
    with pytest.raises(InvalidInput):
        repo.commit(Edit().document(path, b"x"), ring, NOW)
    assert set(repo.versions.values()) == {1}


def test_documents_fit_their_targets(tmp_path: Path) -> None:
    repo, ring = make(tmp_path)
    for edit in (
        Edit({"fleet.json": b"x"}, {}),
        Edit({"fleet.json": b"x"}, {"fleet.json": Target.of(b"y")}),
        Edit({"fleet.json": b"x"}, {"fleet.json": None}),
        Edit({"fleet.json": None}, {"fleet.json": Target.of(b"y")}),
        Edit({"fleet.json": None}, {}),
    ):
        with pytest.raises(InvalidInput, match=r"fleet\.json"):
            repo.commit(edit, ring, NOW)


def test_a_role_without_its_key_is_not_signed_and_nothing_is_written(tmp_path: Path) -> None:
    repo, ring = make(tmp_path)
    ring.move_offline(tmp_path / "usb", ["models"])
    before = sorted(tmp_path.joinpath("catalog").rglob("*"))
    with pytest.raises(Refused, match=r"models-.* can't be signed here.*was moved to .*usb"):
        repo.commit(Edit().document("models/catalog.json", b"x"), ring, NOW)
    assert sorted(tmp_path.joinpath("catalog").rglob("*")) == before
    repo.commit(Edit().document("fleet.json", b"x"), ring, NOW)  # another role's edit goes on
    beside = KeyRing.load(tmp_path / "keys", Disk(), beside=[tmp_path / "usb"])
    repo.commit(Edit().document("models/catalog.json", b"x"), beside, NOW)
    assert repo.document("models/catalog.json") == b"x"


def test_thresholds(tmp_path: Path) -> None:
    repo, ring = make(tmp_path, counts={"root": 3, "fleet": 2}, thresholds={"root": 2, "fleet": 2})
    repo.commit(Edit().document("fleet.json", b"both"), ring, NOW)
    ring.remove("fleet", [ring.listed("fleet")[0].keyid])
    with pytest.raises(Refused, match="1 of 2 keys"):
        repo.commit(Edit().document("fleet.json", b"one"), ring, NOW)
    with served(tmp_path / "catalog") as url:
        assert Client(tmp_path / "client", url, repo.root_bytes(1)).get("fleet.json") == b"both"


def test_numbers_of_debris_are_skipped_and_debris_is_kept(tmp_path: Path) -> None:
    repo, ring = make(tmp_path)
    metadata = tmp_path / "catalog" / "metadata"
    for name in ("5.fleet.json", "3.snapshot.json"):
        (metadata / name).write_bytes(b"debris")
    versions = repo.commit(Edit().document("fleet.json", b"x"), ring, NOW)
    assert versions == {"fleet": 6, "snapshot": 4, "timestamp": 4}
    assert (metadata / "5.fleet.json").read_bytes() == b"debris"
    with served(tmp_path / "catalog") as url:
        assert Client(tmp_path / "client", url, repo.root_bytes(1)).get("fleet.json") == b"x"


def test_create_refuses_what_is_there_and_finishes_what_was_begun(tmp_path: Path) -> None:
    repo, ring = make(tmp_path)
    with pytest.raises(Refused, match="holds a catalog already"):
        Repository.create(tmp_path / "catalog", ring, {}, NOW, Disk())
    (tmp_path / "catalog" / "metadata" / "timestamp.json").unlink()
    root = repo.root_bytes(1)
    again = Repository.create(tmp_path / "catalog", ring, {}, NOW + DAY, Disk(), content=first_content("again"))
    assert again.root_bytes(1) == root
    with served(tmp_path / "catalog") as url:
        Client(tmp_path / "client", url, root).sees(first_content("again"))
    (tmp_path / "catalog" / "metadata" / "timestamp.json").unlink()
    other = KeyRing.generate(tmp_path / "other", Disk())
    with pytest.raises(Refused, match="other keys"):
        Repository.create(tmp_path / "catalog", other, {}, NOW, Disk())


def test_open_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no catalog"):
        Repository.open(tmp_path / "catalog", Disk())
    make(tmp_path)
    metadata = tmp_path / "catalog" / "metadata"
    for name, pattern in (
        ("1.root.json", "root"),
        ("timestamp.json", "timestamp"),
        ("1.snapshot.json", "snapshot"),
        ("1.targets.json", "targets"),
    ):
        right = (metadata / name).read_bytes()
        found = json.loads(right)
        found["signed"]["expires"] = "2040-01-01T00:00:00Z"
        for wrong in (b"", b"[" * 10_000, right[:-10], json.dumps(found).encode()):
            (metadata / name).write_bytes(wrong)
            with pytest.raises(VerificationFailed, match=pattern):
                Repository.open(tmp_path / "catalog", Disk())
        (metadata / name).write_bytes(b" " * 6_000_000)
        with pytest.raises(InvalidInput, match="larger than"):
            Repository.open(tmp_path / "catalog", Disk())
        (metadata / name).write_bytes(right)
    Repository.open(tmp_path / "catalog", Disk())


def test_an_expired_catalog_is_opened_to_be_signed_anew(tmp_path: Path) -> None:
    disk = Disk()
    ring = KeyRing.generate(tmp_path / "keys", disk)
    Repository.create(tmp_path / "catalog", ring, {}, NOW - 400 * DAY, disk)
    assert Repository.open(tmp_path / "catalog", disk).expiry()["root"] == NOW - 35 * DAY


def test_a_role_too_large_for_clients_is_refused(tmp_path: Path) -> None:
    repo, ring = make(tmp_path)
    many = Edit(targets={f"staging/{number}-{'x' * 200}.gguf": Target.of(b"x") for number in range(16_000)})
    with pytest.raises(Refused, match=r"staging would have \d+ bytes, and clients take at most 5000000"):
        repo.commit(many, ring, NOW)
    assert repo.commit(Edit().document("fleet.json", b"x"), ring, NOW)["fleet"] == 2
