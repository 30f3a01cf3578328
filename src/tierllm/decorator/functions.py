"""Decorated functions: what ``@tiered`` and ``@tiered.call`` make."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Mapping, Sequence
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, Self, TypeVar, Unpack, overload

from ..client import TieredClient
from ..errors import ConfigError
from ..pipeline.ready import AsyncResponseStream, ReadyCall, ResponseStream
from ..providers.identity import Own
from ..providers.signature import Signature
from ..providers.wrapped import WrappedCall
from ..routing.ask import NO_PROMPT, CallOptions, ask
from ..types import Message, Request, Response, Route

__all__ = [
    "AsyncTieredFunction",
    "Decorated",
    "Prompt",
    "TieredFunction",
    "WrappedFunction",
    "Wrapping",
    "configure",
]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")

Prompt = str | Sequence[Message]

LIKE_A_FUNCTION = ("__code__", "__defaults__", "__kwdefaults__", "__globals__")
"""By these ``inspect.iscoroutinefunction`` and frameworks know what kind of function it is."""

_default: TieredClient | None = None  # the one documented piece of module state


def configure(client: TieredClient | None) -> None:
    """Set the client of every ``@tiered`` function that names none; ``None`` takes it back."""
    global _default
    _default = _checked("configure(client)", client)


def _checked(where: str, client: Any) -> TieredClient | None:
    if client is not None and not isinstance(client, TieredClient):
        raise ConfigError(f"{where}: give a TieredClient, not {type(client).__name__}")
    return client


# -- decorated functions ---------------------------------------------------------


class Wrapping(NamedTuple):
    """How an existing call is wrapped."""

    prompt: Callable[..., Prompt] | None = None
    retry_on: tuple[type[Exception], ...] = ()
    repeatable: bool = True


PLAIN = Wrapping()


class Decorated:
    """What decorated functions share: their options, their client, their looks.

    They are immutable: a method's binding and other options make twins.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        signature: Signature,
        client: TieredClient | None,
        options: Mapping[str, Any],
        wrapping: Wrapping = PLAIN,
    ) -> None:
        self._resemble(fn, signature.plain)
        self.__wrapped__ = fn
        self._fn = fn
        self._signature = signature
        self._client = _checked("@tiered(client=...)", client)
        self._options: Mapping[str, Any] = {"route": self.__name__, **options}
        self._wrapping = wrapping
        self._own = Own()
        self._made: tuple[Any, ...] | None = None
        self._check_options()

    __name__: str
    __qualname__: str

    def _resemble(self, fn: Any, plain: Any) -> None:
        if isinstance(fn, functools.partial):
            fn = plain
        looks = {name: getattr(plain, name) for name in LIKE_A_FUNCTION if hasattr(plain, name)}
        looks |= {n: v for n, v in getattr(fn, "__dict__", {}).items() if not hasattr(type(self), n)}
        looks |= {name: getattr(fn, name) for name in functools.WRAPPER_ASSIGNMENTS if hasattr(fn, name)}
        looks.setdefault("__name__", type(fn).__name__)
        looks.setdefault("__qualname__", type(fn).__qualname__)
        self.__dict__.update(looks)

    def _check_options(self) -> None:
        """Mistakes are told where the decorator stands, not at the first call."""
        request = ask(NO_PROMPT, self._options)
        if self._client is not None:
            self._client.ready(request)

    @property
    def client(self) -> TieredClient:
        """The client in charge: the function's own, or the default."""
        client = self._client if self._client is not None else _default
        if client is None:
            raise ConfigError(
                f"{self.__qualname__} has no client: "
                "give @tiered(client=...), or call tierllm.configure(client)"
            )
        return client

    def with_options(self, **options: Unpack[CallOptions]) -> Self:
        """The same function with other options: ``summarise.with_options(sla="bronze")(text)``."""
        twin = self._twin((_with_options, (self, options)), _options={**self._options, **options})
        twin._check_options()
        return twin

    def _bound(self, instance: object, owner: type | None) -> Self:
        """The method of an instance."""
        bind = getattr(self._fn, "__get__", None)
        by_class = isinstance(self._fn, classmethod)
        if bind is None or (instance is None and not by_class):
            return self
        method = bind(instance, owner)
        made = (getattr, (owner, self.__name__)) if by_class else (_bind, (self, instance, owner))
        return self._twin(made, _fn=method, __wrapped__=method)

    def _twin(self, made: tuple[Any, ...], **changes: Any) -> Self:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__, _made=made, **changes)
        return twin

    def __reduce__(self) -> str | tuple[Any, ...]:
        return self._made or self.__qualname__  # by reference, like any function

    def __repr__(self) -> str:
        return f"<tiered {self.__qualname__}>"


def _with_options(decorated: Decorated, options: CallOptions) -> Decorated:
    return decorated.with_options(**options)


def _bind(decorated: Decorated, instance: object, owner: type | None) -> Decorated:
    return decorated._bound(instance, owner)


class _Prompting(Decorated):
    """A function that returns a prompt."""

    def _asking(self, client: TieredClient, prompt: Prompt | None) -> ReadyCall:
        if prompt is None:
            raise ConfigError(f"{self.__qualname__} returned None: let it return the prompt")
        return client.ready(ask(prompt, self._options))


