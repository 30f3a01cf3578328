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


_NODES = 100_000
"""Values in tools, or in a schema, that are looked at; one that holds itself never ends."""


class Shown:
    """Tools, a list, or a response format, in the forms in which a model may get to see them.

    ``sound`` is false for what goes round in a circle, is too much, or cannot be told: it is empty here.
    """

    __slots__ = ("_given", "most", "sound")

    def __init__(self, given: object) -> None:
        self._given = given
        try:
            text = _schema(given) if isinstance(given, type) else as_json(given)
        except Exception:  # a class of other people's making is asked for its schema
            text = None
        self.sound = text is not None
        self.most = text or ""
        """As JSON: longer than what is likely, and cheaper to make."""

    @property
    def likely(self) -> str:
        return rendered(self._given) if isinstance(self._given, list) and self.sound else self.most


@lru_cache(maxsize=64)  # making a schema takes longer than all the rest of counting
def _schema(model: type) -> str | None:
    return as_json(_schema_of(model))


def _schema_of(model: type) -> object:
    make = getattr(model, "model_json_schema", None)
    return make() if callable(make) else repr(model)


def as_json(value: object) -> str | None:
    """``value`` as JSON, keeping its characters; what JSON does not know is shown as Python would.

    ``None`` for what goes round in a circle, is too deep or too much, or does not let itself be read.
    """
    if not _ends(value):
        return None
    try:
        return json.dumps(value, ensure_ascii=False, default=_Foreign(), skipkeys=True)
    except Exception:  # objects of other people's making are asked to show themselves
        return None


def _ends(value: object) -> bool:
    """Whether it has no more values than are looked at."""
    seen, stack = 0, [value]
    while stack:
        held = stack.pop()
        if isinstance(held, dict):
            inner: Iterable[object] = held.values()
        elif isinstance(held, list | tuple):
            inner = held
        else:
            continue
        seen += len(held)
        if seen > _NODES:
            return False
        stack.extend(inner)
    return True


def _json(value: object) -> str:
    return as_json(value) or ""


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
        return [_json(tool), ""]
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
        return _json(schema)
    rest = {k: v for k, v in schema.items() if k not in _SHOWN}
    note = f" // {_json(rest)}" if rest else ""
    return _bare_type(schema, depth) + note


def _bare_type(schema: Mapping[object, object], depth: int) -> str:
    options = schema.get("enum")
    if isinstance(options, list | tuple):
        return " | ".join(_json(option) for option in options)
    if "const" in schema:
        return _json(schema["const"])
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


class _Foreign:
    """Shows what JSON does not know, as often as there may be values."""

    def __init__(self) -> None:
        self._asked = 0

    def __call__(self, value: object) -> object:
        self._asked += 1
        if self._asked > _NODES:
            raise ValueError("too much")
        if isinstance(value, type):
            return _schema_of(value)
        dump = getattr(value, "model_dump", None)
        if callable(dump):
            return dump()
        try:
            return vars(value)
        except TypeError:
            return repr(value)
