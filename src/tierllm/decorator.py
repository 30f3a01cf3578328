"""``@tiered`` and ``@tiered.call``: service levels for functions.

@tiered(sla="gold", client=client)
def summarise(text: str) -> str:                  # returns a prompt; the call returns a Response
    return f"Summarise in one sentence: {text}"

@tiered.call(sla="gold", client=client)           # wraps an existing call, returns what it returns
def answer(question: str, *, route: Route = Route.INJECTED) -> ChatCompletion:
    return sdk.chat.completions.create(model=route.model, timeout=route.timeout_s, messages=[...])
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

from typing_extensions import Unpack

from .client import TieredClient
from .errors import ConfigError
from .pipeline.ready import AsyncResponseStream, ReadyCall, ResponseStream
from .providers.wrapped import Signature, WrappedCall
from .routing.ask import OPTIONS, CallOptions, ask, unknown_option
from .types import Message, Response, Route

__all__ = ["AsyncTieredFunction", "Route", "TieredFunction", "WrappedFunction", "configure", "tiered"]

P = ParamSpec("P")
R = TypeVar("R")

Prompt = str | Sequence[Message]

_default: TieredClient | None = None  # the one documented piece of module state


def configure(client: TieredClient | None) -> None:
    """Set the client of every ``@tiered`` function that names none; ``None`` takes it back."""
    global _default
    if client is not None and not isinstance(client, TieredClient):
        raise ConfigError(f"configure({type(client).__name__}): give a TieredClient")
    _default = client


class _Decorated:
    """What decorated functions share: their options, their client, their looks."""

    def __init__(
        self,
        fn: Callable[..., Any],
        client: TieredClient | None,
        options: Mapping[str, Any],
        settings: Mapping[str, Any],
    ) -> None:
        for name in options:
            if name not in OPTIONS:
                raise unknown_option(name)
        functools.update_wrapper(self, fn)  # type: ignore[arg-type]
        self._fn = fn
        self._client = client
        self._options = {"route": getattr(fn, "__name__", None), **options}
        self._settings = settings
        self._signature = Signature(fn)

    @property
    def client(self) -> TieredClient:
        """The client in charge: the function's own, or the default."""
        client = self._client or _default
        if client is None:
            raise ConfigError(
                f"{self._name} has no client: give @tiered(client=...), or call tierllm.configure(client)"
            )
        return client

    @property
    def _name(self) -> str:
        return getattr(self._fn, "__qualname__", type(self._fn).__name__)

    def with_options(self, **options: Unpack[CallOptions]) -> Self:
        """The same function with other options: ``summarise.with_options(sla="bronze")(text)``."""
        return type(self)(self._fn, self._client, {**self._options, **options}, self._settings)

    def __get__(self, instance: object, owner: type | None = None) -> Self:
        if instance is None:
            return self
        return type(self)(self._fn.__get__(instance, owner), self._client, self._options, self._settings)

    def __reduce__(self) -> str:
        return self._name  # by reference, like any function

    def __repr__(self) -> str:
        return f"<tiered {self._name}>"


