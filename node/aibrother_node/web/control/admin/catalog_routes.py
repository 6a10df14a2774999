"""The catalog for publishers elsewhere: what is signed now, its files, and the way in for roles that they signed.

A publisher needs nothing but the control plane's URL: it reads the catalog's files here and verifies them as any client
does, signs its role's metadata with its own key, and sends that with the version that it was built on. This node
believes none of it: it holds to the rules that clients hold to and those of editing (accept.py, lawful.py), looks at
the files that are named (`Desk.inspect`), and signs snapshot and timestamp. What a token for publishing can do without
the role's key is to fill the store with blobs that nobody names.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import TYPE_CHECKING, Annotated, Any, Final

from aiohttp import web
from pydantic import BaseModel, Field

from aibrother_node.catalog.accept import Draft, Moved
from aibrother_node.catalog.desk import NOT_HERE
from aibrother_node.catalog.entries import MAX_CATALOG_BYTES
from aibrother_node.catalog.files import CatalogFiles
from aibrother_node.catalog.repository import Repository
from aibrother_node.catalog.roles import check_target_path
from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput, NotFound, Refused, VerificationFailed
from aibrother_node.web.control.admin.inputs import Input
from aibrother_node.web.control.admin.operation import Documented, Operation, Reply, Scope
from aibrother_node.web.control.admin.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aibrother_node.store.disk import Disk
    from aibrother_node.store.layout import Layout
    from aibrother_node.web.control.admin.operation import Call

MAX_BODY: Final = 128 << 20
"""Bytes of what is sent in, as JSON: `catalog.json` has about 1.2 KB for each name and variant, most of all of it."""
_MOST_ROLES: Final = 64
_MOST_DOCUMENTS: Final = 20_000
_ROLE_FILE: Final = re.compile(r"(?:[1-9][0-9]{0,14}\.([a-z0-9-]{1,64})|timestamp)\.json", re.ASCII)
_DOCUMENT: Final = re.compile(r"([0-9a-f]{64})\.(.{1,255})", re.ASCII)
_NAME: Final[Mapping[str, Any]] = {"type": "string", "pattern": "^[a-z0-9][a-z0-9._+-]{0,400}$"}
_FOLDER: Final[Mapping[str, Any]] = {"type": "string", "enum": ["models", "staging"]}


class SignedRoles(Input):
    """Roles that were signed elsewhere.

    Attributes:
        roles: their files' text, by role.
        base: the version that each was built on.
        documents: the text of the documents that they name anew, by target path.
    """

    roles: Annotated[dict[str, str], Field(min_length=1, max_length=_MOST_ROLES)]
    base: Annotated[dict[str, int], Field(max_length=_MOST_ROLES)]
    documents: Annotated[dict[str, str], Field(max_length=_MOST_DOCUMENTS)] = {}  # noqa: RUF012 - pydantic copies it


class RootFile(BaseModel):
    """The newest root: its version, and the digest of its file."""

    version: int
    sha256: str


class CatalogState(BaseModel):
    """What is signed now: versions and expiries by role, and whether edits are made visible here."""

    versions: dict[str, int]
    expires: dict[str, str]
    root: RootFile
    signer: bool


class NewVersions(BaseModel):
    """The new version of each role that changed."""

    versions: dict[str, int]


class CatalogRoutes:
    """The operations on the catalog.

    Args:
        layout: of the data directory.
        disk: the file system.
        signs: tells whether edits are made visible here.
        accept: takes roles in; it is told of at most one at a time.
    """

    def __init__(
        self,
        layout: Layout,
        disk: Disk,
        signs: Callable[[], bool],
        accept: Callable[[Draft], Awaitable[dict[str, int]]],
    ) -> None:
        self._files = CatalogFiles(layout.catalog, disk)
        self._layout = layout
        self._disk = disk
        self._signs = signs
        self._accept = accept

    def operations(self) -> list[Operation]:
        """All of them."""
        file = {200: Documented("the file, as it was signed", media_type="application/octet-stream")}
        return [
            Operation(
                "get_catalog",
                "GET",
                "/catalog",
                Scope.READ,
                "Tell which version of each role is signed now.",
                self._state,
                {200: Documented("versions and expiries", CatalogState)},
            ),
            Operation(
                "post_catalog",
                "POST",
                "/catalog",
                Scope.PUBLISH,
                "Make roles visible that were signed elsewhere.",
                self._post,
                {
                    200: Documented("they are visible", NewVersions),
                    409: Documented("the catalog has moved on: `versions` are the current ones, `free` the next"),
                    413: Documented("it is too large"),
                    422: Documented("signatures, paths, documents or files break the rules"),
                    503: Documented("others are sending as much as is taken at a time"),
                    507: Documented("there is no room"),
                },
                body=SignedRoles,
                max_body=MAX_BODY,
            ),
            *(
                Operation(
                    name,
                    "GET",
                    f"/catalog/files/{path}",
                    Scope.READ,
                    "Read a file of the catalog, as a client of consistent snapshots asks for it.",
                    self._file,
                    file,
                    parameters=parameters,
                )
                for name, path, parameters in (
                    ("get_metadata", "metadata/{role_file}", {"role_file": _NAME}),
                    ("get_document", "targets/{document}", {"document": _NAME}),
                    ("get_document_below", "targets/{folder}/{document}", {"folder": _FOLDER, "document": _NAME}),
                )
            ),
        ]

    async def _state(self, _: Call) -> Reply:
        return Reply((await asyncio.to_thread(self._read_state)).model_dump())

    async def _file(self, call: Call) -> web.Response:
        data = await asyncio.to_thread(self._read, call.path)
        return web.Response(body=data, content_type="application/octet-stream")

    async def _post(self, call: Call) -> Reply:
        sent: SignedRoles = call.body
        if not self._signs():
            raise Refused(NOT_HERE)
        call.notes["roles"] = {role: sent.base.get(role) for role in sorted(sent.roles)}
        draft = await asyncio.to_thread(_draft, sent)
        try:
            versions = await self._accept(draft)
        except Moved as moved:
            members = {"versions": moved.versions, "free": moved.free}
            raise Problem(409, "Conflict", str(moved), members=members) from None
        except VerificationFailed as error:
            raise Problem(422, "Unprocessable Content", str(error)) from None
        call.notes["versions"] = versions
        return Reply(NewVersions(versions=versions).model_dump())

    def _read_state(self) -> CatalogState:
        repository = Repository.open(self._layout.catalog, self._disk)
        expires = {role: when.strftime("%Y-%m-%dT%H:%M:%SZ") for role, when in repository.expiry().items()}
        root = RootFile(
            version=repository.versions["root"],
            sha256=str(Digest(hashlib.sha256(repository.root_bytes()).digest())),
        )
        return CatalogState(versions=repository.versions, expires=expires, root=root, signer=self._signs())

    def _read(self, names: Mapping[str, str]) -> bytes:
        """A file of the catalog by names that were checked to be plain ones."""
        if "role_file" in names:
            name = names["role_file"]
            found = _ROLE_FILE.fullmatch(name)
            if found is None:
                raise NotFound(f"no metadata is called {name}")
            return self._files.read_role(self._files.metadata / name, found[1] or "timestamp")
        found = _DOCUMENT.fullmatch(names["document"])
        if found is None:
            raise NotFound(f"no document is called {names['document']}")
        folder = f"{names['folder']}/" if "folder" in names else ""
        try:
            path = self._files.document(f"{folder}{found[2]}", Digest.from_hex(found[1]))
        except InvalidInput as error:
            raise NotFound(str(error)) from None
        return self._files.read(path, MAX_CATALOG_BYTES)


def _draft(sent: SignedRoles) -> Draft:
    return Draft(
        {role: text.encode() for role, text in sent.roles.items()},
        dict(sent.base),
        {check_target_path(path): text.encode() for path, text in sent.documents.items()},
    )
