"""Forecasts and paces: plain arithmetic on series handed in."""

from __future__ import annotations

import decimal
import math
import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm.cost.forecast import end_of_month, forecast, pace
from tierllm.errors import ConfigError

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
TODAY = NOON.date()


def days(*amounts: int | str, until: date = TODAY) -> dict[date, Decimal]:
    """The days before ``until``, the last one just before it."""
    return {until - timedelta(days=len(amounts) - n): Decimal(usd) for n, usd in enumerate(amounts)}


def test_steady_spending_goes_on():
    made = forecast(days(*[10] * 30) | {TODAY: Decimal(5)}, now=NOON)
    assert made.spent == 19 * 10 + 5
    assert made.expected == made.low == made.high == 195 + 5 + 10 * 10
    assert (made.method, made.whole_days, made.confident) == ("weekday", 30, True)
    assert (made.since, made.until) == (date(2026, 11, 1), date(2026, 12, 1))
    assert [day for day, _ in made.days] == [date(2026, 11, 20 + n) for n in range(11)]
    assert made.days[-1][1] == made.expected


def test_weekends_are_told_from_weekdays():
    amounts = {
        day: Decimal(0 if day.weekday() >= 5 else 10)
        for day in (TODAY - timedelta(days=n) for n in range(1, 29))
    }
    made = forecast(amounts, now=NOON)  # a Friday; 4 of the 10 days to come are of weekends
    assert made.method == "weekday"
    assert made.expected == made.spent + 5 + 6 * 10
    assert made.low == made.high == made.expected


def test_less_than_two_weeks_are_judged_by_the_last_seven_days():
    made = forecast(days(99, 10, 10, 10, 10, 10, 10, 10), now=NOON)
    assert (made.method, made.confident, made.whole_days) == ("recent", True, 8)
    assert made.expected == made.spent + Decimal("10.5") * 10


def test_a_single_day_is_a_wide_guess_and_says_so():
    made = forecast(days(10), now=NOON)
    assert (made.method, made.confident) == ("recent", False)
    assert made.expected == 10 + 105
    assert made.low == made.spent
    assert made.high > 2 * made.expected


def test_without_a_whole_day_nothing_is_expected():
    for amounts in ({}, {TODAY: Decimal(3)}, {TODAY + timedelta(days=1): Decimal(3)}):
        made = forecast(amounts, now=NOON)
        assert (made.expected, made.low, made.high) == (None, None, None)
        assert (made.method, made.confident, made.days) == ("none", False, ())
        assert made.falls_on(Decimal(4)) is None


def test_days_without_spending_count():
    amounts = {TODAY - timedelta(days=14): Decimal(70)}
    made = forecast(amounts, now=NOON)
    assert made.whole_days == 14
    assert made.expected == pytest.approx(
        made.spent + 35 * Decimal("1.5")
    )  # Fridays: this one's half, and one more


def test_a_period_that_is_over_is_what_it_was():
    made = forecast(days(*[1] * 40), now=NOON, since=date(2026, 10, 20), until=date(2026, 11, 1))
    assert made.expected == made.low == made.high == made.spent == 12
    assert made.confident


def test_the_day_a_limit_falls():
    made = forecast(days(*[10] * 30), now=NOON)
    assert made.spent == 190
    assert made.falls_on(Decimal(150)) == date(2026, 11, 20)
    assert made.falls_on(Decimal(194)) == date(2026, 11, 20)
    assert made.falls_on(Decimal(196)) == date(2026, 11, 21)
    assert made.falls_on(Decimal(295)) == date(2026, 11, 30)
    assert made.falls_on(Decimal(296)) is None


def test_no_spending_is_forecast_as_none():
    made = forecast(days(*[0] * 30), now=NOON)
    assert (made.spent, made.expected, made.low, made.high) == (0, 0, 0, 0)
    assert made.falls_on(Decimal(1)) is None


def test_four_times_out_of_five_it_is_between_low_and_high():
    rng = random.Random(11)
    within = 0
    rounds = 1_000
    for _ in range(rounds):
        past = {TODAY - timedelta(days=n): Decimal(max(0, round(rng.gauss(100, 20)))) for n in range(1, 29)}
        made = forecast(past, now=NOON.replace(hour=0))
        came = made.spent + sum(Decimal(max(0, round(rng.gauss(100, 20)))) for _ in range(11))
        assert made.low is not None
        assert made.high is not None
        within += made.low <= came <= made.high
    assert 0.76 < within / rounds < 0.88


def test_days_of_23_and_25_hours():
    berlin = ZoneInfo("Europe/Berlin")
    for day, hours in ((date(2026, 3, 29), 23), (date(2026, 10, 25), 25)):
        now = datetime(day.year, day.month, day.day, 12, tzinfo=berlin)
        made = forecast(days(*[hours] * 28, until=day), now=now)
        assert made.days[0][1] - made.spent == pytest.approx(Decimal(12))


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        (date(2026, 11, 30), date(2026, 12, 1)),
        (date(2026, 12, 1), date(2027, 1, 1)),
        (date(2028, 2, 29), date(2028, 3, 1)),
    ],
    ids=str,
)
def test_the_end_of_a_month(day, expected):
    assert end_of_month(day) == expected


