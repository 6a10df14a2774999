"""Tokens of the admin API: 256 random bits each, of which this node keeps the SHA-256.

A plain hash is enough: a key derivation function makes guessing slow where there is something to guess, and nobody
guesses 256 random bits. Each token is one file, `tokens/<id>.json`, so that it survives the loss of the index and goes
with backups; the running node has all of them in memory, where a revocation takes effect at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from aibrother_node.catalog.values import time_text
from aibrother_node.errors import InvalidInput, NotFound, Refused
from aibrother_node.web.control.admin.operation import Caller, Scope

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from aibrother_node.store.disk import Disk

_LOG: Final = logging.getLogger(__name__)
PREFIX: Final = "aib_"
"""Begins every token, so that scanners for leaked secrets can know one."""
MAX_TOKENS: Final = 1000
MAX_NAME: Final = 100
MAX_TIME: Final = 253_402_300_799
"""The end of the year 9999, the last that RFC 3339 can write."""
_FILE: Final = re.compile(r"[0-9a-f]{16}\.json", re.ASCII)
_ID: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)
_MAX_FILE: Final = 4096
_MAX_PRESENTED: Final = 256  # characters; longer ones are none of ours and not worth a hash
_INCLUDES: Final = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.OPERATE: frozenset({Scope.OPERATE, Scope.READ}),
    Scope.PUBLISH: frozenset({Scope.PUBLISH, Scope.READ}),
}


class Token(BaseModel):
    """What is kept of one token.

    Attributes:
        id: names it; no secret.
        sha256: of the token itself, 64 hex digits.
        scopes: what it allows.
        name: for people.
        created, expires: Unix times in whole seconds; None for a token that doesn't expire.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}\z")]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}\z")]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=3)]
    name: Annotated[str, StringConstraints(max_length=MAX_NAME)] = ""
    created: Annotated[int, Field(ge=0, le=MAX_TIME)]
    expires: Annotated[int, Field(ge=0, le=MAX_TIME)] | None = None

    @classmethod
    def from_json(cls, document: object) -> Token:
        """Read what a command hands over, as `model_dump(mode="json")` gives it.

        Raises:
            InvalidInput: it is no token.
        """
        try:
            return cls.model_validate_json(json.dumps(document))
        except ValidationError as error:
            raise InvalidInput(f"no token: {error.errors()[0]['msg']}") from None

    @property
    def scope(self) -> str:
        """The scopes as OAuth writes them: separated by spaces (RFC 6749, 3.3)."""
        return " ".join(self.scopes)

    def expired(self, now: float) -> bool:
        """Whether it is of no use any more."""
        return self.expires is not None and now >= self.expires


def make_token(scopes: Iterable[Scope], name: str, now: float, lifetime: float | None) -> tuple[str, Token]:
    """Make a new token.

    Args:
        scopes: what it allows.
        name: for people.
        now: Unix time.
        lifetime: seconds; None for ever.

    Returns:
        The secret, which is shown once, and what is kept of it.

    Raises:
        InvalidInput: no scopes, or a name that is too long or holds control characters.
    """
    if len(name) > MAX_NAME or not name.isprintable():
        raise InvalidInput(f"a token's name has at most {MAX_NAME} printable characters")
    wanted = set(scopes)
    if not wanted:
        raise InvalidInput("a token has at least one scope")
    secret = PREFIX + secrets.token_urlsafe(32)
    return secret, Token(
        id=secrets.token_hex(8),
        sha256=_hash(secret),
        scopes=tuple(scope for scope in Scope if scope in wanted),
        name=name,
        created=int(now),
        expires=None if lifetime is None else min(int(now + lifetime), MAX_TIME),
    )


