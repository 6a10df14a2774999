"""What all sections share: the types of values, the rule that half-set is refused, marks that the loader reads.

Values are strict, so that `port = "80"` or `workers = true` in a file is a fault and not a guess; the loader turns the
text of an environment variable into the type that its key has.

"" stands for "not given" wherever TOML would need a null, "auto" for a value that the node works out for itself.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, model_validator

from aibrother_node.config.values import check_hosts, check_url, read_list, read_path
from aibrother_node.units import parse_duration, parse_rate, parse_size

GIB: Final = 1024**3

Fault = tuple[str, str]
"""A key, relative to the model that found the fault, and the reason."""


class CrossFieldError(ValueError):
    """Keys that are right by themselves and wrong together; `faults` names each key and its reason."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        super().__init__("; ".join(f"{key}: {reason}" for key, reason in faults))


class PathKey:
    """Marks a key as a path, which the loader makes absolute; `literals` are values that are no path."""

    def __init__(self, *literals: str) -> None:
        self.literals = frozenset(literals)


class SecretFile(PathKey):
    """Marks a key as the path of a file that holds a secret: it may also be `credential:NAME`."""


class ListKey:
    """Marks a key that holds a list, for the loader to split the text of an environment variable."""


def _auto(read: Callable[[object], int]) -> Callable[[object], int | None]:
    return lambda value: None if value is None or value == "auto" else read(value)


def available_cores() -> int:
    """Count the cores that this process may run on, which a container or taskset may have made fewer."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


Size = Annotated[int, BeforeValidator(parse_size)]
"""Bytes."""
AutoSize = Annotated[int | None, BeforeValidator(_auto(parse_size))]
"""Bytes, or None for "auto"."""
Rate = Annotated[int, BeforeValidator(parse_rate)]
"""Bytes a second; 0 is no limit."""
Duration = Annotated[float, BeforeValidator(parse_duration)]
"""Seconds."""
Port = Annotated[int, Field(ge=0, le=65_535)]
"""0 lets the kernel pick."""
# The readers of paths and networks stand in for pydantic's own checks, which in strict mode and JSON take text only.
OptionalPath = Annotated[Path | None, PlainValidator(read_path), PathKey()]
OptionalSecret = Annotated[Path | None, PlainValidator(read_path), SecretFile()]
Hosts = Annotated[tuple[str, ...], BeforeValidator(check_hosts), ListKey()]
Url = Annotated[str, BeforeValidator(check_url)]
"""http or https, no query, no trailing slash; "" for none."""
Urls = Annotated[tuple[str, ...], BeforeValidator(read_list(check_url)), ListKey()]
Workers = Annotated[int, Field(ge=1, le=1024)]


class Section(BaseModel):
    """Base of the sections: immutable, strict, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="after")
    def _refusehalf_set(self) -> Self:
        faults = list(self.cross_faults())
        if faults:
            raise CrossFieldError(faults)
        return self

    def cross_faults(self) -> Iterator[Fault]:
        """Yield what is wrong between keys that are each right by themselves."""
        yield from ()


def half_set(section: Section, one: str, other: str) -> Iterator[Fault]:
    """Yield a fault at the key that is missing if only one of two is given."""
    missing = [key for key in (one, other) if getattr(section, key) is None]
    if len(missing) == 1:
        given = other if missing == [one] else one
        yield missing[0], f"is missing: {given} is set, and the two go together"
