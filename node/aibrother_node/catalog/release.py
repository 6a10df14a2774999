"""What a catalog says of one release: an entry, its parts, and what their GGUF header told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from aibrother_node.catalog import values
from aibrother_node.catalog.names import (
    MAX_PARTS,
    check_name,
    check_variant,
    check_version,
    moving_filename,
    moving_projector_filename,
    part_filename,
    projector_filename,
)
from aibrother_node.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aibrother_node.content.digest import Digest

MAX_TAGS: Final = 64
MAX_URLS: Final = 16

Key: TypeAlias = tuple[str, str, str]
"""Name, version and variant: what is never used twice."""


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """What the header of a GGUF file says; None for what it doesn't say, or says in a way that makes no sense.

    Attributes:
        version: of the format.
        architecture, name: `general.architecture`, `general.name`.
        parameters: elements of all tensors.
        context_length, embedding_length, block_count: `<architecture>.…`.
        quantization: as llama.cpp names it, `Q4_K_M`.
        file_type: `general.file_type`.
        tensor_count: how many.
        tokenizer: `tokenizer.ggml.model`.
        vocabulary: how many tokens.
        has_chat_template: whether there is one.
    """

    version: int | None = None
    architecture: str | None = None
    name: str | None = None
    parameters: int | None = None
    context_length: int | None = None
    embedding_length: int | None = None
    block_count: int | None = None
    quantization: str | None = None
    file_type: int | None = None
    tensor_count: int | None = None
    tokenizer: str | None = None
    vocabulary: int | None = None
    has_chat_template: bool | None = None

    def __post_init__(self) -> None:
        for key in _FACT_INTEGERS:
            value = getattr(self, key)
            if value is not None:
                values.integer(value, f"gguf.{key}")
        for key in _FACT_TEXTS:
            value = getattr(self, key)
            if value is not None:
                values.text(value, f"gguf.{key}", MAX_FACT)
        if self.has_chat_template is not None and type(self.has_chat_template) is not bool:
            raise InvalidInput("gguf.has_chat_template is neither true nor false")

    def to_json(self) -> dict[str, object]:
        """Return the JSON object, all keys in the contract's order."""
        return {key: getattr(self, key) for key in _FACTS}

    @classmethod
    def from_json(cls, value: object) -> GgufFacts:
        """Read the JSON object; unknown keys are ignored, missing ones are null.

        Raises:
            InvalidInput: a value breaks the rules.
        """
        document = values.mapping(value, "gguf")
        return cls(**{key: document.get(key) for key in _FACTS})  # type: ignore[arg-type]  # checked when made


