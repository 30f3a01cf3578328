"""Any callable as a provider: sync or async, answering whole or in pieces."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import queue
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..errors import ConfigError, MalformedResponseError
from ..pipeline.waiting import forbid_in_event_loop
from ..types import Chunk, Response
from .base import BaseProvider

if TYPE_CHECKING:
    from ..pipeline.scope import Invocation
    from ..types import Call

__all__ = ["Answer", "Function"]

T = TypeVar("T")

Answer = str | Response | Iterable[str | Chunk]
"""What a function may answer with: text, a whole response, or pieces as they come."""

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
    caller's context variables, and a call that is cancelled or late ends only when it has returned.
    An async function in a sync call runs in an event loop of its own. ``fn`` must be safe for
    several calls at once.
    """

    def __init__(
        self,
        fn: Callable[..., Answer | Awaitable[Answer] | AsyncIterable[str | Chunk]],
        *,
        afn: Callable[..., Awaitable[Answer] | AsyncIterable[str | Chunk]] | None = None,
        name: str | None = None,
    ) -> None:
        self.name = name or _name_of(fn)
        self._ask = _binding(fn, self.name)
        self._blocking = afn is None and not _is_async(fn)
        self._ask_async = self._ask if afn is None else _binding(afn, self.name)

    def __repr__(self) -> str:
        return f"Function({self.name})"

    def complete(self, call: Call, scope: Invocation) -> Response:
        with self._translated():
            answer = self._ask(call, scope)
            if not _is_pending(answer):
                return _whole(answer, scope)
            with _Loop(scope) as loop:
                return loop.run(_awhole(answer, scope))

    def stream(self, call: Call, scope: Invocation) -> Iterator[Chunk]:
        with self._translated():
            answer = self._ask(call, scope)
            if not _is_pending(answer):
                yield from _chunks(answer, scope)
                return
            with _Loop(scope) as loop:
                chunks = _achunks(answer, scope)
                try:
                    while (chunk := loop.run(anext(chunks, None))) is not None:
                        yield chunk
                finally:
                    loop.finish(chunks.aclose())

    async def acomplete(self, call: Call, scope: Invocation) -> Response:
        def answered() -> Any:
            answer = self._ask(call, scope)
            return answer if _is_pending(answer) else _whole(answer, scope)

        with self._translated():
            if not self._blocking:
                answer = self._ask_async(call, scope)
            else:
                with _Thread() as thread:
                    answer = await thread.do(answered)
            return await _within(scope, _awhole(answer, scope))

    async def astream(self, call: Call, scope: Invocation) -> AsyncIterator[Chunk]:
        with self._translated():
            if not self._blocking:
                answer = self._ask_async(call, scope)
            else:
                with _Thread() as thread:
                    answer = await thread.do(lambda: self._ask(call, scope))
                    if not _is_pending(answer):
                        pieces = _chunks(answer, scope)
                        try:
                            while (chunk := await thread.do(lambda: next(pieces, None))) is not None:
                                yield chunk
                        finally:
                            await thread.do(pieces.close)
                        return
            chunks = _achunks(answer, scope)
            try:
                while (chunk := await _within(scope, anext(chunks, None))) is not None:
                    yield chunk
            finally:
                await chunks.aclose()

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


def _takes_messages(first: inspect.Parameter) -> bool:
    """Whether the first parameter is given the messages by position, whatever it is called."""
    if first.kind in (first.POSITIONAL_ONLY, first.VAR_POSITIONAL):
        return True
    return first.kind is first.POSITIONAL_OR_KEYWORD and (
        first.name == "messages" or first.name not in OFFERED
    )


def _messages(call: Call) -> list[dict[str, Any]]:
    return [dict(message) for message in call.messages]


def _offer(what: str, call: Call, scope: Invocation, name: str) -> Any:
    if what in PARAMS:
        return call.params.get(what)
    if what == "messages":
        return _messages(call)
    if what == "options":
        return call.options(name)
    return {"model": call.model, "params": call.params, "scope": scope}[what]


# -- what it answers ----------------------------------------------------------------


class _Reader:
    """Turns pieces into chunks, and ends them with a reason where they gave none."""

    def __init__(self) -> None:
        self._finished = False
        self._reason = "stop"

    def read(self, piece: object) -> Chunk:
        chunk = Chunk(piece) if isinstance(piece, str) else piece
        if not isinstance(chunk, Chunk):
            raise _malformed(f"yielded {type(piece).__name__}")
        if chunk.tool_call is not None:
            self._reason = "tool_calls"
        self._finished = self._finished or chunk.finish_reason is not None
        return chunk

    def last(self) -> Iterator[Chunk]:
        if not self._finished:
            yield Chunk(finish_reason=self._reason)


