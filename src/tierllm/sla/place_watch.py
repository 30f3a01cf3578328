"""What came of the calls to one place of late, and whether it is worse than chance explains. Pure state."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from ..errors import ContentFilteredError, InvalidRequestError, ProviderError, RateLimitError
from .goals import SPANS_S, Burning, Goal, chance

if TYPE_CHECKING:
    from ..pipeline.scope import Invocation
    from ..types import Outcome

__all__ = ["CELL_S", "Asked", "PlaceWatch", "Totals"]

CELL_S = 5.0
"""Outcomes are counted by cells of so many seconds: a window is shorter than it says by less than one."""

CELLS = tuple(round(span / CELL_S) for span in SPANS_S)

CERTAIN = 1e-4
"""A place is left where chance would have explained it at most this often."""

DOUBTFUL = 0.05
"""A trial is over where chance would have explained it at most this often: ending one costs little."""

LEAST_BAD = 5
"""With fewer bad calls than this no place is left, however rarely it may have any."""

LOST_S = 900.0
"""A call of which nothing was heard for so long is not waited for any more."""

MOST_OVERDUE = 1024
"""So many calls under way are looked at, the oldest first."""

NEUTRAL = (InvalidRequestError, ContentFilteredError, RateLimitError)
"""Errors that are the call's, not the place's; after a 429 it is let alone for as long as it asked anyway."""

Totals = Sequence[Sequence[tuple[int, int]]]
"""For each window and goal: calls, and how many of them were bad."""


class Asked(Protocol):
    """A call at a place: how far it has got with the provider (``None``: it has not reached it)."""

    @property
    def progress(self) -> Invocation | None: ...


class PlaceWatch:
    """Outcomes at one place, by ``goals``, in cells of five seconds; and the calls under way there.

    What is already over a bound counts as bad now: its end is not waited for, save that of a stream that has
    begun to speak, which its consumer may be holding. An attempt counts when it ends, one that was cancelled
    only where it was over a bound by then and had not begun to speak, whoever had lost patience; refusals of
    our own, the caller's errors and 429s count for nothing. An answer after exactly ``bound_s`` is within it.

    A trial counts apart, and only attempts that began since. Not thread-safe: whoever has it holds a lock.
    """

    __slots__ = (
        "_cell",
        "_cells",
        "_ends_at",
        "_number",
        "_over",
        "_trial",
        "_under_way",
        "goals",
        "trial_since",
        "usual_s",
    )

    def __init__(self, goals: Sequence[Goal]) -> None:
        self.goals = tuple(goals)
        self._under_way: OrderedDict[int, tuple[float, Asked | None]] = OrderedDict()
        bounds = [goal.bound_s for goal in self.goals if goal.kind != "errors"]
        self._over = min(bounds, default=math.inf)
        self.usual_s = max(bounds, default=0.0)
        """How long it may take until a call has shown what it is."""
        self.trial_since: float | None = None
        self._trial: list[int] = []
        self.forget(0.0)

    def forget(self, now: float) -> None:
        """As if nothing had come of any call yet; those under way still do."""
        self._cell = [0, 0] * len(self.goals)
        self._cells: deque[list[int]] = deque([self._cell], maxlen=CELLS[-1])
        self._number = math.floor(now / CELL_S)
        self._ends_at = (self._number + 1) * CELL_S

    def try_out(self, now: float | None) -> None:
        """From ``now`` on, count apart what comes of calls that begin; ``None``: no longer."""
        self.trial_since = now
        self._trial = [0, 0] * len(self.goals)

    # -- what happens ----------------------------------------------------------

    def begun(self, number: int, now: float, asked: Asked | None) -> None:
        self._under_way[number] = now, asked

    def ended(
        self,
        number: int,
        now: float,
        outcome: Outcome,
        latency_s: float,
        first_token_s: float | None,
        error: BaseException | None,
    ) -> None:
        entry = self._under_way.pop(number, None)
        if entry is None or outcome == "rejected":
            return
        began, asked = entry
        if asked is not None and asked.progress is None:
            return  # no provider was reached
        if now >= self._ends_at:
            self._roll(now)
        cells = [self._cell]
        if self.trial_since is not None and began >= self.trial_since:
            cells.append(self._trial)
        ok = outcome == "ok"
        left = outcome == "cancelled" and first_token_s is not None  # its consumer may have held it
        at = 0
        for goal in self.goals:
            kind = goal.kind
            if kind == "latency":
                bad = latency_s > goal.bound_s and not left
                counts = ok or bad
            elif kind == "errors":
                bad = not ok
                counts = ok or (outcome == "failed" and _blames(error))
            elif first_token_s is not None:
                bad, counts = first_token_s > goal.bound_s, True
            else:
                counts = bad = not ok and latency_s > goal.bound_s and _streams(asked)
            if counts:
                for cell in cells:
                    cell[at] += 1
                    cell[at + 1] += bad
            at += 2

    def _roll(self, now: float) -> None:
        number = math.floor(now / CELL_S)
        for _ in range(min(number - self._number, CELLS[-1])):
            self._cells.append([0, 0] * len(self.goals))
        self._cell = self._cells[-1]
        self._number = number
        self._ends_at = (number + 1) * CELL_S

    def set_back(self, by_s: float, now: float) -> None:
        """The clock was set back: what was so long ago before still is."""
        self._number = math.floor(now / CELL_S)
        self._ends_at = (self._number + 1) * CELL_S
        if self.trial_since is not None:
            self.trial_since -= by_s
        for number, (at, asked) in list(self._under_way.items()):
            self._under_way[number] = at - by_s, asked

    # -- what it says ----------------------------------------------------------

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    def overdue(self, now: float, since: float = -math.inf) -> list[int]:
        """How many calls under way, begun after ``since``, are over the bound of each goal by now."""
        over = [0] * len(self.goals)
        for began, asked in tuple(islice(self._under_way.values(), MOST_OVERDUE)):
            if now - began <= self._over:
                break
            if began < since:
                continue
            progress = None if asked is None else asked.progress
            if asked is not None and progress is None:
                continue  # it waits for something of ours
            if progress is not None and progress.streaming and progress.first_at is not None:
                continue  # its consumer may hold it
            waited_s = now - began if progress is None else progress.elapsed_s
            silent = progress is not None and progress.streaming
            for at, goal in enumerate(self.goals):
                if waited_s > goal.bound_s and (silent or goal.kind == "latency"):
                    over[at] += 1
        return over

    def totals(self, now: float) -> list[list[tuple[int, int]]]:
        """For each window and goal: calls, and the bad ones among them, those overdue included."""
        if now >= self._ends_at:
            self._roll(now)
        while self._under_way and now - next(iter(self._under_way.values()))[0] > LOST_S:
            self._under_way.popitem(last=False)
        overdue = self.overdue(now)
        sums = [0] * (2 * len(self.goals))
        found: list[list[tuple[int, int]]] = []
        for age, cell in enumerate(reversed(self._cells), start=1):
            sums = [total + more for total, more in zip(sums, cell, strict=True)]
            if age in CELLS:
                found.append(_paired(sums, overdue))
        while len(found) < len(CELLS):
            found.append(_paired(sums, overdue))
        return found

    def burning(self, totals: Totals, min_calls: int) -> Burning | None:
        """What the place is to be left for, if anything.

        What a longer window says counts only as long as the next shorter one says so too: a place that was
        bad and is well again, or that nobody goes to any more, is not left.
        """
        for at, goal in enumerate(self.goals):
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

    def shares(self, burning: Burning, totals: Totals, min_calls: int) -> bool:
        """Whether this place does about as badly as another, which is ``burning``."""
        calls, bad = totals[burning.span][self.goals.index(burning.goal)]
        return calls >= min_calls // 2 and bad > max(burning.goal.leave, burning.share / 2) * calls

    def calm(self, totals: Totals) -> bool:
        """Whether the last minute is below every threshold for leaving off."""
        counts = zip(self.goals, totals[1], strict=True)
        return all(bad <= max(1, goal.leave * calls) for goal, (calls, bad) in counts)

    def tried(self, now: float, enough: int) -> tuple[bool | None, int, int, Goal]:
        """How the trial goes: well, badly or not known yet; calls and bad ones by the goal that says so."""
        overdue = self.overdue(now, math.inf if self.trial_since is None else self.trial_since)
        counts = _paired(self._trial, overdue)
        most = max(range(len(counts)), key=lambda at: counts[at])
        well = counts[most][0] >= enough
        for at, goal in enumerate(self.goals):
            calls, bad = counts[at]
            if bad >= 2 and chance(bad, calls, goal.leave) <= DOUBTFUL:
                return False, calls, bad, goal
            if bad > goal.leave * calls and not (bad == 1 and calls >= 2 * enough):
                well, most = False, at
        return True if well else None, *counts[most], self.goals[most]

    def renew(self) -> None:
        """After a fork: the parent's calls do not end here."""
        self._under_way.clear()


def _paired(sums: Sequence[int], overdue: Sequence[int]) -> list[tuple[int, int]]:
    return [(sums[2 * at] + over, sums[2 * at + 1] + over) for at, over in enumerate(overdue)]


def _blames(error: BaseException | None) -> bool:
    """Whether a failure is the place's, as far as known."""
    return error is None or (isinstance(error, ProviderError) and not isinstance(error, NEUTRAL))


def _streams(asked: Asked | None) -> bool:
    progress = None if asked is None else asked.progress
    return progress is not None and progress.streaming
