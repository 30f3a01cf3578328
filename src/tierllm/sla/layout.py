"""Where the cells of a subject's windows have which count: the same for all with the same objective."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .burn import Tally, goals_of, tally, tally_of_cost
from .windows import quantile, spaced, with_own

if TYPE_CHECKING:
    from ..types import Objective

__all__ = ["APART", "DEGRADED", "ELSEWHERE", "Layout"]

APART = ("cached", "personal", "impatient", "cancelled", "moved")
"""Calls that say nothing about a promise, or not about all of it; counted apart, in this order."""

CALLS, FAILED, DEGRADED, ELSEWHERE, COSTED, FIRST_TOKENS, APART_AT = range(7)
"""Where a cell has which count. The apart ones come next, then those of each goal, then the histograms."""

GOALS_AT = APART_AT + len(APART)

EDGES = spaced(0.1, 10)
FIRST_EDGES = spaced(0.05, 9)
"""Where quantiles are known: from 100 ms to 102 s of whole answers, from 50 ms to 26 s of first tokens."""


class Layout:
    """Of an objective: its goals, where they are counted, and the edges of the histograms.

    ``time_s`` is the longest that it gives a call, ``None`` where it does not say. From ``late_at`` on there
    is, for each goal in seconds, how many calls had taken longer when they ended without an answer (or
    without a first token); from ``bad_at`` on, how many were bad in all. Latency goals come before those
    about first tokens. ``within`` is where in a histogram what is over a goal begins.
    """

    __slots__ = (
        "bad_at",
        "edges",
        "first",
        "first_at",
        "first_bad_at",
        "first_edges",
        "first_late_at",
        "first_within",
        "goals",
        "head",
        "late_at",
        "latency",
        "limit_usd",
        "objective",
        "time_s",
        "width",
        "within",
    )

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.goals = goals = goals_of(objective)
        self.latency = tuple(goal for goal in goals if goal.name.startswith("latency"))
        self.first = tuple(goal for goal in goals if goal.name.startswith("first_token"))
        self.limit_usd = next((goal.limit for goal in goals if not goal.spare), None)
        self.time_s = max((goal.limit for goal in self.latency or self.first), default=None)
        self.late_at = GOALS_AT
        self.first_late_at = self.late_at + len(self.latency)
        self.bad_at = self.first_late_at + len(self.first)
        self.first_bad_at = self.bad_at + len(self.latency)
        self.head = self.first_bad_at + len(self.first)
        self.edges = with_own(EDGES, (goal.limit for goal in self.latency))
        self.first_edges = with_own(FIRST_EDGES, (goal.limit for goal in self.first))
        self.first_at = self.head + len(self.edges) + 1
        self.width = self.first_at + len(self.first_edges) + 1
        self.within = tuple(self.head + 1 + self.edges.index(goal.limit) for goal in self.latency)
        self.first_within = tuple(self.first_at + 1 + self.first_edges.index(g.limit) for g in self.first)

    def sum_up(self, cell: list[int]) -> None:
        """Write down, in a cell, what its histograms say about each goal."""
        for number, within in enumerate(self.within):
            cell[self.bad_at + number] = sum(cell[within : self.first_at]) + cell[self.late_at + number]
        cell[FIRST_TOKENS] = streams = sum(cell[self.first_at :])
        for number, within in enumerate(self.first_within):
            over = sum(cell[within:]) if streams else 0
            cell[self.first_bad_at + number] = over + cell[self.first_late_at + number]

    def tallied(
        self, totals: list[int], total_usd: float, dearest_usd: float, seconds: float
    ) -> tuple[Tally, ...]:
        """How each goal fared, by the counts of a window."""
        late, bad = totals[self.late_at : self.bad_at], totals[self.bad_at : self.head]
        known = [totals[CALLS] - totals[FAILED]] * len(self.latency)
        known += [totals[FIRST_TOKENS]] * len(self.first)
        found = [
            tally(goal, known[number] + late[number], bad[number], seconds)
            for number, goal in enumerate((*self.latency, *self.first))
        ]
        for goal in self.goals[len(found) :]:
            if goal.spare:
                found.append(tally(goal, totals[CALLS], totals[FAILED], seconds))
            else:
                found.append(tally_of_cost(goal, totals[COSTED], total_usd, dearest_usd, seconds))
        return tuple(found)

    def measured(self, totals: list[int], total_usd: float) -> dict[str, Any]:
        """What the goals are about, by their names."""
        found: dict[str, Any] = {}
        for name, counts, edges in (
            ("latency", totals[self.head : self.first_at], self.edges),
            ("first_token", totals[self.first_at :], self.first_edges),
        ):
            for percent in (50, 95, 99):
                found[f"{name}_p{percent}_s"] = quantile(counts, edges, percent / 100)
        calls, costed = totals[CALLS], totals[COSTED]
        found["availability"] = 1 - totals[FAILED] / calls if calls else None
        found["cost_usd"] = total_usd / costed if costed else None
        return found
