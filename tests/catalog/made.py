"""Entries for tests, from a few words."""

from __future__ import annotations

import hashlib
from typing import Any

from aibrother_node.catalog.entries import Entry, GgufFacts, Part
from aibrother_node.catalog.names import part_filename, projector_filename
from aibrother_node.content.digest import Digest


def digest_of(text: str) -> Digest:
    """Return the SHA-256 of the text: other words, other content."""
    return Digest(hashlib.sha256(text.encode()).digest())


def made_part(filename: str, content: str, size: int = 1000) -> Part:
    return Part(
        filename, digest_of(content), size, digest_of(f"chunks of {content}"), digest_of(f"pieces of {content}")
    )


def made_entry(
    name: str = "phi-2-mobile",
    version: str = "2026.11.1",
    variant: str = "q4_k_m",
    content: str | None = None,
    *,
    shards: int = 1,
    projector: str | None = None,
    date: str = "2026-11-01T12:00:00Z",
    **more: Any,
) -> Entry:
    """Return an entry whose content is named by words; without them it is the release's own."""
    words = f"{name} {version} {variant}" if content is None else content
    parts = tuple(
        made_part(part_filename(name, version, variant, number, shards), f"{words} {number}", 1000 + number)
        for number in range(1, shards + 1)
    )
    with_it = None if projector is None else made_part(projector_filename(name, version, variant), projector, 50)
    return Entry(name, version, variant, date, parts, projector=with_it, **more)


PHI = made_entry(
    license="mit",
    description="A small model.\nFor phones.",
    tags=("chat", "small", "chat"),
    repo="microsoft/phi-2",
    urls=("https://example.org/phi%202.gguf",),
    gguf=GgufFacts(
        version=3,
        architecture="phi2",
        name="Phi 2 – möbile",
        parameters=2_779_683_840,
        context_length=2048,
        embedding_length=2560,
        block_count=32,
        quantization="Q4_K_M",
        file_type=15,
        tensor_count=325,
        tokenizer="gpt2",
        vocabulary=51_200,
        has_chat_template=False,
    ),
)
"""An entry with something in every field but the projector."""
