"""Any callable as a provider: sync or async, answering whole or in pieces."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..pipeline.waiting import forbid_in_event_loop
from .answers import Answer, achunks_of, awhole, chunks_of, is_pending, whole
from .base import BaseProvider
from .crossing import OwnLoop, OwnThread, within
from .identity import identity

if TYPE_CHECKING:
    from ..pipeline.scope import Invocation
    from ..types import Call, Chunk, Response

__all__ = ["Function"]

PARAMS = ("max_tokens", "temperature", "top_p", "stop", "seed", "tools", "tool_choice", "response_format")
OFFERED = ("messages", "model", *PARAMS, "params", "options", "scope")


class Function(BaseProvider):
    """``fn(messages, ...)`` as a provider, in sync and async calls alike.

    ``fn`` receives the messages as a list of dicts, and by keyword whatever else its signature
    names among ``model``, ``max_tokens``, ``temperature``, ``top_p``, ``stop``, ``seed``, ``tools``,
    ``tool_choice``, ``response_format`` (``None``, or its own default, where the call gives none),
    ``params`` (all of them), ``options`` (``extra[name]``) and ``scope`` (``remaining_s()``,
    ``cancelled``, ``on_cancel(fn)``). With ``**kwargs`` it receives every parameter of the call.

    It returns text, a ``Response``, or an iterable of text and ``Chunk``s: as a plain function, a
    generator, an async function or an async generator. One that ends normally has finished
    (``"stop"``). ``afn``, if given, serves async calls instead. Exceptions of known SDKs and
    transports become ``ProviderError``s; others pass through untouched.

    A sync function cannot be interrupted: in async calls it runs in a thread of its own, with the
    caller's context variables, and a call that is cancelled or late ends only when it has returned;
    what it returns then is too late, and the call fails as any late call does.
    An async function in a sync call runs in an event loop of its own. ``fn`` must be safe for
    several calls at once.

    A cache takes it for the same while its code is, and the plain data that it sees from outside. Of one
    that sees anything else, such as an object's method, answers are kept only by its ``version``: name
    another one whenever it may answer otherwise.
    """

    def __init__(
        self,
        fn: Callable[..., Answer | Awaitable[Answer] | AsyncIterable[str | Chunk]],
        *,
        afn: Callable[..., Awaitable[Answer] | AsyncIterable[str | Chunk]] | None = None,
        name: str | None = None,
        version: str | None = None,
    ) -> None:
        self.name = name or _name_of(fn)
        self._ask = _binding(fn, self.name)
        self.origin = [identity(fn), None if afn is None else identity(afn)] if version is None else version
        self.takes_max_tokens = _heeds(fn) and (afn is None or _heeds(afn))
        self._needs_loop = _is_async(fn)
        self._blocking = afn is None and not self._needs_loop
        self._ask_async = self._ask if afn is None else _binding(afn, self.name)

    def __repr__(self) -> str:
        return f"Function({self.name})"

    def complete(self, call: Call, scope: Invocation) -> Response:
        with self._translated():
            answer = self._ask_here(call, scope)
            if not is_pending(answer):
                return whole(answer, scope)
            with OwnLoop(scope) as loop:
                return loop.run(awhole(answer, scope))

    def stream(self, call: Call, scope: Invocation) -> Iterator[Chunk]:
        with self._translated():
            answer = self._ask_here(call, scope)
            if not is_pending(answer):
                yield from chunks_of(answer, scope)
                return
            with OwnLoop(scope) as loop:
                chunks = achunks_of(answer, scope)
                try:
                    while (chunk := loop.run(anext(chunks, None))) is not None:
                        yield chunk
                finally:
                    loop.finish(chunks.aclose())

    async def acomplete(self, call: Call, scope: Invocation) -> Response:
        def answered() -> Any:
            answer = self._ask(call, scope)
            return answer if is_pending(answer) else whole(answer, scope)

        with self._translated():
            if not self._blocking:
                answer = self._ask_async(call, scope)
            else:
                with OwnThread() as thread:
                    answer = await thread.do(answered)
            return await within(scope, awhole(answer, scope))

    async def astream(self, call: Call, scope: Invocation) -> AsyncIterator[Chunk]:
        with self._translated():
            if not self._blocking:
                answer = self._ask_async(call, scope)
            else:
                with OwnThread() as thread:
                    answer = await thread.do(lambda: self._ask(call, scope))
                    if not is_pending(answer):
                        pieces = chunks_of(answer, scope)
                        try:
                            while (chunk := await thread.do(lambda: next(pieces, None))) is not None:
                                yield chunk
                        finally:
                            await thread.do(pieces.close)
                        return
            chunks = achunks_of(answer, scope)
            try:
                while (chunk := await within(scope, anext(chunks, None))) is not None:
                    yield chunk
            finally:
                await chunks.aclose()

    def _ask_here(self, call: Call, scope: Invocation) -> Any:
        if self._needs_loop:
            forbid_in_event_loop("an async function in a sync call")
        return self._ask(call, scope)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except Exception as exc:
            from .translate import translate

            error = translate(exc, vendor=self.name)
            if error is None:
                raise
            raise error from exc


# -- how it is called ---------------------------------------------------------------


def _name_of(fn: Callable[..., object]) -> str:
    name = getattr(fn, "__name__", "")
    return name if name.isidentifier() else "function"


def _is_async(fn: Callable[..., object]) -> bool:
    call = getattr(fn, "__call__", fn)  # noqa: B004 - of an instance whose class defines it as async
    return any(inspect.iscoroutinefunction(f) or inspect.isasyncgenfunction(f) for f in (fn, call))


def _binding(fn: Callable[..., Any], name: str) -> Callable[[Call, Invocation], Any]:
    """How to call ``fn`` for a call; its signature is read once."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):  # some builtins do not tell
        return lambda call, scope: fn(_messages(call))
    first = bool(parameters) and _takes_messages(parameters[0])
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = [p for p in parameters[first:] if p.name in OFFERED and p.kind is not p.POSITIONAL_ONLY]
    for p in parameters[first:]:
        if p not in named and p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise ConfigError(
                f"Function({name}): cannot fill its parameter {p.name!r}; "
                f"it may name any of {', '.join(OFFERED)}, or give it a default"
            )

    def ask(call: Call, scope: Invocation) -> Any:
        keywords = {k: v for k, v in call.params.items() if v is not None} if takes_all else {}
        for p in named:
            value = _offer(p.name, call, scope, name)
            if value is not None or p.default is p.empty:
                keywords[p.name] = value
        return fn(_messages(call), **keywords) if first else fn(**keywords)

    return ask


def _heeds(fn: Callable[..., Any]) -> bool:
    """Whether ``fn`` is told ``max_tokens`` at all."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.kind is p.VAR_KEYWORD or p.name in ("max_tokens", "params") for p in parameters)


def _takes_messages(first: inspect.Parameter) -> bool:
    """Whether the first parameter is given the messages by position, whatever it is called."""
    if first.kind in (first.POSITIONAL_ONLY, first.VAR_POSITIONAL):
        return True
    return first.kind is first.POSITIONAL_OR_KEYWORD and (
        first.name == "messages" or first.name not in OFFERED
    )


def _messages(call: Call) -> list[dict[str, Any]]:
    return [{name: _own(value) for name, value in message.items()} for message in call.messages]


def _own(value: Any) -> Any:
    """A copy to be changed at will. What is neither mapping nor list, such as an SDK's part, stays shared."""
    if isinstance(value, Mapping):
        return {name: _own(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_own(inner) for inner in value]
    return value


def _offer(what: str, call: Call, scope: Invocation, name: str) -> Any:
    if what in PARAMS:
        return call.params.get(what)
    if what == "messages":
        return _messages(call)
    if what == "options":
        return call.options(name)
    return {"model": call.model, "params": call.params, "scope": scope}[what]