class TieredFunction(_Prompting, Generic[P]):
    """A function that returns a prompt, called for its answer."""

    def _ready(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ReadyCall:
        return self._asking(self.client, self._fn(*args, **kwargs))

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Response:
        """The answer to the prompt that the function makes of these arguments."""
        return self._ready(args, kwargs).run()

    async def acomplete(self, /, *args: P.args, **kwargs: P.kwargs) -> Response:
        """The same on an event loop."""
        return await self._ready(args, kwargs).arun()

    def stream(self, /, *args: P.args, **kwargs: P.kwargs) -> ResponseStream:
        """The answer as it arrives, as of ``client.stream``."""
        return ResponseStream(self._ready(args, kwargs))

    def astream(self, /, *args: P.args, **kwargs: P.kwargs) -> AsyncResponseStream:
        """The same on an event loop."""
        return AsyncResponseStream(self._ready(args, kwargs))

    @overload
    def __get__(self, instance: None, owner: type | None = None, /) -> Self: ...

    @overload
    def __get__(
        self: TieredFunction[Concatenate[Any, Q]], instance: object, owner: type | None = None, /
    ) -> TieredFunction[Q]: ...

    def __get__(self, instance: object, owner: type | None = None, /) -> Any:
        return self._bound(instance, owner)


class AsyncTieredFunction(_Prompting, Generic[P]):
    """A coroutine function that returns a prompt, awaited for its answer."""

    async def _ready(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ReadyCall:
        client = self.client
        prompt = self._fn(*args, **kwargs)
        if inspect.isawaitable(prompt):
            prompt = await prompt
        return self._asking(client, prompt)

    async def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Response:
        """The answer to the prompt that the function makes of these arguments."""
        return await (await self._ready(args, kwargs)).arun()

    def stream(self, /, *args: P.args, **kwargs: P.kwargs) -> AsyncResponseStream:
        """The answer as it arrives, as of ``client.astream``."""
        return _PromptedStream(lambda: self._ready(args, kwargs))

    @overload
    def __get__(self, instance: None, owner: type | None = None, /) -> Self: ...

    @overload
    def __get__(
        self: AsyncTieredFunction[Concatenate[Any, Q]], instance: object, owner: type | None = None, /
    ) -> AsyncTieredFunction[Q]: ...

    def __get__(self, instance: object, owner: type | None = None, /) -> Any:
        return self._bound(instance, owner)


class _PromptedStream(AsyncResponseStream):
    """A stream whose prompt has to be awaited first."""

    __slots__ = ("_prompted",)

    def __init__(self, prompted: Callable[[], Coroutine[Any, Any, ReadyCall]]) -> None:
        self._prompted = prompted
        self._run = None
        self._replay = None
        self._closer = 0

    async def __aenter__(self) -> AsyncResponseStream:
        if self._run is None:
            self._ready = await self._prompted()
        return await super().__aenter__()


class WrappedFunction(Decorated, Generic[P, R]):
    """An existing call with service levels around it; it returns what it always returned.

    A generator (or async generator) function streams its own items: it may be begun again elsewhere
    until the first item has come, and is closed when its consumer leaves.
    """

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        signature = self._signature
        result: Any
        if signature.streams:
            deliver = _adeliver if signature.is_async else _deliver
            result = deliver(self.client, self._request(args, kwargs), self._target(args, kwargs))
        elif signature.is_async:
            result = self._awaited(args, kwargs)
        else:
            result = self._ready(args, kwargs).run().raw
        return result  # type: ignore[no-any-return]

    async def _awaited(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return (await self._ready(args, kwargs).arun()).raw

    def _ready(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ReadyCall:
        return self.client.ready(self._request(args, kwargs), self._target(args, kwargs))

    def _request(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Request:
        wrapping = self._wrapping
        messages = NO_PROMPT if wrapping.prompt is None else wrapping.prompt(*args, **kwargs)
        return ask(messages, self._options, repeatable=wrapping.repeatable)

    def _target(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> WrappedCall:
        if self._signature.takes_route and kwargs.get("route", Route.INJECTED) is not Route.INJECTED:
            raise ConfigError(
                f"{self.__qualname__}(route=...): tierllm fills it in. To choose a tier, use "
                "with_options(sla=...); to go without service levels, call the function's __wrapped__"
            )
        return WrappedCall(self._fn, self._signature, args, kwargs, self._wrapping.retry_on, self._own)

    @overload
    def __get__(self, instance: None, owner: type | None = None, /) -> Self: ...

    @overload
    def __get__(
        self: WrappedFunction[Concatenate[Any, Q], R], instance: object, owner: type | None = None, /
    ) -> WrappedFunction[Q, R]: ...

    def __get__(self, instance: object, owner: type | None = None, /) -> Any:
        return self._bound(instance, owner)


def _deliver(client: TieredClient, request: Request, target: WrappedCall) -> Generator[Any, None, Any]:
    """The items of a wrapped generator; an answer from elsewhere (a stale one) is items in its ``raw``."""
    returned = None
    with ResponseStream(client.ready(request, target)) as chunks:
        for chunk in chunks:
            if chunk.finish_reason is not None:
                returned = chunk.raw
            elif target.began:
                yield chunk.raw
        if not target.began:
            yield from chunks.response.raw or ()
    return returned


async def _adeliver(client: TieredClient, request: Request, target: WrappedCall) -> AsyncIterator[Any]:
    """The same for an async generator."""
    async with AsyncResponseStream(client.ready(request, target)) as chunks:
        async for chunk in chunks:
            if chunk.finish_reason is None and target.began:
                yield chunk.raw
        if not target.began:
            for item in chunks.response.raw or ():
                yield item
