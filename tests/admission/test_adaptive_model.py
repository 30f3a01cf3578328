"""Adaptive concurrency against a plain model of its promises.

The model keeps the calls and the rounds they were sent in, and shares no code with the library. Calls are
the policy's coroutines stepped by hand, so that any number of them overlap in any order.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tierllm.admission.adaptive import AdaptiveConcurrency
from tierllm.errors import (
    CircuitOpenError,
    InvalidRequestError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    ThrottledError,
)
from tierllm.pipeline.effects import Sleep
from tierllm.testing import FakeClock
from tierllm.types import Call, Request, Response

OVERLOADS = [
    RateLimitError("429"),
    ProviderTimeoutError("late"),
    ProviderUnavailableError("503", status=503),
]
NEUTRAL = [
    InvalidRequestError("400"),
    ProviderUnavailableError("500", status=500),
    CircuitOpenError("open"),
    ValueError("a bug"),
    asyncio.CancelledError(),
    KeyboardInterrupt(),
    GeneratorExit(),
]


@dataclass
class Running:
    flow: Any
    call: Call
    round: int
    at_once: int
    would_be_sent: bool


@dataclass
class Model:
    size: int
    least: int
    most: int
    backoff: float
    caution: int
    round: int = 0
    refused_level: int | None = None
    good: list[Running] = field(default_factory=list)

    def answered(self, one: Running) -> None:
        if one.round != self.round or not one.would_be_sent or one.at_once < self.size / 2:
            return
        if self.size == self.most:
            return
        self.good.append(one)
        wanted = self.size
        if self.refused_level == self.size + 1:
            wanted *= self.caution
        if len(self.good) == wanted:
            self.size += 1
            self.good = []

    def overloaded(self, one: Running) -> None:
        if one.round != self.round or not one.would_be_sent:
            return
        self.refused_level = self.size
        cut = min(int(self.size * self.backoff), self.size - 1)
        self.size = self.least if cut < self.least else cut
        self.round += 1
        self.good = []


class AdaptiveMachine(RuleBasedStateMachine):
    @initialize(
        start=st.integers(1, 12),
        below=st.integers(0, 3),
        above=st.integers(0, 8),
        backoff=st.sampled_from([0.5, 0.9, 0.99]),
        caution=st.sampled_from([1, 2, 10]),
        observe=st.booleans(),
    )
    def build(self, start: int, below: int, above: int, backoff: float, caution: int, observe: bool) -> None:
        least, most = max(1, start - below), start + above
        self.clock = FakeClock()
        self.enforced = not observe
        self.policy = AdaptiveConcurrency(
            start=start,
            least=least,
            most=most,
            backoff=backoff,
            caution=caution,
            mode="observe" if observe else "enforce",
            clock=self.clock,
        )
        self.pokes = 0
        self.policy.listen(self.poked)
        self.model = Model(start, least, most, backoff, caution)
        self.running: list[Running] = []
        self.ended = 0

    def poked(self) -> None:
        self.pokes += 1

    @property
    def in_flight(self) -> int:
        """What would have been refused is as if it had not come."""
        return sum(one.would_be_sent for one in self.running)

    def send(self) -> None:
        call = Call(Request(messages=()))
        fits = self.in_flight < self.model.size
        peeked = self.policy.peek(self.clock())
        assert (peeked is None) == (fits or not self.enforced)
        flow = self.policy(call, inside)
        try:
            flow.send(None)
        except ThrottledError as error:
            refusal: ThrottledError | None = error
        else:
            refusal = None
        assert (refusal is None) == (peeked is None)
        if refusal is not None and peeked is not None:
            assert refusal.waitable
            assert refusal.retry_after_s == peeked.retry_after_s
            assert refusal.retry_after_s is not None
            assert refusal.retry_after_s > 0
            return
        self.running.append(Running(flow, call, self.model.round, self.in_flight + 1, fits))

    @rule(calls=st.integers(1, 15))
    def come(self, calls: int) -> None:
        for _ in range(calls):
            self.send()

    def end(self, which: int, *, reached: bool = True) -> Running:
        one = self.running.pop(which % len(self.running))
        if reached:
            one.call.progress = SimpleNamespace()  # type: ignore[assignment]
        self.ended += one.would_be_sent
        return one

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 1000))
    def is_answered(self, which: int) -> None:
        one = self.end(which)
        step(one, None)
        self.model.answered(one)

    @precondition(lambda self: self.running)
    @rule(again=st.booleans())
    def all_are_answered(self, again: bool) -> None:
        """A busy stretch, in which each answer is followed by the next call."""
        for _ in range(len(self.running) * 3 if again else len(self.running)):
            self.is_answered(0)
            if again:
                self.send()

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 1000), error=st.sampled_from(OVERLOADS))
    def is_overloaded(self, which: int, error: Exception) -> None:
        one = self.end(which)
        step(one, error)
        self.model.overloaded(one)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 1000), error=st.sampled_from(NEUTRAL), reached=st.booleans())
    def tells_nothing(self, which: int, error: BaseException, reached: bool) -> None:
        step(self.end(which, reached=reached), error)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 1000))
    def never_reaches_the_provider(self, which: int) -> None:
        step(self.end(which, reached=False), None)

    @rule(seconds=st.floats(0, 1e5))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def as_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        assert self.policy.size == self.model.size
        assert self.model.least <= self.policy.size <= self.model.most
        assert self.policy.in_flight == self.in_flight
        assert self.pokes == self.ended
        room = self.model.size - self.in_flight
        for copies in (1, 2, 7):
            assert (self.policy.peek(0.0, copies) is None) == (copies <= room or not self.enforced)

    def teardown(self) -> None:
        for one in getattr(self, "running", ()):
            one.flow.close()
        if hasattr(self, "policy"):
            assert self.policy.in_flight == 0


async def inside(call: Call) -> Response:
    await Sleep(1)
    return Response(text="hi")


def step(one: Running, error: BaseException | None) -> None:
    try:
        if error is None:
            one.flow.send(None)
        else:
            one.flow.throw(error)
    except BaseException as raised:
        ended = raised
    else:
        raise AssertionError("it goes on")
    assert isinstance(ended, StopIteration) if error is None else ended is error


AdaptiveMachine.TestCase.settings = hypothesis_settings(
    max_examples=300, stateful_step_count=60, deadline=None
)
TestAdaptive = AdaptiveMachine.TestCase
