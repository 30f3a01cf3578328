"""Burn rates and alarms: the workbook's arithmetic, thresholds that can be reached, and no flapping."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierllm.sla.attainment import Attainment
from tierllm.sla.burn import (
    PAIRS,
    Alarm,
    Change,
    Goal,
    Latch,
    goals_of,
    signal,
    tally,
    tally_of_cost,
    threshold,
    verdict,
)
from tierllm.types import Objective

DAY_S = 86_400.0


def available(share: float) -> Goal:
    (goal,) = goals_of(Objective(availability=share))
    return goal


COST = Goal("cost_usd", 1.0, 0.01)


# -- arithmetic ----------------------------------------------------------------------


def test_every_field_of_an_objective_is_a_goal() -> None:
    fields = dict.fromkeys(Objective.__slots__, 0.5)
    goals = goals_of(Objective(**fields))
    assert [goal.name for goal in goals] == list(Objective.__slots__)
    assert [goal.spare for goal in goals] == [0.5, 0.05, 0.01, 0.5, 0.05, 0.01, 0.5, 0.0]
    assert goals_of(Objective()) == ()


@pytest.mark.parametrize(
    ("share", "calls", "bad", "rate"),
    [
        (0.999, 694, 10, 14.409),
        (0.999, 1000, 1, 1.0),
        (0.95, 100, 5, 1.0),
        (0.95, 100, 100, 20.0),
        (0.9, 10, 1, 1.0),
    ],
)
def test_the_burn_rate_is_the_bad_share_by_the_share_that_may_be(
    share: float, calls: int, bad: int, rate: float
) -> None:
    assert tally(available(share), calls, bad).rate == pytest.approx(rate, abs=1e-3)


def test_one_bad_call_alone_is_not_sure() -> None:
    assert tally(available(0.999), 1, 1).sure == 0
    assert tally(available(0.999), 2, 2).sure > 0
    assert tally_of_cost(COST, 10, 10.0, 9.99).sure < 1 < tally_of_cost(COST, 10, 10.0, 9.99).rate
    assert tally_of_cost(COST, 1, 5.0, 5.0).sure == 0


def test_the_rate_of_the_cost_is_mean_by_objective() -> None:
    assert tally_of_cost(COST, 4, 0.06, 0.03).rate == pytest.approx(1.5)


# -- thresholds ----------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.95, 0.99, 0.999, 0.9999])
def test_where_the_workbook_s_rates_can_be_reached_they_hold(share: float) -> None:
    assert [threshold(pair.rate, available(share)) for pair in PAIRS] == [14.4, 6.0, 3.0, 1.0]
    assert threshold(14.4, COST) == 14.4


@given(st.floats(0.001, 0.9999))
def test_every_threshold_can_be_reached_and_none_alarms_at_a_promise_that_is_kept(share: float) -> None:
    goal = available(share)
    if not 0 < goal.spare < 1:
        return
    found = [threshold(pair.rate, goal) for pair in PAIRS]
    assert found == sorted(found, reverse=True)
    assert found[-1] == 1.0
    assert all(each >= 1.0 for each in found)
    assert found[0] < 1 / goal.spare
    assert all(each <= pair.rate for each, pair in zip(found, PAIRS, strict=True))


def test_of_a_median_nine_calls_in_ten_are_over_it_before_the_fastest_alarm() -> None:
    goal = Goal("latency_p50_s", 0.5, 1.0)
    assert threshold(14.4, goal) * goal.spare == pytest.approx(0.9)


# -- verdicts ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "calls", "bad", "told"),
    [
        (0.9, 99, 99, "too few"),
        (0.9, 100, 10, "at risk"),
        (0.9, 100, 11, "at risk"),  # broken, and by so little that it may be by chance
        (0.9, 100, 18, "at risk"),
        (0.9, 100, 19, "missed"),
        (0.9, 100_000, 10_300, "missed"),
        (0.71, 100, 29, "at risk"),
        (0.9, 100, 7, "met"),
        (0.9, 100, 8, "at risk"),
        (0.999, 500, 0, "too few"),
        (0.999, 500, 1, "too few"),
        (0.999, 500, 2, "at risk"),
        (0.99, 100, 2, "at risk"),
        (0.99, 100, 5, "missed"),
        (0.999, 1000, 0, "met"),
        (0.999, 1000, 1, "at risk"),
        (0.999, 1000, 2, "at risk"),
        (0.999, 1000, 5, "missed"),
    ],
)
def test_verdicts(share: float, calls: int, bad: int, told: str) -> None:
    goal = available(share)
    assert verdict(goal, tally(goal, calls, bad), least=100, burning=False) == told


def test_what_is_kept_and_burns_is_at_risk() -> None:
    goal = available(0.9)
    assert verdict(goal, tally(goal, 1000, 0), least=100, burning=True) == "at risk"


@pytest.mark.parametrize(
    ("total", "dearest", "told"),
    [(0.89, 0.01, "met"), (0.9, 0.01, "at risk"), (2.0, 0.02, "missed"), (2.0, 1.5, "at risk")],
    ids=["met", "near", "missed", "one dear call"],
)
def test_verdicts_of_the_cost(total: float, dearest: float, told: str) -> None:
    assert verdict(COST, tally_of_cost(COST, 100, total, dearest), least=100, burning=False) == told


@given(st.floats(0.01, 0.9999), st.integers(1, 5000), st.integers(0, 5000))
def test_one_bad_call_never_decides(share: float, calls: int, bad: int) -> None:
    """With one bad call fewer, what was missed is not met."""
    goal, bad = available(share), min(bad, calls)
    told = verdict(goal, tally(goal, calls, bad), least=1, burning=False)
    if told == "missed":
        assert bad >= 2
        before = verdict(goal, tally(goal, calls - 1, bad - 1), least=1, burning=False)
        assert before != "met"


# -- latches -------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 15.0, 60.0, 300.0, 1000.0]), st.floats(0, 2)), max_size=300))
def test_a_latch_changes_four_times_in_any_hour_at_most(looks: list[tuple[float, float]]) -> None:
    latch, now, changes = Latch(), 0.0, []
    for step_s, near in looks:
        now += step_s
        before = latch.on
        latch.look(near, now)
        if latch.on != before:
            changes.append(now)
            assert (near >= 1) if latch.on else (near <= 0.8)
        elif near >= 1:
            assert latch.on  # going on never has to wait
        assert sum(now - at <= 3600 for at in changes) <= 4


def test_a_latch_goes_off_after_five_calm_minutes_and_not_before() -> None:
    latch = Latch()
    latch.look(1.0, 0.0)
    for now, near in ((15.0, 0.9), (30.0, 0.8), (200.0, 0.81), (215.0, 0.1), (514.0, 0.0)):
        latch.look(near, now)
        assert latch.on
    latch.look(0.0, 515.0)
    assert not latch.on


# -- alarms, over time -----------------------------------------------------------------


def lived(
    attainment: Attainment, seconds: Iterator[float], bad: float, rng: random.Random
) -> Iterator[tuple[float, Change, float]]:
    """Calls at these moments, of which the share ``bad`` fail, and what was told of it."""
    for now in seconds:
        if attainment.count(now, 0.5, None, rng.random() >= bad, 0.001):
            for change, left in attainment.look(now):
                yield now, change, left


def every(step_s: float, start_s: float, end_s: float) -> Iterator[float]:
    return (start_s + step_s * number for number in range(int((end_s - start_s) / step_s)))


def test_an_outage_is_told_within_minutes_and_its_end() -> None:
    attainment, rng = Attainment(Objective(availability=0.99)), random.Random(1)
    assert not list(lived(attainment, every(1, 0, 7200), 0.002, rng))
    assert attainment.report(7200.0, 3600.0).verdict == "met"
    told = list(lived(attainment, every(1, 7200, 9000), 1.0, rng))
    (began, change, left), *_ = told
    assert change.burning
    assert change.goal == "availability"
    assert began - 7200 < 600  # an hour's 14.4 times of 1 % is 8.6 minutes
    assert change.rate >= 14.4
    assert change.window_s == 3600
    assert left < 0
    after = list(lived(attainment, every(1, 9000, 9000 + 8 * 3600), 0.0, rng))
    assert [change.burning for _, change, _ in told[1:] + after][-1] is False
    assert after[-1][1].after_s == pytest.approx(after[-1][0] - began, abs=30)


def test_a_slow_burn_is_told_and_again_when_it_becomes_a_fast_one() -> None:
    attainment, rng = Attainment(Objective(availability=0.99)), random.Random(2)
    slow = list(lived(attainment, every(30, 0, 4 * DAY_S), 0.02, rng))
    assert {change.window_s for _, change, _ in slow} <= {259_200.0, 86_400.0}
    assert slow[0][1].burning
    fast = list(lived(attainment, every(2, 4 * DAY_S, 4 * DAY_S + 3600), 0.8, rng))
    assert [change.window_s for _, change, _ in fast][-1] == 3600
    assert all(change.burning for _, change, _ in fast)


@pytest.mark.parametrize("calls", [1, 20, 99])
def test_too_few_calls_tell_nothing(calls: int) -> None:
    attainment = Attainment(Objective(availability=0.99))
    told = list(lived(attainment, every(30, 0, 30 * calls), 1.0, random.Random(3)))
    assert not told


def test_one_bad_call_tells_nothing() -> None:
    attainment = Attainment(Objective(availability=0.9999))
    list(lived(attainment, every(10, 0, 3000), 0.0, random.Random(4)))
    assert not list(lived(attainment, iter([3000.0]), 1.0, random.Random(4)))
    assert not list(lived(attainment, every(10, 3015, 3100), 0.0, random.Random(4)))
    assert list(lived(attainment, every(10, 3105, 3130), 1.0, random.Random(4)))


@pytest.mark.parametrize("seed", range(4))
def test_a_service_that_flaps_is_told_of_four_times_an_hour_and_pair_at_most(seed: int) -> None:
    attainment, rng = Attainment(Objective(availability=0.95, latency_p95_s=1.0)), random.Random(seed)
    told: list[tuple[float, Change, float]] = []
    now = 0.0
    while now < 12 * 3600:
        length_s = rng.uniform(60, 1200)
        told += lived(attainment, every(3, now, now + length_s), rng.choice([0.0, 0.3, 1.0]), rng)
        now += length_s
    times = [at for at, change, _ in told if change.goal == "availability"]
    assert times
    for at in times:
        assert sum(at <= other < at + 3600 for other in times) <= 4 * len(PAIRS)
    # and it alternates: never recovered what was not burning
    on = False
    for _, change, _ in told:
        if change.goal == "availability":
            assert change.burning or on
            on = change.burning


def test_dear_calls_burn_and_one_dear_call_does_not() -> None:
    attainment = Attainment(Objective(cost_usd=0.01))
    for now in every(10, 0, 3600):
        attainment.count(now, 0.5, None, True, 0.005)
    attainment.count(3601.0, 0.5, None, True, 1e6)
    assert attainment.look(3601.0) == []
    told = []
    for now in every(5, 3605, 7200):
        attainment.count(now, 0.5, None, True, 0.4)
        told += attainment.look(now)
    assert told[0][0].goal == "cost_usd"
    assert told[0][0].burning


@pytest.mark.parametrize(
    ("times", "after_s", "window_s"),
    [(10.0, 400, 3_600.0), (2.0, 3_600, 3_600.0), (1.5, 34_560, 86_400.0), (1.1, None, None)],
)
def test_a_mean_cost_alarms_at_twice_the_objective_or_a_fifth_over_it_for_a_day(
    times: float, after_s: float | None, window_s: float | None
) -> None:
    """From the very first call on: the time before counts as if it had cost what was promised."""
    attainment = Attainment(Objective(cost_usd=0.01))
    told = []
    for now in every(20, 0, 2 * DAY_S):
        if attainment.count(now, 1.0, None, True, 0.01 * times * 1.0001):
            told += [(now, change) for change, _ in attainment.look(now)]
    assert bool(told) == (after_s is not None)
    if after_s is not None:
        at, change = told[0]
        assert change.burning
        assert (change.goal, change.window_s) == ("cost_usd", window_s)
        assert after_s - 20 <= at <= max(after_s + 60, 100 * 20 + 60)


def test_a_mean_cost_has_no_error_budget() -> None:
    attainment = Attainment(Objective(cost_usd=0.01))
    for now in every(1, 0, 300):
        attainment.count(now, 1.0, None, True, 0.02)
    goal = attainment.report(300.0, 300.0).goals["cost_usd"]
    assert (goal.budget_left, goal.budget_window_s, goal.verdict) == (None, None, "missed")
    assert goal.burn_rate == pytest.approx(2.0)


def test_after_an_idle_night_the_first_bad_minute_is_not_three_bad_days() -> None:
    delays = []
    for calm_s in (0.0, 60.0):
        attainment, start = Attainment(Objective(availability=0.99)), 2 * DAY_S
        list(lived(attainment, every(1, 0, calm_s), 0.0, random.Random(6)))
        told = lived(attainment, every(0.5, start, start + 3600), 0.6, random.Random(6))
        delays.append(next(at for at, _, _ in told) - start)
    # an hour's 14.4 times of 1 % at 60 % bad
    assert delays[0] == pytest.approx(864, abs=60)
    assert delays[1] >= 300


def test_an_alarm_needs_both_windows() -> None:
    alarm, goal, start = Alarm(available(0.99)), available(0.99), 4 * DAY_S
    quiet, bad = tally(goal, 1000, 0), tally(goal, 1000, 500)
    over = {window_s: quiet for pair in PAIRS for window_s in (pair.long_s, pair.short_s)}
    assert alarm.look({**over, 3600.0: bad}, 100, start) is None  # it is over already
    assert alarm.look({**over, 300.0: bad}, 100, start + 15) is None  # it has not mattered yet
    change = alarm.look({**over, 3600.0: bad, 300.0: bad}, 100, start + 30)
    assert change is not None
    assert change.burning


@pytest.mark.parametrize("share", [0.95, 0.99, 0.999])
def test_a_service_just_begun_is_told_of_as_late_as_one_that_was_always_good(share: float) -> None:
    """Not at once: the first bad minute is not three bad days."""
    delays = []
    for calm_s in (0.0, 4 * DAY_S):
        attainment = Attainment(Objective(availability=share), min_samples=2)
        list(lived(attainment, every(60, 0, calm_s), 0.0, random.Random(5)))
        told = lived(attainment, every(60, calm_s, calm_s + 3600), 1.0, random.Random(5))
        delays.append(next(at for at, _, _ in told) - calm_s)
    assert delays[0] == pytest.approx(delays[1], abs=240)
    assert delays[0] >= 14.4 * (1 - share) * 3600 - 15


def test_the_short_window_is_diluted_too_while_it_has_not_been_lived_through() -> None:
    goal = available(0.99)
    for long_s, short_s, near in ((3_600.0, 300.0, 20.0), (1_800.0, 300.0, 10.0), (3_600.0, 15.0, 2.5)):
        found = {3_600.0: tally(goal, 1000, 200, long_s), 300.0: tally(goal, 100, 50, short_s)}
        assert signal(PAIRS[0], found, 1.0, 100) == pytest.approx(near)


def test_a_service_that_just_keeps_its_promise_is_not_burning_as_it_begins() -> None:
    for seed in range(15):
        attainment = Attainment(Objective(availability=0.99))
        assert not list(lived(attainment, every(1, 0, 1800), 0.01, random.Random(seed)))
