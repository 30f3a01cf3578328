"""How well one subject's promises are kept: counted as calls end, told over several windows."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .burn import Alarm, Change, Goal, Pair, Tally, Verdict, goals_of, tally, tally_of_cost, verdict
from .report import NOBODY, GoalReport, Report, Whose
from .windows import CELL_S, WINDOWS_S, Windows, quantile, spaced, with_own

if TYPE_CHECKING:
    from ..types import Objective

__all__ = ["APART", "DEGRADED", "ELSEWHERE", "MIN_SAMPLES", "Attainment"]

MIN_SAMPLES = 100
"""Before so many calls nothing is said about a promise."""

APART = ("cached", "personal", "impatient", "cancelled", "moved")
"""Calls that say nothing about a promise; counted apart, in this order."""

CALLS, FAILED, DEGRADED, ELSEWHERE, COSTED, FIRST_TOKENS, APART_AT = range(7)
"""Where a cell has which count. The apart ones come next, then those of each goal, then the histograms."""

GOALS_AT = APART_AT + len(APART)

EDGES = spaced(0.1, 10)
FIRST_EDGES = spaced(0.05, 9)
"""Where quantiles are known: from 100 ms to 102 s of whole answers, from 50 ms to 26 s of first tokens."""

VERDICTS: tuple[Verdict, ...] = ("missed", "at risk", "met", "too few")
"""The worst first."""


class Attainment:
    """Counts the calls of one subject against its objective. Thread-safe.

    ``now`` is always the time on one and the same clock, which may be set back or jump ahead. Bounded
    memory: 64 kB, whatever comes. ``min_samples`` calls have to be in a window before anything is said
    about it, and so many that one bad call alone decides nothing.
    """

    def __init__(self, objective: Objective, *, min_samples: int = MIN_SAMPLES) -> None:
        if isinstance(min_samples, bool) or not isinstance(min_samples, int) or min_samples < 1:
            raise ConfigError(f"min_samples={min_samples!r}: give a number of calls, 1 or more")
        self.objective = objective
        self.min_samples = min_samples
        self.goals = goals_of(objective)
        latency = [goal for goal in self.goals if goal.name.startswith("latency")]
        first = [goal for goal in self.goals if goal.name.startswith("first_token")]
        self.time_s: float | None = max((goal.limit for goal in latency or first), default=None)
        """The longest that the objective gives a call; ``None``: it does not say."""
        self._latency = tuple(latency)
        self._late_at = GOALS_AT
        """From here, for each latency goal: failed calls that had taken longer. After those, bad calls."""
        self._bad_at = GOALS_AT + len(latency)
        self._first_bad_at = self._bad_at + len(latency)
        self._head = self._first_bad_at + len(first)
        self._edges = with_own(EDGES, (goal.limit for goal in latency))
        self._first_edges = with_own(FIRST_EDGES, (goal.limit for goal in first))
        self._first_at = self._head + len(self._edges) + 1
        self._within = tuple(self._head + 1 + self._edges.index(goal.limit) for goal in latency)
        self._first_within = tuple(self._first_at + 1 + self._first_edges.index(g.limit) for g in first)
        self._windows = Windows(self._first_at + len(self._first_edges) + 1, self._head)
        self._alarms = tuple(Alarm(goal) for goal in self.goals)
        self._lock = threading.RLock()  # reentrant: garbage collection may end a call right here

    # -- counting ----------------------------------------------------------------

    def count(
        self,
        now: float,
        latency_s: float,
        first_token_s: float | None,
        ok: bool,
        cost_usd: float | None,
        marks: tuple[int, ...] = (),
    ) -> bool:
        """A call ended, after ``latency_s`` of waiting; ``first_token_s`` is known of streams only.

        One that is not ``ok`` had no answer. It counts against latency, too, where it had taken longer than
        the goal; sooner it says nothing about that. ``marks``: it was ``DEGRADED`` or served ``ELSEWHERE``.
        True: a cell is full, so ``look``.
        """
        with self._lock:
            windows = self._windows
            turned = not windows.begun_at <= now < windows.ends_at
            if turned:
                self._sum_up()
                windows.turn(now)
            cell = windows.cell
            cell[CALLS] += 1
            if ok:
                cell[self._head + bisect_left(self._edges, latency_s)] += 1
            else:
                cell[FAILED] += 1
                for at, goal in enumerate(self._latency, self._late_at):
                    if latency_s > goal.limit:
                        cell[at] += 1
            if first_token_s is not None:
                cell[self._first_at + bisect_left(self._first_edges, first_token_s)] += 1
            if cost_usd is not None:
                cell[COSTED] += 1
                windows.cost += cost_usd
                if cost_usd > windows.dearest:
                    windows.dearest = cost_usd
            if marks:
                for at in marks:
                    cell[at] += 1
            return turned

    def apart(self, now: float, kind: str) -> bool:
        """A call ended that says nothing about the promise, for one of the reasons in ``APART``.

        True: a cell is full, so ``look``.
        """
        with self._lock:
            turned = self._turned(now)
            self._windows.cell[APART_AT + APART.index(kind)] += 1
            return turned

    def _turned(self, now: float) -> bool:
        """Begin a new cell, where it is time to."""
        windows = self._windows
        if windows.begun_at <= now < windows.ends_at:
            return False
        self._sum_up()
        windows.turn(now)
        return True

    def _sum_up(self) -> None:
        """Write down, in the cell under way, what its histograms say about each goal."""
        cell = self._windows.cell
        for number, within in enumerate(self._within):
            over = sum(cell[within : self._first_at])
            cell[self._bad_at + number] = over + cell[self._late_at + number]
        for number, within in enumerate(self._first_within):
            cell[self._first_bad_at + number] = sum(cell[within:])
        cell[FIRST_TOKENS] = sum(cell[self._first_at :])

    # -- telling -----------------------------------------------------------------

    def look(self, now: float) -> list[tuple[Change, float]]:
        """What has changed about goals that burn: each change, and the error budget that is left."""
        with self._lock:
            self._turned(now)
            self._sum_up()
            found, at = self._tallies(), self._windows.elapsed_s
            changes = []
            for number, alarm in enumerate(self._alarms):
                over = {window_s: tallies[number] for window_s, tallies in found.items()}
                change = alarm.look(over, self.min_samples, at)
                if change is not None:
                    left, _ = self._left(over)
                    changes.append((change, 1 - change.rate if left is None else left))
            return changes

    def _tallies(self) -> dict[float, tuple[Tally, ...]]:
        """Of each window, how each goal fared."""
        return {window_s: self._tallied(*self._windows.head(window_s)) for window_s in WINDOWS_S}

    def _tallied(self, totals: list[int], total_usd: float, dearest_usd: float) -> tuple[Tally, ...]:
        answered = totals[CALLS] - totals[FAILED]
        latency = first = 0
        found = []
        for goal in self.goals:
            if goal.name.startswith("latency"):
                calls = answered + totals[self._late_at + latency]
                found.append(tally(goal, calls, totals[self._bad_at + latency]))
                latency += 1
            elif goal.name.startswith("first_token"):
                found.append(tally(goal, totals[FIRST_TOKENS], totals[self._first_bad_at + first]))
                first += 1
            elif goal.name == "availability":
                found.append(tally(goal, totals[CALLS], totals[FAILED]))
            else:
                found.append(tally_of_cost(goal, totals[COSTED], total_usd, dearest_usd))
        return tuple(found)

    def _left(self, over: dict[float, Tally]) -> tuple[float | None, float | None]:
        """The share of the error budget that is left, over the longest window with calls enough."""
        found: tuple[float | None, float | None] = (None, None)
        elapsed_s = self._windows.elapsed_s
        for window_s in WINDOWS_S:
            if over[window_s].calls >= self.min_samples:
                found = 1 - over[window_s].rate, window_s
            if window_s >= elapsed_s:
                break  # it has all there is
        return found

    def report(self, now: float, window_s: float, whose: Whose = NOBODY) -> Report:
        """How well the promises were kept over a window: one of 300 s, 1,800 s, 1 h, 2 h, 6 h, 1 d, 3 d.

        Raises ``ConfigError`` for another one.
        """
        return self.reports(now, (window_s,), whose)[0]

    def reports(
        self, now: float, windows_s: Sequence[float] = WINDOWS_S, whose: Whose = NOBODY
    ) -> list[Report]:
        """``report`` for several windows, all as of the same moment."""
        for window_s in windows_s:
            if window_s not in WINDOWS_S:
                known = ", ".join(f"{each:g}" for each in WINDOWS_S)
                raise ConfigError(f"window_s={window_s!r}: attainment is known over {known} seconds")
        with self._lock:
            self._turned(now)
            self._sum_up()
            windows = self._windows
            counts = {each: (windows.totals(each), windows.head(each)[1]) for each in windows_s}
            found = self._tallies()
            pairs = [alarm.pair for alarm in self._alarms]
            elapsed_s = windows.elapsed_s + CELL_S
        told = []
        for window_s, (totals, total_usd) in counts.items():
            values = self._measured(totals, total_usd)
            goals = {}
            for number, goal in enumerate(self.goals):
                over = {each: tallies[number] for each, tallies in found.items()}
                goals[goal.name] = self._goal(goal, over, window_s, values[goal.name], pairs[number])
            verdicts = [goal.verdict for goal in goals.values()]
            report = Report(
                tier=whose.tier,
                contract=whose.contract,
                tenant=whose.tenant,
                window_s=window_s,
                covered_s=min(window_s, elapsed_s),
                calls=totals[CALLS],
                answered=totals[CALLS] - totals[FAILED],
                failed=totals[FAILED],
                degraded=totals[DEGRADED],
                elsewhere=totals[ELSEWHERE],
                apart=dict(zip(APART, totals[APART_AT:GOALS_AT], strict=True)),
                first_tokens=totals[FIRST_TOKENS],
                costed=totals[COSTED],
                goals=goals,
                verdict=next((each for each in VERDICTS if each in verdicts), "too few"),
                budget_left=min(
                    (g.budget_left for g in goals.values() if g.budget_left is not None), default=None
                ),
                **values,
            )
            told.append(report)
        return told

    def _measured(self, totals: list[int], total_usd: float) -> dict[str, Any]:
        """What the goals are about, by their names."""
        first_at = self._first_at
        found: dict[str, Any] = {}
        for name, counts, edges in (
            ("latency", totals[self._head : first_at], self._edges),
            ("first_token", totals[first_at:], self._first_edges),
        ):
            for percent in (50, 95, 99):
                found[f"{name}_p{percent}_s"] = quantile(counts, edges, percent / 100)
        calls, costed = totals[CALLS], totals[COSTED]
        found["availability"] = 1 - totals[FAILED] / calls if calls else None
        found["cost_usd"] = total_usd / costed if costed else None
        return found

    def _goal(
        self, goal: Goal, over: dict[float, Tally], window_s: float, measured: float | None, pair: Pair | None
    ) -> GoalReport:
        found = over[window_s]
        left, left_s = self._left(over)
        return GoalReport(
            goal=goal.name,
            limit=goal.limit,
            share=goal.share if goal.spare else None,
            calls=found.calls,
            bad=found.bad,
            within=1 - found.bad / found.calls if found.calls and goal.spare else None,
            measured=measured,
            burn_rate=found.rate if found.calls else None,
            budget_left=left,
            budget_window_s=left_s,
            burning_over_s=None if pair is None else pair.long_s,
            verdict=verdict(goal, found, least=self.min_samples, burning=pair is not None),
        )

    def renew(self) -> None:
        """After a fork: a lock of one's own. What was counted stays."""
        self._lock = threading.RLock()
