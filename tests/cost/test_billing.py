"""What a failed call is booked at: reported usage, what was delivered, nothing, or what was reserved."""

from __future__ import annotations

import socket

import pytest

from tierllm import Request, Usage
from tierllm.cost.billing import LONG, NOTHING, UNKNOWN, billed, delivered, reported
from tierllm.cost.tokens import tokens_for
from tierllm.errors import (
    AuthenticationError,
    CircuitOpenError,
    ConfigError,
    ContentFilteredError,
    DeadlineExceededError,
    InvalidRequestError,
    MalformedResponseError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    StreamInterruptedError,
    UsageError,
)
from tierllm.pipeline.scope import Cancelled, Invocation, Scope
from tierllm.testing import FakeClock
from tierllm.types import Call, Chunk, ToolCall

USAGE = Usage(input_tokens=3, output_tokens=4)


def invocation(*chunks: Chunk, streaming: bool = True) -> Invocation:
    made = Invocation(Call(Request(messages=())), Scope(FakeClock()), streaming)
    for chunk in chunks:
        made.feed(chunk)
    return made


def never_connected(error: ProviderError, cause: BaseException) -> ProviderError:
    error.__cause__ = cause
    return error


def in_phase(phase: str) -> ProviderTimeoutError:
    error = ProviderTimeoutError("late")
    error.phase = phase
    return error


class ConnectTimeout(Exception):
    """Named as transports name it."""


UNBILLED = [
    RateLimitError("slow down", status=429),
    ProviderUnavailableError("down", status=503),
    AuthenticationError("no", status=401),
    InvalidRequestError("no", status=400),
    ContentFilteredError("no", status=400),
    ContentFilteredError("no"),
    in_phase("connect"),
    never_connected(ProviderUnavailableError("refused"), ConnectionRefusedError()),
    never_connected(ProviderUnavailableError("unknown host"), socket.gaierror()),
    never_connected(ProviderUnavailableError("late"), ConnectTimeout()),
    CircuitOpenError("open"),
    ConfigError("wrong"),
    UsageError("wrong"),
]
UNTOLD = [
    in_phase("first_token"),
    in_phase("total"),
    ProviderUnavailableError("the connection was reset"),
    never_connected(ProviderUnavailableError("reset"), ConnectionResetError()),
    MalformedResponseError("what is this"),
    MalformedResponseError("what is this", status=200),
    StreamInterruptedError("broken"),
    DeadlineExceededError("late"),
    Cancelled(),
    KeyboardInterrupt(),
    GeneratorExit(),
    ValueError("a wrapped function's own"),
]


def name(error: BaseException) -> str:
    return f"{type(error).__name__}-{error}"


@pytest.mark.parametrize("error", UNBILLED, ids=name)
def test_a_no_is_not_billed(error: BaseException) -> None:
    assert billed(error, invocation()) is NOTHING
    assert billed(error, invocation(streaming=False)) is NOTHING


@pytest.mark.parametrize("error", UNTOLD, ids=name)
def test_what_nobody_knows_counts_as_reserved(error: BaseException) -> None:
    assert billed(error, invocation()) is UNKNOWN
    assert billed(error, invocation(streaming=False)) is UNKNOWN


@pytest.mark.parametrize("error", [*UNBILLED, *UNTOLD], ids=name)
def test_what_was_never_sent_is_not_billed(error: BaseException) -> None:
    assert billed(error, None) is NOTHING


TOLD = [e for e in [*UNBILLED, *UNTOLD] if not isinstance(e, ConfigError | UsageError | CircuitOpenError)]


@pytest.mark.parametrize("error", TOLD, ids=name)
def test_reported_usage_is_what_was_used_whatever_came_after(error: BaseException) -> None:
    assert billed(error, invocation(Chunk("hi"), Chunk(usage=USAGE))) is USAGE


@pytest.mark.parametrize("error", TOLD, ids=name)
@pytest.mark.parametrize(
    "chunk", [Chunk("hi"), Chunk(reasoning="hm"), Chunk(tool_call=ToolCall(0, "1", "f", "{}"))], ids=str
)
def test_text_that_was_delivered_is_counted(error: BaseException, chunk: Chunk) -> None:
    assert billed(error, invocation(chunk)) is None


@pytest.mark.parametrize(
    "usage",
    [
        None,
        Usage(input_tokens=-1),
        Usage(input_tokens=5, output_tokens=-9),
        Usage(input_tokens=5, cached_input_tokens=-9),
        Usage(input_tokens=2.5),  # type: ignore[arg-type]
        Usage(input_tokens="3"),  # type: ignore[arg-type]
        Usage(output_tokens=None),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_usage_that_cannot_be_is_no_usage(usage: Usage | None) -> None:
    assert reported(usage) is UNKNOWN
    if usage is not None:
        assert billed(Cancelled(), invocation(Chunk("hi"), Chunk(usage=usage))) is UNKNOWN


def test_delivered_text_is_counted_with_the_models_tokenizer() -> None:
    tokens = tokens_for("gpt-5-mini", "openai")
    told = invocation(
        Chunk(reasoning="let me think"),
        Chunk("hello "),
        Chunk("world"),
        Chunk(tool_call=ToolCall(0, "1", "f", '{"a": 1}')),
    )
    usage = delivered(told, tokens, 7)
    text = 'let me thinkhello world{"a": 1}'
    assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (7, tokens.text(text), True)
    assert delivered(invocation(), tokens, 7).output_tokens == 0


def test_a_very_long_answer_is_told_from_its_beginning() -> None:
    tokens = tokens_for("gpt-5-mini", "openai")
    usage = delivered(invocation(Chunk("hello " * LONG)), tokens, 1)
    assert usage.output_tokens == pytest.approx(LONG, rel=0.01)
