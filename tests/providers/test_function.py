"""Callables as providers: every kind of function, in every form of call."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tierllm.errors import (
    ConfigError,
    DeadlineExceededError,
    MalformedResponseError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    StreamInterruptedError,
    UsageError,
)
from tierllm.pipeline.scope import Cancelled, Invocation, Scope
from tierllm.providers.function import Function
from tierllm.types import Call, Chunk, Request, Response, Timeouts, ToolCall, Usage

HELLO = ({"role": "user", "content": "hello"},)


def asked(
    streaming: bool = False,
    timeouts: Timeouts | None = None,
    deadline_s: float | None = None,
    extra: dict[str, Any] | None = None,
    **params: Any,
) -> tuple[Call, Invocation]:
    request = Request(messages=HELLO, params=params, extra=extra or {})
    at = None if deadline_s is None else time.monotonic() + deadline_s
    call = Call(request, model="m", timeouts=timeouts)
    return call, Invocation(call, Scope(time.monotonic, at), streaming=streaming)


class Form:
    """One of the four forms of a call, as the drivers make them."""

    def __init__(self, mode: str, streaming: bool) -> None:
        self.mode, self.streaming = mode, streaming
        self.chunks: list[Chunk] = []

    def ask(self, provider: Function, **kwargs: Any) -> Response:
        call, scope = asked(self.streaming, **kwargs)
        return self.run(provider, call, scope)

    def run(self, provider: Function, call: Call, scope: Invocation) -> Response:
        try:
            if self.mode == "async":
                return asyncio.run(self.arun(provider, call, scope))
            if not self.streaming:
                return scope.answered(provider.complete(call, scope))
            for chunk in provider.stream(call, scope):
                self.take(chunk, scope)
            return scope.finished()
        except Exception as exc:
            error = scope.failed(exc)
            if error is exc:
                raise
            raise error  # noqa: B904 - it has its cause

    async def arun(self, provider: Function, call: Call, scope: Invocation) -> Response:
        if not self.streaming:
            return scope.answered(await provider.acomplete(call, scope))
        async for chunk in provider.astream(call, scope):
            self.take(chunk, scope)
        return scope.finished()

    def take(self, chunk: Chunk, scope: Invocation) -> None:
        scope.feed(chunk)
        self.chunks.append(chunk)
        scope.back()


@pytest.fixture(params=["sync-complete", "sync-stream", "async-complete", "async-stream"])
def form(request: pytest.FixtureRequest) -> Form:
    mode, _, kind = request.param.partition("-")
    return Form(mode, kind == "stream")


# -- every kind of function ---------------------------------------------------------


def plain(messages: list[dict[str, Any]]) -> str:
    return f"{messages[0]['content']} world"


def whole(messages: list[dict[str, Any]]) -> Response:
    return Response("hello world", usage=Usage(input_tokens=1, output_tokens=2))


def pieces(messages: list[dict[str, Any]]) -> Iterator[str | Chunk]:
    yield messages[0]["content"]
    yield Chunk(" world")


async def later(messages: list[dict[str, Any]]) -> str:
    await asyncio.sleep(0)
    return plain(messages)


async def later_whole(messages: list[dict[str, Any]]) -> Response:
    return whole(messages)


async def later_pieces(messages: list[dict[str, Any]]) -> AsyncIterator[str | Chunk]:
    yield messages[0]["content"]
    await asyncio.sleep(0)
    yield Chunk(" world")


async def later_a_generator(messages: list[dict[str, Any]]) -> Iterator[str | Chunk]:
    return pieces(messages)


class Callable_:
    def __call__(self, messages: list[dict[str, Any]]) -> str:
        return plain(messages)


class AsyncCallable:
    async def __call__(self, messages: list[dict[str, Any]]) -> str:
        return plain(messages)


KINDS: list[Callable[..., Any]] = [
    plain,
    whole,
    pieces,
    later,
    later_whole,
    later_pieces,
    later_a_generator,
    Callable_(),
    AsyncCallable(),
    functools.partial(plain),
    functools.partial(later_pieces),
    lambda messages: later(messages),
    lambda messages: later_pieces(messages),
    lambda messages: ["hello", " world"],
]


@pytest.mark.parametrize("fn", KINDS, ids=range(len(KINDS)))
def test_every_kind_answers_in_every_form(fn: Callable[..., Any], form: Form) -> None:
    response = form.ask(Function(fn))
    assert response.text == "hello world"
    assert response.finish_reason == "stop"
    assert response.model == "m"
    if form.streaming:
        assert [c.finish_reason for c in form.chunks if c.finish_reason] == ["stop"]


def test_pieces_stay_pieces(form: Form) -> None:
    for fn in (pieces, later_pieces):
        form.chunks.clear()
        form.ask(Function(fn))
        if form.streaming:
            assert [c.text for c in form.chunks] == ["hello", " world", ""]


def test_usage_and_tool_calls_come_through(form: Form) -> None:
    usage = Usage(input_tokens=1, output_tokens=2)
    assert form.ask(Function(whole)).usage == usage
    tool_call = ToolCall(0, "1", "f", "{}")
    for fn in (lambda m: Response(tool_calls=(tool_call,)), lambda m: [Chunk(tool_call=tool_call)]):
        response = form.ask(Function(fn))
        assert response.tool_calls == (tool_call,)
        assert response.finish_reason == "tool_calls"


def test_a_reason_of_its_own_is_kept(form: Form) -> None:
    cut = Chunk(finish_reason="length")
    for fn in (lambda m: Response("x", finish_reason="length"), lambda m: ["x", cut]):
        form.chunks.clear()
        assert form.ask(Function(fn)).finish_reason == "length"
        assert [c.finish_reason for c in form.chunks if c.finish_reason] == ["length"] * form.streaming


def test_afn_serves_async_calls(form: Form) -> None:
    async def afn(messages: object) -> str:
        return "async"

    assert form.ask(Function(lambda m: "sync", afn=afn)).text == form.mode


@pytest.mark.parametrize(
    "wrong", [None, 3, b"x", {"a": 1}, [3], object()], ids=lambda value: type(value).__name__
)
def test_what_is_no_answer(wrong: object, form: Form) -> None:
    for fn in (lambda m: wrong, later_any(wrong)):
        with pytest.raises(MalformedResponseError, match="has to answer with text") as caught:
            form.ask(Function(fn))
        assert not caught.value.retryable


def later_any(value: Any) -> Callable[..., Any]:
    async def fn(messages: object) -> Any:
        return value

    return fn


# -- what it is given ---------------------------------------------------------------


def test_it_is_given_what_its_signature_names(form: Form) -> None:
    seen: dict[str, Any] = {}

    def fn(chat, /, model, temperature, max_tokens=7, *, params, options, scope, seed=3, mine=1):  # type: ignore[no-untyped-def]
        seen.update(locals())
        return "x"

    form.ask(Function(fn, name="mine"), temperature=0.5, stop=["."], extra={"mine": {"a": 1}})
    assert seen["chat"] == list(HELLO)
    assert seen["chat"][0] is not HELLO[0]
    assert (seen["model"], seen["temperature"]) == ("m", 0.5)
    assert (seen["max_tokens"], seen["seed"], seen["mine"]) == (7, 3, 1)
    assert seen["params"] == {"temperature": 0.5, "stop": ["."]}
    assert seen["options"] == {"a": 1}
    assert isinstance(seen["scope"], Invocation)


def test_its_messages_are_its_own(form: Form) -> None:
    part = object()  # an SDK's
    image = {"type": "image_url", "image_url": {"url": "x"}}
    messages = ({"role": "user", "content": [{"type": "text", "text": "hello"}, image, part]},)
    before = copy.copy(messages[0]["content"]), copy.deepcopy(image)

    def changing(given: list[dict[str, Any]]) -> str:
        text, picture, foreign = given[0]["content"]
        assert foreign is part
        text["text"] = picture["image_url"]["url"] = "changed"
        given[0]["content"].clear()
        return "x"

    call = Call(Request(messages=messages), model="m")
    form.run(Function(changing), call, Invocation(call, Scope(time.monotonic), form.streaming))
    assert (messages[0]["content"], image) == before
    assert messages[0]["content"][0] == {"type": "text", "text": "hello"}


def test_messages_by_name_none_for_the_absent_and_all_for_kwargs(form: Form) -> None:
    def named(model: str, temperature: float | None, messages: list[Any]) -> str:
        return f"{model} {temperature} {messages[0]['content']}"

    def everything(messages: list[Any], **kwargs: Any) -> str:
        return str(sorted(kwargs))

    assert form.ask(Function(named)).text == "m None hello"
    assert form.ask(Function(everything), top_p=1, tools=None, best_of=2).text == "['best_of', 'top_p']"
    assert form.ask(Function(lambda: "nothing needed")).text == "nothing needed"
    assert form.ask(Function(lambda *a: a[0][0]["content"])).text == "hello"
    assert form.ask(Function(str)).text.startswith("[{")


def test_a_parameter_it_cannot_fill() -> None:
    with pytest.raises(ConfigError, match=r"Function\(typo\): cannot fill its parameter 'temprature'"):

        def typo(messages: object, temprature: float) -> str:
            return ""

        Function(typo)


def test_names() -> None:
    assert Function(plain).name == "plain"
    assert Function(lambda m: "").name == "function"
    assert repr(Function(plain, name="mine")) == "Function(mine)"


# -- failures -----------------------------------------------------------------------


def test_known_exceptions_are_translated_and_others_untouched(form: Form) -> None:
    cases = [(ConnectionResetError(), ProviderUnavailableError), (TimeoutError(), ProviderTimeoutError)]
    for exc, kind in cases:
        for fn in (failing(exc), failing_later(exc), failing_pieces(exc), failing_later_pieces(exc)):
            with pytest.raises(kind) as caught:
                form.ask(Function(fn))
            assert caught.value.__cause__ is exc
    for own in (KeyError("mine"), RateLimitError("slow down"), RuntimeError("no running event loop")):
        with pytest.raises(type(own)) as caught_own:
            form.ask(Function(failing(own)))
        assert caught_own.value is own
    with pytest.raises((StopIteration, RuntimeError)):
        form.ask(Function(failing(StopIteration())))


def failing(exc: Exception) -> Callable[..., Any]:
    def fn(messages: object) -> str:
        raise exc

    return fn


def failing_later(exc: Exception) -> Callable[..., Any]:
    async def fn(messages: object) -> str:
        raise exc

    return fn


def failing_pieces(exc: Exception) -> Callable[..., Any]:
    def fn(messages: object) -> Iterator[str]:
        raise exc
        yield ""

    return fn


def failing_later_pieces(exc: Exception) -> Callable[..., Any]:
    async def fn(messages: object) -> AsyncIterator[str]:
        raise exc
        yield ""

    return fn


def test_a_stream_that_breaks(form: Form) -> None:
    def fn(messages: object) -> Iterator[str]:
        yield "one"
        raise ConnectionResetError

    with pytest.raises(StreamInterruptedError if form.streaming else ProviderUnavailableError):
        form.ask(Function(fn))


# -- waiting and leaving ------------------------------------------------------------


def test_an_async_function_is_bounded(form: Form) -> None:
    async def slow(messages: object) -> str:
        await asyncio.sleep(30)
        return ""

    async def stalling(messages: object) -> AsyncIterator[str]:
        yield "one"
        await asyncio.sleep(30)

    limits = Timeouts(first_token_s=0.05, between_tokens_s=0.05, total_s=None if form.streaming else 0.05)
    for fn, phase in ((slow, "first_token"), (stalling, "between_tokens")):
        with pytest.raises((ProviderTimeoutError, StreamInterruptedError)) as caught:
            form.ask(Function(fn), timeouts=limits)
        error = caught.value if isinstance(caught.value, ProviderTimeoutError) else caught.value.__cause__
        assert isinstance(error, ProviderTimeoutError)
        assert error.phase == (phase if form.streaming else "total")
    with pytest.raises(DeadlineExceededError):
        form.ask(Function(slow), deadline_s=0.05)


def test_a_sync_function_that_is_late_is_late(form: Form) -> None:
    def slow(messages: object) -> str:
        time.sleep(0.02)
        return "late"

    def slow_to_begin(messages: object) -> Iterator[str]:
        time.sleep(0.02)
        yield "late"

    def slow_to_end(messages: object) -> Iterator[str]:
        yield "in time"
        time.sleep(0.02)

    for fn in (slow, slow_to_begin, slow_to_end):
        with pytest.raises(DeadlineExceededError):
            form.ask(Function(fn), deadline_s=0.01)
    for fn in (slow, slow_to_begin):
        with pytest.raises(ProviderTimeoutError):  # nothing was delivered: another place may answer
            form.ask(Function(fn), timeouts=Timeouts(total_s=0.01))


def test_a_slow_generator_ends_at_its_next_piece(form: Form) -> None:
    ended = threading.Event()

    def slow(messages: object) -> Iterator[str]:
        try:
            for n in range(50):
                time.sleep(0.02)
                yield str(n)
        finally:
            ended.set()

    with pytest.raises(DeadlineExceededError):
        form.ask(Function(slow), deadline_s=0.06)
    assert ended.is_set()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_leaving_a_stream_early_closes_the_generator(kind: str) -> None:
    closed: list[str] = []

    def endless(messages: object) -> Iterator[str]:
        try:
            while True:
                yield "x"
        finally:
            closed.append(threading.current_thread().name)

    async def endless_later(messages: object) -> AsyncIterator[str]:
        try:
            while True:
                yield "x"
        finally:
            await asyncio.sleep(0)
            closed.append("later")

    for fn in (endless, endless_later):
        call, scope = asked(True)
        if kind == "sync":
            stream = Function(fn).stream(call, scope)
            next(stream)
            stream.close()  # type: ignore[attr-defined]
        else:
            asyncio.run(leave(Function(fn).astream(call, scope)))
    assert closed == ["MainThread" if kind == "sync" else "tierllm-function", "later"]


async def leave(chunks: Any) -> None:
    await anext(chunks)
    await chunks.aclose()


async def test_a_cancelled_call_ends_when_its_sync_function_has() -> None:
    begun, ended = threading.Event(), threading.Event()

    def slow(messages: object) -> str:
        begun.set()
        time.sleep(0.15)
        ended.set()
        return ""

    call, scope = asked()
    task = asyncio.create_task(Function(slow).acomplete(call, scope))
    while not begun.is_set():
        await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


def test_cancelling_an_async_function_in_a_sync_call() -> None:
    cleaned: list[bool] = []

    async def slow(messages: object) -> str:
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)
        return ""

    async def stalling(messages: object) -> AsyncIterator[str]:
        yield "one"
        await slow(messages)

    for fn in (slow, stalling):
        call, scope = asked()
        threading.Timer(0.05, scope.scope.cancel).start()
        with pytest.raises(Cancelled):
            Function(fn).complete(call, scope)
    assert cleaned == [True, True]


async def test_the_event_loop_stays_free_and_context_travels() -> None:
    who = contextvars.ContextVar("who", default="nobody")
    who.set("u42")
    threads: set[int] = set()

    def fn(messages: object) -> Iterator[str]:
        for _ in range(4):
            threads.add(threading.get_ident())
            time.sleep(0.03)
            yield who.get()

    call, scope = asked()
    task = asyncio.create_task(Function(fn).acomplete(call, scope))
    ticks = 0
    while not task.done():
        await asyncio.sleep(0.005)
        ticks += 1
    assert ticks > 5
    assert (await task).text == "u42" * 4
    call, scope = asked(True)
    threads.clear()
    assert [c.text async for c in Function(fn).astream(call, scope)][:2] == ["u42", "u42"]
    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_a_sync_call_of_an_async_function_is_refused_in_a_loop() -> None:
    call, scope = asked()
    answer: Any = None
    with pytest.raises(UsageError, match="acomplete"):
        answer = Function(later).complete(call, scope)
    assert answer is None


def test_threads_end(form: Form) -> None:
    before = threading.active_count()
    for fn in (plain, pieces, failing(KeyError())):
        try:
            form.ask(Function(fn))
        except KeyError:
            pass
    end = time.monotonic() + 2
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.005)
    assert threading.active_count() <= before  # one of an earlier test may have ended meanwhile
