"""What becomes of a tier's calls, as those feel it who make them. Pure state."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

from .cells import Cells
from .goals import Burning, Goal, Totals, burning_of

__all__ = ["TierCalls"]


class TierCalls:
    """How many calls of a tier were answered, and how many no place of it has answered.

    An attempt that failed is no failed call yet: it is tried again, and elsewhere. Any thread may add to
    ``fails`` the time at which a call failed; all the rest needs a lock.
    """

    __slots__ = ("_at", "_cells", "_goals", "fails", "totals")

    def __init__(self, goals: Sequence[Goal]) -> None:
        self._goals = goals
        self._at = next((at for at, goal in enumerate(goals) if goal.kind == "errors"), None)
        self._cells = Cells(1)
        self.fails: deque[float] = deque()
        self.totals: Totals = ()
        """For each window: calls, and those that failed."""

    def look(self, places: Collection[Totals], now: float) -> None:
        """Take in what came of the attempts at each place."""
        while self.fails:
            self._cells.at(self.fails.popleft())[0] += 1
        found = []
        for span, (failed,) in enumerate(self._cells.sums(now)):
            counts = [] if self._at is None else [of_place[span][self._at] for of_place in places]
            found.append([(sum(calls - bad for calls, bad in counts) + failed, failed)])
        self.totals = found

    def missed(self, what: Burning, min_calls: int) -> Burning | None:
        """What callers feel of a place that is ``burning``."""
        return what if what.goal.kind != "errors" else burning_of([what.goal], self.totals, min_calls)

    def calm(self, place: Totals) -> bool:
        """Whether the last minute at ``place`` is below every threshold for leaving off."""
        for goal, counts in zip(self._goals, place[1], strict=True):
            calls, bad = self.totals[1][0] if goal.kind == "errors" else counts
            if bad > max(1, goal.leave * calls):
                return False
        return True

    def set_back(self, now: float) -> None:
        self._cells.set_back(now)