def _malformed(what: str) -> MalformedResponseError:
    wanted = "text, a Response, or an iterable of text and Chunks"
    return MalformedResponseError(f"a function {what}: it has to answer with {wanted}", retryable=False)


def _is_pending(answer: object) -> bool:
    return isinstance(answer, Awaitable | AsyncIterable)


def _whole(answer: object, scope: Invocation) -> Response:
    if isinstance(answer, str):
        return Response(answer, finish_reason="stop", model=scope.call.model)
    if isinstance(answer, Response):
        reason = answer.finish_reason or ("tool_calls" if answer.tool_calls else "stop")
        return replace(answer, finish_reason=reason, model=answer.model or scope.call.model)
    for chunk in _chunks(answer, scope):
        scope.feed(chunk)
    return scope.finished()


def _chunks(answer: object, scope: Invocation) -> Generator[Chunk, None, None]:
    if isinstance(answer, str | Response):
        yield from _whole(answer, scope).chunks()
        return
    if not isinstance(answer, Iterable) or isinstance(answer, bytes | Mapping):
        raise _malformed(f"returned {type(answer).__name__}")
    reader, pieces = _Reader(), iter(answer)
    try:
        for piece in pieces:
            yield reader.read(piece)
            scope.check()
        yield from reader.last()
    finally:
        if isinstance(pieces, Generator):
            pieces.close()


async def _awhole(answer: object, scope: Invocation) -> Response:
    if isinstance(answer, Awaitable):
        answer = await answer
    if not isinstance(answer, AsyncIterable):
        return _whole(answer, scope)
    async for chunk in _achunks(answer, scope):
        scope.feed(chunk)
    return scope.finished()


async def _achunks(answer: object, scope: Invocation) -> AsyncGenerator[Chunk, None]:
    if isinstance(answer, Awaitable):
        answer = await answer
    if not isinstance(answer, AsyncIterable):
        for chunk in _chunks(answer, scope):
            yield chunk
        return
    reader, pieces = _Reader(), aiter(answer)
    try:
        async for piece in pieces:
            yield reader.read(piece)
        for chunk in reader.last():
            yield chunk
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()


# -- where it runs ------------------------------------------------------------------


async def _within(scope: Invocation, step: Awaitable[T]) -> T:
    """Await one step of an async function for as long as the scope allows."""
    left = scope.remaining_s()
    if left is None:
        return await step
    bound = asyncio.timeout(left)
    try:
        async with bound:
            return await step
    except TimeoutError:
        if bound.expired():
            raise scope.timed_out() from None
        raise


class _Loop:
    """An event loop of its own for an async function in a sync call."""

    def __init__(self, scope: Invocation) -> None:
        forbid_in_event_loop("an async function in a sync call")
        self._scope = scope
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)

    def __enter__(self) -> _Loop:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._runner.close()

    def run(self, step: Awaitable[T]) -> T:
        """One step, cut short by timeout, deadline or cancellation."""
        return self._runner.run(self._bounded(step))

    def finish(self, step: Awaitable[T]) -> T:
        """A last step, which clears up and so runs to its end."""

        async def unbounded() -> T:
            return await step

        return self._runner.run(unbounded())

    async def _bounded(self, step: Awaitable[T]) -> T:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None

        def leave() -> None:
            with suppress(RuntimeError):  # the loop has closed in the same moment
                loop.call_soon_threadsafe(task.cancel)

        self._scope.on_cancel(leave)
        try:
            return await _within(self._scope, step)
        except asyncio.CancelledError:
            self._scope.scope.check()
            raise
        finally:
            self._scope.off_cancel(leave)


class _Thread:
    """A thread of its own in which an async call has a sync function work, one step at a time.

    It is a daemon: a function that never returns must not keep the process from ending.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        context = contextvars.copy_context()
        worker = threading.Thread(
            target=context.run, args=(self._work,), name="tierllm-function", daemon=True
        )
        worker.start()

    def __enter__(self) -> _Thread:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._jobs.put(None)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            job()
            del job  # it must not outlive its call

    async def do(self, step: Callable[[], T]) -> T:
        """Run ``step`` to its end, even when cancelled meanwhile; the cancellation follows."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[tuple[T | None, BaseException | None]] = loop.create_future()

        def job() -> None:
            value, error = None, None
            try:
                value = step()
            except BaseException as exc:  # the caller's, who waits elsewhere
                error = exc
            with suppress(RuntimeError):  # the loop was closed under the call
                loop.call_soon_threadsafe(done.set_result, (value, error))

        self._jobs.put(job)
        cancelled = False
        while not done.done():
            try:
                await asyncio.wait((done,))
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError
        value, error = done.result()
        try:
            if error is not None:
                raise error
            return cast("T", value)
        finally:
            del error
