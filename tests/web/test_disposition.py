"""Content-Disposition for proposed file names."""

from __future__ import annotations

import re
from email.message import Message
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aibrother_node.errors import InvalidInput
from aibrother_node.web.disposition import clean_filename, content_disposition

from . import law


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x.gguf", 'attachment; filename="x.gguf"'),
        ("phi-2 mobile (q4).gguf", 'attachment; filename="phi-2 mobile (q4).gguf"'),
        ("../../etc/passwd", 'attachment; filename="passwd"'),
        ("C:\\models\\x.gguf", 'attachment; filename="x.gguf"'),
        ("x\r\nSet-Cookie: a=b", 'attachment; filename="xSet-Cookie: a=b"'),
        ("a\x00\x1f\x7f\x85b", 'attachment; filename="ab"'),
        ("\u202efugg.exe", 'attachment; filename="fugg.exe"'),
        (" x.gguf\u3000", 'attachment; filename="x.gguf"'),
        ('a"b.gguf', 'attachment; filename="a\\"b.gguf"; filename*=UTF-8\'\'a%22b.gguf'),
        ("100%41.gguf", "attachment; filename=\"100%41.gguf\"; filename*=UTF-8''100%2541.gguf"),
        ("café.gguf", "attachment; filename=\"cafe.gguf\"; filename*=UTF-8''caf%C3%A9.gguf"),
        ("€ rates", "attachment; filename=\"_ rates\"; filename*=UTF-8''%E2%82%AC%20rates"),  # RFC 8187, 3.2.3; 6266, 5
        ("模型.gguf", "attachment; filename=\"__.gguf\"; filename*=UTF-8''%E6%A8%A1%E5%9E%8B.gguf"),
        ("\u0301", "attachment; filename=\"_\"; filename*=UTF-8''%CC%81"),
        ("a" * 255, f'attachment; filename="{"a" * 255}"'),
    ],
)
def test_content_disposition(name: str, value: str) -> None:
    assert content_disposition(name) == value


@pytest.mark.parametrize(
    "name", ["", ".", "..", " .. ", "a/", "a/..", "\\", "\x00", "\u202e.", "a" * 256, "é" * 128, "a" * 10**6, "\ud800"]
)
def test_unusable_names(name: str) -> None:
    with pytest.raises(InvalidInput):
        content_disposition(name)


@law
@given(st.text(max_size=300))
@example("\u2025")  # decomposes, compatibly, to ".."
@example("\u2100")  # and this one to "a/c"
@example("\u037e\u1fef\u226e")  # canonically, to ASCII
def test_any_name_makes_a_safe_field_or_is_refused(name: str) -> None:
    try:
        value = content_disposition(name)
    except InvalidInput:
        return
    cleaned = clean_filename(name)
    assert re.fullmatch(r"[\x20-\x7e]+", value)
    assert len(cleaned.encode()) <= 255
    assert not set(cleaned) & set("/\\\r\n\0")

    # Both parameters as they stand; the email package's own parser would mix them.
    found = re.fullmatch(r"""attachment; filename="((?:[^"\\]|\\")*)"(?:; filename\*=UTF-8''([\x21-\x7e]+))?""", value)
    assert found is not None
    assert found[1].strip() not in ("", ".", "..")
    assert "/" not in found[1]
    assert cleaned == (found[1] if found[2] is None else unquote(found[2], errors="strict"))


@pytest.mark.parametrize("name", ["x.gguf", 'a"b c.gguf', "café €.gguf"])
def test_a_mime_parser_reads_the_name_back(name: str) -> None:
    message = Message()
    message["Content-Disposition"] = re.sub(r'filename=".*?[^\\]"; ', "", content_disposition(name))
    assert message.get_filename() == name
