"""The windows that budgets count over: calendar days, weeks and months, rolling ones, or all time."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import NamedTuple

from ..errors import ConfigError

__all__ = ["Span", "Window"]

SLOTS = 60
"""A rolling window is counted in so many slots; one counts until the whole of it is over."""

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
CALENDAR = ("day", "week", "month")
ROLLING = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
LONGEST_S = 10 * 366 * 86_400.0


class Span(NamedTuple):
    """A window at one moment: its name, and where its counts are kept.

    Slots from ``oldest`` to ``slot`` count. ``begins_at`` and ``resets_at`` are the ends of a calendar
    window, ``None`` otherwise; ``expires_at`` is when nobody needs the counts any more.
    """

    id: str
    slot: int
    oldest: int
    resets_at: float | None
    expires_at: float
    begins_at: float | None = None


class Window:
    """``"day"``, ``"week"`` (from Monday) and ``"month"`` by the calendar of ``tz``; ``"1d"``, ``"12h"``
    or ``"30m"`` rolling; ``"total"`` for ever. Immutable but for a remembered span; thread-safe.

    A day that is 23 or 25 hours long for daylight saving is one day. Raises ``ConfigError``.
    """

    __slots__ = ("_now", "seconds", "spec", "width_s", "zone")

    def __init__(self, spec: str, tz: str = "UTC") -> None:
        self.spec = spec
        self.zone = _zone(tz)
        self.seconds: float | None = None
        self.width_s = 0.0
        self._now: tuple[float, float, Span] | None = None
        if spec in CALENDAR or spec == "total":
            return
        found = ROLLING.fullmatch(spec) if isinstance(spec, str) else None
        seconds = 0.0 if found is None else float(found[1]) * SECONDS[found[2]]
        if not 0 < seconds <= LONGEST_S:
            raise ConfigError(
                f"window={spec!r}: give 'day', 'week', 'month', 'total', or a rolling one such as '1d'"
            )
        self.seconds = seconds
        self.width_s = seconds / SLOTS

    def at(self, now: float) -> Span:
        """The window that holds ``now`` (seconds since 1970)."""
        known = self._now
        if known is not None and known[0] <= now < known[1]:
            return known[2]
        if self.seconds is not None:
            slot = math.floor(now / self.width_s)
            begins, ends = slot * self.width_s, (slot + 1) * self.width_s
            name = f"{self.seconds:.15g}s"  # counts in slots of another width are another account's
            span = Span(name, slot, max(0, slot - SLOTS), None, ends + self.seconds + self.width_s)
        elif self.spec == "total":
            begins, ends = -math.inf, math.inf
            span = Span("", 0, 0, None, 253_402_300_800.0)  # the year 10000
        else:
            name, begins, ends = self._calendar(now)
            span = Span(name, 0, 0, ends, ends, begins)
        self._now = (begins, ends, span)
        return span

    def frees_at(self, span: Span, first_slot: int | None) -> float | None:
        """When room comes back: the window's end, or when its oldest slot is over. ``None``: never."""
        if self.seconds is None:
            return span.resets_at
        return ((span.slot if first_slot is None else first_slot) + 1) * self.width_s + self.seconds

    def _calendar(self, now: float) -> tuple[str, float, float]:
        today = datetime.fromtimestamp(now, self.zone).date()
        if self.spec == "day":
            first, name = today, today.isoformat()
            after = first + timedelta(days=1)
        elif self.spec == "week":
            first = today - timedelta(days=today.weekday())
            year, week, _ = today.isocalendar()
            name, after = f"{year}-W{week:02}", first + timedelta(days=7)
        else:
            first, name = today.replace(day=1), f"{today:%Y-%m}"
            after = (first + timedelta(days=32)).replace(day=1)
        return name, self._midnight(first), self._midnight(after)

    def _midnight(self, day: date) -> float:
        return datetime(day.year, day.month, day.day, tzinfo=self.zone).timestamp()

    def __repr__(self) -> str:
        return f"Window({self.spec!r}, tz={str(self.zone)!r})"


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError, TypeError):
        raise ConfigError(f"tz={name!r}: give the name of a time zone, such as 'Europe/Berlin'") from None
