"""What came of the calls to a place, and when it is too bad to be chance."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm.errors import (
    ContentFilteredError,
    DeadlineExceededError,
    InvalidRequestError,
    ProviderUnavailableError,
    RateLimitError,
)
from tierllm.sla.cells import CELL_S
from tierllm.sla.goals import SPANS_S, Goal, burning_of, chance, goals_of
from tierllm.sla.place_watch import LOST_S, PlaceWatch
from tierllm.types import Objective, Outcome

P95 = Objective(latency_p95_s=4.0)


class Watched:
    """A watch, and attempts at its place."""

    def __init__(self, objective: Objective = P95, **how: float) -> None:
        self.watch = PlaceWatch(goals_of(objective, **how))
        self.number = 0

    def begun(self, now: float, asked: Any = None) -> int:
        self.number += 1
        self.watch.under_way[self.number] = now, asked
        return self.number

    def ended(
        self,
        now: float,
        latency_s: float = 1.0,
        outcome: Outcome = "ok",
        first_token_s: float | None = None,
        error: BaseException | None = None,
        asked: Any = None,
    ) -> None:
        number = self.begun(now - latency_s, asked)
        self.watch.ended(number, now, outcome, latency_s, first_token_s, error)

    def many(self, now: float, good: int, bad: int) -> None:
        for _ in range(good):
            self.ended(now, 1.0)
        for _ in range(bad):
            self.ended(now, 9.0)

    def minute(self, now: float) -> list[tuple[int, int]]:
        return list(self.watch.totals(now)[1])

    def burns(self, now: float, min_calls: int = 10) -> str | None:
        what = burning_of(self.watch.goals, self.watch.totals(now), min_calls)
        return None if what is None else what.words()


def progress(
    elapsed_s: float,
    *,
    streaming: bool = False,
    first_at: float | None = None,
    heard_s: float = 1.0,
    patience_s: float = math.inf,
) -> Any:
    at = SimpleNamespace(
        elapsed_s=elapsed_s,
        streaming=streaming,
        first_at=first_at,
        _since=heard_s,
        started_at=0.0,
        held_s=0.0,
    )
    return SimpleNamespace(progress=at, patience_s=patience_s)


# -- what counts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ended", "counted"),
    [
        pytest.param({"latency_s": 1.0}, (1, 0), id="within"),
        pytest.param({"latency_s": 4.0}, (1, 0), id="exactly"),
        pytest.param({"latency_s": 4.001}, (1, 1), id="over"),
        pytest.param({"latency_s": 1.0, "outcome": "failed"}, (0, 0), id="a quick failure has no latency"),
        pytest.param({"latency_s": 5.0, "outcome": "failed"}, (1, 1), id="a slow failure is slow"),
        pytest.param({"latency_s": 3.0, "outcome": "cancelled"}, (0, 0), id="cancelled in time"),
        pytest.param({"latency_s": 4.5, "outcome": "cancelled"}, (1, 1), id="cancelled, but late by then"),
        pytest.param(
            {"latency_s": 9.0, "first_token_s": 1.0, "outcome": "cancelled"}, (0, 0), id="a stream left alone"
        ),
        pytest.param({"latency_s": 9.0, "outcome": "rejected"}, (0, 0), id="refused by us"),
    ],
)
def test_latency(ended: dict[str, Any], counted: tuple[int, int]) -> None:
    seen = Watched()
    seen.ended(100.0, **ended)
    assert seen.minute(100.0) == [counted]


@pytest.mark.parametrize(
    ("outcome", "error", "counted"),
    [
        ("ok", None, (1, 0)),
        ("failed", ProviderUnavailableError("down"), (1, 1)),
        ("failed", None, (1, 1)),
        ("failed", RateLimitError("429"), (0, 0)),
        ("failed", InvalidRequestError("400"), (0, 0)),
        ("failed", ContentFilteredError("no"), (0, 0)),
        ("failed", ValueError("the application's own"), (0, 0)),
        ("cancelled", None, (0, 0)),
        ("rejected", None, (0, 0)),
    ],
    ids=["ok", "down", "unknown", "429", "400", "filtered", "own code", "cancelled", "rejected"],
)
def test_errors(outcome: Outcome, error: BaseException | None, counted: tuple[int, int]) -> None:
    seen = Watched(Objective(availability=0.99))
    seen.ended(100.0, outcome=outcome, error=error)
    assert seen.minute(100.0) == [counted]


def test_first_tokens_are_those_of_streams() -> None:
    seen = Watched(Objective(first_token_p95_s=1.0))
    seen.ended(10.0, 9.0)  # a whole answer: its first token was not seen
    seen.ended(10.0, 9.0, first_token_s=0.5)
    seen.ended(10.0, 9.0, first_token_s=1.5)
    seen.ended(10.0, 5.0, "cancelled", asked=progress(5.0, streaming=True))  # silent until somebody gave up
    assert seen.minute(10.0) == [(3, 2)]


def test_where_no_provider_was_reached_nothing_is_said_of_it() -> None:
    seen = Watched()
    seen.ended(10.0, 9.0, "cancelled", asked=SimpleNamespace(progress=None))  # it waited for a rate limit
    assert seen.minute(10.0) == [(0, 0)]
    seen.ended(10.0, 9.0, "cancelled", asked=progress(9.0))
    assert seen.minute(10.0) == [(1, 1)]


def test_an_end_counts_once_and_an_unknown_one_never() -> None:
    seen = Watched()
    number = seen.begun(0.0)
    for _ in range(2):
        seen.watch.ended(number, 9.0, "ok", 9.0, None, None)
    seen.watch.ended(77, 9.0, "ok", 9.0, None, None)
    assert seen.minute(9.0) == [(1, 1)]


# -- calls under way -------------------------------------------------------------------------


def test_what_is_late_is_bad_before_it_ends() -> None:
    seen = Watched()
    numbers = [seen.begun(0.0) for _ in range(10)]
    assert seen.minute(4.0) == [(0, 0)]
    assert seen.minute(4.1) == [(10, 10)]
    for number in numbers:
        seen.watch.ended(number, 20.0, "ok", 20.0, None, None)
    assert seen.minute(20.0) == [(10, 10)]


@pytest.mark.parametrize(
    ("asked", "late"),
    [
        pytest.param(None, True, id="nothing known"),
        pytest.param(progress(9.0), True, id="the provider is silent"),
        pytest.param(progress(9.0, streaming=True), True, id="a silent stream"),
        pytest.param(progress(9.0, streaming=True, first_at=1.0), False, id="the consumer may hold it"),
        pytest.param(SimpleNamespace(progress=None), False, id="not sent yet"),
    ],
)
def test_whose_time_it_is(asked: Any, late: bool) -> None:
    seen = Watched()
    seen.begun(0.0, asked)
    assert seen.minute(10.0) == [(1, 1) if late else (0, 0)]


@pytest.mark.parametrize(
    ("asked", "late"),
    [
        (progress(9.0, streaming=True), True),
        (progress(9.0, streaming=True, first_at=0.5), False),
        (progress(9.0), False),
        (None, False),
    ],
    ids=["silent stream", "speaking stream", "whole answer", "not known"],
)
def test_streams_without_a_first_token(asked: Any, late: bool) -> None:
    seen = Watched(Objective(first_token_p95_s=1.0))
    seen.begun(0.0, asked)
    assert seen.minute(10.0) == [(1, 1) if late else (0, 0)]


@pytest.mark.parametrize(("heard_s", "late"), [(3.9, 0), (4.1, 1)])
def test_of_a_stream_that_speaks_counts_what_the_provider_took_for_certain(heard_s: float, late: int) -> None:
    seen = Watched()
    seen.begun(0.0, progress(99.0, streaming=True, first_at=1.0, heard_s=heard_s))
    assert seen.minute(10.0) == [(late, late)]


def test_streams_that_are_held_hide_no_calls_that_hang() -> None:
    seen = Watched()
    held = progress(9.0, streaming=True, first_at=1.0)
    for _ in range(1500):
        seen.begun(0.0, held)
    for _ in range(20):
        seen.begun(0.0, progress(9.0))
    assert seen.minute(10.0) == [(20, 20)]


def test_a_deadline_that_cuts_a_speaking_stream_off_is_not_its_consumers_doing() -> None:
    for error, counted in ((None, (0, 0)), (DeadlineExceededError("late"), (1, 1))):
        seen = Watched()
        seen.ended(
            10.0, 9.0, "cancelled", first_token_s=1.0, error=error, asked=progress(9.0, streaming=True)
        )
        assert seen.minute(10.0) == [counted]


@pytest.mark.parametrize(
    ("asked", "counted"),
    [
        pytest.param(progress(9.0), (1, 1), id="nothing known"),
        pytest.param(progress(9.0, patience_s=2.0), (1, 1), id="unusually long"),
        pytest.param(progress(9.0, patience_s=20.0), (0, 0), id="a short deadline"),
        pytest.param(progress(9.0, streaming=True, first_at=1.0), (0, 0), id="it spoke"),
        pytest.param(progress(9.0, streaming=True), (1, 1), id="a silent stream"),
    ],
)
def test_a_place_that_was_silent_until_the_deadline(asked: Any, counted: tuple[int, int]) -> None:
    seen = Watched(Objective(availability=0.99))
    first_s = asked.progress.first_at
    seen.ended(10.0, 9.0, "cancelled", first_s, error=DeadlineExceededError("late"), asked=asked)
    assert seen.minute(10.0) == [counted]


def test_what_began_before_it_was_forgotten_counts_no_more() -> None:
    seen = Watched()
    ends, hangs = seen.begun(0.0), seen.begun(1.0)
    seen.watch.forget(10.0)
    seen.watch.ended(ends, 12.0, "ok", 12.0, None, None)
    assert seen.minute(12.0) == [(0, 0)]
    seen.ended(13.0, 2.0)
    assert seen.minute(20.0) == [(1, 0)]
    assert hangs in seen.watch.under_way


def test_time_in_which_the_process_stood_still_is_no_places() -> None:
    seen = Watched()
    ends = seen.begun(9.0)
    seen.begun(9.5)
    seen.watch.stood_still(10.0, 40.0)
    assert seen.minute(40.0) == [(0, 0)]
    seen.watch.ended(ends, 41.0, "ok", 32.0, None, None)
    assert seen.minute(41.0) == [(1, 0)]
    assert seen.minute(44.0) == [(2, 1)]


def test_calls_never_heard_of_again_are_let_go() -> None:
    seen = Watched()
    seen.begun(0.0)
    seen.begun(LOST_S - 10)
    seen.watch.totals(LOST_S + 1)
    assert len(seen.watch.under_way) == 1


# -- windows ---------------------------------------------------------------------------------


@given(at=st.floats(0, 1e6), later=st.floats(0, 400))
def test_no_window_is_longer_than_it_says(at: float, later: float) -> None:
    seen = Watched()
    seen.ended(at, 1.0)
    for span_s, found in zip(SPANS_S, seen.watch.totals(at + later), strict=True):
        if later <= span_s - CELL_S - 1e-6:
            assert found == [(1, 0)]
        if later >= span_s + 1e-6:
            assert found == [(0, 0)]


def test_a_clock_set_back_keeps_what_was_counted() -> None:
    seen = Watched()
    seen.many(1000.0, good=3, bad=2)
    late = seen.begun(999.0)
    seen.watch.set_back(600.0, 400.0)
    assert seen.minute(400.0) == [(5, 2)]
    assert seen.minute(405.0) == [(6, 3)]
    seen.watch.ended(late, 405.0, "ok", 6.0, None, None)
    assert seen.minute(405.0) == [(6, 3)]
    assert seen.minute(500.0) == [(0, 0)]


# -- burning ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("good", "bad", "burns"),
    [
        pytest.param(2, 1, False, id="one slow call of three"),
        pytest.param(0, 9, False, id="too few calls"),
        pytest.param(5, 5, False, id="half of ten may be chance"),
        pytest.param(4, 6, True, id="six of ten may not"),
        pytest.param(60, 40, False, id="not the half of 20 seconds"),
        pytest.param(50, 50, True, id="half of them"),
    ],
)
def test_the_present(good: int, bad: int, burns: bool) -> None:
    seen = Watched(latency_s=4.0)
    seen.many(1000.0, 200, 0)  # too long ago for 20 s, and enough of them to keep the minute calm
    seen.many(1030.0, good, bad)
    said = seen.burns(1030.0)
    assert (said is not None) == burns
    if burns:
        calls = good + bad
        assert said == (
            f"{bad / calls * 100:.0f} % of {calls} calls in 20 s over 4 s,"
            f" {bad / calls / 0.05:.1f} times what the threshold allows"
        )


def test_the_minute_and_five_minutes() -> None:
    seen = Watched()
    for second in range(60):  # 40 %: too little for 20 s, enough for a minute
        seen.many(float(second), 3, 2)
    assert "in 60 s" in (seen.burns(59.0) or "")
    seen = Watched()
    for second in range(300):  # 20 %
        seen.many(float(second), 4, 1)
    assert "in 300 s" in (seen.burns(299.0) or "")
    seen = Watched()
    for second in range(300):  # 10 %, twice what is allowed: that is for people to look at
        seen.many(float(second), 9, 1)
    assert seen.burns(299.0) is None


@pytest.mark.parametrize("traffic", [True, False], ids=["well again", "nobody goes there"])
def test_what_is_over_is_over(traffic: bool) -> None:
    seen = Watched()
    for second in range(100):
        seen.many(float(second), 0, 2)
    assert seen.burns(99.0) is not None
    for second in range(100, 165):
        seen.many(float(second), 2 * traffic, 0)
    assert seen.minute(164.0)[0][1] == 0
    assert seen.watch.totals(164.0)[2][0][1] > 0.15 * seen.watch.totals(164.0)[2][0][0]
    assert seen.burns(164.0) is None


def test_raw_error_rate() -> None:
    seen = Watched(Objective(availability=0.999), error_rate=0.2)
    for second in range(60):
        for number in range(10):
            seen.ended(float(second), outcome="failed" if number < 1 + second % 2 else "ok")
    assert seen.burns(59.0) is None  # 15 %
    for second in range(60, 90):
        for number in range(10):
            seen.ended(float(second), outcome="failed" if number < 3 else "ok")
    said = seen.burns(89.0)
    assert said is not None
    assert said.endswith("failed, 1.5 times the threshold")


@pytest.mark.parametrize("seed", range(5))
def test_a_place_that_just_keeps_its_promise_is_not_left(seed: int) -> None:
    rng, seen = random.Random(seed), Watched()
    for second in range(4 * 3600):
        for _ in range(rng.choice((0, 1, 2, 5))):
            seen.ended(float(second), 9.0 if rng.random() < 0.05 else 1.0)
        assert seen.burns(float(second)) is None


# -- arithmetic ------------------------------------------------------------------------------


@given(calls=st.integers(1, 60), bad=st.integers(0, 60), allowed=st.floats(0.001, 0.6))
def test_chance_is_never_understated(calls: int, bad: int, allowed: float) -> None:
    bad = min(bad, calls)
    exact = sum(
        math.comb(calls, k) * allowed**k * (1 - allowed) ** (calls - k) for k in range(bad, calls + 1)
    )
    assert chance(bad, calls, allowed) >= exact * (1 - 1e-9)


@given(
    burn=st.floats(3, 1000),
    calm=st.floats(1, 500),
    availability=st.floats(0.01, 0.99999),
    error_rate=st.one_of(st.none(), st.floats(0.001, 0.999)),
)
def test_thresholds_can_be_reached_and_lie_apart(
    burn: float, calm: float, availability: float, error_rate: float | None
) -> None:
    if calm >= burn / 2:
        return
    goals = goals_of(
        Objective(latency_p50_s=1, latency_p95_s=2, latency_p99_s=3, availability=availability),
        error_rate=error_rate,
        burn=burn,
        calm=calm,
    )
    assert len(goals) == 4
    for goal in goals:
        assert 0 < goal.allowed <= goal.leave < min(goal.enter)
        assert max(goal.enter) < 1


def test_goals_of_an_objective() -> None:
    goals = goals_of(Objective(latency_p95_s=4, first_token_p95_s=1, availability=0.999, cost_usd=0.1))
    assert [goal.name for goal in goals] == ["latency_p95_s", "first_token_p95_s", "availability"]
    assert goals[0].enter == pytest.approx((0.5, 0.3, 0.15))
    assert goals[0].leave == pytest.approx(0.1)
    replaced = goals_of(Objective(latency_p95_s=4, latency_p99_s=9, availability=0.999), latency_s=2.0)
    assert [(goal.name, goal.bound_s) for goal in replaced] == [
        ("latency_s", 2.0),
        ("availability", math.inf),
    ]
    assert goals_of(None) == ()


# -- trials ----------------------------------------------------------------------------------


def tried(seen: Watched, now: float, enough: int = 10) -> tuple[bool | None, int, int]:
    well, calls, bad, goal = seen.watch.tried(now, enough)
    assert isinstance(goal, Goal)
    return well, calls, bad


def test_only_what_begins_in_a_trial_counts_for_it() -> None:
    seen = Watched()
    seen.begun(99.0)
    seen.watch.try_out(100.0)
    seen.ended(101.0, 9.0)  # began before
    assert tried(seen, 150.0) == (None, 0, 0)
    for _ in range(10):
        seen.ended(102.0, 1.0)
    assert tried(seen, 150.0) == (True, 10, 0)


@pytest.mark.parametrize(
    ("good", "bad", "well"),
    [(9, 0, None), (10, 0, True), (9, 1, True), (0, 1, None), (0, 2, False), (1, 2, None), (40, 8, None)],
)
def test_how_a_trial_goes(good: int, bad: int, well: bool | None) -> None:
    seen = Watched()
    seen.watch.try_out(0.0)
    seen.many(20.0, good, bad)
    assert tried(seen, 20.0) == (well, good + bad, bad)


def test_one_failure_ends_no_trial_however_seldom_it_may_come() -> None:
    seen = Watched(Objective(availability=0.999))
    seen.watch.try_out(0.0)
    seen.ended(10.0, outcome="failed")
    assert tried(seen, 10.0) == (None, 1, 1)
    for _ in range(18):
        seen.ended(11.0)
    assert tried(seen, 11.0)[0] is None
    seen.ended(12.0)
    assert tried(seen, 12.0)[0] is True  # of twenty
    seen.ended(12.0, outcome="failed")
    assert tried(seen, 12.0) == (False, 21, 2)


def test_a_trial_is_over_before_its_calls_are() -> None:
    seen = Watched()
    seen.watch.try_out(0.0)
    for _ in range(2):
        seen.begun(1.0)
    assert tried(seen, 5.0)[0] is None
    assert tried(seen, 5.1) == (False, 2, 2)
