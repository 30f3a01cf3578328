"""One subject: exact shares, bounded memory, threads, forks, clocks of any kind."""

from __future__ import annotations

import gc
import json
import math
import os
import random
import threading
import tracemalloc
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierllm.errors import ConfigError
from tierllm.sla.attainment import APART, DEGRADED, ELSEWHERE, Attainment
from tierllm.sla.report import Whose
from tierllm.sla.windows import WINDOWS_S
from tierllm.types import Objective

EVERYTHING = Objective(
    latency_p50_s=1.1,
    latency_p95_s=4.0,
    latency_p99_s=9.0,
    first_token_p50_s=0.3,
    first_token_p95_s=0.7,
    first_token_p99_s=1.7,
    availability=0.999,
    cost_usd=0.01,
)

seconds = st.one_of(st.sampled_from([0.0, 0.3, 0.7, 1.1, 1.7, 4.0, 9.0, math.inf]), st.floats(0, 500))
ended = st.tuples(
    seconds,
    st.none() | seconds,
    st.booleans(),
    st.none() | st.floats(0, 10),
    st.sampled_from([0.0, 3.0, 20.0]),
)


# -- exactness -----------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(ended, min_size=1, max_size=80))
def test_shares_are_counted_exactly_and_a_time_equal_to_the_objective_is_within(
    calls: list[tuple[float, float | None, bool, float | None, float]],
) -> None:
    attainment, now = Attainment(EVERYTHING), 0.0
    for latency_s, first_token_s, ok, cost_usd, step_s in calls:
        now += step_s
        attainment.count(now, latency_s, first_token_s, ok, cost_usd)
    goals = attainment.report(now, 3600.0).goals
    for name in ("latency_p50_s", "latency_p95_s", "latency_p99_s"):
        limit = getattr(EVERYTHING, name)
        known = [latency <= limit for latency, _, ok, _, _ in calls if ok or latency > limit]
        assert (goals[name].calls, goals[name].bad) == (len(known), known.count(False))
        if known:
            assert goals[name].within == pytest.approx(known.count(True) / len(known))
    for name in ("first_token_p50_s", "first_token_p95_s", "first_token_p99_s"):
        within = [first <= getattr(EVERYTHING, name) for _, first, _, _, _ in calls if first is not None]
        assert (goals[name].calls, goals[name].bad) == (len(within), within.count(False))
    answered = [ok for _, _, ok, _, _ in calls]
    assert (goals["availability"].calls, goals["availability"].bad) == (len(calls), answered.count(False))
    costs = [cost for _, _, _, cost, _ in calls if cost is not None]
    assert goals["cost_usd"].calls == len(costs)
    if costs:
        assert goals["cost_usd"].measured == pytest.approx(sum(costs) / len(costs))


@pytest.mark.parametrize("limit", [0.001, 0.05, 0.0500001, 3.9999, 4.0, 102.4, 5_000.0])
def test_there_is_an_edge_exactly_at_the_objective(limit: float) -> None:
    attainment = Attainment(Objective(latency_p95_s=limit, first_token_p95_s=limit))
    for value in (limit, math.nextafter(limit, math.inf), math.nextafter(limit, 0.0)):
        attainment.count(0.0, value, value, True, None)
    goals = attainment.report(0.0, 300.0).goals
    assert [goals[name].bad for name in goals] == [1, 1]


def test_a_failed_call_counts_against_latency_only_where_it_had_taken_longer() -> None:
    attainment = Attainment(Objective(latency_p50_s=1.0, latency_p95_s=4.0, availability=0.9))
    attainment.count(0.0, 2.0, None, False, None)
    goals = attainment.report(0.0, 300.0).goals
    assert (goals["latency_p50_s"].calls, goals["latency_p50_s"].bad) == (1, 1)
    assert (goals["latency_p95_s"].calls, goals["latency_p95_s"].bad) == (0, 0)
    assert goals["availability"].bad == 1


