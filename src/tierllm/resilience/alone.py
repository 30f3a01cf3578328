"""Policies around plain functions, without a client."""

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
from ..providers.signature import Signature
from ..providers.wrapped import WrappedCall
from ..routing.plan import Plan
from ..types import Attempt, Call, Request, Trace

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..pipeline.effects import Handler, Policy
    from ..types import Response

__all__ = ["around", "one_of"]

P = ParamSpec("P")
R = TypeVar("R")

Errors = tuple[type[Exception], ...]


def around(
    policy: Policy, fn: Callable[P, R], *, on: Errors = (), clock: Clock | None = None
) -> Callable[P, R]:
    """``fn`` with one policy around each of its calls; ``on`` are errors that count besides known SDKs'."""
    driven: Callable[P, R] = _driven(policy, [fn], on, clock)
    return driven


def one_of(
    policy: Policy, fns: Sequence[Callable[P, R]], *, on: Errors = (), clock: Clock | None = None
) -> Callable[P, R]:
    """A function that asks each of ``fns`` in turn, as ``policy`` goes from tier to tier."""
    driven: Callable[P, R] = _driven(policy, fns, on, clock)
    return driven


def _driven(policy: Policy, fns: Sequence[Callable[..., Any]], on: Errors, clock: Clock | None) -> Any:
    if not fns or not all(callable(fn) for fn in fns):
        raise ConfigError("give one or more functions to wrap")
    signatures = [Signature(fn) for fn in fns]
    first = signatures[0]
    if any(s.is_async != first.is_async or s.streams for s in signatures):
        raise ConfigError("wrap plain functions, or coroutine functions: all of one kind, and no generators")
    names = [f"{getattr(fn, '__name__', 'function')}#{number}" for number, fn in enumerate(fns, 1)]
    plan = Plan(names[0], tuple(names))
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
        call.plan = plan
        call.begun_at = host.clock()
        return ReadyCall(call, compose([policy], attempt), scope, host)

    if first.is_async:

        @functools.wraps(fns[0])
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return (await ready(args, kwargs).arun()).raw

        return awaited

    @functools.wraps(fns[0])
    def called(*args: Any, **kwargs: Any) -> Any:
        return ready(args, kwargs).run().raw

    return called


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
