"""Which share of its calls a tier sends on to the next one. Pure state: whoever has it holds a lock."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .ramp import Quota

__all__ = ["Shedding"]


class Shedding:
    """A share that grows step by step while a tier is in distress, and shrinks step by step when it is calm.

    It begins at once; each further step waits ``every_s`` for what the last one did. It takes ``dwell_s`` of
    calm for each step back, and twice as long after each step back that was too early, up to ``max_dwell_s``.
    Where the next tier has no room it goes a step back every ``every_s``; then it begins again only
    ``dwell_s`` after there is some, and that is twice as long each time.

    **The bound.** Steps one after the other in one direction are a run; the first of a run needs room in
    ``quota``, and of a run's steps the last is noted. In any hour there are steps of ``most`` runs at the
    most. Proof: take any hour that has steps of several runs, and let x be the beginning of the last one.
    Those before it have ended by x, and their notes lie in the hour that ends at x: there are ``most - 1`` of
    them at the most. A key changes side once in a run, so that no key changes tier more often.
    What is calm waits until there is room for another run after its own: distress does not wait.
    """

    __slots__ = (
        "_base_s",
        "_calm_since",
        "_changed_at",
        "_early_s",
        "_every_s",
        "_max_dwell_s",
        "_not_before",
        "_rises",
        "_steps",
        "dwell_s",
        "level",
        "quota",
        "spares_sessions",
    )

    def __init__(
        self, steps: Sequence[float], *, every_s: float, dwell_s: float, max_dwell_s: float, quota: Quota
    ) -> None:
        self._steps = tuple(steps)
        self._every_s = every_s
        self._base_s = self.dwell_s = dwell_s
        self._max_dwell_s = max_dwell_s
        self.quota = quota
        self.reset()

    def reset(self) -> None:
        """Nobody is sent on, as if nothing had been."""
        self.level = 0
        self.dwell_s = self._base_s
        self.spares_sessions = True
        self._rises: bool | None = None
        self._early_s = 0.0
        self._changed_at = self._not_before = -math.inf
        self._calm_since: float | None = None

    @property
    def share(self) -> float:
        """The share of the calls that is sent on."""
        return self._steps[self.level - 1] if self.level else 0.0

    def look(self, distress: bool, calm: bool, room: bool, now: float) -> bool:
        """Take in how things are now, here and at the next tier; whether that changed the share."""
        if not room:
            self._calm_since = None
            return self._give_way(now)
        if distress:
            self._calm_since = None
            return self._more(now)
        if not calm or not self.level:
            self._calm_since = None
            return False
        if self._calm_since is None:
            self._calm_since = now
        if now - self._calm_since < self.dwell_s or not self._may(2, now, rises=False):
            return False
        self._calm_since = None
        self._turn(-1, now)
        self._early_s = self.dwell_s
        return True

    def _more(self, now: float) -> bool:
        since_s = now - self._changed_at
        if self.level == len(self._steps) or now < self._not_before:
            return False
        if (self.level and since_s < self._every_s) or not self._may(1, now, rises=True):
            return False
        if self._early_s:
            early = since_s < self._early_s
            self.dwell_s = min(2 * self.dwell_s, self._max_dwell_s) if early else self._base_s
        self._turn(1, now)
        return True

    def _give_way(self, now: float) -> bool:
        if not self.level:
            return False
        if now - self._changed_at < self._every_s or not self._may(1, now, rises=False):
            return False
        self._turn(-1, now)
        self._not_before = now + self.dwell_s
        self._early_s = 2 * self.dwell_s
        return True

    def _may(self, runs: int, now: float, *, rises: bool) -> bool:
        """Whether there is room for a step in this direction, and for other runs after its own."""
        return self._rises is rises or self.quota.room(runs, now)

    def _turn(self, by: int, now: float) -> None:
        if not self.level:
            self.spares_sessions = True
        rises = by > 0
        if self._rises is rises:
            self.quota.prolong(now)
        else:
            self.quota.use(now)
        self.level += by
        self._rises, self._early_s = rises, 0.0
        self._changed_at = now

    def set_back(self, by_s: float) -> None:
        self.quota.set_back(by_s)
        self._changed_at -= by_s
        self._not_before -= by_s
        if self._calm_since is not None:
            self._calm_since -= by_s
