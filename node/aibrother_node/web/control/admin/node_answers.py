"""What the routes about the node answer, for the OpenAPI document. Readers allow for more members than these."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue


class Output(BaseModel):
    """Base of the models of answers: what is said of one is held in the tests; later versions add members."""

    model_config = ConfigDict(extra="allow", json_schema_serialization_defaults_required=True)


class StatusOfNode(Output):
    """Who it is; `region` and `id` may be unknown."""

    id: str | None
    region: str | None
    running: bool
    version: str


class StatusOfCatalog(Output):
    """Which catalog it has; times are RFC 3339."""

    version: int
    published: str
    expires: str
    stale: bool


class StatusOfStore(Output):
    """What it stores, in bytes."""

    blobs: int
    bytes: int
    free: int


class StatusAnswer(Output):
    """How the node is."""

    node: StatusOfNode
    catalog: StatusOfCatalog | None
    store: StatusOfStore
    fills: list[dict[str, JsonValue]]
    jobs: list[dict[str, JsonValue]]


class PeerSelf(Output):
    """This node as its fleet sees it."""

    id: str
    region: str | None
    url: str | None
    state: str
    catalog_version: int
    alarm: str | None


class Peer(Output):
    """Another node of the fleet."""

    id: str
    region: str | None
    url: str | None
    state: str
    catalog_version: int | None
    last_seen: str | None


class PeersAnswer(Output):
    """The fleet."""

    self: PeerSelf
    peers: list[Peer]


class ConfigAnswer(Output):
    """A member for each section, with its keys; `sources` says for each key that was set where that was."""

    sources: dict[str, str]


class AuditEntry(Output):
    """One entry: an action, or a refusal.

    `last` and `count` tell of refusals that were counted in one entry; `status` is null while an action runs, and for
    good where the node ended in its middle.
    """

    id: int
    at: str
    last: str
    refusal: bool
    caller: str | None
    address: str
    action: str | None
    target: dict[str, JsonValue]
    request: JsonValue
    status: int | None
    result: Literal["begun", "done", "failed", "refused", "interrupted"]
    notes: dict[str, JsonValue]
    count: int


class AuditPage(Output):
    """A page of the audit log, the newest entry first; `next` is the `before` of the next page."""

    entries: list[AuditEntry]
    next: int | None


class PinAnswer(Output):
    """Whether a blob is pinned."""

    digest: str
    pinned: bool


class Pin(Output):
    """A pinned blob, and why."""

    digest: str
    reason: str


class PinsPage(Output):
    """A page of pins; `next` is the `after` of the next page."""

    pins: list[Pin]
    next: str | None