def test_a_report_has_all_that_was_counted() -> None:
    attainment = Attainment(Objective(latency_p95_s=4.0, availability=0.9), min_samples=10)
    for number in range(100):
        attainment.count(number * 0.1, 1.0, 0.2, True, 0.002, (DEGRADED,) if number < 5 else ())
    attainment.count(10.0, 0.1, None, False, None)
    attainment.count(10.0, 1.0, 0.2, True, 0.002, (DEGRADED, ELSEWHERE))
    for times, kind in enumerate(APART, 1):
        for _ in range(times):
            attainment.apart(10.0, kind)
    report = attainment.report(10.0, 300.0, Whose(tier="gold"))
    assert (report.calls, report.answered, report.failed) == (102, 101, 1)
    assert (report.degraded, report.elsewhere) == (6, 1)
    assert report.apart == {"cached": 1, "personal": 2, "impatient": 3, "cancelled": 4, "moved": 5}
    assert report.latency_p50_s == pytest.approx(1.0, rel=0.19)
    assert report.first_token_p99_s == pytest.approx(0.2, rel=0.19)
    assert report.first_tokens == report.costed == 101
    assert report.cost_usd == pytest.approx(0.002)
    assert report.availability == pytest.approx(101 / 102)
    assert report.verdict == "met"
    assert report.budget_left == pytest.approx(1 - (1 / 102) / 0.1)
    assert report.goals["availability"].budget_window_s == 300.0
    assert report.covered_s == 15.0
    assert report.burning == ()
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["tier"] == "gold"
    assert plain["goals"]["latency_p95_s"]["within"] == 1.0


def test_nothing_counted_is_nothing_known() -> None:
    report = Attainment(EVERYTHING).report(0.0, 86_400.0)
    assert report.calls == report.covered_s == 0
    assert report.verdict == "too few"
    assert report.availability is report.cost_usd is report.latency_p50_s is report.budget_left is None
    assert all(goal.within is None and goal.burn_rate is None for goal in report.goals.values())


def test_time_begins_with_the_first_call_and_not_with_who_asks_before() -> None:
    attainment = Attainment(Objective(availability=0.99))
    for now in range(0, 4 * 86_400, 3600):
        assert attainment.look(float(now)) == []
        assert attainment.report(float(now), 300.0).covered_s == 0
    for second in range(200):
        attainment.count(4 * 86_400.0 + second, 1.0, None, second % 10 > 0, None)
    assert attainment.report(4 * 86_400.0 + 200, 86_400.0).covered_s == 210
    # a tenth of three minutes, and not of three days
    assert attainment.look(4 * 86_400.0 + 200) == []


def test_what_had_waited_too_long_counts_however_it_ended() -> None:
    attainment = Attainment(
        Objective(latency_p50_s=1.0, latency_p95_s=4.0, first_token_p95_s=2.0, availability=0.9)
    )
    attainment.apart(0.0, "cancelled", waited_s=3.0, unbegun=True)
    attainment.apart(0.0, "cancelled", waited_s=3.0, first_token_s=0.5)
    attainment.count(0.0, 9.0, None, False, None, unbegun=True)
    goals = attainment.report(0.0, 300.0).goals
    assert (goals["latency_p50_s"].calls, goals["latency_p50_s"].bad) == (3, 3)
    assert (goals["latency_p95_s"].calls, goals["latency_p95_s"].bad) == (1, 1)
    assert (goals["first_token_p95_s"].calls, goals["first_token_p95_s"].bad) == (3, 2)
    assert (goals["availability"].calls, goals["availability"].bad) == (1, 1)


