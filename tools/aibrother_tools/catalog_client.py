"""How commands edit and read the catalog of a data directory, whether a node runs on it or not."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from aibrother_node.catalog.desk import NOT_HERE, Desk, Signing, utc_now
from aibrother_node.catalog.following import trust_state
from aibrother_node.catalog.indexing import follow
from aibrother_node.catalog.keys import KeyRing
from aibrother_node.catalog.repository import Repository
from aibrother_node.catalog.roles import OFFLINE_ROLES
from aibrother_node.errors import InvalidInput, NodeError, Refused
from aibrother_node.store.disk import Disk
from aibrother_node.store.layout import Layout
from aibrother_tools.local_client import change

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aibrother_node.config import NodeConfig
    from aibrother_node.store.blobs import BlobStore

_MAX_PASSPHRASE = 4096


def signing(config: NodeConfig) -> Signing:
    """What signing takes, from the configuration; the passphrase is read from its file.

    Raises:
        InvalidInput: the passphrase's file can't be read.
    """
    section = config.catalog
    passphrase = None
    if section.passphrase_file is not None:
        try:
            with section.passphrase_file.open(encoding="utf-8") as file:
                passphrase = file.read(_MAX_PASSPHRASE).rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"catalog.passphrase_file: {section.passphrase_file}: {error}") from error
    roles = ("root", "targets", "models", "staging", "fleet", "snapshot", "timestamp")
    expiries = {role: timedelta(seconds=getattr(section, f"{role}_expiry")) for role in roles}
    return Signing(config.keys_dir, passphrase, expiries, follows=follows(config))


def follows(config: NodeConfig) -> bool:
    """Whether this node follows a catalog that is signed elsewhere."""
    return not config.catalog.signer and trust_state(Layout(config.node.data)).is_dir()


def refuse_to_follow(config: NodeConfig) -> None:
    """Make sure, before work is done for an edit, that this node is one that signs.

    Raises:
        Refused: it follows a catalog that is signed elsewhere.
    """
    if follows(config):
        raise Refused(NOT_HERE)


def edit_catalog(config: NodeConfig, action: Mapping[str, Any]) -> dict[str, Any]:
    """Edit the catalog; when this returns, this node serves what it has become.

    Returns:
        `{entries, targets, versions}`, as `Done.to_json`.

    Raises:
        NodeError: what the desk says is wrong.
    """

    def offline(store: BlobStore) -> dict[str, Any]:
        follow(store, Disk())
        return Desk(store, signing(config), Disk()).run(action, utc_now()).to_json()

    answer: dict[str, Any] = change(config, offline, lambda node: node.ask("POST", "/catalog", action, timeout=None))
    return answer


def open_catalog(config: NodeConfig) -> Repository:
    """The catalog of this data directory, verified; for reading.

    Raises:
        NotFound: it has none.
    """
    layout = Layout(config.node.data)
    layout.check_version()
    return Repository.open(layout.catalog, Disk())


def keys_to_take_offline(config: NodeConfig) -> list[str]:
    """A warning for each private key in the keys folder that belongs on no machine that is reached from outside."""
    try:
        ring = KeyRing.load(config.keys_dir, Disk())
    except NodeError:
        return []
    return [
        f"{config.keys_dir / key.where.removeprefix('file:')}: keys of {key.role} belong offline, not on a public node"
        for role in OFFLINE_ROLES
        for key in ring.listed(role)
        if key.where.startswith("file:")
    ]
