"""What a pool did: how much of it was used, what idled, who waited."""

from __future__ import annotations

import math
import threading
from collections import deque
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from ..cost.amounts import EXACT, Money
from ..errors import ConfigError
from ..pipeline.fork import renew_after_fork

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from .schedule import Schedule

__all__ = ["PoolRecord", "hourly"]

HOUR_S = 3600.0
KEPT = 168
"""Hours that are looked back on: a week."""

RECENT = 24
TOLD_AFTER_S = 24 * HOUR_S
"""A pool is judged by a day at least: nights and mornings differ."""

QUIET = 0.3
"""A pool that was never fuller than that is larger than it need be."""

SPARE = 1.1
MOST_CHANGES = 10_000
"""Changes of a schedule that are looked at: several a day for years."""

BUSY = 0.01
"""An hour counts as crowded from this share of it on in which calls waited for a full pool."""

CROWDED = 0.25
RECENTLY = 0.1
"""The weight of the latest wait in the moving mean."""


class _Hour(NamedTuple):
    """One hour of a pool: ``used_s`` and ``size_s`` are seconds of one place each.

    ``size`` is the smallest it had. What it was in use beyond its size makes up for no idle time, and is
    not in ``used_s``.
    """

    peak: int
    size: float
    lasted_s: float
    used_s: float
    size_s: float
    crowded_s: float
    waits: int
    refused: int