def test_a_time_without_a_zone_is_an_error():
    with pytest.raises(ConfigError, match="time zone"):
        forecast({}, now=datetime(2026, 11, 20))


@given(
    amounts=st.dictionaries(
        st.dates(date(2026, 8, 1), date(2026, 12, 31)), st.decimals(-100, 10_000, places=9), max_size=60
    ),
    now=st.datetimes(datetime(2026, 9, 1), datetime(2026, 12, 30), timezones=st.just(UTC)),
)
def test_what_is_expected_is_never_less_than_what_was_spent(amounts, now):
    made = forecast(amounts, now=now)
    if made.expected is None:
        assert made.whole_days == 0
        return
    assert made.spent <= made.low <= made.expected <= made.high
    totals = [total for _, total in made.days]
    assert totals == sorted(totals)
    assert made.days[-1][0] == made.until - timedelta(days=1)


# -- pace ----------------------------------------------------------------------------


def test_at_this_pace_the_limit_falls():
    made = pace(used=Decimal(30), limit=Decimal(40), began_at=0.0, now=300.0, resets_at=1_000.0)
    assert (made.falls_at, made.ends_at_amount, made.confident) == (400.0, 100, True)
    assert made.per_day == Decimal("8640")


def test_a_limit_that_outlasts_its_window_does_not_fall():
    made = pace(used=Decimal(30), limit=Decimal(100), began_at=0.0, now=300.0, resets_at=1_000.0)
    assert made.falls_at is None
    assert pace(used=Decimal(30), limit=Decimal(101), began_at=0.0, now=300.0).falls_at == 1_010.0


def test_a_limit_that_is_reached_falls_now():
    assert pace(used=Decimal(4), limit=Decimal(4), began_at=0.0, now=3.0, resets_at=9.0).falls_at == 3.0
    assert pace(used=Decimal(0), limit=Decimal(0), began_at=0.0, now=3.0, resets_at=9.0).falls_at == 3.0


def test_nothing_falls_at_a_pace_of_zero():
    for now in (0.0, 5.0, -5.0):
        made = pace(used=Decimal(0), limit=Decimal(4), began_at=0.0, now=now, resets_at=9.0)
        assert (made.falls_at, made.per_day, made.ends_at_amount) == (None, 0, 0)


def test_early_in_a_window_there_is_no_telling():
    early = pace(used=Decimal(3), limit=Decimal(4), began_at=0.0, now=4.0, resets_at=100.0)
    late = pace(used=Decimal(3), limit=Decimal(4), began_at=0.0, now=5.0, resets_at=100.0)
    assert (early.confident, late.confident) == (False, True)


@given(
    used=st.decimals(0, 1_000, places=6),
    limit=st.decimals(0, 1_000, places=6),
    now=st.floats(0, 1_000),
    resets_at=st.none() | st.floats(1, 2_000),
)
def test_a_pace_never_falls_in_the_past_nor_after_the_reset(used, limit, now, resets_at):
    made = pace(used=used, limit=limit, began_at=0.0, now=now, resets_at=resets_at)
    assert made.per_day >= 0
    if made.falls_at is not None:
        assert made.falls_at >= now
        assert math.isfinite(made.falls_at)
        assert resets_at is None or made.falls_at < resets_at or used >= limit


def test_a_period_to_come_has_its_own_days_only():
    noon = datetime(2026, 11, 20, 12, tzinfo=UTC)
    daily = {noon.date() - timedelta(days=n): Decimal(10) for n in range(1, 31)}
    made = forecast(daily, now=noon, since=date(2026, 12, 1), until=date(2027, 1, 1))
    assert (made.spent, made.expected) == (0, 310)
    assert [made.days[0][0], made.days[-1][0]] == [date(2026, 12, 1), date(2026, 12, 31)]
    assert made.falls_on(Decimal(15)) == date(2026, 12, 2)
    assert forecast(daily, now=noon, since=date(2026, 12, 1)) == made
    with pytest.raises(ConfigError, match="ends after it begins"):
        forecast(daily, now=noon, since=date(2026, 12, 1), until=date(2026, 12, 1))


@pytest.mark.parametrize("precision", [6, 28])
@pytest.mark.parametrize("usd", ["123.456789012345", "1E+20", "1E+300"])
def test_any_amount_will_do_in_any_decimal_context(usd, precision):
    noon = datetime(2026, 11, 20, 12, tzinfo=UTC)
    daily = {noon.date() - timedelta(days=n): Decimal(usd) for n in range(31)}
    with decimal.localcontext(prec=precision):
        made = forecast(daily, now=noon)
        again = pace(used=Decimal(usd), limit=Decimal(usd) * 3, began_at=0, now=60.0, resets_at=120.0)
    assert made.spent == 20 * Decimal(usd)
    assert again.ends_at_amount == 2 * Decimal(usd)
