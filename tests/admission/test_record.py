"""What a pool did: use, peaks, waits, idle cost, and what is said of its size."""

from __future__ import annotations

import gc
import math
import sys
import threading
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm.admission.record import PoolRecord
from tierllm.errors import ConfigError
from tierllm.testing import FakeClock

HOUR = 3600.0
DAY = 24 * HOUR


def record(size: float = 10, **more: Any) -> PoolRecord:
    return PoolRecord(clock=FakeClock(), size=size, **more)


def told(of: PoolRecord, now: float) -> dict[str, Any]:
    return of.status(now)


def peak(of: PoolRecord, now: float) -> int:
    peaks: list[int] = told(of, now)["peak_by_hour"]
    return max(peaks)


def daily(of: PoolRecord, days: int, in_use: int, size: int = 10, waiting: int = 0, first: int = 0) -> float:
    """Each hour for so many days the pool is used for half an hour; returns the end."""
    for hour in range(first * 24, (first + days) * 24):
        of.changed(hour * HOUR, in_use, size, waiting)
        of.changed(hour * HOUR + HOUR / 2, 0, size, 0)
    return (first + days) * DAY


# -- use -------------------------------------------------------------------------------


def test_use_is_weighted_by_time() -> None:
    of = record()
    of.changed(0.0, 10, 10, 0)
    of.changed(10.0, 0, 10, 0)
    of.changed(30.0, 5, 10, 0)
    status = told(of, 40.0)
    assert (status["use"], status["mean_in_use"], max(status["peak_by_hour"])) == (0.375, 3.75, 10)
    assert status["watched_s"] == 40


def test_use_is_of_the_size_it_had() -> None:
    of = record(size=10)
    of.changed(0.0, 4, 10, 0)
    of.changed(10.0, 4, 4, 0)
    assert told(of, 20.0)["use"] == pytest.approx((40 + 40) / (100 + 40))


def test_what_is_above_its_size_makes_up_for_no_idle_time() -> None:
    of = record(size=4)
    of.changed(0.0, 8, 4, 0)  # shrunk while in use
    of.changed(10.0, 0, 4, 0)
    assert told(of, 20.0)["use"] == 0.5


def test_a_moment_counts_for_the_peak_though_it_has_no_length() -> None:
    of = record()
    of.changed(5.0, 7, 10, 0)
    of.changed(5.0, 0, 10, 0)
    assert (peak(of, 10.0), told(of, 10.0)["use"]) == (7, 0.0)


def test_peaks_are_kept_by_the_hour_and_what_goes_on_counts_in_each() -> None:
    of = record()
    of.changed(0.5 * HOUR, 6, 10, 0)
    of.changed(2.5 * HOUR, 1, 10, 0)
    assert told(of, 3.5 * HOUR)["peak_by_hour"] == [6, 6, 6, 1]


def test_only_the_last_week_is_looked_at() -> None:
    of = record()
    of.changed(0.0, 9, 10, 0)
    of.changed(HOUR - 1, 2, 10, 0)
    week = 168 * HOUR
    assert peak(of, week) == 9
    assert peak(of, week + 1) == 2
    assert len(told(of, 3 * week)["peak_by_hour"]) == 168


def test_years_of_silence_take_no_longer_than_a_week_and_cost_what_they_cost() -> None:
    of = record(hourly_usd=1)
    of.changed(0.0, 5, 10, 0)
    now = 200_000 * HOUR
    before = sys.getallocatedblocks()
    status = told(of, now)
    assert status["idle_usd"] == Decimal(100_000)
    assert len(status["peak_by_hour"]) == 168
    assert status["use"] == 0.5
    del status
    gc.collect()
    assert sys.getallocatedblocks() - before < 5_000


@given(
    st.lists(
        st.tuples(st.integers(0, 9000), st.integers(0, 12), st.integers(1, 12), st.integers(0, 3)),
        max_size=60,
    )
)
def test_sums_are_those_of_a_plain_log(steps: list[tuple[int, int, int, int]]) -> None:
    """Compared with an integral taken second by second's worth of constant stretches; at most 150 hours."""
    of, log, now = record(size=5, hourly_usd="2.5"), [(0, 0, 5, 0)], 0
    for gap, in_use, size, waiting in steps:
        now += gap
        of.changed(float(now), in_use, size, waiting)
        log.append((now, in_use, size, waiting))
    end = now + 100
    log.append((end, 0, 1, 0))
    used = places = crowded = 0
    for (begun, in_use, size, waiting), (ended, *_) in pairwise(log):
        used += (ended - begun) * min(in_use, size)
        places += (ended - begun) * size
        crowded += (ended - begun) * (waiting > 0 and in_use >= size)
    status = told(of, float(end))
    assert status["mean_in_use"] == pytest.approx(used / end)
    assert status["use"] == pytest.approx(used / places)
    assert status["starved"] == pytest.approx(crowded / end)
    assert float(status["idle_usd"]) == pytest.approx(2.5 * end / 3600 * (1 - used / places), abs=1e-8)
    assert max(status["peak_by_hour"]) == max(in_use for _, in_use, _, _ in log)


