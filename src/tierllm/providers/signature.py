"""What a wrapped function takes, and what kind of function it is."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

from ..errors import ConfigError

__all__ = ["Signature"]


class Signature:
    """What kind of function is wrapped: looked at once, when it is decorated.

    ``is_async`` holds for ``async def`` with and without ``yield``, ``streams`` for generators of
    both kinds, ``takes_route`` for a ``route`` parameter. ``plain`` is the function behind partials,
    methods, callable objects and ``functools.wraps``: a decorator in between keeps the kind.
    """

    __slots__ = ("_own", "is_async", "plain", "streams", "takes_route")

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.plain = plain = _innermost(fn)
        generates = inspect.isasyncgenfunction(plain)
        self.streams = generates or inspect.isgeneratorfunction(plain)
        self.is_async = generates or inspect.iscoroutinefunction(plain) or inspect.iscoroutinefunction(fn)
        self._own = _own_signature(fn)
        self.takes_route = self._own is not None and _takes_route(fn, self._own)

    def given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """These arguments by name, those that were left out too: the same, however a call spells them."""
        if self._own is None:
            return {"args": args, "kwargs": kwargs}
        try:
            bound = self._own.bind(*args, **kwargs)
        except TypeError:  # the call itself will tell
            return {"args": args, "kwargs": kwargs}
        bound.apply_defaults()
        if self.takes_route:
            bound.arguments.pop("route", None)  # it is filled in
        return bound.arguments


def _innermost(fn: Any) -> Any:
    while True:
        match inspect.unwrap(fn):
            case functools.partial(func=inner) | MethodType(__func__=inner):
                fn = inner
            case plain:
                method = getattr(type(plain), "__call__", None)  # noqa: B004 - an object's own method
                if not inspect.isfunction(method):
                    return plain
                fn = method


def _own_signature(fn: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(fn, follow_wrapped=False)
    except ValueError:  # some builtins tell nothing
        return None


def _takes_route(fn: Callable[..., Any], own: inspect.Signature) -> bool:
    route = inspect.signature(fn).parameters.get("route")
    if route is None or route.kind in (route.VAR_POSITIONAL, route.VAR_KEYWORD):
        return False
    if route.kind is route.POSITIONAL_ONLY:
        raise ConfigError("the parameter route is filled in by keyword: let it stand after the /")
    return any(p.name == "route" or p.kind is p.VAR_KEYWORD for p in own.parameters.values())
