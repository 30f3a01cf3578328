"""``@tiered`` and ``@tiered.call``: service levels for functions.

@tiered(sla="gold", client=client)
def summarise(text: str) -> str:                  # returns a prompt; the call returns a Response
    return f"Summarise in one sentence: {text}"

@tiered.call(sla="gold", client=client)           # wraps an existing call, returns what it returns
def answer(question: str, *, route: Route = Route.INJECTED) -> ChatCompletion:
    return sdk.chat.completions.create(model=route.model, timeout=route.timeout_s, messages=[...])
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ParamSpec, TypeVar, Unpack, overload

from ..client import TieredClient
from ..errors import ConfigError
from ..providers.signature import Signature
from ..routing.ask import CallOptions
from ..types import Route
from .functions import (
    AsyncTieredFunction,
    Decorated,
    Prompt,
    TieredFunction,
    WrappedFunction,
    Wrapping,
    configure,
)

__all__ = ["AsyncTieredFunction", "Route", "TieredFunction", "WrappedFunction", "configure", "tiered"]

P = ParamSpec("P")
R = TypeVar("R")


class _Tiered:
    """``@tiered`` for functions that return a prompt, ``@tiered.call`` for calls that exist already."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, Prompt]], /) -> AsyncTieredFunction[P]: ...

    @overload
    def __call__(self, fn: Callable[P, Prompt], /) -> TieredFunction[P]: ...

    @overload
    def __call__(
        self, /, *, client: TieredClient | None = None, **options: Unpack[CallOptions]
    ) -> _PromptDecorator: ...

    def __call__(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        client: TieredClient | None = None,
        **options: Any,
    ) -> Any:
        """Decorate a function that returns a prompt (a text or messages): calling it gives a ``Response``.

        A function with a ``route`` parameter is taken as by ``tiered.call``. Without ``client``, the
        default one set by ``configure`` is used at each call. Options are those of ``complete``.

        Raises ``ConfigError`` where the function or an option makes no sense.
        """
        decorate = _PromptDecorator(client, options)
        return decorate if fn is None else decorate(fn)

    @overload
    def call(self, fn: Callable[P, R], /) -> WrappedFunction[P, R]: ...

    @overload
    def call(
        self,
        /,
        *,
        client: TieredClient | None = None,
        prompt: Callable[..., Prompt] | None = None,
        retry_on: tuple[type[Exception], ...] | type[Exception] = (),
        repeatable: bool = True,
        **options: Unpack[CallOptions],
    ) -> _CallDecorator: ...

    def call(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        client: TieredClient | None = None,
        prompt: Callable[..., Prompt] | None = None,
        retry_on: tuple[type[Exception], ...] | type[Exception] = (),
        repeatable: bool = True,
        **options: Any,
    ) -> Any:
        """Decorate an existing call: it is made through the tiers and returns what it returns.

        Errors of known SDKs and transports, and those in ``retry_on``, drive retry and fallback; any
        other passes untouched. ``repeatable=False`` makes one attempt. ``prompt`` makes the messages
        of the arguments, for what needs to know them (a cache, a budget, a simple reply).

        Raises ``ConfigError`` where the function or an option makes no sense.
        """
        kinds = retry_on if isinstance(retry_on, tuple) else (retry_on,)
        if not all(isinstance(k, type) and issubclass(k, Exception) for k in kinds):
            raise ConfigError(
                f"tiered.call(retry_on={retry_on!r}): give an exception class or a tuple of them"
            )
        if prompt is not None and not callable(prompt):
            raise ConfigError("tiered.call(prompt=...): give a function of the call's arguments")
        decorate = _CallDecorator(client, options, Wrapping(prompt, kinds, repeatable))
        return decorate if fn is None else decorate(fn)


class _PromptDecorator:
    """``@tiered(...)`` with its options, waiting for the function."""

    def __init__(self, client: TieredClient | None, options: Mapping[str, Any]) -> None:
        self._client = client
        self._options = options

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, Prompt]], /) -> AsyncTieredFunction[P]: ...

    @overload
    def __call__(self, fn: Callable[P, Prompt], /) -> TieredFunction[P]: ...

    def __call__(self, fn: Callable[..., Any], /) -> Any:
        signature = _signature(fn)
        if signature.takes_route:
            return WrappedFunction(fn, signature, self._client, self._options)
        if signature.streams:
            raise ConfigError("@tiered: a generator function makes no prompt; wrap it with @tiered.call")
        kind = AsyncTieredFunction if signature.is_async else TieredFunction
        return kind(fn, signature, self._client, self._options)


class _CallDecorator:
    """``@tiered.call(...)`` with its options, waiting for the function."""

    def __init__(self, client: TieredClient | None, options: Mapping[str, Any], wrapping: Wrapping) -> None:
        self._client = client
        self._options = options
        self._wrapping = wrapping

    def __call__(self, fn: Callable[P, R], /) -> WrappedFunction[P, R]:
        return WrappedFunction(fn, _signature(fn), self._client, self._options, self._wrapping)


def _signature(fn: Any) -> Signature:
    if isinstance(fn, classmethod):
        fn = fn.__func__
    if isinstance(fn, Decorated):
        raise ConfigError(f"{fn!r} is decorated already: use with_options(...) to change its options")
    if not callable(fn) or isinstance(fn, type):
        what = "a class" if isinstance(fn, type) else type(fn).__name__
        raise ConfigError(f"@tiered decorates a function, not {what}; options are keywords: @tiered(sla=...)")
    return Signature(fn)


tiered = _Tiered()