def test_a_clock_read_late_adds_nothing_and_breaks_nothing() -> None:
    of = record()
    of.changed(100.0, 10, 10, 0)
    of.changed(99.9, 5, 10, 0)  # a thread that read its clock first and came second
    of.changed(200.0, 0, 10, 0)
    assert told(of, 200.0)["mean_in_use"] == pytest.approx(2.5)
    assert peak(of, 199.0) == 10


def test_asking_changes_nothing() -> None:
    asked, left_alone = record(), record()
    for step in range(1, 300):
        for of in (asked, left_alone):
            of.changed(step * 100.0, step % 11, 10, step % 3)
        told(asked, step * 100.0 + 50)
        asked.remarks(step * 100.0 + 60)
    first, second = told(asked, 30_000.0), told(left_alone, 30_000.0)
    assert first["use"] == pytest.approx(second["use"])
    assert first["starved"] == pytest.approx(second["starved"])
    assert first["peak_by_hour"] == second["peak_by_hour"]


def test_nothing_has_happened_yet() -> None:
    status = told(record(hourly_usd=3), 0.0)
    assert (status["use"], status["peak_by_hour"], status["starved"]) == (None, [0], 0.0)
    assert status["idle_usd"] == 0


def test_a_pool_without_bounds_has_no_share_of_itself() -> None:
    of = record(size=math.inf, hourly_usd=3)
    of.changed(0.0, 5, math.inf, 2)
    status = told(of, 3 * DAY)
    assert (status["use"], status["mean_in_use"], status["starved"]) == (None, 5.0, 0.0)
    assert status["idle_usd"] == 0
    assert of.remarks(3 * DAY) == []


def test_threads_that_tell_it_at_once_are_counted_once() -> None:
    clock = FakeClock()
    of = PoolRecord(clock=clock, size=4)

    def work() -> None:
        for _ in range(2000):
            clock.advance(0.01)
            of.changed(clock(), 2, 4, 0)
            of.waited(clock(), 1.0)

    of.changed(0.0, 2, 4, 0)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    status = told(of, clock())
    assert (status["use"], status["mean_in_use"]) == (pytest.approx(0.5), pytest.approx(2.0))
    assert (status["waits"]["count"], sum(status["waits_by_hour"])) == (8000, 8000)


def test_a_forked_child_does_not_wait_for_the_parent_s_lock() -> None:
    of = record()
    thread = threading.Thread(target=of._lock.acquire)
    thread.start()
    thread.join()
    of.renew()
    assert told(of, 1.0)["watched_s"] == 1


# -- waits -----------------------------------------------------------------------------


def test_waits_are_counted_with_mean_longest_and_recent() -> None:
    of = record()
    for second, wait_s in enumerate((1.0, 2.0, 9.0)):
        of.waited(float(second), wait_s)
    waits = told(of, 10.0)["waits"]
    assert (waits["count"], waits["mean_s"], waits["max_s"]) == (3, 4.0, 9.0)
    for second in range(200):
        of.waited(10.0 + second, 0.5)
    assert told(of, 300.0)["waits"]["recent_s"] == pytest.approx(0.5, abs=1e-6)


def test_starving_is_waiting_while_all_places_are_in_use() -> None:
    of = record(size=2)
    of.changed(0.0, 2, 2, 1)
    of.changed(10.0, 1, 2, 1)  # what it waits for is something else
    of.changed(20.0, 2, 2, 0)
    assert told(of, 40.0)["starved"] == 0.25


def test_a_wait_that_ends_ends_no_starving() -> None:
    of = record(size=1)
    of.changed(0.0, 1, 1, 2)
    of.waited(5.0, 5.0)
    of.refused(6.0)
    assert told(of, 10.0)["starved"] == 1.0


def test_refusals_are_counted_by_the_hour() -> None:
    of = record()
    for hour in (0.1, 0.2, 2.5):
        of.refused(hour * HOUR)
    status = told(of, 3.5 * HOUR)
    assert status["refused_by_hour"] == [2, 0, 1, 0]


# -- idle cost ----------------------------------------------------------------------------