MAX_FACT: Final = 256
"""Characters in a text of `GgufFacts`."""
_FACTS: Final = tuple(GgufFacts.__dataclass_fields__)
_FACT_TEXTS: Final = ("architecture", "name", "quantization", "tokenizer")
_FACT_INTEGERS: Final = tuple(key for key in _FACTS if key not in (*_FACT_TEXTS, "has_chat_template"))


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a release.

    Attributes:
        filename: its fixed name.
        sha256: of the whole file: the blob.
        size_bytes: its length.
        chunks: the manifest by which it is fetched and verified.
        pieces: the `fixed/1` manifest, which Metalink needs; the same one where the file can't be cut by `gguf/1`.
    """

    filename: str
    sha256: Digest
    size_bytes: int
    chunks: Digest
    pieces: Digest

    def __post_init__(self) -> None:
        values.integer(self.size_bytes, f"size_bytes of {self.filename}")

    def to_json(self) -> dict[str, object]:
        """Return the JSON object."""
        return {
            "filename": self.filename,
            "sha256": self.sha256.hex,
            "size_bytes": self.size_bytes,
            "chunks": str(self.chunks),
            "pieces": str(self.pieces),
        }

    @classmethod
    def from_json(cls, value: object) -> Part:
        """Read the JSON object.

        Raises:
            InvalidInput: a key is missing or a value breaks the rules.
        """
        what = "a part"
        document = values.mapping(value, what)
        return cls(
            values.text(values.member(document, "filename", what), "filename", 255),
            values.sha256(values.member(document, "sha256", what), "sha256"),
            values.integer(values.member(document, "size_bytes", what), "size_bytes"),
            values.digest(values.member(document, "chunks", what), "chunks"),
            values.digest(values.member(document, "pieces", what), "pieces"),
        )


def default_min_memory(size_bytes: int) -> int:
    """Return the memory that a model of this size is expected to need, in bytes: 15 % above its size."""
    return min(-(-size_bytes * 115 // 100), values.MAX_INTEGER)


@dataclass(frozen=True, slots=True)
class Entry:
    """A release, as documents show it.

    The file names are not free: part `i` of `n` has the name that `part_filename` gives it.

    Attributes:
        name, version, variant: which release.
        processed_date: when it was made, RFC 3339 in UTC.
        parts: in order; more than one is a shard set.
        gguf: what the (first) part's header says; parameters and tensors of all parts.
        projector: the file that goes with it for images or sound, if any.
        license: an SPDX expression, or `unknown`.
        description: for people; may have several lines.
        tags: sorted, each once.
        repo: where it comes from, `org/repo`.
        min_memory_bytes: what a machine should have; estimated from the size if None is given.
        urls: where else part 1 may be had; hints, never trusted.

    Raises:
        InvalidInput: a value breaks the rules.
    """

    name: str
    version: str
    variant: str
    processed_date: str
    parts: tuple[Part, ...]
    gguf: GgufFacts = GgufFacts()
    projector: Part | None = None
    license: str = "unknown"
    description: str = ""
    tags: tuple[str, ...] = ()
    repo: str | None = None
    min_memory_bytes: int | None = None
    urls: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name(values.text(self.name, "name", 96))
        check_version(values.text(self.version, "version", 48))
        check_variant(values.text(self.variant, "variant", 48))
        values.time(self.processed_date, "processed_date")
        self._check_parts()
        values.text(self.license, "license", 200, shortest=1)
        values.text(self.description, "description", 8192, lines=True)
        if len(self.tags) > MAX_TAGS:
            raise InvalidInput(f"{len(self.tags)} tags are more than the {MAX_TAGS} allowed")
        tags = sorted({values.text(tag, "a tag", 64, shortest=1) for tag in self.tags})
        object.__setattr__(self, "tags", tuple(tags))
        if self.repo is not None:
            values.text(self.repo, "repo", 256)
        if self.min_memory_bytes is None:
            object.__setattr__(self, "min_memory_bytes", default_min_memory(self.size_bytes))
        values.integer(self.min_memory_bytes, "min_memory_bytes")
        if len(self.urls) > MAX_URLS:
            raise InvalidInput(f"{len(self.urls)} URLs are more than the {MAX_URLS} allowed")
        for url in self.urls:
            values.url(url, "a URL")
        object.__setattr__(self, "urls", tuple(self.urls))

    def _check_parts(self) -> None:
        if not 1 <= len(self.parts) <= MAX_PARTS:
            raise InvalidInput(f"a release has 1 to {MAX_PARTS} parts, not {len(self.parts)}")
        of = len(self.parts)
        for number, part in enumerate(self.parts, 1):
            expected = part_filename(self.name, self.version, self.variant, number, of)
            if part.filename != expected:
                raise InvalidInput(f"part {number} of {of} must be called {expected}, not {part.filename!r:.300}")
        if self.projector is not None:
            expected = projector_filename(self.name, self.version, self.variant)
            if self.projector.filename != expected:
                raise InvalidInput(f"the projector must be called {expected}, not {self.projector.filename!r:.300}")
        values.integer(self.size_bytes, "the sum of all parts' sizes")

    @property
    def key(self) -> Key:
        """Name, version and variant."""
        return self.name, self.version, self.variant

    @property
    def filename(self) -> str:
        """The fixed name of part 1."""
        return self.parts[0].filename

    @property
    def sha256(self) -> Digest | None:
        """The blob; None for a shard set."""
        return self.parts[0].sha256 if len(self.parts) == 1 else None

    @property
    def size_bytes(self) -> int:
        """Of all parts together, without the projector."""
        return sum(part.size_bytes for part in self.parts)

    @property
    def chunks(self) -> Digest | None:
        """The manifest; None for a shard set."""
        return self.parts[0].chunks if len(self.parts) == 1 else None

    @property
    def pieces(self) -> Digest | None:
        """The `fixed/1` manifest; None for a shard set."""
        return self.parts[0].pieces if len(self.parts) == 1 else None

    @property
    def files(self) -> tuple[Part, ...]:
        """All parts, and the projector after them."""
        return self.parts if self.projector is None else (*self.parts, self.projector)

    def moving_filenames(self) -> tuple[str, ...]:
        """Return the moving names of `files`, in the same order."""
        of = len(self.parts)
        names = tuple(moving_filename(self.name, self.variant, number, of) for number in range(1, of + 1))
        return names if self.projector is None else (*names, moving_projector_filename(self.name, self.variant))

    def to_json(self) -> dict[str, object]:
        """Return the JSON object, keys in the contract's order."""
        return {
            "name": self.name,
            "version": self.version,
            "variant": self.variant,
            "filename": self.filename,
            "sha256": None if self.sha256 is None else self.sha256.hex,
            "size_bytes": self.size_bytes,
            "processed_date": self.processed_date,
            "chunks": None if self.chunks is None else str(self.chunks),
            "pieces": None if self.pieces is None else str(self.pieces),
            "parts": [part.to_json() for part in self.parts],
            "projector": None if self.projector is None else self.projector.to_json(),
            "license": self.license,
            "description": self.description,
            "tags": list(self.tags),
            "repo": self.repo,
            "min_memory_bytes": self.min_memory_bytes,
            "urls": list(self.urls),
            "gguf": self.gguf.to_json(),
        }

    @classmethod
    def from_json(cls, value: object) -> Entry:
        """Read the JSON object; unknown keys are ignored.

        Raises:
            InvalidInput: a key is missing, a value breaks the rules, or the whole is not what its parts are.
        """
        document = values.mapping(value, "an entry")

        def get(key: str) -> object:
            return values.member(document, key, "an entry")

        projector = get("projector")
        entry = cls(
            name=get("name"),  # type: ignore[arg-type]  # what is only passed on is checked when the entry is made
            version=get("version"),  # type: ignore[arg-type]
            variant=get("variant"),  # type: ignore[arg-type]
            processed_date=get("processed_date"),  # type: ignore[arg-type]
            parts=tuple(Part.from_json(part) for part in values.sequence(get("parts"), "parts", MAX_PARTS)),
            gguf=GgufFacts.from_json(get("gguf")),
            projector=None if projector is None else Part.from_json(projector),
            license=get("license"),  # type: ignore[arg-type]
            description=get("description"),  # type: ignore[arg-type]
            tags=tuple(values.sequence(get("tags"), "tags", MAX_TAGS)),  # type: ignore[arg-type]
            repo=get("repo"),  # type: ignore[arg-type]
            min_memory_bytes=values.integer(get("min_memory_bytes"), "min_memory_bytes"),
            urls=tuple(values.sequence(get("urls"), "urls", MAX_URLS)),  # type: ignore[arg-type]
        )
        _check_same(entry, document)
        return entry


def _check_same(entry: Entry, document: dict[str, object]) -> None:
    """Refuse an entry of which the whole says other than its parts: readers may look at either."""
    single = entry.parts[0] if len(entry.parts) == 1 else None
    for key, expected in (
        ("filename", entry.filename),
        ("sha256", None if single is None else single.sha256.hex),
        ("size_bytes", entry.size_bytes),
        ("chunks", None if single is None else str(single.chunks)),
        ("pieces", None if single is None else str(single.pieces)),
    ):
        if values.member(document, key, "an entry") != expected:
            raise InvalidInput(f"{key} of {entry.filename} is not what its parts say: {document[key]!r:.100}")


def content_of(entry: Entry) -> tuple[Digest, ...]:
    """Return the digests of all files of a release."""
    return tuple(file.sha256 for file in entry.files)


def show_content(digests: Sequence[Digest]) -> str:
    """Write digests for people: all of a few, the first of many."""
    shown = ", ".join(map(str, digests[:3]))
    return shown if len(digests) <= 3 else f"{shown} and {len(digests) - 3} more"
