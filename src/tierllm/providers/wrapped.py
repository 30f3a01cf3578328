"""A call the application already makes, as a provider."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import (
    ConfigError,
    ProviderError,
    ProviderUnavailableError,
    RejectedError,
    UsageError,
)
from ..types import Chunk, Response, Route, Usage
from .base import BaseProvider
from .identity import Own, identity
from .translate import translate

if TYPE_CHECKING:
    from ..pipeline.scope import Invocation
    from ..types import Call
    from .signature import Signature

__all__ = ["Unprovided", "WrappedCall"]

_OWN = (ProviderError, RejectedError, ConfigError, UsageError)
"""What tierllm itself said inside a wrapped function already means what it says."""


class Unprovided(BaseProvider):
    """Where no provider is configured: wrapped calls bring their own, any other is a mistake."""

    name = "none"
    origin = ""  # what it serves tells of itself
    waits = False

    def __init__(self, model: str) -> None:
        self._model = model

    def _refuse(self) -> ConfigError:
        return ConfigError(
            f"Deployment({self._model!r}) has no provider: it serves @tiered.call functions only; "
            f"give it one, such as Deployment({self._model!r}, OpenAI())"
        )

    def complete(self, call: Call, scope: Invocation) -> Response:
        raise self._refuse()

    async def acomplete(self, call: Call, scope: Invocation) -> Response:
        raise self._refuse()


class WrappedCall(BaseProvider):
    """One call of a function with its arguments, made anew for each attempt.

    Known SDKs' and transports' errors are translated, and those in ``retry_on`` count as the
    provider's; any other passes untouched and counts for nothing. What the function returns is the
    response's ``raw``; what a generator yields, the chunks'. ``began`` says that it yielded, or ended.
    ``own`` is the function's name among those that are kept apart by what they hold.
    """

    name = "wrapped"

    def __init__(
        self,
        fn: Callable[..., Any],
        signature: Signature,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        retry_on: tuple[type[Exception], ...] = (),
        own: Own | None = None,
    ) -> None:
        self.fn = fn
        self.own = own
        self.args = args
        self.kwargs = kwargs or {}
        self._signature = signature
        self.waits = not signature.is_async
        self.streams = signature.streams
        self.began = False
        self.takes_route = self.takes_max_tokens = signature.takes_route
        self._failures = _Failures(retry_on)

    def asks(self) -> list[object]:
        """All that its answer depends on beside the prompt, as far as can be told."""
        own = None if self.own is None else self.own.name
        return [own, identity(self.fn, own), self._signature.given(self.args, self.kwargs)]

    def _call(self, call: Call, scope: Invocation) -> Any:
        if not self.takes_route:
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

    def complete(self, call: Call, scope: Invocation) -> Response:
        with self._failures:
            value = self._call(call, scope)
        if inspect.isawaitable(value):
            _discard(value)
            raise UsageError("the wrapped function returned an awaitable: let it be an async function itself")
        return _answer(value)

    async def acomplete(self, call: Call, scope: Invocation) -> Response:
        with self._failures:
            value = self._call(call, scope)
            if inspect.isawaitable(value):
                value = await value
        return _answer(value)

    def stream(self, call: Call, scope: Invocation) -> Iterator[Chunk]:
        returned = None
        with self._failures:
            items = _iterated(iter, self._call(call, scope))
            try:
                while True:
                    try:
                        item = next(items)
                    except StopIteration as stop:
                        returned = stop.value
                        break
                    self.began = True
                    yield Chunk(raw=item, usage=_usage_of(item))
            finally:
                close = getattr(items, "close", None)
                if close is not None:
                    close()
        self.began = True
        yield Chunk(raw=returned, finish_reason="stop")

    async def astream(self, call: Call, scope: Invocation) -> AsyncIterator[Chunk]:
        with self._failures:
            items = _iterated(aiter, self._call(call, scope))
            try:
                async for item in items:
                    self.began = True
                    yield Chunk(raw=item, usage=_usage_of(item))
            finally:
                aclose = getattr(items, "aclose", None)
                if aclose is not None:
                    await aclose()
        self.began = True
        yield Chunk(finish_reason="stop")


class _Failures:
    """A block in which a wrapped function's exceptions become a provider's, where they are known."""

    __slots__ = ("_retry_on",)

    def __init__(self, retry_on: tuple[type[Exception], ...]) -> None:
        self._retry_on = retry_on

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, _OWN):
            return
        known = self._told(error)
        try:
            if known is not None:
                raise known from error
        finally:
            del known  # an exception must not keep this frame alive through its traceback

    def _told(self, error: Exception) -> ProviderError | None:
        known = translate(error)
        if not isinstance(error, self._retry_on) or (known is not None and known.retryable):
            return known
        counted = ProviderUnavailableError(f"the wrapped call raised {type(error).__name__}", retryable=True)
        if known is not None:
            counted.status, counted.retry_after_s = known.status, known.retry_after_s
            counted.request_id, counted.detail = known.request_id, known.detail
        return counted


def _iterated(begin: Callable[[Any], Any], value: Any) -> Any:
    try:
        return begin(value)
    except TypeError as error:
        raise UsageError(
            f"a function that wraps a generator function returned {type(value).__name__}, "
            "which does not stream: decorate the generator function itself"
        ) from error


def _answer(value: Any) -> Response:
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        raise UsageError("the wrapped function returned a generator: let it be a generator function itself")
    return Response(raw=value, finish_reason="stop", usage=_usage_of(value))


def _discard(awaitable: Any) -> None:
    close = getattr(awaitable, "close", None)
    if close is not None:
        close()  # a coroutine that is dropped unawaited complains


def _usage_of(value: Any) -> Usage | None:
    """The tokens an SDK's answer reports, where it looks like one (OpenAI's or Anthropic's words).

    OpenAI counts what came from its cache as part of the input, Anthropic beside it.
    """
    reported = getattr(value, "usage", None)
    if reported is None:
        return None
    read, written = (
        _whole(reported, "cache_read_input_tokens"),
        _whole(reported, "cache_creation_input_tokens"),
    )
    beside = (read or 0) + (written or 0)
    given, taken = (
        _whole(reported, "prompt_tokens", "input_tokens"),
        _whole(reported, "completion_tokens", "output_tokens"),
    )
    if given is None or taken is None:
        return None
    details = getattr(reported, "prompt_tokens_details", None) or getattr(
        reported, "input_tokens_details", None
    )
    thought = getattr(reported, "completion_tokens_details", None) or getattr(
        reported, "output_tokens_details", None
    )
    cached = read if read is not None else _whole(details, "cached_tokens") or 0
    asked = given + beside
    cached = min(cached, asked)
    return Usage(
        input_tokens=asked,
        output_tokens=taken,
        cached_input_tokens=cached,
        cache_write_tokens=min(written or 0, asked - cached),
        reasoning_tokens=_whole(thought, "reasoning_tokens") or 0,
        service_tier=_tier(value, reported),
    )


def _tier(value: Any, reported: Any) -> str | None:
    """The service tier that was served; Anthropic's dearer speed is one, and stands beside it."""
    speed = getattr(reported, "speed", None)
    if isinstance(speed, str) and speed not in ("", "standard"):
        return speed
    tier = getattr(value, "service_tier", None) or getattr(reported, "service_tier", None)
    return tier if isinstance(tier, str) else None


def _whole(reported: Any, *names: str) -> int | None:
    """The first of these that is a number of tokens."""
    for name in names:
        n = getattr(reported, name, None)
        if isinstance(n, int) and not isinstance(n, bool) and n >= 0:
            return n
    return None
