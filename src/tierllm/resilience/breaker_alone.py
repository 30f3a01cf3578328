"""A breaker around plain functions, coroutines and generators, without a pipeline.

All four forms have one shape: be admitted, run, report the end. While the breaker is closed the
admission is the ``standing`` one. Reading it is one reference load, and that load is the moment of
admission: the breaker was closed then, whatever follows. A good call that finds its generation
``clean`` is left uncounted, since a window full of good calls does not change by another. Should a
failure be recorded at the same time, the good call simply came before it; should the generation
have ended, its result would have been ignored anyway. So the common path takes no lock and is exact.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, closing
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from ..errors import ConfigError
from ..events import log_failure
from ..providers.signature import Signature

if TYPE_CHECKING:
    from .breaker import CircuitBreaker
    from .breaker_state import Admission

__all__ = ["Rung", "entered", "guard", "left"]

P = ParamSpec("P")
R = TypeVar("R")
Rung = Callable[..., object]
"""One step of a fallback ladder: called with the call's own arguments; ``None`` means nothing to offer."""


def guard(breaker: CircuitBreaker, fn: Callable[P, R]) -> Callable[P, R]:
    """``fn`` behind ``breaker``; a generator function's stream counts as one call."""
    kind, any_fn = Signature(fn), cast("Callable[..., Any]", fn)
    asynchronous = kind.is_async
    if not asynchronous and any(inspect.iscoroutinefunction(rung) for rung in breaker.fallback):
        raise ConfigError(
            f"the fallback of {fn!r} holds an async function, but the function is not async: "
            "give it plain functions only"
        )
    if kind.streams and asynchronous:
        wrapped: Callable[..., object] = _async_generator(breaker, any_fn)
    elif kind.streams:
        wrapped = _generator(breaker, any_fn)
    elif asynchronous:
        wrapped = _coroutine(breaker, any_fn)
    else:
        wrapped = _function(breaker, fn)
    return cast("Callable[P, R]", functools.update_wrapper(wrapped, fn))


def _function(breaker: CircuitBreaker, fn: Callable[..., object]) -> Callable[..., object]:
    state, admit, ended = breaker.machine, breaker.admit, breaker.ended

    def guarded(*args: object, **kwargs: object) -> object:
        admission = state.standing
        try:
            if admission is None:
                admission = admit()
            result = fn(*args, **kwargs)
        except BaseException as error:
            if ended(admission, error):
                offered = _climb(breaker.fallback, args, kwargs)
                if offered is not None:
                    return offered
            raise
        if not (admission.shared and admission.generation.clean):
            ended(admission)
        return result

    return guarded


def _coroutine(
    breaker: CircuitBreaker, fn: Callable[..., Coroutine[Any, Any, object]]
) -> Callable[..., object]:
    state, admit, ended = breaker.machine, breaker.admit, breaker.ended

    async def guarded(*args: object, **kwargs: object) -> object:
        admission = state.standing
        try:
            if admission is None:
                admission = admit()
            result = await fn(*args, **kwargs)
        except BaseException as error:
            if ended(admission, error):
                offered = await _aclimb(breaker.fallback, args, kwargs)
                if offered is not None:
                    return offered
            raise
        if not (admission.shared and admission.generation.clean):
            ended(admission)
        return result

    return guarded


def _generator(
    breaker: CircuitBreaker, fn: Callable[..., Generator[object, object, object]]
) -> Callable[..., object]:
    def guarded(*args: object, **kwargs: object) -> Generator[object, object, object]:
        admission, first_s, offered, result = None, None, None, None
        try:
            admission = breaker.admit()
            with closing(fn(*args, **kwargs)) as stream:
                try:
                    first = next(stream)
                except StopIteration as stop:
                    result = stop.value
                else:
                    first_s = breaker.waited_s(admission)
                    yield first
                    result = yield from stream
        except BaseException as error:
            if breaker.ended(admission, error, first_s) and first_s is None:
                offered = _climb(breaker.fallback, args, kwargs)
            if offered is None:
                raise
        else:
            breaker.ended(admission, None, first_s)
        if offered is not None:
            yield from _several(offered)
        return result

    return guarded


def _async_generator(
    breaker: CircuitBreaker, fn: Callable[..., AsyncGenerator[object, object]]
) -> Callable[..., object]:
    async def guarded(*args: object, **kwargs: object) -> AsyncGenerator[object, None]:
        admission, first_s, offered = None, None, None
        try:
            admission = breaker.admit()
            async with aclosing(fn(*args, **kwargs)) as stream:
                async for item in stream:
                    if first_s is None:
                        first_s = breaker.waited_s(admission)
                    yield item
        except BaseException as error:
            if breaker.ended(admission, error, first_s) and first_s is None:
                offered = await _aclimb(breaker.fallback, args, kwargs)
            if offered is None:
                raise
        else:
            breaker.ended(admission, None, first_s)
        if hasattr(offered, "__aiter__"):
            async for item in cast("AsyncGenerator[object, object]", offered):
                yield item
        elif offered is not None:
            for item in _several(offered):
                yield item

    return guarded


def _several(offered: object) -> Iterator[object]:
    """What a rung offers in place of a stream: its items, or one that is no series."""
    if isinstance(offered, Iterable) and not isinstance(offered, str | bytes | Mapping):
        yield from offered
    else:
        yield offered


# -- the fallback ladder ---------------------------------------------------------


def _climb(ladder: Sequence[Rung], args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    for rung in ladder:
        try:
            offered = rung(*args, **kwargs)
        except Exception:  # a broken rung must not hide the call's own error
            log_failure("a fallback of a circuit breaker failed")
            continue
        if offered is not None:
            return offered
    return None


async def _aclimb(ladder: Sequence[Rung], args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    for rung in ladder:
        try:
            offered = rung(*args, **kwargs)
            if inspect.isawaitable(offered):
                offered = await offered
        except Exception:
            log_failure("a fallback of a circuit breaker failed")
            continue
        if offered is not None:
            return offered
    return None


# -- with breaker: ---------------------------------------------------------------

Entered = tuple["CircuitBreaker", "Admission", "Entered | None"]

_entered: ContextVar[Entered | None] = ContextVar("tierllm_breakers_entered", default=None)


def entered(breaker: CircuitBreaker, admission: Admission) -> None:
    """Remember a ``with`` block's admission: one breaker serves many threads and tasks, also nested."""
    _entered.set((breaker, admission, _entered.get()))


def left(breaker: CircuitBreaker) -> Admission | None:
    """The admission of the innermost ``with`` block on ``breaker`` in this thread or task."""
    passed: list[Entered] = []
    link = _entered.get()
    while link is not None and link[0] is not breaker:
        passed.append(link)
        link = link[2]
    if link is None:  # left in another context than entered
        return None
    admission, below = link[1], link[2]
    for other, its, _ in reversed(passed):
        below = (other, its, below)
    _entered.set(below)
    return admission