def test_a_look_is_asked_for_only_where_something_bad_has_come() -> None:
    attainment = Attainment(Objective(latency_p95_s=4.0, availability=0.9, cost_usd=0.01))
    asked = [attainment.count(second * 20.0, 1.0, None, True, 0.01) for second in range(200)]
    assert not any(asked)
    assert not attainment.count(4_000.0, 5.0, None, True, 0.01)  # nobody has summed it up yet
    assert attainment.count(4_020.0, 1.0, None, True, 0.01)
    assert attainment.look(4_020.0) == []
    assert not attainment.count(4_040.0, 1.0, None, True, 0.01)
    assert attainment.count(4_060.0, 1.0, None, False, 0.01)  # a failure is seen at once
    attainment.look(4_060.0)
    attainment.count(4_061.0, 1.0, None, True, 0.02)
    assert attainment.count(4_081.0, 1.0, None, True, 0.01)


def test_bad_calls_before_there_were_enough_are_looked_at_again() -> None:
    attainment, now, told = Attainment(Objective(availability=0.9)), 0.0, []
    for number in range(130):
        now += 2_500.0
        if attainment.count(now, 1.0, None, number >= 95, None):
            told += attainment.look(now)
    assert [change.burning for change, _ in told][:1] == [True]


def test_a_clock_set_back_by_less_than_a_cell_asks_for_no_looks() -> None:
    attainment = Attainment(Objective(availability=0.9))
    attainment.count(980.0, 1.0, None, False, None)
    assert attainment.count(1_000.0, 1.0, None, False, None)
    assert not any(attainment.count(990.0, 1.0, None, False, None) for _ in range(50))
    assert attainment.report(990.0, 300.0).calls == 52


def test_the_error_budget_is_that_of_the_longest_window_with_calls_enough() -> None:
    attainment = Attainment(Objective(availability=0.9))
    for number in range(90):
        attainment.count(number * 60.0, 1.0, None, number % 2 == 0, None)
    assert attainment.report(5400.0, 300.0).budget_left is None
    for number in range(90, 200):
        attainment.count(number * 60.0, 1.0, None, True, None)
    goal = attainment.report(12_000.0, 300.0).goals["availability"]
    report = attainment.report(12_000.0, 300.0)
    assert (report.budget_left, report.budget_window_s) == (goal.budget_left, 21_600.0)
    assert goal.budget_window_s == 21_600.0
    assert goal.budget_left == pytest.approx(1 - 45 / 200 / 0.1)


def test_only_windows_that_are_kept_can_be_asked_for() -> None:
    with pytest.raises(ConfigError, match="300, 1800, 3600"):
        Attainment(EVERYTHING).report(0.0, 60.0)


@pytest.mark.parametrize("given", [0, -1, 1.5, True, "100", None])
def test_a_minimum_of_samples_is_a_number(given: object) -> None:
    with pytest.raises(ConfigError, match="min_samples"):
        Attainment(EVERYTHING, min_samples=given)  # type: ignore[arg-type]


# -- bounds --------------------------------------------------------------------------


def test_a_subject_stays_within_64_kib_whatever_comes() -> None:
    rng = random.Random(1)

    def lived() -> Attainment:
        attainment, now = Attainment(EVERYTHING), 0.0
        for step_s, cells in ((10_800.0, 30), (900.0, 40), (150.0, 40), (15.0, 40)):
            for _ in range(cells):
                now += step_s
                for _ in range(8):
                    drawn = rng.lognormvariate(0.5, 2), rng.lognormvariate(-1, 2), rng.random() < 0.9
                    attainment.count(now, *drawn, rng.random())
                attainment.look(now)
        cell = attainment._windows.cell
        cell[:] = range(10**6, 10**6 + len(cell))
        return attainment

    lived()  # what is made once for all
    gc.collect()
    tracemalloc.start()
    try:
        attainment = lived()
        gc.collect()
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    kept = [cell for ring in attainment._windows._rings for cell in ring.cells]
    assert len({id(cell) for cell in kept}) > 90  # it is full
    assert used <= 65_536


