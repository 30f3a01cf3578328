"""What a function is, told as plain data: so that a changed one is not taken for its predecessor."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from ..types import Route

__all__ = ["Own", "identity"]

MOST_FUNCTIONS = 64

_CACHED = type(functools.lru_cache(len))


IMMUTABLE = (str, bytes, int, float, type(None))


class Own:
    """The name of a wrapped function that goes by what it held when it was first called; ``None`` before."""

    __slots__ = ("name",)

    def __init__(self) -> None:
        self.name: str | None = None


def identity(fn: Callable[..., Any], own: str | None = None) -> list[object]:
    """Name and code of ``fn``, with what it sees from outside: defaults, closure, and those globals that
    are texts (numbers there are mostly counters).

    Functions among these count in the same way, classes and modules by their names, other values as they
    are: where one is not plain data, neither is the identity, and nobody can tell ``fn`` from others like
    it. Globals that ``fn`` calls are not in it. ``own`` stands for values that may change while the
    function stays the same, such as a list that counts calls.
    """
    return _told(fn, [], own)


def _told(value: object, seen: list[object], own: str | None) -> list[object]:
    match value:
        case FunctionType():
            return _function(value, seen, own)
        case functools.partial(func=inner, args=args, keywords=keywords):
            given = [_told(each, seen, own) for each in args]
            named = {name: _told(each, seen, own) for name, each in keywords.items()}
            return ["partial", _told(inner, seen, own), given, named]
        case MethodType(__func__=inner, __self__=owner):
            return ["method", _told(inner, seen, own), _told(owner, seen, None)]
        case _CACHED():
            return ["cached", _told(value.__wrapped__, seen, own)]
        case BuiltinFunctionType(__self__=ModuleType() | None):
            return ["builtin", value.__module__, value.__qualname__]
        case ModuleType():
            return ["module", value.__name__]
        case type():
            named_alike = hasattr(value, "model_json_schema") or "<locals>" in value.__qualname__
            return ["class", value.__module__, value.__qualname__, value if named_alike else None]
        case Route():  # in the place of the one that a call is given
            return ["route"]
    if own is not None and seen and not _stays(value):
        return ["own", own]
    call = getattr(type(value), "__call__", None)  # noqa: B004 - of an instance whose class defines it
    return ["value", value, _told(call, seen, own) if isinstance(call, FunctionType) else None]


def _stays(value: object) -> bool:
    return isinstance(value, IMMUTABLE) or (type(value) is tuple and all(map(_stays, value)))


def _function(fn: FunctionType, seen: list[object], own: str | None) -> list[object]:
    if fn in seen:
        return ["again", seen.index(fn)]
    if len(seen) == MOST_FUNCTIONS:
        return ["too many", fn]
    seen.append(fn)
    space = fn.__globals__
    texts = {name: space[name] for name in _names(fn.__code__) if isinstance(space.get(name), str)}
    held = [_cell(cell, seen, own) for cell in fn.__closure__ or ()]
    given = [_told(each, seen, own) for each in fn.__defaults__ or ()]
    named = {name: _told(each, seen, own) for name, each in (fn.__kwdefaults__ or {}).items()}
    wrapped = getattr(fn, "__wrapped__", None)
    inner = None if wrapped is None else _told(wrapped, seen, own)
    return [fn.__module__, fn.__qualname__, _digest(fn.__code__), texts, held, given, named, inner]


def _cell(cell: Any, seen: list[object], own: str | None) -> list[object]:
    try:
        return _told(cell.cell_contents, seen, own)
    except ValueError:  # not filled yet
        return []


@functools.lru_cache(maxsize=1024)
def _names(code: CodeType) -> frozenset[str]:
    """Those that the code and all code inside it look up."""
    return frozenset(code.co_names).union(*(_names(c) for c in code.co_consts if isinstance(c, CodeType)))


@functools.lru_cache(maxsize=1024)
def _digest(code: CodeType) -> str:
    """Of the code and all that stands in it. Another version of Python compiles it otherwise."""
    whole = hashlib.sha256(code.co_code + b":%d:" % code.co_flags + code.co_exceptiontable)
    for name in (*code.co_names, *code.co_varnames):
        whole.update(f"{len(name)}:{name}".encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            told = _digest(constant)
        elif isinstance(constant, frozenset):
            told = repr(sorted(map(repr, constant)))
        else:
            told = repr(constant)
        whole.update(f"{len(told)}:{told}".encode("utf-8", "surrogatepass"))
    return whole.hexdigest()
