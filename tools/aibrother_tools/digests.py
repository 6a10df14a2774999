"""A digest as a command's argument."""

from __future__ import annotations

from typing import Final

import click

from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput


class DigestParam(click.ParamType[str]):
    """Accepts `sha256:<64 hex digits>`; anything else is wrong usage."""

    name = "digest"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the text and hand it on as it is."""
        try:
            return str(Digest.parse(value))
        except InvalidInput as error:
            self.fail(str(error), param, ctx)


DIGEST: Final = DigestParam()
