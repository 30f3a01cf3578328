"""A switch that a load throws, and that does not flap. Pure state; whoever has it holds the lock."""

from __future__ import annotations

import math
from collections import deque

__all__ = ["HOUR_S", "Switch"]

HOUR_S = 3600.0

SET_BACK_S = 1.0
"""By less than this, threads come to look in another order than they asked for the time."""


class Switch:
    """On where a signal reaches ``at``, off once it has stayed at or below ``leave`` for ``dwell_s``.

    In any hour it changes ``most`` times at most (2 or more). Coming on is never what has to wait: it goes
    off only where the hour leaves room for going off and coming on again.
    """

    def __init__(self, *, at: float, leave: float, dwell_s: float, most: int) -> None:
        self.at = at
        self.leave = leave
        self.dwell_s = dwell_s
        self.most = most
        self.on = False
        self.changed_at: float | None = None
        self._changes: deque[float] = deque()
        self._looked_at = -math.inf
        self._calm_since: float | None = None

    def look(self, signal: float, now: float) -> bool:
        """Take in what the signal is now; whether that changed anything."""
        if now < self._looked_at - SET_BACK_S:
            self._set_back(self._looked_at - now)
        since, now = self._looked_at, max(now, self._looked_at)
        self._looked_at = now
        if not self.on:
            return signal >= self.at and self._room(1, now) and self._turn(now)
        if not signal <= self.leave:
            self._calm_since = None
            return False
        if self._calm_since is None:
            # each call looks: where none came for so long, and the load is low, it has been low
            self._calm_since = since if now - since >= self.dwell_s else now
        return now - self._calm_since >= self.dwell_s and self._room(2, now) and self._turn(now)

    def _set_back(self, by_s: float) -> None:
        """The clock was set back: what was so long ago before still is."""
        self._looked_at -= by_s
        self._changes = deque(at - by_s for at in self._changes)
        if self.changed_at is not None:
            self.changed_at -= by_s
        if self._calm_since is not None:
            self._calm_since -= by_s

    def _turn(self, now: float) -> bool:
        self.on = not self.on
        self.changed_at = now
        self._changes.append(now)
        self._calm_since = None
        return True

    def _room(self, changes: int, now: float) -> bool:
        """Whether so many more may come within the hour that ends now."""
        return self.changes(now) + changes <= self.most

    def changes(self, now: float) -> int:
        """How often it changed within the hour that ends now."""
        past = self._changes
        while past and now - past[0] > HOUR_S:
            past.popleft()
        return len(past)

    def off_in_s(self, now: float) -> float:
        """In how many seconds it goes off at the soonest, should the signal be low from now on."""
        calm_s = 0.0 if self._calm_since is None else max(0.0, now - self._calm_since)
        dwell_s = max(0.0, self.dwell_s - calm_s)
        too_many = self.changes(now) + 2 - self.most
        if too_many <= 0:
            return dwell_s
        return max(dwell_s, self._changes[too_many - 1] + HOUR_S - now)
