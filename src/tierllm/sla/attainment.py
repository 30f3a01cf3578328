"""How well one subject's promises are kept: counted as calls end, told over several windows."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .burn import Alarm, Change, Goal, Pair, Tally, Verdict, verdict
from .layout import (
    APART,
    APART_AT,
    CALLS,
    COSTED,
    DEGRADED,
    ELSEWHERE,
    FAILED,
    FIRST_TOKENS,
    GOALS_AT,
    Layout,
)
from .report import NOBODY, GoalReport, Report, Whose
from .windows import CELL_S, WINDOWS_S, Windows

if TYPE_CHECKING:
    from ..types import Objective

__all__ = ["APART", "DEGRADED", "ELSEWHERE", "MIN_SAMPLES", "Attainment"]

MIN_SAMPLES = 100
"""Before so many calls nothing is said about a promise."""

NEAR = 0.9
"""A goal that has come so near to its alarm is looked at whenever a cell is full."""

VERDICTS: tuple[Verdict, ...] = ("missed", "at risk", "met", "too few")
"""The worst first."""


class Attainment:
    """Counts the calls of one subject against its objective. Thread-safe.

    ``now`` is always the time on one and the same clock, which may be set back or jump ahead. Bounded
    memory: 64 kB, whatever comes. ``min_samples`` calls have to be in a window before anything is said
    about it, and so many that one bad call alone decides nothing. Who keeps many with the same objective
    gives each the ``layout`` of another one.
    """

    __slots__ = ("_alarms", "_lock", "_uneasy", "_windows", "layout", "min_samples", "objective")

    def __init__(
        self, objective: Objective, *, min_samples: int = MIN_SAMPLES, layout: Layout | None = None
    ) -> None:
        if isinstance(min_samples, bool) or not isinstance(min_samples, int) or min_samples < 1:
            raise ConfigError(f"min_samples={min_samples!r}: give a number of calls, 1 or more")
        self.objective = objective
        self.min_samples = min_samples
        self.layout = layout = layout or Layout(objective)
        self._windows = Windows(layout.width, layout.head)
        self._alarms: tuple[Alarm, ...] = ()  # made at the first look
        self._uneasy = False  # something bad has come since the last look, or was seen there
        self._lock = threading.RLock()  # reentrant: garbage collection may end a call right here

    @property
    def goals(self) -> tuple[Goal, ...]:
        return self.layout.goals

    @property
    def time_s(self) -> float | None:
        """The longest that the objective gives a call; ``None``: it does not say."""
        return self.layout.time_s

    # -- counting ----------------------------------------------------------------

    def count(
        self,
        now: float,
        latency_s: float,
        first_token_s: float | None,
        ok: bool,
        cost_usd: float | None,
        marks: tuple[int, ...] = (),
        *,
        unbegun: bool = False,
    ) -> bool:
        """A call ended, after ``latency_s`` of waiting; ``first_token_s`` is known of streams only.

        One that is not ``ok`` had no answer. It counts against latency, too, where it had taken longer than
        the goal; sooner it says nothing about that. The same of the first token of a stream that had none
        (``unbegun``). ``marks``: it was ``DEGRADED`` or served ``ELSEWHERE``. True: a cell is full, and
        something bad may be in it, so ``look``.
        """
        layout = self.layout
        with self._lock:
            windows = self._windows
            turned = not windows.open_at <= now < windows.ends_at and self._turned(now)
            cell = windows.cell
            cell[CALLS] += 1
            if ok:
                cell[layout.head + bisect_left(layout.edges, latency_s)] += 1
            else:
                cell[FAILED] += 1
                self._overdue(latency_s, unbegun)
            if first_token_s is not None:
                cell[layout.first_at + bisect_left(layout.first_edges, first_token_s)] += 1
            if cost_usd is not None:
                cell[COSTED] += 1
                windows.cost += cost_usd
                if cost_usd > windows.dearest:
                    windows.dearest = cost_usd
            if marks:
                for at in marks:
                    cell[at] += 1
            return turned and (self._uneasy or not ok)

    def apart(
        self,
        now: float,
        kind: str,
        *,
        waited_s: float = 0.0,
        first_token_s: float | None = None,
        unbegun: bool = False,
    ) -> bool:
        """A call ended that does not say whether there was an answer, for one of the reasons in ``APART``.

        After ``waited_s`` it had had none yet: it counts against the goals that this is over. True: as of
        ``count``.
        """
        layout = self.layout
        with self._lock:
            windows = self._windows
            turned = not windows.open_at <= now < windows.ends_at and self._turned(now)
            windows.cell[APART_AT + APART.index(kind)] += 1
            if waited_s:
                self._overdue(waited_s, unbegun)
            if first_token_s is not None:
                windows.cell[layout.first_at + bisect_left(layout.first_edges, first_token_s)] += 1
            return turned and self._uneasy

    def _overdue(self, waited_s: float, unbegun: bool) -> None:
        """For so long somebody had waited when the call ended without an answer."""
        layout, cell = self.layout, self._windows.cell
        for at, goal in enumerate(layout.latency, layout.late_at):
            if waited_s > goal.limit:
                cell[at] += 1
        if unbegun:
            for at, goal in enumerate(layout.first, layout.first_late_at):
                if waited_s > goal.limit:
                    cell[at] += 1

    def _turned(self, now: float) -> bool:
        """Begin a new cell, where it is time to."""
        windows = self._windows
        if windows.open_at <= now < windows.ends_at:
            return False
        if windows.begun:
            self._sum_up()
        return windows.turn(now)

    def _sum_up(self) -> None:
        """Write down, in the cell under way, what is known of each goal."""
        layout, cell = self.layout, self._windows.cell
        layout.sum_up(cell)
        if not self._uneasy:
            limit_usd = layout.limit_usd
            dear = limit_usd is not None and self._windows.cost > limit_usd * cell[COSTED]
            self._uneasy = dear or cell[FAILED] > 0 or any(cell[layout.late_at : layout.head])

    # -- telling -----------------------------------------------------------------

    def look(self, now: float) -> list[tuple[Change, float]]:
        """What has changed about goals that burn: each change, and the error budget that is left."""
        with self._lock:
            if not self._windows.begun:
                return []  # a look is no call, with which time begins
            self._turned(now)
            self._sum_up()
            found, at = self._tallies(), self._windows.elapsed_s
            alarms = self._alarms = self._alarms or tuple(Alarm(goal) for goal in self.goals)
            changes, uneasy = [], False
            for number, alarm in enumerate(alarms):
                over = {window_s: tallies[number] for window_s, tallies in found.items()}
                change = alarm.look(over, self.min_samples, at)
                if change is not None:
                    left, _ = self._left(over)
                    changes.append((change, 1 - change.rate if left is None else left))
                longest = over[WINDOWS_S[-1]]
                few = 0 < longest.calls < self.min_samples and longest.rate > 0
                uneasy = uneasy or few or alarm.near > NEAR or alarm.pair is not None
            self._uneasy = uneasy
            return changes

    def _tallies(self) -> dict[float, tuple[Tally, ...]]:
        """Of each window, how each goal fared."""
        tallied = self.layout.tallied
        return {window_s: tallied(*self._windows.head(window_s)) for window_s in WINDOWS_S}

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
            windows = self._windows
            if windows.begun:
                self._turned(now)
                self._sum_up()
            counts = {each: (windows.totals(each), windows.head(each)[1]) for each in windows_s}
            found = self._tallies()
            pairs = [alarm.pair for alarm in self._alarms] or [None] * len(self.goals)
            elapsed_s = windows.elapsed_s + CELL_S if windows.begun else 0.0
        told = []
        for window_s, (totals, total_usd) in counts.items():
            values = self.layout.measured(totals, total_usd)
            goals = {}
            for number, goal in enumerate(self.goals):
                over = {each: tallies[number] for each, tallies in found.items()}
                goals[goal.name] = self._goal(goal, over, window_s, values[goal.name], pairs[number])
            verdicts = [goal.verdict for goal in goals.values()]
            tightest = min(
                (goal for goal in goals.values() if goal.budget_left is not None),
                key=lambda goal: goal.budget_left or 0.0,
                default=None,
            )
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
                budget_left=None if tightest is None else tightest.budget_left,
                budget_window_s=None if tightest is None else tightest.budget_window_s,
                **values,
            )
            told.append(report)
        return told

    def _goal(
        self, goal: Goal, over: dict[float, Tally], window_s: float, measured: float | None, pair: Pair | None
    ) -> GoalReport:
        found = over[window_s]
        left, left_s = self._left(over) if goal.spare else (None, None)
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
