"""The name of a blob: `sha256:` and 64 lower-case hex digits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from aibrother_node.errors import InvalidInput

_HEX: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A SHA-256 value (FIPS 180-4) that has been checked: paths and URLs may be built from it.

    Attributes:
        raw: the 32 bytes.
    """

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != 32:
            raise InvalidInput(f"a SHA-256 has 32 bytes, not {len(self.raw)}")

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read `sha256:<64 lower-case hex digits>`.

        Raises:
            InvalidInput: for anything else, other algorithms and upper case included.
        """
        algorithm, colon, hex_digits = text.partition(":")
        if not colon or algorithm != "sha256":
            raise InvalidInput(f"not a digest (sha256:<64 hex digits>): {text[:80]!r}")
        return cls.from_hex(hex_digits)

    @classmethod
    def from_hex(cls, hex_digits: str) -> Digest:
        """Read the 64 lower-case hex digits alone.

        Raises:
            InvalidInput: for anything else.
        """
        if not _HEX.fullmatch(hex_digits):
            raise InvalidInput(f"a digest has 64 lower-case hex digits, not {hex_digits[:80]!r}")
        return cls(bytes.fromhex(hex_digits))

    @property
    def hex(self) -> str:
        """The 64 lower-case hex digits."""
        return self.raw.hex()

    def __str__(self) -> str:
        return f"sha256:{self.raw.hex()}"
