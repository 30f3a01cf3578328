"""The public breaker against a plain model of its promises.

The model keeps lists and recomputes everything; it shares no code with the library. Calls are
decorated coroutines stepped by hand, so that any number of them overlap in any order and take the
same path, lock-free or not, as real ones.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tierllm.errors import CircuitOpenError, InvalidRequestError
from tierllm.resilience.breaker import CircuitBreaker

OPEN_S, MAX_OPEN_S, PROBE_TIMEOUT_S = 30.0, 300.0, 60.0


class Manual:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Pause:
    def __await__(self) -> Generator[None, None, None]:
        yield


@dataclass
class Running:
    stay: int
    began: float
    flow: Coroutine[Any, Any, None]
    probe: bool


@dataclass
class Model:
    rules: dict[str, Any]
    state: str = "closed"
    stay: int = 0
    counted: list[tuple[float, bool, bool]] = field(default_factory=list)
    row: int = 0
    opened: float = 0.0
    open_for: float = OPEN_S
    recovered: float | None = None
    probes: list[Running] = field(default_factory=list)
    good_probes: list[bool] = field(default_factory=list)

    def go(self, state: str) -> None:
        self.state = state
        self.stay += 1
        self.probes, self.good_probes = [], []
        if state == "closed":
            self.counted, self.row = [], 0

    def open(self, at: float, longer: bool) -> None:
        if longer:
            self.open_for = min(self.open_for * self.rules["open_backoff"], MAX_OPEN_S)
        elif self.recovered is None or at - self.recovered >= self.open_for:
            self.open_for = OPEN_S
        self.go("open")
        self.opened = at

    def notice_hung(self, now: float) -> None:
        if self.state == "half_open" and self.probes:
            first = min(p.began for p in self.probes)
            if now - first >= PROBE_TIMEOUT_S:
                self.open(first + PROBE_TIMEOUT_S, longer=True)

    def admits(self, now: float) -> bool:
        self.notice_hung(now)
        if self.state == "open" and now - self.opened >= self.open_for:
            self.go("half_open")
        if self.state == "half_open":
            return len(self.probes) + len(self.good_probes) < self.rules["half_open_probes"]
        return self.state == "closed"

    def window(self, now: float) -> list[tuple[float, bool, bool]]:
        span = self.rules["window_s"]
        if span is None:
            return self.counted[-self.rules["window"] :]
        return [c for c in self.counted if c[0] // (span / 20) > now // (span / 20) - 20]

    def end(self, call: Running, now: float, failed: bool | None) -> None:
        limit = self.rules["slow_call_s"]
        slow = limit is not None and now - call.began > limit
        if failed is None:
            if call in self.probes and now - call.began < PROBE_TIMEOUT_S:
                self.probes.remove(call)
            return
        if call.probe:
            self.notice_hung(now)
        if call.stay != self.stay:
            return
        if not call.probe:
            self.counted.append((now, failed, slow))
            self.row = self.row + 1 if failed else 0
            if self.trips(now):
                self.open(now, longer=False)
            return
        self.probes.remove(call)
        if failed:
            self.open(now, longer=True)
            return
        self.good_probes.append(slow)
        wanted = self.rules["half_open_probes"]
        if len(self.good_probes) == wanted:
            if sum(self.good_probes) / wanted >= self.rules["slow_call_rate"]:
                self.open(now, longer=True)
            else:
                self.go("closed")
                self.recovered = now

    def trips(self, now: float) -> bool:
        window, rules = self.window(now), self.rules
        enough = rules["min_calls"]
        if rules["window_s"] is None:
            enough = min(enough, rules["window"])
        failures = sum(failed for _, failed, _ in window)
        slow = sum(slow for _, _, slow in window)
        if rules["consecutive_failures"] is not None and self.row >= rules["consecutive_failures"]:
            return True
        if len(window) < enough:
            return False
        if rules["failure_rate"] is not None and failures / len(window) >= rules["failure_rate"]:
            return True
        return rules["slow_call_s"] is not None and slow / len(window) >= rules["slow_call_rate"]


class BreakerMachine(RuleBasedStateMachine):
    @initialize(
        failure_rate=st.sampled_from([None, 0.3, 0.5, 1.0]),
        window=st.integers(1, 6),
        window_s=st.sampled_from([None, None, 20.0, 80.0]),
        min_calls=st.integers(1, 8),
        consecutive=st.sampled_from([None, 1, 2, 3]),
        slow_call_s=st.sampled_from([None, None, 5.0]),
        slow_call_rate=st.sampled_from([0.5, 0.8, 1.0]),
        backoff=st.sampled_from([1.0, 2.0, 3.0]),
        probes=st.integers(1, 3),
    )
    def build(
        self,
        failure_rate: float | None,
        window: int,
        window_s: float | None,
        min_calls: int,
        consecutive: int | None,
        slow_call_s: float | None,
        slow_call_rate: float,
        backoff: float,
        probes: int,
    ) -> None:
        if failure_rate is None and slow_call_s is None:
            consecutive = consecutive or 3
        rules: dict[str, Any] = {
            "failure_rate": failure_rate,
            "window": window,
            "window_s": window_s,
            "min_calls": min_calls,
            "consecutive_failures": consecutive,
            "slow_call_s": slow_call_s,
            "slow_call_rate": slow_call_rate,
            "open_backoff": backoff,
            "half_open_probes": probes,
        }
        self.clock = Manual()
        self.breaker = CircuitBreaker(
            **rules, open_s=OPEN_S, max_open_s=MAX_OPEN_S, probe_timeout_s=PROBE_TIMEOUT_S, clock=self.clock
        )
        self.model = Model(rules)
        self.running: list[Running] = []

        async def body() -> None:
            await Pause()

        self.guarded = self.breaker(body)

    @rule()
    def begin(self) -> None:
        expected = self.model.admits(self.clock.now)
        assert (self.breaker.peek() is None) is expected
        flow = self.guarded()
        try:
            flow.send(None)
        except CircuitOpenError as refusal:
            retry_after_s = refusal.retry_after_s
        else:
            retry_after_s = None
            call = Running(self.model.stay, self.clock.now, flow, self.model.state == "half_open")
            self.running.append(call)
            if call.probe:
                self.model.probes.append(call)
        assert (retry_after_s is None) is expected
        assert retry_after_s is None or 0 < retry_after_s <= MAX_OPEN_S

    def _pick(self, data: st.DataObject) -> Running:
        return self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        call = self._pick(data)
        with pytest.raises(StopIteration):
            call.flow.send(None)
        self.model.end(call, self.clock.now, False)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        call = self._pick(data)
        with pytest.raises(ValueError, match="down"):
            call.flow.throw(ValueError("down"))
        self.model.end(call, self.clock.now, True)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from(["close", "interrupt", "client error"]))
    def end_neutrally(self, data: st.DataObject, how: str) -> None:
        call = self._pick(data)
        if how == "close":
            call.flow.close()
        else:
            error = KeyboardInterrupt() if how == "interrupt" else InvalidRequestError("bad")
            with pytest.raises(type(error)):
                call.flow.throw(error)
        self.model.end(call, self.clock.now, None)

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0, 6.0, 29.0, 30.0, 61.0, 200.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def wait_till_probing(self) -> None:
        if self.model.state == "open":
            self.clock.now = max(self.clock.now, self.model.opened + self.model.open_for)

    @invariant()
    def same_state(self) -> None:
        if not hasattr(self, "breaker"):
            return
        status, now = self.breaker.status(), self.clock.now
        assert self.breaker.state == self.model.state
        assert len(self.model.probes) <= self.model.rules["half_open_probes"]
        if self.model.state == "open":
            assert status["open_for_s"] == self.model.open_for <= MAX_OPEN_S
        if self.model.state == "closed":
            window = self.model.window(now)
            if len(window) < self.model.rules["window"] or any(f or s for _, f, s in window):
                assert status["calls"] == len(window)
            assert status["failures"] == sum(failed for _, failed, _ in window)
            assert status["slow"] == sum(slow for _, _, slow in window)
            assert status["consecutive_failures"] == self.model.row

    def teardown(self) -> None:
        for call in getattr(self, "running", []):
            call.flow.close()


BreakerMachine.TestCase.settings = hypothesis_settings(
    max_examples=300, stateful_step_count=60, deadline=None
)
TestBreaker = BreakerMachine.TestCase