class TokenFiles:
    """The files, for whoever holds the data directory's lock; reading takes none.

    Args:
        folder: `tokens/`.
        disk: the file system.
    """

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._folder = folder
        self._disk = disk

    def read(self) -> list[Token]:
        """All tokens, the oldest first; a file that can't be read is named in the log and counts for nothing."""
        found = []
        try:
            names = sorted(os.listdir(self._folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        for name in names:
            if _FILE.fullmatch(name) is None:
                continue
            try:
                token = self._read(name)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
                _LOG.error("%s is no token: %s", self._folder / name, reason)
                continue
            found.append(token)
        return sorted(found, key=lambda token: (token.created, token.id))

    def write(self, token: Token) -> None:
        """Keep a token; when this returns, it is on stable storage.

        Raises:
            Refused: there are too many.
            DiskFull: there is no room.
        """
        if not self._folder.is_dir():
            self._disk.make_folder(self._folder, 0o700)  # a directory that an older version made
            self._disk.sync_folder(self._folder.parent)
        if sum(one.id != token.id for one in self.read()) >= MAX_TOKENS:
            raise Refused(f"there are {MAX_TOKENS} tokens; revoke some that nobody uses")
        data = json.dumps(token.model_dump(mode="json"), indent=1).encode() + b"\n"
        aside = self._folder / f"{token.id}.new"
        self._disk.write_file(self._folder / f"{token.id}.json", data, aside=aside, mode=0o600)

    def remove(self, token_id: str) -> None:
        """Forget a token, durably.

        Raises:
            NotFound: there is none of this id.
        """
        path = self._folder / f"{token_id}.json"
        if _ID.fullmatch(token_id) is None or not path.exists():
            raise NotFound(f"there is no token {token_id[:32]!r}")
        self._disk.unlink(path)
        self._disk.sync_folder(self._folder)

    def state(self) -> frozenset[tuple[str, int, int]]:
        """Something that changes when files come, go, are replaced or written to."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    stat = entry.stat(follow_symlinks=False)
                    found.append((entry.name, stat.st_ino, stat.st_mtime_ns))
        return frozenset(found)

    def _read(self, name: str) -> Token:
        with (self._folder / name).open("rb") as file:
            data = file.read(_MAX_FILE + 1)
        if len(data) > _MAX_FILE:
            raise ValueError("it is too long")
        token = Token.model_validate_json(data)
        if f"{token.id}.json" != name:
            raise ValueError(f"it is the file of {token.id}")
        return token


class TokenTable:
    """The tokens that are good now, in memory; for the event loop."""

    def __init__(self, tokens: Iterable[Token] = ()) -> None:
        self._tokens = {token.id: token for token in tokens}
        self._hashes = {token.id: bytes.fromhex(token.sha256) for token in self._tokens.values()}

    @classmethod
    def of(cls, files: TokenFiles) -> Self:
        """Those of the files."""
        return cls(files.read())

    def replace(self, tokens: Iterable[Token]) -> None:
        """Take these instead, from the next request on."""
        fresh = TokenTable(tokens)
        self._tokens, self._hashes = fresh._tokens, fresh._hashes

    def good(self, token_id: str, now: float | None = None) -> bool:
        """Whether a token that was presented earlier still lets its bearer in."""
        token = self._tokens.get(token_id)
        return token is not None and not token.expired(time.time() if now is None else now)

    def remove(self, token_id: str) -> None:
        """Refuse a token from the next request on, if there is such a one."""
        self.replace(token for token in self._tokens.values() if token.id != token_id)

    def caller(self, presented: str, address: str, now: float | None = None) -> Caller | None:
        """Who presents this token; None for one that is unknown, expired or revoked.

        It is compared with every hash, none of which shows in the time that it takes.
        """
        if not presented.isascii() or len(presented) > _MAX_PRESENTED:
            return None
        actual = bytes.fromhex(_hash(presented))
        found = None
        for token_id, expected in self._hashes.items():
            if hmac.compare_digest(actual, expected):
                found = self._tokens[token_id]
        if found is None or found.expired(time.time() if now is None else now):
            return None
        return Caller(found.id, allowed(found.scopes), address)


def allowed(scopes: Iterable[Scope]) -> frozenset[Scope]:
    """All that these scopes allow: `operate` and `publish` each include `read`."""
    return frozenset(one for scope in scopes for one in _INCLUDES[scope])


def token_report(token: Token, now: float) -> dict[str, Any]:
    """What people may know of a token: everything but its hash. Times are RFC 3339."""
    return {
        "id": token.id,
        "name": token.name,
        "scope": token.scope,
        "created": _text(token.created),
        "expires": None if token.expires is None else _text(token.expires),
        "expired": token.expired(now),
    }


def _text(seconds: int) -> str:
    return time_text(datetime.fromtimestamp(seconds, UTC))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
