"""Faults in words: source, key, reason."""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pydantic import BeforeValidator, ValidationError

from aibrother_node.config.base import CrossFieldError
from aibrother_node.config.layers import Key, Layers, marks, model_field
from aibrother_node.config.schema import NodeConfig, keys_of_section
from aibrother_node.units import parse_duration, parse_size

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def explain(error: ValidationError, layers: Layers) -> list[str]:
    """Write each fault as `source: key: reason`, in the order of the schema."""
    return [
        f"{layers.label_of(key)}: {layers.show(key)}: {reason}"
        for detail in error.errors(include_url=False)
        for key, reason in _faults(detail, layers)
    ]


def _faults(detail: "ErrorDetails", layers: Layers) -> Iterator[tuple[Key, str]]:
    key: Key = detail["loc"]
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, CrossFieldError):
        for name, reason in cause.faults:
            yield _absolute(key, name, layers), reason
    elif detail["type"] == "extra_forbidden":
        yield key, _unknown(key)
    elif detail["type"] in {"model_type", "model_attributes_type"}:
        yield key, _not_a_table(key)
    elif key == ("upstream",):
        yield key, "write [[upstream]], one for each"
    else:
        # A union's alternatives each leave their own trail behind the key; one line a key is enough.
        key = key[: 3 if key[0] == "upstream" else 2]
        yield key, _reason(detail, cause, _unit(key))


def _absolute(key: Key, name: str, layers: Layers) -> Key:
    """Join the model that found a fault and the key it named; upstreams are named by their names there."""
    parts: tuple[str | int, ...] = tuple(name.split("."))
    if key == ("upstream",):
        named = [i for i in range(len(layers.upstreams() or [])) if layers.upstream_name(i) == parts[0]]
        parts = (named[-1], *parts[1:])
    return (*key, *parts)


def _unknown(key: Key) -> str:
    if len(key) == 1:
        homes = [name for name in NodeConfig.model_fields if key[0] in keys_of_section(name)]
        if homes:
            return f"stands outside its section; it belongs under [{homes[0]}]"
        return "there is no such section" + _close(str(key[0]), list(NodeConfig.model_fields))
    name, section = str(key[-1]), str(key[0])
    hint = _close(name, keys_of_section(section))
    homes = [other for other in NodeConfig.model_fields if name in keys_of_section(other)]
    if not hint and homes:
        hint = f"; there is one in [{homes[0]}]"
    return f"there is no such key{hint}"


def _close(word: str, known: list[str]) -> str:
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _not_a_table(key: Key) -> str:
    return f"must be a table: [{key[0]}]" if key[0] != "upstream" else "write [[upstream]], one for each"


def _unit(key: Key) -> str:
    """Name the unit in which a key's range is given."""
    info = model_field(key)
    readers = [mark.func for mark in marks(info) if isinstance(mark, BeforeValidator)] if info else []
    if parse_duration in readers:
        return " seconds"
    return " bytes" if parse_size in readers else ""


def _reason(detail: "ErrorDetails", cause: object, unit: str) -> str:
    # A value is shown where its type is wrong or out of range, never where it may be a path or URL with a secret in it:
    # those raise ValueError, and their reasons say what may be said.
    if isinstance(cause, ValueError):
        return str(cause)
    context: dict[str, Any] = detail.get("ctx", {})
    got = f", not {_shown(detail['input'])}"
    match detail["type"]:
        case "greater_than_equal":
            return f"must be at least {_number(context['ge'])}{unit}{got}"
        case "less_than_equal":
            return f"must be at most {_number(context['le'])}{unit}{got}"
        case "literal_error":
            return f"must be {context['expected']}{got}"
        case "int_type" | "int_from_float":
            return f"must be a whole number{got}"
        case "float_type" | "finite_number":
            return f"must be a number{got}"
        case "bool_type":
            return f"must be true or false{got}"
        case "string_type":
            return "must be text"
        case "missing":
            return "must be given"
        case "too_short":
            return "must name at least one"
        case _:
            return detail["msg"]


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else str(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