class PoolRecord:
    """What one pool did, in the last 168 hours and since it began, in bounded memory. Thread-safe.

    Its owner tells it of each change. ``now`` is always ``clock``'s, monotonic or virtual. ``size`` is what
    it begins with, ``math.inf`` for a pool without bounds, of which no share is in use or idle.
    ``hourly_usd`` is what the whole pool costs an hour, used or not (reserved capacity). Raises
    ``ConfigError``.
    """

    __slots__ = (
        "__weakref__",
        "_began_at",
        "_crowded_s",
        "_ends_at",
        "_full",
        "_hours",
        "_in_use",
        "_least",
        "_lock",
        "_past",
        "_peak",
        "_places",
        "_refused",
        "_since",
        "_size",
        "_size_s",
        "_sized_at",
        "_used_s",
        "_waits",
        "hourly_usd",
        "longest_wait_s",
        "mean_wait_s",
        "recent_wait_s",
        "waits_total",
    )

    def __init__(self, *, clock: Clock, size: float = math.inf, hourly_usd: Money | None = None) -> None:
        self.hourly_usd = None if hourly_usd is None else hourly(hourly_usd)
        self._hours: deque[_Hour] = deque(maxlen=KEPT)
        self._past = (0.0, 0.0)  # used_s and size_s of the hours that are over, all of them
        self._in_use = 0.0
        self._full = 0.0
        self._size = size
        self._places = 0 if size == math.inf else int(size)
        self.waits_total = 0
        self.mean_wait_s = self.longest_wait_s = self.recent_wait_s = 0.0
        self._lock = threading.RLock()  # reentrant: garbage collection may end a flow right here
        self._began_at = clock()
        self._begin(self._began_at)
        renew_after_fork(self)

    def _begin(self, now: float) -> None:
        """A new hour."""
        self._since = self._sized_at = now
        self._ends_at = now + HOUR_S
        self._peak, self._least = int(self._in_use), self._size
        self._used_s = self._size_s = self._crowded_s = 0.0
        self._waits = self._refused = 0

    # -- what it is told -----------------------------------------------------------

    def changed(self, now: float, in_use: float, size: float, waiting: int) -> None:
        """From ``now`` on so many places are in use, of so many, and so many calls wait."""
        with self._lock:
            self._go_on(now)
            if size != self._size:
                self._resize(now, size)
            self._peak = max(self._peak, int(in_use))
            self._in_use = in_use
            self._full = 1.0 if waiting > 0 and in_use >= size else 0.0

    def up_to(
        self,
        now: float,
        *,
        used_s: float,
        peak: int,
        short_s: float,
        size: float,
        schedule: tuple[Schedule, float, int] | None = None,
    ) -> None:
        """What has been since the last word: seconds of places in use, the most at once, and seconds in
        which calls waited for one. ``schedule`` has changed the size meanwhile, perhaps: with the wall
        clock's time now, and the usual size. For owners that do not tell of each change.
        """
        with self._lock:
            span_s = now - self._since
            if span_s > 0:
                self._in_use, self._full = used_s / span_s, min(1.0, short_s / span_s)
            else:
                self._used_s += used_s
            if schedule is not None:
                self._follow(now, *schedule)
            self._go_on(now)
            if size != self._size:
                self._resize(now, size)
            self._peak = max(self._peak, peak)
            self._in_use = self._full = 0.0

    def _follow(self, now: float, schedule: Schedule, wall: float, usual: int) -> None:
        at = schedule.changes_at(wall - (now - self._since))
        for _ in range(MOST_CHANGES):
            moment = now - (wall - at)
            if moment >= now:
                return
            self._go_on(moment)
            self._resize(moment, schedule.size_at(at, usual))
            at = schedule.changes_at(at)

    def waited(self, now: float, wait_s: float) -> None:
        """A call's wait is over: it was served, or gave up."""
        with self._lock:
            self._go_on(now)
            self._waits += 1
            self.waits_total += 1
            self.mean_wait_s += (wait_s - self.mean_wait_s) / self.waits_total
            self.longest_wait_s = max(self.longest_wait_s, wait_s)
            weight = max(RECENTLY, 1 / self.waits_total)
            self.recent_wait_s += (wait_s - self.recent_wait_s) * weight

    def refused(self, now: float) -> None:
        """A call was turned away."""
        with self._lock:
            self._go_on(now)
            self._refused += 1

    def renew(self) -> None:
        """After a fork: the lock may belong to the parent."""
        self._lock = threading.RLock()

    def _go_on(self, now: float) -> None:
        """Count what has been the case up to ``now``. A thread may have read the clock too early."""
        if now >= self._ends_at:
            self._turn(now)
        held_s = now - self._since
        if held_s > 0:
            self._since = now
            self._used_s += held_s * (min(self._in_use, self._places) if self._places else self._in_use)
            self._crowded_s += held_s * self._full

    def _resize(self, now: float, size: float) -> None:
        if now > self._sized_at:
            self._size_s += (now - self._sized_at) * self._places
            self._sized_at = now
        self._size = size
        self._places = 0 if size == math.inf else int(size)
        self._least = min(self._least, size)

    def _turn(self, now: float) -> None:
        """The hour is over, and perhaps others in which nothing changed."""
        ends_at = self._ends_at
        while ends_at <= now:
            skipped = math.floor((now - ends_at) / HOUR_S) - KEPT
            self._ends_at = math.inf
            self._go_on(ends_at)
            self._ends_at = ends_at
            hour = self._present(ends_at)
            self._hours.append(hour)
            used_s, size_s = self._past
            self._past = used_s + hour.used_s, size_s + hour.size_s
            self._begin(ends_at)
            if skipped > 0:  # so long ago that only the sums are left of it
                used_s, size_s = self._past
                away_s = skipped * HOUR_S
                self._past = used_s + away_s * self._in_use, size_s + away_s * self._places
                self._begin(ends_at + away_s)
            ends_at = self._ends_at

    def _present(self, now: float) -> _Hour:
        """The present hour up to ``now``, to which all but the size has been counted."""
        return _Hour(
            self._peak,
            self._least,
            now - (self._ends_at - HOUR_S),
            self._used_s,
            self._size_s + (now - self._sized_at) * self._places,
            self._crowded_s,
            self._waits,
            self._refused,
        )

    # -- what it tells ---------------------------------------------------------------

    def status(self, now: float) -> dict[str, Any]:
        """Plain data. Shares are 0…1, of the last 168 hours, and lists by the hour end with the present one.

        ``use`` is the mean share of its places in use, ``None`` without bounds; ``starved`` the share of the
        time in which calls waited while it was full.
        """
        with self._lock:
            hours = self._up_to(now)
            used_s, size_s = sum(hour.used_s for hour in hours), sum(hour.size_s for hour in hours)
            lasted_s = sum(hour.lasted_s for hour in hours)
            return {
                "watched_s": max(0.0, now - self._began_at),
                "use": used_s / size_s if size_s else None,
                "mean_in_use": used_s / lasted_s if lasted_s else 0.0,
                "peak_by_hour": [hour.peak for hour in hours],
                "starved": sum(hour.crowded_s for hour in hours) / lasted_s if lasted_s else 0.0,
                "waits": {
                    "count": self.waits_total,
                    "mean_s": self.mean_wait_s,
                    "max_s": self.longest_wait_s,
                    "recent_s": self.recent_wait_s,
                },
                "waits_by_hour": [hour.waits for hour in hours],
                "refused_by_hour": [hour.refused for hour in hours],
                "hourly_usd": self.hourly_usd,
                "idle_usd": self._idle_usd(),
            }

    def remarks(self, now: float) -> list[str]:
        """What looks wrong with its size, in words; nothing before it has been watched for a day."""
        watched_s = now - self._began_at
        if watched_s < TOLD_AFTER_S:
            return []
        with self._lock:
            hours = self._up_to(now)
            size, longest_s, idle_usd = self._size, self.longest_wait_s, self._idle_usd()
        remarks, span, peak = [], _days(min(watched_s, KEPT * HOUR_S)), max(hour.peak for hour in hours)
        if not peak:
            remarks.append(f"never used in {span}")
        elif all(hour.peak <= QUIET * hour.size for hour in hours) and 1 < size < math.inf:
            remarks.append(
                f"never exceeded {QUIET * 100:.0f} % in {span} (peak {peak} of {size}): "
                f"max_concurrency={math.ceil(peak * SPARE)} would do"
            )
        recent = hours[-RECENT:]
        crowded = sum(hour.crowded_s > BUSY * hour.lasted_s for hour in recent)
        if crowded >= CROWDED * len(recent):
            remarks.append(
                f"calls waited in {crowded} of the last {len(recent)} hours while all places were in use "
                f"(longest wait {longest_s:.3g} s): {size:g} are too few"
            )
        if idle_usd:
            remarks.append(f"idle places have cost ${idle_usd:.2f} in {_days(watched_s)}")
        return remarks

    def _up_to(self, now: float) -> list[_Hour]:
        self._go_on(now)
        latest = self._present(self._since)
        if self._hours and latest.lasted_s <= 0:
            return list(self._hours)
        return [*self._hours, latest][-KEPT:]

    def _idle_usd(self) -> Decimal | None:
        """The idle share of all that there was of the pool, at its price."""
        if self.hourly_usd is None:
            return None
        latest = self._present(self._since)
        used_s, size_s = self._past[0] + latest.used_s, self._past[1] + latest.size_s
        if size_s <= 0:
            return Decimal(0)
        idle_hours = (self._since - self._began_at) / HOUR_S * (1 - used_s / size_s)
        cost_usd = EXACT.multiply(self.hourly_usd, Decimal(str(round(idle_hours, 9))))
        return cost_usd.quantize(Decimal("1e-9"), context=EXACT)


def _days(seconds: float) -> str:
    hours = seconds / HOUR_S
    return f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.0f} days"


def hourly(hourly_usd: Money) -> Decimal:
    """Dollars an hour, exactly. Raises ``ConfigError``."""
    exact = Decimal("NaN")
    if isinstance(hourly_usd, Decimal | int | float | str) and not isinstance(hourly_usd, bool):
        try:
            exact = Decimal(str(hourly_usd))
        except ArithmeticError:
            pass  # told below
    if not exact.is_finite() or exact < 0:
        raise ConfigError(f"hourly_usd={hourly_usd!r}: give dollars an hour, 0 or more")
    return exact
