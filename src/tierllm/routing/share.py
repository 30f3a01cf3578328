"""Keeps a share: of all that comes by, this much of what scores highest. Pure state; not thread-safe."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque

__all__ = ["Share"]

RECENT = 512
"""So many scores a score is compared with: enough for a quantile, few enough to follow a learning scorer."""

FIRST = 20
"""Before there are so many, chance decides."""

BOUND = 16.0
"""By so many calls, and one more, the share may be off at most: less than 1 % of 2,000."""


class Share:
    """Says of each score whether it is among the highest ``share`` of the recent ones.

    What it gave too much or too little is made up for: softly near the share, surely at ``BOUND`` calls off
    it, so that the realised share is exact over time whatever the scores do. Of equal scores, chance takes as
    many as belong to it.
    """

    __slots__ = ("_recent", "_sorted", "calls", "owed", "strong")

    def __init__(self) -> None:
        self.calls = 0
        self.strong = 0
        self.owed = 0.0
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []

    def wanted(self, share: float) -> float:
        """The share to give now, so that ``share`` comes out in the end."""
        off = max(-1.0, min(1.0, self.owed / BOUND))
        return share + off**3 * ((1.0 - share) if off > 0.0 else share)

    def chance(self, score: float, wanted: float) -> float:
        """The probability with which a call of this score is among ``wanted``: 0, 1, or between for ties."""
        ordered = self._sorted
        known = len(ordered)
        if known < FIRST or wanted <= 0.0 or wanted >= 1.0:
            return max(0.0, min(1.0, wanted))
        right = bisect_right(ordered, score)
        equal = right - bisect_left(ordered, score) + 1
        return max(0.0, min(1.0, (wanted * (known + 1) - (known - right)) / equal))

    def took(self, score: float | None, share: float, strong: bool) -> None:
        """Take in what became of a call. ``score`` is ``None`` where there was none to speak of."""
        self.calls += 1
        self.strong += strong
        self.owed = max(-2 * BOUND, min(2 * BOUND, self.owed + share - strong))
        if score is None:
            return
        insort(self._sorted, score)
        self._recent.append(score)
        if len(self._recent) > RECENT:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]

    @property
    def realised(self) -> float | None:
        """The share of strong calls so far."""
        return self.strong / self.calls if self.calls else None

    def threshold(self, share: float) -> float | None:
        """The score from which on a call is strong now; ``None`` before there is one."""
        if len(self._sorted) < FIRST:
            return None
        at = round((1.0 - self.wanted(share)) * len(self._sorted))
        return self._sorted[min(max(at, 0), len(self._sorted) - 1)]
