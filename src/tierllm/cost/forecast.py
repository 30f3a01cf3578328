"""Where spending is going: the sum at the end of a period, and the time at which a limit falls.

All of it is arithmetic on numbers that are handed in; nothing here looks at a clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from decimal import Context, Decimal, localcontext
from statistics import fmean
from typing import Literal

from ..errors import ConfigError

__all__ = ["Forecast", "Pace", "end_of_month", "forecast", "pace"]

WEEK = 7
WEEKDAYS_FROM = 2 * WEEK
"""With so many whole days, each weekday was seen twice, and a coming one is taken to be like those."""

LOOK_BACK = 8 * WEEK
RECENT = WEEK
CONFIDENT_FROM = WEEK

Z80 = 1.2816
"""80 % of a normal distribution lie within so many standard deviations of its mean."""

NANO = Decimal("1E-9")
EXACT = Context(prec=400)
"""Any float has so many digits at most; an application's own precision is for its own sums."""

EARLY = 0.05
"""Before this share of a window is over, one busy minute would be taken for its pace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Spending up to ``until``. Between ``low`` and ``high`` it will be four times out of five.

    ``spent`` is what was spent since ``since``; ``expected``, ``low`` and ``high`` have that in them, and
    are never below it. ``expected`` is ``None`` where there is no whole day to judge by, and ``confident``
    is False where there is less than a week. ``method``: each coming day is taken to be like the mean of
    its ``"weekday"``, or of the ``"recent"`` days, or there is ``"none"``. ``days`` are those of the period
    still to come, the rest of today first, with the sum expected at the end of each.
    """

    today: date
    since: date
    until: date
    spent: Decimal
    expected: Decimal | None = None
    low: Decimal | None = None
    high: Decimal | None = None
    method: Literal["weekday", "recent", "none"] = "none"
    whole_days: int = 0
    confident: bool = False
    days: tuple[tuple[date, Decimal], ...] = ()

    def falls_on(self, limit_usd: Decimal) -> date | None:
        """The day on which ``limit_usd`` is expected to be reached; ``None``: not in this period."""
        if self.spent >= limit_usd:
            return self.today
        for day, total in self.days:
            if total >= limit_usd:
                return day
        return None


