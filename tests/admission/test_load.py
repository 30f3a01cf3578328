"""The load of a tier: against queues whose load is known, and whatever its owner tells it."""

from __future__ import annotations

import heapq
import math
import os
import random
import statistics
import threading
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tierllm.admission.load import LoadMeter
from tierllm.errors import ConfigError
from tierllm.testing import FakeClock


def meter(**settings: float) -> LoadMeter:
    return LoadMeter(clock=FakeClock(), **settings)


def a_queue(
    rate_per_s: Callable[[float], float], size: int, call_s: float, seconds: float, seed: int = 1
) -> list[tuple[float, float, float]]:
    """Calls that come at random to so many places: time, level and forecast, once a second."""
    rng, measured, told = random.Random(seed), meter(), []
    now, tick = 0.0, 1.0
    comes = rng.expovariate(rate_per_s(0.0))
    waiting: list[float] = []
    ends: list[tuple[float, float, float]] = []
    while now < seconds:
        now = min(comes, tick, ends[0][0] if ends else math.inf)
        if now == tick:
            measured.measure(now, in_flight=len(ends), waiting=len(waiting), size=size, rate_per_s=None)
            told.append((now, measured.level, measured.forecast))
            tick += 1.0
            continue
        if now == comes:
            measured.arrived(now)
            waiting.append(now)
            comes = now + rng.expovariate(rate_per_s(now))
        else:
            _, held_s, waited_s = heapq.heappop(ends)
            measured.served(now, held_s, waited_s)
        if waiting and len(ends) < size:
            held_s = rng.expovariate(1 / call_s)
            heapq.heappush(ends, (now + held_s, held_s, now - waiting.pop(0)))
    return told


def mean_level(share: float, size: int, call_s: float) -> float:
    told = a_queue(lambda now: share * size / call_s, size, call_s, 1200)
    return statistics.mean(level for now, level, _ in told if now > 120)


# -- what it says ------------------------------------------------------------------


@pytest.mark.parametrize(("size", "call_s"), [(32, 2.0), (10, 0.2), (64, 10.0)])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.85])
def test_the_level_is_the_share_of_what_can_be_done(share: float, size: int, call_s: float) -> None:
    assert mean_level(share, size, call_s) == pytest.approx(share, rel=0.12)


@pytest.mark.parametrize("share", [1.5, 3.0])
def test_more_than_can_be_done_is_a_level_above_1(share: float) -> None:
    told = a_queue(lambda now: share * 16, 32, 2.0, 60)
    assert all(level > 1 for now, level, _ in told if now > 25)
    assert told[-1][1] > share * 0.9


def test_a_burst_of_a_second_is_no_overload() -> None:
    told = a_queue(lambda now: 40.0 if 100 < now < 101 else 4.0, 16, 1.0, 130)
    assert max(level for now, level, _ in told if now > 99) < 1


def test_a_queue_that_grows_shows_at_once() -> None:
    stalled = meter()
    for second in range(60):  # eight places of ten in use by calls of two seconds
        for _ in range(4):
            stalled.arrived(second)
            stalled.served(second, 2.0, 0.0)
        stalled.measure(second, in_flight=8, waiting=0, size=10, rate_per_s=None)
    assert stalled.level == pytest.approx(0.8, rel=0.05)
    stalled.measure(60, in_flight=10, waiting=40, size=10, rate_per_s=None)
    assert stalled.level > 1.5


def test_before_any_call_has_ended_those_that_wait_count_in_full() -> None:
    new = meter()
    new.measure(0, in_flight=2, waiting=4, size=2, rate_per_s=None)
    assert new.level >= 2


def test_a_rate_limit_is_a_capacity_too() -> None:
    limited = meter()
    for second in range(120):
        for _ in range(30):
            limited.arrived(second)
        limited.measure(second, in_flight=3, waiting=0, size=1000, rate_per_s=20.0)
    assert limited.level == pytest.approx(1.5, rel=0.01)
    assert limited.reading().arrivals_per_s == pytest.approx(30, rel=0.01)


def test_without_a_capacity_there_is_no_level() -> None:
    open_ended = meter()
    for second in range(60):
        open_ended.arrived(second)
        open_ended.measure(second, in_flight=50, waiting=9, size=None, rate_per_s=None)
    assert (open_ended.level, open_ended.forecast) == (0, 0)
    assert open_ended.reading().in_flight == 50


def test_the_forecast_sees_overload_before_it_is_there() -> None:
    """Load that rises by a half of what can be done in 50 to 200 s: crossed at 200 s + 0.5 / rise."""
    ahead = []
    for rise in (0.0025, 0.005, 0.01):
        for seed in range(4):
            told = a_queue(
                lambda now, rise=rise: 32 * min(0.5 + max(0.0, now - 200) * rise, 2.0), 64, 2.0, 500, seed
            )
            level = next(now for now, level, _ in told if level >= 1)
            ahead.append(level - next(now for now, *both in told if max(both) >= 1))
    assert statistics.mean(ahead) > 8
    assert min(ahead) >= 0


def test_the_forecast_does_not_run_away_from_a_load_that_stays() -> None:
    told = a_queue(lambda now: 0.6 * 32, 64, 2.0, 1200)
    assert max(forecast for now, _, forecast in told if now > 120) < 1


