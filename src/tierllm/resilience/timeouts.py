"""How long calls to a place take, to know what no longer fits into a deadline."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..pipeline.clock import Clock

__all__ = ["DurationHistory", "Pace"]

LOOK_AGAIN_S = 30.0
"""How long a place may go untried for being too slow: it may have become faster since."""

MISSES = 3
"""After so many deadlines in a row without a first token, calls as impatient as those go elsewhere."""


class DurationHistory:
    """The last ``size`` durations in seconds: a ring, put in order now and then.

    ``p10_s`` and ``p95_s`` are ``None`` below ``min_samples``, and brought up to date by every eighth
    addition, later by every thirty-second. Threads may add at once.
    """

    __slots__ = ("_added", "_look_at", "_ring", "min_samples", "p10_s", "p95_s")

    def __init__(self, size: int = 256, min_samples: int = 20) -> None:
        self.min_samples = min_samples
        self._ring: deque[float] = deque(maxlen=size)
        self._added = 0
        self._look_at = min_samples
        self.p10_s: float | None = None
        self.p95_s: float | None = None

    def __len__(self) -> int:
        return len(self._ring)

    def add(self, seconds: float) -> None:
        self._ring.append(seconds)
        self._added = added = self._added + 1
        if added >= self._look_at:
            self._look_at = added + (8 if added < 64 else 32)
            self.p10_s, self.p95_s = self.quantile(0.1), self.quantile(0.95)

    @property
    def last_s(self) -> float | None:
        return self._ring[-1] if self._ring else None

    def latest(self, count: int) -> tuple[float, ...]:
        """The last so many, the newest at the end; fewer where there are no more."""
        return tuple(self._ring)[-count:]

    def quantile(self, q: float) -> float | None:
        """The ``q``-quantile (0…1), the nearest rank at or below; ``None`` while there are too few."""
        ordered = sorted(self._ring)
        count = len(ordered)
        if count < self.min_samples:
            return None
        return ordered[min(count - 1, int(q * count))]


class Pace:
    """How fast a place is, as far as a deadline cares. Pure state.

    A call goes elsewhere where less is left than the place's P10, or where the last few callers'
    deadlines all passed in silence and this one is no more patient. Either way the place is looked
    at again after a while.
    """

    __slots__ = ("_missed_s", "_misses", "_tried_at", "history")

    def __init__(self) -> None:
        self.history = DurationHistory()
        self._tried_at = float("-inf")
        self._misses = 0
        self._missed_s = 0.0

    def too_slow_for(self, left_s: float, now: float) -> str:
        """Why an answer within ``left_s`` is not to be hoped for; empty where it is."""
        fast_s = self.history.p10_s
        slow = fast_s is not None and fast_s > left_s
        silent = self._misses >= MISSES and left_s < 1.5 * self._missed_s
        if not (slow or silent) or now - self._tried_at >= LOOK_AGAIN_S:
            return ""
        return f"P10 {fast_s:.3g} s" if slow else f"silent in the last {self._misses} calls"

    def tried(self, now: float) -> None:
        self._tried_at = now

    def took(self, latency_s: float, deadline_at: float | None, clock: Clock) -> None:
        """An answer came after ``latency_s``, for a call with this deadline."""
        self._misses = 0
        fast_s = self.history.p10_s
        hopeless = fast_s is not None and latency_s < fast_s and deadline_at is not None
        if hopeless and deadline_at - clock() + latency_s < fast_s:  # type: ignore[operator]
            self.history = DurationHistory()  # a second look, and it has become faster
        self.history.add(latency_s)

    def answered(self) -> None:
        """It said something, if only that it failed: it is not silent."""
        self._misses = 0

    def missed(self, waited_s: float) -> None:
        """A caller's deadline came before the first token."""
        self._missed_s = min(self._missed_s, waited_s) if self._misses else waited_s
        self._misses += 1
