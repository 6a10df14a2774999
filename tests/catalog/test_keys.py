"""The keys of the catalog: where they are, who may read them, what a machine without them can't do."""

import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner

from aibrother_node.catalog.keys import KeyRing
from aibrother_node.catalog.roles import KEYED_ROLES
from aibrother_node.errors import InvalidInput, NotFound, Refused, Temporary
from aibrother_node.store.disk import Disk
from catalog.signing import NOW, Client, Edit, make, served


def _sign(ring: KeyRing, role: str) -> int:
    """With how many of a role's keys the ring can sign; the signatures are checked."""
    keys = ring.listed(role)
    signers = ring.signers([key.keyid for key in keys])
    for signer in signers:
        signer.public_key.verify_signature(signer.sign(b"payload"), b"payload")
    return len(signers)


def test_new_keys_are_one_a_role_and_their_owners_alone(tmp_path: Path) -> None:
    ring = KeyRing.generate(tmp_path / "keys", Disk(), counts={"root": 2})
    again = KeyRing.load(tmp_path / "keys", Disk())
    assert again.listed() == ring.listed()
    assert [key.role for key in again.listed()] == ["root", *KEYED_ROLES]
    assert len({key.keyid for key in again.listed()}) == 8
    assert all(_sign(again, role) == (2 if role == "root" else 1) for role in KEYED_ROLES)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    files = list((tmp_path / "keys").iterdir())
    assert len(files) == 9
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    with pytest.raises(Refused, match="holds keys already"):
        KeyRing.generate(tmp_path / "keys", Disk())
    with pytest.raises(NotFound, match="no catalog keys"):
        KeyRing.load(tmp_path / "other", Disk())


def test_a_passphrase(tmp_path: Path) -> None:
    KeyRing.generate(tmp_path / "keys", Disk(), passphrase="right horse")
    for path in (tmp_path / "keys").glob("*.pem"):
        assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert _sign(KeyRing.load(tmp_path / "keys", Disk(), passphrase="right horse"), "models") == 1
    for wrong in ("wrong", ""):
        with pytest.raises(Refused, match=r"the passphrase doesn't open .*\.pem"):
            KeyRing.load(tmp_path / "keys", Disk(), passphrase=wrong)
    without = KeyRing.load(tmp_path / "keys", Disk())
    assert _sign(without, "models") == 0
    assert {key.missing for key in without.listed()} == {"is encrypted, and no passphrase was given"}
    with_passphrase = KeyRing.load(tmp_path / "keys", Disk(), passphrase="right horse")
    key = with_passphrase.create_key("models")
    assert b"ENCRYPTED" in (tmp_path / "keys" / key.uri.removeprefix("file:")).read_bytes()
    assert _sign(KeyRing.load(tmp_path / "keys", Disk(), passphrase="right horse"), "models") == 2


def test_moving_offline(tmp_path: Path) -> None:
    ring = KeyRing.generate(tmp_path / "keys", Disk())
    moved = ring.move_offline(tmp_path / "usb", ["root", "targets"])
    assert [key.role for key in moved] == ["root", "targets"]
    assert ring.move_offline(tmp_path / "usb", ["root"]) == [], "they are gone already"
    here = KeyRing.load(tmp_path / "keys", Disk())
    assert here.listed() == ring.listed()
    assert _sign(here, "root") == 0
    assert _sign(here, "models") == 1
    assert [key.where for key in here.listed("root")] == [f"offline: {tmp_path / 'usb'}"]
    assert "was moved to" in here.why_missing(here.listed("root")[0].keyid)
    assert len(list((tmp_path / "keys").glob("*.pem"))) == 5
    there = KeyRing.load(tmp_path / "usb", Disk())
    assert [key.role for key in there.listed()] == ["root", "targets"]
    assert _sign(there, "root") == 1
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "usb").iterdir()} == {0o600}
    both = KeyRing.load(tmp_path / "keys", Disk(), beside=[tmp_path / "usb"])
    assert all(_sign(both, role) == 1 for role in KEYED_ROLES)
    assert ring.move_offline(tmp_path / "usb", ["models"])[0].role == "models"
    assert len(KeyRing.load(tmp_path / "usb", Disk()).listed()) == 3
    with pytest.raises(Refused, match="the folder that the keys are in"):
        ring.move_offline(tmp_path / "keys", ["fleet"])
    with pytest.raises(InvalidInput, match="'nobody'"):
        ring.move_offline(tmp_path / "usb", ["nobody"])


def test_moving_never_writes_over_another_key(tmp_path: Path) -> None:
    ring = KeyRing.generate(tmp_path / "keys", Disk())
    (key,) = ring.listed("root")
    (tmp_path / "usb").mkdir()
    (tmp_path / "usb" / key.uri.removeprefix("file:")).write_bytes(b"another")
    with pytest.raises(Refused, match="with other content"):
        ring.move_offline(tmp_path / "usb", ["root"])
    assert _sign(KeyRing.load(tmp_path / "keys", Disk()), "root") == 1