def test_idle_places_cost_their_share_of_the_hourly_price() -> None:
    of = record(size=4, hourly_usd="12.40")
    of.changed(0.0, 1, 4, 0)
    assert told(of, HOUR)["idle_usd"] == Decimal("9.30")
    assert told(of, HOUR)["hourly_usd"] == Decimal("12.40")


def test_without_a_price_nothing_is_said_of_cost() -> None:
    of = record()
    assert told(of, HOUR)["idle_usd"] is None
    assert not any("cost" in remark for remark in of.remarks(10 * DAY))


@pytest.mark.parametrize("price", [-1, "much", float("nan"), True, None.__class__])
def test_a_price_is_dollars(price: Any) -> None:
    with pytest.raises(ConfigError, match="dollars an hour"):
        record(hourly_usd=price)


# -- remarks -----------------------------------------------------------------------------


def test_nothing_is_said_of_less_than_a_day() -> None:
    of = record(hourly_usd=5)
    of.changed(0.0, 10, 10, 50)
    assert of.remarks(DAY - 1) == []
    assert of.remarks(DAY) != []


def test_it_is_watched_from_its_beginning_on() -> None:
    of = PoolRecord(clock=FakeClock(100 * DAY), size=10, hourly_usd=0)
    assert of.remarks(101 * DAY - 1) == []
    assert of.remarks(101 * DAY) == ["never used in 24 hours"]
    assert told(of, 101 * DAY)["watched_s"] == DAY


@pytest.mark.parametrize(("days", "span"), [(1, "24 hours"), (3, "3 days"), (7, "7 days"), (30, "7 days")])
def test_a_pool_that_nobody_uses_is_named(days: int, span: str) -> None:
    assert record().remarks(days * DAY) == [f"never used in {span}"]


def test_a_pool_far_too_large_is_named_with_what_would_do() -> None:
    of = record(size=32)
    now = daily(of, 8, 9, size=32)
    assert of.remarks(now) == ["never exceeded 30 % in 7 days (peak 9 of 32): max_concurrency=10 would do"]


def test_one_busy_hour_in_the_week_is_enough_for_it_to_be_needed() -> None:
    of = record(size=32)
    daily(of, 2, 9, size=32)
    of.changed(2 * DAY, 20, 32, 0)
    of.changed(2 * DAY + 60, 0, 32, 0)
    now = daily(of, 5, 9, size=32, first=3)
    assert of.remarks(now) == []
    now = daily(of, 3, 9, size=32, first=8)  # and then that hour is more than a week ago
    assert len(of.remarks(now)) == 1


def test_nights_with_a_smaller_size_are_judged_by_it() -> None:
    of = record(size=32)
    for day in range(7):
        of.changed(day * DAY, 7, 8, 0)
        of.changed(day * DAY + 8 * HOUR, 7, 32, 0)
    assert of.remarks(7 * DAY) == []


def test_a_pool_that_calls_wait_for_is_named() -> None:
    of = record()
    now = daily(of, 1, 10)
    for hour in range(24, 48):
        of.changed(hour * HOUR, 10, 10, 3 if hour % 2 else 0)
        of.changed(hour * HOUR + 600, 0, 10, 0)
    of.waited(now + DAY, 12.5)
    assert of.remarks(now + DAY) == [
        "calls waited in 12 of the last 24 hours while all places were in use (longest wait 12.5 s): "
        "10 are too few"
    ]


@pytest.mark.parametrize(("crowded", "named"), [(5, 0), (6, 1)])
def test_it_takes_a_quarter_of_the_last_hours(crowded: int, named: int) -> None:
    of = record()
    of.changed(0.0, 10, 10, 0)
    for hour in range(24, 24 + crowded):
        of.changed(hour * HOUR, 10, 10, 3)
        of.changed(hour * HOUR + 60, 10, 10, 0)
    assert len(of.remarks(2 * DAY)) == named


def test_a_short_crowd_now_and_then_is_no_fault() -> None:
    of = record()
    for hour in range(48):
        of.changed(hour * HOUR, 10, 10, 3)
        of.changed(hour * HOUR + 20, 0, 10, 0)
    assert of.remarks(2 * DAY) == []


def test_idle_cost_is_named() -> None:
    of = record(hourly_usd=2)
    now = daily(of, 3, 10)
    assert of.remarks(now) == ["idle places have cost $72.00 in 3 days"]


def test_a_pool_in_full_use_has_no_remarks() -> None:
    of = record(hourly_usd=2)
    of.changed(0.0, 10, 10, 0)
    assert of.remarks(7 * DAY) == []
