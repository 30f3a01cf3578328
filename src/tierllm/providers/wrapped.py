"""A call the application already makes, as a provider."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ProviderError, ProviderUnavailableError, UsageError
from ..types import Chunk, Response, Route, Usage
from .base import BaseProvider
from .translate import translate

if TYPE_CHECKING:
    from ..pipeline.scope import Invocation
    from ..types import Call

__all__ = ["Signature", "WrappedCall"]


class Signature:
    """What kind of function is wrapped: looked at once, when it is decorated.

    ``is_async`` holds for ``async def`` with and without ``yield``, ``streams`` for generators of
    both kinds, ``takes_route`` for a ``route`` parameter.
    """

    __slots__ = ("is_async", "streams", "takes_route")

    def __init__(self, fn: Callable[..., Any]) -> None:
        plain = inspect.unwrap(fn)
        self.streams = inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain)
        self.is_async = inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain)
        self.takes_route = "route" in inspect.signature(fn).parameters


class WrappedCall(BaseProvider):
    """One call of a function with its arguments, made anew for each attempt.

    Known SDKs' and transports' errors are translated, and those in ``retry_on`` count as the
    provider's; any other passes untouched and counts for nothing. What the function returns is the
    response's ``raw``.
    """

    name = "wrapped"

    def __init__(
        self,
        fn: Callable[..., Any],
        signature: Signature,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        retry_on: tuple[type[Exception], ...] = (),
    ) -> None:
        self.fn = fn
        self.args = args
        self.kwargs = kwargs or {}
        self.retry_on = retry_on
        self._takes_route = signature.takes_route
        self.waits = not signature.is_async

    def _call(self, call: Call, scope: Invocation) -> Any:
        if not self._takes_route:
            return self.fn(*self.args, **self.kwargs)
        params = call.params
        route = Route(
            model=call.model,
            tier=call.tier,
            deployment=call.deployment,
            max_tokens=params.get("max_tokens"),
            temperature=params.get("temperature"),
            timeout_s=scope.remaining_s(),
            attempt=call.attempt,
            params=params,
        )
        return self.fn(*self.args, **{**self.kwargs, "route": route})

    def _translated(self, error: Exception) -> ProviderError | None:
        if isinstance(error, self.retry_on):
            return ProviderUnavailableError(f"the wrapped call raised {type(error).__name__}", retryable=True)
        return translate(error)

    def complete(self, call: Call, scope: Invocation) -> Response:
        try:
            return _answer(self._call(call, scope))
        except Exception as error:
            known = self._translated(error)
            if known is None:
                raise
            raise known from error

    async def acomplete(self, call: Call, scope: Invocation) -> Response:
        try:
            return _answer(await self._call(call, scope))
        except Exception as error:
            known = self._translated(error)
            if known is None:
                raise
            raise known from error

    def stream(self, call: Call, scope: Invocation) -> Iterator[Chunk]:
        try:
            for item in self._call(call, scope):
                yield Chunk(raw=item)
        except Exception as error:
            known = self._translated(error)
            if known is None:
                raise
            raise known from error
        yield Chunk(finish_reason="stop")

    async def astream(self, call: Call, scope: Invocation) -> AsyncIterator[Chunk]:
        items = self._call(call, scope)
        try:
            async for item in items:
                yield Chunk(raw=item)
        except Exception as error:
            known = self._translated(error)
            if known is None:
                raise
            raise known from error
        finally:
            await items.aclose()
        yield Chunk(finish_reason="stop")


def _answer(value: Any) -> Response:
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        raise UsageError("the wrapped function returned a generator: let it be a generator function itself")
    return Response(raw=value, finish_reason="stop", usage=_usage_of(value))


def _usage_of(value: Any) -> Usage | None:
    """The tokens an SDK's answer reports, where it looks like one (OpenAI's or Anthropic's words)."""
    reported = getattr(value, "usage", None)
    if reported is None:
        return None
    counts = [
        next((n for n in (getattr(reported, name, None) for name in names) if isinstance(n, int)), None)
        for names in (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))
    ]
    if counts[0] is None or counts[1] is None:
        return None
    return Usage(input_tokens=counts[0], output_tokens=counts[1])