def test_keys_by_uri_sign_too(tmp_path: Path) -> None:
    """Any signer that securesystemslib reaches by URI; `file2:` is the one that needs no hardware."""
    repo, ring = make(tmp_path)
    outside = CryptoSigner.generate_ecdsa()
    (tmp_path / "hsm.pem").write_bytes(outside.private_bytes)
    key = ring.add("models", f"file2:{tmp_path / 'hsm.pem'}", outside.public_key)
    repo.rotate("models", ring, NOW, keys=[key])
    again = KeyRing.load(tmp_path / "keys", Disk())
    assert [one.where for one in again.listed("models")] == [f"file2:{tmp_path / 'hsm.pem'}"]
    edit = Edit().document("models/catalog.json", b"signed by ECDSA")
    repo.commit(edit, again, NOW)
    with served(tmp_path / "catalog") as url:
        Client(tmp_path / "client", url, repo.root_bytes(1)).sees(edit)
    again.remove("models", [key.keyid])
    assert (tmp_path / "hsm.pem").exists(), "what isn't in the folder isn't ours to remove"


def test_an_hsm_that_does_not_answer_is_a_temporary_failure(tmp_path: Path) -> None:
    repo, ring = make(tmp_path)
    outside = CryptoSigner.generate_ed25519()
    path = tmp_path / "hsm.pem"
    path.write_bytes(outside.private_bytes)
    repo.rotate("fleet", ring, NOW, keys=[ring.add("fleet", f"file2:{path}", outside.public_key)])
    path.unlink()
    with pytest.raises(Temporary, match="can't be used"):
        repo.commit(Edit().document("fleet.json", b"x"), KeyRing.load(tmp_path / "keys", Disk()), NOW)
    assert repo.document("fleet.json") == b"fleet first"
    with pytest.raises(InvalidInput, match="no signer for 'ftp:x'"):
        ring.add("fleet", "ftp:x", outside.public_key)
    with pytest.raises(InvalidInput, match="is named already"):
        ring.add("fleet", f"file2:{path}", outside.public_key)


def test_removing(tmp_path: Path) -> None:
    ring = KeyRing.generate(tmp_path / "keys", Disk())
    new = ring.create_key("fleet")
    (old, _) = ring.listed("fleet")
    ring.remove("fleet", [old.keyid, "no such key"])
    ring.remove("models", [new.keyid])  # a key of another role
    assert ring.listed("fleet") == [new]
    assert KeyRing.load(tmp_path / "keys", Disk()).listed() == ring.listed()
    assert not (tmp_path / "keys" / old.uri.removeprefix("file:")).exists()
    assert "none of this machine's" in ring.why_missing(old.keyid)


def test_files_that_are_no_keys_are_named(tmp_path: Path) -> None:
    ring = KeyRing.generate(tmp_path / "keys", Disk())
    (key,) = ring.listed("root")
    path = tmp_path / "keys" / key.uri.removeprefix("file:")
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    stranger = CryptoSigner.generate_ed25519().private_bytes
    for content in (
        b"",
        b"\xff" * 100_000,
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        other,
        stranger,
    ):
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=str(path)):
            KeyRing.load(tmp_path / "keys", Disk())
    path.unlink()
    assert KeyRing.load(tmp_path / "keys", Disk()).listed("root")[0].missing == "is not on this machine"


def test_key_files_alone_say_by_their_names_whose_they_are(tmp_path: Path) -> None:
    made = KeyRing.generate(tmp_path / "keys", Disk(), counts={"models": 2}, passphrase="open")
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "server.pem").write_text("somebody else's")
    with pytest.raises(NotFound, match="no catalog keys"):
        KeyRing.load(alone, Disk(), by_name=True)
    for path in (tmp_path / "keys").glob("models-*.pem"):
        (alone / path.name).write_bytes(path.read_bytes())
    with pytest.raises(NotFound, match="no catalog keys"):
        KeyRing.load(alone, Disk(), by_name=True)  # encrypted: who knows what they are?
    ring = KeyRing.load(alone, Disk(), passphrase="open", by_name=True)
    with pytest.raises(NotFound, match="no catalog keys"):
        KeyRing.load(alone, Disk(), passphrase="open")  # where keys are made, the list says which there are
    wanted = {key.keyid for key in made.listed("models")}
    assert {key.keyid for key in ring.listed()} == {key.keyid for key in ring.listed("models")} == wanted
    assert {signer.public_key.keyid for signer in ring.signers(wanted)} == wanted
    assert not (alone / "keys.json").exists(), "looking changes nothing"


@pytest.mark.parametrize("uri", ["file:../../node.key", "file:/etc/passwd", "file:", "offline:a/b.pem", "file:x.pem\0"])
def test_no_path_leads_out_of_the_folder(tmp_path: Path, uri: str) -> None:
    KeyRing.generate(tmp_path / "keys", Disk())
    path = tmp_path / "keys" / "keys.json"
    found = json.loads(path.read_bytes())
    found["roles"]["root"][0]["uri"] = uri
    path.write_text(json.dumps(found))
    with pytest.raises(InvalidInput, match="names no key file"):
        KeyRing.load(tmp_path / "keys", Disk())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        '{"schema": "aibrother.keys/2", "roles": {}}',
        '{"schema": "aibrother.keys/1", "roles": []}',
        '{"schema": "aibrother.keys/1", "roles": {"nobody": [{}]}}',
        '{"schema": "aibrother.keys/1", "roles": {"root": [{"keyid": "x", "uri": "file:x.pem", "public": {}}]}}',
        " " * (2 << 20),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys.json").write_text(text)
    with pytest.raises(InvalidInput, match="is no list of keys"):
        KeyRing.load(tmp_path, Disk())
