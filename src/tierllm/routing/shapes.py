"""Whether data has the shape that a JSON schema describes: the part of the language that models are given."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["fits"]

DEEPEST = 64
"""Deeper data is not looked at any further, and does not fit: schemas that are given to models are flat."""


def fits(data: object, schema: Mapping[str, Any], depth: int = 0) -> bool:
    """Whether ``data`` (as ``json.loads`` gives it) has what ``schema`` asks for, as far as it is known here.

    Looks at ``type``, ``enum``, ``const``, ``properties``, ``required``, ``additionalProperties: false``,
    ``items``, ``minItems``, ``maxItems``, ``minimum``, ``maximum``, ``anyOf`` and ``oneOf`` (as ``anyOf``).
    Keywords that it does not know hold.
    """
    if depth > DEEPEST:
        return False
    kinds = schema.get("type")
    if kinds is not None and not any(_is(data, kind) for kind in _listed(kinds)):
        return False
    options = schema.get("enum")
    if isinstance(options, list | tuple) and not any(_same(data, option) for option in options):
        return False
    if "const" in schema and not _same(data, schema["const"]):
        return False
    for name in ("anyOf", "oneOf"):
        ways = schema.get(name)
        if isinstance(ways, list | tuple) and not any(
            isinstance(way, Mapping) and fits(data, way, depth + 1) for way in ways
        ):
            return False
    if isinstance(data, dict):
        return _object_fits(data, schema, depth)
    if isinstance(data, list):
        return _list_fits(data, schema, depth)
    return not _number(data) or _within(data, schema.get("minimum"), schema.get("maximum"))  # type: ignore[arg-type]


def _object_fits(data: dict[str, Any], schema: Mapping[str, Any], depth: int) -> bool:
    required, known = schema.get("required"), schema.get("properties")
    if isinstance(required, list | tuple) and any(name not in data for name in required):
        return False
    if not isinstance(known, Mapping):
        return True
    if schema.get("additionalProperties") is False and any(name not in known for name in data):
        return False
    return all(
        fits(value, known[name], depth + 1)
        for name, value in data.items()
        if isinstance(known.get(name), Mapping)
    )


def _list_fits(data: list[Any], schema: Mapping[str, Any], depth: int) -> bool:
    if not _within(len(data), schema.get("minItems"), schema.get("maxItems")):
        return False
    each = schema.get("items")
    return not isinstance(each, Mapping) or all(fits(item, each, depth + 1) for item in data)


def _within(value: float, least: object, most: object) -> bool:
    below = _number(least) and value < least  # type: ignore[operator]
    above = _number(most) and value > most  # type: ignore[operator]
    return not (below or above or math.isnan(value))


def _listed(kinds: object) -> list[object]:
    return list(kinds) if isinstance(kinds, list | tuple) else [kinds]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(one: object, other: object) -> bool:
    """``True`` is not 1 in JSON."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _whole(value: object) -> bool:
    return _number(value) and (isinstance(value, int) or value.is_integer())  # type: ignore[attr-defined]


KINDS: Mapping[str, Callable[[object], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": _number,
    "integer": _whole,
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


def _is(value: object, kind: object) -> bool:
    check = KINDS.get(kind) if isinstance(kind, str) else None
    return check is None or check(value)
