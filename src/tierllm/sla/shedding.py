"""Which share of its calls a tier sends on to the next one. Pure state: whoever has it holds a lock."""

from __future__ import annotations

from collections.abc import Sequence

from .ramp import Quota

__all__ = ["Shedding"]


class Shedding:
    """A share that grows step by step while a tier is in distress, and shrinks step by step when it is calm.

    It begins at once; each further step waits ``every_s`` for what the last one did. It takes ``dwell_s`` of
    calm for each step back, and twice as long after each step back that was too early, up to ``max_dwell_s``.
    Beginning and ending are changes that ``quota`` has to have room for; ending leaves room for beginning.
    """

    __slots__ = (
        "_base_s",
        "_calm_since",
        "_changed_at",
        "_every_s",
        "_max_dwell_s",
        "_relaxed",
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
        self._relaxed = False
        self._changed_at: float | None = None
        self._calm_since: float | None = None

    @property
    def share(self) -> float:
        """The share of the calls that is sent on."""
        return self._steps[self.level - 1] if self.level else 0.0

    def look(self, distress: bool, calm: bool, now: float) -> bool:
        """Take in how things are now; whether that changed the share."""
        if distress:
            self._calm_since = None
            return self._more(now)
        if not calm or not self.level:
            self._calm_since = None
            return False
        if self._calm_since is None:
            self._calm_since = now
        if now - self._calm_since < self.dwell_s or (self.level == 1 and not self.quota.room(2, now)):
            return False
        self._calm_since = None
        self._turn(-1, now)
        return True

    def _more(self, now: float) -> bool:
        since = None if self._changed_at is None else now - self._changed_at
        if self.level == len(self._steps) or (self.level and since is not None and since < self._every_s):
            return False
        if not self.level and not self.quota.room(1, now):
            return False
        if self._relaxed and since is not None:
            early = since < self.dwell_s
            self.dwell_s = min(2 * self.dwell_s, self._max_dwell_s) if early else self._base_s
        self._turn(1, now)
        return True

    def _turn(self, by: int, now: float) -> None:
        if self.level == (0 if by > 0 else 1):
            self.quota.use(now)
            self.spares_sessions = True
        self.level += by
        self._relaxed = by < 0
        self._changed_at = now

    def set_back(self, by_s: float) -> None:
        self.quota.set_back(by_s)
        if self._changed_at is not None:
            self._changed_at -= by_s
        if self._calm_since is not None:
            self._calm_since -= by_s
