"""Functions and schemas as a model gets to see them.

OpenAI shows a model its functions as TypeScript: a namespace with one type a function. That text is
not part of any reply, so it is rebuilt here from what is known of it; nested descriptions are kept
and schema keywords without a TypeScript form are added as comments, so that the guess errs upward.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache

__all__ = ["Shown", "as_json", "rendered"]

_SHOWN = frozenset(
    {
        "type",
        "description",
        "properties",
        "required",
        "items",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "additionalProperties",
        "strict",
        "title",
    }
)
_DEEP = 32


class Shown:
    """Tools, a list, or a response format, in the forms in which a model may get to see them."""

    __slots__ = ("_given",)

    def __init__(self, given: object) -> None:
        self._given = given

    @property
    def most(self) -> str:
        """As JSON: longer than what is likely, and cheaper to make."""
        return _schema(self._given) if isinstance(self._given, type) else as_json(self._given)

    @property
    def likely(self) -> str:
        return rendered(self._given) if isinstance(self._given, list) else self.most


@lru_cache(maxsize=64)  # making a schema takes longer than all the rest of counting
def _schema(model: type) -> str:
    return as_json(_schema_of(model))


def _schema_of(model: type) -> object:
    make = getattr(model, "model_json_schema", None)
    return make() if callable(make) else repr(model)


def as_json(value: object) -> str:
    """``value`` as JSON, keeping its characters; what JSON does not know is shown as Python would."""
    try:
        return json.dumps(value, ensure_ascii=False, default=_foreign, skipkeys=True)
    except (ValueError, RecursionError):  # round in a circle, or too deep: it cannot be sent either
        return "null"


def rendered(tools: Iterable[object]) -> str:
    """The namespace of functions, as near as is known."""
    lines = ["namespace functions {", ""]
    for tool in tools:
        lines += _function(tool)
    lines.append("} // namespace functions")
    return "\n".join(lines)


def _function(tool: object) -> list[str]:
    inner = tool.get("function", tool) if isinstance(tool, Mapping) else tool
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        return [as_json(tool), ""]
    lines = _comment(inner.get("description"))
    schema = inner.get("parameters") or inner.get("input_schema")
    if isinstance(schema, Mapping) and schema.get("properties"):
        lines += [f"type {inner['name']} = (_: {_type(schema, 0)}) => any;", ""]
    else:
        lines += [f"type {inner['name']} = () => any;", ""]
    return lines


def _comment(text: object) -> list[str]:
    return [f"// {line}" for line in text.splitlines()] if isinstance(text, str) else []


def _type(schema: object, depth: int) -> str:
    if not isinstance(schema, Mapping):
        return "any"
    if depth > _DEEP:
        return as_json(schema)
    rest = {k: v for k, v in schema.items() if k not in _SHOWN}
    note = f" // {as_json(rest)}" if rest else ""
    return _bare_type(schema, depth) + note


def _bare_type(schema: Mapping[object, object], depth: int) -> str:
    options = schema.get("enum")
    if isinstance(options, list | tuple):
        return " | ".join(as_json(option) for option in options)
    if "const" in schema:
        return as_json(schema["const"])
    either = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(either, list | tuple):
        return " | ".join(_described(option, depth + 1) for option in either)
    kind = schema.get("type")
    if isinstance(kind, list | tuple):
        return " | ".join(str(k) for k in kind) + (_object(schema, depth) if "properties" in schema else "")
    if kind == "array":
        return _described(schema.get("items"), depth + 1) + "[]"
    if kind == "object" or "properties" in schema:
        return _object(schema, depth)
    return "number" if kind == "integer" else str(kind or "any")


def _described(schema: object, depth: int) -> str:
    notes = _comment(schema.get("description")) if isinstance(schema, Mapping) else []
    return "\n".join([*notes, _type(schema, depth)])


def _object(schema: Mapping[object, object], depth: int) -> str:
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        return "object"
    required = schema.get("required")
    needed = required if isinstance(required, list | tuple) else ()
    indent = " " * 2 * depth  # an object within another is indented, the outermost is not
    lines = ["{"]
    for name, inner in properties.items():
        notes = _comment(inner.get("description")) if isinstance(inner, Mapping) else []
        lines += [indent + note for note in notes]
        lines.append(f"{indent}{name}{'' if name in needed else '?'}: {_type(inner, depth + 1)},")
    return "\n".join([*lines, indent + "}"])


def _foreign(value: object) -> object:
    if isinstance(value, type):
        return _schema_of(value)
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump()
    try:
        return vars(value)
    except TypeError:
        return repr(value)
