"""The keys that sign the catalog, and where each of them is.

A folder holds `keys.json`, which names every key of every role with its public half, and one PKCS #8 PEM file for each
private key that is here. A key that isn't (it lies on another medium, or in somebody else's hands) is named all the
same: its role just can't be signed here. Keys in an HSM or a KMS are named by securesystemslib's signer URIs.

Where only PEM files were taken to a machine, without the list, their names say whose keys they are: `<role>-….pem`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, CryptoSigner, Key, Signer, SSlibKey

from aibrother_node.catalog.roles import KEYED_ROLES
from aibrother_node.errors import InvalidInput, NotFound, Refused, Temporary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from aibrother_node.store.disk import Disk

_SCHEMA: Final = "aibrother.keys/1"
_LIST: Final = "keys.json"
_LIST_CEILING: Final = 1 << 20
_FILE_CEILING: Final = 16 << 10
_FILE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,127}\.pem", re.ASCII)
_HERE: Final = "file:"
_ELSEWHERE: Final = "offline:"


@dataclass(frozen=True, slots=True)
class RingKey:
    """One key of one role.

    Attributes:
        role: which role it is meant for; what it may really sign is said by root and targets.
        public: its public half, with its key id.
        uri: where the private half is: `file:<name>` in this folder, `offline:<name>` on another medium, or a signer
            URI of securesystemslib.
        note: where it was moved to, in words; empty if it wasn't.
        missing: why it can't sign here, in words; None if it can.
    """

    role: str
    public: Key
    uri: str
    note: str = ""
    missing: str | None = None

    @property
    def keyid(self) -> str:
        return self.public.keyid

    @property
    def where(self) -> str:
        """Where the private half is, for people."""
        if self.uri.startswith(_ELSEWHERE):
            return f"offline: {self.note}" if self.note else "offline"
        return self.uri


class KeyRing:
    """The keys of one folder.

    Not for several threads at once; only one process may change it, the one that has the data directory's lock.
    """

    def __init__(self, folder: Path, disk: Disk, passphrase: str | None, beside: Sequence[Path] = ()) -> None:
        """Args: as in `load`, which is what callers want."""
        self.folder = folder
        self._disk = disk
        self._passphrase = passphrase
        self._beside = beside
        self._keys: list[RingKey] = []
        self._signers: dict[str, Callable[[], Signer]] = {}
        self._opened: dict[str, Signer] = {}

    @classmethod
    def generate(
        cls,
        folder: Path,
        disk: Disk,
        *,
        counts: Mapping[str, int] | None = None,
        passphrase: str | None = None,
    ) -> KeyRing:
        """Make a new folder with new Ed25519 keys.

        Args:
            folder: made if it is missing, with mode 0700; its parent must exist.
            disk: how it is written.
            counts: how many keys a role gets; 1 where it doesn't say.
            passphrase: encrypts the private keys.

        Raises:
            Refused: there are keys already.
        """
        if (folder / _LIST).exists():
            raise Refused(f"{folder} holds keys already")
        if not folder.is_dir():
            disk.make_folder(folder, 0o700)
            disk.sync_folder(folder.parent)
        ring = cls(folder, disk, passphrase)
        for role in KEYED_ROLES:
            for _ in range((counts or {}).get(role, 1)):
                ring._make(role)
        ring._save()
        return ring

    @classmethod
    def load(
        cls,
        folder: Path,
        disk: Disk,
        *,
        passphrase: str | None = None,
        beside: Sequence[Path] = (),
        by_name: bool = False,
    ) -> KeyRing:
        """Read a folder's keys.

        Args:
            folder: holds keys.json.
            disk: how changes are written.
            passphrase: of the keys that are encrypted; without it they are missing, not an error.
            beside: folders of other media, as `move_offline` made them, to look in for private keys that aren't here.
            by_name: do without keys.json, where there are PEM files whose names begin with their role's. Not where keys
                are made: files without their list are then what an interruption left.

        Raises:
            NotFound: there are no keys.
            InvalidInput: it, or a key's file, can't be read.
            Refused: the passphrase is wrong.
        """
        ring = cls(folder, disk, passphrase, beside)
        unlisted = by_name and not (folder / _LIST).exists()
        listed = _listed_by_name(folder, passphrase) if unlisted else _read_list(folder / _LIST)
        ring._keys = [ring._look_up(key) for key in listed]
        return ring

    def listed(self, role: str | None = None) -> list[RingKey]:
        """All keys, or those of one role, in the order in which they came."""
        return [key for key in self._keys if role is None or key.role == role]

    def signers(self, keyids: Iterable[str]) -> list[Signer]:
        """What can sign for these key ids here; ids whose private keys aren't here are left out.

        Raises:
            Temporary: an HSM or KMS doesn't answer.
        """
        return [self._signer(keyid) for keyid in dict.fromkeys(keyids) if keyid in self._signers]

    def why_missing(self, keyid: str) -> str:
        """Why a key can't sign here, in words for people."""
        for key in self._keys:
            if key.keyid == keyid:
                return f"the {key.role} key {keyid[:8]}… {key.missing or 'is here'}"
        return f"key {keyid[:8]}… is none of this machine's"

    def create_key(self, role: str) -> RingKey:
        """Make one more Ed25519 key for a role; it signs nothing before root or targets name it."""
        key = self._make(role)
        self._save()
        return key

    def add(self, role: str, uri: str, public: Key) -> RingKey:
        """Name a key whose private half is in an HSM, a KMS or wherever securesystemslib's signers reach.

        Raises:
            InvalidInput: no such role or scheme, or the key is named already.
        """
        _check_role(role)
        if uri.partition(":")[0] not in SIGNER_FOR_URI_SCHEME:
            known = ", ".join(sorted(SIGNER_FOR_URI_SCHEME))
            raise InvalidInput(f"no signer for {uri!r}: the URI begins with one of {known}")
        if any(key.keyid == public.keyid and key.role == role for key in self._keys):
            raise InvalidInput(f"the {role} key {public.keyid[:8]}… is named already")
        key = self._look_up(RingKey(role, public, uri))
        self._keys.append(key)
        self._save()
        return key

    def remove(self, role: str, keyids: Iterable[str]) -> None:
        """Forget keys of a role, and remove their private halves where those lie in this folder.

        The list goes first: a crash in between leaves a file that nothing names, never a name without its file.
        """
        gone = set(keyids)
        dropped = [key for key in self._keys if key.role == role and key.keyid in gone]
        if not dropped:
            return
        self._keys = [key for key in self._keys if key not in dropped]
        self._save()
        still = {key.uri for key in self._keys}
        for key in dropped:
            if key.keyid not in {kept.keyid for kept in self._keys}:
                self._signers.pop(key.keyid, None)
                self._opened.pop(key.keyid, None)
            if key.uri.startswith(_HERE) and key.uri not in still:
                self._disk.unlink(self._file(self.folder, key.uri))
        self._disk.sync_folder(self.folder)

    def move_offline(self, target: Path, roles: Iterable[str]) -> list[RingKey]:
        """Move the private keys of some roles to another medium.

        They are written there and synchronised, with a keys.json of their own, before they are removed here; here they
        stay named, with where they went.

        Args:
            target: a folder; made if it is missing.
            roles: whose keys.

        Returns:
            What was moved; keys that weren't here are left out.

        Raises:
            InvalidInput: no such role.
            Refused: the folder is this one, or holds other files of these names.
        """
        wanted = {_check_role(role) for role in roles}
        moving = [key for key in self._keys if key.role in wanted and key.uri.startswith(_HERE)]
        if target.exists() and target.samefile(self.folder):
            raise Refused(f"{target} is the folder that the keys are in")
        if not moving:
            return []
        if not target.is_dir():
            self._disk.make_folder(target, 0o700)
            self._disk.sync_folder(target.parent)
        there = KeyRing(target, self._disk, self._passphrase)
        there._keys = _read_list(target / _LIST) if (target / _LIST).exists() else []
        for key in moving:
            data = self._file(self.folder, key.uri).read_bytes()
            path = self._file(target, key.uri)
            if path.exists() and path.read_bytes() != data:
                raise Refused(f"{path} is there already, with other content")
            self._write(path, data)
            there._keys = [*(old for old in there._keys if old.keyid != key.keyid), replace(key, missing=None)]
        there._save()
        away = {key: _ELSEWHERE + key.uri.removeprefix(_HERE) for key in moving}
        self._keys = [
            self._look_up(replace(key, uri=away[key], note=str(target), missing=None)) if key in away else key
            for key in self._keys
        ]
        self._save()
        for key in moving:
            self._disk.unlink(self._file(self.folder, key.uri))
        self._disk.sync_folder(self.folder)
        return [key for key in self._keys if key.keyid in {moved.keyid for moved in moving}]

    def _make(self, role: str) -> RingKey:
        """Make a key and write its file; the caller writes the list."""
        signer = CryptoSigner.generate_ed25519()
        keyid = signer.public_key.keyid
        name = f"{_check_role(role)}-{keyid[:16]}.pem"
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if self._passphrase is not None:
            encryption = serialization.BestAvailableEncryption(self._passphrase.encode())
        plain = serialization.load_pem_private_key(signer.private_bytes, None)
        pem = plain.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        self._write(self.folder / name, pem)
        key = RingKey(role, signer.public_key, _HERE + name)
        self._remember(signer)
        self._keys.append(key)
        return key

    def _look_up(self, key: RingKey) -> RingKey:
        """Find out whether a key can sign here, and remember how."""
        self._signers.pop(key.keyid, None)
        self._opened.pop(key.keyid, None)
        if not key.uri.startswith((_HERE, _ELSEWHERE)):
            self._signers[key.keyid] = lambda: Signer.from_priv_key_uri(
                key.uri, key.public, lambda _: self._passphrase or ""
            )
            return replace(key, missing=None)
        name = self._file(self.folder, key.uri).name
        for folder in ([self.folder] if key.uri.startswith(_HERE) else []) + list(self._beside):
            path = folder / name
            if path.exists():
                private = _read_private(path, self._passphrase)
                if private is None:
                    return replace(key, missing="is encrypted, and no passphrase was given")
                self._remember(_file_signer(path, private, key.public))
                return replace(key, missing=None)
        return replace(key, missing=f"was moved to {key.note}" if key.note else "is not on this machine")

    def _remember(self, signer: Signer) -> None:
        self._signers[signer.public_key.keyid] = lambda: signer

    def _signer(self, keyid: str) -> Signer:
        if keyid not in self._opened:
            try:
                self._opened[keyid] = self._signers[keyid]()
            except Exception as error:  # signers raise whatever their HSM's or KMS's library raises
                raise Temporary(f"the signer of key {keyid[:8]}… can't be used: {error}") from error
        return self._opened[keyid]

    def _file(self, folder: Path, uri: str) -> Path:
        name = uri.partition(":")[2]
        if not _FILE_NAME.fullmatch(name):
            raise InvalidInput(f"{self.folder / _LIST}: {uri[:80]!r} names no key file")
        return folder / name

    def _write(self, path: Path, data: bytes) -> None:
        self._disk.write_file(path, data, aside=path.with_name(f"{path.name}.new"), mode=0o600)

    def _save(self) -> None:
        roles: dict[str, list[dict[str, Any]]] = {}
        for key in self._keys:
            about = {"keyid": key.keyid, "uri": key.uri, "public": key.public.to_dict()}
            roles.setdefault(key.role, []).append({**about, "note": key.note} if key.note else about)
        text = json.dumps({"schema": _SCHEMA, "roles": roles}, indent=2) + "\n"
        self._write(self.folder / _LIST, text.encode())


