"""What a function is, told as plain data: so that a changed one is not taken for its predecessor."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from types import CodeType, FunctionType, MethodType
from typing import Any

__all__ = ["identity"]

PLAIN = (str, bytes, int, float, bool, type(None))


def identity(fn: Callable[..., Any]) -> list[object]:
    """Name and code of ``fn``, with the plain values that it sees from outside: defaults, closure, and
    those globals that are texts (numbers there are mostly counters).

    A method's object and a partial's arguments are in it as they are. What else it calls is not.
    """
    if isinstance(fn, functools.partial):
        return ["partial", identity(fn.func), list(fn.args), dict(fn.keywords)]
    if isinstance(fn, MethodType):
        owner = fn.__self__
        named = [owner.__module__, owner.__qualname__] if isinstance(owner, type) else owner
        return ["method", identity(fn.__func__), named]
    wrapped = getattr(fn, "__wrapped__", None)
    if not isinstance(fn, FunctionType):
        return ["object", fn] if wrapped is None else ["wrapper", type(fn).__qualname__, identity(wrapped)]
    code = fn.__code__
    seen: dict[str, object] = {
        name: fn.__globals__[name] for name in code.co_names if isinstance(fn.__globals__.get(name), str)
    }
    held: list[object] = []
    for cell in fn.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        if callable(value) and not isinstance(value, type) and value is not fn:
            value = getattr(value, "__qualname__", type(value).__qualname__)
        held.append(value if _is_plain(value) else type(value).__qualname__)
    defaults = [*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values()]
    told = [each if _is_plain(each) else type(each).__qualname__ for each in defaults]
    told_of = [] if wrapped is None else identity(wrapped)
    return [fn.__module__, fn.__qualname__, _digest(code), seen, held, told, told_of]


def _is_plain(value: object) -> bool:
    return isinstance(value, PLAIN) or (isinstance(value, tuple) and all(map(_is_plain, value)))


@functools.lru_cache(maxsize=1024)
def _digest(code: CodeType) -> str:
    """Of the code and all that stands in it. Another version of Python compiles it otherwise."""
    whole = hashlib.sha256(code.co_code)
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