def end_of_month(day: date) -> date:
    """The first day of the next month."""
    return date(day.year + day.month // 12, day.month % 12 + 1, 1)


def forecast(
    daily_usd: Mapping[date, Decimal], *, now: datetime, since: date | None = None, until: date | None = None
) -> Forecast:
    """What will have been spent from ``since`` until ``until`` (not included): by default, this month, or
    to the end of the month of a ``since`` to come.

    ``daily_usd`` is the spending of each day, today's so far included; days that are missing after the
    first one count as 0, those after today are ignored. ``now`` has the time zone that days are meant in.

    Days are forecast by the mean of like weekdays of the last eight weeks, or with less than two weeks by
    the mean of the last seven days: the "mean" and "seasonal" methods of Hyndman and Athanasopoulos,
    Forecasting: Principles and Practice (3rd ed., 5.2). Of h days to come, the sum has the standard
    deviation s·√(h + h²/n): the days' own scatter s, and that of a mean of n days (5.5). The interval is
    the 80 % one of a normal distribution. Raises ``ConfigError`` for a ``now`` without a time zone, and
    for a period that ends before it begins.
    """
    if now.tzinfo is None:
        raise ConfigError(f"now={now!r}: give a datetime with a time zone")
    first = now.date().replace(day=1) if since is None else since
    end = end_of_month(max(first, now.date())) if until is None else until
    if end <= first:
        raise ConfigError(f"since={first}, until={end}: give a period that ends after it begins")
    with localcontext(EXACT):
        return _forecast(daily_usd, now, first, end)


def _forecast(daily_usd: Mapping[date, Decimal], now: datetime, first: date, end: date) -> Forecast:
    today = now.date()
    spent = sum((usd for day, usd in daily_usd.items() if first <= day <= today and day < end), Decimal(0))
    began = min((day for day in daily_usd if day <= today), default=today)
    began = max(began, today - timedelta(days=LOOK_BACK))
    seen = [began + timedelta(days=n) for n in range((today - began).days)]
    values = {day: float(daily_usd.get(day, 0)) for day in seen}
    known = Forecast(today=today, since=first, until=end, spent=spent, whole_days=len(seen))
    if end <= today:  # all of it is over
        return replace(known, expected=spent, low=spent, high=spent, confident=True)
    if not seen:
        return known

    method: Literal["weekday", "recent"]
    if len(seen) >= WEEKDAYS_FROM:
        method = "weekday"
        means = [fmean(values[day] for day in seen if day.weekday() == n) for n in range(WEEK)]
        scatter = _deviation([values[day] - means[day.weekday()] for day in seen], WEEK)
        judged = len(seen)
    else:
        method = "recent"
        recent = seen[-RECENT:]
        level = fmean(values[day] for day in recent)
        means = [level] * WEEK
        # Of one day nothing is known about scatter: as wide as the day itself.
        scatter = _deviation([values[day] - level for day in recent], 1) if len(recent) > 1 else abs(level)
        judged = len(recent)

    left_of_today = _left_of_day(now)
    coming = [(today, left_of_today)]
    coming += [(today + timedelta(days=n), 1.0) for n in range(1, (end - today).days)]
    coming = [(day, share) for day, share in coming if day >= first]
    more = 0.0
    days = []
    for day, share in coming:
        more += max(0.0, means[day.weekday()]) * share
        days.append((day, spent + _usd(more)))
    horizon = math.fsum(share for _, share in coming)
    around = _usd(Z80 * scatter * math.sqrt(horizon + horizon * horizon / judged))
    expected = days[-1][1]
    return replace(
        known,
        expected=expected,
        low=max(spent, expected - around),
        high=expected + around,
        method=method,
        confident=len(seen) >= CONFIDENT_FROM,
        days=tuple(days),
    )


def _deviation(rests: list[float], fitted: int) -> float:
    """Standard deviation of what is left over when ``fitted`` means were taken from the same numbers."""
    freedom = max(1, len(rests) - fitted)
    return math.sqrt(math.fsum(rest * rest for rest in rests) / freedom)


def _left_of_day(now: datetime) -> float:
    """The share of today that is still to come; days are 23 or 25 hours long where clocks are changed."""
    began = datetime.combine(now.date(), time(), now.tzinfo).timestamp()
    ends = datetime.combine(now.date() + timedelta(days=1), time(), now.tzinfo).timestamp()
    return min(1.0, max(0.0, (ends - now.timestamp()) / (ends - began)))


def _usd(amount: float) -> Decimal:
    return Decimal(amount).quantize(NANO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a limit is being used up. Amounts are in the limit's unit, times seconds since 1970.

    ``falls_at``: when the limit will be reached at this pace, if that is before ``resets_at`` (``None``
    there: the limit has no window). ``ends_at_amount``: what will have been used by then. ``confident``
    is False early in a window.
    """

    used: Decimal
    limit: Decimal
    per_day: Decimal
    falls_at: float | None
    ends_at_amount: Decimal | None
    resets_at: float | None
    confident: bool


def pace(
    *, used: Decimal, limit: Decimal, began_at: float, now: float, resets_at: float | None = None
) -> Pace:
    """At the mean pace since ``began_at``, when does ``limit`` fall? Amounts may be dollars, tokens or calls.

    A limit that is reached falls now. Nothing falls at a pace of zero.
    """
    with localcontext(EXACT):
        return _pace(used, limit, began_at, now, resets_at)


def _pace(used: Decimal, limit: Decimal, began_at: float, now: float, resets_at: float | None) -> Pace:
    over_s = max(0.0, now - began_at)
    left = limit - used
    per_s = max(Decimal(0), used) / Decimal(over_s) if over_s else Decimal(0)
    falls_at: float | None = None
    if left <= 0:
        falls_at = now
    elif per_s > 0:
        falls_at = now + float(left / per_s)
        if resets_at is not None and falls_at >= resets_at:
            falls_at = None
    ends_at_amount = None
    if resets_at is not None:
        ends_at_amount = used + per_s * Decimal(max(0.0, resets_at - now))
    whole_s = 86_400.0 if resets_at is None else resets_at - began_at
    return Pace(
        used=used,
        limit=limit,
        per_day=per_s * 86_400,
        falls_at=falls_at,
        ends_at_amount=ends_at_amount,
        resets_at=resets_at,
        confident=whole_s > 0 and over_s >= EARLY * whole_s,
    )
