"""What came of the calls to one place of late, and whether it is worse than chance explains. Pure state."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..errors import (
    ContentFilteredError,
    DeadlineExceededError,
    InvalidRequestError,
    ProviderError,
    RateLimitError,
)
from .cells import Cells
from .goals import Burning, Goal, Totals, chance

if TYPE_CHECKING:
    from ..pipeline.scope import Invocation
    from ..types import Outcome

__all__ = ["Asked", "PlaceWatch", "Trial", "blames", "hung"]

DOUBTFUL = 0.05
"""A trial is over where chance would have explained it at most this often: ending one costs little."""

LOST_S = 900.0
"""A call of which nothing was heard for so long is not waited for any more."""

MOST_OVERDUE = 1024
"""So many calls under way are looked at, the oldest first; streams that speak in time do not count."""

NEUTRAL = (InvalidRequestError, ContentFilteredError, RateLimitError)
"""Errors that are the call's, not the place's; after a 429 it is let alone for as long as it asked anyway."""

FAILED, LEFT, SILENT, OTHER = 1, 2, 4, 8
"""What came of an attempt: the place failed; who asked went away while it spoke; it was a stream without a
first token; anything else that is no answer. 0 is an answer."""


class Asked(Protocol):
    """A call at a place: how far it has got with the provider (``None``: it has not reached it).

    ``patience_s`` is what 95 % of the calls there take, infinite where that is not known.
    """

    @property
    def progress(self) -> Invocation | None: ...

    @property
    def patience_s(self) -> float: ...


class Trial(NamedTuple):
    """How a trial goes: well, badly or not known yet; calls and bad ones by the goal that says so."""

    well: bool | None
    calls: int
    bad: int
    goal: Goal


class PlaceWatch:
    """Outcomes at one place, by ``goals``, in cells of five seconds; and the calls under way there.

    What is already over a bound counts as bad now: its end is not waited for. Of a stream that speaks counts
    what the provider has taken for certain, since its consumer may be holding it. An attempt counts when it
    ends, one that was cancelled only where it was over a bound by then (and, where its consumer left it, had
    not begun to speak); refusals of our own, the caller's errors and 429s count for nothing. An answer after
    exactly ``bound_s`` is within it. Only attempts that began at ``since`` or later count at all, in a trial
    those since its beginning, which count apart.

    ``under_way`` and ``ended`` may be used by any thread at any time, even by one that is in the midst of
    something else here: they only note what is counted later. All the rest needs a lock.
    """

    __slots__ = (
        "_cells",
        "_ends",
        "_over",
        "_speaks",
        "_stood",
        "_tightest_s",
        "_trial",
        "goals",
        "since",
        "trial_since",
        "under_way",
        "usual_s",
    )

    def __init__(self, goals: Sequence[Goal]) -> None:
        self.goals = tuple(goals)
        self.under_way: dict[int, tuple[float, Asked | None]] = {}
        """The attempts under way: when each began, and how it is getting on."""
        self._ends: deque[tuple[float, float, float, float | None, int]] = deque()
        bounds = [goal.bound_s for goal in self.goals if goal.kind != "errors"]
        self._over = min(bounds, default=math.inf)
        self._tightest_s = min(
            (goal.bound_s for goal in self.goals if goal.kind == "latency"), default=math.inf
        )
        self._speaks = any(goal.kind == "first_token" for goal in self.goals)
        self.usual_s = max(bounds, default=0.0)
        """How long it may take until a call has shown what it is."""
        self.since = self.trial_since = -math.inf
        self._trial: list[int] | None = None
        self._stood: list[tuple[float, float]] = []
        # the first of the counts is of calls that are good by all goals but those for first tokens
        self._cells = Cells(1 + 2 * len(self.goals))

    def forget(self, now: float, *, since: float | None = None) -> None:
        """As if nothing had come of any call yet. Only those that began at ``since`` (or now) still count."""
        self._count()
        self._cells.forget(now)
        self.since = now if since is None else since

    def try_out(self, now: float | None) -> None:
        """From ``now`` on, count apart what comes of calls that begin; ``None``: no longer."""
        self._count()
        self.trial_since = math.inf if now is None else now
        self._trial = None if now is None else [0] * (1 + 2 * len(self.goals))

    def stood_still(self, since: float, until: float) -> None:
        """The process did: in that time nobody here took an answer, and no place is to blame for it."""
        self._stood = [each for each in self._stood if until - each[1] < LOST_S]
        self._stood.append((since, until))

    # -- what happens ----------------------------------------------------------

    def ended(
        self,
        number: int,
        now: float,
        outcome: Outcome,
        latency_s: float,
        first_token_s: float | None,
        error: BaseException | None,
    ) -> None:
        entry = self.under_way.pop(number, None)
        if entry is None or outcome == "rejected":
            return
        began, asked = entry
        if asked is not None and asked.progress is None:
            return  # no provider was reached
        how = 0
        if outcome != "ok":
            how = OTHER
            if first_token_s is None:
                how |= SILENT * _streams(asked)
            elif outcome == "cancelled" and not isinstance(error, DeadlineExceededError):
                how |= LEFT  # its consumer may have held it; a deadline does not pass meanwhile
            if outcome == "failed":
                how |= FAILED * (error is None or blames(error))
            elif isinstance(error, DeadlineExceededError):
                how |= FAILED * (asked is not None and hung(asked))
        self._ends.append((now, began, latency_s, first_token_s, how))

    def _count(self) -> None:
        """Take in what has ended since somebody last looked."""
        ends, tightest_s = self._ends, self._tightest_s
        while ends:
            now, began, latency_s, first_token_s, how = ends.popleft()
            if began < self.since:
                continue
            if self._stood:
                still_s = self._stood_s(began, now)
                latency_s -= still_s
                first_token_s = None if first_token_s is None else first_token_s - still_s
            cells = [self._cells.at(now)]
            if self._trial is not None and began >= self.trial_since:
                cells.append(self._trial)
            if not how and latency_s <= tightest_s and (first_token_s is None or not self._speaks):
                for cell in cells:
                    cell[0] += 1
                continue
            for at, goal in enumerate(self.goals):
                counts, bad = _judged(goal, latency_s, first_token_s, how)
                if counts:
                    for cell in cells:
                        cell[1 + 2 * at] += 1
                        cell[2 + 2 * at] += bad

    def _stood_s(self, began: float, now: float) -> float:
        return sum(max(0.0, min(now, until) - max(began, since)) for since, until in self._stood)

    def set_back(self, by_s: float, now: float) -> None:
        """The clock was set back: what was so long ago before still is."""
        self._count()
        self._cells.set_back(now)
        self.since -= by_s
        self.trial_since -= by_s
        self._stood = [(since - by_s, until - by_s) for since, until in self._stood]
        for number in list(self.under_way):
            entry = self.under_way.get(number)
            if entry is not None and number in self.under_way:  # others may end meanwhile
                self.under_way[number] = entry[0] - by_s, entry[1]

    # -- what it says ----------------------------------------------------------

    def overdue(self, now: float, since: float) -> list[int]:
        """How many calls under way, begun at ``since`` or later, are over the bound of each goal by now."""
        over = [0] * len(self.goals)
        looked_at = 0
        for number in list(self.under_way):  # others may end meanwhile
            began, asked = self.under_way.get(number, (now, None))
            if now - began <= self._over or looked_at >= MOST_OVERDUE:
                break
            progress = None if asked is None else asked.progress
            if began < since or (asked is not None and progress is None):
                continue  # it waits for something of ours
            speaks = progress is not None and progress.streaming and progress.first_at is not None
            if progress is None:
                waited_s = now - began
            elif speaks:
                # until the provider last said something, or its consumer last asked for more
                waited_s = progress._since - progress.started_at - progress.held_s
            else:
                waited_s = progress.elapsed_s
            if self._stood:
                waited_s -= self._stood_s(began, now)
            if speaks and waited_s <= self._over:
                continue
            looked_at += 1
            silent = progress is not None and progress.streaming and not speaks
            for at, goal in enumerate(self.goals):
                if waited_s > goal.bound_s and (silent or goal.kind == "latency"):
                    over[at] += 1
        return over

    def totals(self, now: float) -> list[list[tuple[int, int]]]:
        """For each window and goal: calls, and the bad ones among them, those overdue included."""
        self._count()
        for number in list(self.under_way):
            entry = self.under_way.get(number)
            if entry is not None:
                if now - entry[0] <= LOST_S:
                    break
                self.under_way.pop(number, None)
        overdue = self.overdue(now, self.since)
        return [self._paired(sums, overdue) for sums in self._cells.sums(now)]

    def _paired(self, sums: Sequence[int], overdue: Sequence[int]) -> list[tuple[int, int]]:
        found = []
        for at, (goal, over) in enumerate(zip(self.goals, overdue, strict=True)):
            good = 0 if goal.kind == "first_token" else sums[0]
            found.append((good + sums[1 + 2 * at] + over, sums[2 + 2 * at] + over))
        return found

    def shares(self, burning: Burning, totals: Totals, min_calls: int) -> bool:
        """Whether this place does about as badly as another, which is ``burning``."""
        calls, bad = totals[burning.span][self.goals.index(burning.goal)]
        return calls >= min_calls // 2 and bad > max(burning.goal.leave, burning.share / 2) * calls

    def tried(self, now: float, enough: int) -> Trial:
        """How the trial goes, with ``enough`` calls to tell."""
        self._count()
        assert self._trial is not None
        counts = self._paired(self._trial, self.overdue(now, self.trial_since))
        most = max(range(len(counts)), key=lambda at: counts[at])
        well = counts[most][0] >= enough
        for at, goal in enumerate(self.goals):
            calls, bad = counts[at]
            if bad >= 2 and chance(bad, calls, goal.leave) <= DOUBTFUL:
                return Trial(False, calls, bad, goal)
            if bad > goal.leave * calls and not (bad == 1 and calls >= 2 * enough):
                well, most = False, at
        return Trial(True if well else None, *counts[most], self.goals[most])


def _judged(goal: Goal, latency_s: float, first_token_s: float | None, how: int) -> tuple[bool, bool]:
    """Whether an attempt counts by ``goal``, and whether it is bad."""
    if goal.kind == "latency":
        bad = latency_s > goal.bound_s and not how & LEFT
        return not how or bad, bad
    if goal.kind == "errors":
        return not how or bool(how & FAILED), bool(how)
    if first_token_s is not None:
        return True, first_token_s > goal.bound_s
    bad = bool(how & SILENT) and latency_s > goal.bound_s
    return bad, bad


def blames(error: BaseException) -> bool:
    """Whether a failure is the place's, as far as known."""
    return isinstance(error, ProviderError) and not isinstance(error, NEUTRAL)


def hung(asked: Asked) -> bool:
    """Whether a call whose deadline has passed tells of the place, not only of a short deadline."""
    progress = asked.progress
    if progress is None or (progress.streaming and progress.first_at is not None):
        return False
    return asked.patience_s == math.inf or progress.elapsed_s >= asked.patience_s


def _streams(asked: Asked | None) -> bool:
    return asked is not None and asked.progress is not None and asked.progress.streaming
