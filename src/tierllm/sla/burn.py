"""Promises as goals: how fast their error budgets burn, and when somebody should hear of it.

Source: Google, The Site Reliability Workbook (2018), chapter 5, "Multiwindow, Multi-Burn-Rate Alerts".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..admission.hysteresis import HOUR_S
from .goals import chance

if TYPE_CHECKING:
    from ..types import Objective

__all__ = ["PAIRS", "Alarm", "Change", "Goal", "Pair", "Tally", "Verdict", "goals_of", "threshold", "verdict"]

Verdict = Literal["met", "at risk", "missed", "too few"]

LATENCY = {"latency_p50_s": 0.5, "latency_p95_s": 0.95, "latency_p99_s": 0.99}
FIRST_TOKEN = {"first_token_p50_s": 0.5, "first_token_p95_s": 0.95, "first_token_p99_s": 0.99}
"""For each goal in seconds the share of calls that must keep it."""

REACHABLE = 0.8
"""Where a burn rate is out of reach, so much of the way from 1 to the highest there is stands for it."""

LEAVE_AT = 0.8
"""An alarm ends once the rate has stayed at or below this share of its threshold, for ``DWELL_S``."""

DWELL_S = 300.0

MOST_PER_HOUR = 4
"""So often each pair of windows may change its mind within any hour, back and forth counted."""

RISK = 0.25
"""With less than this share of the error budget left, a promise that is kept so far is at risk."""

COST_RISK = 0.9
"""Of the mean cost: from this share of the objective on."""

BY_CHANCE = 0.05
"""A promise is missed where a service that just keeps it has so many bad calls less often than this."""


class Goal(NamedTuple):
    """One field of an objective: ``share`` of the calls have to keep to ``limit``.

    For the cost there is no share: the mean has to.
    """

    name: str
    share: float
    limit: float

    @property
    def spare(self) -> float:
        """The share of calls that may break it; 0 for the cost."""
        return round(1.0 - self.share, 12)


def goals_of(objective: Objective) -> tuple[Goal, ...]:
    """What an objective promises, goal by goal."""
    found = []
    for name, share in (*LATENCY.items(), *FIRST_TOKEN.items()):
        limit = getattr(objective, name)
        if limit is not None:
            found.append(Goal(name, share, float(limit)))
    if objective.availability is not None:
        found.append(Goal("availability", float(objective.availability), float(objective.availability)))
    if objective.cost_usd is not None:
        found.append(Goal("cost_usd", 1.0, float(objective.cost_usd)))
    return tuple(found)


class Tally(NamedTuple):
    """How a goal fared over some window.

    ``rate`` is the burn rate: the bad share of ``calls`` ÷ the share that may be bad; for the cost, the mean
    ÷ the objective. ``sure`` is the rate without the worst call (0 where that was the only bad one). For
    ``seconds`` of the window there have been calls: since the first one in it.
    """

    calls: int
    bad: int
    rate: float
    sure: float
    seconds: float = math.inf


def tally(goal: Goal, calls: int, bad: int, seconds: float = math.inf) -> Tally:
    """Of a goal that a share of the calls has to keep."""
    if not calls or not goal.spare:
        return Tally(calls, bad, 0.0, 0.0, seconds)
    rate = bad / calls / goal.spare
    return Tally(calls, bad, rate, rate if bad > 1 else 0.0, seconds)


def tally_of_cost(
    goal: Goal, calls: int, sum_usd: float, dearest_usd: float, seconds: float = math.inf
) -> Tally:
    """Of the mean cost of a call."""
    if not calls:
        return Tally(0, 0, 0.0, 0.0, seconds)
    others = (sum_usd - dearest_usd) / (calls - 1) if calls > 1 else 0.0
    return Tally(calls, 0, sum_usd / calls / goal.limit, others / goal.limit, seconds)


def verdict(goal: Goal, found: Tally, *, least: int, burning: bool) -> Verdict:
    """Whether the promise is kept, where there were calls enough to say so.

    "Enough" is ``least``, and so many that one bad call decides nothing. What is broken by so little that it
    may be by chance is at risk.
    """
    if found.calls < least:
        return "too few"
    if goal.spare:
        allowed = round(found.calls * goal.spare, 9)
        if allowed < 1 and found.bad < 2:
            return "too few"
        missed = found.bad > allowed and chance(found.bad, found.calls, goal.spare) <= BY_CHANCE
        near = 1 - found.rate < RISK
    else:
        missed = found.rate > 1 and found.sure > 1
        near = found.rate >= COST_RISK
    if missed:
        return "missed"
    return "at risk" if burning or near else "met"


# -- alarms ------------------------------------------------------------------------


class Pair(NamedTuple):
    """A burn rate that has to hold over both windows: the long one says it matters, the short one that it
    goes on."""

    rate: float
    long_s: float
    short_s: float


PAIRS = (
    Pair(14.4, 3_600.0, 300.0),
    Pair(6.0, 21_600.0, 1_800.0),
    Pair(3.0, 86_400.0, 7_200.0),
    Pair(1.0, 259_200.0, 21_600.0),
)
"""The fastest first."""

RATES = tuple(pair.rate for pair in PAIRS)

COST_PAIRS = (Pair(2.0, 3_600.0, 300.0), Pair(1.2, 86_400.0, 7_200.0))
"""Of the mean cost. Money that was not spent is no error budget: a mean of 14 times the objective would come
late, and one that just passes it is no alarm."""


def pairs_of(goal: Goal) -> tuple[Pair, ...]:
    """Over which windows a goal may burn."""
    return PAIRS if goal.spare else COST_PAIRS


def threshold(rate: float, goal: Goal) -> float:
    """The burn rate to alarm at: ``rate``, or what stands for it where so much cannot happen.

    With every call bad the rate is ``1 / spare``: 14.4 is out of reach where an objective allows more than
    7 % to be bad. The highest threshold is then 80 % of the way from 1 to that, and those below are moved
    together on a logarithmic scale. 1 stays 1.
    """
    if not goal.spare:
        return rate
    highest = PAIRS[0].rate
    top = 1 + REACHABLE * (1 / goal.spare - 1)
    if top >= highest:
        return rate
    return float(top ** (math.log(rate) / math.log(highest)))


class Change(NamedTuple):
    """An alarm went on (``burning``), or off after ``after_s`` seconds."""

    goal: str
    burning: bool
    rate: float
    window_s: float
    after_s: float


class Latch:
    """On where a signal reaches 1, off once it has stayed at or below ``LEAVE_AT`` for ``DWELL_S``.

    In any hour it changes ``MOST_PER_HOUR`` times at most. Going on is never what has to wait: it goes off
    only where the hour leaves room for going off and coming on again. (As ``admission.hysteresis.Switch``,
    in a tenth of the memory: a subject has up to 30 of them.)
    """

    __slots__ = ("_calm_since", "_changes", "on")

    def __init__(self) -> None:
        self.on = False
        self._calm_since: float | None = None
        self._changes: tuple[float, ...] = ()

    def look(self, signal: float, now: float) -> None:
        """Take in what the signal is now. ``now`` never goes back."""
        if not self.on:
            if signal >= 1 and self._room(1, now):
                self._turn(now)
        elif signal > LEAVE_AT:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        elif now - self._calm_since >= DWELL_S and self._room(2, now):
            self._turn(now)

    def _turn(self, now: float) -> None:
        self.on = not self.on
        self._calm_since = None
        self._changes = (*self._changes, now)

    def _room(self, changes: int, now: float) -> bool:
        self._changes = tuple(at for at in self._changes if now - at <= HOUR_S)
        return len(self._changes) + changes <= MOST_PER_HOUR


class Alarm:
    """Whether one goal burns: a latch for each pair of windows. Whoever has it holds the lock.

    It goes on with the first pair that holds, tells again where a faster one comes to hold, and goes off
    with the last.
    """

    __slots__ = ("_latches", "_on_since", "_thresholds", "goal", "near")

    def __init__(self, goal: Goal) -> None:
        self.goal = goal
        self.near = 0.0
        """How near it came at the last look to going on, over the pair for which that was most; 1: it did."""
        self._on_since = 0.0
        found = tuple(threshold(pair.rate, goal) for pair in pairs_of(goal))
        self._thresholds = RATES if found == RATES else found  # one for most of all
        self._latches = tuple(Latch() for _ in self._thresholds)

    @property
    def pair(self) -> Pair | None:
        """The fastest pair of windows over which it burns; ``None``: it does not."""
        for pair, latch in zip(pairs_of(self.goal), self._latches, strict=True):
            if latch.on:
                return pair
        return None

    def look(self, found: Mapping[float, Tally], least: int, now: float) -> Change | None:
        """Take in how the goal fares over each window, ``now`` seconds after the first call."""
        before = self.pair
        signals = [
            signal(pair, found, at, least, mean=not self.goal.spare)
            for pair, at in zip(pairs_of(self.goal), self._thresholds, strict=True)
        ]
        for latch, each in zip(self._latches, signals, strict=True):
            latch.look(each, now)
        self.near = max(signals)
        after = self.pair
        if after is before:
            return None
        if after is None:
            assert before is not None
            rate = found[before.long_s].rate
            return Change(self.goal.name, False, rate, before.long_s, now - self._on_since)
        if before is None:
            self._on_since = now
        elif after.rate < before.rate:
            return None  # only the faster one is over
        return Change(self.goal.name, True, found[after.long_s].rate, after.long_s, 0.0)


def signal(pair: Pair, found: Mapping[float, Tally], at: float, least: int, *, mean: bool = False) -> float:
    """How near a pair of windows is to its threshold ``at``; 1 and more: it holds.

    0 where there are too few calls, or one bad call alone would do it. Where there have been calls for less
    time than a window is long, the time before counts as one of as many calls, all good (of a ``mean``: at
    the objective): or the first bad minute, or that after an idle night, would look like three bad days.
    """
    long, short = found[pair.long_s], found[pair.short_s]
    if long.calls < least:
        return 0.0
    rates = (
        _paced(long.sure, long.seconds / pair.long_s, mean),
        _paced(short.rate, short.seconds / pair.short_s, mean),
    )
    return min(rates) / at


def _paced(rate: float, lived: float, mean: bool) -> float:
    if lived >= 1:
        return rate
    return rate * lived if not mean else min(rate, 1 + (rate - 1) * lived)
