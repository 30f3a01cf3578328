"""What a place is judged by: how many of its calls may be bad, and when it is left for that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from ..types import Objective

__all__ = ["SPANS_S", "Burning", "Goal", "Totals", "burning_of", "chance", "goals_of"]

SPANS_S = (20.0, 60.0, 300.0)
"""The windows in which a place is looked at: the present, a minute, five minutes."""

PACES = (10 / 6, 1.0, 0.5)
"""The shorter the window, the worse it has to be: 10, 6 and 3 times what the objective allows."""

CERTAIN = 1e-4
"""A place is left where chance would have explained it at most this often."""

LEAST_BAD = 5
"""With fewer bad calls than this no place is left, however rarely it may have any."""

Kind = Literal["latency", "first_token", "errors"]

Totals = Sequence[Sequence[tuple[int, int]]]
"""For each window and goal: calls, and how many of them were bad."""


class Goal(NamedTuple):
    """One thing by which a place is judged.

    Of the calls, ``allowed`` may be bad: over ``bound_s`` seconds, or failed. The place is left at a share of
    ``enter`` (one for each window), and has to come down to ``leave`` to be taken back.
    """

    name: str
    kind: Kind
    bound_s: float
    allowed: float
    enter: tuple[float, ...]
    leave: float

    def words(self) -> str:
        """What a bad call did."""
        if self.kind == "errors":
            return "failed"
        return f"{'without a first token' if self.kind == 'first_token' else 'over'} {self.bound_s:g} s"


class Burning(NamedTuple):
    """What is wrong with a place."""

    goal: Goal
    span: int
    calls: int
    bad: int

    @property
    def share(self) -> float:
        return self.bad / self.calls

    def words(self) -> str:
        """In plain words, such as "62 % of 40 calls in 60 s over 4 s, 12.4 times …"."""
        what = f"{self.share:.0%} of {self.calls} calls in {SPANS_S[self.span]:g} s".replace("%", " %")
        if self.goal.name == "error_rate":  # which is a threshold itself
            return f"{what} failed, {self.share / self.goal.enter[self.span]:.1f} times the threshold"
        said = "threshold" if self.goal.name == "latency_s" else "objective"
        times = self.share / self.goal.allowed
        return f"{what} {self.goal.words()}, {times:.1f} times what the {said} allows"


def goals_of(
    objective: Objective | None,
    *,
    latency_s: float | None = None,
    error_rate: float | None = None,
    burn: float = 6.0,
    calm: float = 2.0,
) -> tuple[Goal, ...]:
    """What an objective asks of a place; ``latency_s`` and ``error_rate`` take the place of its goals.

    The thresholds are burn rates (SRE workbook): ``burn`` times what is allowed in a minute, 10/6 of that in
    20 s, half of it in five minutes. Where a burn rate is out of reach (six times the half that a median
    allows), the threshold is the middle between what is allowed and all calls.
    """
    goals: list[Goal] = []

    def add(name: str, kind: Kind, bound: float, allowed: float) -> None:
        enter = tuple(min(burn * pace * allowed, (1 + allowed) / 2) for pace in PACES)
        goals.append(Goal(name, kind, bound, allowed, enter, min(calm * allowed, (allowed + min(enter)) / 2)))

    if latency_s is not None:
        add("latency_s", "latency", latency_s, 0.05)
    kinds: tuple[Kind, ...] = ("latency", "first_token")
    for percentile in (50, 95, 99):
        for kind in kinds:
            name = f"{kind}_p{percentile}_s"
            bound_s: float | None = getattr(objective, name, None)
            if bound_s is not None and (kind != "latency" or latency_s is None):
                add(name, kind, bound_s, 1 - percentile / 100)
    if error_rate is not None:
        half, thrice = error_rate / 2, (error_rate,) * len(SPANS_S)
        goals.append(Goal("error_rate", "errors", math.inf, half, thrice, half))
    elif objective is not None and objective.availability is not None:
        add("availability", "errors", math.inf, 1 - objective.availability)
    return tuple(goals)


def burning_of(goals: Sequence[Goal], totals: Totals, min_calls: int) -> Burning | None:
    """Which goal is missed so badly, in which window, that chance hardly explains it.

    What a longer window says counts only as long as the next shorter one says so too: what was bad and is
    well again, or where nobody goes any more, is not burning.
    """
    for at, goal in enumerate(goals):
        for span in range(len(SPANS_S)):
            calls, bad = totals[span][at]
            if calls < min_calls or bad < LEAST_BAD or bad < goal.enter[span] * calls:
                continue
            lately, bad_lately = totals[max(0, span - 1)][at]
            if not lately or bad_lately < goal.enter[span] * lately:
                continue
            if chance(bad, calls, goal.allowed) <= CERTAIN:
                return Burning(goal, span, calls, bad)
    return None


def chance(bad: int, calls: int, allowed: float) -> float:
    """The most likely that so many bad calls, or more, are where ``allowed`` of them may be.

    Chernoff's bound for the binomial distribution (Hoeffding 1963, theorem 1): exp(-n·KL(bad/n ‖ allowed)).
    """
    share = bad / calls
    if share <= allowed:
        return 1.0
    distance = share * math.log(share / allowed)
    if share < 1:
        distance += (1 - share) * math.log((1 - share) / (1 - allowed))
    return math.exp(-calls * distance)
