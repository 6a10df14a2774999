"""The drills of docs/key-compromise.md: a thief does what he can with each key, the publisher what is told there.

Afterwards a client that met the thief and one that never did believe the same, right catalog. The thief works on a copy
of the public files, with the keys that he has, which is also how he would run a mirror of his own.
"""

from __future__ import annotations

import hashlib
import shutil
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tuf.api.metadata import Metadata, Root

from aibrother_node.catalog.entries import FleetDocument, FleetNode, decode_fleet, encode
from aibrother_node.catalog.keys import KeyRing
from aibrother_node.catalog.repository import Repository
from aibrother_node.catalog.trust import Rule, TrustedCatalog, TrustError
from aibrother_node.errors import NotFound, Refused
from aibrother_node.store.disk import Disk
from catalog.signing import NOW, Edit, first_content, make

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aibrother_node.catalog.trust import Fetch

FAR = 2_000_000_000
ONLINE = ("snapshot", "timestamp")
RIGHT = first_content()
PHI = "models/phi-q4_k_m.gguf"
SHA256 = RIGHT.targets[PHI].sha256  # type: ignore[union-attr]  # it is there


def source(folder: Path) -> Fetch:
    """A mirror of a catalog's folder."""

    def fetch(path: str, max_length: int) -> bytes:
        try:
            return (folder / path).read_bytes()[: max_length + 1]
        except FileNotFoundError:
            raise NotFound(path) from None

    return fetch


class Drill:
    """A publisher, a thief with some of the keys, and two clients of which one meets the thief."""

    def __init__(self, folder: Path, stolen: tuple[str, ...], **options: Any) -> None:
        self.folder = folder
        self.repo, self.ring = make(folder, **options)
        self.first_root = self.repo.root_bytes(1)
        self.honest = source(folder / "catalog")
        self.clients = [self.client(name) for name in ("met-the-thief", "never-met-him")]
        for client in self.clients:
            client.refresh(self.honest, NOW, everything=True)
        shutil.copytree(folder / "catalog", folder / "thief" / "catalog")
        shutil.copytree(folder / "keys", folder / "thief" / "keys")
        self.thief = KeyRing.load(folder / "thief" / "keys", Disk())
        for role in {key.role for key in self.thief.listed()} - set(stolen):
            self.thief.remove(role, [key.keyid for key in self.thief.listed(role)])
        self.forged = source(folder / "thief" / "catalog")

    def client(self, name: str) -> TrustedCatalog:
        return TrustedCatalog.open(self.folder / name, self.first_root)

    def forge(self, path: str, role: str, change: Callable[[Any], object], to: str | None = None) -> None:
        """Change one of the thief's files and sign it with his key of that role."""
        file = self.folder / "thief" / "catalog" / "metadata" / path
        metadata: Metadata[Any] = Metadata.from_bytes(file.read_bytes())
        change(metadata.signed)
        for number, signer in enumerate(self.thief.signers([key.keyid for key in self.thief.listed(role)])):
            metadata.sign(signer, append=number > 0)
        file.with_name(to or path).write_bytes(metadata.to_bytes())

    def commit(self, edit: Edit) -> None:
        """Let the thief publish what he likes, as far as his keys go."""
        Repository.open(self.folder / "thief" / "catalog", Disk()).commit(edit, self.thief, NOW)

    def all_is_well(self, edit: Edit = RIGHT) -> None:
        """Both clients, and one that begins today, believe the publisher, and what he says is `edit`."""
        for client in (*self.clients, self.client("new")):
            client.refresh(self.honest, NOW, everything=True, documents=list(edit.documents))
            assert {info.path: info.sha256 for info in client.targets()} == {
                path: target.sha256 for path, target in edit.targets.items() if target is not None
            }
            assert {path: client.document(path) for path in edit.documents} == edit.documents

    def thief_is_refused(self, role: str) -> None:
        """What he signed counts with nobody any more."""
        for client in (*self.clients, self.client("new")):
            client.refresh(self.honest, NOW, everything=True)
            with pytest.raises(TrustError) as caught:
                client.refresh(self.forged, NOW, everything=True)
            assert (caught.value.role, caught.value.rule) == (role, Rule.SIGNATURES)


def evil(role: str) -> Edit:
    """What a thief would publish with a delegated role's key."""
    if role == "fleet":
        return Edit().document("fleet.json", b"a fleet of thieves")
    folder = "models" if role == "models" else "staging"
    edit = Edit().document(f"{folder}/catalog.json", b"a catalog of thieves")
    return edit.part("models/evil-1-q4_k_m.gguf", b"evil") if role == "models" else edit


