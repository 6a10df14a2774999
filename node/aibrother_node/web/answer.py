"""What a GET or HEAD of a representation is answered: status, header fields and slices of bytes, without any IO.

`answer` is a pure function of the request and the representation; a sender carries its result out: the head, then the
parts in order, `bytes` as they are and each `Slice` from the representation's file. The order of decisions is that of
RFC 9110, 13.2.2: preconditions, If-Range, Range; a Range is looked at only in a GET (14.2) that would otherwise be 200.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from aibrother_node.web.conditional import HeaderGetter, Verdict, evaluate, if_range_holds
from aibrother_node.web.disposition import content_disposition
from aibrother_node.web.ranges import MAX_RANGES, Slice, content_range, parse_range, select, unsatisfied_range

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aibrother_node.content.digest import Digest

__all__ = [
    "Answer",
    "Header",
    "HeaderGetter",
    "Representation",
    "Slice",
    "answer",
    "blob_representation",
    "entity_tag",
    "manifest_representation",
    "problem",
    "repr_digest",
]

IMMUTABLE: Final = "public, max-age=31536000, immutable, no-transform"
BRIEF: Final = "public, max-age=300"
DOCUMENT: Final = "public, max-age=60"
CHUNKS_TYPE: Final = "application/vnd.aibrother.chunks+msgpack"
PROBLEM_TYPE: Final = "application/problem+json"
MAX_DETAIL: Final = 500
"""Characters of a problem's detail."""

Header: TypeAlias = tuple[str, str]

# What nearly every client sends; all else goes through the full parser, which gives the same for these.
_PLAIN_RANGE: Final = re.compile(r"bytes=([0-9]{1,18})-([0-9]{0,18})")
_STRONG_TAG: Final = re.compile(r'"[\x21\x23-\x7e]*"')
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE: Final = re.compile(r"[\x20-\x7e]*")
_BOUNDARY: Final = re.compile(r"[A-Za-z0-9_-]{1,70}")
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


