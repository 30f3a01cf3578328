"""The breaker's state machine, without locks, drivers or real time."""

from __future__ import annotations

import pytest

from tierllm.errors import (
    AuthenticationError,
    ConfigError,
    ContentFilteredError,
    ContextWindowExceededError,
    DeadlineExceededError,
    InvalidRequestError,
    MalformedResponseError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    StreamInterruptedError,
    ThrottledError,
)
from tierllm.events import BreakerChanged, BreakerWarning
from tierllm.resilience.breaker_settings import BreakerSettings
from tierllm.resilience.breaker_state import Admission, BreakerState
from tierllm.resilience.breaker_window import CountWindow, TimeWindow


class Manual:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A state machine with short hands."""

    def __init__(self, **settings: object) -> None:
        self.clock = Manual()
        self.machine = BreakerState(BreakerSettings(**settings), self.clock, name="b")  # type: ignore[arg-type]

    def admit(self) -> Admission:
        admission = self.machine.admit()
        assert admission is not None
        return admission

    def run(self, outcomes: str) -> None:
        """``.`` good, ``x`` failed, ``s`` good but slow, ``X`` failed and slow."""
        for outcome in outcomes:
            self.machine.settle(self.admit(), outcome in "xX", outcome in "sX")

    @property
    def state(self) -> str:
        return self.machine.generation.state

    def changes(self) -> list[tuple[str, str, str]]:
        news, self.machine.news = self.machine.news, []
        return [(e.old, e.new, e.reason) for e in news if isinstance(e, BreakerChanged)]

    def warnings(self) -> list[str]:
        return [e.kind for e in self.machine.news if isinstance(e, BreakerWarning)]


# -- what opens it ---------------------------------------------------------------


def test_consecutive_failures_open_it() -> None:
    b = Bench(consecutive_failures=3)
    b.run("xx.xx")
    assert b.state == "closed"
    b.run("x")
    assert b.state == "open"
    assert b.changes() == [("closed", "open", "3 consecutive failures")]


def test_the_failure_rate_opens_it_once_there_are_enough_calls() -> None:
    b = Bench(consecutive_failures=None, failure_rate=0.5, window=20, min_calls=10)
    b.run("xxxxxxxxx")
    assert b.state == "closed"
    b.run(".")  # the tenth call, though a good one
    assert b.changes() == [("closed", "open", "failure rate 90 % of 10 calls")]


def test_the_count_window_forgets() -> None:
    b = Bench(consecutive_failures=None, failure_rate=0.5, window=4, min_calls=4)
    b.run(".x...x...x")
    assert b.state == "closed"
    b.run("x")
    assert b.changes() == [("closed", "open", "failure rate 50 % of 4 calls")]


def test_min_calls_is_at_most_the_count_window() -> None:
    b = Bench(consecutive_failures=None, window=2, min_calls=10)
    b.run("xx")
    assert b.state == "open"


def test_the_time_window_forgets() -> None:
    b = Bench(consecutive_failures=None, failure_rate=0.5, window_s=60.0, min_calls=4)
    b.run("xx")
    b.clock.now = 61.0
    b.run("x..")
    assert b.state == "closed"
    b.clock.now = 70.0
    b.run("x")
    assert b.changes() == [("closed", "open", "failure rate 50 % of 4 calls")]


def test_slow_calls_have_their_own_threshold() -> None:
    rules = {"consecutive_failures": None, "failure_rate": 0.5, "slow_call_s": 1.0, "slow_call_rate": 0.8}
    b = Bench(**rules, window=10, min_calls=10)
    b.run("....sxsxss")  # 60 % slow or failed: neither threshold is reached
    assert b.state == "closed"
    b = Bench(**rules, window=10, min_calls=10)
    b.run("ss.sss.sss")
    assert b.changes() == [("closed", "open", "slow-call rate 80 % of 10 calls")]
    b = Bench(**rules, window=10, min_calls=10)
    b.run("XX.XX..X..")
    assert b.changes() == [("closed", "open", "failure rate 50 % of 10 calls")]


def test_a_slow_call_that_is_neutral_counts_as_slow_only() -> None:
    b = Bench(slow_call_s=1.0, consecutive_failures=2, min_calls=4)
    b.run("x")
    b.machine.settle(b.admit(), None, True)
    status = b.machine.status()
    assert (status["calls"], status["failures"], status["slow"]) == (2, 1, 1)
    assert status["consecutive_failures"] == 1
    b.run("x")
    assert b.state == "open"


# -- open and half-open ----------------------------------------------------------


def opened(**settings: object) -> Bench:
    b = Bench(**{"consecutive_failures": 1, **settings})
    b.run("x")
    b.changes()
    return b


def test_nothing_is_admitted_while_open() -> None:
    b = opened(open_s=30.0)
    for b.clock.now in (0.0, 10.0, 29.999):
        assert b.machine.admit() is None
        assert b.machine.retry_after_s() == pytest.approx(30.0 - b.clock.now)
    b.clock.now = 30.0
    assert b.machine.retry_after_s() is None
    assert b.state == "open"  # peeking changes nothing
    assert b.admit().probe
    assert b.changes() == [("open", "half_open", "open for 30 s")]


@pytest.mark.parametrize("probes", [1, 2, 3])
def test_at_most_n_probes_at_once_and_n_successes_close(probes: int) -> None:
    b = opened(half_open_probes=probes)
    b.clock.now = 30.0
    under_way = [b.admit() for _ in range(probes)]
    assert b.machine.admit() is None
    assert b.machine.retry_after_s() == pytest.approx(60.0)
    for admission in under_way:
        assert b.state == "half_open"
        assert b.machine.admit() is None  # no more probes than it takes
        b.machine.settle(admission, False)
    assert b.state == "closed"
    assert b.machine.status()["calls"] == 0


def test_a_failed_probe_doubles_the_open_time_up_to_the_cap() -> None:
    b = opened(open_s=30.0, open_backoff=2.0, max_open_s=300.0)
    lengths = []
    for _ in range(7):
        lengths.append(b.machine.generation.until - b.machine.generation.since)
        b.clock.now = b.machine.generation.until
        b.run("x")
    assert lengths == [30.0, 60.0, 120.0, 240.0, 300.0, 300.0, 300.0]


def test_the_open_time_starts_over_only_after_it_stayed_well() -> None:
    b = opened()
    b.clock.now = 30.0
    b.run("x")  # 60 s
    b.clock.now = 90.0
    b.run(".")
    b.clock.now = 100.0
    b.run("x")
    assert b.machine.open_for_s == 60.0  # it came back too soon
    b.clock.now = 160.0
    b.run(".")
    b.clock.now = 220.0
    b.run("x")
    assert b.machine.open_for_s == 30.0


def test_a_slow_probe_does_not_close_it() -> None:
    b = opened(slow_call_s=1.0)
    b.clock.now = 30.0
    b.run("s")
    assert b.changes()[-1] == ("half_open", "open", "1 of 1 probe slow")
    b.clock.now = 90.0
    b.machine.settle(b.admit(), None, True)
    assert b.changes()[-1] == ("half_open", "open", "probe was slow")


def test_a_released_probe_frees_its_slot() -> None:
    b = opened()
    b.clock.now = 30.0
    probe = b.admit()
    assert b.machine.retry_after_s() is not None
    b.machine.release(probe)
    assert b.machine.retry_after_s() is None
    assert b.state == "half_open"
    b.run(".")
    assert b.state == "closed"


def test_a_hung_probe_counts_as_failed_and_its_late_result_is_ignored() -> None:
    b = opened(probe_timeout_s=60.0)
    b.clock.now = 30.0
    hung = b.admit()
    b.clock.now = 95.0
    assert b.machine.retry_after_s() == pytest.approx(55.0)  # found out at 90, open for 60
    assert b.machine.admit() is None
    assert b.changes()[-1] == ("half_open", "open", "a probe gave no answer in 60 s")
    b.machine.settle(hung, False)
    assert b.state == "open"


def test_a_probe_that_ends_after_its_time_is_late_even_if_nobody_looked() -> None:
    for end in (lambda b, p: b.machine.settle(p, False), lambda b, p: b.machine.release(p)):
        b = opened(probe_timeout_s=60.0)
        b.clock.now = 30.0
        probe = b.admit()
        b.clock.now = 90.0
        end(b, probe)
        assert b.machine.admit() is None
        assert b.state == "open"


# -- generations -----------------------------------------------------------------


def test_results_of_an_earlier_generation_are_ignored() -> None:
    b = Bench(consecutive_failures=1)
    early = [b.admit() for _ in range(3)]
    b.run("x")
    b.machine.settle(early[0], False)
    b.clock.now = 30.0
    probe = b.admit()
    b.machine.settle(early[1], False)
    assert b.state == "half_open"
    b.machine.settle(probe, False)
    b.machine.settle(early[2], True)
    assert b.state == "closed"
    assert b.machine.status()["calls"] == 0


def test_reporting_twice_counts_once() -> None:
    b = Bench(consecutive_failures=2)
    admission = b.admit()
    for _ in range(5):
        b.machine.settle(admission, True)
    assert b.machine.status()["calls"] == 1
    b = opened(half_open_probes=2)
    b.clock.now = 30.0
    probe = b.admit()
    b.machine.settle(probe, False)
    b.machine.settle(probe, False)
    b.machine.release(probe)
    assert b.state == "half_open"


def test_a_clean_window_admits_calls_that_need_no_counting() -> None:
    b = Bench(window=3, min_calls=1, consecutive_failures=5, failure_rate=0.9)
    generation = b.machine.generation
    b.run("..")
    assert not generation.clean  # a third good call still changes the rate
    b.run(".")
    assert generation.clean
    b.run("x")
    assert not generation.clean
    b.run("..")
    assert not generation.clean
    b.run(".")
    assert generation.clean


# -- by hand ---------------------------------------------------------------------


def test_forced_states() -> None:
    b = Bench(consecutive_failures=1)
    b.machine.force("forced_open", "by hand")
    b.clock.now = 1e6
    assert b.machine.admit() is None
    assert b.machine.retry_after_s() == 30.0
    b.machine.force("forced_closed", "by hand")
    b.run("xxx")
    assert b.machine.status()["calls"] == 0
    b.machine.force("metrics_only", "by hand")
    b.run("xxx")
    assert b.state == "metrics_only"
    assert b.machine.status()["failures"] == 3
    b.machine.force("closed", "reset")
    assert b.machine.status()["failures"] == 0
    b.run("x")
    assert b.state == "open"
    assert b.machine.open_for_s == 30.0


# -- warnings --------------------------------------------------------------------


def test_flapping_is_told_once_an_hour() -> None:
    b = opened()
    for _ in range(6):
        b.clock.now = b.machine.generation.until
        b.run(".")
        b.clock.now += 1.0
        b.run("x")
    assert b.warnings() == ["flapping"]
    b.clock.now += 3600.0
    b.run(".")
    b.run("x")
    assert b.warnings() == ["flapping", "flapping"]


def test_an_outage_now_and_then_is_no_flapping() -> None:
    b = opened()
    for _ in range(10):
        b.clock.now = b.machine.generation.until
        b.run(".")
        b.clock.now += 100.0
        b.run("x")
    assert b.warnings() == []


def test_sustained_failures_that_never_open_are_told() -> None:
    b = Bench(failure_rate=0.5)
    b.run("..x" * 40)  # 33 %
    assert b.state == "closed"
    assert b.warnings() == ["never_opens"]
    b.run("..x" * 200)
    assert b.warnings() == ["never_opens"]
    b = Bench(failure_rate=0.5)
    b.run("....x" * 100)  # 20 %
    assert b.warnings() == []


# -- odd clocks ------------------------------------------------------------------


def test_a_clock_that_is_set_back_does_not_lock_it_open() -> None:
    b = Bench(consecutive_failures=1)
    b.clock.now = 1e6
    b.run("x")
    b.clock.now = 0.0
    assert b.machine.retry_after_s() == 30.0
    assert b.machine.admit() is None
    b.clock.now = 30.0
    assert b.machine.admit() is not None


def test_time_windows_take_a_clock_that_is_set_back() -> None:
    clock = Manual()
    clock.now = 100.0
    window = TimeWindow(20.0, clock)
    window.add(True, False)
    clock.now = 50.0
    window.add(True, True)
    assert (window.calls, window.failures, window.slow) == (2, 2, 1)
    clock.now = 119.5
    window.roll()
    assert window.calls == 2
    clock.now = 120.0
    window.roll()
    assert (window.calls, window.failures, window.slow) == (0, 0, 0)


def test_a_count_window_is_a_ring() -> None:
    window = CountWindow(3)
    for failed, slow in [(True, False), (False, True), (True, True), (False, False)]:
        window.add(failed, slow)
    assert (window.calls, window.failures, window.slow) == (3, 1, 2)


# -- what counts -----------------------------------------------------------------

FAILURES = [
    ProviderUnavailableError("x"),
    ProviderTimeoutError("x"),
    MalformedResponseError("x"),
    StreamInterruptedError("x"),
]
NEUTRAL = [
    RateLimitError("x"),
    AuthenticationError("x"),
    InvalidRequestError("x"),
    ContextWindowExceededError("x"),
    ContentFilteredError("x"),
    ThrottledError("x"),
    DeadlineExceededError("x"),
    ConfigError("x"),
    KeyboardInterrupt(),
    GeneratorExit(),
]


@pytest.mark.parametrize("alone", [True, False])
def test_the_built_in_rule(alone: bool) -> None:
    rule = BreakerSettings()
    assert rule.judge(None, 0.0, alone=alone) == (False, False)
    assert [rule.judge(e, 0.0, alone=alone)[0] for e in FAILURES] == [True] * len(FAILURES)
    assert [rule.judge(e, 0.0, alone=alone)[0] for e in NEUTRAL] == [None] * len(NEUTRAL)
    assert rule.judge(ValueError(), 0.0, alone=alone)[0] is (True if alone else None)


def test_a_deadline_is_slow_if_the_provider_was() -> None:
    rule = BreakerSettings(slow_call_s=2.0)
    assert rule.judge(DeadlineExceededError("x"), 1.0, alone=False) == (None, False)
    assert rule.judge(DeadlineExceededError("x"), 3.0, alone=False) == (None, True)
    assert rule.judge(RateLimitError("x"), 3.0, alone=False) == (None, False)
    assert rule.judge(ProviderTimeoutError("x"), 3.0, alone=False) == (True, True)
    assert rule.judge(KeyboardInterrupt(), 3.0, alone=True) == (None, False)


def test_counts_overrides_the_rule(caplog: pytest.LogCaptureFixture) -> None:
    def judge(counts: object, error: Exception) -> bool | None:
        return BreakerSettings(counts=counts).judge(error, 0.0, alone=True)[0]  # type: ignore[arg-type]

    assert judge(KeyError, KeyError()) is True
    assert judge(KeyError, ValueError()) is None
    assert judge((KeyError, RateLimitError), RateLimitError("x")) is True
    assert judge(lambda e: isinstance(e, RateLimitError) or None, RateLimitError("x")) is True
    assert judge(lambda e: None, ValueError()) is True
    assert judge(lambda e: False, ValueError()) is None
    assert judge(lambda e: 1 / 0, ValueError()) is True  # type: ignore[return-value]
    assert "counts=" in caplog.text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"failure_rate": 0.0}, "a share above 0"),
        ({"failure_rate": 50}, "a share above 0"),
        ({"slow_call_rate": float("nan")}, "a share above 0"),
        ({"window": 0}, "a whole number from 1"),
        ({"min_calls": 2.5}, "a whole number from 1"),
        ({"half_open_probes": -1}, "a whole number from 1"),
        ({"window_s": 0}, "seconds above 0"),
        ({"open_s": -1}, "seconds above 0"),
        ({"open_backoff": 0.5}, "1 for a constant"),
        ({"max_open_s": 10}, "at least open_s"),
        ({"mode": "dry"}, '"enforce" or "observe"'),
        ({"failure_rate": None, "consecutive_failures": None}, "never open"),
    ],
)
def test_bad_settings_say_what_to_do(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        BreakerSettings(**settings)  # type: ignore[arg-type]