def test_the_counts_of_eight_threads_add_up() -> None:
    attainment, each = Attainment(EVERYTHING), 4_000
    moments = iter(range(10**9))

    def work() -> None:
        for number in range(each):
            now = next(moments) * 0.01
            if attainment.count(now, number % 10, 0.5, number % 4 != 0, 0.25):
                attainment.look(now)
            if number % 100 == 0:
                attainment.apart(now, "cached")
                attainment.report(now, 1800.0)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = attainment.report(next(moments) * 0.01, 3600.0)
    assert report.calls == 8 * each
    assert report.failed == 2 * each
    assert report.apart["cached"] == 8 * each // 100
    assert report.cost_usd == pytest.approx(0.25)
    assert report.goals["first_token_p95_s"].calls == 8 * each


def test_a_call_that_ends_by_garbage_collection_while_another_counts_is_counted() -> None:
    attainment = Attainment(EVERYTHING)

    class Ending(float):
        def __radd__(self, other: float) -> float:
            attainment.count(0.0, 1.0, None, True, None)
            return other + float(self)

    attainment.count(0.0, 1.0, None, True, Ending(0.5))
    assert attainment.report(0.0, 300.0).calls == 2


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(st.floats(-1e9, 1e9), st.floats(0, 1000)), min_size=1, max_size=60))
def test_no_clock_makes_it_fail_or_count_below_nothing(moments: list[float]) -> None:
    attainment = Attainment(EVERYTHING, min_samples=1)
    for now in moments:
        attainment.count(now, 5.0, 0.1, False, 1.0)
        attainment.look(now)
        for report in attainment.reports(now):
            assert 1 <= report.calls <= len(moments)
            assert all(goal.bad <= goal.calls for goal in report.goals.values())
            assert 0 < report.covered_s <= report.window_s


@pytest.mark.parametrize("jump_s", [86_400.0, 10 * 86_400.0, 1e12])
def test_a_clock_that_jumps_ahead_only_makes_things_old(jump_s: float) -> None:
    attainment = Attainment(EVERYTHING)
    for number in range(500):
        attainment.count(number * 1.0, 1.0, None, True, 0.001)
    now = 500 + jump_s
    attainment.count(now, 1.0, None, True, 0.001)
    assert attainment.report(now, 21_600.0).calls == 1
    assert attainment.report(now, 259_200.0).calls == (501 if jump_s == 86_400.0 else 1)


def test_all_windows_at_once_say_what_each_says_alone() -> None:
    attainment, rng = Attainment(EVERYTHING), random.Random(2)
    for number in range(2_000):
        attainment.count(number * 31.0, rng.lognormvariate(0, 1), None, True, rng.random() * 0.01)
    now = 2_000 * 31.0
    assert attainment.reports(now) == [attainment.report(now, window_s) for window_s in WINDOWS_S]


# -- forks ---------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork_a_lock_that_was_held_is_no_hindrance() -> None:
    attainment = Attainment(EVERYTHING)
    attainment.count(0.0, 1.0, None, True, None)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with attainment._lock:
            held.set()
            done.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(30)
    child = os.fork()
    if child == 0:  # pragma: no cover
        try:
            attainment.renew()
            attainment.count(1.0, 1.0, None, True, None)
            os._exit(0 if attainment.report(1.0, 300.0).calls == 2 else 1)
        finally:
            os._exit(2)
    done.set()
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert attainment.report(1.0, 300.0).calls == 1


def test_an_objective_is_a_number_one_can_reckon_with() -> None:
    promised = Objective(availability=Decimal("0.99"), latency_p95_s=Decimal(4), cost_usd=Decimal("0.01"))  # type: ignore[arg-type]
    assert promised == Objective(availability=0.99, latency_p95_s=4.0, cost_usd=Decimal("0.01"))
    assert isinstance(promised.availability, float)
    assert Objective(availability=0.999999999).availability
    with pytest.raises(ConfigError, match="at most"):
        Objective(availability=1 - 1e-13)
