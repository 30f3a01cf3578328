"""Trying again at the same place."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ..errors import (
    AuthenticationError,
    ConfigError,
    InvalidRequestError,
    ProviderError,
    StreamInterruptedError,
)
from ..events import Event, RetryScheduled
from ..pipeline.effects import Handler, Sleep
from ..pipeline.fork import renew_after_fork
from ..types import Waited

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from ..pipeline.clock import Clock
    from ..types import Call, Response

__all__ = ["Retry", "RetryBudget"]

P = ParamSpec("P")
R = TypeVar("R")

NEVER = (InvalidRequestError, AuthenticationError, StreamInterruptedError)

ROUNDING_S = 1e-3

A_DAY_S = 86_400

GIVE_UP_THE_SEAT_S = 0.5
"""A longer back-off lets another call have the place in the pool meanwhile."""


class RetryBudget:
    """Bounds how much retrying can multiply an outage: shared by all of a client's calls.

    Over the last ``window_s`` seconds, retries may be ``share`` of the calls, and ``floor_per_s``
    a second in any case (the idea is Finagle's retry budget). Safe for threads.
    """

    def __init__(
        self,
        share: float = 0.2,
        *,
        floor_per_s: float = 1.0,
        window_s: int = 10,
        clock: Clock | None = None,
    ) -> None:
        bounded = _whole(window_s) and window_s <= A_DAY_S
        if not (_at_least_0(share) and _at_least_0(floor_per_s) and bounded):
            raise ConfigError(
                f"RetryBudget(share={share}, floor_per_s={floor_per_s}, window_s={window_s}): "
                "give numbers of 0 or more, and a window of a second to a day"
            )
        self.share = share
        self.floor_per_s = floor_per_s
        self.window_s = window_s
        self.clock: Clock = clock or time.monotonic
        self._own_clock = clock is not None
        self._second = 0
        self._calls = [0] * window_s
        self._retries = [0] * window_s
        renew_after_fork(self)
        self._lock = threading.RLock()  # a signal handler may ask for the status

    def bind(self, clock: Clock) -> None:
        """Use a client's clock where none was given."""
        if not self._own_clock:
            self.clock = clock

    def called(self) -> None:
        """A call begins."""
        with self._lock:
            self._calls[self._now()] += 1

    def withdraw(self) -> bool:
        """True when one more retry is within the budget; it is then counted."""
        with self._lock:
            now = self._now()
            allowed = self.share * sum(self._calls) + self.floor_per_s * self.window_s
            if sum(self._retries) + 1 > allowed:
                return False
            self._retries[now] += 1
            return True

    def _now(self) -> int:
        """The present second's place in the window."""
        second = int(self.clock())
        if second != self._second:
            if second < self._second - self.window_s:  # the clock was set back
                self._second = second - self.window_s
            if second > self._second:
                self._turn(second)
        return self._second % self.window_s

    def _turn(self, second: int) -> None:
        """Forget the seconds that have left the window."""
        for passed in range(max(self._second + 1, second - self.window_s + 1), second + 1):
            self._calls[passed % self.window_s] = self._retries[passed % self.window_s] = 0
        self._second = second

    def status(self) -> dict[str, Any]:
        """Calls and retries within the window, as plain data."""
        with self._lock:
            return {"calls": sum(self._calls), "retries": sum(self._retries), "window_s": self.window_s}

    def renew(self) -> None:
        """After a fork."""
        self._lock = threading.RLock()


class Retry:
    """Retries failures that may pass, with full jitter, and never sooner than the provider asks.

    ``attempts`` counts the first one. The delay before attempt *n + 1* is uniform in
    0 … min(``max_s``, ``base_s`` · 2^(n-1)) (full jitter: Brooker, "Exponential Backoff And Jitter",
    2015). A ``Retry-After`` is waited for in full, plus that jitter, where it is at most
    ``max_retry_after_s``; a longer one means that this place is given up for now.

    ``stop``, ``wait`` and ``retry`` take tenacity's objects (``stop_after_delay(10)``,
    ``wait_exponential()``, ``retry_if_exception(...)``) in place of these rules. They are asked
    after a failure only, so that the first attempt costs nothing.

    An invalid request, a refused key and a stream that broke after its first chunk are never
    retried, whatever ``retry`` says. A back-off that would pass the deadline is not begun.
    """

    def __init__(
        self,
        attempts: int = 3,
        *,
        base_s: float = 0.25,
        max_s: float = 8.0,
        max_retry_after_s: float = 10.0,
        stop: Callable[[RetryCallState], bool] | None = None,
        wait: Callable[[RetryCallState], float] | None = None,
        retry: Callable[[RetryCallState], bool] | None = None,
        budget: RetryBudget | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if not _whole(attempts):
            raise ConfigError(f"Retry(attempts={attempts}): give at least 1, the first attempt itself")
        for name, seconds in (("base_s", base_s), ("max_s", max_s), ("max_retry_after_s", max_retry_after_s)):
            if not _at_least_0(seconds):
                raise ConfigError(f"Retry({name}={seconds!r}): give seconds of 0 or more")
        for name, rule in (("stop", stop), ("wait", wait), ("retry", retry)):
            if rule is not None and not callable(rule):
                raise ConfigError(f"Retry({name}={rule!r}): give one of tenacity's objects")
        self.attempts = attempts
        self.base_s = base_s
        self.max_s = max_s
        self.max_retry_after_s = max_retry_after_s
        self.stop = stop
        self.wait = wait
        self.retry = retry
        self.budget = budget
        self._clock = clock
        self._rng = rng
        self._emit: Callable[[Event], None] | None = None
        # set by the place that this twin serves: for how long it asked to be left alone, and why what
        # is left of a deadline is too little for it
        self.held_s: Callable[[], float] | None = None
        self.too_slow_for: Callable[[float], str] | None = None

    def bound(
        self,
        *,
        clock: Clock,
        rng: random.Random,
        budget: RetryBudget | None,
        emit: Callable[[Event], None] | None,
    ) -> Retry:
        """A twin with the same rules, and a client's clock, dice and budget where none were given."""
        if self.budget is not None:
            self.budget.bind(clock)
        twin = Retry(
            self.attempts,
            base_s=self.base_s,
            max_s=self.max_s,
            max_retry_after_s=self.max_retry_after_s,
            stop=self.stop,
            wait=self.wait,
            retry=self.retry,
            budget=self.budget or budget,
            clock=self._clock or clock,
            rng=self._rng or rng,
        )
        twin._emit = emit
        return twin

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        if self.budget is not None:
            self.budget.called()
        story: _Story | None = None
        began = 0.0 if self.stop is None else (self._clock or time.monotonic)()
        while True:
            try:
                return await call_next(call)
            except ProviderError as error:
                if story is None:
                    story = _Story(began or call.begun_at)
                delay = self._delay(error, story, call)
                if delay is None:
                    raise
                self._tell(error, story, call, delay)
                failure = error
            try:
                await self._back_off(call, delay)
                if self.held_s is not None and self.held_s() > ROUNDING_S:
                    await self._stay_away(call, failure)
            finally:
                del failure  # or it would hold this frame, and the frame it
            story.number += 1
            story.idle_s += delay

    def wrap(self, fn: Callable[P, R], *, on: tuple[type[Exception], ...] = ()) -> Callable[P, R]:
        """``fn``, sync or async, retried by these rules, without a client.

        Failures are the errors of known SDKs and transports, told as tierllm's, and those in ``on``.
        """
        from ..providers.alone import around

        return around(self, fn, on=on, clock=self._clock)

    def delay_s(self, error: ProviderError, attempt: int) -> float:
        """How long to wait after ``attempt`` (from 1) failed with ``error``, by the built-in rule."""
        rng = self._rng or random
        ceiling = min(self.max_s, self.base_s * 2.0 ** min(attempt - 1, 60))
        return (error.retry_after_s or 0.0) + rng.uniform(0, ceiling)

    def _delay(self, error: ProviderError, story: _Story, call: Call) -> float | None:
        """Seconds to wait before the next attempt; ``None`` to give this place up."""
        asked = error.retry_after_s or 0.0
        if not call.request.repeatable or isinstance(error, NEVER):
            return None
        if asked > self.max_retry_after_s:
            return None
        state = (
            story.told(error, self._clock or time.monotonic) if self.stop or self.wait or self.retry else None
        )
        if state is not None and self.retry is not None:
            if not self.retry(state):
                return None
        elif not error.retryable:
            return None
        if state is not None and self.wait is not None:
            delay = state.upcoming_sleep = max(float(self.wait(state)), asked)
        else:
            delay = self.delay_s(error, story.number)
        if state is not None and self.stop is not None:
            if self.stop(state):
                return None
        elif story.number >= self.attempts:
            return None
        left = call.scope.remaining_s() if call.scope is not None else None
        if left is not None and (delay >= left or (self.too_slow_for and self.too_slow_for(left - delay))):
            return None
        if self.budget is not None and not self.budget.withdraw():
            return None
        return delay

    def _tell(self, error: ProviderError, story: _Story, call: Call, delay: float) -> None:
        if call.trace is not None:
            call.trace.waits.append(Waited("backoff", f"{call.tier}/{call.deployment}", delay))
        if self._emit is not None:
            self._emit(
                RetryScheduled(
                    tier=call.tier,
                    deployment=call.deployment,
                    attempt=story.number,
                    delay_s=delay,
                    error=error,
                )
            )

    async def _back_off(self, call: Call, delay: float) -> None:
        if call.permit is not None and delay > GIVE_UP_THE_SEAT_S:
            await call.permit.leave_for(delay, call)
        elif delay > 0:
            await Sleep(delay)

    async def _stay_away(self, call: Call, failure: ProviderError) -> None:
        """Other calls were told to leave this place alone meanwhile: wait for that too, or give it up."""
        assert self.held_s is not None
        waited_s = 0.0
        while (held_s := self.held_s()) > ROUNDING_S:
            waited_s += held_s
            left_s = call.scope.remaining_s() if call.scope is not None else None
            if waited_s > self.max_retry_after_s or (left_s is not None and held_s >= left_s):
                try:
                    raise failure
                finally:
                    del failure
            pause_s = held_s + (self._rng or random).uniform(0, self.base_s)
            if call.trace is not None:
                call.trace.waits.append(Waited("backoff", f"{call.tier}/{call.deployment}", pause_s))
            await self._back_off(call, pause_s)


class _Story:
    """How the attempts at one place went; told to tenacity's objects in their own words."""

    __slots__ = ("begun_at", "idle_s", "number")

    def __init__(self, begun_at: float) -> None:
        self.begun_at = begun_at
        self.number = 1
        self.idle_s = 0.0

    def told(self, error: ProviderError, clock: Clock) -> RetryCallState:
        from tenacity import Future, RetryCallState

        state = RetryCallState(None, None, (), {})  # type: ignore[arg-type]
        state.start_time = self.begun_at
        state.outcome_timestamp = clock()
        state.attempt_number = self.number
        state.idle_for = self.idle_s
        state.outcome = Future.construct(self.number, error, has_exception=True)
        return state


def _at_least_0(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value < math.inf  # type: ignore[operator]


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
