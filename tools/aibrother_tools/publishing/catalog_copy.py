"""The catalog of a node that signs, as a publisher elsewhere verifies it: a copy in a state folder.

The files come over the control plane, and are believed no more than those of any node: they are verified from a root
downwards, roll-back is refused. The root is one that was given; else the one that was met first, which is remembered
for ever after (trust on first use: who is between then, or owns the node, shows what they like).

    <state>/remotes/<URL>/root.json        the root that was met first
    <state>/remotes/<URL>/<root>/…         the copy: what a node that follows has (catalog/following.py)
"""

from __future__ import annotations

import hashlib
import http.client
import os
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Self

from aibrother_node.catalog.following import Follower
from aibrother_node.catalog.repository import Repository
from aibrother_node.catalog.roles import ceiling
from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput, VerificationFailed
from aibrother_node.store.disk import Disk
from aibrother_node.store.layout import DirectoryLock, Layout
from aibrother_tools.admin_node import AdminNode, Answered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from pathlib import Path

    from aibrother_tools.admin_node import Connects

_TIMEOUT: Final = 30.0  # seconds for each wait
_PATIENCE: Final = 120.0  # seconds for another command that brings the same copy up to date
_GRACE: Final = timedelta(days=1)
_FILES: Final = "/catalog/files/"
_STALE: Final = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)


class CatalogCopy:
    """The verified copy of one signer's catalog; several processes may use it at once.

    Attributes:
        root: the bytes of the root that everything is verified from.
    """

    def __init__(self, place: Connects, url: str, folder: Path, root: bytes) -> None:
        """Args: as `open` makes them, which is what callers want."""
        self.root = root
        self._url = url
        self._files = _Files(place)
        self._disk = Disk()
        self._layout = Layout(folder)
        self._follower: Follower | None = None

    @classmethod
    def open(cls, place: Connects, url: str, state: Path, root: bytes | None, tell: Callable[[str], None]) -> Self:
        """Find the copy, or make a new one.

        Args:
            place: how the control plane is reached.
            url: of the control plane.
            state: folder of such copies; made if it is missing.
            root: the root that is trusted; None for the one that was met first.
            tell: is told where a root is met for the first time.

        Raises:
            Refused, NotFound, Temporary: as the node answers.
            VerificationFailed: what it shows as its root is none.
        """
        folder = state / "remotes" / hashlib.sha256(url.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        remembered = folder / "root.json"
        if root is None and remembered.exists():
            root = remembered.read_bytes()
        if root is None:
            root = _first_contact(AdminNode(place), _Files(place))
            tell(
                f"trusting the root that {url} shows, since it is met for the first time:"
                f" {Digest(hashlib.sha256(root).digest())}; give the right one with --root, or compare them"
            )
            Disk().write_file(remembered, root, aside=folder / f"root.{os.getpid()}", mode=0o600)
        own = folder / hashlib.sha256(root).hexdigest()[:16]
        (own / "trust").mkdir(parents=True, exist_ok=True, mode=0o700)
        return cls(place, url, own, root)

    def sync(self, now: datetime, expiries: Mapping[str, timedelta]) -> Repository:
        """Bring what the node has signed by now.

        Args:
            now: the time, in UTC.
            expiries: for what is signed on top of it.

        Raises:
            TrustError: what it shows must not be believed.
            Refused, NotFound, Temporary: as the node answers.
        """
        with DirectoryLock.take(self._layout.root, _PATIENCE):
            if self._follower is None:
                self._follower = Follower(self._layout, self._disk, self.root)
            followed = self._follower.refresh([(self._url, self._files.fetch)], now)
            if self._url in followed.refused:
                raise followed.refused[self._url]
            if followed.incomplete is not None:
                raise followed.incomplete
            if followed.changed:
                self._follower.collect_debris(now, _GRACE)  # of what other processes still read nothing is that old
            return Repository.open(self._layout.catalog, self._disk, expiries)

    def close(self) -> None:
        """Let go of it."""
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Files:
    """Reads the catalog's files over one connection that is kept."""

    def __init__(self, place: Connects) -> None:
        self._place = place
        self._connection: http.client.HTTPConnection | None = None

    def fetch(self, path: str, max_length: int) -> bytes:
        """As `TrustedCatalog` describes its sources."""
        if self._connection is not None:  # it may have been idle for too long
            with suppress(*_STALE):
                return self._ask(self._connection, path, max_length)
            self.close()
        try:
            self._connection = self._place.connect(_TIMEOUT)
            return self._ask(self._connection, path, max_length)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._place.unreachable(error) from error

    def _ask(self, connection: http.client.HTTPConnection, path: str, max_length: int) -> bytes:
        fields = {"Accept-Encoding": "identity", **self._place.fields()}
        try:
            connection.request("GET", self._place.target(_FILES + path), headers=fields)
            response = connection.getresponse()
            data = response.read(max_length + 1)
        except _STALE:
            raise
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._place.unreachable(error) from error
        if not response.isclosed():  # there is more of it than we want
            self.close()
        if response.status >= 300:
            raise Answered(response.status, response.headers, data).error(f"GET {path}")
        return data

    def close(self) -> None:
        """Close the connection; the next request connects again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _first_contact(node: AdminNode, files: _Files) -> bytes:
    try:
        found = node.ask("GET", "/catalog")
        version, sha256 = found["root"]["version"], found["root"]["sha256"]
        if type(version) is not int:
            raise TypeError
    except (KeyError, TypeError) as error:
        raise InvalidInput("the node doesn't say which root it has: is this its control plane?") from error
    try:
        root = files.fetch(f"metadata/{version}.root.json", ceiling("root"))
    finally:
        files.close()
    if str(Digest(hashlib.sha256(root).digest())) != sha256:
        raise VerificationFailed("the node's root isn't what it says", expected=str(sha256))
    return root
