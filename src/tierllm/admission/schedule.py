"""How large a pool is at which hours: day and night, weekday and weekend."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..cost.windows import Window
from ..errors import ConfigError

__all__ = ["Hours", "Schedule"]

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY = 24 * 60
SPAN = re.compile(r"([a-z]{3})(?:-([a-z]{3}))?")
TIMES = re.compile(r"(\d\d?):(\d\d)-(\d\d?):(\d\d)")
LOOSE = re.compile(r"\s*([,-])\s*")
SUCH_AS = "give hours such as '22:00-06:00', 'mon-fri 08:00-18:00', 'sat-sun' or 'sat,wed 07:30-12:00'"


@dataclass(frozen=True, slots=True, init=False)
class Hours:
    """A time of the week, and the ``size`` that a pool has in it.

    ``when``: days (``"mon-fri"``, ``"sun"``, ``"sat,wed"``), times (``"08:00-18:00"``; to ``"24:00"`` at
    the most), or days and times. Times that run over midnight belong to the day they begin on: ``"fri
    22:00-06:00"`` ends on Saturday morning. The end is not part of it. Raises ``ConfigError``.
    """

    when: str
    size: int
    days: frozenset[int]
    begins: int
    ends: int

    def __init__(self, when: str, *, size: int) -> None:
        if not isinstance(when, str):
            raise ConfigError(f"Hours(when={when!r}): {SUCH_AS}")
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError(
                f"Hours({when!r}, size={size!r}): give a whole number of at least 1; "
                "a schedule closes no pool"
            )
        days, begins, ends = _read(when)
        set_field = object.__setattr__
        set_field(self, "when", when)
        set_field(self, "size", size)
        set_field(self, "days", days)
        set_field(self, "begins", begins)
        set_field(self, "ends", ends)

    def hold_at(self, weekday: int, minute: int) -> bool:
        """Whether they are now: ``weekday`` from Monday, 0, and the minute of the day."""
        if self.begins < self.ends:
            return weekday in self.days and self.begins <= minute < self.ends
        if minute >= self.begins:
            return weekday in self.days
        return minute < self.ends and (weekday - 1) % 7 in self.days


class Schedule:
    """The sizes of a pool by the hours of the week; of those that hold, the first one counts.

    The hours are what the clock on the wall shows in ``tz``, so that a day of 23 or 25 hours has them
    where people expect them: an hour that is skipped in spring does not come, one that is repeated in
    autumn comes twice. At all other times a pool has its usual size.

    Immutable but for a remembered answer; thread-safe. Raises ``ConfigError``.
    """

    __slots__ = ("_known", "_marks", "hours", "zone")

    def __init__(self, hours: Iterable[Hours], *, tz: str = "UTC") -> None:
        if isinstance(hours, str | Hours) or not isinstance(hours, Iterable):
            raise ConfigError("Schedule(hours): give a list, [Hours('22:00-06:00', size=8)]")
        self.hours = tuple(hours)
        if not self.hours or not all(isinstance(each, Hours) for each in self.hours):
            raise ConfigError("Schedule(hours): give a list of Hours, [Hours('22:00-06:00', size=8)]")
        self.zone = Window("total", tz).zone  # as budgets read time zones
        marks = {0, *(each.begins for each in self.hours), *(each.ends % DAY for each in self.hours)}
        self._marks = sorted(marks)
        self._known: tuple[float, float, int | None] | None = None

    def size_at(self, wall_s: float, usual: int) -> int:
        """The size at ``wall_s`` (seconds since 1970); ``usual`` at hours that nothing is said of."""
        known = self._known
        if known is None or not known[0] <= wall_s < known[1]:
            known = self._known = (wall_s, self._ends(wall_s), self._said(wall_s))
        said = known[2]
        return usual if said is None else said

    def changes_at(self, wall_s: float) -> float:
        """Until when the size at ``wall_s`` holds at least; seconds since 1970."""
        self.size_at(wall_s, 1)
        known = self._known
        if known is None or not known[0] <= wall_s < known[1]:  # another thread asked for another time
            return self._ends(wall_s)
        return known[1]

    def largest(self, usual: int) -> int:
        """The largest size that it ever comes to."""
        return max(usual, *(each.size for each in self.hours))

    def _said(self, wall_s: float) -> int | None:
        shown = datetime.fromtimestamp(wall_s, self.zone)
        weekday, minute = shown.weekday(), shown.hour * 60 + shown.minute
        return next((each.size for each in self.hours if each.hold_at(weekday, minute)), None)

    def _ends(self, wall_s: float) -> float:
        """The next moment at which the clock shows a time that something begins or ends at."""
        ends = min(moment for moment in self._moments(wall_s) if moment > wall_s)
        if self._offset(ends - 1e-3) != self._offset(wall_s):
            return self._shifted(wall_s, ends)
        return ends

    def _moments(self, wall_s: float) -> Iterator[float]:
        today = datetime.fromtimestamp(wall_s, self.zone).date()
        for ahead in (0, 1, 2):
            day = today + timedelta(days=ahead)
            for mark in self._marks:
                for fold in (0, 1):  # a time that the clock shows twice is two moments
                    at = datetime(day.year, day.month, day.day, mark // 60, mark % 60, fold=fold)
                    yield at.replace(tzinfo=self.zone).timestamp()

    def _shifted(self, before: float, after: float) -> float:
        """When the clocks are changed between the two, to the second; the earlier side where in doubt."""
        at_first, low, high = self._offset(before), int(before), int(after) + 1
        while high - low > 1:
            middle = (low + high) // 2
            if self._offset(max(before, middle)) == at_first:
                low = middle
            else:
                high = middle
        return float(high)

    def _offset(self, wall_s: float) -> timedelta | None:
        return datetime.fromtimestamp(wall_s, self.zone).utcoffset()

    def __repr__(self) -> str:
        said = ", ".join(f"{each.when!r}: {each.size}" for each in self.hours)
        return f"<Schedule {said}; tz={str(self.zone)!r}>"


def _read(when: str) -> tuple[frozenset[int], int, int]:
    """The days it begins on, and the minutes from when to when."""
    text = LOOSE.sub(r"\1", when.strip().lower())
    spoken, _, rest = text.partition(" ") if text[:1].isalpha() else ("", "", text)
    days = _days(spoken, when) if spoken else frozenset(range(7))
    rest = rest.strip()
    if not rest and spoken:
        return days, 0, DAY
    found = TIMES.fullmatch(rest)
    if found is None:
        raise ConfigError(f"Hours({when!r}): these are no hours; {SUCH_AS}")
    begins, ends = (_minute(found[h], found[m], when) for h, m in ((1, 2), (3, 4)))
    if begins == DAY:
        raise ConfigError(f"Hours({when!r}): the day begins at '00:00'; write that")
    if begins == ends:
        raise ConfigError(f"Hours({when!r}): it ends as it begins; leave the times out for whole days")
    return days, begins, ends


def _days(spoken: str, when: str) -> frozenset[int]:
    days: set[int] = set()
    for part in spoken.split(","):
        found = SPAN.fullmatch(part)
        names = [name for name in found.groups() if name] if found else []
        wrong = next((name for name in part.split("-") if name not in DAYS), None if names else part)
        if wrong is not None:
            raise ConfigError(f"Hours({when!r}): {wrong!r} is no day; days are {', '.join(DAYS)}")
        first, last = DAYS.index(names[0]), DAYS.index(names[-1])
        days.update((first + ahead) % 7 for ahead in range((last - first) % 7 + 1))
    return frozenset(days)


def _minute(hour: str, minute: str, when: str) -> int:
    total = int(hour) * 60 + int(minute)
    if total > DAY or int(minute) > 59:
        raise ConfigError(f"Hours({when!r}): there is no {hour}:{minute}; times are 00:00 to 24:00")
    return total
