"""How loaded a tier is, and how loaded it will be in a little while."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ConfigError
from ..pipeline.fork import renew_after_fork

if TYPE_CHECKING:
    from ..pipeline.clock import Clock

__all__ = ["Load", "LoadMeter", "overall"]

SETTLE_S = 10.0
"""Over so long a time arrivals and use are averaged: a burst of a second is no overload."""

HELD_OVER_S = 60.0
"""And over so long how long calls take."""

MOST = 1000.0
"""A level above this says nothing more; a limit of next to nothing would make it endless."""

WARM_S = 3 * SETTLE_S
"""Until the averages have settled, tomorrow is as today."""

IDLE_S = SETTLE_S
"""Where nobody was there for so long, they begin anew: their rise from nothing is no trend."""

LEVEL_WEIGHT, TREND_WEIGHT, DAMPING = 0.3, 0.08, 0.98
"""Holt's two constants, and what is left of the trend with every second, for samples a second apart."""


STEADY = 5
"""A rise is forecast once so many samples in a row agree on it: load wavers."""


class Load(NamedTuple):
    """A reading. ``level``: offered work ÷ capacity, 1.0 is as much as can be done; above it queues grow.

    ``forecast`` is the level some seconds ahead. ``queue_delay_s`` is how long the calls of the last ten
    seconds or so had waited.
    """

    level: float
    forecast: float
    arrivals_per_s: float
    in_flight: int
    waiting: int
    queue_delay_s: float
    refused_per_s: float


def overall(loads: Sequence[Load]) -> Load:
    """Several tiers as one: as busy as the busiest of them, with the sums of what comes and waits."""
    return Load(
        max(load.level for load in loads),
        max(load.forecast for load in loads),
        sum(load.arrivals_per_s for load in loads),
        sum(load.in_flight for load in loads),
        sum(load.waiting for load in loads),
        max(load.queue_delay_s for load in loads),
        sum(load.refused_per_s for load in loads),
    )