@dataclass(frozen=True, slots=True)
class Representation:
    """Bytes that can be sent, as HTTP sees them: everything but the bytes.

    Build it once for each blob and keep it: the header fields that never change are laid out here.

    Attributes:
        size: in bytes.
        etag: the strong tag that is sent, with its quotes.
        accepted_etags: further tags that clients may use for the same bytes, with quotes; `etag` is accepted anyway.
        content_type, cache_control: values of these fields.
        headers: further fields: Repr-Digest, Link, Vary, Content-Disposition, Content-Encoding …
        accept_ranges: whether a Range is honoured; if not, it is ignored and `Accept-Ranges: none` says so.
    """

    size: int
    etag: str
    accepted_etags: tuple[str, ...] = ()
    content_type: str = "application/octet-stream"
    cache_control: str = IMMUTABLE
    headers: tuple[Header, ...] = ()
    accept_ranges: bool = True
    known_etags: tuple[str, ...] = field(init=False, repr=False, compare=False)
    whole_headers: tuple[Header, ...] = field(init=False, repr=False, compare=False)
    partial_headers: tuple[Header, ...] = field(init=False, repr=False, compare=False)
    cached_headers: tuple[Header, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Lay out the fixed header fields.

        Raises:
            ValueError: for a negative size, a tag that is weak or unquoted, or a field that would break the head apart.
        """
        if self.size < 0:
            raise ValueError(f"a size is not negative: {self.size}")
        known = tuple(dict.fromkeys((self.etag, *self.accepted_etags)))
        for tag in known:
            if not _STRONG_TAG.fullmatch(tag):
                raise ValueError(f"not a strong entity tag with its quotes: {tag!r}")
        validators = (("ETag", self.etag), ("Cache-Control", self.cache_control))
        vary = tuple(header for header in self.headers if header[0].lower() in ("vary", "content-location"))
        shared = (("Accept-Ranges", "bytes" if self.accept_ranges else "none"), *validators, *self.headers)
        typed = (("Content-Type", self.content_type), *shared)
        for name, value in typed:
            if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                raise ValueError(f"not a header field: {name!r}: {value!r}")
        set_field = object.__setattr__  # the class is frozen for everyone else
        set_field(self, "known_etags", known)
        set_field(self, "whole_headers", (("Content-Length", str(self.size)), *typed))
        set_field(self, "partial_headers", shared)
        set_field(self, "cached_headers", (*validators, *vary))


@dataclass(slots=True)
class Answer:
    """What to send.

    Attributes:
        status: the status code.
        headers: in the order in which to send them, with Content-Length unless the status forbids it (204, 304). The
            sender adds Date, Server, Connection and the CORS fields.
        parts: the body: literal bytes, and slices of the representation. Nothing for HEAD.
        body_length: the bytes in `parts`. For HEAD this is 0 whatever Content-Length says.
    """

    status: int
    headers: list[Header]
    parts: tuple[bytes | Slice, ...] = ()
    body_length: int = 0


def answer(
    method: str, headers: HeaderGetter, representation: Representation, *, boundary: str, max_ranges: int = MAX_RANGES
) -> Answer:
    """Answer a GET or HEAD of a representation that is here: 200, 206, 304, 412 or 416.

    No header value makes it raise.

    Args:
        method: "GET" or "HEAD"; the router answers everything else.
        headers: looks up a request header by its name in lower case, repeated lines joined by ", ".
        representation: what the request's target names, after content negotiation.
        boundary: separates the parts of a multipart answer: 1 to 70 letters, digits, `_` or `-`, not to be guessed by
            whoever writes content (RFC 2046, 5.1.1).
        max_ranges: specs in one Range above which the answer is 416.

    Raises:
        ValueError: for another method or a boundary that would need quoting.
    """
    if method not in ("GET", "HEAD"):
        raise ValueError(f"only GET and HEAD have representations: {method!r}")
    verdict = evaluate(headers, representation.known_etags)
    if verdict is Verdict.NOT_MODIFIED:
        return Answer(304, list(representation.cached_headers))
    if verdict is Verdict.FAILED:
        return problem(412, "Precondition Failed", "the If-Match condition names other bytes", method=method)
    if method == "HEAD":
        return Answer(200, list(representation.whole_headers))
    range_value = headers("range") if representation.accept_ranges else None
    if range_value is None:
        return _whole(representation)
    if_range = headers("if-range")
    if if_range is not None and not if_range_holds(if_range, representation.known_etags):
        return _whole(representation)
    size = representation.size
    plain = _PLAIN_RANGE.fullmatch(range_value)
    if plain is not None and max_ranges > 0:
        first = int(plain[1])
        stop = int(plain[2]) + 1 if plain[2] else size
        if first < size and first < stop:
            return _single(representation, Slice(first, min(stop, size) - first))
    specs = parse_range(range_value, max_ranges=max_ranges)
    slices = None if specs is None else select(specs, size, max_ranges=max_ranges)
    if slices is None:
        return _whole(representation)
    if not slices:
        detail = f"no range of this set is served: at most {max_ranges}, two of them overlapping, of {size} bytes"
        extra = (("Content-Range", unsatisfied_range(size)),)
        return problem(416, "Range Not Satisfiable", detail, headers=extra, method=method)
    if len(slices) == 1:
        return _single(representation, slices[0])
    return _multiple(representation, slices, boundary)


def _whole(representation: Representation) -> Answer:
    size = representation.size
    return Answer(200, list(representation.whole_headers), (Slice(0, size),) if size else (), size)


def _single(representation: Representation, piece: Slice) -> Answer:
    """A 206 with the same fields as the 200, also beside If-Range.

    RFC 9110, 15.3.7 would have them left out then; but who resumes a download from another node can use Repr-Digest.
    """
    head = [
        ("Content-Length", str(piece.length)),
        ("Content-Range", content_range(piece, representation.size)),
        ("Content-Type", representation.content_type),
    ]
    head += representation.partial_headers
    return Answer(206, head, (piece,), piece.length)


def _multiple(representation: Representation, slices: Sequence[Slice], boundary: str) -> Answer:
    """A 206 of several parts in the order asked for, overlaps sent twice (RFC 9110, 14.6 and 15.3.7.2)."""
    if not _BOUNDARY.fullmatch(boundary):
        raise ValueError(f"not a boundary: {boundary!r}")
    parts: list[bytes | Slice] = []
    length = 0
    opening = f"--{boundary}\r\nContent-Type: {representation.content_type}\r\nContent-Range: "
    for piece in slices:
        head = f"{opening}{content_range(piece, representation.size)}\r\n\r\n".encode("ascii")
        parts += (head, piece)
        length += len(head) + piece.length
        opening = f"\r\n--{boundary}\r\nContent-Type: {representation.content_type}\r\nContent-Range: "
    closing = f"\r\n--{boundary}--\r\n".encode("ascii")
    parts.append(closing)
    length += len(closing)
    head_fields = [("Content-Length", str(length)), ("Content-Type", f"multipart/byteranges; boundary={boundary}")]
    head_fields += representation.partial_headers
    return Answer(206, head_fields, tuple(parts), length)


def problem(
    status: int,
    title: str,
    detail: str,
    *,
    headers: Sequence[Header] = (),
    method: str,
    cache_control: str = "no-store",
    members: Mapping[str, Any] | None = None,
) -> Answer:
    """An error with a problem document as its body (RFC 9457), by default never cached.

    The detail is cut to 500 characters, with control characters replaced by spaces. `members` are further ones of the
    document, with JSON values.
    """
    shown = _CONTROLS.sub(" ", detail[:MAX_DETAIL]).strip()
    document: dict[str, Any] = {**(members or {}), "type": "about:blank", "title": title, "status": status}
    if shown:
        document["detail"] = shown
    body = json.dumps(document).encode("ascii")
    head = [
        ("Content-Length", str(len(body))),
        ("Content-Type", PROBLEM_TYPE),
        ("Cache-Control", cache_control),
        *headers,
    ]
    return Answer(status, head) if method == "HEAD" else Answer(status, head, (body,), len(body))


def entity_tag(digest: Digest, variant: str = "") -> str:
    """The tag of the bytes that `digest` names, or of a coding or view of them: `"sha256:<hex>;gzip"`."""
    return f'"{digest};{variant}"' if variant else f'"{digest}"'


def repr_digest(digest: Digest) -> Header:
    """The Repr-Digest field (RFC 9530, section 3) of bytes that are sent without a coding."""
    return "Repr-Digest", f"sha-256=:{b64encode(digest.raw).decode('ascii')}:"


def digest_header(digest: Digest) -> Header:
    """The Digest field (RFC 3230, 4.3.2), which RFC 6249 and older download managers know."""
    return "Digest", f"SHA-256={b64encode(digest.raw).decode('ascii')}"


def blob_representation(
    digest: Digest,
    size: int,
    *,
    filename: str | None = None,
    content_type: str = "application/octet-stream",
    cache_control: str = IMMUTABLE,
    headers: Sequence[Header] = (),
) -> Representation:
    """The representation of a blob's own bytes, under its digest or under a name from the catalog.

    Args:
        digest, size: of the blob; size in bytes.
        filename: what the client is to save it under; adds Content-Disposition.
        content_type: differs for documents, which are blobs too.
        cache_control: shorter for names that move.
        headers: further fields, such as Link.

    Raises:
        InvalidInput: for a file name that can't be used.
    """
    extra = [repr_digest(digest)]
    if filename is not None:
        extra.append(("Content-Disposition", content_disposition(filename)))
    return Representation(
        size=size,
        etag=entity_tag(digest),
        accepted_etags=(f'"{digest.hex}"',),
        content_type=content_type,
        cache_control=cache_control,
        headers=(*extra, *headers),
    )


def document_representation(
    digest: Digest, size: int, *, coding: str | None = None, cache_control: str = DOCUMENT
) -> Representation:
    """The representation of a JSON document of the catalog.

    Args:
        digest: of the document's own bytes, whatever the coding.
        size: of what is sent, in bytes.
        coding: `gzip` or `zstd`; None for the document's own bytes. A coded form has a tag of its own, no Repr-Digest
            of the signed bytes, and no ranges: two nodes' compressors need not agree on it.
        cache_control: its value.
    """
    vary = ("Vary", "Accept-Encoding")
    if coding is None:
        return blob_representation(
            digest, size, content_type="application/json", cache_control=cache_control, headers=(vary,)
        )
    return Representation(
        size=size,
        etag=entity_tag(digest, coding),
        content_type="application/json",
        cache_control=cache_control,
        headers=(("Content-Encoding", coding), vary),
        accept_ranges=False,
    )


def manifest_representation(digest: Digest, size: int, *, immutable: bool, as_json: bool = False) -> Representation:
    """The representation of a chunk manifest under `/v1/chunks`.

    Args:
        digest: of the manifest, whichever form is sent.
        size: of the form that is sent, in bytes.
        immutable: the request names this very manifest; else it asks for the catalog's, which may change.
        as_json: the view for people; its bytes are not those that `digest` names, so it has a tag of its own and no
            Repr-Digest.
    """
    cache_control = IMMUTABLE if immutable else BRIEF
    vary = ("Vary", "Accept")
    if as_json:
        return Representation(
            size=size,
            etag=entity_tag(digest, "json"),
            content_type="application/json",
            cache_control=cache_control,
            headers=(vary,),
        )
    return blob_representation(digest, size, content_type=CHUNKS_TYPE, cache_control=cache_control, headers=(vary,))