def _check_role(role: str) -> str:
    if role not in KEYED_ROLES:
        raise InvalidInput(f"no role {role!r} has keys: it is one of {', '.join(KEYED_ROLES)}")
    return role


def _read_list(path: Path) -> list[RingKey]:
    try:
        with path.open("rb") as file:
            data = file.read(_LIST_CEILING + 1)
    except FileNotFoundError:
        raise NotFound(f"no catalog keys at {path.parent}") from None
    try:
        if len(data) > _LIST_CEILING:
            raise ValueError(f"is larger than {_LIST_CEILING} bytes")
        found = json.loads(data)
        if found["schema"] != _SCHEMA:
            raise ValueError(f"is not {_SCHEMA}")
        return [
            RingKey(
                _check_role(role),
                Key.from_dict(str(key["keyid"]), dict(key["public"])),
                str(key["uri"]),
                str(key.get("note", "")),
            )
            for role, keys in found["roles"].items()
            for key in keys
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidInput) as error:
        raise InvalidInput(f"{path} is no list of keys: {error}") from None


def _listed_by_name(folder: Path, passphrase: str | None) -> list[RingKey]:
    """The keys whose files lie in a folder without a list; encrypted ones where there is a passphrase."""
    found = []
    for path in sorted(folder.glob("*.pem")):
        role = re.split(r"[-.]", path.name, maxsplit=1)[0]
        if role not in KEYED_ROLES or not _FILE_NAME.fullmatch(path.name):
            continue
        private = _read_private(path, passphrase)
        if private is None:
            continue
        if not isinstance(private, Ed25519PrivateKey):
            raise InvalidInput(f"{path} is no Ed25519 key")
        found.append(RingKey(role, SSlibKey.from_crypto(private.public_key()), _HERE + path.name))
    if not found:
        raise NotFound(f"no catalog keys at {folder}")
    return found


def _read_private(path: Path, passphrase: str | None) -> PrivateKeyTypes | None:
    """Read a private key; None if it is encrypted and there is no passphrase."""
    with path.open("rb") as file:
        data = file.read(_FILE_CEILING)
    encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in data
    if encrypted and passphrase is None:
        return None
    try:
        return serialization.load_pem_private_key(data, passphrase.encode() if encrypted and passphrase else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if encrypted:
            raise Refused(f"the passphrase doesn't open {path}") from None
        raise InvalidInput(f"{path} is no private key: {error}") from None


def _file_signer(path: Path, private: PrivateKeyTypes, public: Key) -> Signer:
    if not isinstance(private, Ed25519PrivateKey) or not isinstance(public, SSlibKey):
        raise InvalidInput(f"{path} is no Ed25519 key")
    try:
        return CryptoSigner(private, public)
    except Exception as error:  # securesystemslib's KeyMismatchError, ValueError for an unknown scheme
        raise InvalidInput(f"{path} is not the private half of {public.keyid[:8]}…: {error}") from None
