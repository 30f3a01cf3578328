"""Rate limits for the tests: calls by hand, a place, and a sliding window by definition."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from tierllm.admission.limits import Limits
from tierllm.admission.rate_limit import RateLimit
from tierllm.cost.place import Place
from tierllm.events import Event
from tierllm.pipeline.scope import Invocation, Scope
from tierllm.stores import Store
from tierllm.testing import FakeClock
from tierllm.types import Call, Request, Response, Usage

PLACE = Place("gold", "m-eu", "m")


def asked(text: str = "hi", max_tokens: int | None = None, **who: Any) -> Call:
    params = {} if max_tokens is None else {"max_tokens": max_tokens}
    return Call(Request(messages=({"role": "user", "content": text},), params=params, **who), model="m")


def limits(
    *given: RateLimit,
    clock: FakeClock,
    place: Place = PLACE,
    store: Store | None = None,
    emit: Callable[[Event], None] | None = None,
    **more: Any,
) -> Limits:
    return Limits(given, place=place, clock=clock, wall=clock, store=store, emit=emit, **more)


def answer(input_tokens: int = 0, output_tokens: int = 0, **more: Any) -> Response:
    usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    return Response(text="x", finish_reason="stop", usage=usage, **more)


class Sent:
    """What comes after the policy: notes that it was called, with progress, and ends as it is told."""

    def __init__(
        self,
        end: Response | BaseException | None = None,
        *,
        clock: FakeClock | None = None,
        headers: dict[str, str] | None = None,
        streaming: bool = False,
        texts: tuple[str, ...] = (),
        usage: Usage | None = None,
        reaches: bool = True,
    ) -> None:
        self.end = end if end is not None else answer(10, 5)
        self.clock = clock or FakeClock()
        self.headers = headers
        self.streaming = streaming
        self.texts = texts
        self.usage = usage
        self.reaches = reaches
        self.calls = 0

    async def __call__(self, call: Call, /) -> Response:
        self.calls += 1
        if self.reaches:
            progress = call.progress = Invocation(call, Scope(self.clock), self.streaming)
            progress.headers = self.headers
            progress.texts = list(self.texts)
            progress.usage = self.usage
        if isinstance(self.end, BaseException):
            raise self.end
        return self.end


def done(flow: Coroutine[Any, Any, Response]) -> Response:
    """The end of a flow that waits for nothing."""
    try:
        flow.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    raise AssertionError("it waits for something")


class Window:
    """A sliding window by its definition: what was taken at ``t`` counts before ``t + window_s``."""

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self.taken: list[list[float]] = []

    def add(self, at: float, amount: float) -> int:
        self.taken.append([at, amount])
        return len(self.taken) - 1

    def used(self, now: float) -> float:
        return sum(amount for at, amount in self.taken if at <= now < at + self.window_s)

    def peak(self) -> float:
        """The most in any window: the fullest begins with a take."""
        return max((self.used_from(at) for at, _ in self.taken), default=0.0)

    def used_from(self, begins: float) -> float:
        return sum(amount for at, amount in self.taken if begins <= at < begins + self.window_s)