def test_timestamp(tmp_path: Path) -> None:
    drill = Drill(tmp_path, ("timestamp",))
    met, _ = drill.clients
    drill.forge("timestamp.json", "timestamp", lambda signed: _forward(signed, NOW + timedelta(days=3650)))
    met.refresh(drill.forged, NOW)
    assert met.status().timestamp_version == FAR, "he can freeze: no honest timestamp is newer"
    assert met.target(PHI, drill.forged).sha256 == SHA256, "what he shows is still the publisher's"
    with pytest.raises(Refused):
        drill.commit(evil("models"))
    drill.repo.commit(Edit().document("fleet.json", b"today's"), drill.ring, NOW)
    with pytest.raises(TrustError) as caught:
        met.refresh(drill.honest, NOW)
    assert (caught.value.role, caught.value.rule) == ("timestamp", Rule.ROLLBACK)

    drill.repo.rotate("timestamp", drill.ring, NOW)
    drill.all_is_well(first_content().document("fleet.json", b"today's"))
    drill.thief_is_refused("timestamp")


def test_snapshot(tmp_path: Path) -> None:
    drill = Drill(tmp_path, ("snapshot",))
    drill.forge("1.snapshot.json", "snapshot", lambda signed: _forward(signed, None), f"{FAR}.snapshot.json")
    assert not drill.clients[0].refresh(drill.forged, NOW, everything=True).changed, "no timestamp leads to it"
    with pytest.raises(Refused):
        drill.commit(evil("models"))
    drill.repo.rotate("snapshot", drill.ring, NOW)
    drill.all_is_well()


def test_snapshot_and_timestamp(tmp_path: Path) -> None:
    """The keys of one machine: whoever has it can freeze and mislead about versions, and add nothing."""
    drill = Drill(tmp_path, ONLINE)
    met, _ = drill.clients
    drill.forge("1.snapshot.json", "snapshot", lambda signed: _forward(signed, None), f"{FAR}.snapshot.json")
    data = drill.forged(f"metadata/{FAR}.snapshot.json", 1 << 20)

    def lead_there(signed: Any) -> None:
        _forward(signed, NOW + timedelta(days=3650))
        meta = signed.snapshot_meta
        meta.version, meta.length, meta.hashes = FAR, len(data), {"sha256": hashlib.sha256(data).hexdigest()}

    drill.forge("timestamp.json", "timestamp", lead_there)
    met.refresh(drill.forged, NOW, everything=True)
    assert (met.status().snapshot_version, met.status().timestamp_version) == (FAR, FAR)
    with pytest.raises(Refused):
        drill.commit(evil("models"))

    for role in ONLINE:
        drill.repo.rotate(role, drill.ring, NOW)
    drill.all_is_well()
    drill.thief_is_refused("timestamp")


@pytest.mark.parametrize("role", ["models", "staging", "fleet"])
def test_a_delegated_role_alone(tmp_path: Path, role: str) -> None:
    """Without the keys of snapshot and timestamp nothing that he signs reaches anybody."""
    drill = Drill(tmp_path, (role,))
    with pytest.raises(Refused, match="snapshot can't be signed here"):
        drill.commit(evil(role))
    drill.repo.rotate(role, drill.ring, NOW)
    drill.all_is_well()


@pytest.mark.parametrize("role", ["models", "staging", "fleet"])
def test_a_delegated_role_and_the_online_keys(tmp_path: Path, role: str) -> None:
    drill = Drill(tmp_path, (role, *ONLINE))
    met, _ = drill.clients
    drill.commit(evil(role))
    met.refresh(drill.forged, NOW, everything=True)
    for path, target in evil(role).targets.items():
        assert target is not None
        assert met.target(path).sha256 == target.sha256, "he can say anything in this role"
    for other in {"models", "staging", "fleet"} - {role}:
        with pytest.raises(Refused):
            drill.commit(evil(other))

    for one in (role, *ONLINE):
        drill.repo.rotate(one, drill.ring, NOW)
    drill.all_is_well()
    drill.thief_is_refused("timestamp")


def test_a_delegated_role_whose_lies_were_published(tmp_path: Path) -> None:
    """He got them past the signing node: a rotation doesn't take them back, an edit does."""
    drill = Drill(tmp_path, ())
    drill.repo.commit(evil("models"), drill.ring, NOW)
    drill.clients[0].refresh(drill.honest, NOW, everything=True)
    drill.repo.rotate("models", drill.ring, NOW)
    for client in drill.clients:
        client.refresh(drill.honest, NOW, everything=True)
        assert client.target("models/evil-1-q4_k_m.gguf").length == 4
    put_right = Edit().document("models/catalog.json", b"catalog first")
    put_right.targets["models/evil-1-q4_k_m.gguf"] = None
    drill.repo.commit(put_right, drill.ring, NOW)
    drill.all_is_well()