class LoadMeter:
    """Measures the load of whatever has room for so many calls at once, or lets so many through a second.

    Its owner tells it of every call that ``arrived`` (those refused afterwards too), was ``served`` or
    ``refused``, and lets it ``measure`` from time to time: ``due_at`` says from when on that takes
    anything in. Thread-safe; each of these costs less than half a microsecond.

    The level is the largest of three shares: offered work (arrivals a second times the seconds that a
    call holds its place) of the places there are; places in use of all places; arrivals a second of what
    rate limits let through. They are averages of ten seconds, so that a burst of one is no overload. On
    top comes what waits, at once: waiting calls by places, in full where calls take ten seconds or more,
    and the less the sooner such a queue is gone. Without ``size`` and ``rate_per_s`` the level is 0.

    The forecast has in their place what will be offered ``horizon_s`` ahead, by Holt's level and damped
    trend (Gardner and McKenzie, "Forecasting trends in time series", 1985), in the form for samples at
    irregular times (Wright, 1986); the least of the last five, since a load that wavers is no rise.
    """

    def __init__(
        self, *, clock: Clock = time.monotonic, horizon_s: float = 30.0, tick_s: float = 1.0
    ) -> None:
        for name, seconds in (("horizon_s", horizon_s), ("tick_s", tick_s)):
            if not 0 < seconds < math.inf:
                raise ConfigError(f"LoadMeter({name}={seconds!r}): give seconds above 0")
        self.horizon_s = horizon_s
        self.tick_s = tick_s
        self._clock = clock
        self._reach = _damped(horizon_s)
        self._lock = threading.RLock()
        self._forget()
        renew_after_fork(self)

    def _forget(self) -> None:
        self._arrived = self._refused = self._served = 0
        self._held_s = self._waited_s = 0.0
        self._measured_at: float | None = None
        self._anchor = self._clock()
        self._busy_at = -math.inf  # when somebody was last seen
        self.due_at = -math.inf
        self._arrivals_per_s = self._refused_per_s = self._queue_delay_s = 0.0
        self._in_use = 0.0  # places, on average
        self._ended = self._ended_s = 0.0  # calls, and the seconds they held, of late
        self._call_s: float | None = None
        self._in_flight = self._waiting = 0
        self._smooth = self._trend = 0.0
        self._foreseen: deque[float] = deque(maxlen=STEADY)
        self._now = Load(0.0, 0.0, 0.0, 0, 0, 0.0, 0.0)

    # -- what happens ----------------------------------------------------------

    def arrived(self, now: float) -> None:
        """A call wants to be served; whether it will be is not known yet."""
        with self._lock:
            self._arrived += 1

    def served(self, now: float, held_s: float, waited_s: float) -> None:
        """A call has left its place, which it held for ``held_s`` after waiting for ``waited_s``."""
        with self._lock:
            self._served += 1
            self._held_s += held_s
            self._waited_s += waited_s

    def told(self, arrived: int, served: int, held_s: float) -> None:
        """So many calls have come, and so many have ended, having held their places so long together."""
        with self._lock:
            self._arrived += arrived
            self._served += served
            self._held_s += held_s

    def waited(self, seconds: float) -> None:
        """One of those served has waited so long."""
        with self._lock:
            self._waited_s += seconds

    def refused(self, now: float) -> None:
        """A call that had arrived was turned away."""
        with self._lock:
            self._refused += 1

    def measure(
        self, now: float, *, in_flight: int, waiting: int, size: float | None, rate_per_s: float | None
    ) -> None:
        """Take in what has happened, and how things stand. Nothing before ``due_at``.

        ``size``: for how many calls at once there is room; ``rate_per_s``: how many a second the limits
        let through, as far as known.
        """
        with self._lock:
            passed_s = now - (self._anchor if self._measured_at is None else self._measured_at)
            if self._measured_at is None:
                passed_s = max(passed_s, self.tick_s)
            elif now < self.due_at:
                if passed_s < 0:  # a clock that was set back: count from here
                    self._measured_at, self.due_at = now, now + self.tick_s
                return
            self._measured_at, self.due_at = now, now + self.tick_s
            if self._arrived or in_flight or waiting:
                if now - self._busy_at >= IDLE_S:
                    self._anchor = now - self.tick_s
                self._busy_at = now
            self._count(passed_s, in_flight)
            self._in_flight, self._waiting = in_flight, waiting
            offered, queued = self._shares(waiting, size, rate_per_s)
            if now - self._anchor < WARM_S:
                self._smooth, self._trend = offered, 0.0
            foreseen = self._foresee(offered, passed_s)
            self._now = Load(
                min(offered + queued, MOST),
                min(foreseen + queued, MOST),
                self._arrivals_per_s,
                in_flight,
                waiting,
                self._queue_delay_s,
                self._refused_per_s,
            )

    def _count(self, passed_s: float, in_flight: int) -> None:
        """The averages, after another ``passed_s``."""
        share = -math.expm1(-passed_s / SETTLE_S)
        self._refused_per_s += share * (self._refused / passed_s - self._refused_per_s)
        self._in_use += share * (in_flight - self._in_use)
        waited_s = self._waited_s / self._served if self._served else 0.0
        if self._served or not self._waiting:
            self._queue_delay_s += share * (waited_s - self._queue_delay_s)
        fades = math.exp(-passed_s / HELD_OVER_S)
        self._ended = self._ended * fades + self._served
        self._ended_s = self._ended_s * fades + self._held_s
        if self._served:
            self._call_s = self._ended_s / self._ended
        # calls that take longer come more seldom, and it takes longer to see how many there are
        share = -math.expm1(-passed_s / max(SETTLE_S, self._call_s or 0.0))
        self._arrivals_per_s += share * (self._arrived / passed_s - self._arrivals_per_s)
        self._arrived = self._refused = self._served = 0
        self._held_s = self._waited_s = 0.0

    def _shares(self, waiting: int, size: float | None, rate_per_s: float | None) -> tuple[float, float]:
        """What is offered, and what waits already, each as a share of what can be done."""
        offered = queued = 0.0
        if size is not None and size > 0:
            call_s = self._call_s
            offered = max(self._in_use, self._arrivals_per_s * (call_s or 0.0)) / size
            queued = min(waiting / size, MOST) * (1.0 if call_s is None else min(1.0, call_s / SETTLE_S))
        if rate_per_s is not None and rate_per_s > 0:
            offered = max(offered, self._arrivals_per_s / rate_per_s)
            queued = max(queued, waiting / (rate_per_s * SETTLE_S))
        return min(offered, MOST), queued

    def _foresee(self, offered: float, passed_s: float) -> float:
        """Another sample, ``passed_s`` after the last one; what will be offered ``horizon_s`` ahead."""
        kept: float = DAMPING**passed_s
        expected = self._smooth + self._trend * _damped(passed_s)
        smooth = expected + (1.0 - (1.0 - LEVEL_WEIGHT) ** passed_s) * (offered - expected)
        trend, learns = self._trend * kept, 1.0 - (1.0 - TREND_WEIGHT) ** passed_s
        self._trend = trend + learns * ((smooth - self._smooth) / passed_s - trend)
        self._smooth = smooth
        if passed_s > STEADY * self.tick_s:
            self._foreseen.clear()
        self._foreseen.append(max(0.0, smooth + self._trend * self._reach))
        return min(self._foreseen)

    # -- what it says ----------------------------------------------------------

    @property
    def level(self) -> float:
        """Offered work ÷ capacity, as last measured."""
        return self._now.level

    @property
    def forecast(self) -> float:
        """The level ``horizon_s`` ahead, as last measured; never below 0."""
        return self._now.forecast

    def reading(self) -> Load:
        """All of it, as last measured."""
        return self._now

    def renew(self) -> None:
        """After a fork: the parent's calls are not this process's."""
        self._lock = threading.RLock()
        self._forget()


def _damped(seconds: float) -> float:
    """What a trend of 1 a second comes to in so many seconds: φ + φ² + … for each of them."""
    left: float = DAMPING**seconds
    return DAMPING * (1.0 - left) / (1.0 - DAMPING)
