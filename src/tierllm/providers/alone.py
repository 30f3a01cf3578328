"""A policy around plain functions, without a client."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ..errors import ConfigError, ProviderError
from ..pipeline.compose import compose, invoking
from ..pipeline.host import Host
from ..pipeline.ready import ReadyCall
from ..pipeline.scope import Scope
from ..types import Attempt, Call, Request, Trace
from .signature import Signature
from .wrapped import WrappedCall

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..pipeline.effects import Handler, Policy
    from ..types import Response

__all__ = ["Errors", "around", "around_each", "named"]

P = ParamSpec("P")
R = TypeVar("R")

Errors = tuple[type[Exception], ...]


def around(
    policy: Policy, fn: Callable[P, R], *, on: Errors = (), clock: Clock | None = None
) -> Callable[P, R]:
    """``fn`` with one policy around each of its calls; ``on`` are errors that count besides known SDKs'."""
    driven: Callable[P, R] = around_each(policy, [fn], on=on, clock=clock)
    return driven


def around_each(
    policy: Policy,
    fns: Sequence[Callable[P, R]],
    *,
    on: Errors = (),
    clock: Clock | None = None,
    begin: Callable[[Call], object] | None = None,
) -> Callable[P, R]:
    """A function with ``policy`` around it that calls the one of ``fns`` which the call's tier names.

    The tiers are the ``named`` functions; a call that has none calls the first. ``begin`` is told of each
    call before it begins.

    Raises ``ConfigError`` where they are not all plain functions, or all coroutine functions.
    """
    if not fns or not all(callable(fn) for fn in fns):
        raise ConfigError("give one or more functions to wrap")
    signatures = [Signature(fn) for fn in fns]
    kind = signatures[0]
    if any(s.is_async != kind.is_async or s.streams for s in signatures):
        raise ConfigError("wrap plain functions, or coroutine functions: all of one kind, and no generators")
    names = named(fns)
    host = Host(clock or time.monotonic)

    def ready(args: tuple[Any, ...], kwargs: dict[str, Any]) -> ReadyCall:
        places = {
            name: invoking(WrappedCall(fn, signature, args, kwargs, on))
            for name, fn, signature in zip(names, fns, signatures, strict=True)
        }

        async def attempt(call: Call, /) -> Response:
            call.again()
            call.tier = call.tier or names[0]
            return await _recorded(call, places[call.tier])

        scope = Scope(host.clock)
        call = Call(Request(messages=()), trace=Trace("alone"), scope=scope)
        call.begun_at = host.clock()
        if begin is not None:
            begin(call)
        return ReadyCall(call, compose([policy], attempt), scope, host)

    wrapped: Any
    if kind.is_async:

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return (await ready(args, kwargs).arun()).raw

        wrapped = awaited
    else:

        def called(*args: Any, **kwargs: Any) -> Any:
            return ready(args, kwargs).run().raw

        wrapped = called
    driven: Callable[P, R] = functools.update_wrapper(wrapped, fns[0])
    return driven


def named(fns: Sequence[Callable[..., Any]]) -> list[str]:
    """A name for each of these functions, told apart by their order."""
    return [f"{getattr(fn, '__name__', 'function')}#{number}" for number, fn in enumerate(fns, 1)]


async def _recorded(call: Call, place: Handler) -> Response:
    """One attempt, written into the trace if it fails."""
    assert call.trace is not None
    assert call.scope is not None
    began = call.scope.clock()
    try:
        return await place(call)
    except ProviderError as error:
        ended = call.scope.clock()
        call.trace.attempts.append(
            Attempt(
                call.tier,
                call.tier,
                started_s=began - call.begun_at,
                latency_s=ended - began,
                outcome="failed",
                error=error,
            )
        )
        raise
