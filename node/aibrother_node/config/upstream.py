"""One `[[upstream]]`, and what several must agree on."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from aibrother_node.config.base import Fault, OptionalSecret, Section, Size, Url, half_set
from aibrother_node.config.values import check_bucket, check_label, check_prefix, check_upstream_name


class UpstreamSection(Section):
    """One `[[upstream]]`: a bucket, a release page or a plain HTTP origin."""

    name: Annotated[str, BeforeValidator(check_upstream_name)]
    kind: Literal["s3", "r2", "github", "http"]
    bucket: Annotated[str, BeforeValidator(check_bucket)] = ""
    endpoint: Url = ""
    region: Annotated[str, BeforeValidator(check_label)] = ""
    account_id: Annotated[str, Field(pattern=r"^([0-9a-f]{32})?$")] = ""
    prefix: Annotated[str, BeforeValidator(check_prefix)] = ""
    layout: Literal["cas", "filename"] = "cas"
    direction: Literal["pull", "push", "both"] = "both"
    priority: Annotated[int, Field(ge=0, le=1000)] = 100
    primary: bool = False
    pusher: bool = False
    replicated_from: str = ""
    access_key_file: OptionalSecret = None
    secret_key_file: OptionalSecret = None
    public_url: Url = ""
    budget: Size = 0

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, values: object) -> object:
        # What a kind can do in one way only need not be said; said wrongly, it is refused below.
        if not isinstance(values, Mapping):
            return values
        if values.get("kind") == "http":
            return {"direction": "pull", **values}
        if values.get("kind") == "github":
            return {"layout": "filename", **values}
        return values

    @property
    def has_credentials(self) -> bool:
        """Whether this node can sign requests to the upstream."""
        return self.secret_key_file is not None

    def cross_faults(self) -> Iterator[Fault]:
        """Each kind has keys that it needs and keys that mean nothing to it."""
        match self.kind:
            case "s3" | "r2":
                yield from self._bucket_faults()
            case "github":
                yield from self._github_faults()
            case "http":
                yield from self._http_faults()
        if self.kind != "r2" and self.account_id:
            yield "account_id", f"means nothing to kind {self.kind!r}; it belongs to r2"
        yield from self._push_faults()

    def _bucket_faults(self) -> Iterator[Fault]:
        yield from half_set(self, "access_key_file", "secret_key_file")
        if not self.bucket:
            yield "bucket", f"must be given for kind {self.kind!r}"
        elif "/" in self.bucket:
            yield "bucket", "a bucket's name has no slash; a folder in the bucket is `prefix`"
        if self.kind == "r2" and not (self.account_id or self.endpoint):
            yield "account_id", "kind 'r2' needs account_id or endpoint"
        if self.kind == "s3" and not (self.region or self.endpoint):
            yield "region", "kind 's3' needs region (AWS) or endpoint (anything else that speaks S3)"

    def _github_faults(self) -> Iterator[Fault]:
        if self.bucket.count("/") != 1:
            yield "bucket", "kind 'github' needs \"owner/repository\" here"
        if self.access_key_file:
            yield "access_key_file", "kind 'github' has one secret, its token; it goes into secret_key_file"
        if self.layout != "filename":
            yield "layout", "releases hold files by name; only \"filename\" is possible for kind 'github'"

    def _http_faults(self) -> Iterator[Fault]:
        if not self.endpoint:
            yield "endpoint", "must be given for kind 'http'"
        if self.direction != "pull":
            yield "direction", "kind 'http' can only be pulled from"
        for key in ("bucket", "region", "access_key_file", "secret_key_file"):
            if getattr(self, key):
                yield key, "means nothing to kind 'http'"

    def _push_faults(self) -> Iterator[Fault]:
        # "both" without credentials is fine: one node.toml for a whole fleet, where some nodes have the files and push.
        if self.direction == "push" and not self.has_credentials and self.kind != "http":
            yield "direction", "pushing needs credentials: give " + self._credential_keys
        if self.pusher and not self.has_credentials:
            yield "pusher", "pushing needs credentials: give " + self._credential_keys
        if self.pusher and self.direction == "pull":
            yield "pusher", 'contradicts direction = "pull"'
        if self.replicated_from:
            if self.replicated_from == self.name:
                yield "replicated_from", "names the upstream itself"
            if self.pusher:
                yield "pusher", "a bucket that its provider fills (replicated_from) is never pushed to"
            if self.direction == "push":
                yield "direction", "a bucket that its provider fills (replicated_from) is never pushed to"
        if self.primary and self.kind not in ("s3", "r2"):
            yield "primary", "the primary needs conditional writes, which only s3 and r2 have"
        if self.primary and self.direction == "pull":
            yield "primary", 'the primary is written to; contradicts direction = "pull"'

    @property
    def _credential_keys(self) -> str:
        return "secret_key_file (the token)" if self.kind == "github" else "access_key_file and secret_key_file"


def upstream_faults(upstreams: tuple[UpstreamSection, ...]) -> Iterator[Fault]:
    """Yield what is wrong between upstreams; keys begin with the upstream's name."""
    names = [upstream.name for upstream in upstreams]
    primaries = [upstream.name for upstream in upstreams if upstream.primary]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"{name}.name", f"{names.count(name)} upstreams have this name"
    for name in primaries[1:]:
        yield f"{name}.primary", f"only one upstream can be primary, and {primaries[0]} is"
    for upstream in upstreams:
        if upstream.replicated_from and upstream.replicated_from not in names:
            yield f"{upstream.name}.replicated_from", f"there is no upstream named {upstream.replicated_from!r}"