class TieredFunction(_Decorated, Generic[P]):
    """A function that returns a prompt, called for its answer."""

    def _ready(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ReadyCall:
        return self.client.ready(ask(self._fn(*args, **kwargs), self._options))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Response:
        """The answer to the prompt that the function makes of these arguments."""
        return self._ready(args, kwargs).run()

    async def acomplete(self, *args: P.args, **kwargs: P.kwargs) -> Response:
        """The same on an event loop."""
        return await self._ready(args, kwargs).arun()

    def stream(self, *args: P.args, **kwargs: P.kwargs) -> ResponseStream:
        """The answer as it arrives, as of ``client.stream``."""
        return ResponseStream(self._ready(args, kwargs))

    def astream(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResponseStream:
        """The same on an event loop."""
        return AsyncResponseStream(self._ready(args, kwargs))


class AsyncTieredFunction(_Decorated, Generic[P]):
    """A coroutine function that returns a prompt, awaited for its answer."""

    async def _ready(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ReadyCall:
        client = self.client
        return client.ready(ask(await self._fn(*args, **kwargs), self._options))

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Response:
        """The answer to the prompt that the function makes of these arguments."""
        return await (await self._ready(args, kwargs)).arun()

    def stream(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResponseStream:
        """The answer as it arrives, as of ``client.astream``."""
        return _PromptedStream(lambda: self._ready(args, kwargs))


class _PromptedStream(AsyncResponseStream):
    """A stream whose prompt has to be awaited first."""

    __slots__ = ("_prompted",)

    def __init__(self, prompted: Callable[[], Coroutine[Any, Any, ReadyCall]]) -> None:
        self._prompted = prompted
        self._run = None
        self._replay = None

    async def __aenter__(self) -> AsyncResponseStream:
        if self._run is None:
            self._ready = await self._prompted()
        return await super().__aenter__()


class WrappedFunction(_Decorated, Generic[P, R]):
    """An existing call with service levels around it; it returns what it always returned.

    A generator (or async generator) function streams its own items: it may be begun again elsewhere
    until the first item has come, and is closed when its consumer leaves.
    """

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        signature = self._signature
        ready = self._ready(args, kwargs)
        result: Any
        if signature.streams:
            result = _aitems(ready) if signature.is_async else _items(ready)
        elif signature.is_async:
            result = _araw(ready)
        else:
            result = ready.run().raw
        return result  # type: ignore[no-any-return]

    def _ready(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ReadyCall:
        settings = self._settings
        prompt = settings["prompt"]
        messages = None if prompt is None else prompt(*args, **kwargs)
        request = ask(messages, self._options, repeatable=settings["repeatable"])
        target = WrappedCall(self._fn, self._signature, args, kwargs, settings["retry_on"])
        return self.client.ready(request, target)


async def _araw(ready: ReadyCall) -> Any:
    return (await ready.arun()).raw


def _items(ready: ReadyCall) -> Iterator[Any]:
    with ResponseStream(ready) as chunks:
        for chunk in chunks:
            if chunk.finish_reason is None:
                yield chunk.raw


async def _aitems(ready: ReadyCall) -> AsyncIterator[Any]:
    async with AsyncResponseStream(ready) as chunks:
        async for chunk in chunks:
            if chunk.finish_reason is None:
                yield chunk.raw


class _Tiered:
    """The decorator; see the module."""

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
        """
        decorate = _PromptDecorator(client, options)
        return decorate if fn is None else decorate(fn)

    def call(
        self,
        *,
        client: TieredClient | None = None,
        prompt: Callable[..., Prompt] | None = None,
        retry_on: tuple[type[Exception], ...] | type[Exception] = (),
        repeatable: bool = True,
        **options: Unpack[CallOptions],
    ) -> Callable[[Callable[P, R]], WrappedFunction[P, R]]:
        """Decorate an existing call: it is made through the tiers and returns what it returns.

        Errors of known SDKs and transports, and those in ``retry_on``, drive retry and fallback; any
        other passes untouched. ``repeatable=False`` makes one attempt. ``prompt`` makes the messages
        of the arguments, for what needs to know them (a cache, a budget, a simple reply).
        """
        kinds = retry_on if isinstance(retry_on, tuple) else (retry_on,)
        if not all(isinstance(k, type) and issubclass(k, Exception) for k in kinds):
            raise ConfigError("tiered.call(retry_on=...): give exception classes")
        settings = {"prompt": prompt, "retry_on": kinds, "repeatable": repeatable}

        def decorate(fn: Callable[P, R]) -> WrappedFunction[P, R]:
            return WrappedFunction(_function(fn), client, options, settings)

        return decorate


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
        signature = Signature(_function(fn))
        if signature.takes_route or signature.streams:
            settings = {"prompt": None, "retry_on": (), "repeatable": True}
            return WrappedFunction(fn, self._client, self._options, settings)
        kind = AsyncTieredFunction if signature.is_async else TieredFunction
        return kind(fn, self._client, self._options, {})


def _function(fn: Any) -> Any:
    if not callable(fn):
        raise ConfigError(
            f"@tiered decorates a function, not {type(fn).__name__}; options are keywords: @tiered(sla=...)"
        )
    return fn


tiered = _Tiered()