def test_idle_it_decays() -> None:
    idle = meter()
    for second in range(60):
        for _ in range(10):
            idle.arrived(second)
            idle.served(second, 2.0, 3.0)
        idle.measure(second, in_flight=10, waiting=5, size=10, rate_per_s=None)
    assert idle.level > 2
    assert idle.reading().queue_delay_s == pytest.approx(3, rel=0.01)
    for second in range(60, 180):
        idle.measure(second, in_flight=0, waiting=0, size=10, rate_per_s=None)
    assert idle.level < 0.001
    assert idle.forecast < 0.01
    assert idle.reading().queue_delay_s < 0.001


def test_what_is_refused_is_told() -> None:
    refusing = meter()
    for second in range(100):
        for _ in range(3):
            refusing.arrived(second)
            refusing.refused(second)
        refusing.measure(second, in_flight=0, waiting=0, size=10, rate_per_s=None)
    assert refusing.reading().refused_per_s == pytest.approx(3, rel=0.01)


# -- time ---------------------------------------------------------------------------


def test_a_jump_of_a_month_is_one_step() -> None:
    jumping = meter()
    for second in range(60):
        jumping.arrived(second)
        jumping.measure(second, in_flight=10, waiting=0, size=10, rate_per_s=None)
    jumping.arrived(3e6)
    jumping.measure(3e6, in_flight=1, waiting=0, size=10, rate_per_s=None)
    assert jumping.level == pytest.approx(0.1)
    assert 0 <= jumping.forecast < 0.2


def test_nothing_is_taken_in_before_it_is_due() -> None:
    eager = meter(tick_s=1.0)
    eager.measure(5.0, in_flight=10, waiting=0, size=10, rate_per_s=None)
    before = eager.reading()
    assert eager.due_at == 6.0
    for hundredth in range(100):
        eager.measure(5 + hundredth / 100, in_flight=0, waiting=9, size=10, rate_per_s=None)
    assert eager.reading() == before
    eager.measure(6.0, in_flight=0, waiting=9, size=10, rate_per_s=None)
    assert eager.reading().waiting == 9


def test_a_clock_that_is_set_back_counts_on_from_there() -> None:
    back = meter()
    back.measure(1000.0, in_flight=1, waiting=0, size=10, rate_per_s=None)
    back.measure(10.0, in_flight=1, waiting=0, size=10, rate_per_s=None)
    back.measure(11.0, in_flight=7, waiting=0, size=10, rate_per_s=None)
    assert back.reading().in_flight == 7


Told = st.lists(
    st.tuples(
        st.floats(-10, 1e7),
        st.integers(0, 200),
        st.integers(0, 1000),
        st.none() | st.floats(0, 1e6),
        st.none() | st.floats(0, 1e6),
        st.floats(0, 1e6),
    ),
    max_size=30,
)


@given(told=Told)
@example(told=[(0.0, 0, 0, None, None, 0.0), (1.0, 0, 1, 2.3e-309, None, 0.0)])
@settings(max_examples=100, deadline=None)
def test_whatever_it_is_told_the_level_is_a_number(
    told: list[tuple[float, int, int, float, float, float]],
) -> None:
    any_ = meter()
    now = 0.0
    for passed_s, in_flight, waiting, size, rate_per_s, held_s in told:
        now += passed_s
        any_.arrived(now)
        any_.served(now, held_s, held_s)
        any_.measure(now, in_flight=in_flight, waiting=waiting, size=size, rate_per_s=rate_per_s)
        for number in any_.reading():
            assert number >= 0
            assert math.isfinite(number)


@pytest.mark.parametrize("option", ["horizon_s", "tick_s"])
@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan])
def test_times_that_make_no_sense_are_refused(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=option):
        meter(**{option: value})


@pytest.mark.parametrize("call_s", [0.5, 2.0, 20.0])
@pytest.mark.parametrize("idle_s", [0, 15, 31, 600, 86_400])
@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_who_comes_back_after_a_pause_is_no_rise(share: float, idle_s: float, call_s: float) -> None:
    size, back = 20, meter()
    every_s = call_s / (share * size)
    ends: list[float] = []
    for begins in (idle_s, 2 * idle_s + 300.0):
        for number in range(int(240 / every_s)):
            now = begins + number * every_s
            while ends and ends[0] <= now:
                heapq.heappop(ends)
                back.served(now, call_s, 0.0)
            back.arrived(now)
            heapq.heappush(ends, now + call_s)
            back.measure(now, in_flight=len(ends), waiting=0, size=size, rate_per_s=None)
            assert back.forecast < share + 0.12


# -- threads and forks ----------------------------------------------------------------


def test_threads_lose_no_arrival() -> None:
    busy = meter()
    busy.measure(0.0, in_flight=0, waiting=0, size=1, rate_per_s=None)

    def arrive() -> None:
        for _ in range(5000):
            busy.arrived(0.5)
            busy.refused(0.5)

    threads = [threading.Thread(target=arrive) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    busy.measure(1000.0, in_flight=0, waiting=0, size=1, rate_per_s=None)
    assert busy.reading().arrivals_per_s == pytest.approx(20, rel=0.001)
    assert busy.reading().refused_per_s == pytest.approx(20, rel=0.001)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_begins_anew() -> None:
    parent = meter()
    parent.measure(0.0, in_flight=9, waiting=9, size=1, rate_per_s=None)
    parent._lock.acquire()  # held by another thread of the parent at the time
    child = os.fork()
    if child == 0:
        parent.arrived(1.0)
        os._exit(0 if parent.level == 0 else 1)
    parent._lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert parent.level > 1