def test_targets(tmp_path: Path) -> None:
    drill = Drill(tmp_path, ("targets",))
    drill.forge("1.targets.json", "targets", lambda signed: _forward(signed, None), "2.targets.json")
    assert not drill.clients[0].refresh(drill.forged, NOW, everything=True).changed
    with pytest.raises(Refused):
        Repository.open(tmp_path / "thief" / "catalog", Disk()).rotate("models", drill.thief, NOW)
    drill.repo.rotate("targets", drill.ring, NOW)
    drill.all_is_well()


def test_targets_and_the_online_keys(tmp_path: Path) -> None:
    """He gives every delegated role keys of his own, and then says what he likes in them."""
    drill = Drill(tmp_path, ("targets", *ONLINE))
    met, _ = drill.clients
    theirs = Repository.open(tmp_path / "thief" / "catalog", Disk())
    theirs.rotate("models", drill.thief, NOW)
    drill.commit(evil("models"))
    met.refresh(drill.forged, NOW, everything=True)
    assert met.target("models/evil-1-q4_k_m.gguf").length == 4

    for role in ("targets", *ONLINE):
        drill.repo.rotate(role, drill.ring, NOW)
    drill.all_is_well()
    drill.thief_is_refused("timestamp")


def test_one_of_several_root_keys(tmp_path: Path) -> None:
    drill = Drill(tmp_path, ("root",), counts={"root": 3}, thresholds={"root": 2})
    drill.thief.remove("root", [key.keyid for key in drill.thief.listed("root")[1:]])
    drill.forge("1.root.json", "root", lambda signed: _forward(signed, None, 2), "2.root.json")
    with pytest.raises(TrustError) as caught:
        drill.clients[0].refresh(drill.forged, NOW)
    assert (caught.value.role, caught.value.rule) == ("root", Rule.SIGNATURES)
    drill.repo.rotate("root", drill.ring, NOW)
    drill.all_is_well()


def test_the_only_root_key(tmp_path: Path) -> None:
    """Who followed the thief comes back by a new first root only; who met the publisher first follows him."""
    drill = Drill(tmp_path, ("root",))
    met, never = drill.clients

    def to_himself(signed: Root) -> None:
        _forward(signed, NOW + timedelta(days=3650), 2)
        for role in ("timestamp", "snapshot", "targets"):
            for keyid in list(signed.roles[role].keyids):
                signed.revoke_key(keyid, role)
            signed.add_key(drill.thief.create_key(role).public, role)

    drill.forge("1.root.json", "root", to_himself, "2.root.json")
    with pytest.raises(TrustError):
        met.refresh(drill.forged, NOW)  # his root is taken; what it names has to be signed by him next

    drill.repo.rotate("root", drill.ring, NOW)
    never.refresh(drill.honest, NOW, everything=True)
    with pytest.raises(TrustError):
        met.refresh(drill.honest, NOW)
    assert met.document("fleet.json", drill.honest), "what it had verified before stays readable"
    given_anew = TrustedCatalog.open(tmp_path / "met-the-thief", drill.repo.root_bytes())
    given_anew.refresh(drill.honest, NOW, everything=True)
    assert given_anew.status().root_version == 2
    assert given_anew.target(PHI).sha256 == SHA256


def test_node_key(tmp_path: Path) -> None:
    """A node's key signs nothing in the catalog; the fleet role says whose it is, and that it is nobody's any more."""
    public = hashlib.sha256(b"a node's public key").digest()
    node = FleetNode(hashlib.sha256(public).hexdigest(), public.hex(), "eu", "https://one.example")
    begun = first_content().document("fleet.json", encode(FleetDocument(1, (node,))))
    drill = Drill(tmp_path, (), content=begun)
    revoked = FleetNode(node.id, node.key, node.region, node.url, state="revoked")
    drill.repo.commit(Edit().document("fleet.json", encode(FleetDocument(2, (revoked,)))), drill.ring, NOW)
    for client in drill.clients:
        client.refresh(drill.honest, NOW, documents=["fleet.json"])
        (found,) = decode_fleet(client.document("fleet.json")).nodes
        assert not found.admitted


def _forward(signed: Any, expires: Any, version: int = FAR) -> None:
    signed.version = version
    if expires is not None:
        signed.expires = expires
