"""How often fault and scale tests repeat: a few times in `make test`, with their full counts in `make soak`."""

import os

SOAK = os.environ.get("SOAK_TESTS") == "1"


def rounds(test: int, soak: int) -> int:
    """The number of rounds: `soak` under `make soak`, else `test`."""
    return soak if SOAK else test
