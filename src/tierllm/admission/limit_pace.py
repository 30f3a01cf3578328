"""Evenly spaced: a token bucket on top of the log."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["Pace"]


class Pace:
    """At most ``burst`` calls at once, and then as evenly as the limits allow. Pure state; its owner locks.

    The generic cell rate algorithm (ITU-T I.371) for each limit: what a call takes of it costs as much time
    as the limit needs to grant that, and a call may go once all before it are paid for, but for a credit of
    ``burst - 1`` calls like it.
    """

    __slots__ = ("burst", "paid_at", "seconds_each")

    def __init__(self, most: Sequence[float], window_s: float, burst: int) -> None:
        self.burst = burst
        self.seconds_each = [window_s / limit for limit in most]
        self.paid_at = [-math.inf] * len(self.seconds_each)

    def frees_at(self, need: Sequence[int], now: float, copies: int = 1) -> tuple[int, float]:
        """The limit that is the last to let ``need`` (``copies`` times) go, and when; by ``now``: at once."""
        worst, at = 0, -math.inf
        for each, seconds in enumerate(self.seconds_each):
            cost_s = seconds * need[each]
            frees_at = max(self.paid_at[each], now) + (copies - self.burst) * cost_s
            if cost_s and frees_at > at:
                worst, at = each, frees_at
        return worst, at

    def took(self, need: Sequence[int], now: float) -> None:
        paid_at = self.paid_at
        for each, seconds in enumerate(self.seconds_each):
            if seconds:
                paid_at[each] = max(paid_at[each], now) + seconds * need[each]

    def corrected(self, change: Sequence[int]) -> None:
        """So much more was used than was taken; less, where negative."""
        for each, seconds in enumerate(self.seconds_each):
            if seconds and change[each]:
                self.paid_at[each] += seconds * change[each]
